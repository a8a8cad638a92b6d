//! Every form of a credential that an answer may hold, in answers of every shape.

use super::*;

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
