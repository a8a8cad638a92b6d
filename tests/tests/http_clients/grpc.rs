//! gRPC by its own library for Python, which speaks HTTP/2 alone and knows no refusal but its own statuses.

use std::sync::{Mutex, mpsc};

use ::http::{HeaderMap, Response};
use bytes::Bytes;
use h2::{Reason, RecvStream, SendStream};
use tests::{
    gateway::PATIENCE,
    http2::{next, origin, read},
    origin::Origin,
    yard::{Yard, said},
};

use crate::{
    python::bring,
    trial::{Way, assert_not_held, assert_summary_tells, laid_open, told},
};

/// Calls a method whose messages are plain bytes; prints the answer with its metadata, or the status.
const SCRIPT: &str = "
import grpc, sys
channel = grpc.secure_channel(sys.argv[1], grpc.ssl_channel_credentials())
try:
    answer, call = channel.unary_unary('/greeter.Greeter/' + sys.argv[2]).with_call(b'hello', timeout=60)
    print(answer, call.initial_metadata(), call.trailing_metadata())
except grpc.RpcError as error: print(error.code(), error.details())
";

/// Calls of each kind to a host that is not allowed.
const REFUSED: &str = "
import grpc, sys
channel = grpc.secure_channel(sys.argv[1], grpc.ssl_channel_credentials())
for kind in ['unary_unary', 'unary_stream', 'stream_unary', 'stream_stream']:
    request = b'hello' if kind.startswith('unary') else iter([b'hello'] * 3)
    try:
        answer = getattr(channel, kind)('/greeter.Greeter/Hello')(request, timeout=60)
        print(answer if kind.endswith('unary') else list(answer))
    except grpc.RpcError as error: print(error.code(), error.details())
";

/// Sends messages back; to `Private` only those of who shows the credential.
fn greeter() -> Origin {
    origin(&["origin.test"], |request, mut answer| async move {
        let shown =
            request.headers().get("authorization").is_some_and(|value| *value == *Way::Bearer.shown());
        let refused = request.uri().path().ends_with("/Private") && !shown;
        let (message, _) = read(&mut request.into_body()).await?;
        let mut stream = answer.send_response(head(), false).ok()?;
        if !refused {
            stream.send_data(message.into(), false).ok()?;
        }
        end(&mut stream, if refused { 16 } else { 0 }, "")
    })
}

fn head() -> Response<()> {
    let mut head = Response::new(());
    head.headers_mut().insert("content-type", "application/grpc".parse().expect("a value"));
    head
}

fn end(stream: &mut SendStream<Bytes>, status: u8, message: &str) -> Option<()> {
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", status.to_string().parse().ok()?);
    if !message.is_empty() {
        trailers.insert("grpc-message", message.parse().ok()?);
    }
    stream.send_trailers(trailers).ok()
}

/// The messages of a call, each behind a byte and its length.
struct Messages {
    body: RecvStream,
    bytes: Vec<u8>,
}

impl Messages {
    async fn take(&mut self) -> Option<Vec<u8>> {
        loop {
            if let Some((head, rest)) = self.bytes.split_first_chunk::<5>() {
                let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
                if rest.len() >= length {
                    let message = rest[..length].to_vec();
                    self.bytes.drain(..5 + length);
                    return Some(message);
                }
            }
            self.bytes.extend_from_slice(&next(&mut self.body).await?.ok()?);
        }
    }
}

fn put(stream: &mut SendStream<Bytes>, message: &[u8]) -> Option<()> {
    let length = u32::try_from(message.len()).ok()?;
    stream.send_data([&[0], &length.to_be_bytes()[..], message].concat().into(), false).ok()
}

