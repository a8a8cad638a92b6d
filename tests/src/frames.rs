//! Peers of HTTP/2 that write frames as a test says, right or wrong (RFC 9113 §4).

use std::{
    io::{self, Read, Write},
    net::TcpStream,
    sync::Arc,
    thread,
};

use rustls::{ServerConnection, StreamOwned};

use crate::{counting, gateway::Gateway, origin::Origin};

/// The first bytes of a client (RFC 9113 §3.4).
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Kinds of frames (RFC 9113 §6).
pub const DATA: u8 = 0;
/// HEADERS.
pub const HEADERS: u8 = 1;
/// PRIORITY.
pub const PRIORITY: u8 = 2;
/// RST_STREAM.
pub const RESET: u8 = 3;
/// SETTINGS.
pub const SETTINGS: u8 = 4;
/// PUSH_PROMISE.
pub const PUSH: u8 = 5;
/// PING.
pub const PING: u8 = 6;
/// GOAWAY.
pub const GOAWAY: u8 = 7;
/// WINDOW_UPDATE.
pub const WINDOW_UPDATE: u8 = 8;
/// CONTINUATION.
pub const CONTINUATION: u8 = 9;
/// END_STREAM of DATA and HEADERS, ACK of SETTINGS and PING.
pub const END: u8 = 1;
/// END_HEADERS.
pub const WHOLE: u8 = 4;
/// PADDED.
pub const PADDED: u8 = 8;

/// A frame as it was read.
#[derive(Clone, Debug)]
pub struct Frame {
    /// Its kind.
    pub kind: u8,
    /// Its flags.
    pub flags: u8,
    /// Its stream; 0 is the connection.
    pub stream: u32,
    /// What it carries.
    pub payload: Vec<u8>,
}

impl Frame {
    /// The number at this place of the payload.
    ///
    /// # Panics
    /// When it is not there.
    pub fn number(&self, at: usize) -> u32 {
        u32::from_be_bytes(self.payload[at..at + 4].try_into().expect("four bytes"))
    }
}

/// The bytes of a frame.
///
/// # Panics
/// When the payload is longer than a frame can say.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("short").to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// One setting (RFC 9113 §6.5.1).
pub fn setting(id: u16, value: u32) -> Vec<u8> {
    frame(SETTINGS, 0, 0, &[&id.to_be_bytes()[..], &value.to_be_bytes()].concat())
}

/// A field, literal and not indexed (RFC 7541 §6.2.2).
pub fn field(name: &str, value: &str) -> Vec<u8> {
    let mut bytes = vec![0];
    for text in [name, value] {
        length(&mut bytes, text.len());
        bytes.extend_from_slice(text.as_bytes());
    }
    bytes
}

/// A length of text without Huffman's code (RFC 7541 §5.1, §5.2).
fn length(bytes: &mut Vec<u8>, mut length: usize) {
    if length < 127 {
        return bytes.push(length as u8);
    }
    bytes.push(127);
    length -= 127;
    while length >= 128 {
        bytes.push(length as u8 | 128);
        length /= 128;
    }
    bytes.push(length as u8);
}

/// The block of a request's head.
pub fn request(method: &str, authority: &str, more: &[(&str, &str)]) -> Vec<u8> {
    let pseudo = [(":method", method), (":scheme", "http"), (":authority", authority), (":path", "/")];
    pseudo.iter().chain(more).flat_map(|(name, value)| field(name, value)).collect()
}

/// One end of a connection.
pub struct Peer<S> {
    /// What it speaks over.
    pub wire: S,
    /// What comes before the path of requests.
    pub authority: String,
}

