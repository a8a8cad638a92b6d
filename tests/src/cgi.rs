//! Programs that answer an origin's requests by CGI (RFC 3875).

use std::{
    io::{self, Write},
    process::{Command, Stdio},
    thread,
};

use crate::origin::Seen;

/// Lets this program answer the request: it finds the meta-variables of RFC 3875 §4.1 in its environment, each field of
/// the request among them but for credentials (§9.2), and the decoded body on its standard input. A path is handed
/// over as it was written.
///
/// # Errors
/// When the program cannot be run or does not answer CGI, and those of the connection.
pub fn answer(mut program: Command, seen: &Seen, out: &mut dyn Write) -> io::Result<()> {
    program.envs(variables(seen)).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = program.spawn()?;
    let mut input = child.stdin.take().ok_or(io::ErrorKind::BrokenPipe)?;
    let output = thread::scope(|scope| {
        // While its answer is read: it may begin that before it has read everything.
        scope.spawn(move || input.write_all(&seen.body));
        child.wait_with_output()
    })?;
    let (head, body) = split(&output.stdout).ok_or_else(|| {
        io::Error::other(format!("{program:?} answered no CGI: {}", String::from_utf8_lossy(&output.stdout)))
    })?;
    let status = head.lines().find_map(|line| line.strip_prefix("Status:")).unwrap_or("200 OK");
    write!(out, "HTTP/1.1 {}\r\n", status.trim())?;
    for field in head.lines().filter(|line| !line.starts_with("Status:")) {
        write!(out, "{field}\r\n")?;
    }
    write!(out, "Content-Length: {}\r\n\r\n", body.len())?;
    out.write_all(body)?;
    out.flush()
}

fn variables(seen: &Seen) -> Vec<(String, String)> {
    let mut words = seen.line().split(' ');
    let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let mut variables = vec![
        ("GATEWAY_INTERFACE".into(), "CGI/1.1".into()),
        ("SERVER_PROTOCOL".into(), "HTTP/1.1".into()),
        ("REMOTE_ADDR".into(), "127.0.0.1".into()),
        ("REQUEST_METHOD".into(), method.into()),
        ("PATH_INFO".into(), path.into()),
        ("QUERY_STRING".into(), query.into()),
        ("CONTENT_LENGTH".into(), seen.body.len().to_string()),
        ("CONTENT_TYPE".into(), seen.fields("content-type").collect()),
    ];
    let fields = seen.head.lines().skip(1).filter_map(|line| line.split_once(':'));
    let passed = fields.filter(|(name, _)| !name.to_ascii_lowercase().ends_with("authorization"));
    variables.extend(passed.map(|(name, value)| {
        (format!("HTTP_{}", name.to_ascii_uppercase().replace('-', "_")), value.trim().to_owned())
    }));
    variables
}

/// Head and body; lines may end either way (RFC 3875 §6.3.4 leaves it to the system).
fn split(answer: &[u8]) -> Option<(&str, &[u8])> {
    let ends = ["\r\n\r\n", "\n\n"].into_iter().filter_map(|end| {
        let at = answer.windows(end.len()).position(|window| window == end.as_bytes())?;
        Some((at, at + end.len()))
    });
    let (head, body) = ends.min()?;
    Some((std::str::from_utf8(&answer[..head]).ok()?, &answer[body..]))
}
