//! Bodies: where the payload lies in the bytes that arrive, and what must stand around it when it is sent on.

use std::{fmt, io::Write, mem::MaybeUninit, ops::Range};

use ::h2::Reason;

use crate::limits::{CHUNK_EXTENSION_BYTES_MAX, CHUNK_LINE_BYTES_MAX, TRAILER_BYTES_MAX, TRAILER_FIELDS_MAX};

use super::{
    edit::is_hop_by_hop,
    head::{Field, FieldSpans, Framing, Span},
    parse::{same_field, trim},
};

/// Why a body is cut off. From a client it means 400 where an answer is still possible, from an upstream 502 or a
/// reset, so that a shortened answer never looks whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BodyError {
    /// A chunk size that is no hexadecimal number of at most 63 bits, alone or before `;` (RFC 9112 §7.1).
    #[error("a chunk size is malformed")]
    ChunkSize,
    /// A chunk extension with control characters, or too long, or too many of them.
    #[error("chunk extensions are malformed or too long")]
    ChunkExtension,
    /// No CRLF where one must be.
    #[error("a chunk is not followed by a line end")]
    ChunkEnd,
    /// Trailers that are no fields, or too many.
    #[error("the trailers are malformed or too long")]
    Trailers,
    /// The sender closed before the body was whole.
    #[error("the body ended before it was whole")]
    Truncated,
    /// More or fewer bytes were to be sent than `Content-Length` promised.
    #[error("the body is not as long as promised")]
    Length,
    /// The exchange was cancelled by the other side of the plane.
    #[error("the body was cancelled")]
    Cancelled,
    /// The sender broke its stream for this reason (RFC 9113 §5.4.2).
    #[error("the stream was reset: {0:?}")]
    Reset(Reason),
}

/// Fields after a body. They never become fields of the head (RFC 9110 §6.5.1).
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Trailers {
    block: Vec<u8>,
    fields: FieldSpans,
}

impl Trailers {
    /// All fields in their order, without those that no trailer may be.
    pub fn fields(&self) -> impl Iterator<Item = Field<'_>> {
        self.fields.iter(&self.block)
    }

    /// Fields that arrived apart from a body. Those that no trailer may be are left out.
    pub fn from_fields<'a>(fields: impl Iterator<Item = (&'a str, &'a [u8])>) -> Self {
        let (mut block, mut spans) = (Vec::new(), Vec::new());
        for (name, value) in fields.filter(|(name, _)| may_be_trailer(name.as_bytes())) {
            let start = block.len();
            block.extend_from_slice(name.as_bytes());
            let middle = block.len();
            block.extend_from_slice(value);
            spans.push((Span::new(start..middle), Span::new(middle..block.len())));
        }
        Trailers { block, fields: FieldSpans(spans) }
    }

    /// Reads the lines behind the last chunk, the empty line included. Fields about framing, routing, connection or
    /// credentials are left out: a recipient that merged them would be misled.
    fn parse(block: Vec<u8>) -> Result<Self, BodyError> {
        let mut storage = [const { MaybeUninit::<httparse::Header<'_>>::uninit() }; TRAILER_FIELDS_MAX];
        let mut request = httparse::Request::new(&mut []);
        // httparse reads fields into uninitialised room only behind a first line.
        let mut text = Vec::with_capacity(block.len() + TRAILER_LINE.len());
        text.extend_from_slice(TRAILER_LINE);
        text.extend_from_slice(&block);
        let whole = matches!(
            request.parse_with_uninit_headers(&text, &mut storage),
            Ok(httparse::Status::Complete(length)) if length == text.len()
        );
        if !whole {
            return Err(BodyError::Trailers);
        }
        let mut spans = Vec::with_capacity(request.headers.len());
        for header in request.headers.iter().filter(|header| may_be_trailer(header.name.as_bytes())) {
            spans.push((Span::of(&text, header.name.as_bytes()), Span::of(&text, trim(header.value))));
        }
        Ok(Trailers { block: text, fields: FieldSpans(spans) })
    }
}

/// Values may be credentials and are not shown.
impl fmt::Debug for Trailers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.fields()).finish()
    }
}

