//! curl in every version of HTTP that it speaks: bodies both ways, ranges, what was broken off, and what it asks first.

use std::{
    io::{self, Write},
    sync::{Mutex, mpsc},
};

use tests::{
    gateway::{PATIENCE, read_head},
    origin::{Duplex, Origin, Seen, respond},
    websocket::field,
    yard::Yard,
};

use crate::trial::{assert_installed, told};

/// Bytes of the file that goes both ways.
const FILE_BYTES: usize = 3 << 20;

/// `c` is curl in the version that is the first word, `$base` the second word.
const BEGIN: &str = r#"
version=$1 base=$2
c() { curl --silent --show-error "$version" --write-out '%{http_version} %{http_code} %{size_download}\n' "$@"; }
"#;

/// The whole file: no piece is like the next.
fn file() -> Vec<u8> {
    (0..FILE_BYTES as u64 / 8).flat_map(|at| at.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes()).collect()
}

/// Where `Range` wants a beginning, and an end behind the last byte.
fn range(seen: &Seen, length: usize) -> Option<(usize, usize)> {
    let (from, to) = seen.fields("range").next()?.strip_prefix("bytes=")?.split_once('-')?;
    Some((from.parse().ok()?, to.parse().map_or(length, |last: usize| last + 1)))
}

fn serve(file: &[u8], seen: &Seen, out: &mut dyn Write) -> io::Result<()> {
    let head = |out: &mut dyn Write, status: &str, more: &str, length: usize| {
        write!(out, "HTTP/1.1 {status}\r\nETag: \"1\"\r\n{more}Content-Length: {length}\r\n\r\n")
    };
    let method = seen.line().split(' ').next().unwrap_or_default();
    match seen.line().split(' ').nth(1).unwrap_or_default() {
        "/page" if seen.fields("if-none-match").eq(["\"1\""]) => {
            write!(out, "HTTP/1.1 304 Not Modified\r\nETag: \"1\"\r\n\r\n")?;
        }
        "/page" if method == "HEAD" => head(out, "200 OK", "", 5)?,
        "/page" => respond(out, b"page\n")?,
        "/nothing" => write!(out, "HTTP/1.1 204 No Content\r\n\r\n")?,
        "/trailers" => {
            let chunked = "Transfer-Encoding: chunked\r\nTrailer: X-Sum";
            write!(out, "HTTP/1.1 200 OK\r\n{chunked}\r\n\r\n4\r\nbody\r\n1\r\n\n\r\n0\r\nX-Sum: 5\r\n\r\n")?;
        }
        "/upload" => respond(out, if seen.body == file { b"same\n" } else { b"else\n" })?,
        path => match range(seen, file.len()) {
            Some((from, to)) => {
                let more = format!("Content-Range: bytes {from}-{}/{}\r\n", to - 1, file.len());
                head(out, "206 Partial Content", &more, to - from)?;
                out.write_all(&file[from..to])?;
            }
            None if path == "/broken" => {
                head(out, "200 OK", "", file.len())?;
                out.write_all(&file[..file.len() / 2])?;
                out.flush()?;
                return Err(io::ErrorKind::ConnectionAborted.into());
            }
            None => {
                head(out, "200 OK", "", file.len())?;
                out.write_all(file)?;
            }
        },
    }
    out.flush()
}

/// Runs a script in each version, over TLS and where it is captured without; gives what it said.
fn in_each_version(script: &str, check: impl Fn(&Yard, &str, &str)) {
    assert_installed("curl");
    let whole = file();
    for (scheme, versions) in [
        ("https", &["--http1.0", "--http1.1", "--http2"][..]),
        ("http", &["--http1.0", "--http1.1", "--http2-prior-knowledge"]),
    ] {
        let (served, whole) = (whole.clone(), &whole);
        let script_of = move |seen: &Seen, out: &mut dyn Write| serve(&served, seen, out);
        let yard = Yard::of(match scheme {
            "https" => Origin::tls(&["origin.test"], script_of),
            _ => Origin::plain(script_of),
        });
        yard.ground.write("whole", whole);
        for version in versions {
            let base = format!("{scheme}://origin.test:{}", yard.origin.address.port());
            let (out, err) = told(&yard, &["sh", "-c", &format!("{BEGIN}{script}"), "sh", version, &base]);
            println!("{scheme} {version}\n{out}{err}");
            check(&yard, version, &out);
        }
    }
}

/// The version in which curl is answered.
fn answered(version: &str) -> &str {
    match version {
        "--http2" | "--http2-prior-knowledge" => "2",
        // Its own highest, as RFC 9110 §6.2 wants.
        _ => "1.1",
    }
}

#[test]
fn curl_is_answered_in_each_version_with_and_without_a_body() {
    let script = r#"
c "$base/page"
c --head --output /dev/null "$base/page"
c "$base/nothing"
c --header 'If-None-Match: "1"' "$base/page"
# Begins HTTP/2 again on a connection that it uses again, where it knows already (curl 7.88).
[ "$version" = --http2-prior-knowledge ] || c "$base/page" "$base/nothing" "$base/page"
"#;
    in_each_version(script, |_, version, out| {
        let mut told = vec!["page\n# 200 5", "# 200 0", "# 204 0", "# 304 0"];
        if version != "--http2-prior-knowledge" {
            told.extend(["page\n# 200 5", "# 204 0", "page\n# 200 5"]);
        }
        let told: String = told.iter().map(|line| line.replace('#', answered(version)) + "\n").collect();
        assert_eq!(out, told);
    });
}

