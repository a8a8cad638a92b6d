//! Reading and writing the primitive shapes: little-endian integers, and bytes whose length is bounded before it is
//! believed.

use zeroize::Zeroizing;

use crate::limits::FRAME_BYTES_MAX;

/// Bytes of the tag and length that stand before each body.
pub const FRAME_HEADER_BYTES: usize = 6;

/// Why bytes from the other side were not understood. Each of these closes the link.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// The body ended inside a field.
    #[error("the message ends inside {field}")]
    Truncated {
        /// The field.
        field: &'static str,
    },
    /// A length or a count is above its bound.
    #[error("{field} is {length} long, at most {max} is taken")]
    TooLong {
        /// The field.
        field: &'static str,
        /// What was claimed.
        length: usize,
        /// The bound.
        max: usize,
    },
    /// Text is not UTF-8.
    #[error("{field} is not UTF-8")]
    NotText {
        /// The field.
        field: &'static str,
    },
    /// A value that the field cannot have.
    #[error("{field} has the impossible value {value}")]
    Impossible {
        /// The field.
        field: &'static str,
        /// The value.
        value: u64,
    },
    /// A tag that this side does not know and that is not marked ignorable.
    #[error("unknown tag {tag:#06x}: the other side is newer and means something that must not be skipped")]
    UnknownTag {
        /// The tag.
        tag: u16,
    },
}

/// Splits a frame header. The length is bounded here, before anything is allocated for it.
///
/// # Errors
/// [`WireError::TooLong`] above [`FRAME_BYTES_MAX`].
pub fn frame_header(bytes: [u8; FRAME_HEADER_BYTES]) -> Result<(u16, usize), WireError> {
    let [t0, t1, l0, l1, l2, l3] = bytes;
    let length = u32::from_le_bytes([l0, l1, l2, l3]) as usize;
    if length > FRAME_BYTES_MAX {
        return Err(WireError::TooLong { field: "frame", length, max: FRAME_BYTES_MAX });
    }
    Ok((u16::from_le_bytes([t0, t1]), length))
}

/// Reads fields from the front of a body. What is left at the end belongs to a newer version and is skipped.
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// Whether nothing is left: the writer was older than what follows.
    pub(crate) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    fn take(&mut self, count: usize, field: &'static str) -> Result<&'a [u8], WireError> {
        let (head, rest) = self.rest.split_at_checked(count).ok_or(WireError::Truncated { field })?;
        self.rest = rest;
        Ok(head)
    }

    pub(crate) fn array<const N: usize>(&mut self, field: &'static str) -> Result<[u8; N], WireError> {
        let bytes = self.take(N, field)?;
        bytes.try_into().map_err(|_| WireError::Truncated { field })
    }

    pub(crate) fn byte(&mut self, field: &'static str) -> Result<u8, WireError> {
        Ok(self.array::<1>(field)?[0])
    }

    pub(crate) fn u16(&mut self, field: &'static str) -> Result<u16, WireError> {
        Ok(u16::from_le_bytes(self.array(field)?))
    }

    pub(crate) fn u32(&mut self, field: &'static str) -> Result<u32, WireError> {
        Ok(u32::from_le_bytes(self.array(field)?))
    }

    pub(crate) fn u64(&mut self, field: &'static str) -> Result<u64, WireError> {
        Ok(u64::from_le_bytes(self.array(field)?))
    }

    /// A length or count, refused above `max` before anything is allocated for it.
    pub(crate) fn length(&mut self, max: usize, field: &'static str) -> Result<usize, WireError> {
        let length = self.u32(field)? as usize;
        if length > max {
            return Err(WireError::TooLong { field, length, max });
        }
        Ok(length)
    }

    pub(crate) fn bytes(&mut self, max: usize, field: &'static str) -> Result<&'a [u8], WireError> {
        let length = self.length(max, field)?;
        self.take(length, field)
    }

    pub(crate) fn text(&mut self, max: usize, field: &'static str) -> Result<String, WireError> {
        let bytes = self.bytes(max, field)?;
        let text = std::str::from_utf8(bytes).map_err(|_| WireError::NotText { field })?;
        Ok(text.to_owned())
    }

    pub(crate) fn flag(&mut self, field: &'static str) -> Result<bool, WireError> {
        match self.byte(field)? {
            0 => Ok(false),
            1 => Ok(true),
            value => Err(WireError::Impossible { field, value: value.into() }),
        }
    }
}

/// Writes fields. Its memory is wiped when it is dropped and when it grows, because frames carry secrets.
pub(crate) struct Writer {
    bytes: Zeroizing<Vec<u8>>,
}

impl Writer {
    pub(crate) fn new() -> Self {
        Self { bytes: Zeroizing::new(Vec::with_capacity(256)) }
    }

    pub(crate) fn finish(self) -> Zeroizing<Vec<u8>> {
        self.bytes
    }

    pub(crate) fn raw(&mut self, bytes: &[u8]) {
        let needed = self.bytes.len() + bytes.len();
        if needed > self.bytes.capacity() {
            // `Vec` would free the old block without wiping it.
            let mut grown = Zeroizing::new(Vec::with_capacity(needed.max(self.bytes.capacity() * 2)));
            grown.extend_from_slice(&self.bytes);
            self.bytes = grown;
        }
        self.bytes.extend_from_slice(bytes);
    }

    pub(crate) fn byte(&mut self, value: u8) {
        self.raw(&[value]);
    }

    pub(crate) fn u16(&mut self, value: u16) {
        self.raw(&value.to_le_bytes());
    }

    pub(crate) fn u32(&mut self, value: u32) {
        self.raw(&value.to_le_bytes());
    }

    pub(crate) fn u64(&mut self, value: u64) {
        self.raw(&value.to_le_bytes());
    }

    /// A length or count. What is written was bounded where it entered, far below 4 GiB.
    pub(crate) fn length(&mut self, length: usize) {
        self.u32(u32::try_from(length).expect("fields are bounded far below 4 GiB where they enter"));
    }

    pub(crate) fn bytes(&mut self, bytes: &[u8]) {
        self.length(bytes.len());
        self.raw(bytes);
    }

    pub(crate) fn text(&mut self, text: &str) {
        self.bytes(text.as_bytes());
    }

    /// A tag, a length and the body that `write` makes.
    pub(crate) fn frame(&mut self, tag: u16, write: impl FnOnce(&mut Self)) {
        self.u16(tag);
        let at = self.bytes.len();
        self.u32(0);
        write(self);
        let length = self.bytes.len() - at - 4;
        let length = u32::try_from(length).expect("frames are bounded far below 4 GiB where they are made");
        self.bytes[at..at + 4].copy_from_slice(&length.to_le_bytes());
    }
}
