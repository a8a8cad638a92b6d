//! One request's way out: the upstream, the exchange with it, and what the client is told when there is none.

use std::{cell::Cell, io, net::SocketAddr, rc::Rc, sync::Arc};

use futures_lite::future::or;

use super::{
    arrived::Arrived,
    core::Core,
    edits::{Edits, FromClient, Instead, ToClient},
    exchange::{Answered, Body, ExchangeError, ReplyTo, Sending, exchange},
    fence::{Fence, rewritten},
    lookup::lookup,
    multiplexed,
    outbound::{Outbound, Speaks},
    tell::{answer, note, refuse},
    tunnel,
};
use crate::{
    audit::Record,
    causes::chain,
    http::{BodyError, Framing, Gate, Leg, OwnAnswer, Scheme, h1::Inbound, h2},
    inject::Means,
    limits::H2_WINDOW_FIRST,
    policy::Permit,
    respond::{Blame, Refusal},
    tls::{TlsError, Wire},
    upstream::{Place, Shared, Turn, dial_any, pool::Key},
};

/// Sends an allowed request to its upstream and hands the answer over. Where the upstream has not begun with it, it is
/// sent once more.
pub(super) async fn send(
    arrived: &Arrived<'_>,
    (body, reply, leg): (&mut Body, &ReplyTo, &Rc<dyn Leg>),
    (mut outbound, edits): (Outbound, Option<&Edits>),
    record: &mut Record,
) {
    let key = Key::of(&outbound.permit, &outbound.means);
    record.via = outbound.permit.way().map(|way| Arc::clone(way.route()));
    let mut speaks = outbound.speaks;
    let first = if outbound.is_repeatable() { Idle::Any } else { Idle::Proven };
    for (idle, last) in [(first, false), (Idle::None, true)] {
        let hold = arrived.resident.open.enter(Rc::clone(&outbound.judged), Rc::clone(leg));
        let fence = Rc::new(Fence::new(arrived.core, arrived.resident, hold, outbound.credentials.clone()));
        reply.guard(Rc::clone(&fence) as Rc<dyn Gate>);
        let upstream = match at_hand(arrived.core, &key, speaks, idle) {
            Some(upstream) => upstream,
            None => {
                let search =
                    search(arrived, (&outbound.permit, &outbound.means), (&key, speaks, idle), record);
                // A client that leaves meanwhile ends it.
                let left = async {
                    reply.cancelled().await;
                    None
                };
                // Rare and large: the future of every other request does not hold it.
                match Box::pin(or(async { Some(search.await) }, left)).await {
                    Some(Ok(upstream)) => upstream,
                    Some(Err(refusal)) => return refuse(reply, &refusal, record).await,
                    None if fence.hold.is_cut() => return cut(&**leg, record),
                    None => return unfinished(reply, &**leg, &ExchangeError::ClientGone, record).await,
                }
            }
        };
        if fence.is_stale() {
            return refuse(reply, &rewritten(), record).await;
        }
        record.address = Some(upstream.address());
        let reused = upstream.is_reused();
        let sent = Cell::new(0);
        let ends = (FromClient::new(body, edits), ToClient::new(reply, edits));
        let outcome = match upstream {
            Upstream::Own { wire, address, .. } => {
                if !fence.hold.join(Rc::clone(&wire) as Rc<dyn Leg>) {
                    return cut(&**leg, record);
                }
                tell_secrets(&mut outbound, record);
                let connection = (wire, address, &key);
                over_http11(arrived, ends, connection, (&outbound, &sent), &fence).await
            }
            Upstream::Shared { place, .. } => {
                tell_secrets(&mut outbound, record);
                let secret = !record.secrets.is_empty();
                Box::pin(over_http2(ends, place, (&outbound, secret, &sent), &fence)).await
            }
        };
        record.bytes_up = sent.get();
        // What an edit has seen it must not see again.
        let last = last || edits.is_some_and(Edits::has_begun);
        match outcome {
            Ok(done) => {
                record.verdict = "allowed";
                record.status = Some(done.status);
                return;
            }
            // Both legs were reset, and which of them the relay met first says nothing.
            Err(_) if fence.hold.is_cut() => return cut(&**leg, record),
            Err(ExchangeError::Revoked) if fence.is_stale() && !reply.is_started() => {
                return refuse(reply, &rewritten(), record).await;
            }
            Err(ExchangeError::Unanswered(_) | ExchangeError::Reset(_))
                if !last && reused && outbound.is_repeatable() && !reply.is_started() => {}
            Err(ExchangeError::NotTaken) if !last && !reply.is_started() => {}
            Err(ExchangeError::Http11Required)
                if !last && !reply.is_started() && speaks == Speaks::Either =>
            {
                speaks = Speaks::Http11;
            }
            Err(error) => return unfinished(reply, &**leg, &error, record).await,
        }
    }
}

/// From here on its secrets leave. A second try carries the same, and finds them told.
fn tell_secrets(outbound: &mut Outbound, record: &mut Record) {
    if !outbound.secrets.is_empty() {
        record.secrets = std::mem::take(&mut outbound.secrets);
    }
}

