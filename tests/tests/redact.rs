//! A server that repeats the credential which its request was given: where the rule says `redact`, the sandbox reads
//! it in no form, and what cannot be searched is refused; where it does not, an answer passes untouched.

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

/// An answer that repeats a credential.
struct Said {
    status: u16,
    coding: &'static str,
    fields: Vec<(&'static str, String)>,
    body: Vec<u8>,
    trailers: Vec<(&'static str, String)>,
    /// Bytes of one chunk or frame.
    step: usize,
}

/// The credential in each form, in a text of several blocks and records.
fn text(credential: &str) -> String {
    let filler: String =
        (0..3_000u32).map(|at| format!("{} ", at.wrapping_mul(2_654_435_761) >> 8)).collect();
    let basic = |user: &str| BASE64.encode(format!("{user}:{credential}").as_bytes());
    let forms = [
        credential.to_owned(),
        percent(credential),
        json_escaped(credential),
        basic("a"),
        basic("ab"),
        basic("abc"),
        percent(&basic("abcd")),
        HEXUPPER.encode(credential.as_bytes()),
    ];
    forms.iter().map(|form| format!("{filler}<{form}>\n")).collect()
}

const PATHS: [&str; 13] = [
    "/identity",
    "/gzip",
    "/deflate",
    "/bare",
    "/br",
    "/zstd",
    "/nested",
    "/fields",
    "/error",
    "/interim",
    "/trailers",
    "/split",
    "/empty",
];

fn said(path: &str, authorization: &str) -> Said {
    let credential = authorization.strip_prefix("Bearer ").expect("it carries its credential");
    let mut said =
        Said { status: 200, coding: "identity", fields: vec![], body: vec![], trailers: vec![], step: 5_000 };
    match path {
        "/bare" => (said.coding, said.body) = ("deflate", coded("bare", text(credential).as_bytes())),
        "/nested" => {
            let once = coded("gzip", text(credential).as_bytes());
            (said.coding, said.body) = ("gzip, br", coded("br", &once));
        }
        "/fields" => {
            said.fields = vec![
                ("location", format!("https://elsewhere.test/?token={}", percent(credential))),
                ("set-cookie", format!("session={}; Path=/", BASE64.encode(authorization.as_bytes()))),
                ("x-echo", authorization.to_owned()),
                ("etag", "\"v1\"".to_owned()),
            ];
        }
        "/error" => {
            said.status = 500;
            said.body = format!("no such user for {authorization}").into_bytes();
        }
        "/trailers" => {
            said.body = b"ok".to_vec();
            said.trailers = vec![("x-echo", authorization.to_owned()), ("x-other", "other".to_owned())];
        }
        "/split" => {
            (said.body, said.step) = (format!("{authorization} and {}", percent(credential)).into_bytes(), 1);
        }
        "/interim" => said.body = b"ok".to_vec(),
        "/empty" => said.coding = "gzip",
        coding => {
            let known = ["identity", "gzip", "deflate", "br", "zstd"];
            let coding = known.into_iter().find(|known| coding[1..] == **known).expect("a path of this test");
            (said.coding, said.body) = (coding, coded(coding, text(credential).as_bytes()));
        }
    }
    said.fields.push(("content-encoding", said.coding.to_owned()));
    said
}

fn path(seen: &Seen) -> &str {
    seen.line().split(' ').nth(1).expect("a target")
}

/// Repeats it in HTTP/1.1, chunk by chunk.
fn in_http11(seen: &Seen, out: &mut dyn Write) -> io::Result<()> {
    let authorization = seen.fields("authorization").next().unwrap_or_default();
    let said = said(path(seen), authorization);
    if path(seen) == "/interim" {
        write!(out, "HTTP/1.1 103 Early Hints\r\nLink: <{authorization}>; rel=preload\r\n\r\n")?;
    }
    write!(out, "HTTP/1.1 {} You sent {authorization}\r\nTransfer-Encoding: chunked\r\n", said.status)?;
    said.fields.iter().try_for_each(|(name, value)| write!(out, "{name}: {value}\r\n"))?;
    out.write_all(b"\r\n")?;
    for piece in said.body.chunks(said.step) {
        write!(out, "{:x}\r\n", piece.len())?;
        out.write_all(piece)?;
        out.write_all(b"\r\n")?;
        out.flush()?;
    }
    out.write_all(b"0\r\n")?;
    said.trailers.iter().try_for_each(|(name, value)| write!(out, "{name}: {value}\r\n"))?;
    out.write_all(b"\r\n")?;
    out.flush()
}

/// Repeats it in HTTP/2, frame by frame.
fn over_http2() -> Origin {
    http2::origin(&["origin.test"], |request, mut answer| async move {
        let authorization = request.headers().get("authorization")?.to_str().ok()?;
        let said = said(request.uri().path(), authorization);
        let mut head = Response::builder().status(said.status);
        for (name, value) in &said.fields {
            head = head.header(*name, value);
        }
        let mut stream = answer.send_response(head.body(()).ok()?, false).ok()?;
        for piece in said.body.chunks(said.step) {
            stream.reserve_capacity(piece.len());
            while stream.capacity() < piece.len() {
                std::future::poll_fn(|cx| stream.poll_capacity(cx)).await?.ok()?;
            }
            stream.send_data(Bytes::copy_from_slice(piece), false).ok()?;
        }
        let mut trailers = HeaderMap::new();
        for (name, value) in said.trailers {
            trailers.insert(name, value.parse().ok()?);
        }
        stream.send_trailers(trailers).ok()
    })
}

/// Everything that a client in HTTP/1.1 reads of an answer, byte for byte, and its body without chunks.
fn in_full(gateway: &Gateway, port: u16, path: &str) -> (Vec<u8>, Vec<u8>) {
    let mut stream = gateway.tls("origin.test", port);
    write!(stream, "GET {path} HTTP/1.1\r\nHost: origin.test:{port}\r\nConnection: close\r\n\r\n").unwrap();
    let mut raw = Vec::new();
    stream.read_to_end(&mut raw).expect("an end, not a cut");
    let head_end = raw.windows(4).rposition(|window| window == b"\r\n\r\n").expect("a head");
    let last = String::from_utf8_lossy(&raw[..head_end]).rfind("HTTP/1.1 ").unwrap_or(0);
    let begin = last + raw[last..].windows(4).position(|window| window == b"\r\n\r\n").expect("a head") + 4;
    let (mut body, mut rest) = (Vec::new(), &raw[begin..]);
    loop {
        let end = rest.windows(2).position(|window| window == b"\r\n").expect("a chunk's line");
        let line = std::str::from_utf8(&rest[..end]).expect("a number");
        let length = usize::from_str_radix(line, 16).expect("a number");
        if length == 0 {
            return (raw.clone(), body);
        }
        body.extend_from_slice(&rest[end + 2..end + 2 + length]);
        rest = &rest[end + 4 + length..];
    }
}

/// The origin's text with the credential masked: all but what base64 mixes with its neighbours.
fn check_body(path: &str, body: &[u8]) {
    assert!(!readable(SECRET, body), "{path}");
    let body = String::from_utf8_lossy(body);
    match path {
        "/fields" | "/empty" => assert_eq!(body, ""),
        "/interim" | "/trailers" => assert_eq!(body, "ok"),
        "/error" => assert_eq!(body, format!("no such user for Bearer {}", "*".repeat(SECRET.len()))),
        "/split" => {
            let masks = ("*".repeat(SECRET.len()), "*".repeat(3 * SECRET.len()));
            assert_eq!(body, format!("Bearer {} and {}", masks.0, masks.1));
        }
        _ => {
            let (was, now) = (text(SECRET), body.replace('*', ""));
            assert_eq!(body.len(), was.len(), "{path}");
            assert_eq!(now.len() + body.matches('*').count(), was.len());
            for (was, now) in was.lines().zip(body.lines()) {
                let (filler, form) = was.split_once('<').expect("a form");
                assert!(now.starts_with(filler), "{path}: what is around stays");
                let left = now[filler.len()..].replace('*', "");
                let most = if form.starts_with('%') { 66 } else { 22 };
                assert!(left.len() < most && left.len() < form.len(), "{path}: {left} is left of {form}");
            }
        }
    }
}

/// The records of all paths, twice; those of `silent` are of answers in which it was not repeated.
fn check_records(gateway: Gateway, silent: &[&str]) {
    for record in gateway.records(2 * PATHS.len()) {
        assert_eq!(record["verdict"], "allowed", "{record}");
        assert_eq!(record["secrets"][0], "token");
        let masked = record["redacted"].as_u64().expect("it was searched");
        assert_eq!(masked == 0, silent.iter().any(|path| record["path"] == **path), "{record}");
        assert!(!readable(SECRET, record.to_string().as_bytes()), "{record}");
    }
}

#[test]
fn no_form_of_a_credential_reaches_the_sandbox_whichever_versions_are_spoken() {
    let (old, new) = (Origin::tls(&["origin.test"], in_http11), over_http2());
    // In HTTP/1.1 the phrase of every answer repeats it; this origin sends no interim head in HTTP/2.
    for (origin, silent) in [(old, &[][..]), (new, &["/interim", "/empty"][..])] {
        let gateway = gateway(&origin);
        let port = origin.address.port();
        for path in PATHS {
            let (raw, body) = in_full(&gateway, port, path);
            assert!(!readable(SECRET, &raw), "{path}: {}", String::from_utf8_lossy(&raw));
            let head = String::from_utf8_lossy(&raw[..raw.len() - body.len().min(raw.len())]).to_lowercase();
            assert!(!head.contains("content-encoding: gzip"), "{head}");
            check_body(path, &body);
        }
        run(async {
            let mut client = Client::connect(&gateway, "origin.test", port).await;
            for path in PATHS {
                let whole = client.get(path).await;
                let behind = whole.trailers.iter().flat_map(HeaderMap::iter);
                for (name, value) in whole.head.headers().iter().chain(behind) {
                    assert!(!readable(SECRET, value.as_bytes()), "{path}: {name}: {value:?}");
                }
                check_body(path, &whole.body);
                if path == "/trailers" {
                    let trailers = whole.trailers.expect("trailers pass");
                    assert_eq!(trailers["x-other"], "other");
                    assert!(trailers["x-echo"].as_bytes().ends_with(b"****"));
                }
                if path == "/fields" {
                    assert_eq!(whole.head.headers()["etag"], "\"v1\"");
                    assert!(whole.head.headers()["set-cookie"].as_bytes().ends_with(b"; Path=/"));
                }
            }
        });
        check_records(gateway, silent);
    }
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