const TRAILER_LINE: &[u8] = b"T / HTTP/1.1\r\n";

fn may_be_trailer(name: &[u8]) -> bool {
    const NEVER: [&[u8]; 12] = [
        b"content-length",
        b"content-encoding",
        b"content-type",
        b"content-range",
        b"host",
        b"authorization",
        b"cookie",
        b"set-cookie",
        b"expect",
        b"cache-control",
        b"location",
        b"alt-svc",
    ];
    !name.is_empty() && !is_hop_by_hop(name) && !NEVER.iter().any(|never| same_field(name, never))
}

/// What the decoder found; ranges are into the bytes that it was given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece {
    /// Payload.
    Data(Range<usize>),
    /// The body is whole; later bytes belong to someone else. Trailers, if there were any.
    End(Option<Trailers>),
    /// All bytes were used up and the body goes on.
    More,
}

#[derive(Debug)]
enum State {
    /// Payload of which so many bytes are due.
    Data(u64),
    UntilClose,
    Size {
        value: u64,
        digits: u8,
    },
    Extension,
    SizeLf {
        value: u64,
    },
    Chunk(u64),
    ChunkCr,
    ChunkLf,
    Trailers,
    Ended,
}

/// Finds the payload of one body. It holds no payload, only trailers.
#[derive(Debug)]
pub struct BodyDecoder {
    state: State,
    size: u64,
    line: usize,
    extension_bytes: u64,
    payload_bytes: u64,
    trailers: Vec<u8>,
}

impl BodyDecoder {
    /// A decoder at the start of a body with this framing.
    pub fn new(framing: Framing) -> Self {
        let state = match framing {
            Framing::None | Framing::Length(0) => State::Ended,
            Framing::Length(length) => State::Data(length),
            Framing::Chunked => State::Size { value: 0, digits: 0 },
            Framing::UntilClose | Framing::Tunnel => State::UntilClose,
        };
        BodyDecoder { state, size: 0, line: 0, extension_bytes: 0, payload_bytes: 0, trailers: Vec::new() }
    }

    /// Whether the body is whole, so that what follows belongs to the next message.
    pub fn is_ended(&self) -> bool {
        matches!(self.state, State::Ended)
    }

    /// Payload bytes found so far.
    pub fn payload_bytes(&self) -> u64 {
        self.payload_bytes
    }

    /// The sender closed.
    ///
    /// # Errors
    /// [`BodyError::Truncated`] unless the body is whole or lasts until the close.
    pub fn close(&mut self) -> Result<(), BodyError> {
        match self.state {
            State::UntilClose | State::Ended => {
                self.state = State::Ended;
                Ok(())
            }
            _ => Err(BodyError::Truncated),
        }
    }

    /// Looks at the next bytes; gives how many of them are done with and what was found. Call again with the rest.
    ///
    /// # Errors
    /// [`BodyError`]; the connection cannot be used further.
    pub fn decode(&mut self, input: &[u8]) -> Result<(usize, Piece), BodyError> {
        let mut at = 0;
        loop {
            if let State::Ended = self.state {
                return Ok((at, Piece::End(None)));
            }
            let rest = &input[at..];
            let Some(byte) = rest.first() else { return Ok((at, Piece::More)) };
            match self.state {
                State::UntilClose => {
                    self.payload_bytes += rest.len() as u64;
                    return Ok((input.len(), Piece::Data(at..input.len())));
                }
                State::Data(due) | State::Chunk(due) => {
                    let taken = usize::try_from(due).unwrap_or(usize::MAX).min(rest.len());
                    self.payload_bytes += taken as u64;
                    self.state = self.after_payload(due - taken as u64);
                    return Ok((at + taken, Piece::Data(at..at + taken)));
                }
                State::Trailers => {
                    let (taken, ended) = self.gather_trailers(rest)?;
                    at += taken;
                    if ended {
                        self.state = State::Ended;
                        let gathered = std::mem::take(&mut self.trailers);
                        let trailers =
                            if gathered == b"\r\n" { None } else { Some(Trailers::parse(gathered)?) };
                        return Ok((at, Piece::End(trailers)));
                    }
                }
                _ => {
                    self.step(*byte)?;
                    at += 1;
                }
            }
        }
    }

