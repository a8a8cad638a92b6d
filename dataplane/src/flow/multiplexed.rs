//! One request at its upstream over HTTP/2: a stream of a connection that others share.

use std::{
    cell::Cell,
    future::{Future, pending, poll_fn},
    pin::{Pin, pin},
    rc::Rc,
    task::Poll,
};

use ::h2::{Reason, RecvStream, client::ResponseFuture};
use futures_lite::future::or;

use super::{
    edits::{FromClient, ToClient},
    exchange::{Answered, ExchangeError, at_hand},
};
use crate::{
    http::{
        BodyPiece, Gate, HeadError, Trailers,
        h2::{SendError, StreamLeg, response_head},
    },
    limits::{BODY_SILENCE, H2_STALL_NOTICE, INTERIM_ANSWERS_MAX, UPSTREAM_SILENCE},
    ring::timeout,
};

/// A stream that was opened with the head of a request.
pub struct Opened {
    /// Our half.
    pub leg: Rc<StreamLeg>,
    /// Theirs.
    pub answer: ResponseFuture,
    /// No body follows the head.
    pub ended: bool,
}

/// Sends the request's body and hands its answer over. Breaks the stream where it does not come to its end.
///
/// # Errors
/// [`ExchangeError`]. [`ExchangeError::NotTaken`] only while nothing of the body was taken from the client.
pub async fn exchange(
    (mut body, reply): (FromClient<'_>, ToClient<'_>),
    stream: Opened,
    method: &str,
    gate: &Rc<dyn Gate>,
    sent: &Cell<u64>,
) -> Result<Answered, ExchangeError> {
    let Opened { leg, answer, ended } = stream;
    let (uploaded, touched) = (Cell::new(ended), Cell::new(false));
    let going_up = async {
        if !ended {
            upload(&leg, &mut body, gate, (sent, &touched)).await?;
            uploaded.set(true);
        }
        // Everything is sent; what is left is to notice that nobody waits any more.
        reply.cancelled().await;
        Err(ExchangeError::ClientGone)
    };
    // The answer is looked at first: when it is whole, nothing that the upload finds can matter any more.
    let outcome = or(download(answer, method, (reply, &leg)), going_up).await;
    if outcome.is_err() || !uploaded.get() {
        leg.break_off(Reason::CANCEL);
    }
    match outcome {
        Ok(status) => Ok(Answered { status, upstream_goes_on: true }),
        // A part of the body is gone and cannot be sent again.
        Err(ExchangeError::NotTaken | ExchangeError::Http11Required) if touched.get() => {
            Err(ExchangeError::Unanswered(None))
        }
        Err(error) => Err(error),
    }
}

async fn upload(
    leg: &StreamLeg,
    body: &mut FromClient<'_>,
    gate: &Rc<dyn Gate>,
    (sent, touched): (&Cell<u64>, &Cell<bool>),
) -> Result<(), ExchangeError> {
    loop {
        let piece = body.next().await?;
        touched.set(true);
        let (handed, ended) = match piece {
            BodyPiece::Data(data) => (leg.send_all(data, Some(gate), sent).await, false),
            BodyPiece::End(trailers) => (leg.finish(trailers.as_ref(), Some(Rc::clone(gate))), true),
        };
        match handed {
            Ok(()) if ended => return Ok(()),
            Ok(()) => {}
            Err(SendError::Revoked) => return Err(ExchangeError::Revoked),
            Err(SendError::Stalled) => return Err(ExchangeError::Silent),
            // An upstream may answer and stop reading: the answer, or its absence, says what was.
            Err(SendError::Broken(_)) => return pending().await,
        }
    }
}

