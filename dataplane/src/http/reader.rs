//! Finds the end of a head in bytes as they arrive, looking at each byte once, and refuses broken lines at once.

use crate::limits::{HEAD_BYTES_MAX, TARGET_BYTES_MAX};

use super::{
    fault::HeadError,
    head::{Parsed, RequestHead, ResponseHead},
    parse,
};

/// The bytes of a whole head whose line ends were found to be sound.
#[derive(Debug, Clone, Copy)]
pub struct WholeHead<'a>(pub(super) &'a [u8]);

impl<'a> WholeHead<'a> {
    /// Reads them as a request.
    ///
    /// # Errors
    /// Any [`HeadError`]; the connection cannot be used further, since where the next request starts is in doubt.
    pub fn request(self) -> Result<RequestHead<&'a [u8]>, HeadError> {
        parse::request(self)
    }

    /// Reads them as the answer to a request with this method.
    ///
    /// # Errors
    /// Any [`HeadError`]; it means 502, and the connection cannot be used further.
    pub fn response(self, method: &str) -> Result<ResponseHead<&'a [u8]>, HeadError> {
        parse::response(self, method)
    }

    /// The bytes.
    pub fn bytes(self) -> &'a [u8] {
        self.0
    }
}

/// Where the search for the end of a head stands.
#[derive(Debug, Default, Clone)]
struct Scan {
    /// Bytes looked at.
    at: usize,
    /// Where the current line starts.
    line: usize,
    /// Lines that ended.
    lines: usize,
    /// The last byte was a carriage return.
    after_cr: bool,
}

impl Scan {
    /// Looks at `bytes[self.at..]`; gives the length of the head when its end is there.
    fn advance(&mut self, bytes: &[u8]) -> Result<Option<usize>, HeadError> {
        while let Some(byte) = bytes.get(self.at) {
            if self.after_cr {
                if *byte != b'\n' {
                    return Err(HeadError::BareCr);
                }
                self.after_cr = false;
                self.at += 1;
                let empty = self.at - self.line == 2;
                self.line = self.at;
                // One empty line before the first line is skipped (RFC 9112 §2.2); it is the zeroth.
                if empty && self.lines > 0 {
                    return Ok(Some(self.at));
                }
                if empty && self.at > 2 {
                    return Err(HeadError::RequestLine);
                }
                self.lines += usize::from(!empty);
                continue;
            }
            if self.at == self.line && matches!(byte, b' ' | b'\t') {
                return Err(if self.lines == 0 { HeadError::RequestLine } else { HeadError::Folded });
            }
            // Most bytes are none of the three, so they are passed over in one search.
            let rest = &bytes[self.at..];
            let Some(found) = memchr::memchr3(b'\r', b'\n', 0, rest) else {
                self.at = bytes.len();
                return Ok(None);
            };
            match rest[found] {
                0 => return Err(HeadError::Nul),
                b'\n' => return Err(HeadError::BareLf),
                _ => self.after_cr = true,
            }
            self.at += found + 1;
        }
        Ok(None)
    }

    /// The refusal of a head that is too long: a first line without an end means the target.
    fn too_long(&self) -> HeadError {
        if self.lines == 0 { HeadError::TargetTooLong } else { HeadError::TooLong }
    }

    fn check_bounds(&self, length: usize) -> Result<(), HeadError> {
        // Method, version and delimiters of the first line are far below 1 KiB.
        let first_line_bound = TARGET_BYTES_MAX + 1024;
        if length > HEAD_BYTES_MAX || (self.lines == 0 && length > first_line_bound) {
            return Err(self.too_long());
        }
        Ok(())
    }
}

/// What [`HeadReader::push`] found.
#[derive(Debug)]
pub enum Found<'a> {
    /// The head goes on beyond the chunk; its bytes are kept by the reader, so the chunk can be given back.
    Partial,
    /// The head is whole.
    Complete {
        /// Its bytes: in the chunk where the head lies in one, else in the reader.
        head: WholeHead<'a>,
        /// How many bytes of the pushed chunk belong to the head; what follows is body or the next head.
        taken: usize,
        /// Whether the bytes are those of the reader, see [`HeadReader::take`].
        gathered: bool,
    },
}

/// Gathers a head only where it spans several chunks. One reader serves one connection and direction, head after
/// head.
#[derive(Debug, Default)]
pub struct HeadReader {
    held: Vec<u8>,
    scan: Scan,
}

impl HeadReader {
    /// A reader that holds nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether part of a head has arrived: a close now cuts a request short.
    pub fn is_started(&self) -> bool {
        self.scan.at > 0
    }

    /// Takes the next chunk.
    ///
    /// # Errors
    /// [`HeadError`] as soon as a byte shows that the head will be refused, or that it exceeds `HEAD_BYTES_MAX` or
    /// `TARGET_BYTES_MAX`. The reader is of no use afterwards.
    pub fn push<'a>(&'a mut self, chunk: &'a [u8]) -> Result<Found<'a>, HeadError> {
        if self.held.is_empty() {
            return match self.scan.advance(chunk)? {
                Some(length) => {
                    self.scan.check_bounds(length)?;
                    self.scan = Scan::default();
                    Ok(Found::Complete { head: WholeHead(&chunk[..length]), taken: length, gathered: false })
                }
                None => {
                    self.scan.check_bounds(chunk.len())?;
                    self.held.extend_from_slice(chunk);
                    Ok(Found::Partial)
                }
            };
        }
        let before = self.held.len();
        // One byte beyond the bound shows that the head is too long; more is not kept.
        let room = (HEAD_BYTES_MAX + 1).saturating_sub(before).min(chunk.len());
        self.held.extend_from_slice(&chunk[..room]);
        match self.scan.advance(&self.held)? {
            Some(length) => {
                self.scan.check_bounds(length)?;
                self.scan = Scan::default();
                self.held.truncate(length);
                Ok(Found::Complete { head: WholeHead(&self.held), taken: length - before, gathered: true })
            }
            None => {
                self.scan.check_bounds(self.held.len())?;
                Ok(Found::Partial)
            }
        }
    }

