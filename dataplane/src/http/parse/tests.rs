//! Requests that must be refused, answers that must pass, and a storm of mutated heads.

use super::super::{
    Scheme,
    fault::HeadError::{self, *},
    head::{Framing, Parsed, RequestHead, ResponseHead, TargetForm},
    reader::{parse_request, parse_response},
};

fn request(text: &str) -> Result<RequestHead, HeadError> {
    match parse_request(text.as_bytes())? {
        Parsed::Complete { head, .. } => Ok(head.to_owned()),
        Parsed::Partial => panic!("partial: {text:?}"),
    }
}

fn get(fields: &str) -> Result<RequestHead, HeadError> {
    request(&format!("GET / HTTP/1.1\r\n{fields}\r\n"))
}

fn post(fields: &str) -> Result<RequestHead, HeadError> {
    request(&format!("POST / HTTP/1.1\r\nHost: a\r\n{fields}\r\n"))
}

fn target(line: &str) -> Result<RequestHead, HeadError> {
    request(&format!("{line} HTTP/1.1\r\nHost: a\r\n\r\n"))
}

fn answer(text: &str, method: &str) -> Result<ResponseHead, HeadError> {
    match parse_response(text.as_bytes(), method)? {
        Parsed::Complete { head, .. } => Ok(head.to_owned()),
        Parsed::Partial => panic!("partial: {text:?}"),
    }
}

#[test]
fn ambiguous_heads_are_refused() {
    for (fields, error) in [
        ("", HostMissing),
        ("Host:\r\n", HostMissing),
        ("Host: a\r\nHost: a\r\n", HostRepeated),
        ("Host : a\r\n", SpaceBeforeColon),
        ("Host\t: a\r\n", SpaceBeforeColon),
        ("Host: a\r\nB: c\r\n d\r\n", Folded),
        ("Host: a\r\nB: c\nd: e\r\n", BareLf),
        ("Host: a\r\nB: c\rd\r\n", BareCr),
        ("Host: a\r\nB: \0\r\n", Nul),
        ("Host: a\r\nB: \u{1}\r\n", Field),
        ("Host: a\r\nB\r\n", Field),
        ("Host: a\r\n: b\r\n", Field),
        ("Host: a\r\nB(: b\r\n", Field),
        ("Host: a\r\nUpgrade: websocket\r\n", Upgrade),
        ("Host: a\r\nConnection: upgrade\r\nUpgrade: websocket, x\r\n", Upgrade),
        ("Host: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\nContent-Length: 1\r\n", Upgrade),
        ("Host: a\r\nConnection: upgrade\r\nUpgrade: tcp\r\nContent-Length: 1\r\n", Upgrade),
        ("Host: a\r\nConnection: upgrade\r\nUpgrade: h2c\r\nUpgrade: tcp\r\n", Upgrade),
        ("Host: a\r\nConnection: upgrade\r\nUpgrade: tcp\r\nUpgrade: tcp\r\n", Upgrade),
        ("Host: a\r\nConnection: upgrade\r\nUpgrade: h2c, tcp\r\n", Upgrade),
        ("Host: a\r\nConnection: upgrade\r\nUpgrade: tcp/1/2\r\n", Upgrade),
        ("Host: a\r\nUpgrade: tcp\r\n", Upgrade),
        ("Host: a\r\nExpect: 200-ok\r\n", Expectation),
    ] {
        assert_eq!(get(fields).err(), Some(error), "{fields:?}");
    }
    let many = "A: b\r\n".repeat(100);
    assert_eq!(get(&format!("Host: a\r\n{many}")).err(), Some(TooManyFields));
}

