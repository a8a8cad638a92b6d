//! HTTP/2 from the sandbox: many requests on one connection, each on the path of every other request.

use std::sync::mpsc;

use bytes::Bytes;
use h2::Reason;
use tests::{
    gateway::{Gateway, PATIENCE, SECRET, policy, read_head, template},
    http2::{Client, next, run, whole},
    origin::{Duplex, Origin, respond},
};

/// An origin over TLS that says hello.
fn hello() -> (Origin, Gateway, u16) {
    let origin = Origin::tls(&["origin.test"], |_, out| respond(out, b"hello"));
    let gateway = Gateway::start(1, &origin);
    let port = origin.address.port();
    (origin, gateway, port)
}

#[test]
fn a_request_reaches_its_origin_in_http_1_and_its_answer_comes_back() {
    let (origin, gateway, port) = hello();
    run(async {
        let mut client = Client::connect(&gateway, "origin.test", port).await;
        let mut request = client.request("POST", "/path?query=1");
        request.headers_mut().append("cookie", "a=1".parse().unwrap());
        request.headers_mut().append("cookie", "b=2".parse().unwrap());
        request.headers_mut().insert("x-own", "kept".parse().unwrap());
        let (answer, mut body) = client.send(request, false).await;
        body.send_data(Bytes::from_static(b"sent "), false).unwrap();
        body.send_data(Bytes::from_static(b"on"), true).unwrap();
        let answer = whole(answer).await.unwrap();
        assert_eq!((answer.head.status().as_u16(), answer.text()), (200, "hello".into()));
    });
    let seen = origin.seen();
    assert_eq!(seen[0].line(), "POST /path?query=1 HTTP/1.1");
    assert_eq!(seen[0].body, b"sent on");
    for (name, value) in [
        ("cookie", "a=1; b=2"),
        ("x-own", "kept"),
        ("host", &format!("origin.test:{port}")),
        ("authorization", &format!("Bearer {SECRET}")),
    ] {
        assert_eq!(seen[0].fields(name).collect::<Vec<_>>(), [value]);
    }
    assert_eq!(gateway.records(1)[0]["verdict"], "allowed");
}

#[test]
fn a_refusal_is_told_on_its_stream_and_the_others_go_on() {
    let (origin, gateway, port) = hello();
    run(async {
        let mut client = Client::connect(&gateway, "denied.test", port).await;
        let refused = client.get("/").await;
        assert_eq!(refused.head.status().as_u16(), 403);
        assert!(refused.text().contains("\"code\":\"host_not_allowed\""), "{}", refused.text());
        assert_eq!(client.get("/again").await.head.status().as_u16(), 403);
        // Another authority than the connection's, and another scheme.
        client.origin = format!("https://origin.test:{port}");
        assert_eq!(client.get("/").await.head.status().as_u16(), 421);
        client.origin = format!("http://denied.test:{port}");
        assert_eq!(client.get("/").await.head.status().as_u16(), 400);
    });
    assert!(origin.seen().is_empty());
    let codes: Vec<_> = gateway.records(4).iter().map(|record| record["code"].clone()).collect();
    assert_eq!(codes[..2], ["host_not_allowed", "host_not_allowed"]);
}

#[test]
fn who_knows_already_that_http_2_is_spoken_needs_no_tls() {
    let origin = Origin::plain(|seen, out| respond(out, seen.line().as_bytes()));
    let mut gateway = Gateway::start(1, &origin);
    let rules =
        r#"{"allowedHosts":["second.test"],"allowedAddresses":[{"host":"*","cidrs":["127.0.0.0/8"]}]}"#;
    gateway.apply(vec![template("t", rules)]);
    run(async {
        let mut client = Client::plain(&gateway, "second.test", origin.address.port()).await;
        assert_eq!(client.get("/known").await.text(), "GET /known HTTP/1.1");
    });
}

