//! The number a guest answers with: where its action list lies, and whether it waits.

use crate::limits::ACTION_LIST_BYTES_MAX;

/// A guest's answer to an event: bits 63–32 pointer, bit 31 pending, bits 30–0 length of the list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Offset of the list in the guest's memory.
    pub pointer: u32,
    /// Bytes of the list.
    pub len: u32,
    /// The handler waits for an operation.
    pub pending: bool,
}

/// Why an answer is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AnswerError {
    /// The guest does not know the event.
    NotHandled,
    /// A negative number that says nothing.
    Negative(i64),
    /// The list is longer than its bound.
    TooLong(u32),
}

impl Answer {
    /// What a guest answers to an event it does not know.
    pub const NOT_HANDLED: i64 = -1;
    const PENDING: u64 = 1 << 31;

    /// The number on the wire.
    ///
    /// # Panics
    /// Where pointer or length do not fit 31 bits; memory and lists are bounded far below.
    pub fn encode(self) -> i64 {
        assert!(self.pointer < 1 << 31 && self.len < 1 << 31, "a list lies within 31 bits");
        let pending = if self.pending { Self::PENDING } else { 0 };
        ((u64::from(self.pointer) << 32) | pending | u64::from(self.len)) as i64
    }

    /// Reads a guest's number. That the list lies inside the guest's memory is for the host to check.
    ///
    /// # Errors
    /// Where it is negative or names more than [`ACTION_LIST_BYTES_MAX`].
    pub fn decode(answer: i64) -> Result<Self, AnswerError> {
        if answer == Self::NOT_HANDLED {
            return Err(AnswerError::NotHandled);
        }
        if answer < 0 {
            return Err(AnswerError::Negative(answer));
        }
        let bits = answer as u64;
        let len = (bits & (Self::PENDING - 1)) as u32;
        if len as usize > ACTION_LIST_BYTES_MAX {
            return Err(AnswerError::TooLong(len));
        }
        Ok(Self { pointer: (bits >> 32) as u32, len, pending: bits & Self::PENDING != 0 })
    }
}

impl core::fmt::Display for AnswerError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::NotHandled => f.write_str("the handler does not know this event"),
            Self::Negative(number) => write!(f, "the handler answered {number}"),
            Self::TooLong(len) => write!(f, "the handler's list of actions has {len} bytes, too many"),
        }
    }
}

impl core::error::Error for AnswerError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_keep_their_bits() {
        let answer = Answer { pointer: 0x1234, len: 0x56, pending: true };
        assert_eq!(answer.encode(), 0x0000_1234_8000_0056);
        assert_eq!(Answer::decode(answer.encode()), Ok(answer));
        assert_eq!(Answer::decode(0), Ok(Answer { pointer: 0, len: 0, pending: false }));
    }

    #[test]
    fn negative_and_long_answers_are_refused() {
        assert_eq!(Answer::decode(-1), Err(AnswerError::NotHandled));
        assert_eq!(Answer::decode(i64::MIN), Err(AnswerError::Negative(i64::MIN)));
        assert_eq!(Answer::decode(65_537), Err(AnswerError::TooLong(65_537)));
        assert!(Answer::decode(65_536).is_ok());
    }
}