#[test]
fn ambiguous_framing_is_refused() {
    for (fields, error) in [
        ("Content-Length: 1\r\nContent-Length: 1\r\n", ContentLength),
        ("Content-Length: 1\r\nContent-Length: 2\r\n", ContentLength),
        ("Content-Length: 1, 1\r\n", ContentLength),
        ("Content-Length: +1\r\n", ContentLength),
        ("Content-Length: -1\r\n", ContentLength),
        ("Content-Length: 0x1\r\n", ContentLength),
        ("Content-Length: 1 1\r\n", ContentLength),
        ("Content-Length:\r\n", ContentLength),
        ("Content-Length: 9223372036854775808\r\n", ContentLength),
        ("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", TransferEncoding),
        ("Transfer-Encoding: gzip, chunked\r\n", TransferEncoding),
        ("Transfer-Encoding: chunked, identity\r\n", TransferEncoding),
        ("Transfer-Encoding: xchunked\r\n", TransferEncoding),
        ("Transfer-Encoding: \"chunked\"\r\n", TransferEncoding),
        ("Transfer-Encoding:\r\n", TransferEncoding),
        ("Transfer-Encoding: chunked\r\nContent-Length: 3\r\n", Framing),
        ("Content-Length: 3\r\nTransfer-Encoding: chunked\r\n", Framing),
        ("Transfer_Encoding: chunked\r\n", Framing),
        ("content_length: 3\r\n", Framing),
    ] {
        assert_eq!(post(fields).err(), Some(error), "{fields:?}");
    }
    let old = request("POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n");
    assert_eq!(old.err(), Some(TransferEncoding));
    let tunnel = request("CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\nContent-Length: 0\r\n\r\n");
    assert_eq!(tunnel.err(), Some(Framing));
}

#[test]
fn sound_framing_is_read() {
    assert_eq!(post("").unwrap().framing(), super::Framing::None);
    assert_eq!(post("Content-Length: 007\r\n").unwrap().framing(), super::Framing::Length(7));
    let chunked = post("transfer-encoding: Chunked\r\nExpect: 100-Continue\r\n").unwrap();
    assert_eq!((chunked.framing(), chunked.expects_continue()), (super::Framing::Chunked, true));
}

#[test]
fn request_lines_are_strict() {
    for (line, error) in [
        ("GET  /", RequestLine),
        ("GET /a b", RequestLine),
        ("GET\t/", RequestLine),
        ("G(T /", RequestLine),
        ("GET *", Target),
        ("GET a.example", Target),
        ("GET a.example:80", Target),
        ("GET /\u{fc}", Target),
        ("GET /a\\b", Target),
        ("GET /%zz", Target),
        ("GET /%0", Target),
        ("GET /a%00", Target),
        ("GET /#f", Fragment),
        ("GET http://u:p@a/", UserInfo),
        ("GET http:///x", Target),
        ("GET ftp://a/", Scheme),
        ("CONNECT /", Target),
        ("CONNECT a", Target),
        ("CONNECT u@a:443", UserInfo),
        ("TRACE /", Trace),
        ("ABCDEFGHIJKLMNOPQRSTUVWXYZABCDEFGHI /", Method),
    ] {
        assert_eq!(target(line).err(), Some(error), "{line:?}");
    }
    let long = format!("GET /{}", "a".repeat(16 << 10));
    assert_eq!(target(&long).err(), Some(TargetTooLong));
    assert_eq!(request("GET / HTTP/2.0\r\nHost: a\r\n\r\n").err(), Some(Version));
    assert_eq!(request("GET / HTTP/1.2\r\nHost: a\r\n\r\n").err(), Some(Version));
    assert_eq!(request("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").err(), Some(Http2Preface));
}

#[test]
fn targets_are_taken_apart() {
    let head = target("GET HTTPS://B.example:8443/x%20y?q=1?2").unwrap();
    assert_eq!(head.form(), TargetForm::Absolute);
    assert_eq!(head.target_scheme(), Some(Scheme::Https));
    assert_eq!(head.target_authority(), Some(&b"B.example:8443"[..]));
    assert_eq!((head.path(), head.query()), ("/x%20y", Some("q=1?2")));
    assert_eq!(target("GET http://b?q").unwrap().path(), "/");
    assert_eq!(target("OPTIONS http://b").unwrap().path(), "*");
    assert_eq!(target("OPTIONS *").unwrap().form(), TargetForm::Asterisk);
    assert_eq!(target("GET /?").unwrap().query(), Some(""));
    assert_eq!(target("CONNECT [::1]:443").unwrap().target_authority(), Some(&b"[::1]:443"[..]));
}