/// Hands the answer over as it arrives. Gives its status.
async fn download(
    mut answer: ResponseFuture,
    method: &str,
    (reply, leg): (ToClient<'_>, &StreamLeg),
) -> Result<u16, ExchangeError> {
    let gone = |_| ExchangeError::ClientGone;
    let mut interim = 0;
    let response = loop {
        let next = poll_fn(|cx| match answer.poll_informational(cx) {
            Poll::Ready(Some(interim)) => Poll::Ready(interim.map(Next::Interim)),
            _ => Pin::new(&mut answer).poll(cx).map_ok(Next::Answer),
        });
        match timeout(UPSTREAM_SILENCE, next).await {
            Err(_) => return Err(ExchangeError::Silent),
            Ok(Err(error)) => return Err(unanswered(error)),
            Ok(Ok(Next::Interim(_))) if interim == INTERIM_ANSWERS_MAX => {
                return Err(HeadError::TooLong.into());
            }
            Ok(Ok(Next::Interim(head))) => {
                interim += 1;
                let head = response_head(&head, method, false)?;
                // h2 keeps those that nobody takes, without a bound: so a client that is slow misses some.
                let told = at_hand(reply, reply.send(reply.interim(head)?)).await;
                told.unwrap_or(Ok(())).map_err(gone)?;
            }
            Ok(Ok(Next::Answer(response))) => break response,
        }
    };
    let (parts, mut stream) = response.into_parts();
    let head = response_head(&::http::Response::from_parts(parts, ()), method, stream.is_end_stream())?;
    let status = head.status();
    reply.send(reply.head(head)?).await.map_err(gone)?;
    loop {
        reply.rest().await;
        let data = match timeout(BODY_SILENCE, poll_fn(|cx| stream.poll_data(cx))).await {
            Err(_) => return Err(ExchangeError::Broken(None)),
            Ok(Some(Err(error))) => return Err(broken(error)),
            Ok(Some(Ok(data))) => data,
            Ok(None) => break,
        };
        // Padding and empty frames are not payload.
        if data.is_empty() {
            continue;
        }
        let length = data.len();
        // The next piece is asked for when this one was sent on: only then its room is given back.
        let mut passed = reply.data(data.into())?;
        while let Some(piece) = passed.map_or_else(|| reply.more(), |piece| Ok(Some(piece)))? {
            let taken = async {
                reply.send(piece).await?;
                reply.taken().await
            };
            noticed(leg, taken).await.map_err(gone)?;
            passed = None;
        }
        let _ended = stream.flow_control().release_capacity(length);
        leg.took(length);
    }
    let trailers = trailers(&mut stream).await?;
    if let Some(held) = reply.held()? {
        reply.send(held).await.map_err(gone)?;
    }
    reply.send(reply.end(trailers)?).await.map_err(gone)?;
    Ok(status)
}

/// Waits for a reader. One that leaves lying what came for it takes room from others on the connection, so no more of
/// them join it.
async fn noticed<T>(leg: &StreamLeg, taken: impl Future<Output = T>) -> T {
    let mut taken = pin!(taken);
    match timeout(H2_STALL_NOTICE, taken.as_mut()).await {
        Ok(done) => done,
        Err(_) => {
            let _stalled = leg.stall();
            taken.await
        }
    }
}

enum Next {
    Interim(::http::Response<()>),
    Answer(::http::Response<RecvStream>),
}

async fn trailers(stream: &mut RecvStream) -> Result<Option<Trailers>, ExchangeError> {
    let found = timeout(BODY_SILENCE, poll_fn(|cx| stream.poll_trailers(cx))).await;
    let found = found.map_err(|_| ExchangeError::Broken(None))?.map_err(broken)?;
    Ok(found.map(|fields| {
        Trailers::from_fields(fields.iter().map(|(name, value)| (name.as_str(), value.as_bytes())))
    }))
}

fn unanswered(error: ::h2::Error) -> ExchangeError {
    match error.reason() {
        // RFC 9113 §8.7: nothing of it was processed. So with streams above the last that a farewell names.
        Some(Reason::REFUSED_STREAM) if error.is_remote() => ExchangeError::NotTaken,
        _ if error.is_remote() && error.is_go_away() => ExchangeError::NotTaken,
        Some(Reason::HTTP_1_1_REQUIRED) if error.is_remote() => ExchangeError::Http11Required,
        Some(reason) if error.is_remote() && error.is_reset() => ExchangeError::Reset(reason),
        _ => ExchangeError::Unanswered(Some(std::io::Error::other(error))),
    }
}

fn broken(error: ::h2::Error) -> ExchangeError {
    match error.reason() {
        Some(reason) if error.is_remote() && error.is_reset() => ExchangeError::Reset(reason),
        _ => ExchangeError::Broken(Some(std::io::Error::other(error).into())),
    }
}
