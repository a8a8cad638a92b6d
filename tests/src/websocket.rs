//! Origins that agree to a WebSocket and take its frames apart (RFC 6455).

use std::io::{self, Read};

use aws_lc_rs::digest;
use data_encoding::BASE64;

use crate::origin::Duplex;

/// RFC 6455 §1.3.
const GUID: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
/// Bytes of one frame that an origin of tests takes.
const FRAME_BYTES_MAX: u64 = 64 << 20;

/// What a frame is (RFC 6455 §5.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Text, or what goes on behind its first frame.
    Text,
    /// Bytes, or what goes on behind their first frame.
    Binary,
    /// The last frame of a direction.
    Close,
    /// To be answered with the same content.
    Ping,
    /// That answer.
    Pong,
}

/// The value of a field of a head; empty where there is none.
pub fn field<'a>(head: &'a str, name: &str) -> &'a str {
    let mut fields = head.lines().filter_map(|line| line.split_once(':'));
    fields.find(|(found, _)| found.eq_ignore_ascii_case(name)).map_or("", |(_, value)| value.trim())
}

/// Agrees to the handshake of this head.
///
/// # Errors
/// Those of the connection.
pub fn agree(wire: &mut dyn Duplex, head: &str) -> io::Result<()> {
    let key = format!("{}{GUID}", field(head, "sec-websocket-key"));
    let accept = BASE64.encode(digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, key.as_bytes()).as_ref());
    let head = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n";
    wire.write_all(format!("{head}Sec-WebSocket-Accept: {accept}\r\n\r\n").as_bytes())?;
    wire.flush()
}

/// What comes from a client, with the message that is not yet whole.
#[derive(Default)]
pub struct Messages {
    begun: Option<(Kind, Vec<u8>)>,
}

impl Messages {
    /// Takes the next message, whose frames may be several; control frames between them are messages of their own.
    ///
    /// # Errors
    /// Those of the connection, and frames that a client may not send.
    pub fn take(&mut self, wire: &mut dyn Duplex) -> io::Result<(Kind, Vec<u8>)> {
        loop {
            let (head, payload) = frame(wire)?;
            let kind = match (head & 0xf, &self.begun) {
                (0, Some((kind, _))) => *kind,
                (1, None) => Kind::Text,
                (2, None) => Kind::Binary,
                // They stand between the frames of a message, and have one frame (§5.5).
                (8, _) => return Ok((Kind::Close, payload)),
                (9, _) => return Ok((Kind::Ping, payload)),
                (10, _) => return Ok((Kind::Pong, payload)),
                _ => return Err(io::Error::other("a frame out of place")),
            };
            let mut whole = self.begun.take().map(|(_, begun)| begun).unwrap_or_default();
            whole.extend(payload);
            if head & 0x80 != 0 {
                return Ok((kind, whole));
            }
            self.begun = Some((kind, whole));
        }
    }
}

/// The first byte of a frame, and its payload.
fn frame(wire: &mut dyn Duplex) -> io::Result<(u8, Vec<u8>)> {
    let [head, second] = bytes(wire)?;
    // What a client sends is masked (§5.1).
    if second & 0x80 == 0 || head & 0x70 != 0 {
        return Err(io::Error::other("no frame of a client"));
    }
    let length = match second & 0x7f {
        126 => u64::from(u16::from_be_bytes(bytes(wire)?)),
        127 => u64::from_be_bytes(bytes(wire)?),
        length => u64::from(length),
    };
    if length > FRAME_BYTES_MAX {
        return Err(io::Error::other("a frame that is too long"));
    }
    let mask: [u8; 4] = bytes(wire)?;
    let mut payload = Vec::new();
    if wire.take(length).read_to_end(&mut payload)? as u64 != length {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    payload.iter_mut().zip(mask.iter().cycle()).for_each(|(byte, mask)| *byte ^= mask);
    Ok((head, payload))
}

fn bytes<const COUNT: usize>(wire: &mut dyn Duplex) -> io::Result<[u8; COUNT]> {
    let mut bytes = [0; COUNT];
    wire.read_exact(&mut bytes)?;
    Ok(bytes)
}

/// Sends a message as one frame, unmasked as a server does.
///
/// # Errors
/// Those of the connection.
pub fn put(wire: &mut dyn Duplex, kind: Kind, payload: &[u8]) -> io::Result<()> {
    let opcode = match kind {
        Kind::Text => 1,
        Kind::Binary => 2,
        Kind::Close => 8,
        Kind::Ping => 9,
        Kind::Pong => 10,
    };
    let mut frame = vec![0x80 | opcode];
    match payload.len() {
        length @ ..126 => frame.push(length as u8),
        length @ ..65_536 => frame.extend([&[126][..], &(length as u16).to_be_bytes()].concat()),
        length => frame.extend([&[127][..], &(length as u64).to_be_bytes()].concat()),
    }
    frame.extend_from_slice(payload);
    wire.write_all(&frame)?;
    wire.flush()
}

/// Sends a close frame with this code and reason (§5.5.1).
///
/// # Errors
/// Those of the connection.
pub fn close(wire: &mut dyn Duplex, code: u16, reason: &str) -> io::Result<()> {
    put(wire, Kind::Close, &[&code.to_be_bytes(), reason.as_bytes()].concat())
}
