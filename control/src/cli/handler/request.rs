//! What `handler test` shows to a module: a request from a URL or a file, and an answer from a file.

use std::fs;

use control_wire::limits::TRIAL_BODY_BYTES_MAX;

/// A head as it would arrive, whether over TLS, and what follows it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Arriving {
    pub head: String,
    pub tls: bool,
    pub body: Vec<u8>,
}

/// What the command line says beside URL or file.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Beside<'a> {
    pub method: Option<&'a str>,
    pub host: Option<&'a str>,
    pub headers: &'a [String],
    pub plain: bool,
    /// A file whose bytes are the body.
    pub body: Option<&'a str>,
}

/// Reads `--request`: what holds `://` is a URL, all else a file.
pub(super) fn read(request: &str, beside: &Beside<'_>) -> Result<Arriving, String> {
    let body = match beside.body {
        Some(file) => fs::read(file).map_err(|error| format!("cannot read --body {file}: {error}"))?,
        None => Vec::new(),
    };
    let arriving = if request.contains("://") {
        of_url(request, beside, body)
    } else {
        let text = fs::read(request).map_err(|error| {
            format!(
                "--request takes a URL (https://…) or a file that holds a request; cannot read {request}: {error}"
            )
        })?;
        of_file(request, &text, beside, body)
    };
    arriving.and_then(|arriving| fits(arriving, request))
}

/// Reads `--answer`: a head and what follows it, as `curl -si` writes them.
pub(super) fn read_answer(file: &str) -> Result<(String, Vec<u8>), String> {
    let text = fs::read(file).map_err(|error| {
        format!("--answer takes a file that holds an answer, as `curl -si URL` writes it; cannot read {file}: {error}")
    })?;
    let (head, body) = of_answer(file, &text)?;
    let Arriving { head, body, .. } = fits(Arriving { head, tls: true, body }, file)?;
    Ok((head, body))
}

fn fits(arriving: Arriving, name: &str) -> Result<Arriving, String> {
    match arriving.body.len() {
        0..=TRIAL_BODY_BYTES_MAX => Ok(arriving),
        bytes => {
            Err(format!("the body of {name} has {bytes} bytes; at most {TRIAL_BODY_BYTES_MAX} are shown"))
        }
    }
}

fn of_url(url: &str, beside: &Beside<'_>, body: Vec<u8>) -> Result<Arriving, String> {
    let (scheme, rest) = url.split_once("://").unwrap_or_default();
    let tls = match scheme {
        "https" => !beside.plain,
        "http" => false,
        _ => return Err(format!("{url} begins with neither http:// nor https://")),
    };
    // RFC 3986 §3.5: a fragment is not sent.
    let rest = rest.split('#').next().unwrap_or_default();
    let at = rest.find(['/', '?']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(at);
    let slash = if path.starts_with('/') { "" } else { "/" };
    let host = beside.host.unwrap_or(authority);
    let usual = if beside.body.is_some() { "POST" } else { "GET" };
    let line = format!("{} {slash}{path} HTTP/1.1", beside.method.unwrap_or(usual));
    let fields = [&[format!("Host: {host}")], beside.headers].concat();
    Ok(Arriving { head: head(&line, fields, &body), tls, body })
}

/// The head may have lines of either kind. What follows its empty line is the body, unless another one is given.
fn of_file(name: &str, text: &[u8], beside: &Beside<'_>, body: Vec<u8>) -> Result<Arriving, String> {
    let (lines, rest) = parted(name, text)?;
    let (line, fields) = lines.split_first().map_or(("", &[][..]), |(line, fields)| (*line, fields));
    if line.split(' ').count() != 3 {
        return Err(format!("{name} does not begin with a line like `GET /path HTTP/1.1`"));
    }
    let line = match (beside.method, line.split_once(' ')) {
        (Some(method), Some((_, rest))) => format!("{method} {rest}"),
        _ => line.to_owned(),
    };
    let host = beside.host.map(|host| format!("Host: {host}"));
    let own =
        fields.iter().filter(|field| host.is_none() || !is(field, "host")).map(|field| (*field).to_owned());
    let fields = host.clone().into_iter().chain(own).chain(beside.headers.iter().cloned()).collect();
    let body = if beside.body.is_some() { body } else { rest.to_vec() };
    Ok(Arriving { head: head(&line, fields, &body), tls: !beside.plain, body })
}

/// Programs save interim answers too, and heads of every version.
fn of_answer(name: &str, text: &[u8]) -> Result<(String, Vec<u8>), String> {
    let mut rest = text;
    loop {
        let lines;
        (lines, rest) = parted(name, rest)?;
        let (line, fields) = lines.split_first().map_or(("", &[][..]), |(line, fields)| (*line, fields));
        let (version, status) = line.split_once(' ').unwrap_or_default();
        if !version.starts_with("HTTP/") || status.is_empty() {
            return Err(format!("{name} does not begin with a line like `HTTP/1.1 200 OK`"));
        }
        if status.starts_with('1') {
            continue;
        }
        let fields = fields.iter().map(|field| (*field).to_owned()).collect();
        return Ok((head(&format!("HTTP/1.1 {status}"), fields, rest), rest.to_vec()));
    }
}

/// The lines of a head, and what follows the empty line behind them.
fn parted<'a>(name: &str, text: &'a [u8]) -> Result<(Vec<&'a str>, &'a [u8]), String> {
    let (mut lines, mut rest) = (Vec::new(), text);
    while !rest.is_empty() {
        let end = rest.iter().position(|byte| *byte == b'\n').unwrap_or(rest.len());
        let line = rest[..end].strip_suffix(b"\r").unwrap_or(&rest[..end]);
        rest = rest.get(end + 1..).unwrap_or_default();
        if line.is_empty() {
            break;
        }
        lines.push(std::str::from_utf8(line).map_err(|_| format!("the head of {name} is not UTF-8"))?);
    }
    Ok((lines, rest))
}

