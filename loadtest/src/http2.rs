//! The frames of HTTP/2 (RFC 9113) as far as a generator and its origin need them: no priorities, no push, header blocks
//! that refer to no table.

use crate::limits::HEAD_BYTES_MAX;

/// What a client says first (RFC 9113 §3.4).
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Bytes of a frame's head.
const FRAME_HEAD: usize = 9;
/// Bytes of a frame's payload that a peer may send unless told otherwise (RFC 9113 §4.2).
const PAYLOAD_MAX: usize = 16_384;
/// Bytes that each side may send before it is told that they were taken: a gigabyte, so that the generator is no brake.
const WINDOW: u32 = 1 << 30;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RESET: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;
const PADDED: u8 = 8;
const PRIORITY: u8 = 0x20;

/// Why a peer's frames are not understood.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// A frame that is longer than allowed.
    #[error("an HTTP/2 frame of {0} bytes")]
    TooLong(usize),
    /// A frame whose form is wrong.
    #[error("an HTTP/2 frame of type {0} that is broken")]
    Broken(u8),
    /// A header block that is not HPACK.
    #[error("an HTTP/2 header block that cannot be read: {0}")]
    Hpack(String),
    /// The peer ends the connection.
    #[error("the peer ended the HTTP/2 connection with code {0}")]
    Ended(u32),
}

/// Fields of a message, pseudo-fields first.
pub type Fields = Vec<(Vec<u8>, Vec<u8>)>;

/// What a peer said, after what the connection itself needs was dealt with.
#[derive(Debug, PartialEq, Eq)]
pub enum Said {
    /// A head.
    Head {
        /// Its stream.
        stream: u32,
        /// Its fields.
        fields: Fields,
        /// No body follows.
        ends: bool,
    },
    /// Bytes of a body.
    Body {
        /// Its stream.
        stream: u32,
        /// The bytes.
        bytes: Vec<u8>,
        /// None follow.
        ends: bool,
    },
    /// A stream was broken off.
    Broken {
        /// Its stream.
        stream: u32,
        /// The code.
        code: u32,
    },
    /// More may be sent.
    Window {
        /// On this stream, on all where it is 0.
        stream: u32,
        /// So much more.
        more: u32,
    },
}

/// One side of a connection.
pub struct Connection {
    input: Vec<u8>,
    decoder: loona_hpack::Decoder<'static>,
    preface: bool,
    block: Option<(u32, bool, Vec<u8>)>,
    taken: u32,
    /// Bytes that a new stream may send.
    pub initial_window: i64,
}

impl Connection {
    /// A client's side; what it says first goes to `out`.
    pub fn client(out: &mut Vec<u8>) -> Self {
        out.extend_from_slice(PREFACE);
        Self::new(false, out)
    }

    /// A server's side.
    pub fn server(out: &mut Vec<u8>) -> Self {
        Self::new(true, out)
    }

    fn new(preface: bool, out: &mut Vec<u8>) -> Self {
        // HEADER_TABLE_SIZE 0, ENABLE_PUSH 0, INITIAL_WINDOW_SIZE (RFC 9113 §6.5.2).
        let mut settings = vec![0, 1, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 4];
        settings.extend_from_slice(&WINDOW.to_be_bytes());
        // A server says nothing on push.
        if preface {
            settings.drain(6..12);
        }
        frame(out, SETTINGS, 0, 0, &settings);
        frame(out, WINDOW_UPDATE, 0, 0, &WINDOW.to_be_bytes());
        Self {
            input: Vec::new(),
            decoder: loona_hpack::Decoder::new(),
            preface,
            block: None,
            taken: 0,
            initial_window: 65_535,
        }
    }

    /// Takes bytes from the peer; tells what they say, and queues in `out` what must be answered.
    ///
    /// # Errors
    /// [`Fault`]; the connection is of no more use then.
    pub fn receive(&mut self, bytes: &[u8], out: &mut Vec<u8>, said: &mut Vec<Said>) -> Result<(), Fault> {
        self.input.extend_from_slice(bytes);
        let mut at = 0;
        if self.preface {
            if self.input.len() < PREFACE.len() {
                return Ok(());
            }
            if !self.input.starts_with(PREFACE) {
                return Err(Fault::Broken(SETTINGS));
            }
            (self.preface, at) = (false, PREFACE.len());
        }
        let input = std::mem::take(&mut self.input);
        while let Some(head) = input[at..].first_chunk::<FRAME_HEAD>() {
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
            if length > PAYLOAD_MAX {
                return Err(Fault::TooLong(length));
            }
            let begin = at + FRAME_HEAD;
            let Some(payload) = input.get(begin..begin + length) else { break };
            let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]) & 0x7fff_ffff;
            self.frame(head[3], head[4], stream, payload, out, said)?;
            at = begin + length;
        }
        self.input = input;
        self.input.drain(..at);
        Ok(())
    }

    fn frame(
        &mut self,
        kind: u8,
        flags: u8,
        stream: u32,
        payload: &[u8],
        out: &mut Vec<u8>,
        said: &mut Vec<Said>,
    ) -> Result<(), Fault> {
        let word = |at: usize| -> Result<u32, Fault> {
            let four = payload.get(at..at + 4).ok_or(Fault::Broken(kind))?;
            Ok(u32::from_be_bytes([four[0], four[1], four[2], four[3]]))
        };
        match kind {
            DATA => {
                // Padding counts against the window too.
                self.taken += payload.len() as u32;
                if self.taken > WINDOW / 2 {
                    frame(out, WINDOW_UPDATE, 0, 0, &std::mem::take(&mut self.taken).to_be_bytes());
                }
                let bytes = unpadded(flags & PADDED != 0, 0, payload).ok_or(Fault::Broken(kind))?.to_vec();
                said.push(Said::Body { stream, bytes, ends: flags & END_STREAM != 0 });
            }
            HEADERS => {
                let priority = if flags & PRIORITY != 0 { 5 } else { 0 };
                let block = unpadded(flags & PADDED != 0, priority, payload).ok_or(Fault::Broken(kind))?;
                self.block = Some((stream, flags & END_STREAM != 0, block.to_vec()));
                self.end_of_block(flags, said)?;
            }
            CONTINUATION => {
                let (_, _, block) = self.block.as_mut().ok_or(Fault::Broken(kind))?;
                block.extend_from_slice(payload);
                if block.len() > HEAD_BYTES_MAX {
                    return Err(Fault::TooLong(block.len()));
                }
                self.end_of_block(flags, said)?;
            }
            RESET => said.push(Said::Broken { stream, code: word(0)? }),
            SETTINGS if flags & ACK == 0 => {
                for setting in payload.chunks_exact(6) {
                    if setting[..2] == [0, 4] {
                        self.initial_window =
                            u32::from_be_bytes([setting[2], setting[3], setting[4], setting[5]]).into();
                    }
                }
                frame(out, SETTINGS, ACK, 0, &[]);
            }
            PING if flags & ACK == 0 => frame(out, PING, ACK, 0, payload),
            GOAWAY => return Err(Fault::Ended(word(4)?)),
            WINDOW_UPDATE => said.push(Said::Window { stream, more: word(0)? & 0x7fff_ffff }),
            _ => {}
        }
        Ok(())
    }

    fn end_of_block(&mut self, flags: u8, said: &mut Vec<Said>) -> Result<(), Fault> {
        if flags & END_HEADERS == 0 {
            return Ok(());
        }
        let Some((stream, ends, block)) = self.block.take() else { return Ok(()) };
        let fields = self.decoder.decode(&block).map_err(|error| Fault::Hpack(format!("{error:?}")))?;
        said.push(Said::Head { stream, fields, ends });
        Ok(())
    }
}

