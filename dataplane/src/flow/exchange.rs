//! One request at its upstream: the head and body go up while the answer comes down.
//!
//! Both directions run at once, so an answer that comes before the body was sent reaches the client, and a client that
//! leaves ends the upstream's work. A piece is received only when the one before was taken, so a slow reader holds back
//! the sender and never more than one piece is held.

use std::{
    cell::Cell,
    future::{Future, pending},
    io,
    pin::pin,
};

use ::h2::Reason;
use futures_lite::future::{or, poll_once};
use zeroize::Zeroizing;

use super::edits::{FromClient, Instead, Passed, ToClient};
use crate::{
    http::{
        Answer, BodyDecoder, BodyEncoder, BodyError, BodyPiece, BodyReader, Framing, Gate, HeadError, Reply,
        ResponseHead,
        h1::{Block, H1Error, Inbound, Slice},
    },
    limits::{BODY_SILENCE, UPSTREAM_SILENCE},
    ring::timeout,
    tls::{Chunk, Wire},
};

/// The body of a request, as the client's connection feeds it.
pub type Body = BodyReader<Slice<Chunk>, Answer<Chunk>>;

/// Where an answer goes.
pub type ReplyTo = Reply<Slice<Chunk>, Answer<Chunk>>;

/// A request that may be sent.
pub struct Sending<'a> {
    /// Its head as the upstream gets it, credentials included.
    pub head: &'a [u8],
    /// Its method, by which the answer's framing is known.
    pub method: &'a str,
    /// How its body leaves.
    pub framing: Framing,
    /// Counts the payload bytes that were handed to the upstream's connection, however the exchange ends.
    pub sent: &'a Cell<u64>,
}

/// How an exchange ended that was answered.
#[derive(Debug, PartialEq, Eq)]
pub struct Answered {
    /// Status of the answer.
    pub status: u16,
    /// The upstream's connection may carry another request.
    pub upstream_goes_on: bool,
}