    fn after_payload(&self, due: u64) -> State {
        match (&self.state, due) {
            (State::Data(_), 0) => State::Ended,
            (State::Data(_), due) => State::Data(due),
            (_, 0) => State::ChunkCr,
            (_, due) => State::Chunk(due),
        }
    }

    /// One byte of a chunk line or of the line end behind a chunk.
    fn step(&mut self, byte: u8) -> Result<(), BodyError> {
        self.state = match self.state {
            State::Size { value, digits } => match (byte, hex(byte)) {
                // Sixteen digits, of which the first below 8, are 63 bits; zeros in front count too.
                (_, Some(digit)) if digits < 16 && value < 1 << 59 => {
                    State::Size { value: value << 4 | digit, digits: digits + 1 }
                }
                (b'\r', _) if digits > 0 => State::SizeLf { value },
                (b';', _) if digits > 0 => {
                    self.size = value;
                    State::Extension
                }
                _ => return Err(BodyError::ChunkSize),
            },
            State::Extension => {
                self.line += 1;
                self.extension_bytes += 1;
                let allowed = CHUNK_EXTENSION_BYTES_MAX.saturating_add(self.payload_bytes);
                if self.line > CHUNK_LINE_BYTES_MAX || self.extension_bytes > allowed {
                    return Err(BodyError::ChunkExtension);
                }
                match byte {
                    b'\r' => State::SizeLf { value: self.size },
                    b'\t' | b' '..=b'~' | 0x80.. => State::Extension,
                    _ => return Err(BodyError::ChunkExtension),
                }
            }
            State::SizeLf { value } if byte == b'\n' => {
                self.line = 0;
                if value == 0 { State::Trailers } else { State::Chunk(value) }
            }
            State::ChunkCr if byte == b'\r' => State::ChunkLf,
            State::ChunkLf if byte == b'\n' => State::Size { value: 0, digits: 0 },
            _ => return Err(BodyError::ChunkEnd),
        };
        Ok(())
    }

    /// Takes lines up to the empty one, with the line discipline of a head.
    fn gather_trailers(&mut self, input: &[u8]) -> Result<(usize, bool), BodyError> {
        for (at, byte) in input.iter().enumerate() {
            let after_cr = self.trailers.last() == Some(&b'\r');
            let line_start = self.trailers.is_empty() || self.trailers.ends_with(b"\n");
            let sound = match byte {
                0 => false,
                b'\n' => after_cr,
                b' ' | b'\t' => !after_cr && !line_start,
                // White space before the colon.
                b':' => {
                    !after_cr && !matches!(self.trailers.last(), Some(b' ' | b'\t')) || self.value_started()
                }
                _ => !after_cr,
            };
            if !sound || self.trailers.len() >= TRAILER_BYTES_MAX {
                return Err(BodyError::Trailers);
            }
            self.trailers.push(*byte);
            if self.trailers == b"\r\n" || self.trailers.ends_with(b"\r\n\r\n") {
                return Ok((at + 1, true));
            }
        }
        Ok((input.len(), false))
    }

    /// Whether the current trailer line has its colon already.
    fn value_started(&self) -> bool {
        self.trailers.iter().rev().take_while(|byte| **byte != b'\n').any(|byte| *byte == b':')
    }
}

fn hex(byte: u8) -> Option<u64> {
    char::from(byte).to_digit(16).map(u64::from)
}

/// Puts a body's framing round its payload. Only framing is written, never the payload: that goes from the receive
/// buffer to the socket.
#[derive(Debug)]
pub struct BodyEncoder {
    framing: Framing,
    due: u64,
    ended: bool,
}

impl BodyEncoder {
    /// An encoder at the start of a body.
    pub fn new(framing: Framing) -> Self {
        let due = if let Framing::Length(length) = framing { length } else { 0 };
        BodyEncoder { framing, due, ended: false }
    }

