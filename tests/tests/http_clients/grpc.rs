//! gRPC by its own library for Python, which speaks HTTP/2 alone.

use tests::yard::Yard;

use crate::{
    python::bring,
    trial::{assert_summary_tells, told},
};

/// Calls a method whose messages are plain bytes; prints the answer or the status.
const SCRIPT: &str = "
import grpc, sys
channel = grpc.secure_channel(sys.argv[1], grpc.ssl_channel_credentials())
try: print(channel.unary_unary('/greeter.Greeter/Hello')(b'hello', timeout=60))
except grpc.RpcError as error: print(error.code(), error.details())
";

#[test]
fn grpcio_is_refused_at_once() {
    let yard = Yard::new();
    bring(&yard);
    let place = format!("denied.test:{}", yard.origin.address.port());
    let (out, err) = told(&yard, &["python-clients/bin/python3", "-c", SCRIPT, &place]);
    // Not DEADLINE_EXCEEDED: it did not wait.
    assert!(out.contains("StatusCode.PERMISSION_DENIED"), "{out}{err}");
    assert_summary_tells(&yard, &err);
    assert_eq!(yard.origin.connections(), 0);
}
