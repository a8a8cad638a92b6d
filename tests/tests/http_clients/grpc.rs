//! gRPC by its own library for Python, which speaks HTTP/2 alone and knows no refusal but its own statuses.

use ::http::{HeaderMap, Response};
use tests::{
    http2::{origin, read},
    origin::Origin,
    yard::{Yard, said},
};

use crate::{
    python::bring,
    trial::{Way, assert_not_held, assert_summary_tells, laid_open, told},
};

/// Calls a method whose messages are plain bytes; prints the answer or the status.
const SCRIPT: &str = "
import grpc, sys
channel = grpc.secure_channel(sys.argv[1], grpc.ssl_channel_credentials())
try: print(channel.unary_unary('/greeter.Greeter/' + sys.argv[2])(b'hello', timeout=60))
except grpc.RpcError as error: print(error.code(), error.details())
";

/// Sends messages back; to `Private` only those of who shows the credential.
fn greeter() -> Origin {
    origin(&["origin.test"], |request, mut answer| async move {
        let shown =
            request.headers().get("authorization").is_some_and(|value| *value == *Way::Bearer.shown());
        let refused = request.uri().path().ends_with("/Private") && !shown;
        let (message, _) = read(&mut request.into_body()).await?;
        let mut head = Response::new(());
        head.headers_mut().insert("content-type", "application/grpc".parse().ok()?);
        let mut stream = answer.send_response(head, false).ok()?;
        if !refused {
            stream.send_data(message.into(), false).ok()?;
        }
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", if refused { "16" } else { "0" }.parse().ok()?);
        stream.send_trailers(trailers).ok()
    })
}

fn call<'a>(place: &'a str, method: &'a str) -> [&'a str; 5] {
    ["python-clients/bin/python3", "-c", SCRIPT, place, method]
}

#[test]
fn grpcio_is_answered_and_what_is_refused_is_a_status_with_the_reason() {
    let yard = Yard::of(greeter());
    bring(&yard);
    let place = |host: &str| format!("{host}:{}", yard.origin.address.port());
    let (out, err) = told(&yard, &call(&place("origin.test"), "Hello"));
    assert_eq!(out, "b'hello'\n", "{err}");
    let connections = yard.origin.connections();

    let (out, err) = told(&yard, &call(&place("denied.test"), "Hello"));
    // Not UNAVAILABLE, which is tried again.
    let reason = "StatusCode.PERMISSION_DENIED denied.test: is not on the allow list (host_not_allowed";
    assert!(out.starts_with(reason), "{out}{err}");
    assert_summary_tells(&yard, &err);
    assert_eq!(yard.origin.connections(), connections);
}

#[test]
fn grpcio_calls_by_a_credential_that_it_never_holds() {
    let yard = Yard::of(greeter());
    bring(&yard);
    let place = format!("origin.test:{}", yard.origin.address.port());
    let (out, err) = told(&yard, &call(&place, "Private"));
    assert!(out.contains("StatusCode.UNAUTHENTICATED"), "{out}{err}");
    let command = call(&place, "Private");
    let (out, err) = said(&laid_open(&yard, Way::Bearer, &command).output().expect("outgate starts"));
    assert!(out.starts_with("b'hello'\n"), "{out}{err}");
    assert_not_held(Way::Bearer, &format!("{out}{err}"));
}
