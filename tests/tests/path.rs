//! The path of a request inside one process: explicit proxy, opened TLS, policy, injection, verified upstream, record.

use std::io::{Read, Write};

use data_encoding::BASE64;
use tests::{
    gateway::{Gateway, SECRET, ask, both_ways, policy, template},
    origin::{Origin, respond},
};

#[test]
fn allowed_requests_carry_a_credential_that_the_sandbox_never_sees() {
    both_ways(|shards| {
        let origin = Origin::tls(&["origin.test"], |seen, out| respond(out, &seen.body));
        let gateway = Gateway::start(shards, &origin);
        let port = origin.address.port();
        let mut stream = gateway.tls("origin.test", port);
        let mut everything = String::new();
        for (method, body) in [("GET", &b""[..]), ("POST", b"hello"), ("POST", &[b'x'; 100_000])] {
            let head = format!(
                "{method} /p?q=1 HTTP/1.1\r\nHost: origin.test:{port}\r\nAuthorization: Bearer stolen\r\nContent-Length: {}\r\n\r\n",
                body.len()
            );
            let (answer, returned) = ask(&mut stream, &head, body);
            assert!(answer.starts_with("HTTP/1.1 200 "), "{answer} {}", String::from_utf8_lossy(&returned));
            assert_eq!(returned, body);
            everything.push_str(&answer);
        }
        for seen in origin.wait_for(3) {
            let values: Vec<_> = seen.fields("authorization").collect();
            assert_eq!(values, [format!("Bearer {SECRET}")], "one credential, the gateway's");
        }
        drop(stream);
        let records = gateway.records(3);
        let told: Vec<_> = records.iter().filter(|record| record["verdict"] == "allowed").collect();
        assert_eq!(told.len(), 3, "{records:#?}");
        assert_eq!(told[0]["rule"], "allowedHosts: origin.test");
        let recorded = serde_json::to_string(&records).unwrap();
        assert!(!recorded.contains(SECRET) && !recorded.contains("q=1") && !everything.contains(SECRET));
    });
}

#[test]
fn denied_host_is_refused_inside_tls_and_the_upstream_sees_nothing() {
    both_ways(|shards| {
        let origin = Origin::tls(&["origin.test"], |_, out| respond(out, b"never"));
        let gateway = Gateway::start(shards, &origin);
        let port = origin.address.port();
        let mut stream = gateway.tls("other.test", port);
        let (head, body) =
            ask(&mut stream, &format!("GET / HTTP/1.1\r\nHost: other.test:{port}\r\n\r\n"), b"");
        let problem: serde_json::Value = serde_json::from_slice(&body).unwrap();
        assert!(head.starts_with("HTTP/1.1 403 ") && head.contains("application/problem+json"), "{head}");
        assert_eq!(problem["code"], "host_not_allowed", "{problem}");
        assert_eq!(problem["blame"], "policy");
        assert_eq!((origin.connections(), origin.seen().len()), (0, 0));
        drop(stream);
        let records = gateway.records(1);
        assert_eq!(records.iter().filter(|record| record["verdict"] == "refused").count(), 1, "{records:#?}");
    });
}