    /// Appends to `out` what must stand before a piece of payload; call [`BodyEncoder::after`] behind it. An empty
    /// piece must not be announced: an empty chunk would be the end.
    ///
    /// # Errors
    /// [`BodyError::Length`] when the piece exceeds what was promised, or there is no body.
    pub fn before(&mut self, payload: usize, out: &mut Vec<u8>) -> Result<(), BodyError> {
        if payload == 0 || self.ended {
            return Err(BodyError::Length);
        }
        match self.framing {
            Framing::None => return Err(BodyError::Length),
            Framing::Length(_) => {
                self.due = self.due.checked_sub(payload as u64).ok_or(BodyError::Length)?;
            }
            // Writing to a vector does not fail.
            Framing::Chunked => write!(out, "{payload:x}\r\n").map_err(|_| BodyError::Length)?,
            Framing::UntilClose | Framing::Tunnel => {}
        }
        Ok(())
    }

    /// Appends what must stand behind a piece of payload.
    pub fn after(&self, out: &mut Vec<u8>) {
        if self.framing == Framing::Chunked {
            out.extend_from_slice(b"\r\n");
        }
    }

    /// Appends the end of the body. Trailers go only with the chunked coding; elsewhere there is no place for them.
    ///
    /// # Errors
    /// [`BodyError::Length`] when fewer bytes were sent than promised; then the connection must be reset.
    pub fn finish(&mut self, trailers: Option<&Trailers>, out: &mut Vec<u8>) -> Result<(), BodyError> {
        if self.due > 0 || self.ended {
            return Err(BodyError::Length);
        }
        self.ended = true;
        if self.framing == Framing::Chunked {
            out.extend_from_slice(b"0\r\n");
            for field in trailers.iter().flat_map(|trailers| trailers.fields()) {
                out.extend_from_slice(field.name);
                out.extend_from_slice(b": ");
                out.extend_from_slice(field.value);
                out.extend_from_slice(b"\r\n");
            }
            out.extend_from_slice(b"\r\n");
        }
        Ok(())
    }

