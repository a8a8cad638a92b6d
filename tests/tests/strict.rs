//! What is not plainly one request to one host is refused, never forwarded, and recorded once.

use std::{
    io::{Read, Write},
    net::TcpStream,
};

use data_encoding::BASE64;
use rustls::StreamOwned;
use serde_json::Value;
use tests::{
    gateway::{Gateway, Tls, ask, both_ways, read_answer, read_head},
    origin::{Origin, respond},
};

fn origin() -> Origin {
    Origin::tls(&["origin.test"], |seen, out| respond(out, &seen.body))
}

/// Sends these bytes on a connection of its own; gives the status and the code of the refusal. Nothing may follow it.
fn refusal(stream: &mut Tls, bytes: &[u8]) -> (u16, String) {
    stream.write_all(bytes).expect("the gateway reads");
    stream.flush().expect("the gateway reads");
    let (head, body) = read_answer(stream, false);
    let status = head[9..12].parse().expect("a status");
    let problem: Value = serde_json::from_slice(&body).unwrap_or_else(|_| panic!("no problem body: {head}"));
    let code = problem["code"].as_str().expect("a code").to_owned();
    let unclear =
        ["framing_ambiguous", "head_malformed", "body_malformed", "head_too_long", "target_too_long"];
    if head.contains("\r\nConnection: close\r\n") {
        assert_eq!(stream.read(&mut [0; 16]).unwrap_or(0), 0, "nothing follows a refusal");
    } else {
        assert!(!unclear.contains(&code.as_str()), "what follows cannot be told apart: {head}");
    }
    (status, code)
}

/// Every case on a connection of its own: refused as it says, unseen by the upstream, recorded once.
fn all_refused(cases: &[(&str, u16, &str)]) {
    both_ways(|shards| {
        let origin = origin();
        let gateway = Gateway::start(shards, &origin);
        let port = origin.address.port();
        for (text, status, code) in cases {
            let text = text.replace("HOST", &format!("origin.test:{port}"));
            let mut stream = gateway.tls("origin.test", port);
            let found = refusal(&mut stream, text.as_bytes());
            assert_eq!((found.0, found.1.as_str()), (*status, *code), "{text:?}");
        }
        assert_eq!(origin.connections(), 0, "the upstream saw nothing of it");
        let records = gateway.records(cases.len());
        for (record, (text, status, code)) in records.iter().zip(cases) {
            assert_eq!(record["verdict"], "refused", "{text:?}: {record}");
            assert_eq!(
                (&record["status"], &record["code"]),
                (&(*status).into(), &(*code).into()),
                "{text:?}"
            );
            assert!(record["reason"].is_string(), "{record}");
        }
    });
}

#[test]
fn ambiguous_framing_is_refused() {
    let ambiguous = [
        "Content-Length: 3\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nContent-Length: 3",
        "Content-Length: 3\r\nContent-Length: 4",
        "Content-Length: 3\r\nContent-Length: 3",
        "Content-Length: 3, 3",
        "Content-Length: +3",
        "Content-Length: -1",
        "Content-Length: 0x3",
        "Content-Length: 3 3",
        "Content-Length:",
        "Content-Length: 99999999999999999999",
        "Transfer-Encoding: gzip, chunked",
        "Transfer-Encoding: identity",
        "Transfer-Encoding: xchunked",
        "Transfer-Encoding: chunked, chunked",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity",
        "Transfer_Encoding: chunked\r\nTransfer-Encoding: chunked",
        "Content_Length: 5\r\nContent-Length: 3",
    ];
    let texts: Vec<String> = ambiguous
        .iter()
        .map(|fields| format!("POST / HTTP/1.1\r\nHost: HOST\r\n{fields}\r\n\r\nabc"))
        .collect();
    let mut cases: Vec<_> = texts.iter().map(|text| (text.as_str(), 400, "framing_ambiguous")).collect();
    cases.push((
        "POST / HTTP/1.0\r\nHost: HOST\r\nTransfer-Encoding: chunked\r\n\r\n",
        400,
        "framing_ambiguous",
    ));
    all_refused(&cases);
}

