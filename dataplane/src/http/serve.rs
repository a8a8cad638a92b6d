//! The connection's side of one exchange in HTTP/1.1: feeds the request's body as it is wanted, writes the answer.

use std::{borrow::Cow, cell::Cell, future::pending, io, io::Write as _, ops::Deref, pin::pin};

use futures_lite::future::{or, poll_once};

use super::{
    body::{BodyDecoder, BodyEncoder, BodyError},
    edit::{EditError, FieldName, FieldValue},
    exchange::{AnyHead, BodyPiece, BodyWriter, Driver, ReplyPiece, ReplyReader},
    h1::{Block, H1Error, Inbound, Slice, Transport},
    head::{Framing, RequestHead, ResponseHead, Version},
    outgoing::OutgoingResponse,
    parts::AnswerParts,
};

/// The head of an answer, whoever made it.
pub enum Answer<C> {
    /// The upstream's.
    Upstream(ResponseHead<Block<C>>),
    /// The upstream's, edited on the way.
    Edited(Box<AnswerParts>),
    /// The gateway's or a handler's.
    Own(OwnAnswer),
}

impl<C: Deref<Target = [u8]>> AnyHead for Answer<C> {
    fn status(&self) -> u16 {
        match self {
            Self::Upstream(head) => head.status(),
            Self::Edited(parts) => parts.status(),
            Self::Own(own) => own.status,
        }
    }
}

/// The head of an answer that is made here.
#[derive(Debug)]
pub struct OwnAnswer {
    /// Status.
    pub status: u16,
    /// Reason phrase; empty where there is none (RFC 9112 §4).
    pub reason: Cow<'static, str>,
    /// Fields beside those of framing and connection.
    pub fields: Vec<(FieldName, FieldValue)>,
    /// Bytes of the body.
    pub length: usize,
}

impl OwnAnswer {
    /// Appends the head in HTTP/1.1.
    pub fn write_to(&self, keep_alive: bool, out: &mut Vec<u8>) {
        // Writing to a vector does not fail.
        let _written = write!(out, "HTTP/1.1 {} {}\r\n", self.status, self.reason);
        for (name, value) in &self.fields {
            for part in [name.bytes(), b": ", value.bytes(), b"\r\n"] {
                out.extend_from_slice(part);
            }
        }
        let connection = if keep_alive { "keep-alive" } else { "close" };
        let _written = write!(out, "Content-Length: {}\r\nConnection: {connection}\r\n\r\n", self.length);
    }
}

/// What an answer must know of its request.
#[derive(Clone, Copy, Debug)]
pub struct About {
    version: Version,
    framing: Framing,
    keep_alive: bool,
    head_only: bool,
}

impl About {
    /// Of this request.
    pub fn of<B: Deref<Target = [u8]>>(head: &RequestHead<B>) -> Self {
        Self {
            version: head.version(),
            framing: head.framing(),
            keep_alive: head.keep_alive(),
            head_only: head.method() == "HEAD",
        }
    }
}

