//! Another protocol at its upstream, a WebSocket for most: a handshake in HTTP/1.1, then bytes both ways until both sides
//! have ended.

use std::cell::Cell;

use aws_lc_rs::digest;
use data_encoding::BASE64;
use futures_lite::future::{or, try_zip};

use super::{
    edits::{FromClient, ToClient},
    exchange::{AnswerHead, Answered, ExchangeError, Sending, answer_head, begin, hand_over},
};
use crate::{
    http::{BodyDecoder, BodyPiece, Framing, Gate, Parsed, h1::Inbound, parse_request},
    limits::BODY_SILENCE,
    ring::timeout,
    tls::{Chunk, Wire},
};

/// Sends the handshake and hands its answer over; where the upstream agrees, relays until both sides have ended.
///
/// # Errors
/// [`ExchangeError`]; the upstream's connection is of no further use, with or without one.
pub async fn exchange(
    (body, reply): (FromClient<'_>, ToClient<'_>),
    (wire, inbound): (&Wire, &mut Inbound<Chunk>),
    sending: Sending<'_>,
    gate: &dyn Gate,
) -> Result<Answered, ExchangeError> {
    let Sending { head: asked, method, sent, .. } = sending;
    if !gate.is_open() {
        return Err(ExchangeError::Revoked);
    }
    wire.send(asked).await.map_err(|error| ExchangeError::Unanswered(Some(error)))?;
    let left = async {
        reply.cancelled().await;
        Err(ExchangeError::ClientGone)
    };
    let head = or(answer_head(wire, inbound, method, reply), left).await?;
    let status = head.status();
    if head.framing() != Framing::Tunnel {
        let (opening, rest) = begin(head, reply)?;
        reply.send(opening).await.map_err(|_| ExchangeError::ClientGone)?;
        let (status, _) = hand_over(rest, wire, inbound, reply).await?;
        return Ok(Answered { status, upstream_goes_on: false });
    }
    if !agrees(asked, &head) {
        return Err(ExchangeError::Handshake);
    }
    reply.send(reply.head(head)?).await.map_err(|_| ExchangeError::ClientGone)?;
    let (pieces, told) = (Cell::new(0), Cell::new(false));
    let coming_down = async {
        down(wire, inbound, reply, &pieces).await?;
        told.set(true);
        Ok(())
    };
    match try_zip(up(body, wire, gate, (sent, &pieces)), coming_down).await {
        // Who was told all that there is may leave as it likes.
        Err(ExchangeError::ClientGone) if told.get() => {}
        ended => drop(ended?),
    }
    Ok(Answered { status, upstream_goes_on: false })
}

/// Whether the answer was made for this request: it names the protocol that was asked for. One of a WebSocket also knows
/// its key (RFC 6455 §4.1), since what only echoes is no server of that; clients of HTTP/2 do not look, as they sent none
/// (RFC 8441 §5).
fn agrees(asked: &[u8], answer: &AnswerHead) -> bool {
    let Ok(Parsed::Complete { head, .. }) = parse_request(asked) else { return false };
    let (Some(protocol), Some(chosen)) = (head.field("upgrade"), answer.field("upgrade")) else {
        return false;
    };
    if !chosen.eq_ignore_ascii_case(protocol) {
        return false;
    }
    if !protocol.eq_ignore_ascii_case(b"websocket") {
        return true;
    }
    let key = head.field("sec-websocket-key").unwrap_or_default();
    let digest = digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, &[key, GUID].concat());
    let accepted = answer.field("sec-websocket-accept");
    accepted == Some(BASE64.encode(digest.as_ref()).as_bytes())
}

/// RFC 6455 §1.3.
const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// The client's half, to its end, of which the upstream is told. An upstream may stop reading before: what it said is
/// handed over all the same, so the client goes on to its own end, and the other half says how the upstream's was.
async fn up(
    mut body: FromClient<'_>,
    wire: &Wire,
    gate: &dyn Gate,
    (sent, pieces): (&Cell<u64>, &Cell<u64>),
) -> Result<(), ExchangeError> {
    let mut is_read = true;
    loop {
        let BodyPiece::Data(data) = body.next().await? else {
            // Who has gone needs not be told.
            let _gone = wire.close().await;
            return Ok(());
        };
        if !gate.is_open() {
            return Err(ExchangeError::Revoked);
        }
        pieces.set(pieces.get() + 1);
        is_read = is_read && wire.send(&data).await.is_ok();
        if is_read {
            sent.set(sent.get() + data.len() as u64);
        }
    }
}

/// The upstream's half, to its end. It may be silent for as long as the client is not.
async fn down(
    wire: &Wire,
    inbound: &mut Inbound<Chunk>,
    reply: ToClient<'_>,
    pieces: &Cell<u64>,
) -> Result<(), ExchangeError> {
    let gone = |_| ExchangeError::ClientGone;
    let mut decoder = BodyDecoder::new(Framing::Tunnel);
    loop {
        let before = pieces.get();
        let piece = match timeout(BODY_SILENCE, inbound.next_piece(wire, &mut decoder)).await {
            Err(_) if pieces.get() > before => continue,
            Err(_) => return Err(ExchangeError::Broken(None)),
            Ok(Err(error)) => return Err(ExchangeError::Broken(Some(error))),
            Ok(Ok(piece)) => piece,
        };
        match piece {
            BodyPiece::Data(data) => {
                if let Some(piece) = reply.data(data)? {
                    reply.send(piece).await.map_err(gone)?;
                }
            }
            BodyPiece::End(end) => {
                // Only who has taken everything was told that there is no more.
                reply.taken().await.map_err(gone)?;
                return reply.send(reply.end(end)?).await.map_err(gone);
            }
        }
    }
}
