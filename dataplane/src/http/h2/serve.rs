//! A stream's side of one exchange: feeds the request's body as it is wanted, writes the answer.

use std::{
    cell::Cell,
    future::{pending, poll_fn},
    rc::Rc,
};

use ::h2::{Reason, RecvStream};
use futures_lite::future::or;

use super::{StreamLeg, head::response, leg::SendError};
use crate::{
    http::{
        body::{BodyError, Trailers},
        exchange::{BodyPiece, BodyWriter, Driver, ReplyPiece, ReplyReader},
        h1::Slice,
        head::Framing,
        serve::{Answer, ServeError, Served},
    },
    tls::Chunk,
};

type Bodies = BodyWriter<Slice<Chunk>, Answer<Chunk>>;
type Replies = ReplyReader<Slice<Chunk>, Answer<Chunk>>;

/// What a stream's side of an exchange works on.
pub struct StreamOf {
    /// The request's body.
    pub body: RecvStream,
    /// The way back.
    pub leg: Rc<StreamLeg>,
    /// The answer is to a HEAD, and has no body.
    pub head_only: bool,
    /// Another protocol is asked for: the halves end on their own.
    pub tunnel: bool,
}

/// Serves an exchange to the end of its answer. Body and answer go at once. A stream whose answer does not become whole
/// is broken.
pub async fn serve(mut stream: StreamOf, driver: Driver<Slice<Chunk>, Answer<Chunk>>) -> Served {
    let payload = Cell::new(0);
    let Driver { body, reply } = driver;
    let leg = Rc::clone(&stream.leg);
    let halves = Halves { uploaded: Cell::new(!stream.tunnel), answered: Cell::new(false) };
    let writer = Writer { leg: &leg, head_only: stream.head_only, payload: &payload, halves: &halves };
    let feeding = async {
        or(feed(&mut stream.body, (&body, &leg), &halves), poll_fn(|cx| leg.poll_left(cx))).await;
        // Who was told all that there is may leave as it likes.
        match halves.answered.get() {
            true => Ok(()),
            false => Err(ServeError::ClientGone(None)),
        }
    };
    let outcome = or(writer.write(&reply), feeding).await.map_err(|error| error.of(&reply));
    match &outcome {
        Ok(()) => {}
        Err(ServeError::Revoked | ServeError::ClientGone(_) | ServeError::Stalled) => {
            leg.break_off(Reason::CANCEL)
        }
        Err(ServeError::Cut(BodyError::Reset(reason))) => leg.break_off(passed_on(*reason)),
        Err(_) => leg.break_off(Reason::INTERNAL_ERROR),
    }
    Served { outcome: outcome.map(|()| true), payload_bytes: payload.get() }
}

/// What a client is told of a reset by the upstream. Most reasons speak of the connection on which they were given.
fn passed_on(reason: Reason) -> Reason {
    match reason {
        Reason::CANCEL | Reason::ENHANCE_YOUR_CALM => reason,
        _ => Reason::INTERNAL_ERROR,
    }
}

/// Which halves of a tunnel have ended. Of all else only the answer's end counts.
struct Halves {
    uploaded: Cell<bool>,
    answered: Cell<bool>,
}

/// Feeds the body as it is wanted. Ends only when the client is gone, or when its half was the last of a tunnel.
async fn feed(stream: &mut RecvStream, (body, leg): (&Bodies, &StreamLeg), halves: &Halves) {
    loop {
        let Ok(released) = body.ready().await else {
            // Nobody wants the rest; when the answer is whole, h2 tells the client so (RFC 9113 §8.1).
            return pending().await;
        };
        // What was sent on may come again: the windows of both legs are tied. An error says that the stream ended.
        let _ended = stream.flow_control().release_capacity(released);
        leg.took(released);
        let piece = loop {
            match poll_fn(|cx| stream.poll_data(cx)).await {
                // Padding and empty frames are not payload.
                Some(Ok(data)) if data.is_empty() => {}
                Some(Ok(data)) => break BodyPiece::Data(data.into()),
                Some(Err(_)) => return,
                None => break BodyPiece::End(trailers(stream).await),
            }
        };
        let ended = matches!(piece, BodyPiece::End(_));
        // Cancelled between question and answer: the next turn of the loop finds out.
        let _cancelled = body.put(piece);
        if ended {
            halves.uploaded.set(true);
            if !halves.answered.get() {
                pending::<()>().await;
            }
            return;
        }
    }
}

async fn trailers(stream: &mut RecvStream) -> Option<Trailers> {
    let found = poll_fn(|cx| stream.poll_trailers(cx)).await.ok().flatten()?;
    Some(Trailers::from_fields(found.iter().map(|(name, value)| (name.as_str(), value.as_bytes()))))
}

struct Writer<'a> {
    leg: &'a StreamLeg,
    head_only: bool,
    payload: &'a Cell<u64>,
    halves: &'a Halves,
}

impl Writer<'_> {
    async fn write(&self, reply: &Replies) -> Result<(), ServeError> {
        let mut ended = false;
        loop {
            let piece = reply.next().await.map_err(ServeError::Cut)?;
            if !reply.is_open() {
                return Err(ServeError::Revoked);
            }
            match piece {
                ReplyPiece::Interim(head) => {
                    let (head, _) = response(&head, self.head_only)?;
                    self.leg.inform(head).map_err(gone)?;
                }
                ReplyPiece::Head(head) => {
                    let (head, framing) = response(&head, self.head_only)?;
                    ended = matches!(framing, Framing::None | Framing::Length(0));
                    if framing != Framing::Tunnel {
                        // No other protocol was agreed to: nothing of the client's half is waited for.
                        self.halves.uploaded.set(true);
                    }
                    self.leg.answer(head, ended, reply.gate()).map_err(gone)?;
                }
                // The answer to HEAD has the length of a body that is not sent (RFC 9110 §9.3.2).
                ReplyPiece::Data(_) if ended => {}
                ReplyPiece::Data(data) => {
                    self.leg.send_all(data, reply.gate().as_ref(), self.payload).await?;
                }
                ReplyPiece::End(_) if ended => return Ok(()),
                ReplyPiece::End(trailers) => {
                    self.leg.finish(trailers.as_ref(), reply.gate())?;
                    self.halves.answered.set(true);
                    return if self.halves.uploaded.get() { Ok(()) } else { pending().await };
                }
            }
        }
    }
}

fn gone(error: ::h2::Error) -> ServeError {
    ServeError::ClientGone(Some(std::io::Error::other(error)))
}

impl From<SendError> for ServeError {
    fn from(error: SendError) -> Self {
        match error {
            SendError::Revoked => Self::Revoked,
            SendError::Broken(error) => gone(error),
            SendError::Stalled => Self::Stalled,
        }
    }
}