fn unpadded(padded: bool, skip: usize, payload: &[u8]) -> Option<&[u8]> {
    let (padding, rest) = if padded { (usize::from(*payload.first()?), &payload[1..]) } else { (0, payload) };
    rest.get(skip..rest.len().checked_sub(padding)?)
}

/// Appends a frame.
fn frame(out: &mut Vec<u8>, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
    let length = (payload.len() as u32).to_be_bytes();
    out.extend_from_slice(&[length[1], length[2], length[3], kind, flags]);
    out.extend_from_slice(&stream.to_be_bytes());
    out.extend_from_slice(payload);
}

/// Appends a head: each field is a literal that enters no table (RFC 7541 §6.2.2).
pub fn head<'f>(
    out: &mut Vec<u8>,
    stream: u32,
    ends: bool,
    fields: impl IntoIterator<Item = (&'f [u8], &'f [u8])>,
) {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0);
        for text in [name, value] {
            // A string of up to 16 KiB without Huffman coding (RFC 7541 §5.1, §5.2).
            match text.len() {
                short @ 0..127 => block.push(short as u8),
                long => {
                    let mut rest = long - 127;
                    block.push(127);
                    while rest >= 128 {
                        block.push((rest % 128 + 128) as u8);
                        rest /= 128;
                    }
                    block.push(rest as u8);
                }
            }
            block.extend_from_slice(text);
        }
    }
    frame(out, HEADERS, END_HEADERS | u8::from(ends), stream, &block);
}

/// Appends bytes of a body, in as many frames as they need.
pub fn body(out: &mut Vec<u8>, stream: u32, ends: bool, bytes: &[u8]) {
    let mut pieces = bytes.chunks(PAYLOAD_MAX).peekable();
    while let Some(piece) = pieces.next() {
        let last = ends && pieces.peek().is_none();
        frame(out, DATA, u8::from(last), stream, piece);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_client_says_a_server_hears_in_any_steps() {
        let mut wire = Vec::new();
        let _client = Connection::client(&mut wire);
        let long = vec![b'v'; 300];
        head(&mut wire, 1, false, [(&b":path"[..], &b"/a"[..]), (b"long", &long)]);
        body(&mut wire, 1, true, &[b'x'; 20_000]);
        for step in [1, 7, 64, wire.len()] {
            let (mut out, mut said) = (Vec::new(), Vec::new());
            let mut server = Connection::server(&mut Vec::new());
            wire.chunks(step).for_each(|piece| server.receive(piece, &mut out, &mut said).unwrap());
            let fields = vec![(b":path".to_vec(), b"/a".to_vec()), (b"long".to_vec(), long.clone())];
            assert!(said.contains(&Said::Head { stream: 1, fields, ends: false }));
            let bodies: Vec<(usize, bool)> = said
                .iter()
                .filter_map(|said| match said {
                    Said::Body { bytes, ends, .. } => Some((bytes.len(), *ends)),
                    _ => None,
                })
                .collect();
            assert_eq!(bodies, [(16_384, false), (3_616, true)]);
            assert_eq!(server.initial_window, i64::from(WINDOW));
            assert_eq!(out[3..5], [SETTINGS, ACK]);
        }
    }

    #[test]
    fn broken_frames_end_the_connection() {
        let mut server = Connection::server(&mut Vec::new());
        let mut wire = PREFACE.to_vec();
        frame(&mut wire, DATA, PADDED, 1, &[9, 1]);
        assert_eq!(server.receive(&wire, &mut Vec::new(), &mut Vec::new()), Err(Fault::Broken(DATA)));
        let mut server = Connection::server(&mut Vec::new());
        assert!(
            server.receive(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", &mut Vec::new(), &mut Vec::new()).is_err()
        );
    }
}