/// An origin over TLS whose connections are played byte by byte.
fn wire(
    script: impl Fn(&mut dyn Duplex) -> std::io::Result<()> + Send + Sync + 'static,
) -> (Origin, Gateway, u16) {
    let origin = Origin::wire(&["origin.test"], script);
    let gateway = Gateway::start(1, &origin);
    let port = origin.address.port();
    (origin, gateway, port)
}

#[test]
fn interim_answers_trailers_and_empty_bodies_are_told_in_frames() {
    let (_origin, gateway, port) = wire(|wire| {
        read_head(&mut &mut *wire);
        wire.write_all(
            b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\
              Connection: X-Hop\r\nX-Hop: 1\r\nAlt-Svc: h3\r\n\r\n3\r\nabc\r\n0\r\nX-Sum: 6\r\n\r\n",
        )?;
        read_head(&mut &mut *wire);
        wire.write_all(b"HTTP/1.1 204 No Content\r\n\r\n")?;
        read_head(&mut &mut *wire);
        wire.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n")
    });
    run(async {
        let mut client = Client::connect(&gateway, "origin.test", port).await;
        let (mut answer, _) = client.send(client.request("GET", "/"), true).await;
        let hints = std::future::poll_fn(|cx| answer.poll_informational(cx)).await.unwrap().unwrap();
        assert_eq!((hints.status().as_u16(), &hints.headers()["link"]), (103, &"</a>".parse().unwrap()));
        let answer = whole(answer).await.unwrap();
        assert_eq!(answer.text(), "abc");
        assert_eq!(answer.trailers.unwrap()["x-sum"], "6");
        assert_eq!(answer.head.headers().len(), 0, "{:?}", answer.head);
        let empty = client.get("/").await;
        assert_eq!((empty.head.status().as_u16(), empty.body.len(), empty.trailers), (204, 0, None));
        let (answer, _) = client.send(client.request("HEAD", "/"), true).await;
        let answer = whole(answer).await.unwrap();
        assert_eq!((&answer.head.headers()["content-length"], answer.body.len()), (&"7".parse().unwrap(), 0));
    });
    gateway.records(3);
}

#[test]
fn an_answer_that_breaks_off_breaks_its_stream_alone() {
    let (_origin, gateway, port) = wire(|wire| {
        let head = read_head(&mut &mut *wire);
        let whole = if head.starts_with("GET /whole") { "abc" } else { "ab" };
        wire.write_all(format!("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n{whole}").as_bytes())
    });
    run(async {
        let mut client = Client::connect(&gateway, "origin.test", port).await;
        let (answer, _) = client.send(client.request("GET", "/part"), true).await;
        let error = whole(answer).await.unwrap_err();
        assert!(error.is_reset() && error.reason() == Some(Reason::INTERNAL_ERROR), "{error}");
        assert_eq!(client.get("/whole").await.text(), "abc");
    });
    let verdicts: Vec<_> = gateway.records(2).iter().map(|record| record["verdict"].clone()).collect();
    assert_eq!(verdicts, ["broken", "allowed"]);
}

#[test]
fn many_requests_run_at_once_and_a_slow_reader_holds_back_its_own_sender_alone() {
    const LARGE: usize = 32 << 20;
    let (sent, counted) = mpsc::channel();
    let (origin, gateway, port) = wire(move |wire| {
        let head = read_head(&mut &mut *wire);
        if !head.starts_with("GET /large") {
            return respond(wire, head.split(' ').nth(1).unwrap_or_default().as_bytes());
        }
        wire.write_all(format!("HTTP/1.1 200 OK\r\nContent-Length: {LARGE}\r\n\r\n").as_bytes())?;
        for _ in 0..LARGE / 65_536 {
            wire.write_all(&[b'x'; 65_536])?;
            let _counted = sent.send(65_536);
        }
        Ok(())
    });
    run(async {
        let mut settings = h2::client::Builder::new();
        // Room for the others beside what one stream leaves lying.
        settings.initial_connection_window_size(1 << 20);
        let mut client = Client::with(settings, &gateway, "origin.test", port).await;
        let (large, _) = client.send(client.request("GET", "/large"), true).await;
        let mut large = large.await.unwrap().into_body();
        let mut answers = Vec::new();
        for index in 0..100 {
            answers.push(client.send(client.request("GET", &format!("/{index}")), true).await.0);
        }
        for (index, answer) in answers.into_iter().enumerate() {
            assert_eq!(whole(answer).await.unwrap().text(), format!("/{index}"));
        }
        let before: usize = counted.try_iter().sum();
        assert!(before < LARGE / 2, "{before} bytes left the origin for a client that reads none");
        let mut received = 0;
        while let Some(data) = next(&mut large).await {
            received += data.unwrap().len();
        }
        assert_eq!(received, LARGE);
    });
    assert!(origin.connections() > 1);
    gateway.records(101);
}

