//! gRPC through the gateway: calls in all their parts, and refusals in the form that its clients understand.

use bytes::Bytes;
use http::{HeaderMap, Response};
use tests::{
    gateway::Gateway,
    http2::{Client, next, origin, run, whole},
    origin::{self, Origin},
};

#[test]
fn grpc_passes_in_all_its_parts_and_its_refusals_are_statuses() {
    let origin = origin(&["origin.test"], |request, mut answer| async move {
        let mut body = request.into_body();
        let mut head = Response::new(());
        head.headers_mut().insert("content-type", "application/grpc".parse().ok()?);
        let mut stream = answer.send_response(head, false).ok()?;
        // Each message is sent back as it comes.
        while let Some(data) = next(&mut body).await {
            stream.send_data(data.ok()?, false).ok()?;
        }
        let mut trailers = body.trailers().await.ok()?.unwrap_or_default();
        trailers.insert("grpc-status", "0".parse().ok()?);
        stream.send_trailers(trailers).ok()
    });
    let gateway = Gateway::start(1, &origin);
    let port = origin.address.port();
    let call = |client: &Client| {
        let mut call = client.request("POST", "/package.Service/Method");
        call.headers_mut().insert("content-type", "application/grpc+proto".parse().unwrap());
        call.headers_mut().insert("te", "trailers".parse().unwrap());
        call
    };
    run(async {
        let mut client = Client::connect(&gateway, "origin.test", port).await;
        let (answer, mut messages) = client.send(call(&client), false).await;
        messages.send_data(Bytes::from_static(b"one"), false).unwrap();
        let mut answers = answer.await.unwrap().into_body();
        assert_eq!(next(&mut answers).await.unwrap().unwrap(), "one");
        messages.send_data(Bytes::from_static(b"two"), false).unwrap();
        assert_eq!(next(&mut answers).await.unwrap().unwrap(), "two");
        let mut trailers = HeaderMap::new();
        trailers.insert("x-sum", "6".parse().unwrap());
        messages.send_trailers(trailers).unwrap();
        assert!(next(&mut answers).await.is_none());
        let trailers = answers.trailers().await.unwrap().unwrap();
        assert_eq!(
            (&trailers["grpc-status"], &trailers["x-sum"]),
            (&"0".parse().unwrap(), &"6".parse().unwrap())
        );

        let mut client = Client::connect(&gateway, "denied.test", port).await;
        let (answer, _) = client.send(call(&client), true).await;
        let refused = whole(answer).await.unwrap();
        assert_eq!(refused.head.status().as_u16(), 200);
        assert_eq!(refused.head.headers()["grpc-status"], "7");
        let message = refused.head.headers()["grpc-message"].to_str().unwrap();
        assert!(message.contains("host_not_allowed") && message.contains("allowedHosts"), "{message}");
        assert!(refused.body.is_empty());
    });
    gateway.records(2);
}

#[test]
fn grpc_to_an_upstream_without_http_2_is_a_refusal_of_its_own_name() {
    let origin = Origin::tls(&["origin.test"], |_, out| origin::respond(out, b"never"));
    let gateway = Gateway::start(1, &origin);
    run(async {
        let mut client = Client::connect(&gateway, "origin.test", origin.address.port()).await;
        let mut call = client.request("POST", "/package.Service/Method");
        call.headers_mut().insert("content-type", "application/grpc".parse().unwrap());
        let refused = whole(client.send(call, true).await.0).await.unwrap();
        let message = refused.head.headers()["grpc-message"].to_str().unwrap();
        assert!(message.contains("HTTP/2"), "{message}");
    });
    assert!(origin.seen().is_empty());
    gateway.records(1);
}