#[test]
fn broken_lines_are_refused() {
    all_refused(&[
        ("GET / HTTP/1.1\r\nHost: HOST\r\nA: b\r\n c\r\n\r\n", 400, "head_malformed"),
        ("GET / HTTP/1.1\r\nHost: HOST\r\nA: b\r\n\tc\r\n\r\n", 400, "head_malformed"),
        ("GET / HTTP/1.1\r\nHost: HOST\r\nA: b\rc\r\n\r\n", 400, "head_malformed"),
        ("GET / HTTP/1.1\r\nHost: HOST\r\nA: b\nC: d\r\n\r\n", 400, "head_malformed"),
        ("GET / HTTP/1.1\nHost: HOST\n\n", 400, "head_malformed"),
        ("GET / HTTP/1.1\r\nHost: HOST\r\nA: b\0\r\n\r\n", 400, "head_malformed"),
        ("GET / HTTP/1.1\r\nHost: HOST\r\nA : b\r\n\r\n", 400, "head_malformed"),
        ("GET / HTTP/1.1\r\nHost : HOST\r\n\r\n", 400, "head_malformed"),
        ("GET / HTTP/1.1\r\nHost: HOST\r\n: b\r\n\r\n", 400, "head_malformed"),
        ("GET / HTTP/1.1\r\nHost: HOST\r\nno colon\r\n\r\n", 400, "head_malformed"),
        ("GET  / HTTP/1.1\r\nHost: HOST\r\n\r\n", 400, "head_malformed"),
        ("GET /a b HTTP/1.1\r\nHost: HOST\r\n\r\n", 400, "head_malformed"),
        ("GET /\r\n\r\n", 400, "head_malformed"),
    ]);
}

#[test]
fn names_that_disagree_are_refused() {
    all_refused(&[
        ("GET / HTTP/1.1\r\n\r\n", 400, "host_field"),
        ("GET / HTTP/1.1\r\nHost: HOST\r\nHost: HOST\r\n\r\n", 400, "host_field"),
        ("GET / HTTP/1.1\r\nHost: other.test\r\n\r\n", 421, "misdirected_host"),
        ("GET / HTTP/1.1\r\nHost: origin.test:1\r\n\r\n", 421, "misdirected_port"),
        ("GET https://other.test/ HTTP/1.1\r\nHost: HOST\r\n\r\n", 400, "host_contradiction"),
        ("GET https://other.test/ HTTP/1.1\r\nHost: other.test\r\n\r\n", 421, "misdirected_host"),
        ("GET http://HOST/ HTTP/1.1\r\nHost: HOST\r\n\r\n", 400, "scheme_contradiction"),
        ("GET https://user@HOST/ HTTP/1.1\r\nHost: HOST\r\n\r\n", 400, "target_malformed"),
        ("GET /a#b HTTP/1.1\r\nHost: HOST\r\n\r\n", 400, "target_malformed"),
        ("GET / HTTP/1.1\r\nHost: a b\r\n\r\n", 400, "host_malformed"),
        ("GET / HTTP/1.1\r\nHost: \r\n\r\n", 400, "host_field"),
    ]);
}

#[test]
fn what_is_not_served_says_so() {
    all_refused(&[
        ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0", 505, "version_not_served"),
        ("GET / HTTP/2.0\r\nHost: HOST\r\n\r\n", 505, "version_not_served"),
        ("TRACE / HTTP/1.1\r\nHost: HOST\r\n\r\n", 405, "method_refused"),
        (
            "GET / HTTP/1.1\r\nHost: HOST\r\nUpgrade: tcp, x\r\nConnection: upgrade\r\n\r\n",
            501,
            "upgrade_not_served",
        ),
        (
            "GET / HTTP/1.1\r\nHost: HOST\r\nUpgrade: tcp\r\nConnection: upgrade\r\n\r\n",
            403,
            "upgrade_denied",
        ),
        (
            "POST / HTTP/1.1\r\nHost: HOST\r\nExpect: 200-ok\r\nContent-Length: 1\r\n\r\n",
            417,
            "expectation_unknown",
        ),
        ("CONNECT HOST HTTP/1.1\r\nHost: HOST\r\n\r\n", 501, "connect_nested"),
        ("CONNECT other.test:443 HTTP/1.1\r\nHost: other.test:443\r\n\r\n", 501, "connect_nested"),
    ]);
}