#[test]
fn curl_sees_trailers_where_its_version_has_them() {
    in_each_version("c --header 'TE: trailers' --dump-header - \"$base/trailers\"", |_, version, out| {
        assert!(out.contains("body\n"), "{out}");
        let behind = out.split_once("body\n").map(|(_, behind)| behind.to_ascii_lowercase());
        assert_eq!(behind.is_some_and(|behind| behind.contains("x-sum: 5")), version != "--http1.0", "{out}");
    });
}

#[test]
fn curl_uploads_a_file_whole_whether_or_not_it_says_how_long_it_is() {
    let script = r#"
c --data-binary @whole "$base/upload"
[ "$version" = --http1.0 ] || c --upload-file - "$base/upload" <whole
"#;
    in_each_version(script, |yard, version, out| {
        let times = if version == "--http1.0" { 1 } else { 2 };
        assert_eq!(out, format!("same\n{} 200 5\n", answered(version)).repeat(times));
        let seen = yard.origin.seen();
        let last = seen.last().expect("an upload");
        assert_eq!(last.fields("transfer-encoding").count(), times - 1, "{}", last.head);
    });
}

#[test]
fn curl_takes_ranges_and_goes_on_where_a_download_broke_off() {
    let script = r#"
c --range 100-299 --output part "$base/file"
tail -c +101 whole | head -c 200 | cmp - part && echo the same part
c --output got "$base/broken" && echo whole
rest=$(($(stat -c %s whole) - $(stat -c %s got)))
c --continue-at - --output got "$base/broken" | sed "s/ $rest\$/ rest/"
cmp whole got && echo the same file
rm got
"#;
    in_each_version(script, |yard, version, out| {
        let number = answered(version);
        let lines: Vec<_> = out.lines().collect();
        assert_eq!(lines[..2], [&format!("{number} 206 200"), "the same part"]);
        assert!(lines[2].starts_with(&format!("{number} 200 ")), "{out}");
        assert_eq!(lines[3..], [&format!("{number} 206 rest"), "the same file"]);
        let resumed = range(yard.origin.seen().last().expect("the rest"), FILE_BYTES);
        assert!(resumed.is_some_and(|(from, _)| from > 0), "{resumed:?}");
    });
}

/// Answers what is asked first, as the path says; tells how many bytes of the body came.
fn asked_first(wire: &mut dyn Duplex, came: &mpsc::Sender<usize>) -> io::Result<()> {
    let head = read_head(&mut &mut *wire);
    assert_eq!(field(&head, "expect"), "100-continue", "{head}");
    let length = field(&head, "content-length").parse().map_err(io::Error::other)?;
    match head.split(' ').nth(1).unwrap_or_default() {
        "/refuse" => {
            write!(wire, "HTTP/1.1 413 Content Too Large\r\nContent-Length: 4\r\n\r\nbig\n")?;
            wire.flush()?;
            let mut bytes = Vec::new();
            // What ends it is told by the count.
            let _ended = wire.read_to_end(&mut bytes);
            return came.send(bytes.len()).map_err(io::Error::other);
        }
        "/agree" => {
            write!(wire, "HTTP/1.1 100 Continue\r\n\r\n")?;
            wire.flush()?;
        }
        _ => {}
    }
    let mut body = vec![0; length];
    wire.read_exact(&mut body)?;
    came.send(length).map_err(io::Error::other)?;
    write!(wire, "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 6\r\n\r\ntaken\n")?;
    wire.flush()
}

#[test]
fn curl_asks_before_it_uploads_and_the_origin_decides() {
    assert_installed("curl");
    let (tell, came) = mpsc::channel();
    let tell = Mutex::new(tell);
    let yard = Yard::of(Origin::wire(&["origin.test"], move |wire| {
        let tell = tell.lock().expect("no thread panicked holding it").clone();
        asked_first(wire, &tell)
    }));
    yard.ground.write("whole", file());
    let upload = |host: &str, path: &str, patience: &str| {
        let url = format!("https://{host}:{}{path}", yard.origin.address.port());
        let say = "%{http_code} %{size_upload}\n";
        let ask = ["--header", "Expect: 100-continue", "--expect100-timeout", patience, "--write-out", say];
        let curl = ["curl", "--silent", "--show-error", "--http1.1", "--data-binary", "@whole"];
        let (out, err) = told(&yard, &[&curl[..], &ask, &[&url]].concat());
        println!("{path}\n{out}{err}");
        out
    };
    let came = || came.recv_timeout(PATIENCE).expect("the origin was asked");
    // Longer than the test may take: it does not come to that.
    let long = "90";
    assert_eq!(
        (upload("origin.test", "/agree", long), came()),
        (format!("taken\n200 {FILE_BYTES}\n"), FILE_BYTES)
    );
    assert_eq!((upload("origin.test", "/refuse", long), came()), ("big\n413 0\n".into(), 0));
    // An origin that says nothing is not waited for.
    assert_eq!(
        (upload("origin.test", "/silent", "0.2"), came()),
        (format!("taken\n200 {FILE_BYTES}\n"), FILE_BYTES)
    );
    let connections = yard.origin.connections();
    let refused = upload("denied.test", "/", long);
    assert!(refused.contains("host_not_allowed") && refused.ends_with("403 0\n"), "{refused}");
    assert_eq!(yard.origin.connections(), connections);
}
