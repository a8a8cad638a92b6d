//! A server that repeats the credential which its request was given: where the rule says `redact`, the sandbox reads
//! it in no form, and what cannot be searched is refused; where it does not, an answer passes untouched.

mod forms;
mod refusing;

use std::{
    io::{self, Read, Write},
    sync::{
        Arc, Mutex,
        mpsc::{Receiver, Sender, channel},
    },
};

use bytes::Bytes;
use control_wire::row::{Op, SecretRow, SecretValue};
use data_encoding::{BASE64, HEXUPPER};
use handlers_sdk_abi::action::op;
use http::{HeaderMap, Response};
use tests::{
    coding::{coded, json_escaped, percent, readable},
    gateway::{Gateway, SECRET, Tls, ask, read_head, template},
    guests::{answering, entry, example},
    http2::{self, Client, run},
    origin::{Origin, Seen, respond},
};

/// The template `t`, whose one rule gives the credential so.
fn redacting(action: &str, more: &str) -> Op {
    template(
        "t",
        &format!(
            r#"{{"allowedHosts":["origin.test"],
            "allowedAddresses":[{{"host":"origin.test","cidrs":["127.0.0.0/8"]}}],
            "rules":[{{"host":"origin.test","actions":[{action}]{more}}}]}}"#
        ),
    )
}

const BEARER: &str = r#"{"bearer":{"secret":"token"}}"#;
const REDACT: &str = r#","redact":true"#;

fn gateway(origin: &Origin) -> Gateway {
    let mut gateway = Gateway::start(1, origin);
    gateway.apply(vec![redacting(BEARER, REDACT)]);
    gateway
}

#[test]
fn without_the_word_an_answer_passes_byte_for_byte() {
    let origin = Origin::tls(&["origin.test"], |seen, out| {
        let body = coded("gzip", seen.fields("authorization").next().unwrap_or_default().as_bytes());
        write!(
            out,
            "HTTP/1.1 200 Fine\r\nX-Was: {}\r\n",
            seen.fields("accept-encoding").next().unwrap_or("-")
        )?;
        write!(out, "X-Part: {}\r\n", seen.fields("range").next().unwrap_or("-"))?;
        write!(out, "ETag: \"v1\"\r\nContent-Encoding: gzip\r\nContent-Length: {}\r\n\r\n", body.len())?;
        out.write_all(&body)?;
        out.flush()
    });
    let mut gateway = Gateway::start(1, &origin);
    gateway.apply(vec![redacting(BEARER, "")]);
    let port = origin.address.port();
    let request = format!(
        "GET / HTTP/1.1\r\nHost: origin.test:{port}\r\nAccept-Encoding: br, gzip\r\nRange: bytes=0-\r\n\r\n"
    );
    let (head, body) = ask(&mut gateway.tls("origin.test", port), &request, b"");
    let coded = coded("gzip", format!("Bearer {SECRET}").as_bytes());
    assert_eq!(body, coded);
    let expected = format!(
        "HTTP/1.1 200 Fine\r\nX-Was: br, gzip\r\nX-Part: bytes=0-\r\nETag: \"v1\"\r\nContent-Encoding: gzip\r\n\
         Content-Length: {}\r\n\r\n",
        coded.len()
    );
    assert_eq!(head, expected);
    // Another rule says it, of other requests.
    let elsewhere = r#"},{"host":"origin.test","match":{"method":["PUT"]},"redact":true"#;
    gateway.apply(vec![redacting(BEARER, elsewhere)]);
    assert_eq!(ask(&mut gateway.tls("origin.test", port), &request, b""), (expected, coded));
    for record in gateway.records(2) {
        assert!(record.get("redacted").is_none(), "{record}");
    }
}

