//! Moves a body from one leg to the other, a piece at a time, streaming.
//!
//! The next piece is received only when the last was taken by the kernel, so a slow reader holds back the sender and
//! never more than one piece is held.

use std::{cell::Cell, io, rc::Rc};

use crate::{
    http::{BodyDecoder, BodyEncoder, BodyError, Framing, Piece},
    limits::BODY_SILENCE,
    ring::timeout,
    tls::{Chunk, Wire},
};

/// Why a body did not arrive whole. The leg that is named is the one that failed.
#[derive(Debug, thiserror::Error)]
pub enum RelayError {
    /// Receiving failed.
    #[error("receiving the body failed")]
    Receive(#[source] io::Error),
    /// Sending failed.
    #[error("sending the body on failed")]
    Send(#[source] io::Error),
    /// Nothing arrived for too long.
    #[error("the body stopped arriving")]
    Silence,
    /// The body is malformed or was cut short.
    #[error("the body cannot be relayed")]
    Body(#[from] BodyError),
    /// Policy or lease no longer allow it.
    #[error("the exchange is no longer allowed")]
    Revoked,
}

/// What arrives on one leg: bytes that were left over, then the wire's.
pub struct Inbound {
    wire: Rc<Wire>,
    left: Option<Chunk>,
}

impl Inbound {
    /// Everything that arrives from now on.
    pub fn new(wire: Rc<Wire>) -> Self {
        Self { wire, left: None }
    }

    /// The leg.
    pub fn wire(&self) -> &Rc<Wire> {
        &self.wire
    }

    /// The next bytes where a head is expected; a buffer is held only once data is there.
    ///
    /// # Errors
    /// Those of the wire.
    pub async fn next(&mut self) -> io::Result<Option<Chunk>> {
        match self.left.take() {
            Some(chunk) => Ok(Some(chunk)),
            None => self.wire.receive().await,
        }
    }

    /// The next bytes of a body.
    ///
    /// # Errors
    /// Those of the wire.
    pub async fn next_of_body(&mut self) -> io::Result<Option<Chunk>> {
        match self.left.take() {
            Some(chunk) => Ok(Some(chunk)),
            None => self.wire.receive_body().await,
        }
    }

    /// Gives back bytes that belong to what comes next.
    pub fn put_back(&mut self, chunk: Chunk) {
        debug_assert!(self.left.is_none(), "one chunk is taken at a time");
        if !chunk.is_empty() {
            self.left = Some(chunk);
        }
    }

    /// Bytes have arrived that nobody has read yet.
    pub fn has_left(&self) -> bool {
        self.left.is_some()
    }
}

/// Asked in the turn in which bytes are handed to the kernel.
pub trait Gate {
    /// Whether the exchange may still forward.
    fn is_open(&self) -> bool;
}

/// One body on its way.
pub struct Body<'a, G> {
    /// Where it comes from.
    pub from: &'a mut Inbound,
    /// Where it goes.
    pub to: &'a Wire,
    /// How its end is known where it comes from.
    pub arriving: Framing,
    /// How its end is shown where it goes.
    pub leaving: Framing,
    /// Asked before each send.
    pub gate: &'a G,
    /// The head, which leaves in one write with what has arrived of the body.
    pub head: Vec<u8>,
    /// Counts payload bytes that were sent on.
    pub sent: &'a Cell<u64>,
}

impl<G: Gate> Body<'_, G> {
    /// Relays to the end of the body. What arrived behind it stays with `from`.
    ///
    /// # Errors
    /// [`RelayError`]; then the leg it went to must be reset, so that a shortened body never looks whole.
    pub async fn relay(mut self) -> Result<(), RelayError> {
        let (mut decoder, mut encoder) = (BodyDecoder::new(self.arriving), BodyEncoder::new(self.leaving));
        let mut frame = std::mem::take(&mut self.head);
        if !decoder.is_ended() && !self.from.has_left() {
            // Nothing of the body is here, and it may take minutes: the head does not wait for it.
            self.hand_over(&mut frame, &[]).await?;
        }
        while !decoder.is_ended() {
            let arrived =
                timeout(BODY_SILENCE, self.from.next_of_body()).await.map_err(|_| RelayError::Silence)?;
            let Some(mut chunk) = arrived.map_err(RelayError::Receive)? else {
                decoder.close()?;
                break;
            };
            loop {
                let (taken, piece) = decoder.decode(&chunk)?;
                match piece {
                    Piece::Data(range) => {
                        let payload = &chunk[range];
                        encoder.before(payload.len(), &mut frame)?;
                        self.hand_over(&mut frame, payload).await?;
                        encoder.after(&mut frame);
                        self.sent.set(self.sent.get() + payload.len() as u64);
                    }
                    Piece::End(trailers) => {
                        chunk.advance(taken);
                        self.from.put_back(chunk);
                        encoder.finish(trailers.as_ref(), &mut frame)?;
                        return self.hand_over(&mut frame, &[]).await;
                    }
                    Piece::More => break,
                }
                chunk.advance(taken);
            }
            // The line end behind a chunk leaves with it: some clients act on whole chunks only.
            self.hand_over(&mut frame, &[]).await?;
        }
        encoder.finish(None, &mut frame)?;
        self.hand_over(&mut frame, &[]).await
    }

    /// Sends framing and payload in one write, if there is anything to send.
    async fn hand_over(&self, frame: &mut Vec<u8>, payload: &[u8]) -> Result<(), RelayError> {
        if !self.gate.is_open() {
            return Err(RelayError::Revoked);
        }
        let sent = match (frame.is_empty(), payload.is_empty()) {
            (true, true) => return Ok(()),
            (true, false) => self.to.send(payload).await,
            (false, true) => self.to.send(frame).await,
            (false, false) => self.to.send2(frame, payload).await,
        };
        frame.clear();
        sent.map_err(RelayError::Send)
    }
}
