//! One request on both legs: the head and body go up while the answer comes down.
//!
//! Both directions run at once, so an answer that comes before the body was sent reaches the client, and a client that
//! leaves ends the upstream's work.

use std::{cell::Cell, future::pending, io, rc::Rc};

use futures_lite::future;

use super::relay::{Body, Gate, Inbound, RelayError};
use crate::{
    http::{BodyError, EditError, Found, Framing, HeadError, HeadReader, OutgoingResponse, Version},
    limits::UPSTREAM_SILENCE,
    ring::timeout,
    tls::Wire,
};

/// A request that may be sent.
pub struct Sending<'a> {
    /// Its head as the upstream gets it.
    pub head: Vec<u8>,
    /// Its method, by which the answer's framing is known.
    pub method: &'a str,
    /// How its body arrives and leaves.
    pub framing: Framing,
    /// Version of the client.
    pub version: Version,
    /// The client would send another request on its connection.
    pub keep_alive: bool,
}

/// How an exchange ended that was answered.
#[derive(Debug, PartialEq, Eq)]
pub struct Answered {
    /// Status of the answer.
    pub status: u16,
    /// Payload bytes that went up.
    pub request_bytes: u64,
    /// Payload bytes that came down.
    pub response_bytes: u64,
    /// The client's connection may carry another request.
    pub client_goes_on: bool,
    /// The upstream's connection may carry another request.
    pub upstream_goes_on: bool,
}