impl Peer<TcpStream> {
    /// A client in a tunnel that speaks HTTP/2 without asking (RFC 9113 §3.3), with its preface and these bytes sent.
    ///
    /// # Panics
    /// When the gateway does not take it.
    pub fn client(gateway: &Gateway, host: &str, port: u16, more: &[u8]) -> Self {
        counting::exclude_this_thread();
        let mut wire = gateway.tunnel(host, port);
        wire.write_all(&[PREFACE, &frame(SETTINGS, 0, 0, &[]), more].concat()).expect("the gateway reads");
        Self { wire, authority: format!("{host}:{port}") }
    }

    /// A request without a body on this stream.
    pub fn get(&self, stream: u32) -> Vec<u8> {
        frame(HEADERS, WHOLE | END, stream, &request("GET", &self.authority, &[]))
    }

    /// A request whose body is to follow.
    pub fn post(&self, stream: u32) -> Vec<u8> {
        frame(HEADERS, WHOLE, stream, &request("POST", &self.authority, &[]))
    }
}

impl<S: Read + Write> Peer<S> {
    /// Sends bytes; false when the other end takes no more.
    pub fn send(&mut self, bytes: &[u8]) -> bool {
        self.wire.write_all(bytes).and_then(|()| self.wire.flush()).is_ok()
    }

    /// The next frame; none when the connection ended.
    pub fn read(&mut self) -> Option<Frame> {
        let mut head = [0; 9];
        self.wire.read_exact(&mut head).ok()?;
        let [a, b, c, kind, flags, stream @ ..] = head;
        let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
        self.wire.read_exact(&mut payload).ok()?;
        Some(Frame { kind, flags, stream: u32::from_be_bytes(stream) & 0x7fff_ffff, payload })
    }

    /// The next frame of a kind; none when the connection ended before.
    pub fn until(&mut self, kind: u8) -> Option<Frame> {
        loop {
            let frame = self.read()?;
            if frame.kind == kind {
                return Some(frame);
            }
        }
    }

    /// The code of the farewell before the connection ends; none when there was none.
    pub fn farewell(&mut self) -> Option<u32> {
        let mut code = None;
        while let Some(frame) = self.read() {
            if frame.kind == GOAWAY {
                code = Some(frame.number(4));
            }
        }
        code
    }
}

/// What an origin speaks over.
pub type Secured = StreamOwned<ServerConnection, TcpStream>;

/// An origin over TLS with HTTP/2 whose frames a script writes, a thread for each connection. The script gets the
/// number of the connection, from 0; the client's preface has been read by then, and settings were sent.
///
/// # Panics
/// When loopback cannot be bound or a name is not one.
pub fn origin(
    names: &[&str],
    script: impl Fn(usize, &mut Peer<Secured>) -> Option<()> + Send + Sync + 'static,
) -> Origin {
    let (origin, listener, mut config, count) = Origin::apart(names);
    config.alpn_protocols = vec![b"h2".to_vec()];
    let (config, script) = (Arc::new(config), Arc::new(script));
    thread::spawn(move || {
        counting::exclude_this_thread();
        let mut number = 0;
        while let Ok((socket, _)) = listener.accept() {
            count();
            let (config, script, connection) = (Arc::clone(&config), Arc::clone(&script), number);
            number += 1;
            thread::spawn(move || {
                counting::exclude_this_thread();
                // A gateway that breaks the connection ends the script.
                let _ended = serve(socket, config, |peer| script(connection, peer));
            });
        }
    });
    origin
}

fn serve(
    socket: TcpStream,
    config: Arc<rustls::ServerConfig>,
    script: impl Fn(&mut Peer<Secured>) -> Option<()>,
) -> io::Result<()> {
    let session = ServerConnection::new(config).map_err(io::Error::other)?;
    let mut wire = StreamOwned::new(session, socket);
    let mut preface = vec![0; PREFACE.len()];
    wire.read_exact(&mut preface)?;
    let mut peer = Peer { wire, authority: String::new() };
    if preface == PREFACE && peer.send(&[frame(SETTINGS, 0, 0, &[]), frame(SETTINGS, END, 0, &[])].concat()) {
        script(&mut peer);
    }
    Ok(())
}
