//! nghttp2's clients: many streams at once, and the frames that few others send.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use tests::{
    http2::{origin, read, respond},
    origin::{self, Origin},
    yard::Yard,
};

use crate::trial::{assert_installed, told};

/// Requests of one run.
const REQUESTS: usize = 10_000;
/// Bytes of each body that is sent.
const BODY_BYTES: usize = 1_000;

/// Answers with the length of what came and how often it was asked, over HTTP/2 alone.
fn counting() -> (Origin, Arc<AtomicUsize>) {
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    let origin = origin(&["origin.test"], move |request, mut answer| {
        let count = Arc::clone(&count);
        async move {
            let (body, trailers) = read(&mut request.into_body()).await?;
            count.fetch_add(1, Ordering::SeqCst);
            respond(&mut answer, format!("{} bytes", body.len()), trailers)
        }
    });
    (origin, asked)
}

/// Every request was answered with success, and the other side counts the same.
fn assert_all_succeed(yard: &Yard, options: &[&str], requests: usize) {
    assert_all_succeed_over("https", yard, options, requests);
}

fn assert_all_succeed_over(scheme: &str, yard: &Yard, options: &[&str], requests: usize) {
    let url = format!("{scheme}://origin.test:{}/", yard.origin.address.port());
    let count = requests.to_string();
    let (out, err) = told(yard, &[&["h2load", "-n", &count, "-t", "1"], options, &[&url]].concat());
    println!("{out}{err}");
    let done = format!(
        "{count} total, {count} started, {count} done, {count} succeeded, 0 failed, 0 errored, 0 timeout"
    );
    assert!(out.contains(&done), "{out}{err}");
    assert!(out.contains(&format!("status codes: {count} 2xx, 0 3xx, 0 4xx, 0 5xx")), "{out}{err}");
}

#[test]
fn h2load_gets_ten_thousand_answers_on_a_thousand_streams() {
    assert_installed("h2load");
    let (origin, asked) = counting();
    let yard = Yard::of(origin);
    assert_all_succeed(&yard, &["-c", "10", "-m", "100"], REQUESTS);
    assert_eq!(asked.load(Ordering::SeqCst), REQUESTS);
}

#[test]
fn h2load_has_ten_thousand_bodies_taken() {
    assert_installed("h2load");
    let (origin, asked) = counting();
    let yard = Yard::of(origin);
    yard.ground.write("body", [b'x'; BODY_BYTES]);
    assert_all_succeed(&yard, &["-c", "10", "-m", "100", "-d", "body"], REQUESTS);
    // A POST that is sent again would be counted.
    assert_eq!(asked.load(Ordering::SeqCst), REQUESTS);
}

#[test]
fn h2load_reaches_an_origin_of_http_1_from_both_versions() {
    assert_installed("h2load");
    let yard = Yard::of(Origin::tls(&["origin.test"], |seen, out| origin::respond(out, &seen.body)));
    yard.ground.write("body", [b'x'; BODY_BYTES]);
    let requests = REQUESTS / 10;
    assert_all_succeed(&yard, &["-c", "4", "-m", "16", "-d", "body"], requests);
    assert_all_succeed(&yard, &["--h1", "-c", "16", "-d", "body"], requests);
    let seen = yard.origin.seen();
    assert!(seen.len() == 2 * requests && seen.iter().all(|seen| seen.body == [b'x'; BODY_BYTES]));
}

#[test]
fn h2load_knows_without_tls_that_http_2_is_spoken() {
    assert_installed("h2load");
    let yard = Yard::of(Origin::plain(|seen, out| origin::respond(out, &seen.body)));
    assert_all_succeed_over("http", &yard, &["-c", "4", "-m", "16"], REQUESTS / 10);
    assert_eq!(yard.origin.seen().len(), REQUESTS / 10);
}

#[test]
fn nghttp_sends_trailers_padding_and_heads_of_many_frames() {
    assert_installed("nghttp");
    let (origin, _) = counting();
    let yard = Yard::of(origin);
    yard.ground.write("body", [b'x'; BODY_BYTES]);
    let url = format!("https://origin.test:{}/", yard.origin.address.port());
    for options in [
        &[][..],
        &["--padding=200"],
        &["--continuation"],
        &["--header-table-size=0"],
        &["--no-content-length"],
        &["--window-bits=10", "--connection-window-bits=10"],
    ] {
        let command = [&["nghttp", "-v", "--data=body", "--trailer=x-sum: 5"], options, &[&url]].concat();
        let (out, err) = told(&yard, &command);
        assert!(out.contains(":status: 200") && out.contains("1000 bytes"), "{options:?}\n{out}{err}");
        assert!(out.contains(") x-sum: 5"), "{options:?}\n{out}{err}");
    }
}