#[test]
fn a_client_that_breaks_its_stream_ends_the_upstreams_work() {
    let (told, heard) = mpsc::channel();
    let (_origin, gateway, port) = wire(move |wire| {
        read_head(&mut &mut *wire);
        wire.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n")?;
        let ended = wire.read(&mut [0]).map_or(true, |count| count == 0);
        told.send(ended).map_err(std::io::Error::other)
    });
    run(async {
        let mut client = Client::connect(&gateway, "origin.test", port).await;
        let (answer, mut stream) = client.send(client.request("GET", "/"), true).await;
        let mut body = answer.await.unwrap().into_body();
        assert_eq!(next(&mut body).await.unwrap().unwrap(), "a");
        stream.send_reset(Reason::CANCEL);
        tokio::task::yield_now().await;
        let heard = tokio::task::spawn_blocking(move || heard.recv_timeout(PATIENCE));
        assert_eq!(heard.await.unwrap(), Ok(true));
    });
    let record = &gateway.records(1)[0];
    assert_eq!((&record["verdict"], &record["code"]), (&"broken".into(), &"client_gone".into()));
}

#[test]
fn a_change_of_policy_cuts_streams_that_it_forbids_and_they_never_look_whole() {
    let (go, wait) = mpsc::channel::<()>();
    let wait = std::sync::Mutex::new(wait);
    let (_origin, mut gateway, port) = wire(move |wire| {
        read_head(&mut &mut *wire);
        wire.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n")?;
        let waited = wait.lock().expect("one at a time").recv_timeout(PATIENCE);
        waited.map_err(std::io::Error::other)?;
        wire.write_all(b"1\r\nb\r\n0\r\n\r\n")
    });
    run(async {
        let mut client = Client::connect(&gateway, "origin.test", port).await;
        let (answer, _) = client.send(client.request("GET", "/"), true).await;
        let mut body = answer.await.unwrap().into_body();
        assert_eq!(next(&mut body).await.unwrap().unwrap(), "a");
        gateway.apply(vec![policy("[]")]);
        // Where the other end has gone already, the cut came through.
        let _gone = go.send(());
        let after = next(&mut body).await.expect("not the end");
        assert_eq!(after.unwrap_err().reason(), Some(Reason::CANCEL));
        // The connection lives, and says what is refused now.
        assert_eq!(client.get("/").await.head.status().as_u16(), 403);
    });
    let verdicts: Vec<_> = gateway.records(2).iter().map(|record| record["verdict"].clone()).collect();
    assert_eq!(verdicts, ["cut", "refused"]);
}

#[test]
fn many_streams_at_once_find_the_upstream_connections_of_those_before_them() {
    let (origin, gateway, port) = hello();
    run(async {
        let mut client = Client::connect(&gateway, "origin.test", port).await;
        for _ in 0..5 {
            let mut answers = Vec::new();
            for _ in 0..64 {
                let request = client.request("GET", "/");
                answers.push(client.send(request, true).await.0);
            }
            for answer in answers {
                assert_eq!(whole(answer).await.unwrap().head.status().as_u16(), 200);
            }
        }
    });
    // The origin speaks HTTP/1.1, so each of those under way has one of its own.
    assert!(origin.connections() <= 64, "{} connections", origin.connections());
    gateway.records(320);
}