#[test]
fn persistence_follows_version_and_connection() {
    let keeps = |version: &str, field: &str| {
        request(&format!("GET / HTTP/{version}\r\nHost: a\r\n{field}\r\n")).unwrap().keep_alive()
    };
    assert!(keeps("1.1", ""));
    assert!(!keeps("1.1", "Connection: x, Close\r\n"));
    assert!(!keeps("1.0", ""));
    assert!(keeps("1.0", "Connection: keep-alive\r\n"));
    assert!(request("GET / HTTP/1.0\r\n\r\n").unwrap().host().is_none());
}

#[test]
fn one_protocol_without_a_body_before_it_may_be_asked_for() {
    for (method, fields) in [
        ("GET", "Upgrade: websocket"),
        ("GET", "Upgrade: tcp"),
        ("POST", "Upgrade: SPDY/3.1\r\nContent-Length: 0"),
    ] {
        let text = format!("{method} / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\n{fields}\r\n\r\n");
        assert_eq!(request(&text).unwrap().framing(), Framing::Tunnel, "{fields}");
    }
}

#[test]
fn offer_of_h2c_is_ignored() {
    assert!(get("Host: a\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n").is_ok());
}

#[test]
fn cosmetic_deviation_of_an_answer_passes() {
    let head = answer("HTTP/1.1 200\r\nContent-Length: 3\r\nContent-Length: 3, 3\r\n\r\n", "GET").unwrap();
    assert_eq!((head.framing(), head.reason()), (Framing::Length(3), &b""[..]));
    let bytes = b"HTTP/1.0 404 Nicht da \xfc!\r\nX: \xe4\r\n\r\n";
    let Ok(Parsed::Complete { head, .. }) = parse_response(bytes, "GET") else { panic!("latin-1 passes") };
    assert_eq!((head.reason(), head.field("x")), (&b"Nicht da \xfc!"[..], Some(&b"\xe4"[..])));
    assert_eq!((head.framing(), head.keep_alive()), (Framing::UntilClose, false));
}

#[test]
fn doubt_about_an_answers_framing_is_an_error() {
    for (head, error) in [
        ("200 OK\r\nContent-Length: 3\r\nContent-Length: 4\r\n", ContentLength),
        ("200 OK\r\nContent-Length: 3, 4\r\n", ContentLength),
        ("200 OK\r\nContent-Length: x\r\n", ContentLength),
        ("200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n", HeadError::Framing),
        ("200 OK\r\nTransfer-Encoding: gzip, chunked\r\n", TransferEncoding),
        ("200 OK\r\nTransfer-Encoding : chunked\r\n", SpaceBeforeColon),
        ("200 OK\r\nA: b\r\n c\r\n", Folded),
        ("204 No Content\r\nTransfer-Encoding: chunked\r\n", HeadError::Framing),
        ("101 Switching Protocols\r\nUpgrade: x, y\r\n", SwitchedProtocols),
        ("101 Switching Protocols\r\nUpgrade: x\r\nUpgrade: x\r\n", SwitchedProtocols),
        ("099 Low\r\n", StatusLine),
        ("600 High\r\n", StatusLine),
        ("20 Short\r\n", StatusLine),
    ] {
        assert_eq!(answer(&format!("HTTP/1.1 {head}\r\n"), "GET").err(), Some(error), "{head:?}");
    }
    let old = answer("HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", "GET");
    assert_eq!(old.err(), Some(TransferEncoding));
}

#[test]
fn some_answers_have_no_body_whatever_they_say() {
    let framing = |status: &str, method: &str| {
        answer(&format!("HTTP/1.1 {status}\r\nContent-Length: 9\r\n\r\n"), method).unwrap().framing()
    };
    assert_eq!(framing("200 OK", "HEAD"), Framing::None);
    assert_eq!(framing("204 No Content", "GET"), Framing::None);
    assert_eq!(framing("304 Not Modified", "GET"), Framing::None);
    assert_eq!(framing("103 Early Hints", "GET"), Framing::None);
    assert_eq!(framing("200 OK", "GET"), Framing::Length(9));
}
