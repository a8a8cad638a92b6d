//! Nothing is gathered: pieces pass one by one, a slow side holds back the other, and a change of policy cuts.

use std::{
    io::Write,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
    time::Duration,
};

use bytes::Bytes;
use tests::{
    gateway::{Gateway, Tls, ask, read_head},
    http2::{self, Client, next, run},
    origin::{Origin, respond},
};

use super::*;

/// An origin of HTTP/1.1 that sends `one`, and `two` when it is told that the first was seen.
fn two_steps() -> (Origin, mpsc::Sender<()>) {
    let (seen, waits) = mpsc::channel();
    let waits = Mutex::new(waits);
    let origin = Origin::wire(&["origin.test"], move |wire| {
        asked(wire);
        wire.write_all(CHUNKED.as_bytes())?;
        chunk(wire, "one")?;
        waits.lock().expect("no thread panicked").recv().map_err(io::Error::other)?;
        chunk(wire, "two")?;
        wire.write_all(b"0\r\n\r\n")?;
        wire.flush()
    });
    (origin, seen)
}

/// A request whose answer a handler changes, and has changed the first piece of.
fn begun(gateway: &Gateway, port: u16) -> Tls {
    let mut stream = gateway.tls("origin.test", port);
    stream.write_all(head("GET", "/shout-down", port, "").as_bytes()).unwrap();
    read_head(&mut stream);
    assert_eq!(read(&mut stream, 8), "3\r\nONE\r\n");
    stream
}

#[test]
fn a_changed_piece_reaches_the_client_before_the_next_is_sent() {
    let (origin, seen) = two_steps();
    let (gateway, port) = gateway(&origin, &bodies(), "");
    let mut stream = begun(&gateway, port);
    seen.send(()).unwrap();
    assert_eq!(read_chunks(&mut stream).0, b"TWO!");
    let (origin_two, seen) = two_steps();
    let (gateway_two, port) = super::gateway(&origin_two, &bodies(), "");
    run(async {
        let mut client = Client::connect(&gateway_two, "origin.test", port).await;
        let (answer, _) = client.send(client.request("GET", "/shout-down"), true).await;
        let mut body = answer.await.unwrap().into_body();
        assert_eq!(next(&mut body).await.unwrap().unwrap(), "ONE");
        seen.send(()).unwrap();
        assert_eq!(next(&mut body).await.unwrap().unwrap(), "TWO");
        assert_eq!(next(&mut body).await.unwrap().unwrap(), "!");
        assert!(next(&mut body).await.is_none());
    });
    gateway.records(1);
    gateway_two.records(1);
}

#[test]
fn a_changed_piece_of_a_request_reaches_the_upstream_before_the_next_is_sent() {
    let (came, pieces) = mpsc::channel();
    let origin = http2::origin(&["origin.test"], move |request, mut answer| {
        let came = came.clone();
        async move {
            let mut body = request.into_body();
            while let Some(data) = next(&mut body).await {
                came.send(data.ok()?).ok()?;
            }
            http2::respond(&mut answer, "done", None)
        }
    });
    let (gateway, port) = gateway(&origin, &bodies(), "");
    let mut stream = gateway.tls("origin.test", port);
    let request = head("POST", "/shout-up", port, "Transfer-Encoding: chunked\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    for (piece, given) in [("one", "ONE"), ("two", "TWO")] {
        stream.write_all(format!("3\r\n{piece}\r\n").as_bytes()).unwrap();
        stream.flush().unwrap();
        assert_eq!(pieces.recv().unwrap(), given);
    }
    let (head, body) = ask(&mut stream, "0\r\n\r\n", b"");
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    assert_eq!((&body[..], pieces.recv().unwrap()), (&b"done"[..], Bytes::from_static(b"!")));
    gateway.records(1);
}

/// What socket buffers, windows and the piece under way may hold.
const HELD_BYTES_MAX: u64 = 20 << 20;
const BULK: usize = 64 << 20;

#[test]
fn a_slow_reader_holds_back_the_upstream_through_a_handler() {
    let pushed = Arc::new(AtomicU64::new(0));
    let (counted, (stuck, waits)) = (Arc::clone(&pushed), mpsc::channel());
    let stuck = Mutex::new(stuck);
    let origin = Origin::wire(&["origin.test"], move |wire| {
        asked(wire);
        write!(wire, "HTTP/1.1 200 OK\r\nContent-Length: {BULK}\r\n\r\n")?;
        for _ in 0..BULK >> 16 {
            wire.write_all(&[b'x'; 64 << 10])?;
            counted.fetch_add(64 << 10, Ordering::SeqCst);
            let _progress = stuck.lock().expect("no thread panicked").send(());
        }
        wire.flush()
    });
    let (gateway, port) = gateway(&origin, &bodies(), "");
    let mut stream = gateway.tls("origin.test", port);
    stream.write_all(head("GET", "/shout-down", port, "").as_bytes()).unwrap();
    read_head(&mut stream);
    // The event is that the origin makes no progress any more.
    while waits.recv_timeout(Duration::from_secs(1)).is_ok() {}
    let held = pushed.load(Ordering::SeqCst);
    assert!(held < HELD_BYTES_MAX, "{held} bytes were taken although nobody reads");
    let (body, _) = read_chunks(&mut stream);
    assert!(body.len() == BULK + 1 && body[..BULK].iter().all(|byte| *byte == b'X'));
    gateway.records(1);
}