    /// Whether the end of the body is shown only by closing the connection.
    pub fn needs_close(&self) -> bool {
        self.framing == Framing::UntilClose
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Payload, trailers and surplus of a whole body fed in pieces of `step` bytes.
    fn decode(
        framing: Framing,
        bytes: &[u8],
        step: usize,
    ) -> Result<(Vec<u8>, Option<Trailers>, usize), BodyError> {
        let (mut decoder, mut payload, mut used) = (BodyDecoder::new(framing), Vec::new(), 0);
        for piece in bytes.chunks(step) {
            let mut rest = piece;
            loop {
                let (consumed, found) = decoder.decode(rest)?;
                used += consumed;
                match found {
                    Piece::Data(range) => payload.extend_from_slice(&rest[range]),
                    Piece::End(trailers) => return Ok((payload, trailers, bytes.len() - used)),
                    Piece::More => break,
                }
                rest = &rest[consumed..];
            }
        }
        decoder.close()?;
        Ok((payload, None, 0))
    }

    #[test]
    fn chunked_body_cut_anywhere_decodes_alike() {
        let bytes = b"3;a=\"b\"\r\nabc\r\n00A\r\n0123456789\r\n0\r\nX-Sum: 1 : 2\r\nHost: evil\r\n\r\nnext";
        for step in 1..=bytes.len() {
            let (payload, trailers, surplus) = decode(Framing::Chunked, bytes, step).expect("sound");
            assert_eq!(payload, b"abc0123456789", "{step}");
            let trailers = trailers.expect("trailers");
            let fields: Vec<_> = trailers.fields().map(|field| (field.name, field.value)).collect();
            assert_eq!(fields, [(&b"X-Sum"[..], &b"1 : 2"[..])]);
            if step == bytes.len() {
                assert_eq!(surplus, 4);
            }
        }
    }

    #[test]
    fn broken_chunks_are_refused() {
        for (bytes, error) in [
            (&b"\r\n"[..], BodyError::ChunkSize),
            (b"3 \r\nabc\r\n", BodyError::ChunkSize),
            (b" 3\r\nabc\r\n", BodyError::ChunkSize),
            (b"0x3\r\nabc\r\n", BodyError::ChunkSize),
            (b"+3\r\nabc\r\n", BodyError::ChunkSize),
            (b"3\nabc\r\n", BodyError::ChunkSize),
            (b"-1\r\n", BodyError::ChunkSize),
            (b"8000000000000000\r\n", BodyError::ChunkSize),
            (b"00000000000000003\r\n", BodyError::ChunkSize),
            (b";\r\n", BodyError::ChunkSize),
            (b"3\rabc", BodyError::ChunkEnd),
            (b"3\r\nabcd\r\n", BodyError::ChunkEnd),
            (b"3\r\nabc\n", BodyError::ChunkEnd),
            (b"3\r\nabc\r0", BodyError::ChunkEnd),
            (b"3;a\nb\r\nabc\r\n", BodyError::ChunkExtension),
            (b"3;a\0\r\nabc\r\n", BodyError::ChunkExtension),
            (b"0\r\nA : b\r\n\r\n", BodyError::Trailers),
            (b"0\r\nA: b\n\r\n", BodyError::Trailers),
            (b"0\r\n A: b\r\n\r\n", BodyError::Trailers),
            (b"0\r\nA: b\r\n c\r\n\r\n", BodyError::Trailers),
            (b"0\r\nA\r\n\r\n", BodyError::Trailers),
            (b"3\r\nab", BodyError::Truncated),
            (b"0\r\n", BodyError::Truncated),
        ] {
            assert_eq!(
                decode(Framing::Chunked, bytes, 1),
                Err(error),
                "{:?}",
                String::from_utf8_lossy(bytes)
            );
        }
    }

    #[test]
    fn extensions_and_trailers_have_bounds() {
        let long = format!("1;{}", "a".repeat(CHUNK_LINE_BYTES_MAX + 1));
        assert_eq!(decode(Framing::Chunked, long.as_bytes(), 999), Err(BodyError::ChunkExtension));
        let many = format!("1;{}\r\na\r\n", "a".repeat(500)).repeat(40);
        assert_eq!(decode(Framing::Chunked, many.as_bytes(), 999), Err(BodyError::ChunkExtension));
        let endless = format!("0\r\nA: {}", "a".repeat(TRAILER_BYTES_MAX));
        assert_eq!(decode(Framing::Chunked, endless.as_bytes(), 999), Err(BodyError::Trailers));
        let fields = format!("0\r\n{}\r\n", "a:b\r\n".repeat(TRAILER_FIELDS_MAX + 1));
        assert_eq!(decode(Framing::Chunked, fields.as_bytes(), 999), Err(BodyError::Trailers));
    }

    #[test]
    fn length_and_close_end_a_body() {
        assert_eq!(
            decode(Framing::Length(3), b"abcdef", 2).map(|found| (found.0, found.2)),
            Ok((b"abc".into(), 3))
        );
        assert_eq!(decode(Framing::Length(3), b"ab", 2), Err(BodyError::Truncated));
        assert_eq!(decode(Framing::UntilClose, b"abc", 2), Ok((b"abc".to_vec(), None, 0)));
        assert_eq!(BodyDecoder::new(Framing::None).decode(b"x"), Ok((0, Piece::End(None))));
    }

    #[test]
    fn what_is_encoded_decodes_to_itself() {
        let (mut encoder, mut out) = (BodyEncoder::new(Framing::Chunked), Vec::new());
        for piece in [&b"abc"[..], &[7; 300]] {
            encoder.before(piece.len(), &mut out).unwrap();
            out.extend_from_slice(piece);
            encoder.after(&mut out);
        }
        encoder.finish(None, &mut out).unwrap();
        let (payload, trailers, surplus) = decode(Framing::Chunked, &out, 5).unwrap();
        assert_eq!((payload.len(), trailers, surplus), (303, None, 0));
    }

    #[test]
    fn encoder_keeps_the_promised_length() {
        let mut out = Vec::new();
        let mut encoder = BodyEncoder::new(Framing::Length(3));
        assert_eq!(encoder.before(4, &mut out), Err(BodyError::Length));
        encoder.before(2, &mut out).unwrap();
        assert_eq!(encoder.finish(None, &mut out), Err(BodyError::Length));
        assert_eq!(BodyEncoder::new(Framing::None).before(1, &mut out), Err(BodyError::Length));
    }
}
