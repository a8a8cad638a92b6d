//! Events: what the host tells a guest, and the payloads other than views.

use alloc::vec::Vec;

use crate::bytes::{span, u32_at};
use crate::code::Status;
use crate::limits::{BODY_CHUNK_BYTES_MAX, SLOTS_MAX};
use crate::view::{View, ViewError};

/// The first argument of `og_event`. Number 6 is kept free.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum EventKind {
    /// A request's head; the payload is a view.
    Request = 1,
    /// A response's head; the payload is a view with a status.
    Response = 2,
    /// A piece of the request's body.
    RequestChunk = 3,
    /// A piece of the response's body.
    ResponseChunk = 4,
    /// The client left. The answer is not read.
    Cancelled = 5,
    /// An operation ended.
    Completion = 7,
}

impl EventKind {
    /// The kind of a number, or nothing where this version knows none.
    pub fn from_code(code: u32) -> Option<Self> {
        Some(match code {
            1 => Self::Request,
            2 => Self::Response,
            3 => Self::RequestChunk,
            4 => Self::ResponseChunk,
            5 => Self::Cancelled,
            7 => Self::Completion,
            _ => return None,
        })
    }

    /// The number on the wire.
    pub fn code(self) -> u32 {
        self as u32
    }
}

/// A piece of a body: `flags u32` (bit 0 = last), bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chunk<'a> {
    /// No further piece comes.
    pub last: bool,
    /// At most [`BODY_CHUNK_BYTES_MAX`] bytes.
    pub bytes: &'a [u8],
}

impl Chunk<'_> {
    /// Appends the payload.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&u32::from(self.last).to_le_bytes());
        out.extend_from_slice(self.bytes);
    }
}

/// The end of an operation: `slot u32`, `status u8`, bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Completion<'a> {
    /// The slot that the guest chose.
    pub slot: u8,
    /// How it ended.
    pub status: Status,
    /// Its value.
    pub bytes: &'a [u8],
}

impl Completion<'_> {
    /// Appends the payload.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&u32::from(self.slot).to_le_bytes());
        out.push(self.status.code());
        out.extend_from_slice(self.bytes);
    }
}

/// One event, decoded.
#[derive(Clone, Copy, Debug)]
pub enum Event<'a> {
    /// A request's head.
    Request(View<'a>),
    /// A response's head.
    Response(View<'a>),
    /// A piece of the request's body.
    RequestChunk(Chunk<'a>),
    /// A piece of the response's body.
    ResponseChunk(Chunk<'a>),
    /// The client left.
    Cancelled,
    /// An operation ended.
    Completion(Completion<'a>),
}

/// Why a payload is no event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventError {
    /// This version knows no such kind.
    UnknownKind(u32),
    /// The payload ends early.
    Truncated,
    /// A chunk is longer than its bound.
    ChunkTooLong(usize),
    /// A completion names a slot that does not exist.
    Slot(u32),
    /// A completion's status is unknown.
    Status(u8),
    /// The view is none.
    View(ViewError),
}

impl<'a> Event<'a> {
    /// Reads a payload of a kind.
    ///
    /// # Errors
    /// Where the kind is unknown or the payload breaks its form or a bound.
    pub fn decode(kind: u32, payload: &'a [u8]) -> Result<Self, EventError> {
        let kind = EventKind::from_code(kind).ok_or(EventError::UnknownKind(kind))?;
        Ok(match kind {
            EventKind::Request => Self::Request(View::parse(payload).map_err(EventError::View)?),
            EventKind::Response => Self::Response(View::parse(payload).map_err(EventError::View)?),
            EventKind::RequestChunk => Self::RequestChunk(decode_chunk(payload)?),
            EventKind::ResponseChunk => Self::ResponseChunk(decode_chunk(payload)?),
            EventKind::Cancelled => Self::Cancelled,
            EventKind::Completion => Self::Completion(decode_completion(payload)?),
        })
    }
}

fn decode_chunk(payload: &[u8]) -> Result<Chunk<'_>, EventError> {
    let flags = u32_at(payload, 0).ok_or(EventError::Truncated)?;
    let bytes = span(payload, 4, payload.len().saturating_sub(4)).ok_or(EventError::Truncated)?;
    if bytes.len() > BODY_CHUNK_BYTES_MAX {
        return Err(EventError::ChunkTooLong(bytes.len()));
    }
    Ok(Chunk { last: flags & 1 != 0, bytes })
}

fn decode_completion(payload: &[u8]) -> Result<Completion<'_>, EventError> {
    let slot = u32_at(payload, 0).ok_or(EventError::Truncated)?;
    let status = *payload.get(4).ok_or(EventError::Truncated)?;
    let small = u8::try_from(slot).ok().filter(|slot| *slot < SLOTS_MAX).ok_or(EventError::Slot(slot))?;
    let status = Status::from_code(status).ok_or(EventError::Status(status))?;
    Ok(Completion { slot: small, status, bytes: &payload[5..] })
}

impl core::fmt::Display for EventError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::UnknownKind(kind) => write!(f, "event {kind} is unknown"),
            Self::Truncated => f.write_str("the event ends early"),
            Self::ChunkTooLong(len) => write!(f, "a body chunk of {len} bytes is too long"),
            Self::Slot(slot) => write!(f, "slot {slot} does not exist"),
            Self::Status(status) => write!(f, "status {status} is unknown"),
            Self::View(_) => f.write_str("the view is malformed"),
        }
    }
}

impl core::error::Error for EventError {
    fn source(&self) -> Option<&(dyn core::error::Error + 'static)> {
        match self {
            Self::View(error) => Some(error),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunk_and_completion_have_golden_bytes() {
        let mut out = Vec::new();
        Chunk { last: true, bytes: b"ab" }.encode(&mut out);
        assert_eq!(out, [1, 0, 0, 0, b'a', b'b']);
        out.clear();
        Completion { slot: 3, status: Status::Value, bytes: b"v" }.encode(&mut out);
        assert_eq!(out, [3, 0, 0, 0, 1, b'v']);
    }

    #[test]
    fn truncated_payloads_are_refused() {
        for len in 0..4 {
            assert_eq!(Event::decode(3, &[1, 0, 0, 0][..len]).unwrap_err(), EventError::Truncated);
        }
        for len in 0..5 {
            assert_eq!(Event::decode(7, &[1, 0, 0, 0, 1][..len]).unwrap_err(), EventError::Truncated);
        }
        assert!(matches!(Event::decode(1, &[]), Err(EventError::View(_))));
    }

    #[test]
    fn unknown_kinds_slots_and_statuses_are_refused() {
        assert_eq!(Event::decode(6, &[]).unwrap_err(), EventError::UnknownKind(6));
        assert_eq!(Event::decode(7, &[8, 0, 0, 0, 1]).unwrap_err(), EventError::Slot(8));
        assert_eq!(Event::decode(7, &[0, 0, 0, 0, 9]).unwrap_err(), EventError::Status(9));
    }

    #[test]
    fn events_survive_a_round_trip() {
        let mut out = Vec::new();
        Completion { slot: 0, status: Status::Denied, bytes: b"" }.encode(&mut out);
        let Ok(Event::Completion(read)) = Event::decode(7, &out) else { panic!("a completion") };
        assert_eq!((read.slot, read.status, read.bytes), (0, Status::Denied, &b""[..]));
    }
}