#[test]
fn what_is_asked_for_can_be_searched_and_the_whole_of_it() {
    let origin = Origin::tls(&["origin.test"], |_, out| respond(out, b"ok"));
    let gateway = gateway(&origin);
    let port = origin.address.port();
    let request = format!(
        "GET / HTTP/1.1\r\nHost: origin.test:{port}\r\nAccept-Encoding: br, gzip;q=0.9\r\nRange: bytes=0-5\r\n\
         If-Range: \"v1\"\r\nAccept-Encoding: zstd\r\nX-Own: kept\r\n\r\n"
    );
    let (head, body) = ask(&mut gateway.tls("origin.test", port), &request, b"");
    assert!(head.contains("\r\nContent-Length: 2\r\n") && body == b"ok", "{head}");
    let seen = origin.wait_for(1).remove(0);
    assert_eq!(seen.fields("accept-encoding").collect::<Vec<_>>(), ["gzip;q=0.9"]);
    assert_eq!(seen.fields("range").chain(seen.fields("if-range")).count(), 0);
    assert_eq!(seen.fields("x-own").collect::<Vec<_>>(), ["kept"]);
    assert_eq!(gateway.records(1)[0]["redacted"], 0);
}

/// An origin that says each piece when the test tells it to.
fn told(head: &'static str) -> (Origin, Sender<Vec<u8>>) {
    let (tell, told) = channel::<Vec<u8>>();
    let told: Arc<Mutex<Receiver<Vec<u8>>>> = Arc::new(Mutex::new(told));
    let origin = Origin::tls(&["origin.test"], move |_, out| {
        out.write_all(head.as_bytes())?;
        out.flush()?;
        while let Ok(piece) = told.lock().expect("one connection").recv() {
            write!(out, "{:x}\r\n", piece.len())?;
            out.write_all(&piece)?;
            out.write_all(b"\r\n")?;
            out.flush()?;
        }
        out.write_all(b"0\r\n\r\n")?;
        out.flush()
    });
    (origin, tell)
}

fn read(stream: &mut Tls, text: &str) {
    let mut bytes = vec![0; text.len()];
    stream.read_exact(&mut bytes).expect("it passes at once");
    assert_eq!(String::from_utf8_lossy(&bytes), text);
}

#[test]
fn events_pass_at_once_coded_or_not() {
    for coding in ["identity", "gzip"] {
        let (origin, tell) = told(match coding {
            "gzip" => {
                "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Encoding: gzip\r\n\
                 Transfer-Encoding: chunked\r\n\r\n"
            }
            _ => "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n",
        });
        let gateway = gateway(&origin);
        let port = origin.address.port();
        let mut stream = gateway.tls("origin.test", port);
        write!(stream, "GET / HTTP/1.1\r\nHost: origin.test:{port}\r\n\r\n").unwrap();
        let head = read_head(&mut stream);
        assert!(head.contains("chunked") && !head.contains("gzip"), "{head}");
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        let mut piece = |text: &str| {
            if coding == "identity" {
                return text.as_bytes().to_vec();
            }
            gzip.write_all(text.as_bytes()).unwrap();
            gzip.flush().unwrap();
            std::mem::take(gzip.get_mut())
        };
        tell.send(piece("data: one\n\n")).unwrap();
        read(&mut stream, "b\r\ndata: one\n\n\r\n");
        tell.send(piece(&format!("data: {SECRET}\n\n"))).unwrap();
        read(&mut stream, &format!("{:x}\r\ndata: {}\n\n\r\n", 8 + SECRET.len(), "*".repeat(SECRET.len())));
        // What may become the credential is held back, and all before it is not.
        tell.send(piece(&format!("data: {}", &SECRET[..9]))).unwrap();
        read(&mut stream, "6\r\ndata: \r\n");
        tell.send(piece("!\n\n")).unwrap();
        read(&mut stream, &format!("c\r\n{}!\n\n\r\n", &SECRET[..9]));
        if coding == "gzip" {
            tell.send(gzip.finish().unwrap()).unwrap();
        }
        drop(tell);
        read(&mut stream, "0\r\n\r\n");
        assert_eq!(gateway.records(1)[0]["redacted"], 1);
    }
}

