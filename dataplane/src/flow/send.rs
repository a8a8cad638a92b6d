//! One request's way out: the upstream, the exchange with it, and what the client is told when there is none.

use std::{cell::Cell, net::SocketAddr, rc::Rc, sync::Arc};

use futures_lite::future::or;

use super::{
    arrived::Arrived,
    edits::{Edits, FromClient, Instead, ToClient},
    exchange::{Answered, Body, ExchangeError, ReplyTo, Sending, exchange},
    fence::{Fence, rewritten},
    multiplexed,
    outbound::{Outbound, Speaks},
    search::{Idle, Upstream, at_hand, search},
    tell::{answer, note, refuse},
    tunnel,
};
use crate::{
    audit::Record,
    causes::chain,
    http::{
        BodyError, Framing, Gate, Leg, OwnAnswer, RequestHead,
        h1::{Block, Inbound},
        h2,
    },
    respond::{Blame, Refusal},
    tls::{Chunk, TlsError, Wire},
    upstream::{Place, pool::Key},
};

/// A request none of which has left when one of its credentials was written anew: it can be decided again.
pub(super) struct Stale {
    /// Its head.
    pub head: RequestHead<Vec<u8>>,
    /// What was opened for it.
    pub opened: Opened,
}

/// A connection on which nothing was said yet, for requests with this key.
pub(super) struct Opened(Box<(Key, Upstream)>);

impl Opened {
    fn matching(self, key: &Key) -> Option<Upstream> {
        let (of, upstream) = *self.0;
        (of == *key).then_some(upstream)
    }
}

/// Why no whole answer was handed over.
enum Failed {
    /// There is no upstream for it.
    Refused(Refusal),
    /// A change of policy ended it.
    Cut,
    /// Its credentials are no longer those in force.
    Rewritten(Option<Box<Stale>>),
    /// The exchange broke off.
    Unfinished(ExchangeError),
}

impl From<ExchangeError> for Failed {
    fn from(error: ExchangeError) -> Self {
        Self::Unfinished(error)
    }
}

/// Sends an allowed request to its upstream and hands the answer over, or says why there is none. Its head is dropped on
/// the way; where there is one, the request is given back when it has to be decided again.
pub(super) async fn send(
    arrived: &Arrived<'_>,
    ends: (&mut Body, &ReplyTo, &Rc<dyn Leg>),
    outbound: &mut Outbound,
    (head, opened): (&mut Option<RequestHead<Block<Chunk>>>, Option<Opened>),
    record: &mut Record,
) -> Option<Box<Stale>> {
    let (_, reply, leg) = ends;
    match forward(arrived, ends, outbound, (head, opened), record).await {
        Ok(done) => {
            record.verdict = "allowed";
            record.status = Some(done.status);
        }
        Err(Failed::Rewritten(Some(stale))) => return Some(stale),
        Err(Failed::Rewritten(None)) => refuse(reply, &rewritten(), record).await,
        Err(Failed::Refused(refusal)) => refuse(reply, &refusal, record).await,
        Err(Failed::Cut) => cut(&**leg, record),
        Err(Failed::Unfinished(error)) => unfinished(reply, &**leg, &error, record).await,
    }
    None
}

/// Where the upstream has not begun with a request, it is sent once more.
async fn forward(
    arrived: &Arrived<'_>,
    (body, reply, leg): (&mut Body, &ReplyTo, &Rc<dyn Leg>),
    outbound: &mut Outbound,
    (head, mut opened): (&mut Option<RequestHead<Block<Chunk>>>, Option<Opened>),
    record: &mut Record,
) -> Result<Answered, Failed> {
    let edits = outbound.edits.as_deref();
    let key = Key::of(&outbound.permit, &outbound.means);
    record.via = outbound.permit.way().map(|way| Arc::clone(way.route()));
    let mut speaks = outbound.speaks;
    let first = if outbound.is_repeatable() { Idle::Any } else { Idle::Proven };
    for (idle, last) in [(first, false), (Idle::None, true)] {
        let hold = arrived.resident.open.enter(Rc::clone(&outbound.judged), Rc::clone(leg));
        let fence = Rc::new(Fence::new(arrived.core, arrived.resident, hold, outbound.credentials.clone()));
        reply.guard(Rc::clone(&fence) as Rc<dyn Gate>);
        let mut kept = None;
        let waiting = opened.take().and_then(|opened| opened.matching(&key));
        let upstream = match waiting.or_else(|| at_hand(arrived.core, &key, speaks, idle)) {
            Some(upstream) => upstream,
            None => {
                // Its buffer goes back to the ring: to connect may take long.
                let head = head.take().filter(|_| outbound.credentials.is_some());
                kept = head.map(|head| Box::new(head.to_owned()));
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
                    Some(Err(refusal)) => return Err(Failed::Refused(refusal)),
                    None if fence.hold.is_cut() => return Err(Failed::Cut),
                    None => return Err(ExchangeError::ClientGone.into()),
                }
            }
        };
        // Nor is it held while the upstream thinks.
        *head = None;
        // Its client was cut off: nothing is sent for it, however it would be decided now.
        if fence.hold.is_cut() {
            return Err(Failed::Cut);
        }
        if fence.is_stale() {
            let opened = |head: Box<_>| Stale { head: *head, opened: Opened(Box::new((key, upstream))) };
            return Err(Failed::Rewritten(kept.map(opened).map(Box::new)));
        }
        record.address = Some(upstream.address());
        let reused = upstream.is_reused();
        let sent = Cell::new(0);
        let ends = (FromClient::new(body, edits), ToClient::new(reply, edits));
        let outcome = match upstream {
            Upstream::Own { wire, address, .. } => {
                if !fence.hold.join(Rc::clone(&wire) as Rc<dyn Leg>) {
                    return Err(Failed::Cut);
                }
                tell_secrets(&mut outbound.secrets, record);
                let connection = (wire, address, &key);
                over_http11(arrived, ends, connection, (&*outbound, &sent), &fence).await
            }
            Upstream::Shared { place, .. } => {
                tell_secrets(&mut outbound.secrets, record);
                let secret = !record.secrets.is_empty();
                Box::pin(over_http2(ends, place, (&*outbound, secret, &sent), &fence)).await
            }
        };
        record.bytes_up = sent.get();
        // What an edit has seen it must not see again.
        let last = last || edits.is_some_and(Edits::has_begun);
        match outcome {
            Ok(done) => return Ok(done),
            // Both legs were reset, and which of them the relay met first says nothing.
            Err(_) if fence.hold.is_cut() => return Err(Failed::Cut),
            Err(ExchangeError::Revoked) if fence.is_stale() && !reply.is_started() => {
                return Err(Failed::Rewritten(None));
            }
            Err(ExchangeError::Unanswered(_) | ExchangeError::Reset(_))
                if !last && reused && outbound.is_repeatable() && !reply.is_started() => {}
            Err(ExchangeError::NotTaken) if !last && !reply.is_started() => {}
            Err(ExchangeError::Http11Required)
                if !last && !reply.is_started() && speaks == Speaks::Either =>
            {
                speaks = Speaks::Http11;
            }
            Err(error) => return Err(error.into()),
        }
    }
    unreachable!("the last try ends in an answer or a failure")
}

/// From here on its secrets leave. A second try carries the same, and finds them told.
fn tell_secrets(secrets: &mut Vec<Arc<str>>, record: &mut Record) {
    if !secrets.is_empty() {
        record.secrets = std::mem::take(secrets);
    }
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
