//! The requests of one HTTP/2 connection, many at once: each read, taken along its path, and recorded.

use std::{
    future::{Future, poll_fn},
    io,
    pin::{Pin, pin},
    rc::Rc,
    task::{Context, Poll},
    time::Duration,
};

use ::h2::{Reason, RecvStream, server};
use ::http::Request;
use futures_lite::{
    future::{or, poll_once, zip},
    stream::{Stream, StreamExt},
};
use futures_util::stream::FuturesUnordered;

use super::{
    arrived::{Accepted, Arrived},
    connection::{Opened, record},
    core::Core,
    requests::{begin, client_error, conclude, detached, end, slow},
    resident::Admission,
    run,
    tell::note,
};
use crate::{
    http::{
        Exchange, Framing, HeadError, Leg,
        h2::{Payload, Pipe, Pump, Role, StreamLeg, StreamOf, Turned, Windows, request_head, serve},
    },
    limits::{
        H2_REFUSED_MAX, H2_RESET_TIME, H2_RESETS_KNOWN, H2_RESETS_MAX, H2_SEND_BYTES_MAX, H2_STREAMS_MAX,
        H2_UNDER_WAY_MAX, HEAD_BYTES_MAX, HEAD_TIME, IDLE_TIME, LINGER_TIME,
    },
    respond::{Blame, Refusal},
    ring::{Sleep, timeout},
};

/// Serves the requests of a connection, many at once, until it ends.
pub(super) async fn streams(core: &Rc<Core>, opened: Box<Opened>) {
    let Opened { admission, wire, facts, proof, .. } = opened.unboxed();
    let arrived =
        Arrived { core, resident: admission.resident(), facts: &facts, proof, accepted: Accepted::default() };
    let (pipe, pump) = Pipe::new(Rc::clone(&wire), Role::Server);
    let mut open = FuturesUnordered::new();
    let leave = |refusal: &Refusal| record(core, Some(&admission.resident().id), facts.whither(), refusal);
    let windows = Windows::of(&admission.resident().client_windows);
    let ended = match shake_hands(&admission, pipe, &pump, &windows).await {
        Ok(connection) => {
            let mut served = Served::new(connection, &windows, &pump);
            loop {
                arrived.resident.share.pause().await;
                let ended = match admission.tie().hold(served.next(&mut open)).await {
                    Some(Event::Ended(ended)) => break ended,
                    Some(Event::Refused(refusal)) => Err(refusal),
                    Some(Event::Request(..)) if open.len() >= H2_UNDER_WAY_MAX => {
                        Err(flood("more requests were begun and broken off than are ended"))
                    }
                    Some(Event::Request(request, answer)) => {
                        let leg = StreamLeg::answering(answer, pump.clone(), Rc::clone(&windows));
                        open.push(arrived.resident.share.part(stream(&arrived, request, leg)));
                        continue;
                    }
                    Some(Event::Done { recorded: true }) => continue,
                    Some(Event::Turned(turned)) => {
                        turned.into_iter().for_each(|turned| leave(&turned_away(turned)));
                        continue;
                    }
                    Some(Event::Idle) => match served.part() {
                        Parting::Told => continue,
                        Parting::Over => Ok(()),
                        Parting::Unused => Err(slow("no request came")),
                    },
                    // What cannot be recorded is not served.
                    Some(Event::Done { recorded: false }) => Ok(()),
                    None if served.carried => Ok(()),
                    None => Err(detached()),
                };
                served.say_farewell(&ended).await;
                break ended;
            }
        }
        Err(refusal) => Err(refusal),
    };
    pump.turned().into_iter().for_each(|turned| leave(&turned_away(turned)));
    let unseen = pump.unseen();
    match &ended {
        // Where requests came with what broke the connection, their records say so in its place.
        Err(refusal) => (0..unseen.max(1)).for_each(|_| leave(refusal)),
        Ok(()) => (0..unseen).for_each(|_| leave(&client_error(&gone()))),
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
    pump.release();
}

/// Clients that make work and take no answers (CVE-2023-44487 and its kin).
fn flood(detail: &str) -> Refusal {
    Refusal::new(429, "h2_flood", Blame::Sandbox, detail, "wait for the answers of requests")
}

/// A request that h2 has refused by itself.
fn turned_away(turned: Turned) -> Refusal {
    match turned {
        Turned::Answered => Refusal::from(&HeadError::TooLong),
        Turned::Broken(code) if Reason::from(code) == Reason::REFUSED_STREAM => {
            let detail = format!("the connection carries {H2_STREAMS_MAX} requests already");
            let remedy = "wait for the answers of requests, as the settings of the connection say";
            Refusal::new(429, "h2_streams", Blame::Sandbox, &detail, remedy)
        }
        Turned::Broken(code) => {
            let detail = format!("the request is malformed: {}", Reason::from(code).description());
            Refusal::new(400, "h2_malformed", Blame::Sandbox, &detail, KEEP_TO_IT)
        }
    }
}

const KEEP_TO_IT: &str = "use a client that keeps to RFC 9113, or HTTP/1.1";

type Connection = server::Connection<Pipe, Payload>;

/// What happens on a connection.
enum Event {
    /// A stream was opened.
    Request(Request<RecvStream>, server::SendResponse<Payload>),
    /// A stream came to its end.
    Done { recorded: bool },
    /// Requests were refused before anybody saw them.
    Turned(Vec<Turned>),
    /// The connection is to end for this reason.
    Refused(Refusal),
    /// For long there was no request.
    Idle,
    /// The connection ended; where the client broke the protocol, by this refusal.
    Ended(Result<(), Refusal>),
}

/// What becomes of an idle connection.
enum Parting {
    /// The client is told, and has a while to say that it knows.
    Told,
    /// A client that does not even answer the farewell is not waited for.
    Over,
    /// The same, and there was never a request.
    Unused,
}

/// One connection, and how long its client is waited for.
struct Served<'a> {
    connection: Connection,
    windows: &'a Windows,
    pump: &'a Pump,
    /// There was a request.
    carried: bool,
    /// Runs while the head of a request, or what follows its body, is not whole.
    head_time: Option<Pin<Box<Sleep>>>,
    patience: Duration,
}

