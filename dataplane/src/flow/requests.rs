//! The requests of one connection, one after the other: each read, decided, answered and recorded.

use std::{io, rc::Rc, time::Instant};

use super::{
    connection::Opened,
    core::Core,
    relay::Inbound,
    request::{Arrived, Step, prepare},
    send::{About, After, answer, refuse, send},
};
use crate::{
    audit::Record,
    clock::unix_millis,
    http::{Found, Framing, HeadReader, Version},
    identity::SandboxId,
    limits::{HEAD_TIME, IDLE_TIME, LINGER_TIME},
    respond::{Blame, Refusal},
    ring::{Elapsed, timeout},
    tls::{Chunk, Wire},
};

/// Serves requests in their order, until the connection ends.
pub(super) async fn requests(core: &Rc<Core>, opened: Opened) {
    let Opened { admission, wire, facts, proof } = opened;
    let mut client = Inbound::new(Rc::clone(&wire));
    let mut reader = HeadReader::new();
    let arrived = Arrived { core, resident: admission.resident(), facts: &facts, proof };
    let (mut begun, mut served) = (Instant::now(), false);
    loop {
        // The whole head has its time, not each piece of it.
        let patience =
            if reader.is_started() { HEAD_TIME.saturating_sub(begun.elapsed()) } else { IDLE_TIME };
        let next = admission.tie().hold(timeout(patience, client.next())).await;
        let mut record = begin(Some(&admission.resident().id));
        let mut about = About { version: Version::Http11, keep_alive: false, head_only: false };
        let mut chunk = match next {
            Some(Ok(Ok(Some(chunk)))) => chunk,
            // Between two requests a connection may end as it likes.
            _ if served && !reader.is_started() => break,
            ended => {
                let refusal = unbegun(ended);
                refuse(&wire, &about, &refusal, &mut record).await;
                let _counted = core.common.audit.record(record);
                break;
            }
        };
        if !reader.is_started() {
            begun = Instant::now();
        }
        let step = match reader.push(&chunk) {
            Ok(Found::Partial) => continue,
            Ok(Found::Complete { head, taken, gathered }) => {
                let step = head.request().map_err(|error| Refusal::from(&error)).and_then(|head| {
                    about = About {
                        version: head.version(),
                        keep_alive: head.keep_alive(),
                        head_only: head.method() == "HEAD",
                    };
                    about.keep_alive &=
                        head.framing() == Framing::None || head.framing() == Framing::Length(0);
                    let keep_alive = head.keep_alive();
                    prepare(&arrived, &head, &mut record).map(|step| (step, keep_alive))
                });
                if gathered {
                    reader.take();
                }
                chunk.advance(taken);
                client.put_back(chunk);
                step
            }
            Err(error) => Err(Refusal::from(&error)),
        };
        let after = match step {
            Ok((Step::Send(outbound), keep_alive)) => {
                // One allocation for each request, so that an idle connection is small.
                Box::pin(send(&arrived, &mut client, *outbound, &about, keep_alive, &mut record)).await
            }
            Ok((Step::Answer { status, fields, body }, _)) => {
                record.verdict = "answered";
                record.status = Some(status);
                answer(&wire, &about, status, &fields, &body).await
            }
            Err(refusal) => refuse(&wire, &about, &refusal, &mut record).await,
        };
        served = true;
        let recorded = core.common.audit.record(record);
        if after == After::Ends || recorded.is_err() {
            break;
        }
    }
    if admission.tie().is_cut() {
        wire.reset();
    } else {
        end(&wire, &mut client).await;
    }
}

/// Why there is no whole head.
fn unbegun(ended: Option<Result<io::Result<Option<Chunk>>, Elapsed>>) -> Refusal {
    match ended {
        Some(Ok(Ok(_))) => client_error(&io::ErrorKind::UnexpectedEof.into()),
        Some(Ok(Err(error))) => client_error(&error),
        Some(Err(Elapsed)) => slow("the request head did not arrive in time"),
        None => detached(),
    }
}

/// Says that we are done and reads what still comes for a while: closing over unread bytes would reset the
/// connection, and the client could lose the answer (RFC 9112 §9.6).
async fn end(wire: &Wire, client: &mut Inbound) {
    if wire.close().await.is_ok() {
        let drained = async { while let Ok(Some(_)) = client.next_of_body().await {} };
        let _in_time = timeout(LINGER_TIME, drained).await;
    }
}

pub(super) fn begin(sandbox: Option<&SandboxId>) -> Record {
    Record { unix_ms: unix_millis(), sandbox: sandbox.map(ToString::to_string), ..Record::default() }
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