#[test]
fn an_exchange_keeps_its_version_and_the_next_has_the_new_one() {
    let (origin, seen) = two_steps();
    let (mut gateway, port) = gateway(&origin, &bodies(), "");
    let mut stream = begun(&gateway, port);
    let other = gateway.handler("h", 8, &tests::guests::example("no_http"));
    gateway.apply(vec![other]);
    let mut next = gateway.tls("origin.test", port);
    let (head, _) = ask(&mut next, &head("GET", "/", port, ""), b"");
    assert!(head.starts_with("HTTP/1.1 403 "), "{head}");
    seen.send(()).unwrap();
    assert_eq!(read_chunks(&mut stream).0, b"TWO!");
    let records = gateway.records(2);
    assert_eq!((&records[0]["handlerVersion"], &records[1]["handlerVersion"]), (&8.into(), &7.into()));
}

#[test]
fn a_lock_down_cuts_an_answer_that_a_handler_changes() {
    let (origin, seen) = two_steps();
    let (mut gateway, port) = gateway(&origin, &bodies(), "");
    let mut stream = begun(&gateway, port);
    gateway.apply(vec![policy("second.test", "")]);
    seen.send(()).unwrap();
    assert!(until_cut(&mut stream).is_empty(), "nothing is forwarded after it was applied");
    let record = gateway.records(1).remove(0);
    assert_eq!((&record["verdict"], &record["code"]), (&"cut".into(), &"revoked".into()));
}

#[test]
fn handlers_of_many_streams_do_not_see_each_other() {
    let origin = http2::origin(&["origin.test"], |request, mut answer| async move {
        let mut body = request.into_body();
        let mut stream = answer.send_response(http::Response::new(()), false).ok()?;
        while let Some(data) = next(&mut body).await {
            stream.send_data(data.ok()?, false).ok()?;
        }
        stream.send_data(Bytes::new(), true).ok()
    });
    let (gateway, port) =
        gateway(&origin, &tests::guests::example("mask_answers"), r#","params":{"words":["abcd"]}"#);
    run(async {
        let mut client = Client::connect(&gateway, "origin.test", port).await;
        let mut streams = Vec::new();
        for _ in 0..20 {
            let (answer, body) = client.send(client.request("POST", "/"), false).await;
            streams.push((answer, body));
        }
        // Each holds back another beginning of the word while the others go on.
        for (index, (_, body)) in streams.iter_mut().enumerate() {
            body.send_data(Bytes::from("x".to_owned() + &"abc"[..index % 4]), false).unwrap();
        }
        let mut reading = Vec::new();
        for (answer, body) in streams {
            let mut answer = answer.await.unwrap().into_body();
            assert_eq!(next(&mut answer).await.unwrap().unwrap(), "x");
            reading.push((answer, body));
        }
        for (index, (mut answer, mut body)) in reading.into_iter().enumerate() {
            body.send_data(Bytes::from_static(b"d"), true).unwrap();
            let mut rest = Vec::new();
            while let Some(data) = next(&mut answer).await {
                rest.extend_from_slice(&data.unwrap());
            }
            let expected =
                if index % 4 == 3 { "***".to_owned() } else { "abc"[..index % 4].to_owned() + "d" };
            assert_eq!(String::from_utf8_lossy(&rest), expected, "{index}");
        }
    });
    gateway.records(20);
}

#[test]
fn a_client_that_leaves_ends_what_the_upstream_sends() {
    let (left, leaves) = mpsc::channel();
    let left = Mutex::new(left);
    let origin = Origin::wire(&["origin.test"], move |wire| {
        asked(wire);
        wire.write_all(CHUNKED.as_bytes())?;
        chunk(wire, "one")?;
        let mut byte = [0];
        let ended = wire.read(&mut byte).map(|count| count == 0).unwrap_or(true);
        left.lock().expect("no thread panicked").send(ended).map_err(io::Error::other)
    });
    let (gateway, port) = gateway(&origin, &bodies(), "");
    drop(begun(&gateway, port));
    assert!(leaves.recv().unwrap(), "the upstream is told");
    assert_eq!(gateway.records(1)[0]["verdict"], "broken");
}

#[test]
fn server_sent_events_of_a_second_request_follow_on_the_same_connection() {
    let origin = Origin::tls(&["origin.test"], |seen, out| respond(out, seen.line().as_bytes()));
    let (gateway, port) = gateway(&origin, &bodies(), "");
    let mut stream = gateway.tls("origin.test", port);
    for path in ["/early", "/judge-down", "/shout-down"] {
        stream.write_all(head("GET", path, port, "").as_bytes()).unwrap();
        let told = read_head(&mut stream);
        match told.contains("chunked") {
            true => assert_eq!(read_chunks(&mut stream).0, b"GET /SHOUT-DOWN HTTP/1.1!"),
            false => assert_eq!(read(&mut stream, 13 + path.len()), format!("GET {path} HTTP/1.1")),
        }
    }
    assert_eq!(origin.connections(), 1);
    gateway.records(3);
}