#[test]
fn lock_down_refuses_the_next_request_on_an_open_connection() {
    both_ways(|shards| {
        let origin = Origin::tls(&["origin.test"], |_, out| respond(out, b"ok"));
        let mut gateway = Gateway::start(shards, &origin);
        let port = origin.address.port();
        let mut stream = gateway.tls("origin.test", port);
        let request = format!("GET / HTTP/1.1\r\nHost: origin.test:{port}\r\n\r\n");
        assert!(ask(&mut stream, &request, b"").0.starts_with("HTTP/1.1 200 "));
        gateway.apply(vec![policy("[]")]);
        assert!(ask(&mut stream, &request, b"").0.starts_with("HTTP/1.1 403 "));
        assert_eq!(origin.seen().len(), 1, "nothing reached the upstream after the change");
        gateway.apply(vec![policy(r#"["origin.test"]"#)]);
        assert!(ask(&mut stream, &request, b"").0.starts_with("HTTP/1.1 200 "));
        drop(stream);
        gateway.records(3);
    });
}

#[test]
fn lock_down_cuts_a_stream_that_is_under_way() {
    both_ways(|shards| {
        let origin = Origin::tls(&["origin.test"], |_, out| {
            write!(out, "HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\nfirst")?;
            out.flush()
        });
        let mut gateway = Gateway::start(shards, &origin);
        let port = origin.address.port();
        let mut stream = gateway.tls("origin.test", port);
        write!(stream, "GET / HTTP/1.1\r\nHost: origin.test:{port}\r\n\r\n").unwrap();
        let mut seen = String::new();
        while !seen.ends_with("first") {
            let mut piece = [0; 1024];
            let count = stream.read(&mut piece).unwrap();
            seen.push_str(&String::from_utf8_lossy(&piece[..count]));
        }
        gateway.apply(vec![policy("[]")]);
        let after = stream.read(&mut [0; 1024]);
        assert!(after.is_err(), "the stream was reset, not ended: {after:?}");
        drop(stream);
        let records = gateway.records(1);
        assert!(
            records.iter().any(|record| record["verdict"] == "cut" || record["verdict"] == "broken"),
            "{records:#?}"
        );
    });
}

#[test]
fn address_behind_a_refused_name_is_for_the_record_alone() {
    let origin = Origin::tls(&["origin.test"], |_, out| respond(out, b"never"));
    let mut gateway = Gateway::start(4, &origin);
    gateway.apply(vec![template("t", r#"{"allowedHosts":["origin.test"]}"#)]);
    let port = origin.address.port();
    let mut stream = gateway.tls("origin.test", port);
    let (head, body) = ask(&mut stream, &format!("GET / HTTP/1.1\r\nHost: origin.test:{port}\r\n\r\n"), b"");
    let body = String::from_utf8(body).unwrap();
    assert!(head.starts_with("HTTP/1.1 403 ") && body.contains("address_special"), "{head}{body}");
    assert!(!body.contains("127.0.0.1") && !head.contains("127.0.0.1"), "{head}{body}");
    assert_eq!(origin.connections(), 0);
    drop(stream);
    let reason = gateway.records(1)[0]["reason"].to_string();
    assert!(reason.contains("127.0.0.1"), "{reason}");
}

#[test]
fn wrong_proxy_password_is_told_how_to_authenticate() {
    let origin = Origin::tls(&["origin.test"], |_, out| respond(out, b"never"));
    let gateway = Gateway::start(2, &origin);
    let mut socket = gateway.socket();
    let (head, _) = ask(&mut socket, "GET http://origin.test/ HTTP/1.1\r\nHost: origin.test\r\n\r\n", b"");
    assert!(head.starts_with("HTTP/1.1 407 ") && head.contains("Proxy-Authenticate: Basic"), "{head}");
    assert_eq!(origin.connections(), 0);
    drop(socket);
    let records = gateway.records(1);
    assert_eq!(
        records.iter().filter(|record| record["code"] == "proxy_credentials").count(),
        1,
        "{records:#?}"
    );
}

#[test]
fn plane_answers_who_is_asking_before_policy() {
    let origin = Origin::tls(&["origin.test"], |_, out| respond(out, b"never"));
    let gateway = Gateway::start(4, &origin);
    let credentials = BASE64.encode(b"box:word");
    let mut socket = gateway.socket();
    let request = format!(
        "GET http://outgate.internal/whoami HTTP/1.1\r\nHost: outgate.internal\r\nProxy-Authorization: Basic {credentials}\r\n\r\n"
    );
    let (head, body) = ask(&mut socket, &request, b"");
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    assert_eq!(serde_json::from_slice::<serde_json::Value>(&body).unwrap()["containerId"], "box");
    drop(socket);
    gateway.records(1);
}