impl<'a> Served<'a> {
    fn new(connection: Connection, windows: &'a Windows, pump: &'a Pump) -> Self {
        Self { connection, windows, pump, carried: false, head_time: None, patience: IDLE_TIME }
    }

    /// The next event. While it is awaited the streams go on, then h2 writes what they gave it, then that is sent.
    async fn next(&mut self, open: &mut (impl Stream<Item = bool> + Unpin)) -> Event {
        let pump = self.pump.clone();
        let mut pumping = pin!(pump.run());
        let (idle, patience) = (open.size_hint().0 == 0, self.patience);
        let event = poll_fn(|cx| {
            if let Poll::Ready(Some(recorded)) = open.poll_next(cx) {
                return Poll::Ready(Event::Done { recorded });
            }
            if let Poll::Ready(event) = self.poll_connection(cx) {
                return Poll::Ready(event);
            }
            pumping.as_mut().poll(cx).map(|_| Event::Ended(self.unused()))
        });
        if idle { timeout(patience, event).await.unwrap_or(Event::Idle) } else { event.await }
    }

    fn poll_connection(&mut self, cx: &mut Context<'_>) -> Poll<Event> {
        self.windows.tend(&mut self.connection, cx);
        match self.connection.poll_accept(cx) {
            Poll::Ready(Some(Ok((request, answer)))) => {
                self.carried = true;
                return Poll::Ready(Event::Request(request, answer));
            }
            Poll::Ready(Some(Err(error))) => {
                let ended = broken(&error).and_then(|()| self.unused());
                return Poll::Ready(Event::Ended(ended));
            }
            Poll::Ready(None) => return Poll::Ready(Event::Ended(self.unused())),
            Poll::Pending => {}
        }
        let turned = self.pump.turned();
        if !turned.is_empty() {
            self.carried = true;
            return Poll::Ready(Event::Turned(turned));
        }
        if let Some(frames) = self.pump.flood() {
            let detail = format!("more {frames} frames came than requests need");
            return Poll::Ready(Event::Refused(flood(&detail)));
        }
        if !self.pump.is_head_open() {
            self.head_time = None;
            return Poll::Pending;
        }
        let head_time = self.head_time.get_or_insert_with(|| Box::pin(Sleep::new(HEAD_TIME)));
        let over = head_time.as_mut().poll(cx);
        over.map(|()| Event::Refused(slow("the request head did not arrive in time")))
    }

    /// A connection may end as it likes after a request, and one without any leaves a record of its own.
    fn unused(&self) -> Result<(), Refusal> {
        if self.carried { Ok(()) } else { Err(client_error(&gone())) }
    }

    fn part(&mut self) -> Parting {
        if self.patience == LINGER_TIME {
            return if self.carried { Parting::Over } else { Parting::Unused };
        }
        self.connection.graceful_shutdown();
        self.patience = LINGER_TIME;
        Parting::Told
    }

    /// Tells the client why its connection ends, where the wire takes that at once.
    async fn say_farewell(&mut self, ended: &Result<(), Refusal>) {
        let reason = match ended {
            Ok(()) => Reason::INTERNAL_ERROR,
            Err(_) => Reason::ENHANCE_YOUR_CALM,
        };
        self.connection.abrupt_shutdown(reason);
        let _written = poll_once(poll_fn(|cx| self.connection.poll_closed(cx))).await;
    }
}

/// A connection that ends between requests may end as it likes; one that breaks the protocol is recorded.
fn broken(error: &::h2::Error) -> Result<(), Refusal> {
    if error.is_io() || error.is_remote() {
        return Ok(());
    }
    if error.reason() == Some(Reason::ENHANCE_YOUR_CALM) {
        return Err(flood(&error.to_string()).because(error));
    }
    Err(Refusal::new(400, "h2_broken", Blame::Sandbox, &error.to_string(), KEEP_TO_IT).because(error))
}

async fn shake_hands(
    admission: &Admission,
    pipe: Pipe,
    pump: &Pump,
    windows: &Windows,
) -> Result<Connection, Refusal> {
    let mut builder = server::Builder::new();
    builder
        .max_concurrent_streams(H2_STREAMS_MAX)
        .initial_window_size(windows.stream())
        .initial_connection_window_size(windows.connection())
        .max_header_list_size(HEAD_BYTES_MAX as u32)
        .max_send_buffer_size(H2_SEND_BYTES_MAX)
        // WebSockets (RFC 8441).
        .enable_connect_protocol()
        .max_local_error_reset_streams(Some(H2_REFUSED_MAX))
        .max_pending_accept_reset_streams(H2_RESETS_MAX)
        .max_concurrent_reset_streams(H2_RESETS_KNOWN)
        .reset_stream_duration(H2_RESET_TIME);
    let shaken = or(async { Some(builder.handshake(pipe).await) }, async {
        pump.run().await;
        None
    });
    match admission.tie().hold(timeout(HEAD_TIME, shaken)).await {
        Some(Ok(Some(Ok(mut connection)))) => {
            windows.measure_by(connection.ping_pong());
            Ok(connection)
        }
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
            let (turns, path) = (driver.turns(), run(arrived, exchange, &mut record));
            let serving = serve(StreamOf { body, leg, head_only, tunnel }, driver);
            let ((), served) = turns.take(path, serving).await;
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
