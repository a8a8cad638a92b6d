//! Bodies as they pass: what a handler sees of them, and what it gives in their place.
//!
//! A body is never gathered: the handler sees each piece when it is there, and the next one comes only when the one
//! before was sent on. What is given for a piece goes on before the next is seen. Trailers behind a body pass unseen,
//! and so does what the two sides of a WebSocket say: a handler that asks for the body of one is refused by the
//! gateway.

use handlers_sdk_abi::ActionWriter;
use handlers_sdk_abi::code::BodyUse;
use handlers_sdk_abi::limits::BODY_CHUNK_BYTES_MAX;

use crate::outcome::Outcome;

/// A piece of a body, as it was sent: compressed where its `content-encoding` says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chunk<'a> {
    /// Its bytes, at most 16 KiB. Where the sender ends a piece says nothing about what it means.
    pub bytes: &'a [u8],
    /// The body is whole. The last piece is empty.
    pub last: bool,
}

/// What looks at a body.
pub(crate) type Look = Box<dyn FnMut(Chunk<'_>) -> Result<(), Outcome>>;
/// What changes one.
pub(crate) type Change = Box<dyn FnMut(Chunk<'_>, &mut Vec<u8>) -> Result<(), Outcome>>;

/// What a handler does with a body.
pub(crate) enum Watch {
    Look(Look),
    Change(Change),
}

impl Watch {
    pub(crate) fn wants(&self) -> BodyUse {
        match self {
            Self::Look(_) => BodyUse::Look,
            Self::Change(_) => BodyUse::Change,
        }
    }

    /// Shows a piece. `space` is used again for each.
    pub(crate) fn see(&mut self, chunk: Chunk<'_>, space: &mut Vec<u8>) -> Result<(), Outcome> {
        space.clear();
        match self {
            Self::Look(look) => look(chunk),
            Self::Change(change) => change(chunk, space),
        }
    }
}

/// Bytes that a handler may give for one piece: a list of actions holds them.
const GIVEN_BYTES_MAX: usize = 60 * 1024;

/// Writes what goes on in the place of a piece.
///
/// # Panics
/// Where it is more than fits.
pub(crate) fn emit(given: &[u8], list: &mut ActionWriter) {
    let bytes = given.len();
    assert!(bytes <= GIVEN_BYTES_MAX, "{bytes} bytes for one piece of a body; at most {GIVEN_BYTES_MAX} fit");
    given.chunks(BODY_CHUNK_BYTES_MAX).for_each(|part| list.emit(part));
}
