//! One request's way out: the upstream, the exchange with it, and what the client is told when there is none.

use std::{io::Write as _, rc::Rc};

use super::{
    exchange::{ExchangeError, Sending, exchange},
    open::Hold,
    relay::{Gate, Inbound},
    request::{Arrived, Outbound},
};
use crate::{
    audit::Record,
    causes::chain,
    http::{FieldName, FieldValue, Framing, Host, Version},
    policy::Permit,
    respond::{Blame, Refusal},
    tls::Wire,
    upstream::{dial_any, pool::Key},
};

/// What becomes of the client's connection.
#[derive(PartialEq, Eq)]
pub(super) enum After {
    GoesOn,
    Ends,
}

/// What an answer must know of its request. `keep_alive` holds only where no body is left to be read.
pub(super) struct About {
    pub(super) version: Version,
    pub(super) keep_alive: bool,
    pub(super) head_only: bool,
}

pub(super) async fn refuse(wire: &Wire, about: &About, refusal: &Refusal, record: &mut Record) -> After {
    record.verdict = "refused";
    record.code = Some(refusal.code);
    record.status = Some(refusal.status);
    record.rule = refusal.rule.clone().or(record.rule.take());
    record.reason = Some(refusal.reason().to_owned());
    let sent = wire.send(&refusal.to_http(about.keep_alive, about.head_only)).await;
    if sent.is_ok() && about.keep_alive { After::GoesOn } else { After::Ends }
}

pub(super) async fn answer(
    wire: &Wire,
    about: &About,
    status: u16,
    fields: &[(FieldName, FieldValue)],
    body: &[u8],
) -> After {
    let mut head = Vec::with_capacity(256);
    // Writing to a vector does not fail.
    let _written = write!(head, "HTTP/1.1 {status} \r\n");
    for (name, value) in fields {
        head.extend_from_slice(name.bytes());
        head.extend_from_slice(b": ");
        head.extend_from_slice(value.bytes());
        head.extend_from_slice(b"\r\n");
    }
    let connection = if about.keep_alive { "keep-alive" } else { "close" };
    let _written = write!(head, "Content-Length: {}\r\nConnection: {connection}\r\n\r\n", body.len());
    let body = if about.head_only { &[][..] } else { body };
    let sent = wire.send2(&head, body).await;
    if sent.is_ok() && about.keep_alive { After::GoesOn } else { After::Ends }
}

/// The gate of one exchange: its entry among the open ones, and the lease.
struct Open<'a> {
    arrived: &'a Arrived<'a>,
    hold: &'a Hold,
}

impl Gate for Open<'_> {
    fn is_open(&self) -> bool {
        let core = self.arrived.core;
        let rules = core.tables().rules(&self.arrived.resident.id);
        !self.hold.is_cut() && rules.is_some_and(|rules| core.lease_runs(&rules))
    }
}

/// Sends an allowed request to its upstream and relays the answer.
pub(super) async fn send(
    arrived: &Arrived<'_>,
    client: &mut Inbound,
    outbound: Outbound,
    about: &About,
    keep_alive: bool,
    record: &mut Record,
) -> After {
    let Outbound { permit, head, method, framing, judged } = outbound;
    let wire = Rc::clone(client.wire());
    let key = Key::of(&permit);
    // Only what a server may be asked twice is asked twice, and only over a connection that was used before.
    let repeatable = framing == Framing::None && matches!(method.as_str(), "GET" | "HEAD" | "OPTIONS");
    let mut pooled = arrived.core.pool.take(&key);
    loop {
        let hold = arrived.resident.open.enter(judged.clone(), Rc::clone(&wire));
        let reused = pooled.is_some();
        let upstream = match pooled.take() {
            Some(upstream) => upstream,
            None => match connect(arrived, &permit).await {
                Ok(upstream) => upstream,
                Err(refusal) => return refuse(&wire, about, &refusal, record).await,
            },
        };
        if !hold.join(&upstream) {
            return cut(&wire, record);
        }
        let mut inbound = Inbound::new(Rc::clone(&upstream));
        let sending =
            Sending { head: head.to_vec(), method: &method, framing, version: about.version, keep_alive };
        let gate = Open { arrived, hold: &hold };
        let outcome = { exchange(client, &mut inbound, sending, &gate).await };
        let (stale, revoked) = (inbound.has_left(), hold.is_cut());
        drop((inbound, hold));
        match outcome {
            Ok(done) => {
                record.verdict = "allowed";
                record.status = Some(done.status);
                record.bytes_up = done.request_bytes;
                record.bytes_down = done.response_bytes;
                if done.upstream_goes_on && !stale {
                    arrived.core.pool.put(key, upstream);
                }
                return if done.client_goes_on { After::GoesOn } else { After::Ends };
            }
            // Both legs were reset, and which of them the relay met first says nothing.
            Err(_) if revoked => return cut(&wire, record),
            Err(ExchangeError::Unanswered(_)) if reused && repeatable => {}
            Err(error) => {
                upstream.reset();
                return unfinished(&wire, about, &error, record).await;
            }
        }
    }
}

/// Resolves, checks and dials what a permit allows.
async fn connect(arrived: &Arrived<'_>, permit: &Permit) -> Result<Rc<Wire>, Refusal> {
    let core = arrived.core;
    let addresses = match permit.host() {
        Host::Ip(address) => Rc::from([*address]),
        Host::Name(name) => {
            core.resolver.resolve(name.as_str()).await.map_err(|error| Refusal::from(&error))?
        }
    };
    let (wire, _address) =
        dial_any(permit, &addresses, &core.upstream_tls).await.map_err(|error| Refusal::from(&error))?;
    Ok(Rc::new(wire))
}

fn cut(wire: &Wire, record: &mut Record) -> After {
    wire.reset();
    record.verdict = "cut";
    record.code = Some("revoked");
    After::Ends
}

async fn unfinished(wire: &Wire, about: &About, error: &ExchangeError, record: &mut Record) -> After {
    let (status, code, blame) = match error {
        ExchangeError::Revoked => return cut(wire, record),
        ExchangeError::ClientGone => (499, "client_gone", Blame::Sandbox),
        ExchangeError::RequestBody(_) => (400, "body_malformed", Blame::Sandbox),
        ExchangeError::Silent => (504, "upstream_silent", Blame::Upstream),
        ExchangeError::Unanswered(_) => (502, "upstream_closed", Blame::Upstream),
        ExchangeError::Head(_) | ExchangeError::Edit(_) => (502, "upstream_malformed", Blame::Upstream),
        ExchangeError::Broken(_) => (502, "answer_broken", Blame::Upstream),
    };
    if error.can_be_told() {
        let refusal = Refusal::new(status, code, blame, &error.to_string(), "try again").because(error);
        let about = About { keep_alive: false, ..*about };
        return refuse(wire, &about, &refusal, record).await;
    }
    wire.reset();
    record.verdict = "broken";
    record.code = Some(code);
    record.reason = Some(chain(error));
    After::Ends
}
