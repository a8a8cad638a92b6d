//! What cannot be searched is refused by name or cut, and a credential that cannot be found is not sent.

use super::*;

fn problem(gateway: &Gateway, port: u16, more: &str) -> (u16, String) {
    let request = format!("GET / HTTP/1.1\r\nHost: origin.test:{port}\r\n{more}\r\n");
    let (head, body) = ask(&mut gateway.tls("origin.test", port), &request, b"");
    assert!(!readable(SECRET, head.as_bytes()) && !readable(SECRET, &body), "{head}");
    let problem: serde_json::Value = serde_json::from_slice(&body).expect("a problem");
    let status = head[9..12].parse().expect("a status");
    (status, problem["code"].as_str().expect("a code").to_owned())
}

#[test]
fn answers_that_cannot_be_searched_are_refused_by_name() {
    for (head, code) in [
        ("HTTP/1.1 200 OK\r\nContent-Encoding: compress\r\n", "redact_coding"),
        ("HTTP/1.1 200 OK\r\nContent-Encoding: gzip, gzip, gzip\r\n", "redact_coding"),
        ("HTTP/1.1 200 OK\r\nGrpc-Encoding: gzip\r\n", "redact_coding"),
        ("HTTP/1.1 206 Partial Content\r\nContent-Range: bytes 0-8/99\r\n", "redact_part"),
    ] {
        let origin = Origin::tls(&["origin.test"], move |_, out| {
            write!(out, "{head}Content-Length: 9\r\n\r\n{}", &SECRET[..9])?;
            out.flush()
        });
        let gateway = gateway(&origin);
        assert_eq!(problem(&gateway, origin.address.port(), ""), (502, code.into()), "{head}");
        let record = gateway.records(1).remove(0);
        assert_eq!((&record["verdict"], &record["code"]), (&"refused".into(), &code.into()));
        assert_eq!(record["blame"], "upstream");
    }
}

#[test]
fn another_protocol_is_refused_and_nothing_is_sent() {
    let origin = Origin::tls(&["origin.test"], |_, out| respond(out, b"never"));
    let gateway = gateway(&origin);
    let port = origin.address.port();
    let upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                   Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    assert_eq!(problem(&gateway, port, upgrade), (403, "redact_protocol".into()));
    run(async {
        let mut client = Client::connect(&gateway, "origin.test", port).await;
        // What the gateway offers is known when its first answer is here.
        assert_eq!(client.get("/nothing").await.text(), "never");
        let mut request = client.request("CONNECT", "/socket");
        request.extensions_mut().insert(h2::ext::Protocol::from_static("websocket"));
        let refused = http2::whole(client.send(request, true).await.0).await.unwrap();
        assert!(refused.text().contains("redact_protocol"), "{}", refused.text());
    });
    assert_eq!(origin.seen().len(), 1);
    gateway.records(3);
}

#[test]
fn a_credential_that_is_too_short_to_be_found_is_not_sent() {
    let origin = Origin::tls(&["origin.test"], |_, out| respond(out, b"never"));
    let mut gateway = gateway(&origin);
    gateway.apply(vec![Op::UpsertSecret(SecretRow {
        name: "token".into(),
        version: 2,
        value: SecretValue::new(b"1234567"),
        hosts: vec!["origin.test".into()],
        allow_plaintext: false,
    })]);
    assert_eq!(problem(&gateway, origin.address.port(), ""), (502, "secret_short".into()));
    assert_eq!(origin.connections(), 0);
    gateway.records(1);
}

#[test]
fn a_body_that_decodes_to_far_too_much_is_cut_and_the_record_says_so() {
    for coding in ["gzip", "br"] {
        let bomb = Arc::new(coded(coding, &vec![0; 96 << 20]));
        let sent = Arc::clone(&bomb);
        let origin = Origin::tls(&["origin.test"], move |_, out| {
            write!(
                out,
                "HTTP/1.1 200 OK\r\nContent-Encoding: {coding}\r\nContent-Length: {}\r\n\r\n",
                sent.len()
            )?;
            out.write_all(&sent)?;
            out.flush()
        });
        let gateway = gateway(&origin);
        let port = origin.address.port();
        let mut stream = gateway.tls("origin.test", port);
        write!(stream, "GET / HTTP/1.1\r\nHost: origin.test:{port}\r\n\r\n").unwrap();
        let (mut taken, mut bytes) = (0, vec![0; 1 << 20]);
        let cut = loop {
            match stream.read(&mut bytes) {
                Ok(0) => break "an end",
                Ok(count) => taken += count,
                Err(_) => break "a cut",
            }
        };
        assert_eq!(cut, "a cut");
        assert!(taken < 96 << 20, "{taken}");
        let record = gateway.records(1).remove(0);
        assert_eq!((&record["verdict"], &record["code"]), (&"broken".into(), &"answer_expands".into()));
    }
}

#[test]
fn a_coded_body_that_is_none_or_ends_early_never_looks_whole() {
    for (body, length) in [(b"no gzip at all".to_vec(), 14), (coded("gzip", b"some text"), 20)] {
        let body = body[..length].to_vec();
        let origin = Origin::tls(&["origin.test"], move |_, out| {
            write!(out, "HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: {length}\r\n\r\n")?;
            out.write_all(&body)?;
            out.flush()
        });
        let gateway = gateway(&origin);
        let port = origin.address.port();
        let mut stream = gateway.tls("origin.test", port);
        write!(stream, "GET / HTTP/1.1\r\nHost: origin.test:{port}\r\n\r\n").unwrap();
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).expect_err("a cut, not an end");
        assert!(!rest.ends_with(b"0\r\n\r\n"), "{}", String::from_utf8_lossy(&rest));
        assert_eq!(gateway.records(1)[0]["code"], "answer_coding");
    }
}