#[test]
fn a_credential_that_a_handler_wanted_is_masked_too_and_basic_in_its_parts() {
    let origin = Origin::tls(&["origin.test"], |seen, out| {
        let value = seen.fields("authorization").next().unwrap_or("nothing").to_owned();
        respond(out, format!("{value} {SECRET} x-access-token").as_bytes())
    });
    let mut gateway = Gateway::start(1, &origin);
    let publish =
        gateway.handler("h", 1, &answering(&entry(op::SET_SECRET, b"authorization", b"Token \0token")));
    let handled = template(
        "t",
        r#"{"allowedAddresses":[{"host":"origin.test","cidrs":["127.0.0.0/8"]}],"outbound":{"handler":"h"},
            "rules":[{"host":"*","redact":true}]}"#,
    );
    gateway.apply(vec![publish, handled]);
    let port = origin.address.port();
    let request = format!("GET / HTTP/1.1\r\nHost: origin.test:{port}\r\n\r\n");
    let masked = "*".repeat(SECRET.len());
    let (_, body) = ask(&mut gateway.tls("origin.test", port), &request, b"");
    assert_eq!(String::from_utf8_lossy(&body), format!("Token {masked} {masked} x-access-token"));
    gateway.apply(vec![redacting(r#"{"basic":{"secret":"token","user":"x-access-token"}}"#, REDACT)]);
    let (head, body) = ask(&mut gateway.tls("origin.test", port), &request, b"");
    let body = String::from_utf8_lossy(&body);
    assert!(head.starts_with("HTTP/1.1 200 ") && !readable(SECRET, body.as_bytes()), "{body}");
    assert!(
        body.starts_with("Basic eC1hY2Nlc3M") && body.ends_with(&format!("{masked} x-access-token")),
        "{body}"
    );
    for record in gateway.records(2) {
        assert_eq!(record["redacted"], 2, "{record}");
    }
}

#[test]
fn a_handler_reads_the_answer_uncoded_and_masked() {
    let origin = Origin::tls(&["origin.test"], |seen, out| {
        let body = coded("gzip", seen.fields("authorization").next().unwrap_or_default().as_bytes());
        write!(out, "HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: {}\r\n\r\n", body.len())?;
        out.write_all(&body)?;
        out.flush()
    });
    let mut gateway = Gateway::start(1, &origin);
    let publish = gateway.handler("h", 1, &example("guard_answers"));
    gateway.apply(vec![publish]);
    let port = origin.address.port();
    // The handler refuses what is coded, and cuts an answer in which it reads the word.
    for (word, verdict) in [(SECRET, "allowed"), ("bearer ****", "broken")] {
        let policy = format!(
            r#"{{"allowedAddresses":[{{"host":"origin.test","cidrs":["127.0.0.0/8"]}}],
            "outbound":{{"handler":"h","params":{{"words":["{word}"]}}}},
            "rules":[{{"host":"origin.test","actions":[{BEARER}],"redact":true}}]}}"#
        );
        gateway.apply(vec![template("t", &policy)]);
        let mut stream = gateway.tls("origin.test", port);
        write!(stream, "GET / HTTP/1.1\r\nHost: origin.test:{port}\r\nConnection: close\r\n\r\n").unwrap();
        let mut rest = Vec::new();
        let whole = stream.read_to_end(&mut rest).is_ok();
        let rest = String::from_utf8_lossy(&rest);
        assert_eq!(whole && rest.contains(&"*".repeat(SECRET.len())), verdict == "allowed", "{rest}");
        assert!(!readable(SECRET, rest.as_bytes()), "{rest}");
    }
    let verdicts: Vec<_> = gateway.records(2).into_iter().map(|record| record["verdict"].clone()).collect();
    assert_eq!(verdicts, ["allowed", "broken"]);
}

#[test]
fn an_answer_that_begins_before_the_rule_says_redact_is_cut_when_it_does() {
    let (origin, tell) = told("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
    let mut gateway = Gateway::start(1, &origin);
    gateway.apply(vec![redacting(BEARER, "")]);
    let port = origin.address.port();
    let mut stream = gateway.tls("origin.test", port);
    write!(stream, "GET / HTTP/1.1\r\nHost: origin.test:{port}\r\n\r\n").unwrap();
    read_head(&mut stream);
    tell.send(b"first".to_vec()).unwrap();
    read(&mut stream, "5\r\nfirst\r\n");
    gateway.apply(vec![redacting(BEARER, REDACT)]);
    // The upstream may be gone already.
    let _heard = tell.send(SECRET.as_bytes().to_vec());
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).expect_err("a cut, not an end");
    assert!(rest.is_empty(), "{}", String::from_utf8_lossy(&rest));
    assert_eq!(gateway.records(1)[0]["verdict"], "cut");
}
