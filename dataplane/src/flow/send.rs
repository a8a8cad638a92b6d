//! One request's way out: the upstream, the exchange with it, and what the client is told when there is none.

use std::{cell::Cell, net::SocketAddr, rc::Rc};

use super::{
    core::{Core, Resident},
    exchange::{Body, ExchangeError, ReplyTo, Sending, exchange},
    open::Hold,
    request::{Arrived, Outbound},
};
use crate::{
    audit::Record,
    causes::chain,
    http::{Answer, BodyError, Framing, Gate, Host, Leg, OwnAnswer, ReplyPiece, h1::Inbound},
    policy::Permit,
    respond::{Blame, Refusal},
    tls::Wire,
    upstream::{dial_any, pool::Key},
};

/// Tells a refusal and records it.
pub(super) async fn refuse(reply: &ReplyTo, refusal: &Refusal, record: &mut Record) {
    note(refusal, record);
    reply.unguard();
    let (head, body) = refusal.answer_to(record.path.as_deref().unwrap_or_default());
    // The client may be gone; the record says what it would have been told.
    let _told = answer(reply, head, body).await;
}

/// Writes a refusal into the record.
pub(super) fn note(refusal: &Refusal, record: &mut Record) {
    record.verdict = "refused";
    record.code = Some(refusal.code);
    record.blame = Some(refusal.blame);
    record.status = Some(refusal.status);
    record.rule = refusal.rule.clone().or(record.rule.take());
    record.reason = Some(refusal.reason().to_owned());
}

/// Hands over an answer that is made here.
pub(super) async fn answer(reply: &ReplyTo, head: OwnAnswer, body: Vec<u8>) -> Result<(), BodyError> {
    reply.send(ReplyPiece::Head(Answer::Own(head))).await?;
    if !body.is_empty() {
        reply.send(ReplyPiece::Data(body.into())).await?;
    }
    reply.send(ReplyPiece::End(None)).await
}

/// The gate of one exchange: its entry among the open ones, and the lease. It lives until the last byte of the answer
/// was handed to the kernel, so a change of policy meets the exchange until then.
struct Fence {
    core: Rc<Core>,
    resident: Rc<Resident>,
    hold: Hold,
}

impl Gate for Fence {
    fn is_open(&self) -> bool {
        let rules = self.core.tables().rules(&self.resident.id);
        !self.hold.is_cut() && rules.is_some_and(|rules| self.core.lease_runs(&rules))
    }
}

/// Sends an allowed request to its upstream and hands the answer over.
pub(super) async fn send(
    arrived: &Arrived<'_>,
    (body, reply, leg): (&mut Body, &ReplyTo, &Rc<dyn Leg>),
    outbound: Outbound,
    record: &mut Record,
) {
    let Outbound { permit, head, mut secrets, method, framing, judged } = outbound;
    let key = Key::of(&permit);
    // Only what a server may be asked twice is asked twice, and only over a connection that was used before.
    let repeatable = framing == Framing::None && matches!(method.as_str(), "GET" | "HEAD" | "OPTIONS");
    let mut pooled = arrived.core.pool.take(&key);
    loop {
        let hold = arrived.resident.open.enter(judged.clone(), Rc::clone(leg));
        let fence =
            Rc::new(Fence { core: Rc::clone(arrived.core), resident: Rc::clone(arrived.resident), hold });
        reply.guard(Rc::clone(&fence) as Rc<dyn Gate>);
        let reused = pooled.is_some();
        let (upstream, address) = match pooled.take() {
            Some(upstream) => upstream,
            None => match connect(arrived, &permit, record).await {
                Ok(upstream) => upstream,
                Err(refusal) => return refuse(reply, &refusal, record).await,
            },
        };
        record.address = Some(address);
        if !fence.hold.join(&upstream) {
            return cut(&**leg, record);
        }
        // From here on they leave; a second try carries the same.
        record.secrets.append(&mut secrets);
        let mut inbound = Inbound::default();
        let sent = Cell::new(0);
        let sending = Sending { head: &head, method: &method, framing, sent: &sent };
        let outcome = exchange((&mut *body, reply), (&upstream, &mut inbound), sending, &*fence).await;
        record.bytes_up = sent.get();
        match outcome {
            Ok(done) => {
                record.verdict = "allowed";
                record.status = Some(done.status);
                fence.hold.part();
                if done.upstream_goes_on && !inbound.has_surplus() {
                    arrived.core.pool.put(key, (upstream, address), arrived.resident.connections());
                }
                return;
            }
            // Both legs were reset, and which of them the relay met first says nothing.
            Err(_) if fence.hold.is_cut() => return cut(&**leg, record),
            Err(ExchangeError::Unanswered(_)) if reused && repeatable && !reply.is_started() => {}
            Err(error) => {
                upstream.reset();
                return unfinished(reply, &**leg, &error, record).await;
            }
        }
    }
}

/// Resolves, checks and dials what a permit allows. Where that fails, the record says at which address.
async fn connect(
    arrived: &Arrived<'_>,
    permit: &Permit,
    record: &mut Record,
) -> Result<(Rc<Wire>, SocketAddr), Refusal> {
    let core = arrived.core;
    let addresses = match permit.host() {
        Host::Ip(address) => Rc::from([*address]),
        Host::Name(name) => {
            core.resolver.resolve(name.as_str()).await.map_err(|error| Refusal::from(&error))?
        }
    };
    let (wire, address) = dial_any(permit, &addresses, &core.upstream_tls).await.map_err(|error| {
        record.address = error.address().or(record.address);
        Refusal::from(&error)
    })?;
    Ok((Rc::new(wire), address))
}

fn cut(leg: &dyn Leg, record: &mut Record) {
    leg.reset();
    record.verdict = "cut";
    record.code = Some("revoked");
}

async fn unfinished(reply: &ReplyTo, leg: &dyn Leg, error: &ExchangeError, record: &mut Record) {
    let (status, code, blame) = match error {
        ExchangeError::Revoked => return cut(leg, record),
        ExchangeError::ClientGone => (499, "client_gone", Blame::Sandbox),
        ExchangeError::RequestBody(_) => (400, "body_malformed", Blame::Sandbox),
        ExchangeError::Silent => (504, "upstream_silent", Blame::Upstream),
        ExchangeError::Unanswered(_) => (502, "upstream_closed", Blame::Upstream),
        ExchangeError::Head(_) => (502, "upstream_malformed", Blame::Upstream),
        ExchangeError::Broken(_) => (502, "answer_broken", Blame::Upstream),
    };
    if !reply.is_started() && !matches!(error, ExchangeError::ClientGone) {
        let refusal = Refusal::new(status, code, blame, &error.to_string(), "try again").because(error);
        return refuse(reply, &refusal, record).await;
    }
    record.verdict = "broken";
    record.code = Some(code);
    record.reason = Some(chain(error));
}
