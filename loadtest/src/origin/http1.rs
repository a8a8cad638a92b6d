//! The origin's side of one HTTP/1.1 connection.

use std::{io, sync::atomic::Ordering};

use super::judge::{Bench, Judge};
use crate::{
    http1::{Piece, Reader, fields, request_line},
    limits::READ_BYTES,
    pattern,
    transport::Transport,
};

/// Bytes of the answer to a path that asks for nothing in particular.
const DEFAULT_BYTES: u64 = 1024;

/// One connection.
#[derive(Default)]
pub struct Server {
    reader: Reader,
    tag: u32,
    /// Bytes of the upload so far.
    place: u64,
    is_corrupted: bool,
    down: u64,
    /// The body that is being sent: tag, place, end.
    sending: Option<(u32, u64, u64)>,
}

impl Server {
    /// Takes bytes from the gateway.
    ///
    /// # Errors
    /// When they are no requests, or a request comes before the answer to the one before has left.
    pub fn received(
        &mut self,
        mut input: &[u8],
        judge: &Judge,
        bench: &Bench,
        transport: &mut Transport,
    ) -> io::Result<()> {
        while let Some(piece) = self.reader.next(&mut input).map_err(io::Error::other)? {
            match piece {
                Piece::Head(head) => {
                    let (_, target) = request_line(head).ok_or_else(|| io::Error::other("no request"))?;
                    let host = fields(head).find(|(name, _)| name.eq_ignore_ascii_case(b"host"));
                    let host = host.map_or(&b""[..], |(_, host)| host);
                    let asked = judge.head(bench, target, host, fields(head));
                    (self.place, self.is_corrupted) = (0, false);
                    self.tag = asked.map_or(0, |asked| asked.tag);
                    self.down = asked.map_or(DEFAULT_BYTES, |asked| asked.down);
                }
                Piece::Body(bytes) => {
                    self.is_corrupted |= !pattern::matches(self.tag, self.place, bytes);
                    self.place += bytes.len() as u64;
                }
                Piece::End => {
                    judge.counts.requests.fetch_add(1, Ordering::Relaxed);
                    if self.is_corrupted {
                        judge.counts.corrupted.fetch_add(1, Ordering::Relaxed);
                    }
                    if self.sending.is_some() {
                        return Err(io::Error::other("a request before the answer to the one before"));
                    }
                    self.answer(transport)?;
                }
            }
        }
        Ok(())
    }

    fn answer(&mut self, transport: &mut Transport) -> io::Result<()> {
        let down = self.down;
        let mut out =
            format!("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {down}\r\n\r\n")
                .into_bytes();
        // The usual answer is one write.
        let first = down.min(READ_BYTES as u64);
        pattern::write(self.tag, 0, first, &mut out);
        if first < down {
            self.sending = Some((self.tag, first, down));
        }
        transport.queue(&out)
    }

    /// Queues more of a long body. Answers whether something was queued.
    ///
    /// # Errors
    /// Those of TLS.
    pub fn pump(&mut self, transport: &mut Transport) -> io::Result<bool> {
        let Some((tag, place, end)) = self.sending else { return Ok(false) };
        let piece = pattern::at(tag, place);
        let n = (end - place).min(piece.len().min(transport.room()) as u64);
        transport.queue(&piece[..n as usize])?;
        self.sending = (place + n < end).then_some((tag, place + n, end));
        Ok(n > 0)
    }
}