/// What carries a request.
enum Upstream {
    /// A connection that carries one request at a time.
    Own { wire: Rc<Wire>, address: SocketAddr, reused: bool },
    /// A place on one that carries many.
    Shared { place: Place, reused: bool },
}

impl Upstream {
    fn address(&self) -> SocketAddr {
        match self {
            Self::Own { address, .. } => *address,
            Self::Shared { place, .. } => place.address(),
        }
    }

    /// Whether it carried a request before: the upstream may have closed it at this moment.
    fn is_reused(&self) -> bool {
        match self {
            Self::Own { reused, .. } | Self::Shared { reused, .. } => *reused,
        }
    }
}

/// Which connections that were idle a request may take.
#[derive(Clone, Copy)]
enum Idle {
    /// Any: where its upstream has ended one at this moment, the request is sent again.
    Any,
    /// Those of which the kernel says that their upstream has not ended them: the request must not be sent twice.
    Proven,
    /// None: one has failed.
    None,
}

/// A connection that is there already.
fn at_hand(core: &Core, key: &Key, speaks: Speaks, idle: Idle) -> Option<Upstream> {
    let shared = (speaks != Speaks::Http11).then(|| core.shared.find(key)).flatten();
    if let Some(place) = shared {
        return Some(Upstream::Shared { place, reused: true });
    }
    let own = match idle {
        Idle::Any if speaks != Speaks::Http2 => core.pool.take(key),
        Idle::Proven if speaks != Speaks::Http2 => core.pool.take_proven(key),
        _ => None,
    };
    own.map(|(wire, address)| Upstream::Own { wire, address, reused: true })
}

/// A new connection, or one that somebody else has opened meanwhile.
async fn search(
    arrived: &Arrived<'_>,
    (permit, means): (&Permit, &Means),
    (key, speaks, idle): (&Key, Speaks, Idle),
    record: &mut Record,
) -> Result<Upstream, Refusal> {
    let core = arrived.core;
    let could_share = permit.scheme() == Scheme::Https && speaks != Speaks::Http11;
    let _dialling = loop {
        let turn = match could_share {
            true => core.shared.dial_or_wait(key, (permit.host(), permit.port())).await,
            false => break None,
        };
        if let Turn::Dial(dialling) = turn {
            break Some(dialling);
        }
        if let Some(found) = at_hand(core, key, speaks, idle) {
            return Ok(found);
        }
        if matches!(turn, Turn::Own) {
            break None;
        }
    };
    let (wire, address) = connect(arrived, (permit, means), speaks, record).await?;
    let shares = wire.speaks_http2() || (speaks == Speaks::Http2 && permit.scheme() == Scheme::Http);
    if !shares {
        if could_share {
            core.shared.speaks_http11(permit.host(), permit.port());
        }
        if speaks == Speaks::Http2 {
            return Err(only_http11());
        }
        return Ok(Upstream::Own { wire, address, reused: false });
    }
    let windows = &arrived.resident.upstream_windows;
    if windows.left() < H2_WINDOW_FIRST {
        core.shared.forget_idle(&arrived.resident.id);
    }
    let begun = Shared::begin(wire, address, windows).await.map_err(|error| {
        let error = ExchangeError::Unanswered(Some(io::Error::other(error)));
        Refusal::new(502, "upstream_closed", Blame::Upstream, &error.to_string(), "try again").because(&error)
    });
    let (shared, driving) = begun?;
    core.drivers.spawn(arrived.resident.share.run(driving));
    let place = core.shared.share(key.clone(), shared).ok_or_else(|| {
        let detail = "the upstream takes no request on a new connection";
        Refusal::new(502, "upstream_closed", Blame::Upstream, detail, "try again")
    })?;
    Ok(Upstream::Shared { place, reused: false })
}

fn only_http11() -> Refusal {
    let detail = "the request needs HTTP/2 to its upstream, which speaks only HTTP/1.1";
    Refusal::new(502, "upstream_without_h2", Blame::Upstream, detail, "ask an upstream that speaks HTTP/2")
}

async fn over_http11(
    arrived: &Arrived<'_>,
    ends: (FromClient<'_>, ToClient<'_>),
    (wire, address, key): (Rc<Wire>, SocketAddr, &Key),
    (outbound, sent): (&Outbound, &Cell<u64>),
    fence: &Rc<Fence>,
) -> Result<Answered, ExchangeError> {
    let mut inbound = Inbound::default();
    let (Outbound { head, framing, .. }, method) = (outbound, &*outbound.judged.method);
    let sending = Sending { head, method, framing: *framing, sent };
    let upstream = (&*wire, &mut inbound);
    let outcome = match framing {
        Framing::Tunnel => Box::pin(tunnel::exchange(ends, upstream, sending, &**fence)).await,
        _ => exchange(ends, upstream, sending, &**fence).await,
    };
    match &outcome {
        Ok(done) => {
            fence.hold.part();
            if done.upstream_goes_on && !inbound.has_surplus() {
                arrived.core.pool.put(key, (wire, address), arrived.resident.requests_at_once());
            }
        }
        Err(_) => wire.reset(),
    }
    outcome
}

