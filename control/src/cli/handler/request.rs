//! The request that `handler test` shows to a module: a URL, or a file that holds a head.

use std::path::Path;

/// A head as it would arrive, and whether over TLS.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Arriving {
    pub head: String,
    pub tls: bool,
}

/// What the command line says beside URL or file.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Beside<'a> {
    pub method: Option<&'a str>,
    pub host: Option<&'a str>,
    pub headers: &'a [String],
    pub plain: bool,
}

/// Reads `--request`: what holds `://` is a URL, all else a file.
pub(super) fn read(request: &str, beside: &Beside<'_>) -> Result<Arriving, String> {
    if request.contains("://") {
        return of_url(request, beside);
    }
    let text = std::fs::read_to_string(Path::new(request)).map_err(|error| {
        format!(
            "--request takes a URL (https://…) or a file that holds a request; cannot read {request}: {error}"
        )
    })?;
    of_file(request, &text, beside)
}

fn of_url(url: &str, beside: &Beside<'_>) -> Result<Arriving, String> {
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
    let line = format!("{} {slash}{path} HTTP/1.1", beside.method.unwrap_or("GET"));
    Ok(Arriving { head: head(&line, &[format!("Host: {host}")], beside), tls })
}

/// The head may have lines of either kind; what follows its empty line is the body, which no handler sees yet.
fn of_file(name: &str, text: &str, beside: &Beside<'_>) -> Result<Arriving, String> {
    let mut lines = text.lines().map(|line| line.trim_end_matches('\r')).take_while(|line| !line.is_empty());
    let line = lines.next().unwrap_or_default();
    if line.split(' ').count() != 3 {
        return Err(format!("{name} does not begin with a line like `GET /path HTTP/1.1`"));
    }
    let line = match (beside.method, line.split_once(' ')) {
        (Some(method), Some((_, rest))) => format!("{method} {rest}"),
        _ => line.to_owned(),
    };
    let is_host = |line: &&str| line.split(':').next().is_some_and(|name| name.eq_ignore_ascii_case("host"));
    let mut fields: Vec<String> = match beside.host {
        Some(host) => vec![format!("Host: {host}")],
        None => Vec::new(),
    };
    fields.extend(lines.filter(|line| beside.host.is_none() || !is_host(line)).map(str::to_owned));
    Ok(Arriving { head: head(&line, &fields, beside), tls: !beside.plain })
}

fn head(line: &str, fields: &[String], beside: &Beside<'_>) -> String {
    let mut lines = vec![line.to_owned()];
    lines.extend(fields.iter().chain(beside.headers).cloned());
    lines.join("\r\n") + "\r\n\r\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_the_request_that_a_client_would_send() {
        let read = |url, beside: Beside<'_>| of_url(url, &beside).unwrap();
        let plain = read("http://a.test:8080?q=1#part", Beside::default());
        assert_eq!(
            plain,
            Arriving { head: "GET /?q=1 HTTP/1.1\r\nHost: a.test:8080\r\n\r\n".into(), tls: false }
        );
        let headers = ["X-A: 1".to_owned()];
        let more = Beside { method: Some("POST"), host: Some("b.test"), headers: &headers, plain: false };
        let posted = read("https://a.test/x", more);
        assert_eq!(
            posted,
            Arriving { head: "POST /x HTTP/1.1\r\nHost: b.test\r\nX-A: 1\r\n\r\n".into(), tls: true }
        );
        assert!(of_url("ftp://a.test/", &Beside::default()).unwrap_err().contains("https://"));
    }

    #[test]
    fn a_file_is_a_head_with_lines_of_either_kind_and_no_body() {
        let text = "PUT /x HTTP/1.1\nhost: a.test\r\nX-A: 1\n\nbody: not a field\n";
        let read = of_file("f", text, &Beside::default()).unwrap();
        assert_eq!(read.head, "PUT /x HTTP/1.1\r\nhost: a.test\r\nX-A: 1\r\n\r\n");
        let other =
            of_file("f", text, &Beside { host: Some("b.test"), plain: true, ..Beside::default() }).unwrap();
        assert_eq!(other.head, "PUT /x HTTP/1.1\r\nHost: b.test\r\nX-A: 1\r\n\r\n");
        assert!(!other.tls);
        assert!(of_file("f", "hello\n", &Beside::default()).unwrap_err().contains("GET /path"));
    }
}