fn is(field: &str, name: &str) -> bool {
    field.split(':').next().is_some_and(|found| found.eq_ignore_ascii_case(name))
}

/// A head. Where a body follows that no coding frames, its length is told as it is.
fn head(line: &str, mut fields: Vec<String>, body: &[u8]) -> String {
    let coded = fields.iter().any(|field| is(field, "transfer-encoding"));
    if !body.is_empty() && !coded {
        fields.retain(|field| !is(field, "content-length"));
        fields.push(format!("Content-Length: {}", body.len()));
    }
    fields.insert(0, line.to_owned());
    fields.join("\r\n") + "\r\n\r\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_the_request_that_a_client_would_send() {
        let read = |url, beside: Beside<'_>, body: &[u8]| of_url(url, &beside, body.to_vec()).unwrap();
        let plain = read("http://a.test:8080?q=1#part", Beside::default(), b"");
        assert_eq!(
            (plain.head.as_str(), plain.tls),
            ("GET /?q=1 HTTP/1.1\r\nHost: a.test:8080\r\n\r\n", false)
        );
        let headers = ["X-A: 1".to_owned()];
        let more = Beside { host: Some("b.test"), headers: &headers, body: Some("f"), ..Beside::default() };
        let posted = read("https://a.test/x", more, b"hi");
        assert_eq!(
            (posted.head.as_str(), posted.tls),
            ("POST /x HTTP/1.1\r\nHost: b.test\r\nX-A: 1\r\nContent-Length: 2\r\n\r\n", true)
        );
        let put = read("https://a.test/x", Beside { method: Some("PUT"), ..more }, b"hi");
        assert!(put.head.starts_with("PUT ") && put.body == b"hi");
        assert!(of_url("ftp://a.test/", &Beside::default(), Vec::new()).unwrap_err().contains("https://"));
    }

    #[test]
    fn a_file_is_a_head_with_lines_of_either_kind_and_what_follows_it() {
        let text = b"PUT /x HTTP/1.1\nhost: a.test\r\nX-A: 1\n\nb\xff\r\n\n";
        let read = of_file("f", text, &Beside::default(), Vec::new()).unwrap();
        assert_eq!(read.head, "PUT /x HTTP/1.1\r\nhost: a.test\r\nX-A: 1\r\nContent-Length: 5\r\n\r\n");
        assert_eq!(read.body, b"b\xff\r\n\n");
        let beside = Beside { host: Some("b.test"), plain: true, body: Some("g"), ..Beside::default() };
        let other = of_file("f", text, &beside, b"other".to_vec()).unwrap();
        assert_eq!(other.head, "PUT /x HTTP/1.1\r\nHost: b.test\r\nX-A: 1\r\nContent-Length: 5\r\n\r\n");
        assert!(!other.tls && other.body == b"other");
        let coded =
            of_file("f", b"PUT / HTTP/1.1\nTransfer-Encoding: chunked\n\nhi", &Beside::default(), Vec::new());
        assert!(!coded.unwrap().head.contains("Content-Length"));
        let said = of_file("f", b"hello\n", &Beside::default(), Vec::new()).unwrap_err();
        assert!(said.contains("GET /path"), "{said}");
    }

    #[test]
    fn an_answer_is_what_curl_saved() {
        let saved = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/2 200 \r\ncontent-length: 9\r\nx: 1\r\n\r\nhello";
        let (head, body) = of_answer("f", saved).unwrap();
        assert_eq!(head, "HTTP/1.1 200 \r\nx: 1\r\nContent-Length: 5\r\n\r\n");
        assert_eq!(body, b"hello");
        let (head, body) = of_answer("f", b"HTTP/1.1 204 No Content\n").unwrap();
        assert_eq!((head.as_str(), &body[..]), ("HTTP/1.1 204 No Content\r\n\r\n", &b""[..]));
        for text in [&b""[..], b"<html>", b"HTTP/1.1 100 Continue\n\n"] {
            assert!(of_answer("f", text).unwrap_err().contains("HTTP/1.1 200 OK"));
        }
        assert!(of_answer("f", b"HTTP/1.1 200 \xff\n\n").unwrap_err().contains("UTF-8"));
        let long = Arriving { head: String::new(), tls: true, body: vec![0; TRIAL_BODY_BYTES_MAX + 1] };
        assert!(fits(long, "f").unwrap_err().contains("at most"));
    }
}
