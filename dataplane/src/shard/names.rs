//! Serves the name queries of one sandbox, in datagrams and over connections.

use std::{
    cell::Cell,
    io,
    rc::Rc,
    time::{Duration, Instant},
};

use crate::{
    causes::tell,
    flow::core::Core,
    identity::SandboxId,
    limits::{
        DNS_ANSWERS_BYTES_MAX, DNS_CONNECTIONS_MAX, DNS_IDLE_S, DNS_PAUSE, DNS_QUERY_BYTES_MAX,
        DNS_UNANSWERED_MAX,
    },
    ring::{Datagram, Scope, Stream, sleep, timeout, yield_now},
};

/// Errors in a row after which a socket counts as broken. One that passes (a peer's closed port) is followed by data.
const ERRORS_MAX: u32 = 16;

/// How long a connection may be silent or take for one query.
const PATIENCE: Duration = Duration::from_secs(DNS_IDLE_S);

/// Answers datagrams until the socket fails for good.
pub(super) async fn serve_datagrams(core: Rc<Core>, socket: Datagram, sandbox: SandboxId) {
    let (mut errors, mut turn, mut unanswered) = (0, 0_u32, 0);
    while errors < ERRORS_MAX {
        let Ok((message, from, to)) = socket.recv_from().await else {
            errors += 1;
            continue;
        };
        errors = 0;
        match core.answer_query(&sandbox, &message) {
            Some(answer) => {
                unanswered = 0;
                // The asker may be gone. It comes from the address that was asked, or clients do not take it.
                let _sent = socket.send_from(&answer, from, to).await;
            }
            None => unanswered += 1,
        }
        if unanswered >= DNS_UNANSWERED_MAX {
            unanswered = 0;
            sleep(DNS_PAUSE).await;
        }
        // A socket that always has data is never waited for: the others on the shard get their turn here.
        turn = turn.wrapping_add(1);
        if turn.is_multiple_of(DNS_UNANSWERED_MAX) {
            yield_now().await;
        }
    }
    tell(format_args!("the socket for name queries of sandbox {sandbox} has failed and is closed"));
}

/// Connections for queries of one listener.
pub(super) struct Queries {
    core: Rc<Core>,
    connections: Scope,
    sandbox: SandboxId,
    open: Rc<Cell<usize>>,
}

impl Queries {
    /// None yet; they are served in `connections`.
    pub(super) fn new(core: Rc<Core>, connections: Scope, sandbox: SandboxId) -> Self {
        Self { core, connections, sandbox, open: Rc::default() }
    }

    /// Serves one more, if there is room.
    pub(super) fn take(&mut self, stream: Stream) {
        if self.open.get() >= DNS_CONNECTIONS_MAX {
            return stream.reset();
        }
        let place = Place::take(&self.open);
        let (core, sandbox) = (Rc::clone(&self.core), self.sandbox.clone());
        self.connections.spawn(async move {
            let _place = place;
            // Counted in like any other connection, and ended with them when the sandbox leaves.
            let Ok(admission) = core.admit(&sandbox) else { return stream.reset() };
            let ended = admission.tie().hold(serve_stream(&core, &stream, &sandbox)).await;
            if !matches!(ended, Some(Ok(()))) {
                stream.reset();
            }
        });
    }
}

/// One of the places of a listener.
struct Place(Rc<Cell<usize>>);

impl Place {
    fn take(open: &Rc<Cell<usize>>) -> Self {
        open.set(open.get() + 1);
        Self(Rc::clone(open))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

/// Answers queries of one connection in their order, each with its length before it (RFC 1035 §4.2.2), until the
/// client ends, is silent for too long (RFC 7766 §6.2.3), or sends what cannot be answered.
async fn serve_stream(core: &Core, stream: &Stream, sandbox: &SandboxId) -> io::Result<()> {
    let (mut waiting, mut answers) = (Vec::new(), Vec::new());
    let mut due = Instant::now() + PATIENCE;
    loop {
        let left = due.saturating_duration_since(Instant::now());
        let Ok(received) = timeout(left, stream.receive()).await else { return Ok(()) };
        let Some(bytes) = received? else { return Ok(()) };
        waiting.extend_from_slice(&bytes);
        drop(bytes);
        let mut taken = 0;
        while let Some(query) = first_query(&waiting[taken..])? {
            taken += 2 + query.len();
            let answer = core.answer_query(sandbox, query).ok_or(io::ErrorKind::InvalidData)?;
            let length = u16::try_from(answer.len()).map_err(io::Error::other)?;
            answers.extend_from_slice(&length.to_be_bytes());
            answers.extend_from_slice(&answer);
            if answers.len() >= DNS_ANSWERS_BYTES_MAX {
                send(stream, &mut answers).await?;
            }
        }
        if taken > 0 {
            waiting.drain(..taken);
            send(stream, &mut answers).await?;
            due = Instant::now() + PATIENCE;
        }
    }
}

async fn send(stream: &Stream, answers: &mut Vec<u8>) -> io::Result<()> {
    timeout(PATIENCE, stream.send(answers)).await.map_err(|_| io::ErrorKind::TimedOut)??;
    answers.clear();
    Ok(())
}

/// The first query, where all of it is there.
fn first_query(bytes: &[u8]) -> io::Result<Option<&[u8]>> {
    let Some((length, rest)) = bytes.split_first_chunk::<2>() else { return Ok(None) };
    let length = usize::from(u16::from_be_bytes(*length));
    if length == 0 || length > DNS_QUERY_BYTES_MAX {
        return Err(io::ErrorKind::InvalidData.into());
    }
    Ok(rest.get(..length))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_is_taken_when_all_of_it_is_there() {
        assert_eq!(first_query(b"").unwrap(), None);
        assert_eq!(first_query(b"\0").unwrap(), None);
        assert_eq!(first_query(b"\0\x03ab").unwrap(), None);
        assert_eq!(first_query(b"\0\x03abcd").unwrap(), Some(&b"abc"[..]));
    }

    #[test]
    fn a_length_of_nothing_or_too_much_ends_the_connection() {
        for length in [0, u16::MAX, u16::try_from(DNS_QUERY_BYTES_MAX + 1).unwrap()] {
            assert!(first_query(&length.to_be_bytes()).is_err(), "{length}");
        }
    }
}
