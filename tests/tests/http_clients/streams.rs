//! Libraries that keep many streams on a connection: bodies in pieces both ways, and answers that are given up.

use std::sync::{Mutex, mpsc};

use ::http::Response;
use h2::Reason;
use tests::{
    gateway::PATIENCE,
    http2::{next, origin},
    origin::Origin,
    yard::Yard,
};

use crate::{node, python, trial::told};

/// Sends bodies back as they come, with what follows them; `/wait` says one word and tells how its stream ended.
fn echo() -> (Origin, mpsc::Receiver<Option<Reason>>) {
    let (tell, ended) = mpsc::channel();
    let tell = Mutex::new(tell);
    let origin = origin(&["origin.test"], move |request, mut answer| {
        let tell = tell.lock().expect("no task panicked holding it").clone();
        async move {
            let waits = request.uri().path() == "/wait";
            let mut up = request.into_body();
            let mut down = answer.send_response(Response::new(()), false).ok()?;
            if waits {
                down.send_data("first".into(), false).ok()?;
                let reset = std::future::poll_fn(|cx| down.poll_reset(cx)).await;
                return tell.send(reset.ok()).ok();
            }
            while let Some(data) = next(&mut up).await {
                down.send_data(data.ok()?, false).ok()?;
            }
            match up.trailers().await.ok()? {
                Some(trailers) => down.send_trailers(trailers).ok(),
                None => down.send_data(bytes::Bytes::new(), true).ok(),
            }
        }
    });
    (origin, ended)
}

fn yard() -> (Yard, mpsc::Receiver<Option<Reason>>) {
    let (origin, ended) = echo();
    (Yard::of(origin), ended)
}

fn base(yard: &Yard) -> String {
    format!("https://origin.test:{}", yard.origin.address.port())
}

/// What was given up is given up at its origin, on the one connection that carried everything.
fn assert_given_up(yard: &Yard, ended: &mpsc::Receiver<Option<Reason>>) {
    assert_eq!(ended.recv_timeout(PATIENCE), Ok(Some(Reason::CANCEL)));
    assert_eq!(yard.origin.connections(), 1);
}

#[test]
fn httpx_keeps_many_streams_on_one_connection() {
    let (yard, ended) = yard();
    python::bring(&yard);
    yard.ground.write("streams.py", include_str!("scripts/httpx.py"));
    let (out, err) = told(&yard, &["python-clients/bin/python3", "streams.py", &base(&yard)]);
    assert_eq!(out, "HTTP/2\nTrue\nTrue\nb'first'\nthe same connection\n", "{err}");
    assert_given_up(&yard, &ended);
}

#[test]
fn undici_passes_in_both_versions() {
    for (version, spoken) in [("h1", "http/1.1"), ("h2", "h2")] {
        let (yard, ended) = yard();
        node::bring(&yard);
        yard.ground.write("streams.cjs", include_str!("scripts/undici.cjs"));
        let (out, err) = told(&yard, &["node", "streams.cjs", &base(&yard), version]);
        assert_eq!(out, format!("true\ntrue\nfirst\nAbortError\nanother\n{spoken}\n"), "{version}: {err}");
        assert_given_up(&yard, &ended);
    }
}

#[test]
fn node_s_own_http_2_passes_and_another_authority_is_told_so_on_its_stream() {
    let (yard, ended) = yard();
    yard.ground.write("streams.cjs", include_str!("scripts/http2.cjs"));
    let other = format!("denied.test:{}", yard.origin.address.port());
    let (out, err) = told(&yard, &["node", "streams.cjs", &base(&yard), &other]);
    let expected = "true\ntrue 5\nfirst\n421\nthe same connection\n403 host_not_allowed\n";
    assert_eq!(out, expected, "{err}");
    assert_given_up(&yard, &ended);
}
