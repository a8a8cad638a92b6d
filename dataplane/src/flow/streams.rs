//! The requests of one HTTP/2 connection, many at once: each read, taken along its path, and recorded.

use std::{
    future::{Future, poll_fn},
    io,
    pin::pin,
    rc::Rc,
    task::Poll,
    time::Duration,
};

use ::h2::{Reason, RecvStream, server};
use ::http::Request;
use futures_lite::{
    future::{or, zip},
    stream::{Stream, StreamExt},
};
use futures_util::stream::FuturesUnordered;

use super::{
    connection::{Opened, record},
    core::Core,
    request::Arrived,
    requests::{begin, client_error, conclude, detached, end, slow},
    resident::Admission,
    run,
    send::note,
};
use crate::{
    http::{
        Exchange, Framing, Leg,
        h2::{Payload, Pipe, Pump, StreamLeg, StreamOf, request_head, serve},
    },
    limits::{
        H2_CONNECTION_WINDOW, H2_RESET_TIME, H2_RESETS_KNOWN, H2_RESETS_MAX, H2_SEND_BYTES_MAX,
        H2_STREAM_WINDOW, H2_STREAMS_MAX, H2_UNDER_WAY_MAX, HEAD_BYTES_MAX, HEAD_TIME, IDLE_TIME,
        LINGER_TIME,
    },
    respond::{Blame, Refusal},
    ring::timeout,
};

/// Serves the requests of a connection, many at once, until it ends.
pub(super) async fn streams(core: &Rc<Core>, opened: Opened) {
    let Opened { admission, wire, facts, proof, .. } = opened;
    let arrived = Arrived { core, resident: admission.resident(), facts: &facts, proof };
    let (pipe, pump) = Pipe::new(Rc::clone(&wire));
    let (mut open, mut patience) = (FuturesUnordered::new(), IDLE_TIME);
    let ended = match shake_hands(&admission, pipe, &pump).await {
        Ok(mut connection) => loop {
            let next = next(&mut connection, &mut open, &pump, patience);
            match admission.tie().hold(next).await {
                Some(Event::Request(..)) if open.len() >= H2_UNDER_WAY_MAX => {
                    connection.abrupt_shutdown(Reason::ENHANCE_YOUR_CALM);
                    break Err(flood());
                }
                Some(Event::Request(request, answer)) => {
                    open.push(stream(&arrived, request, StreamLeg::answering(answer, pump.clone())));
                }
                Some(Event::Done { recorded: true }) => {}
                // What cannot be recorded is not served.
                Some(Event::Done { recorded: false }) => connection.abrupt_shutdown(Reason::INTERNAL_ERROR),
                // A client that does not even answer the farewell is not waited for.
                Some(Event::Idle) if patience == LINGER_TIME => break Ok(()),
                Some(Event::Idle) => {
                    connection.graceful_shutdown();
                    patience = LINGER_TIME;
                }
                Some(Event::Ended(ended)) => break ended,
                None => break Ok(()),
            }
        },
        Err(refusal) => Err(refusal),
    };
    if let Err(refusal) = ended {
        record(core, Some(&admission.resident().id), facts.whither(), &refusal);
    }
    if admission.tie().is_cut() {
        wire.reset();
    }
    // The farewell that h2 wrote; a client that takes none may be gone.
    let farewell = timeout(LINGER_TIME, async {
        let _told = pump.flush().await;
        end(&wire).await;
    });
    // The connection is gone, so each of them finds its stream broken, and leaves its record.
    let ending = async { while open.next().await.is_some() {} };
    let _in_time = zip(farewell, ending).await;
}

/// Clients that open streams and break them before they are answered (CVE-2023-44487).
fn flood() -> Refusal {
    let detail = "more requests were begun and broken off than are ended";
    Refusal::new(429, "h2_flood", Blame::Sandbox, detail, "wait for the answers of requests")
}

type Connection = server::Connection<Pipe, Payload>;

/// What happens on a connection.
enum Event {
    /// A stream was opened.
    Request(Request<RecvStream>, server::SendResponse<Payload>),
    /// A stream came to its end.
    Done { recorded: bool },
    /// For long there was no request.
    Idle,
    /// The connection ended; where the client broke the protocol, by this refusal.
    Ended(Result<(), Refusal>),
}