    /// Takes the gathered bytes out after a head was complete with `gathered`, and is ready for the next head.
    pub fn take(&mut self) -> Vec<u8> {
        self.scan = Scan::default();
        std::mem::take(&mut self.held)
    }
}

/// Searches for a whole head at the start of `bytes`.
pub(super) fn whole(bytes: &[u8]) -> Result<Option<WholeHead<'_>>, HeadError> {
    let mut scan = Scan::default();
    let found = scan.advance(bytes)?;
    scan.check_bounds(found.unwrap_or(bytes.len()))?;
    Ok(found.map(|length| WholeHead(&bytes[..length])))
}

/// Reads a request head at the start of `bytes`.
///
/// # Errors
/// Any deviation from RFC 9110 and 9112 as [`HeadError`].
pub fn parse_request(bytes: &[u8]) -> Result<Parsed<RequestHead<&[u8]>>, HeadError> {
    let Some(head) = whole(bytes)? else { return Ok(Parsed::Partial) };
    Ok(Parsed::Complete { head: head.request()?, consumed: head.0.len() })
}

/// Reads the head of the answer to a request with this method at the start of `bytes`.
///
/// # Errors
/// Any doubt about framing as [`HeadError`]; cosmetic deviations pass.
pub fn parse_response<'a>(
    bytes: &'a [u8],
    method: &str,
) -> Result<Parsed<ResponseHead<&'a [u8]>>, HeadError> {
    let Some(head) = whole(bytes)? else { return Ok(Parsed::Partial) };
    Ok(Parsed::Complete { head: head.response(method)?, consumed: head.0.len() })
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &[u8] = b"GET / HTTP/1.1\r\nHost: a.example\r\nA: b\r\n\r\n";

    #[test]
    fn head_in_one_chunk_is_not_copied() {
        let mut reader = HeadReader::new();
        let chunk = [HEAD, b"next"].concat();
        let Ok(Found::Complete { head, taken, gathered: false }) = reader.push(&chunk) else {
            panic!("whole")
        };
        assert_eq!(taken, HEAD.len());
        assert_eq!(head.bytes().as_ptr(), chunk.as_ptr());
    }

    #[test]
    fn head_cut_anywhere_is_found_and_surplus_stays_in_the_chunk() {
        for cut in 1..HEAD.len() {
            let mut reader = HeadReader::new();
            assert!(matches!(reader.push(&HEAD[..cut]), Ok(Found::Partial)), "{cut}");
            let rest = [&HEAD[cut..], b"surplus"].concat();
            let Ok(Found::Complete { head, taken, gathered: true }) = reader.push(&rest) else {
                panic!("{cut}")
            };
            assert_eq!((head.bytes(), taken), (HEAD, HEAD.len() - cut));
            assert_eq!(reader.take(), HEAD);
            assert!(!reader.is_started());
        }
    }

    #[test]
    fn broken_lines_are_refused_before_the_head_is_whole() {
        for (bytes, error) in [
            (&b"GET / HTTP/1.1\nHost"[..], HeadError::BareLf),
            (b"GET / HTTP/1.1\rHost", HeadError::BareCr),
            (b"GET / HTTP/1.1\r\nHost: a\0", HeadError::Nul),
            (b"GET / HTTP/1.1\r\nHost: a\r\n b", HeadError::Folded),
            (b" GET / HTTP/1.1", HeadError::RequestLine),
            (b"\r\n\r\n", HeadError::RequestLine),
        ] {
            assert_eq!(HeadReader::new().push(bytes).err(), Some(error), "{bytes:?}");
            let mut reader = HeadReader::new();
            let error_bytewise = bytes.chunks(1).find_map(|byte| reader.push(byte).err());
            assert_eq!(error_bytewise, Some(error), "byte by byte: {bytes:?}");
        }
    }

    #[test]
    fn endless_heads_end_at_their_bound() {
        let endless = |start: &[u8], error| {
            let mut reader = HeadReader::new();
            let mut result = reader.push(start).map(|_| ()).err();
            for _ in 0..HEAD_BYTES_MAX {
                result = result.or_else(|| reader.push(b"aaaa").map(|_| ()).err());
            }
            assert_eq!(result, Some(error));
            assert!(reader.held.len() <= HEAD_BYTES_MAX + 1);
        };
        endless(b"GET /", HeadError::TargetTooLong);
        endless(b"GET / HTTP/1.1\r\nA: ", HeadError::TooLong);
    }

    #[test]
    fn one_empty_line_before_a_request_is_skipped() {
        let bytes = [b"\r\n", HEAD].concat();
        let Ok(Parsed::Complete { head, consumed }) = parse_request(&bytes) else { panic!("whole") };
        assert_eq!((head.method(), consumed), ("GET", bytes.len()));
    }
}
