//! WebSockets over both versions: the handshake is a request like every other, what follows are bytes both ways.

use std::{
    io::{self, Read, Write},
    time::Duration,
};

use bytes::Bytes;
use h2::{Reason, ext::Protocol};
use http::Method;
use tests::{
    gateway::{Gateway, SECRET, Tls, policy, read_head, template},
    http2::{Client, next, run},
    origin::{Duplex, Origin},
    websocket::{agree, field},
};

/// Agrees to a handshake that carries its credential, then says everything back, and at the client's end `last`.
fn echo(wire: &mut dyn Duplex) -> io::Result<()> {
    let head = read_head(&mut &mut *wire);
    let asked = (field(&head, "connection"), field(&head, "upgrade"), field(&head, "authorization"));
    if asked != ("Upgrade", "websocket", &format!("Bearer {SECRET}")) {
        return wire.write_all(format!("HTTP/1.1 400 {head:?}\r\nContent-Length: 0\r\n\r\n").as_bytes());
    }
    agree(wire, &head)?;
    wire.write_all(b"hello")?;
    let mut bytes = [0; 4096];
    loop {
        match wire.read(&mut bytes)? {
            0 => {
                wire.write_all(b"last")?;
                return wire.end();
            }
            count => wire.write_all(&bytes[..count])?,
        }
    }
}

fn setup(script: fn(&mut dyn Duplex) -> io::Result<()>) -> (Origin, Gateway, u16) {
    let origin = Origin::wire(&["origin.test"], script);
    let gateway = Gateway::start(1, &origin);
    let port = origin.address.port();
    (origin, gateway, port)
}

/// Asks for a WebSocket in HTTP/1.1; gives the head of the answer.
fn shake(stream: &mut Tls, port: u16, path: &str, upgrade: &str) -> String {
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: origin.test:{port}\r\nConnection: keep-alive, Upgrade\r\nUpgrade: {upgrade}\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).expect("the gateway reads");
    read_head(stream)
}

fn read(stream: &mut Tls, count: usize) -> String {
    let mut bytes = vec![0; count];
    stream.read_exact(&mut bytes).expect("as many bytes");
    String::from_utf8(bytes).expect("text")
}

