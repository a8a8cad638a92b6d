//! One client of the local socket: a line of request, a line of answer.

use std::{
    io::{self, Write},
    os::{fd::OwnedFd, unix::net::UnixStream},
    time::{Duration, Instant},
};

use control_wire::attach::{Answer, LineReader, Problem, Request};

use super::book::Book;
use crate::limits::{ATTACH_IDLE_TIME, ATTACH_LINE_TIME};

/// Whether the other side is root or the user of this process.
pub(super) fn is_trusted(socket: &UnixStream) -> bool {
    let own = rustix::process::geteuid();
    rustix::net::sockopt::socket_peercred(socket).is_ok_and(|peer| peer.uid == own || peer.uid.is_root())
}

/// Sends one line of answer, if the client takes it.
pub(super) fn tell(socket: &UnixStream, answer: &Answer) -> bool {
    let Ok(mut line) = serde_json::to_vec(answer) else { return false };
    line.push(b'\n');
    let mut writer = socket;
    socket.set_write_timeout(Some(ATTACH_LINE_TIME)).is_ok() && writer.write_all(&line).is_ok()
}

/// Answers requests until the client ends, is silent for too long, or breaks the protocol.
pub(super) fn serve(book: &Book, socket: &UnixStream) {
    let mut reader = LineReader::default();
    loop {
        let answer = match next(&mut reader, socket) {
            Ok((line, descriptors)) => respond(book, &line, descriptors),
            Err(error) => {
                if error.kind() == io::ErrorKind::InvalidData {
                    let remedy = "send one JSON object per line, and wait for its answer";
                    tell(socket, &Answer::Refused(Problem::new("malformed", error.to_string(), remedy)));
                }
                return;
            }
        };
        if !tell(socket, &answer) {
            return;
        }
    }
}

/// The next line. From its first byte on it has a fixed time, however it comes.
fn next(reader: &mut LineReader, socket: &UnixStream) -> io::Result<(Vec<u8>, Vec<OwnedFd>)> {
    let mut end = Instant::now() + ATTACH_IDLE_TIME;
    let mut started = false;
    loop {
        let left = end.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
        socket.set_read_timeout(Some(left))?;
        if let Some(line) = reader.read(socket)? {
            return Ok(line);
        }
        if !started {
            started = true;
            end = Instant::now() + ATTACH_LINE_TIME;
        } else if Instant::now() >= end {
            return Err(io::ErrorKind::TimedOut.into());
        }
    }
}

fn respond(book: &Book, line: &[u8], descriptors: Vec<OwnedFd>) -> Answer {
    let done = match serde_json::from_slice(line) {
        Ok(Request::Attach(attach)) => book.attach(attach, descriptors),
        Ok(Request::Share(share)) => book.share(share, descriptors),
        Ok(_) if !descriptors.is_empty() => {
            let remedy = "pass descriptors with `attach` and `share` only";
            Err(Problem::new("descriptors", "descriptors came with a request that takes none", remedy))
        }
        Ok(Request::Detach(detach)) => book.detach(&detach.sandbox),
        Ok(Request::List(list)) => book.list(list.after.as_deref()),
        Ok(Request::Unshare(unshare)) => book.unshare(unshare),
        Err(error) => {
            let remedy = "send {\"op\":\"attach\"|\"detach\"|\"list\"|\"share\"|\"unshare\", ...} with documented fields only";
            Err(Problem::new("malformed", error.to_string(), remedy))
        }
    };
    done.map_or_else(Answer::Refused, Answer::Done)
}
