//! The requests of one connection, one after the other: each read, taken along its path, and recorded.

use std::{io, rc::Rc};

use super::{
    arrived::{Accepted, Arrived},
    connection::Opened,
    core::Core,
    resident::Admission,
    run,
    tell::note,
};
use crate::{
    audit::Record,
    causes::chain,
    clock::unix_millis,
    http::{
        About, Exchange, Leg, RequestHead, ServeError, Served,
        h1::{Block, H1Error, Inbound},
        serve,
    },
    identity::SandboxId,
    limits::{HEAD_TIME, IDLE_TIME, LINGER_TIME},
    respond::{Blame, Refusal},
    ring::timeout,
    tls::{Chunk, Wire},
};

/// Serves requests in their order, until the connection ends. What one of them needs lies apart, so that a connection that
/// waits for the next is small.
pub(super) async fn requests(core: &Rc<Core>, opened: Box<Opened>) {
    let Opened { admission, wire, facts, proof, .. } = opened.unboxed();
    let arrived =
        Arrived { core, resident: admission.resident(), facts: &facts, proof, accepted: Accepted::default() };
    let (mut inbound, mut served) = (Inbound::default(), false);
    loop {
        arrived.resident.share.pause().await;
        let next = match next_head(&admission, &wire, &mut inbound).await {
            // One allocation for each request; the next finds it in the cache.
            Ok(head) => Ok(Box::pin(request(&arrived, &wire, &mut inbound, head))),
            // Between two requests a connection may end as it likes.
            Err(Missing::Nothing(_)) if served => break,
            Err(Missing::Nothing(refusal) | Missing::Broken(refusal)) => {
                Err(Box::pin(missing(&arrived, &wire, refusal)))
            }
        };
        let goes_on = match next {
            Ok(serving) => serving.await,
            Err(telling) => telling.await,
        };
        if !goes_on {
            break;
        }
        served = true;
    }
    if admission.tie().is_cut() {
        wire.reset();
    } else {
        end(&wire).await;
    }
}

/// Serves one request to its end, and records it. Gives whether another may follow.
async fn request(
    arrived: &Arrived<'_>,
    wire: &Rc<Wire>,
    inbound: &mut Inbound<Chunk>,
    head: RequestHead<Block<Chunk>>,
) -> bool {
    let mut record = begin(Some(&arrived.resident.id));
    let about = About::of(&head);
    let (exchange, driver) = Exchange::new(head, Rc::clone(wire) as Rc<dyn Leg>);
    let (turns, path) = (driver.turns(), run(arrived, exchange, &mut record));
    let ((), answer) = turns.take(path, serve(&**wire, inbound, about, driver)).await;
    let goes_on = conclude(&mut record, &answer);
    if answer.outcome.is_err() {
        wire.reset();
    }
    let recorded = arrived.core.common.audit.record(&record);
    goes_on && recorded.is_ok()
}

/// Tells and records why there was no request. None may follow.
async fn missing(arrived: &Arrived<'_>, wire: &Wire, refusal: Refusal) -> bool {
    let mut record = begin(Some(&arrived.resident.id));
    note(&refusal, &mut record);
    record.going(arrived.facts.whither());
    // The client may be gone; the record says what it would have been told.
    let _told = wire.send(&refusal.to_http(false, false)).await;
    let _counted = arrived.core.common.audit.record(&record);
    false
}

/// Why there is no whole head.
enum Missing {
    /// Nothing of one came.
    Nothing(Refusal),
    /// What came is none, or stopped.
    Broken(Refusal),
}

/// The next head. It may be long in coming; once begun, the whole of it has its time.
async fn next_head(
    admission: &Admission,
    wire: &Wire,
    inbound: &mut Inbound<Chunk>,
) -> Result<RequestHead<Block<Chunk>>, Missing> {
    let ended = || client_error(&io::ErrorKind::UnexpectedEof.into());
    match admission.tie().hold(timeout(IDLE_TIME, inbound.wait(wire))).await {
        Some(Ok(Ok(true))) => {}
        Some(Ok(Ok(false))) => return Err(Missing::Nothing(ended())),
        Some(Ok(Err(error))) => return Err(Missing::Nothing(client_error(&error))),
        Some(Err(_)) => return Err(Missing::Nothing(slow("no request came"))),
        None => return Err(Missing::Nothing(detached())),
    }
    let refusal = match admission.tie().hold(timeout(HEAD_TIME, inbound.read_request(wire))).await {
        Some(Ok(Ok(Some(head)))) => return Ok(head),
        Some(Ok(Ok(None) | Err(H1Error::Cut | H1Error::Body(_)))) => ended(),
        Some(Ok(Err(H1Error::Io(error)))) => client_error(&error),
        Some(Ok(Err(H1Error::Head(error)))) => Refusal::from(&error),
        Some(Err(_)) => slow("the request head did not arrive in time"),
        None => detached(),
    };
    Err(Missing::Broken(refusal))
}

/// Completes the record by what became of the answer. Gives whether another request may follow.
pub(super) fn conclude(record: &mut Record, served: &Served) -> bool {
    if record.verdict != "refused" {
        record.bytes_down = served.payload_bytes;
    }
    match &served.outcome {
        Ok(goes_on) => *goes_on,
        Err(ServeError::Revoked) => {
            record.verdict = "cut";
            record.code = Some("revoked");
            false
        }
        Err(error) => {
            // Whoever handed the answer over took it for whole.
            if matches!(record.verdict, "allowed" | "answered") {
                record.verdict = "broken";
                let stalled = match error {
                    ServeError::Stalled => true,
                    ServeError::ClientGone(Some(error)) => error.kind() == io::ErrorKind::TimedOut,
                    _ => false,
                };
                record.code = Some(if stalled { "client_stalled" } else { "client_gone" });
                record.reason = Some(chain(error));
            }
            false
        }
    }
}

/// Says that we are done and reads what still comes for a while: closing over unread bytes would reset the
/// connection, and the client could lose the answer (RFC 9112 §9.6).
pub(super) async fn end(wire: &Wire) {
    if wire.close().await.is_ok() {
        let drained = async { while let Ok(Some(_)) = wire.receive_body().await {} };
        let _in_time = timeout(LINGER_TIME, drained).await;
    }
}

pub(super) fn begin(sandbox: Option<&SandboxId>) -> Record {
    Record { unix_ms: unix_millis(), sandbox: sandbox.cloned(), ..Record::default() }
}

pub(super) fn slow(what: &str) -> Refusal {
    Refusal::new(408, "too_slow", Blame::Sandbox, what, "send the whole of it at once")
}

pub(super) fn detached() -> Refusal {
    let detail = "the sandbox was detached from this plane";
    Refusal::new(503, "detached", Blame::Gateway, detail, "ask the operator to attach the sandbox")
}

pub(super) fn client_error(error: &io::Error) -> Refusal {
    Refusal::new(400, "client_gone", Blame::Sandbox, &error.to_string(), "keep the connection open")
}