#[test]
fn heads_beyond_their_bounds_are_refused() {
    let line = format!("GET /{} HTTP/1.1\r\nHost: HOST\r\n\r\n", "a".repeat(20 << 10));
    let long = format!("GET / HTTP/1.1\r\nHost: HOST\r\nA: {}\r\n\r\n", "b".repeat(70 << 10));
    let many = format!("GET / HTTP/1.1\r\nHost: HOST\r\n{}\r\n", "A: b\r\n".repeat(200));
    let endless = format!("GET / HTTP/1.1\r\nHost: HOST\r\nA: {}", "b".repeat(70 << 10));
    all_refused(&[
        (&line, 414, "target_too_long"),
        (&long, 431, "head_too_long"),
        (&many, 431, "head_too_long"),
        (&endless, 431, "head_too_long"),
    ]);
}

#[test]
fn bad_chunks_are_refused_and_no_request_reaches_the_upstream() {
    let bodies = [
        "g\r\nabc\r\n0\r\n\r\n",
        "-3\r\nabc\r\n0\r\n\r\n",
        "+3\r\nabc\r\n0\r\n\r\n",
        "0x3\r\nabc\r\n0\r\n\r\n",
        " 3\r\nabc\r\n0\r\n\r\n",
        "3 \r\nabc\r\n0\r\n\r\n",
        "\r\nabc\r\n0\r\n\r\n",
        "3\nabc\r\n0\r\n\r\n",
        "3\r\nabcd\r\n0\r\n\r\n",
        "3\r\nabc\n0\r\n\r\n",
        "ffffffffffffffff\r\nabc",
        "10000000000000003\r\nabc\r\n0\r\n\r\n",
        "3;\0\r\nabc\r\n0\r\n\r\n",
        "3\r\nabc\r\n0\r\nA : b\r\n\r\n",
        "3\r\nabc\r\n0\r\n\nGET / HTTP/1.1\r\n\r\n",
    ];
    both_ways(|shards| {
        let origin = origin();
        let gateway = Gateway::start(shards, &origin);
        let port = origin.address.port();
        for body in bodies {
            let mut stream = gateway.tls("origin.test", port);
            let head =
                format!("POST / HTTP/1.1\r\nHost: origin.test:{port}\r\nTransfer-Encoding: chunked\r\n\r\n");
            let found = refusal(&mut stream, &[head.as_bytes(), body.as_bytes()].concat());
            assert_eq!(found, (400, "body_malformed".into()), "{body:?}");
        }
        assert_eq!(origin.seen().len(), 0, "no part of it became a request");
        for record in gateway.records(bodies.len()) {
            assert_eq!((&record["verdict"], &record["code"]), (&"refused".into(), &"body_malformed".into()));
        }
    });
}

#[test]
fn server_name_of_another_host_than_the_tunnel_is_refused_inside_tls() {
    both_ways(|shards| {
        let origin = origin();
        let gateway = Gateway::start(shards, &origin);
        let port = origin.address.port();
        for (tunnel, name) in [("origin.test", "other.test"), ("other.test", "origin.test")] {
            let client = gateway.client("box", name, &[]);
            let mut stream = StreamOwned::new(client, gateway.tunnel(tunnel, port));
            let request = format!("GET / HTTP/1.1\r\nHost: {name}:{port}\r\n\r\n");
            assert_eq!(refusal(&mut stream, request.as_bytes()), (421, "misdirected_host".into()));
        }
        assert_eq!(origin.connections(), 0);
        gateway.records(2);
    });
}