/// Why an exchange was not completed.
#[derive(Debug, thiserror::Error)]
pub enum ExchangeError {
    /// The upstream ended the connection before it answered. Nothing was said to the client.
    #[error("the upstream closed the connection without an answer")]
    Unanswered(#[source] Option<io::Error>),
    /// The upstream said nothing for too long. Nothing was said to the client.
    #[error("the upstream did not answer in time")]
    Silent,
    /// The answer's head is not one. Nothing was said to the client.
    #[error("the upstream's answer is malformed")]
    Head(#[from] HeadError),
    /// The answer's head cannot be sent on. Nothing was said to the client.
    #[error("the upstream's answer cannot be sent on")]
    Edit(#[from] EditError),
    /// The client's body is malformed. Nothing was said to the client, the upstream has a part.
    #[error("the request's body is malformed")]
    RequestBody(#[source] BodyError),
    /// The client left.
    #[error("the client left")]
    ClientGone,
    /// The client has a part of the answer: its connection must be reset, so that the part never looks whole.
    #[error("the answer broke off")]
    Broken(#[source] RelayError),
    /// Policy or lease no longer allow it.
    #[error("the exchange is no longer allowed")]
    Revoked,
}

impl ExchangeError {
    /// Whether the client has seen nothing of an answer, so that a refusal can still be told.
    pub fn can_be_told(&self) -> bool {
        !matches!(self, Self::ClientGone | Self::Broken(_) | Self::Revoked)
    }
}

/// What both directions share.
struct Progress {
    uploaded: Cell<bool>,
    request_bytes: Cell<u64>,
    response_bytes: Cell<u64>,
}

/// Sends a request and relays its answer.
///
/// # Errors
/// [`ExchangeError`]; the upstream's connection is of no further use then.
pub async fn exchange<G: Gate>(
    client: &mut Inbound,
    upstream: &mut Inbound,
    sending: Sending<'_>,
    gate: &G,
) -> Result<Answered, ExchangeError> {
    let progress =
        Progress { uploaded: Cell::new(false), request_bytes: Cell::new(0), response_bytes: Cell::new(0) };
    let (client_wire, upstream_wire) = (Rc::clone(client.wire()), Rc::clone(upstream.wire()));
    let Sending { head, method, framing, version, keep_alive } = sending;
    let body = Body {
        from: client,
        to: &upstream_wire,
        arriving: framing,
        leaving: framing,
        gate,
        head,
        sent: &progress.request_bytes,
    };
    let answer = Answer { to: &client_wire, method, version, keep_alive, gate };
    // The answer is looked at first: when it is whole, nothing that the upload finds can matter any more.
    future::or(download(upstream, answer, &progress), async { Err(upload(body, &progress).await) }).await
}

/// Relays the request's body, then watches the client. Ends only with a reason to give up.
async fn upload<G: Gate>(body: Body<'_, G>, progress: &Progress) -> ExchangeError {
    // The borrow of the client's leg is needed again after the relay.
    let Body { from, to, arriving, leaving, gate, head, sent } = body;
    let relayed = Body { from: &mut *from, to, arriving, leaving, gate, head, sent }.relay().await;
    match relayed {
        Ok(()) => {
            progress.uploaded.set(true);
            gone(from).await
        }
        // An upstream may answer and stop reading (RFC 9112 §9.5): the answer, or its absence, is for `download`.
        Err(RelayError::Send(_)) => pending().await,
        Err(RelayError::Receive(_) | RelayError::Silence | RelayError::Body(BodyError::Truncated)) => {
            ExchangeError::ClientGone
        }
        Err(RelayError::Body(error)) => ExchangeError::RequestBody(error),
        Err(RelayError::Revoked) => ExchangeError::Revoked,
    }
}

/// Waits until the client leaves. A pipelined request is kept, and then the client is taken to be there.
async fn gone(client: &mut Inbound) -> ExchangeError {
    if client.has_left() {
        return pending().await;
    }
    match client.next().await {
        Ok(Some(chunk)) => {
            client.put_back(chunk);
            pending().await
        }
        Ok(None) | Err(_) => ExchangeError::ClientGone,
    }
}

/// Where and how the answer goes.
struct Answer<'a, G> {
    to: &'a Wire,
    method: &'a str,
    version: Version,
    keep_alive: bool,
    gate: &'a G,
}

async fn download<G: Gate>(
    upstream: &mut Inbound,
    answer: Answer<'_, G>,
    progress: &Progress,
) -> Result<Answered, ExchangeError> {
    let mut reader = HeadReader::new();
    loop {
        let mut chunk = match timeout(UPSTREAM_SILENCE, upstream.next()).await {
            Err(_) => return Err(ExchangeError::Silent),
            Ok(Err(error)) => return Err(ExchangeError::Unanswered(Some(error))),
            Ok(Ok(None)) => return Err(ExchangeError::Unanswered(None)),
            Ok(Ok(Some(chunk))) => chunk,
        };
        // What the client still sends of a body that nobody wants cannot be told from its next request.
        let keep_alive = answer.keep_alive && progress.uploaded.get();
        let Some(passed) = pass_head(&mut reader, &chunk, &answer, keep_alive)? else { continue };
        chunk.advance(passed.taken);
        upstream.put_back(chunk);
        if passed.interim {
            forward(&answer, &passed.head).await?;
            continue;
        }
        let Passed { head, status, arriving, leaving, client_goes_on, upstream_goes_on, .. } = passed;
        let sent = &progress.response_bytes;
        let body = Body { from: upstream, to: answer.to, arriving, leaving, gate: answer.gate, head, sent };
        body.relay().await.map_err(|error| match error {
            RelayError::Revoked => ExchangeError::Revoked,
            error => ExchangeError::Broken(error),
        })?;
        let uploaded = progress.uploaded.get();
        return Ok(Answered {
            status,
            request_bytes: progress.request_bytes.get(),
            response_bytes: progress.response_bytes.get(),
            client_goes_on,
            upstream_goes_on: upstream_goes_on && uploaded,
        });
    }
}

/// A head as the client gets it, and what follows it.
struct Passed {
    head: Vec<u8>,
    taken: usize,
    interim: bool,
    status: u16,
    arriving: Framing,
    leaving: Framing,
    client_goes_on: bool,
    upstream_goes_on: bool,
}

/// Rewrites the head in `chunk`, once it is whole.
fn pass_head<G>(
    reader: &mut HeadReader,
    chunk: &[u8],
    answer: &Answer<'_, G>,
    keep_alive: bool,
) -> Result<Option<Passed>, ExchangeError> {
    let Found::Complete { head, taken, gathered } = reader.push(chunk)? else { return Ok(None) };
    let head = head.response(answer.method)?;
    let outgoing = OutgoingResponse::new(&head, answer.version, keep_alive);
    let mut bytes = Vec::with_capacity(512);
    outgoing.write_to(&mut bytes)?;
    let passed = Passed {
        head: bytes,
        taken,
        interim: head.is_interim(),
        status: head.status(),
        arriving: head.framing(),
        leaving: outgoing.framing(),
        client_goes_on: outgoing.keep_alive(),
        upstream_goes_on: head.keep_alive() && head.framing() != Framing::UntilClose,
    };
    if gathered {
        reader.take();
    }
    Ok(Some(passed))
}

/// Passes an interim answer on (RFC 9110 §15.2); HTTP/1.0 knows none.
async fn forward<G: Gate>(answer: &Answer<'_, G>, head: &[u8]) -> Result<(), ExchangeError> {
    if answer.version == Version::Http10 {
        return Ok(());
    }
    if !answer.gate.is_open() {
        return Err(ExchangeError::Revoked);
    }
    answer.to.send(head).await.map_err(|_| ExchangeError::ClientGone)
}

#[cfg(test)]
#[path = "exchange_tests.rs"]
mod tests;