/// The next event. While it is awaited the streams go on, then h2 writes what they gave it, then that is sent.
async fn next(
    connection: &mut Connection,
    open: &mut (impl Stream<Item = bool> + Unpin),
    pump: &Pump,
    patience: Duration,
) -> Event {
    let mut pumping = pin!(pump.run());
    let idle = open.size_hint().0 == 0;
    let event = poll_fn(|cx| {
        if let Poll::Ready(Some(recorded)) = open.poll_next(cx) {
            return Poll::Ready(Event::Done { recorded });
        }
        match connection.poll_accept(cx) {
            Poll::Ready(Some(Ok((request, answer)))) => return Poll::Ready(Event::Request(request, answer)),
            Poll::Ready(Some(Err(error))) => return Poll::Ready(Event::Ended(broken(&error))),
            Poll::Ready(None) => return Poll::Ready(Event::Ended(Ok(()))),
            Poll::Pending => {}
        }
        pumping.as_mut().poll(cx).map(|_| Event::Ended(Ok(())))
    });
    if idle { timeout(patience, event).await.unwrap_or(Event::Idle) } else { event.await }
}

/// A connection that ends between requests may end as it likes; one that breaks the protocol is recorded.
fn broken(error: &::h2::Error) -> Result<(), Refusal> {
    if error.is_io() || error.is_remote() {
        return Ok(());
    }
    let remedy = "use a client that keeps to RFC 9113, or HTTP/1.1";
    Err(Refusal::new(400, "h2_broken", Blame::Sandbox, &error.to_string(), remedy).because(error))
}

async fn shake_hands(admission: &Admission, pipe: Pipe, pump: &Pump) -> Result<Connection, Refusal> {
    let mut builder = server::Builder::new();
    builder
        .max_concurrent_streams(H2_STREAMS_MAX)
        .initial_window_size(H2_STREAM_WINDOW)
        .initial_connection_window_size(H2_CONNECTION_WINDOW)
        .max_header_list_size(HEAD_BYTES_MAX as u32)
        .max_send_buffer_size(H2_SEND_BYTES_MAX)
        // WebSockets (RFC 8441).
        .enable_connect_protocol()
        .max_pending_accept_reset_streams(H2_RESETS_MAX)
        .max_concurrent_reset_streams(H2_RESETS_KNOWN)
        .reset_stream_duration(H2_RESET_TIME);
    let shaken = or(async { Some(builder.handshake(pipe).await) }, async {
        pump.run().await;
        None
    });
    match admission.tie().hold(timeout(HEAD_TIME, shaken)).await {
        Some(Ok(Some(Ok(connection)))) => Ok(connection),
        Some(Ok(Some(Err(error)))) => Err(broken(&error).err().unwrap_or_else(|| client_error(&gone()))),
        Some(Ok(None)) => Err(client_error(&gone())),
        Some(Err(_)) => Err(slow("the preface of HTTP/2 did not arrive in time")),
        None => Err(detached()),
    }
}

fn gone() -> io::Error {
    io::ErrorKind::UnexpectedEof.into()
}

/// Takes one request along its path. Gives whether its record was taken.
async fn stream(arrived: &Arrived<'_>, request: Request<RecvStream>, leg: StreamLeg) -> bool {
    let mut record = begin(Some(&arrived.resident.id));
    let (parts, body) = request.into_parts();
    let leg = Rc::new(leg);
    match request_head(&parts, body.is_end_stream()) {
        Ok(head) => {
            let (head_only, tunnel) = (head.method() == "HEAD", head.framing() == Framing::Tunnel);
            let (exchange, driver) = Exchange::new(head, Rc::clone(&leg) as Rc<dyn Leg>);
            let path = run(arrived, exchange, &mut record);
            let ((), served) = zip(path, serve(StreamOf { body, leg, head_only, tunnel }, driver)).await;
            conclude(&mut record, &served);
        }
        Err(error) => {
            let refusal = Refusal::from(&error);
            note(&refusal, &mut record);
            let (head, body) = refusal.answer();
            // The client may be gone; the record says what it would have been told.
            let _told = leg.tell(head, body);
        }
    }
    arrived.core.common.audit.record(&record).is_ok()
}