#[test]
fn bytes_pass_both_ways_and_each_half_ends_on_its_own() {
    let (_origin, gateway, port) = setup(echo);
    let mut stream = gateway.tls("origin.test", port);
    let head = shake(&mut stream, port, "/socket", "websocket");
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    assert_eq!(field(&head, "sec-websocket-accept"), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    assert_eq!((field(&head, "connection"), field(&head, "upgrade")), ("Upgrade", "websocket"));
    assert_eq!(read(&mut stream, 5), "hello");
    for text in ["one", "two"] {
        stream.write_all(text.as_bytes()).unwrap();
        assert_eq!(read(&mut stream, 3), text);
    }
    stream.conn.send_close_notify();
    stream.flush().unwrap();
    let mut rest = String::new();
    stream.read_to_string(&mut rest).expect("an end, not a cut");
    assert_eq!(rest, "last");
    drop(stream);
    let record = &gateway.records(1)[0];
    assert_eq!((&record["verdict"], &record["status"]), (&"allowed".into(), &101.into()));
    assert_eq!((&record["bytesUp"], &record["bytesDown"]), (&6.into(), &15.into()));
}

#[test]
fn over_http_2_the_same_is_a_stream() {
    let (_origin, gateway, port) = setup(echo);
    run(async {
        let mut client = Client::connect(&gateway, "origin.test", port).await;
        // What the gateway offers is known when its first answer is here.
        assert_eq!(client.get("/nothing").await.head.status().as_u16(), 400);
        assert!(client.requests.is_extended_connect_protocol_enabled());
        let mut request = client.request("CONNECT", "/socket");
        request.extensions_mut().insert(Protocol::from_static("websocket"));
        request.headers_mut().insert("sec-websocket-version", "13".parse().unwrap());
        let (answer, mut up) = client.send(request, false).await;
        let answer = answer.await.unwrap();
        assert_eq!(answer.status().as_u16(), 200);
        assert!(answer.headers().get("sec-websocket-accept").is_none());
        let mut down = answer.into_body();
        assert_eq!(next(&mut down).await.unwrap().unwrap(), "hello");
        up.send_data(Bytes::from_static(b"one"), false).unwrap();
        assert_eq!(next(&mut down).await.unwrap().unwrap(), "one");
        up.send_data(Bytes::new(), true).unwrap();
        assert_eq!(next(&mut down).await.unwrap().unwrap(), "last");
        assert!(next(&mut down).await.is_none());
    });
    gateway.records(2);
}

/// Agrees, says its part, and below `/ends` that this was all; then takes what comes.
fn says(wire: &mut dyn Duplex) -> io::Result<()> {
    let head = read_head(&mut &mut *wire);
    if field(&head, "upgrade").is_empty() {
        return tests::origin::respond(wire, b"none");
    }
    agree(wire, &head)?;
    wire.write_all(b"part")?;
    if head.contains("/ends") {
        wire.end()?;
    }
    while wire.read(&mut [0; 64])? > 0 {}
    Ok(())
}

/// Clients closed their sockets behind the last frames of both sides, and their records said that they had broken the
/// exchange off, with no status. Who was told the upstream's end may leave as it likes; who was not has a record that
/// says how far it came.
#[test]
fn a_client_that_leaves_after_the_upstream_s_end_broke_nothing_off_and_one_that_leaves_before_did() {
    for (path, whole) in [("/ends", true), ("/socket", false)] {
        for reset in [true, false] {
            let (_origin, gateway, port) = setup(says);
            let mut stream = gateway.tls("origin.test", port);
            assert!(shake(&mut stream, port, path, "websocket").starts_with("HTTP/1.1 101 "));
            assert_eq!(read(&mut stream, 4), "part");
            if whole {
                assert_eq!(stream.read(&mut [0]).expect("an end, not a cut"), 0);
            }
            if reset {
                socket2::SockRef::from(&stream.sock).set_linger(Some(Duration::ZERO)).expect("an option");
            }
            // Without a word of TLS that this is its end.
            drop(stream);
            check(&gateway.records(1)[0], whole);
        }
        let (_origin, gateway, port) = setup(says);
        run(async {
            let mut client = Client::connect(&gateway, "origin.test", port).await;
            assert_eq!(client.get("/nothing").await.text(), "none");
            let mut request = client.request("CONNECT", path);
            request.extensions_mut().insert(Protocol::from_static("websocket"));
            let (answer, mut up) = client.send(request, false).await;
            let mut down = answer.await.unwrap().into_body();
            assert_eq!(next(&mut down).await.unwrap().unwrap(), "part");
            if whole {
                assert!(next(&mut down).await.is_none());
            }
            up.send_reset(Reason::CANCEL);
            client.get("/nothing").await;
        });
        let records = gateway.records(3);
        let found = records.iter().find(|record| record["path"] == path);
        check(found.expect("a record of the WebSocket"), whole);
    }
}

fn check(record: &serde_json::Value, whole: bool) {
    let ended = match whole {
        true => ("allowed".into(), serde_json::Value::Null),
        false => ("broken".into(), "client_gone".into()),
    };
    assert_eq!((&record["verdict"], &record["code"]), (&ended.0, &ended.1), "{record}");
    assert_eq!((&record["status"], &record["bytesDown"]), (&101.into(), &4.into()), "{record}");
}

#[test]
fn a_change_of_policy_cuts_a_websocket() {
    let (_origin, mut gateway, port) = setup(echo);
    let mut stream = gateway.tls("origin.test", port);
    assert!(shake(&mut stream, port, "/socket", "websocket").starts_with("HTTP/1.1 101 "));
    assert_eq!(read(&mut stream, 5), "hello");
    run(async {
        let mut client = Client::connect(&gateway, "origin.test", port).await;
        client.get("/nothing").await;
        let mut request = client.request("CONNECT", "/socket");
        request.extensions_mut().insert(Protocol::from_static("websocket"));
        let (answer, _up) = client.send(request, false).await;
        let mut down = answer.await.unwrap().into_body();
        assert_eq!(next(&mut down).await.unwrap().unwrap(), "hello");
        gateway.apply(vec![policy("[]")]);
        assert_eq!(next(&mut down).await.unwrap().unwrap_err().reason(), Some(Reason::CANCEL));
    });
    assert!(stream.read(&mut [0]).is_err(), "cut, not ended");
    drop(stream);
    let records = gateway.records(3);
    let cut = records.iter().filter(|record| record["verdict"] == "cut" && record["status"] == 101);
    assert_eq!(cut.count(), 2, "{records:?}");
}

/// Chromium closed with 1006 where the origin had closed with a code: what it sent behind its own last frame met an
/// origin that had gone, which broke the exchange before the origin's last frame was handed over. Now only the
/// upstream's half says how it ended.
#[test]
fn what_an_upstream_says_last_is_handed_over_although_it_reads_no_more() {
    const LAST: usize = 16 << 10;
    let (_origin, gateway, port) = setup(|wire| {
        let head = read_head(&mut &mut *wire);
        if field(&head, "upgrade").is_empty() {
            return tests::origin::respond(wire, b"none");
        }
        agree(wire, &head)?;
        wire.write_all(&[b'x'; LAST])?;
        wire.end()
    });
    run(async {
        let mut settings = h2::client::Builder::new();
        // The answer waits for the client, whose half goes on meanwhile.
        settings.initial_window_size(1 << 10);
        let mut client = Client::with(settings, &gateway, "origin.test", port).await;
        client.get("/").await;
        let mut request = client.request("CONNECT", "/socket");
        request.extensions_mut().insert(Protocol::from_static("websocket"));
        let (answer, mut up) = client.send(request, false).await;
        let mut down = answer.await.unwrap().into_body();
        // More than the gateway takes ahead: each piece was tried, the first made the origin's system say that nobody
        // reads.
        for _ in 0..1_000 {
            up.reserve_capacity(1 << 10);
            let room = std::future::poll_fn(|cx| up.poll_capacity(cx)).await.unwrap().unwrap();
            up.send_data(vec![b'y'; room.min(1 << 10)].into(), false).unwrap();
        }
        let mut came = 0;
        while came < LAST {
            came += next(&mut down).await.expect("the whole").expect("no reset").len();
        }
        assert!(next(&mut down).await.is_none());
        up.send_data(Bytes::new(), true).unwrap();
        // It has heard that.
        client.get("/").await;
    });
    let records = gateway.records(3);
    let record = records.iter().find(|record| record["path"] == "/socket").expect("a record");
    assert_eq!((&record["verdict"], &record["bytesDown"]), (&"allowed".into(), &LAST.into()), "{record}");
}

#[test]
fn an_upstream_that_agrees_to_something_else_is_refused() {
    let answers: [fn(&mut dyn Duplex) -> io::Result<()>; 3] = [
        |wire| {
            read_head(&mut &mut *wire);
            let head = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n";
            wire.write_all(format!("{head}Sec-WebSocket-Accept: AAAA\r\n\r\nhello").as_bytes())
        },
        |wire| {
            read_head(&mut &mut *wire);
            wire.write_all(
                b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: other\r\n\r\n",
            )
        },
        |wire| {
            read_head(&mut &mut *wire);
            wire.write_all(b"HTTP/1.1 101 Switching Protocols\r\n\r\n")
        },
    ];
    for answer in answers {
        let (_origin, gateway, port) = setup(answer);
        let mut stream = gateway.tls("origin.test", port);
        let head = shake(&mut stream, port, "/socket", "websocket");
        assert!(head.starts_with("HTTP/1.1 502 ") && head.contains("upstream_malformed"), "{head}");
        drop(stream);
        gateway.records(1);
    }
}

#[test]
fn an_upstream_that_does_not_agree_answers_as_to_any_request() {
    let (_origin, gateway, port) = setup(|wire| {
        read_head(&mut &mut *wire);
        wire.write_all(b"HTTP/1.1 426 Upgrade Required\r\nContent-Length: 2\r\n\r\nno")
    });
    let mut stream = gateway.tls("origin.test", port);
    let head = shake(&mut stream, port, "/socket", "websocket");
    assert!(head.starts_with("HTTP/1.1 426 ") && field(&head, "connection") == "close", "{head}");
    assert_eq!(read(&mut stream, 2), "no");
    drop(stream);
    gateway.records(1);
}

#[test]
fn other_protocols_and_tunnels_in_streams_are_refused() {
    let (origin, gateway, port) = setup(|_| Ok(()));
    for (upgrade, status, code) in [("tcp", 403, "upgrade_denied"), ("tcp, x", 501, "upgrade_not_served")] {
        let mut stream = gateway.tls("origin.test", port);
        let head = shake(&mut stream, port, "/socket", upgrade);
        assert!(head.starts_with(&format!("HTTP/1.1 {status} ")) && head.contains(code), "{head}");
    }
    run(async {
        let mut client = Client::connect(&gateway, "denied.test", port).await;
        client.get("/").await;
        let mut request = client.request("CONNECT", "/");
        request.extensions_mut().insert(Protocol::from_static("connect-udp"));
        let (answer, _up) = client.send(request, false).await;
        assert_eq!(answer.await.unwrap().status().as_u16(), 501);
        let mut plain = http::Request::new(());
        *plain.method_mut() = Method::CONNECT;
        *plain.uri_mut() = "elsewhere.test:443".parse().unwrap();
        let (answer, _up) = client.send(plain, false).await;
        assert_eq!(answer.await.unwrap().status().as_u16(), 501);
    });
    assert_eq!(origin.connections(), 0);
    gateway.records(5);
}

#[test]
fn a_rule_lets_requests_change_to_its_protocols_and_taking_it_back_cuts_them() {
    let (origin, mut gateway, port) = setup(|wire| {
        let head = read_head(&mut &mut *wire);
        let asked = (field(&head, "connection"), field(&head, "upgrade"), field(&head, "authorization"));
        assert_eq!(asked, ("Upgrade", "TCP", &*format!("Bearer {SECRET}")), "{head}");
        wire.write_all(b"HTTP/1.1 101 UPGRADED\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\nhello")?;
        let mut bytes = [0; 3];
        wire.read_exact(&mut bytes)?;
        wire.write_all(&bytes)?;
        // Until it is cut.
        wire.read(&mut bytes).map(drop)
    });
    let rules = |upgrade: &str| {
        let document = format!(
            r#"{{"allowedHosts":["origin.test"],
                "allowedAddresses":[{{"host":"origin.test","cidrs":["127.0.0.0/8"]}}],
                "rules":[{{"host":"origin.test","match":{{"path":"/exec/*"}},
                    "actions":[{upgrade}{{"bearer":{{"secret":"token"}}}}]}}]}}"#
        );
        template("t", &document)
    };
    gateway.apply(vec![rules(r#"{"upgrade":["tcp"]},"#)]);
    for (path, upgrade) in [("/exec/1", "other"), ("/else", "tcp")] {
        let head = shake(&mut gateway.tls("origin.test", port), port, path, upgrade);
        assert!(head.starts_with("HTTP/1.1 403 ") && head.contains("upgrade_denied"), "{head}");
    }
    assert_eq!(origin.connections(), 0);
    let mut stream = gateway.tls("origin.test", port);
    let head = shake(&mut stream, port, "/exec/1", "TCP");
    assert!(head.starts_with("HTTP/1.1 101 ") && field(&head, "upgrade") == "tcp", "{head}");
    assert_eq!(read(&mut stream, 5), "hello");
    stream.write_all(b"one").unwrap();
    assert_eq!(read(&mut stream, 3), "one");
    gateway.apply(vec![rules("")]);
    assert!(stream.read(&mut [0]).is_err(), "cut, not ended");
    drop(stream);
    let records = gateway.records(3);
    assert_eq!((&records[2]["verdict"], &records[2]["status"]), (&"cut".into(), &101.into()), "{records:?}");
}