#[test]
fn the_protocol_that_was_chosen_is_the_one_that_is_spoken() {
    let origin = origin();
    let gateway = Gateway::start(4, &origin);
    let port = origin.address.port();
    let request = format!("GET / HTTP/1.1\r\nHost: origin.test:{port}\r\n\r\n");
    type Offer<'a> = (&'a [&'a [u8]], Option<&'a [u8]>);
    let offers: [Offer<'_>; 3] = [(&[], None), (&[b"h4", b"http/1.1"], Some(b"http/1.1")), (&[b"h4"], None)];
    for (offered, selected) in offers {
        let client = gateway.client("box", "origin.test", offered);
        let mut stream = StreamOwned::new(client, gateway.tunnel("origin.test", port));
        assert!(ask(&mut stream, &request, b"").0.starts_with("HTTP/1.1 200 "), "{offered:?}");
        assert_eq!(stream.conn.alpn_protocol(), selected, "{offered:?}");
    }
    // HTTP/2 is for those with whom it was agreed.
    let client = gateway.client("box", "origin.test", &[b"http/1.1"]);
    let mut stream = StreamOwned::new(client, gateway.tunnel("origin.test", port));
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    assert_eq!(refusal(&mut stream, preface), (505, "version_not_served".into()));
    let client = gateway.client("box", "origin.test", &[b"http/1.1", b"h2"]);
    let mut stream = StreamOwned::new(client, gateway.tunnel("origin.test", port));
    stream.write_all(request.as_bytes()).expect("the gateway reads");
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).expect("an end");
    assert_eq!(stream.conn.alpn_protocol(), Some(&b"h2"[..]));
    assert!(!rest.starts_with(b"HTTP/1"));
    assert_eq!(origin.seen().len(), 3);
    let records = gateway.records(5);
    assert_eq!(records[4]["code"], "h2_broken");
}

#[test]
fn heads_of_a_proxy_that_make_no_sense_are_refused() {
    let origin = origin();
    let gateway = Gateway::start(4, &origin);
    let credentials = format!("Proxy-Authorization: Basic {}\r\n", BASE64.encode(b"box:word"));
    let cases = [
        ("GET / HTTP/1.1\r\nHost: origin.test\r\n", "400", "proxy_form"),
        ("CONNECT origin.test HTTP/1.1\r\nHost: origin.test\r\n", "400", "target_malformed"),
        ("CONNECT origin.test:443 HTTP/1.1\r\nHost: other.test:443\r\n", "400", "host_contradiction"),
        ("GET https://origin.test/ HTTP/1.1\r\nHost: origin.test\r\n", "400", "scheme_contradiction"),
        ("PRI * HTTP/2.0\r\n\r\nSM\r\n", "505", "version_not_served"),
    ];
    for (head, status, code) in cases {
        let mut socket = gateway.socket();
        let (answer, body) = ask(&mut socket, &format!("{head}{credentials}\r\n"), b"");
        assert_eq!(&answer[9..12], status, "{head:?}: {answer}");
        assert_eq!(serde_json::from_slice::<Value>(&body).unwrap()["code"], code, "{head:?}");
    }
    assert_eq!(origin.connections(), 0);
    gateway.records(cases.len());
}

