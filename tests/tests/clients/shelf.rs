//! An origin that serves what a shell script has built: repositories of packages.

use std::{
    collections::HashMap,
    fs,
    io::{self, Write},
    net::TcpListener,
    path::Path,
    process::Command,
};

use tests::{
    origin::{Origin, Seen},
    yard::Yard,
};

use super::turned_away;

/// A yard whose origin serves the files that the script leaves in its folder `shelf`, `index.html` as its folder. The
/// script finds the origin's address in `$BASE`. With `demanded`, requests need this `Authorization`.
pub fn yard(script: &str, demanded: Option<String>) -> Yard {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback can be bound");
    let port = listener.local_addr().expect("a bound socket has an address").port();
    let files = built(script, &format!("https://origin.test:{port}"));
    Yard::of(Origin::tls_on(listener, &["origin.test"], move |seen, out| {
        if turned_away(demanded.as_deref(), seen, out)? {
            return Ok(());
        }
        give(&files, seen, out)
    }))
}

/// The same without TLS, for everyone, where the script needs no address.
pub fn plain(script: &str) -> Yard {
    let files = built(script, "");
    Yard::of(Origin::plain(move |seen, out| give(&files, seen, out)))
}

fn give(files: &HashMap<String, Vec<u8>>, seen: &Seen, out: &mut dyn Write) -> io::Result<()> {
    // apt-get writes the folder of a flat repository as `./`.
    let path = seen.line().split([' ', '?']).nth(1).unwrap_or_default().replace("/./", "/");
    let kind = if path.ends_with('/') { "text/html" } else { "application/octet-stream" };
    let (status, body) = match files.get(&path) {
        Some(body) => ("200 OK", &**body),
        None => ("404 Not Found", &b"there is no such file"[..]),
    };
    write!(out, "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n\r\n", body.len())?;
    out.write_all(body)?;
    out.flush()
}

fn built(script: &str, base: &str) -> HashMap<String, Vec<u8>> {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut command = Command::new("sh");
    command.args(["-euc", script]).current_dir(&folder).env("BASE", base);
    let output = command.output().expect("sh runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let mut files = HashMap::new();
    gather(&folder.path().join("shelf"), "/", &mut files);
    assert!(!files.is_empty(), "the script has built something");
    files
}

fn gather(folder: &Path, at: &str, files: &mut HashMap<String, Vec<u8>>) {
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        let name = path.file_name().expect("a name").to_string_lossy().into_owned();
        if path.is_dir() {
            gather(&path, &format!("{at}{name}/"), files);
        } else {
            let name = if name == "index.html" { "" } else { &name };
            files.insert(format!("{at}{name}"), fs::read(&path).expect("a file"));
        }
    }
}