async fn over_http2(
    ends: (FromClient<'_>, ToClient<'_>),
    mut place: Place,
    (outbound, secret, sent): (&Outbound, bool, &Cell<u64>),
    fence: &Rc<Fence>,
) -> Result<Answered, ExchangeError> {
    let (Outbound { head, framing, permit, .. }, method) = (outbound, &*outbound.judged.method);
    let request = h2::request(head, permit.scheme(), secret)?;
    let ended = matches!(framing, Framing::None | Framing::Length(0));
    // Before: h2 sends the head of a stream also where it is broken at once.
    if !fence.is_open() {
        return Err(ExchangeError::Revoked);
    }
    let (answer, leg) = place.open(request, ended).map_err(|_| ExchangeError::NotTaken)?;
    if !fence.hold.join(Rc::clone(&leg) as Rc<dyn Leg>) {
        leg.reset();
        return Err(ExchangeError::Revoked);
    }
    let gate = Rc::clone(fence) as Rc<dyn Gate>;
    let outcome =
        multiplexed::exchange(ends, multiplexed::Opened { leg, answer, ended }, method, &gate, sent).await;
    fence.hold.part();
    outcome
}

/// Resolves, checks and dials what a permit allows. Where that fails, the record says at which address.
async fn connect(
    arrived: &Arrived<'_>,
    (permit, means): (&Permit, &Means),
    speaks: Speaks,
    record: &mut Record,
) -> Result<(Rc<Wire>, SocketAddr), Refusal> {
    let core = arrived.core;
    let found = lookup(core, permit).await?;
    let dialled = dial_any(permit, means, &found, &core.upstream_tls, Some(speaks.protocols())).await;
    let (wire, address) = dialled.map_err(|error| {
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

/// What may be sent twice was; for the rest only its sender knows.
const IN_DOUBT: &str = "it may have been carried out all the same: find that out before you send it again";

async fn unfinished(reply: &ReplyTo, leg: &dyn Leg, error: &ExchangeError, record: &mut Record) {
    let (status, code, blame) = match error {
        ExchangeError::Revoked => return cut(leg, record),
        ExchangeError::Instead(instead) => return Box::pin(replace(reply, instead, record)).await,
        ExchangeError::ClientGone => (499, "client_gone", Blame::Sandbox),
        ExchangeError::RequestBody(_) => (400, "body_malformed", Blame::Sandbox),
        ExchangeError::NotTaken => (503, "upstream_busy", Blame::Upstream),
        ExchangeError::Http11Required => (502, "upstream_without_h2", Blame::Upstream),
        ExchangeError::Silent => (504, "upstream_silent", Blame::Upstream),
        ExchangeError::Unanswered(_) => (502, "upstream_closed", Blame::Upstream),
        ExchangeError::Head(_) | ExchangeError::Handshake => (502, "upstream_malformed", Blame::Upstream),
        ExchangeError::Broken(_) => (502, "answer_broken", Blame::Upstream),
        ExchangeError::Reset(_) => (502, "upstream_reset", Blame::Upstream),
    };
    if let ExchangeError::Reset(reason) = error
        && (reply.is_started() || reply.is_grpc())
    {
        // Clients of gRPC make a status of the reason, and say no more of an answer that has begun.
        reply.fail(BodyError::Reset(*reason));
    } else if !reply.is_started() && !matches!(error, ExchangeError::ClientGone) {
        // In TLS 1.3 a server that wants a certificate says so only behind the handshake.
        if let Some(fault) = TlsError::within(error).filter(|fault| matches!(fault, TlsError::Alert(_))) {
            return refuse(reply, &Refusal::from(fault).because(error), record).await;
        }
        let remedy = match error {
            ExchangeError::Unanswered(_) | ExchangeError::Reset(_) => IN_DOUBT,
            _ => "try again",
        };
        let refusal = Refusal::new(status, code, blame, &error.to_string(), remedy).because(error);
        return refuse(reply, &refusal, record).await;
    }
    record.verdict = "broken";
    record.code = Some(code);
    record.reason = Some(chain(error));
}

/// Says what an edit wants said in the answer's place. An answer that has begun is cut.
async fn replace(reply: &ReplyTo, instead: &Instead, record: &mut Record) {
    match instead {
        Instead::Refuse(refusal) if reply.is_started() => {
            note(refusal, record);
            record.verdict = "broken";
        }
        Instead::Refuse(refusal) => refuse(reply, refusal, record).await,
        Instead::Answer { .. } if reply.is_started() => {
            record.verdict = "broken";
            record.code = Some("answered_late");
        }
        Instead::Answer { status, fields, body } => {
            record.verdict = "answered";
            record.status = Some(*status);
            let fields = fields.clone();
            let head = OwnAnswer { status: *status, reason: "".into(), fields, length: body.len() };
            // Where the client is gone, what serves it says so.
            let _told = answer(reply, head, body.clone()).await;
        }
    }
}