#[test]
fn later_request_of_a_proxy_connection_speaks_for_nobody_else() {
    let origin = Origin::plain(|_, out| respond(out, b"ok"));
    let mut gateway = Gateway::start(4, &origin);
    gateway.add_sandbox("other", "secret", "t");
    let port = origin.address.port();
    let request = |credentials: Option<&str>| {
        let field = credentials.map_or(String::new(), |text| {
            format!("Proxy-Authorization: Basic {}\r\n", BASE64.encode(text.as_bytes()))
        });
        format!("GET http://outgate.internal/whoami HTTP/1.1\r\nHost: outgate.internal\r\n{field}\r\n")
    };
    let mut socket = gateway.socket();
    for _ in 0..2 {
        assert!(ask(&mut socket, &request(Some("box:word")), b"").0.starts_with("HTTP/1.1 200 "));
    }
    for wrong in [Some("other:secret"), Some("box:guess"), None] {
        let mut socket = gateway.socket();
        assert!(ask(&mut socket, &request(Some("box:word")), b"").0.starts_with("HTTP/1.1 200 "));
        let (head, _) = ask(&mut socket, &request(wrong), b"");
        assert!(head.starts_with("HTTP/1.1 407 "), "{wrong:?}: {head}");
    }
    assert_eq!(origin.connections(), 0, "port {port}");
    gateway.records(8);
}

#[test]
fn connection_without_a_request_leaves_one_record() {
    both_ways(|shards| {
        let origin = origin();
        let gateway = Gateway::start(shards, &origin);
        let port = origin.address.port();
        // Nothing at all; half a head; a tunnel and nothing; half a head in it; TLS and nothing; half a head in TLS.
        drop(gateway.socket());
        let half = |mut socket: TcpStream, bytes: &[u8]| {
            socket.write_all(bytes).expect("the gateway reads");
            socket.shutdown(std::net::Shutdown::Write).expect("open");
            let _answer = socket.read_to_end(&mut Vec::new());
        };
        half(gateway.socket(), b"CONNECT origin.te");
        half(gateway.tunnel("origin.test", port), b"");
        half(gateway.tunnel("origin.test", port), b"GET / HT");
        half(gateway.tunnel("origin.test", port), b"\x16\x03\x01\x02\x00\x01");
        for bytes in [&b""[..], b"GET / HT"] {
            let mut stream = gateway.tls("origin.test", port);
            stream.conn.complete_io(&mut stream.sock).expect("a handshake");
            stream.write_all(bytes).expect("the gateway reads");
            stream.conn.send_close_notify();
            stream.flush().expect("the gateway reads");
        }
        let records = gateway.records(7);
        for record in &records {
            assert_eq!(record["verdict"], "refused", "{record}");
        }
        // Those of tunnels say where they were going.
        let named = |record: &&Value| record["host"] == "origin.test" && record["port"] == port;
        assert_eq!(records.iter().filter(named).count(), 5, "{records:?}");
        assert_eq!(origin.connections(), 0);
    });
}

#[test]
fn half_a_head_behind_a_whole_request_is_recorded_too() {
    let origin = origin();
    let gateway = Gateway::start(1, &origin);
    let port = origin.address.port();
    let mut stream = gateway.tls("origin.test", port);
    let request = format!("GET / HTTP/1.1\r\nHost: origin.test:{port}\r\n\r\n");
    assert!(ask(&mut stream, &request, b"").0.starts_with("HTTP/1.1 200 "));
    stream.write_all(b"POST / HT").expect("the gateway reads");
    stream.conn.send_close_notify();
    stream.flush().expect("the gateway reads");
    let records = gateway.records(2);
    assert_eq!((&records[1]["verdict"], &records[1]["code"]), (&"refused".into(), &"client_gone".into()));
}

#[test]
fn plain_http_in_a_tunnel_is_judged_as_plain_http() {
    let origin = Origin::plain(|_, out| respond(out, b"ok"));
    let gateway = Gateway::start(4, &origin);
    let port = origin.address.port();
    let mut socket = gateway.tunnel("origin.test", port);
    write!(socket, "GET / HTTP/1.1\r\nHost: origin.test:{port}\r\n\r\n").expect("the gateway reads");
    let head = read_head(&mut socket);
    // The rule of this template would send a credential, which never goes out without TLS.
    assert!(head.starts_with("HTTP/1.1 502 "), "{head}");
    assert_eq!(origin.connections(), 0);
    assert_eq!(gateway.records(1)[0]["code"], "secret_plaintext");
}
