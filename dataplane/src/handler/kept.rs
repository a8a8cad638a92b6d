//! What is kept of a handler between the events of one exchange, within bounds per sandbox and per shard.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;

use handlers_sdk_abi::event::{Chunk, EventKind};
use handlers_sdk_abi::limits::BODY_CHUNK_BYTES_MAX;
use handlers_sdk_abi::manifest::Hook;
use handlers_sdk_abi::view::{RequestView, ViewError};

use super::error::HandlerError;
use super::instance::Snapshot;
use super::loaded::Loaded;
use crate::limits::HANDLER_FUEL_PER_BYTE;

/// A handler in the middle of an exchange: its memory and globals as its last event left them. It keeps its version,
/// whatever is published meanwhile.
pub struct Kept {
    pub(super) loaded: Arc<Loaded>,
    pub(super) snapshot: Rc<Snapshot>,
    pub(super) space: Space,
    /// Turns that are left for the exchange.
    pub(super) fuel: i64,
    pub(super) held: Held,
}

impl Kept {
    /// Whether its manifest names this hook.
    pub fn wants(&self, hook: Hook) -> bool {
        self.loaded.wants(hook)
    }
}

/// Where in the guest's memory the host may write.
#[derive(Clone, Copy)]
pub(super) struct Space {
    pub(super) at: u32,
    pub(super) bytes: u32,
}

/// Bytes before those of a chunk.
const CHUNK_HEAD_BYTES: usize = 4;
/// Space that is asked for once, when the inbox is too small: every chunk fits.
pub(super) const CHUNK_SPACE_BYTES: usize = CHUNK_HEAD_BYTES + BODY_CHUNK_BYTES_MAX;

/// The next event of an exchange whose handler was kept.
pub enum Next<'a> {
    /// The answer's head.
    Response(&'a RequestView<'a>),
    /// A piece of the request's body, at most [`BODY_CHUNK_BYTES_MAX`] bytes.
    RequestChunk(Chunk<'a>),
    /// A piece of the answer's body, at most as many.
    ResponseChunk(Chunk<'a>),
    /// The exchange ended early. The answer is not read.
    Cancelled,
}

impl Next<'_> {
    pub(super) fn kind(&self) -> EventKind {
        match self {
            Self::Response(_) => EventKind::Response,
            Self::RequestChunk(_) => EventKind::RequestChunk,
            Self::ResponseChunk(_) => EventKind::ResponseChunk,
            Self::Cancelled => EventKind::Cancelled,
        }
    }

    pub(super) fn len(&self) -> Result<usize, ViewError> {
        match self {
            Self::Response(view) => view.encoded_len(),
            Self::RequestChunk(chunk) | Self::ResponseChunk(chunk) => {
                Ok(CHUNK_HEAD_BYTES + chunk.bytes.len())
            }
            Self::Cancelled => Ok(0),
        }
    }

    /// Writes the payload to a space of its length.
    pub(super) fn encode_into(&self, out: &mut [u8]) {
        match self {
            Self::Response(view) => {
                // Its length was computed, and the space has it.
                let _length = view.encode_into(out);
            }
            Self::RequestChunk(chunk) | Self::ResponseChunk(chunk) => {
                let (head, bytes) = out.split_at_mut(CHUNK_HEAD_BYTES);
                head.copy_from_slice(&u32::from(chunk.last).to_le_bytes());
                bytes.copy_from_slice(chunk.bytes);
            }
            Self::Cancelled => {}
        }
    }

    /// Turns that it adds.
    pub(super) fn fuel(&self) -> i64 {
        match self {
            Self::RequestChunk(chunk) | Self::ResponseChunk(chunk) => {
                HANDLER_FUEL_PER_BYTE.saturating_mul(chunk.bytes.len() as i64)
            }
            Self::Response(_) | Self::Cancelled => 0,
        }
    }
}

/// Room for what handlers remember, of one sandbox or of one shard.
pub struct Room {
    whose: &'static str,
    used: Cell<usize>,
    bytes_max: usize,
}

impl Room {
    /// Room for so many bytes.
    pub fn new(whose: &'static str, bytes_max: usize) -> Rc<Self> {
        Rc::new(Self { whose, used: Cell::new(0), bytes_max })
    }

    /// Bytes in use.
    pub fn used(&self) -> usize {
        self.used.get()
    }

    fn take(&self, bytes: usize) -> Result<(), HandlerError> {
        let used = self.used.get().saturating_add(bytes);
        if used > self.bytes_max {
            return Err(HandlerError::TooMuchKept { whose: self.whose, bytes_max: self.bytes_max });
        }
        self.used.set(used);
        Ok(())
    }

    fn give_back(&self, bytes: usize) {
        self.used.set(self.used.get().saturating_sub(bytes));
    }
}

/// A part of two rooms, given back when it is dropped.
pub(super) struct Held {
    rooms: [Rc<Room>; 2],
    bytes: usize,
}

impl Held {
    pub(super) fn take(rooms: [&Rc<Room>; 2], bytes: usize) -> Result<Self, HandlerError> {
        let mut held = Self { rooms: rooms.map(Rc::clone), bytes: 0 };
        held.resize(bytes)?;
        Ok(held)
    }

    /// Holds so many bytes from now on; as many as before where a room has no more.
    pub(super) fn resize(&mut self, bytes: usize) -> Result<(), HandlerError> {
        let [one, other] = &self.rooms;
        if let Some(less) = self.bytes.checked_sub(bytes) {
            [one, other].iter().for_each(|room| room.give_back(less));
        } else {
            let more = bytes - self.bytes;
            one.take(more)?;
            other.take(more).inspect_err(|_| one.give_back(more))?;
        }
        self.bytes = bytes;
        Ok(())
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.rooms.iter().for_each(|room| room.give_back(self.bytes));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rooms_are_given_back_and_neither_is_overdrawn() {
        let (sandbox, shard) = (Room::new("the sandbox", 100), Room::new("the shard", 120));
        let mut one = Held::take([&sandbox, &shard], 60).expect("there is room");
        assert!(matches!(one.resize(101), Err(HandlerError::TooMuchKept { whose: "the sandbox", .. })));
        let other = Room::new("the sandbox", 100);
        let refused = Held::take([&other, &shard], 61);
        assert!(matches!(refused, Err(HandlerError::TooMuchKept { whose: "the shard", .. })));
        assert_eq!((sandbox.used(), other.used(), shard.used()), (60, 0, 60));
        one.resize(40).expect("less is always had");
        let two = Held::take([&other, &shard], 80).expect("there is room now");
        drop((one, two));
        assert_eq!((sandbox.used(), other.used(), shard.used()), (0, 0, 0));
    }
}