/// Serves calls of every kind, and tells what ended those that wait.
fn echo() -> (Origin, mpsc::Receiver<Option<Reason>>) {
    let (tell, ended) = mpsc::channel();
    let tell = Mutex::new(tell);
    let origin = origin(&["origin.test"], move |request, mut answer| {
        let tell = tell.lock().expect("no task panicked holding it").clone();
        async move {
            let method = request.uri().path().trim_start_matches("/echo.Echo/").to_owned();
            let mut messages = Messages { body: request.into_body(), bytes: Vec::new() };
            let mut stream = answer.send_response(head(), false).ok()?;
            match &*method {
                "Echo" => {
                    while let Some(message) = messages.take().await {
                        put(&mut stream, &message)?;
                    }
                }
                "Repeat" => {
                    let count: u8 = String::from_utf8(messages.take().await?).ok()?.parse().ok()?;
                    (0..count).try_for_each(|index| put(&mut stream, &[b'0' + index]))?;
                }
                "Count" => {
                    let mut count = 0;
                    while messages.take().await.is_some() {
                        count += 1;
                    }
                    put(&mut stream, format!("{count}").as_bytes())?;
                }
                "Fail" => return end(&mut stream, 5, "not%20here%3A%20%E2%98%83"),
                "Break" => {
                    put(&mut stream, b"first")?;
                    // The client says that it has it: what is not yet sent is lost by the reset.
                    messages.take().await?;
                    messages.take().await?;
                    stream.send_reset(Reason::CANCEL);
                    return Some(());
                }
                _ => {
                    let reset = std::future::poll_fn(|cx| stream.poll_reset(cx)).await;
                    return tell.send(reset.ok()).ok();
                }
            }
            end(&mut stream, 0, "")
        }
    });
    (origin, ended)
}

fn call<'a>(place: &'a str, method: &'a str) -> [&'a str; 5] {
    ["python-clients/bin/python3", "-c", SCRIPT, place, method]
}

fn place(yard: &Yard, host: &str) -> String {
    format!("{host}:{}", yard.origin.address.port())
}

#[test]
fn grpcio_calls_in_all_four_kinds_and_both_sides_may_end_a_call() {
    let (origin, ended) = echo();
    let yard = Yard::of(origin);
    bring(&yard);
    yard.ground.write("calls.py", include_str!("scripts/grpc.py"));
    let (out, err) = told(&yard, &["python-clients/bin/python3", "calls.py", &place(&yard, "origin.test")]);
    let lines: Vec<_> = out.lines().collect();
    let expected = [
        "b'one'",
        "[b'0', b'1', b'2']",
        "b'100'",
        "[b'0', b'1', b'2', b'3', b'4']",
        "True",
        "[4194304, 4194304, 4194304]",
        "True",
        "status NOT_FOUND not here: ☃",
        "deadline DEADLINE_EXCEEDED ",
        "cancel CANCELLED ",
        "b'first'",
    ];
    assert_eq!(lines.get(..expected.len()), Some(&expected[..]), "{out}{err}");
    // The status of whom the origin leaves without one (gRPC over HTTP/2, "Errors"): never that of a call that ended.
    assert!(["broken INTERNAL ", "broken CANCELLED "].contains(&lines[expected.len()]), "{out}{err}");
    assert_eq!(lines[expected.len() + 1..], ["b'the same channel'"], "{out}{err}");
    // What the client gave up, its origin hears of: the deadline and the call that was cancelled.
    for _ in 0..2 {
        assert_eq!(ended.recv_timeout(PATIENCE), Ok(Some(Reason::CANCEL)));
    }
    assert_eq!(yard.origin.connections(), 1);
}

#[test]
fn grpcio_is_answered_and_what_is_refused_is_a_status_with_the_reason() {
    let yard = Yard::of(greeter());
    bring(&yard);
    let (out, err) = told(&yard, &call(&place(&yard, "origin.test"), "Hello"));
    assert!(out.starts_with("b'hello' "), "{out}{err}");
    let connections = yard.origin.connections();

    let refused = ["python-clients/bin/python3", "-c", REFUSED, &place(&yard, "denied.test")];
    let (out, err) = told(&yard, &refused);
    assert_eq!(out.lines().count(), 4, "{out}{err}");
    for line in out.lines() {
        // Not UNAVAILABLE, which is tried again.
        let reason = "StatusCode.PERMISSION_DENIED denied.test: is not on the allow list (host_not_allowed";
        assert!(line.starts_with(reason) && line.contains("allowedHosts"), "{out}{err}");
    }
    assert_summary_tells(&yard, &err);
    assert_eq!(yard.origin.connections(), connections);
}

#[test]
fn grpcio_calls_by_a_credential_that_it_never_holds() {
    let yard = Yard::of(greeter());
    bring(&yard);
    let place = place(&yard, "origin.test");
    let (out, err) = told(&yard, &call(&place, "Private"));
    assert!(out.contains("StatusCode.UNAUTHENTICATED"), "{out}{err}");
    let command = call(&place, "Private");
    let (out, err) = said(&laid_open(&yard, Way::Bearer, &command).output().expect("outgate starts"));
    assert!(out.starts_with("b'hello' "), "{out}{err}");
    assert_not_held(Way::Bearer, &format!("{out}{err}"));
}