/// Why the client did not get a whole answer. The connection must be reset, so that a part never looks whole.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The client left.
    #[error("the client left")]
    ClientGone(#[source] Option<io::Error>),
    /// The client is there and takes nothing.
    #[error("the client took nothing of the answer for too long")]
    Stalled,
    /// The answer was cut off by who makes it.
    #[error("the answer was cut off")]
    Cut(#[source] BodyError),
    /// The exchange is no longer allowed.
    #[error("the exchange is no longer allowed")]
    Revoked,
    /// The head of the answer cannot be sent.
    #[error("the head of the answer cannot be sent")]
    Head(#[from] EditError),
    /// The body is not as long as its head said.
    #[error("the body of the answer is not what its head says")]
    Body(#[from] BodyError),
}

impl ServeError {
    /// A cut breaks the client's leg, which looks as if the client had broken it.
    pub(super) fn of<D, R>(self, reply: &ReplyReader<D, R>) -> Self {
        match self {
            Self::ClientGone(_) | Self::Stalled if !reply.is_open() => Self::Revoked,
            error => error,
        }
    }
}

/// How an exchange was served.
#[derive(Debug)]
pub struct Served {
    /// Whether the connection may carry another request.
    pub outcome: Result<bool, ServeError>,
    /// Payload of the answer that was sent.
    pub payload_bytes: u64,
}

/// Serves an exchange to the end of its answer. Body and answer go at once, so an answer that comes before the body
/// was sent reaches the client, and a client that leaves is noticed.
pub async fn serve<T: Transport>(
    wire: &T,
    inbound: &mut Inbound<T::Chunk>,
    about: About,
    driver: Driver<Slice<T::Chunk>, Answer<T::Chunk>>,
) -> Served {
    let mut decoder = BodyDecoder::new(about.framing);
    let (uploaded, answered, payload) = (Cell::new(decoder.is_ended()), Cell::new(false), Cell::new(0));
    let Driver { body, reply } = driver;
    let writer = Writer { wire, about, uploaded: &uploaded, answered: &answered, payload: &payload };
    let feeding = async {
        let tunnel = (about.framing == Framing::Tunnel).then_some(&answered);
        let gone = feed(wire, inbound, &mut decoder, (&body, &reply), (&uploaded, tunnel)).await;
        // Who was told all that there is may leave as it likes.
        match answered.get() {
            true => Ok(false),
            false => Err(ServeError::ClientGone(gone)),
        }
    };
    let outcome = or(writer.write(&reply), feeding).await.map_err(|error| error.of(&reply));
    Served { outcome, payload_bytes: payload.get() }
}

/// Feeds the body as it is wanted, then watches the client. Ends only when the client is gone; in a tunnel that is also
/// how its half ends.
async fn feed<T: Transport>(
    wire: &T,
    inbound: &mut Inbound<T::Chunk>,
    decoder: &mut BodyDecoder,
    (body, reply): (&Bodies<T::Chunk>, &Replies<T::Chunk>),
    (uploaded, tunnel): (&Cell<bool>, Option<&Cell<bool>>),
) -> Option<io::Error> {
    let mut fed = uploaded.get();
    while !fed {
        let wanted = match poll_once(body.ready()).await {
            Some(wanted) => wanted,
            None => {
                // An upstream that is dialled, or a person who is asked, may take long.
                inbound.release();
                body.ready().await
            }
        };
        if wanted.is_err() {
            // Nobody wants the rest. It is not read, so a client that leaves is seen when the answer is sent.
            return pending().await;
        }
        let piece = match inbound.next_piece(wire, decoder).await {
            Ok(piece) => piece,
            Err(H1Error::Io(error)) => return Some(error),
            Err(H1Error::Body(BodyError::Truncated)) => return None,
            Err(H1Error::Body(error)) => {
                body.fail(error);
                return pending().await;
            }
            // Only heads end so.
            Err(H1Error::Head(_) | H1Error::Cut) => return None,
        };
        uploaded.set(decoder.is_ended());
        fed = matches!(piece, BodyPiece::End(_));
        // Cancelled between question and answer: the next turn of the loop finds out.
        let _cancelled = body.put(piece);
    }
    match tunnel.map(Cell::get) {
        Some(true) => return None,
        Some(false) => return pending().await,
        None => {}
    }
    match inbound.wait(wire).await {
        // A pipelined request: the client is taken to be there.
        Ok(true) => pending().await,
        // Half closed: it may still read a refusal.
        Ok(false) => {
            reply.hang_up();
            pending().await
        }
        Err(error) => Some(error),
    }
}

struct Writer<'a, T> {
    wire: &'a T,
    about: About,
    uploaded: &'a Cell<bool>,
    /// The answer of a tunnel has ended, and the client may go on.
    answered: &'a Cell<bool>,
    payload: &'a Cell<u64>,
}

impl<T: Transport> Writer<'_, T> {
    /// Writes the answer to its end; gives whether another request may follow.
    async fn write(&self, reply: &Replies<T::Chunk>) -> Result<bool, ServeError> {
        let (mut frame, mut encoder, mut goes_on) = (Vec::new(), BodyEncoder::new(Framing::None), false);
        let mut leaving = Framing::None;
        loop {
            let next = match soon(reply, frame.is_empty()).await {
                Some(next) => next,
                None => {
                    // What comes next may take minutes: what is here does not wait for it.
                    self.send(reply, &mut frame, &[]).await?;
                    reply.next().await
                }
            };
            let piece = next.map_err(ServeError::Cut)?;
            match piece {
                // HTTP/1.0 knows no interim answers (RFC 9110 §15.2).
                ReplyPiece::Interim(_) if self.about.version == Version::Http10 => {}
                ReplyPiece::Interim(head) => {
                    self.head(head, &mut frame)?;
                    self.send(reply, &mut frame, &[]).await?;
                }
                ReplyPiece::Head(head) => {
                    (leaving, goes_on) = self.head(head, &mut frame)?;
                    encoder = BodyEncoder::new(leaving);
                }
                // The answer to HEAD has the length of a body that is not sent (RFC 9110 §9.3.2).
                ReplyPiece::Data(_) if leaving == Framing::None => {}
                ReplyPiece::Data(data) => {
                    encoder.before(data.len(), &mut frame)?;
                    self.send(reply, &mut frame, &data).await?;
                    encoder.after(&mut frame);
                    self.payload.set(self.payload.get() + data.len() as u64);
                }
                ReplyPiece::End(trailers) => {
                    encoder.finish(trailers.as_ref(), &mut frame)?;
                    self.send(reply, &mut frame, &[]).await?;
                    if leaving == Framing::Tunnel && !self.uploaded.get() {
                        return Ok(self.half_close().await);
                    }
                    return Ok(goes_on);
                }
            }
        }
    }

    /// Ends our half of a tunnel; who feeds the client's half ends the rest. A client that has gone had everything.
    async fn half_close(&self) -> bool {
        self.answered.set(true);
        match self.wire.close().await {
            Ok(()) => pending().await,
            Err(_) => false,
        }
    }

    /// Appends a head; gives its body's framing and whether another request may follow.
    fn head(&self, head: Answer<T::Chunk>, out: &mut Vec<u8>) -> Result<(Framing, bool), EditError> {
        // What the client still sends of a body that nobody wants cannot be told from its next request.
        let keep_alive = self.about.keep_alive && self.uploaded.get();
        out.reserve(HEAD_BYTES_USUAL);
        let outgoing = match &head {
            Answer::Upstream(head) => OutgoingResponse::new(head, self.about.version, keep_alive),
            Answer::Edited(parts) => OutgoingResponse::edited(parts, self.about.version, keep_alive),
            Answer::Own(own) => {
                own.write_to(keep_alive, out);
                let framing =
                    if self.about.head_only { Framing::None } else { Framing::Length(own.length as u64) };
                return Ok((framing, keep_alive));
            }
        };
        outgoing.write_to(out)?;
        Ok((outgoing.framing(), outgoing.keep_alive()))
    }

    /// Hands framing and payload to the kernel in one write, if there is anything and it may still go on.
    async fn send(
        &self,
        reply: &Replies<T::Chunk>,
        frame: &mut Vec<u8>,
        payload: &[u8],
    ) -> Result<(), ServeError> {
        if frame.is_empty() && payload.is_empty() {
            return Ok(());
        }
        if !reply.is_open() {
            return Err(ServeError::Revoked);
        }
        let sent = match (frame.is_empty(), payload.is_empty()) {
            (true, _) => self.wire.send(payload).await,
            (false, true) => self.wire.send(frame).await,
            (false, false) => self.wire.send2(frame, payload).await,
        };
        frame.clear();
        sent.map_err(|error| ServeError::ClientGone(Some(error)))
    }
}

/// Room for a usual head; a longer one grows once or twice.
const HEAD_BYTES_USUAL: usize = 512;

type Bodies<C> = BodyWriter<Slice<C>, Answer<C>>;
type Replies<C> = ReplyReader<Slice<C>, Answer<C>>;
type Next<C> = Result<ReplyPiece<Slice<C>, Answer<C>>, BodyError>;

/// The next piece, where it is at hand. Who makes it has one turn: what is there already leaves in one write with what
/// waits. Where nothing waits, the next piece itself is waited for.
async fn soon<C>(reply: &Replies<C>, nothing_waits: bool) -> Option<Next<C>> {
    let mut next = pin!(reply.next());
    if nothing_waits {
        return Some(next.await);
    }
    if let Some(found) = poll_once(next.as_mut()).await {
        return Some(found);
    }
    reply.pass().await;
    poll_once(next).await
}