/// Why an exchange was not completed.
#[derive(Debug, thiserror::Error)]
pub enum ExchangeError {
    /// The upstream ended the connection before it answered. Nothing was said to the client.
    #[error("the upstream closed the connection without an answer")]
    Unanswered(#[source] Option<io::Error>),
    /// The upstream did not begin with it, and says so (RFC 9113 §8.7). Nothing was said to the client.
    #[error("the upstream takes no more requests on this connection")]
    NotTaken,
    /// The upstream broke the stream of the request for this reason (RFC 9113 §5.4.2).
    #[error("the upstream reset the stream: {0:?}")]
    Reset(Reason),
    /// The upstream wants it over HTTP/1.1. Nothing was said to the client.
    #[error("the upstream wants HTTP/1.1")]
    Http11Required,
    /// The upstream said nothing for too long. Nothing was said to the client.
    #[error("the upstream did not answer in time")]
    Silent,
    /// The answer's head is not one. Nothing was said to the client.
    #[error("the upstream's answer is malformed")]
    Head(#[from] HeadError),
    /// The upstream agreed to another protocol, but not to this one, or not to this WebSocket. Nothing was said to the
    /// client.
    #[error("the upstream's answer to the handshake is not one to it")]
    Handshake,
    /// The client's body is malformed. The upstream has a part.
    #[error("the request's body is malformed")]
    RequestBody(#[source] BodyError),
    /// The client left.
    #[error("the client left")]
    ClientGone,
    /// The client has a part of the answer, which must never look whole.
    #[error("the answer broke off")]
    Broken(#[source] Option<H1Error>),
    /// Policy or lease no longer allow it.
    #[error("the exchange is no longer allowed")]
    Revoked,
    /// What edits it has ended it, and says what the client is told where its answer has not begun.
    #[error("the exchange was ended by what edits it")]
    Instead(Box<Instead>),
}

/// Sends a request and hands its answer over.
///
/// # Errors
/// [`ExchangeError`]; the upstream's connection is of no further use then.
pub async fn exchange(
    (body, reply): (FromClient<'_>, ToClient<'_>),
    (wire, inbound): (&Wire, &mut Inbound<Chunk>),
    sending: Sending<'_>,
    gate: &dyn Gate,
) -> Result<Answered, ExchangeError> {
    let Sending { head, method, framing, sent } = sending;
    let uploaded = Cell::new(false);
    let upload = Upload { wire, gate, reply, uploaded: &uploaded, sent };
    let going_up = async {
        let failed = upload.run(body, head, framing).await.err();
        match failed {
            // Everything is sent; what is left is to notice that nobody waits any more.
            None => {
                reply.cancelled().await;
                Err(ExchangeError::ClientGone)
            }
            Some(error) => Err(error),
        }
    };
    // The answer is looked at first: when it is whole, nothing that the upload finds can matter any more.
    let (status, goes_on) = or(download(wire, inbound, method, reply), going_up).await?;
    let upstream_goes_on = goes_on && uploaded.get();
    Ok(Answered { status, upstream_goes_on })
}

/// What may be written behind a head before it leaves: the line of a first chunk, or the end without trailers. Without
/// the room the buffer would grow and leave a copy of the head, credentials included, behind unwiped.
const CHUNK_FRAME_BYTES: usize = 18;

/// The way up.
struct Upload<'a> {
    wire: &'a Wire,
    gate: &'a dyn Gate,
    reply: ToClient<'a>,
    uploaded: &'a Cell<bool>,
    sent: &'a Cell<u64>,
}

impl Upload<'_> {
    async fn run(
        &self,
        mut body: FromClient<'_>,
        head: &[u8],
        framing: Framing,
    ) -> Result<(), ExchangeError> {
        if matches!(framing, Framing::None | Framing::Length(0)) {
            // Nothing follows: the head leaves from where it lies.
            self.pass(head, &[]).await?;
            self.uploaded.set(true);
            return Ok(());
        }
        let mut frame = Zeroizing::new(Vec::with_capacity(head.len() + CHUNK_FRAME_BYTES));
        frame.extend_from_slice(head);
        let (mut encoder, mut whole) = (BodyEncoder::new(framing), false);
        while !whole {
            // The head leaves in one write with what has arrived of the body, and does not wait for more.
            let next = match at_hand(self.reply, body.next()).await {
                Some(next) => next,
                None => {
                    self.send(&mut frame, &[]).await?;
                    body.next().await
                }
            };
            match next? {
                BodyPiece::Data(data) => {
                    encoder.before(data.len(), &mut frame).map_err(ExchangeError::RequestBody)?;
                    self.send(&mut frame, &data).await?;
                    encoder.after(&mut frame);
                    self.sent.set(self.sent.get() + data.len() as u64);
                }
                BodyPiece::End(trailers) => {
                    if trailers.is_some() {
                        self.send(&mut frame, &[]).await?;
                    }
                    encoder.finish(trailers.as_ref(), &mut frame).map_err(ExchangeError::RequestBody)?;
                    whole = true;
                }
            }
        }
        self.send(&mut frame, &[]).await?;
        self.uploaded.set(true);
        Ok(())
    }

    /// Hands framing and payload on, and empties the framing.
    async fn send(&self, frame: &mut Vec<u8>, payload: &[u8]) -> Result<(), ExchangeError> {
        self.pass(frame, payload).await?;
        frame.clear();
        Ok(())
    }

    /// Hands framing and payload to the kernel in one write, if there is anything and it may still go on.
    async fn pass(&self, frame: &[u8], payload: &[u8]) -> Result<(), ExchangeError> {
        if frame.is_empty() && payload.is_empty() {
            return Ok(());
        }
        if !self.gate.is_open() {
            return Err(ExchangeError::Revoked);
        }
        let sent = match (frame.is_empty(), payload.is_empty()) {
            (true, _) => self.wire.send(payload).await,
            (false, true) => self.wire.send(frame).await,
            (false, false) => self.wire.send2(frame, payload).await,
        };
        match sent {
            Ok(()) => Ok(()),
            // An upstream may answer and stop reading (RFC 9112 §9.5): the answer, or its absence, says what was.
            Err(_) => pending().await,
        }
    }
}

pub(super) fn upload_error(error: BodyError) -> ExchangeError {
    match error {
        BodyError::Cancelled => ExchangeError::ClientGone,
        error => ExchangeError::RequestBody(error),
    }
}

/// What a future gives at once, or after the client's side had one turn. Dropping it loses nothing.
pub(super) async fn at_hand<T>(reply: ToClient<'_>, future: impl Future<Output = T>) -> Option<T> {
    let mut future = pin!(future);
    if let Some(found) = poll_once(future.as_mut()).await {
        return Some(found);
    }
    reply.pass().await;
    poll_once(future).await
}

/// The head of an answer.
pub(super) type AnswerHead = ResponseHead<Block<Chunk>>;

/// Hands the answer over as it arrives. Gives its status, and whether the upstream's connection may be used again.
async fn download(
    wire: &Wire,
    inbound: &mut Inbound<Chunk>,
    method: &str,
    reply: ToClient<'_>,
) -> Result<(u16, bool), ExchangeError> {
    let head = answer_head(wire, inbound, method, reply).await?;
    let (opening, rest) = begin(head, reply)?;
    reply.send(opening).await.map_err(|_| ExchangeError::ClientGone)?;
    hand_over(rest, wire, inbound, reply).await
}

/// What is left to do of an answer when its head was handed over.
pub(super) struct Rest {
    status: u16,
    goes_on: bool,
    decoder: BodyDecoder,
}

/// What hands an answer over, first of all its head.
pub(super) fn begin(head: AnswerHead, reply: ToClient<'_>) -> Result<(Passed, Rest), ExchangeError> {
    let (status, arriving) = (head.status(), head.framing());
    if arriving == Framing::Tunnel {
        return Err(HeadError::SwitchedProtocols.into());
    }
    let goes_on = head.keep_alive() && arriving != Framing::UntilClose;
    Ok((reply.head(head)?, Rest { status, goes_on, decoder: BodyDecoder::new(arriving) }))
}

/// The head of the answer, after those of interim ones, which are handed over.
pub(super) async fn answer_head(
    wire: &Wire,
    inbound: &mut Inbound<Chunk>,
    method: &str,
    reply: ToClient<'_>,
) -> Result<AnswerHead, ExchangeError> {
    let gone = |_| ExchangeError::ClientGone;
    loop {
        let head = match timeout(UPSTREAM_SILENCE, inbound.read_response(wire, method)).await {
            Err(_) => return Err(ExchangeError::Silent),
            Ok(Err(H1Error::Head(error))) => return Err(error.into()),
            Ok(Err(H1Error::Io(error))) => return Err(ExchangeError::Unanswered(Some(error))),
            Ok(Err(H1Error::Cut | H1Error::Body(_))) => return Err(ExchangeError::Unanswered(None)),
            Ok(Ok(head)) => head,
        };
        if !head.is_interim() {
            return Ok(head);
        }
        reply.send(reply.interim(head)?).await.map_err(gone)?;
    }
}

/// Hands the body of an answer over, whose head was.
pub(super) async fn hand_over(
    mut rest: Rest,
    wire: &Wire,
    inbound: &mut Inbound<Chunk>,
    reply: ToClient<'_>,
) -> Result<(u16, bool), ExchangeError> {
    let gone = |_| ExchangeError::ClientGone;
    loop {
        reply.rest().await;
        let piece = match timeout(BODY_SILENCE, inbound.next_piece(wire, &mut rest.decoder)).await {
            Err(_) => return Err(ExchangeError::Broken(None)),
            Ok(Err(error)) => return Err(ExchangeError::Broken(Some(error))),
            Ok(Ok(piece)) => piece,
        };
        match piece {
            BodyPiece::Data(data) => {
                let mut passed = reply.data(data)?;
                loop {
                    if passed.is_none() {
                        passed = reply.more()?;
                    }
                    let Some(piece) = passed.take() else { break };
                    reply.send(piece).await.map_err(gone)?;
                }
            }
            BodyPiece::End(trailers) => {
                let held = reply.held()?;
                if let Some(held) = held {
                    reply.send(held).await.map_err(gone)?;
                }
                let end = reply.end(trailers)?;
                reply.send(end).await.map_err(gone)?;
                return Ok((rest.status, rest.goes_on));
            }
        }
    }
}

#[cfg(test)]
#[path = "exchange_tests.rs"]
mod tests;

#[cfg(test)]
#[path = "edits_tests.rs"]
mod edits_tests;
