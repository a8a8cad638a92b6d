//! One TLS connection as a state machine of bytes: no socket, no waiting.

use std::sync::Arc;

use rustls::client::UnbufferedClientConnection;
use rustls::pki_types::ServerName;
use rustls::server::UnbufferedServerConnection;
use rustls::unbuffered::{
    ConnectionState, EncodeError, EncryptError, InsufficientSizeError, UnbufferedStatus, WriteTraffic,
};
use rustls::{ClientConfig, CommonState, Error, ServerConfig};

use super::fault::TlsError;
use super::outbox::Scratch;
use crate::limits::TLS_PARTIAL_BYTES_MAX;

/// Bytes of a record's head (RFC 8446 §5.1).
const RECORD_HEAD_BYTES: usize = 5;
/// Room that encryption is first given beyond the plain bytes; asked again where a record needs more.
const RECORD_ROOM_BYTES: usize = 128;

/// Both are above 1 KiB, so they are boxed.
enum Side {
    Client(Box<UnbufferedClientConnection>),
    Server(Box<UnbufferedServerConnection>),
}

/// What to do once bytes can be encrypted.
enum Act<'a> {
    Nothing,
    Encrypt(&'a [u8]),
    Close,
}

/// What one step of the library led to.
enum Step {
    Again,
    PeerClosed,
    /// More bytes are needed; the act was done, or not yet possible.
    Rest {
        acted: bool,
    },
}

/// The state of one TLS connection. An idle one holds no buffer.
pub(super) struct Session {
    side: Side,
    /// Received and not yet understood: a record cut by a segment, or a handshake message over several records. The
    /// library remembers places in it, so it always sees all of it.
    tail: Vec<u8>,
    /// Decrypted and not yet taken.
    plain: Vec<u8>,
    peer_closed: bool,
    failed: bool,
}

impl Session {
    pub(super) fn client(
        config: Arc<ClientConfig>,
        name: ServerName<'static>,
        protocols: Vec<Vec<u8>>,
    ) -> Result<Self, Error> {
        let connection = UnbufferedClientConnection::new_with_alpn(config, name, protocols)?;
        Ok(Self::new(Side::Client(Box::new(connection))))
    }

    pub(super) fn server(config: Arc<ServerConfig>) -> Result<Self, Error> {
        Ok(Self::new(Side::Server(Box::new(UnbufferedServerConnection::new(config)?))))
    }

    fn new(side: Side) -> Self {
        Self { side, tail: Vec::new(), plain: Vec::new(), peer_closed: false, failed: false }
    }

    pub(super) fn common(&self) -> &CommonState {
        match &self.side {
            Side::Client(connection) => connection,
            Side::Server(connection) => connection,
        }
    }

    /// The peer said that it sends no more (RFC 8446 §6.1).
    pub(super) fn peer_closed(&self) -> bool {
        self.peer_closed
    }

    /// Nothing decrypted waits, no record is half received, and the peer neither ended nor broke the protocol.
    pub(super) fn is_quiet(&self) -> bool {
        self.plain.is_empty() && self.tail.is_empty() && !self.peer_closed && !self.failed
    }

    /// The decrypted bytes, if any.
    pub(super) fn take_plain(&mut self) -> Option<Vec<u8>> {
        if self.plain.is_empty() { None } else { Some(std::mem::take(&mut self.plain)) }
    }

    /// Writes what is due without input: a client's hello.
    pub(super) fn begin(&mut self, out: &mut Scratch) -> Result<(), TlsError> {
        self.take(&mut [], out)
    }

    /// Takes received bytes, decrypting them in place; answers to them are written to `out`, also where they fail.
    pub(super) fn take(&mut self, bytes: &mut [u8], out: &mut Scratch) -> Result<(), TlsError> {
        if self.peer_closed {
            // Nothing behind the close counts (RFC 8446 §6.1).
            return Ok(());
        }
        let mut bytes = bytes;
        if !self.tail.is_empty() {
            let joined = if self.common().is_handshaking() { bytes.len() } else { self.missing(bytes.len()) };
            let (first, rest) = bytes.split_at_mut(joined);
            self.join(first, out)?;
            bytes = rest;
            if !self.tail.is_empty() {
                return self.join(bytes, out);
            }
        }
        if self.plain.is_empty() && !self.common().is_handshaking() && bytes.len() > RECORD_HEAD_BYTES {
            // One allocation for all records of a segment: what is decrypted is never longer than it was.
            self.plain.reserve(bytes.len());
        }
        let used = self.drive(bytes, &Act::Nothing, out)?.0;
        if !self.peer_closed {
            self.tail.extend_from_slice(&bytes[used..]);
        }
        self.bounded()
    }

    /// Whether the other end is an upstream.
    pub(super) fn is_client(&self) -> bool {
        matches!(self.side, Side::Client(_))
    }

    /// Encrypts into `out`.
    pub(super) fn encrypt(&mut self, bytes: &[u8], out: &mut Scratch) -> Result<(), TlsError> {
        self.act(&Act::Encrypt(bytes), out)
    }

    /// Writes a `close_notify` to `out`, once.
    pub(super) fn close(&mut self, out: &mut Scratch) -> Result<(), TlsError> {
        self.act(&Act::Close, out)
    }

    fn act(&mut self, act: &Act<'_>, out: &mut Scratch) -> Result<(), TlsError> {
        let mut tail = std::mem::take(&mut self.tail);
        let driven = self.drive(&mut tail, act, out);
        let (used, acted) = driven?;
        tail.drain(..used);
        self.tail = tail;
        if acted { Ok(()) } else { Err(TlsError::Protocol(Error::HandshakeNotComplete)) }
    }

    /// How many of the next bytes complete the record at the front of the tail.
    fn missing(&self, arrived: usize) -> usize {
        let Some(length) = self.tail.get(3..RECORD_HEAD_BYTES) else {
            return arrived.min(RECORD_HEAD_BYTES - self.tail.len());
        };
        let record = RECORD_HEAD_BYTES + usize::from(u16::from_be_bytes([length[0], length[1]]));
        arrived.min(record.saturating_sub(self.tail.len()))
    }

    fn join(&mut self, bytes: &[u8], out: &mut Scratch) -> Result<(), TlsError> {
        let mut tail = std::mem::take(&mut self.tail);
        tail.extend_from_slice(bytes);
        let used = self.drive(&mut tail, &Act::Nothing, out)?.0;
        tail.drain(..used);
        if !tail.is_empty() {
            self.tail = tail;
        }
        self.bounded()
    }

    fn bounded(&self) -> Result<(), TlsError> {
        if self.tail.len() > TLS_PARTIAL_BYTES_MAX {
            return Err(TlsError::Protocol(Error::General("a message without an end".into())));
        }
        Ok(())
    }

    /// Steps through all that `bytes` hold; gives how many are used up, and whether the act was done. After a failure
    /// the alerts that tell the peer are in `out`, and the library is never asked again: it asserts that one fatal
    /// alert is the last.
    fn drive(
        &mut self,
        bytes: &mut [u8],
        act: &Act<'_>,
        out: &mut Scratch,
    ) -> Result<(usize, bool), TlsError> {
        if self.failed {
            return Err(TlsError::Protocol(Error::General("the connection failed before".into())));
        }
        let mut used = 0;
        loop {
            let (discard, step) = self.step(&mut bytes[used..], act, out);
            used += discard;
            match step {
                Ok(Step::Again) => {}
                Ok(Step::PeerClosed) => self.peer_closed = true,
                Ok(Step::Rest { acted }) => return Ok((used, acted)),
                Err(fault) => {
                    self.failed = true;
                    while self.common().wants_write() {
                        if self.step(&mut [], &Act::Nothing, out).1.is_err() {
                            break;
                        }
                    }
                    return Err(fault.into());
                }
            }
        }
    }

    fn step(&mut self, bytes: &mut [u8], act: &Act<'_>, out: &mut Scratch) -> (usize, Result<Step, Error>) {
        let plain = &mut self.plain;
        match &mut self.side {
            Side::Client(connection) => step(connection.process_tls_records(bytes), act, plain, out),
            Side::Server(connection) => step(connection.process_tls_records(bytes), act, plain, out),
        }
    }
}

/// Does what one state of the library asks for.
fn step<Data>(
    status: UnbufferedStatus<'_, '_, Data>,
    act: &Act<'_>,
    plain: &mut Vec<u8>,
    out: &mut Scratch,
) -> (usize, Result<Step, Error>) {
    let mut discard = status.discard;
    let state = match status.state {
        Ok(state) => state,
        Err(error) => return (discard, Err(error)),
    };
    let step = match state {
        ConnectionState::ReadTraffic(mut traffic) => loop {
            match traffic.next_record() {
                Some(Ok(record)) => {
                    discard += record.discard;
                    plain.extend_from_slice(record.payload);
                }
                Some(Err(error)) => break Err(error),
                None => break Ok(Step::Again),
            }
        },
        ConnectionState::EncodeTlsData(mut data) => {
            let written = fit(RECORD_ROOM_BYTES, out, |room| match data.encode(room) {
                Err(EncodeError::InsufficientSize(size)) => Err(Some(size)),
                other => other.map_err(|_| None),
            });
            written.map(|()| Step::Again)
        }
        // What was encoded is in `out`, in order, and leaves before anything that is encrypted later.
        ConnectionState::TransmitTlsData(data) => {
            data.done();
            Ok(Step::Again)
        }
        ConnectionState::WriteTraffic(mut traffic) => perform(act, &mut traffic, out),
        ConnectionState::PeerClosed => Ok(Step::PeerClosed),
        ConnectionState::BlockedHandshake => Ok(Step::Rest { acted: false }),
        ConnectionState::Closed => Ok(Step::Rest { acted: matches!(act, Act::Close) }),
        // Early data is not enabled, and states of later versions are not known: fail closed.
        _ => Err(Error::General("a state that was not asked for".into())),
    };
    (discard, step)
}

fn perform<Data>(
    act: &Act<'_>,
    traffic: &mut WriteTraffic<'_, Data>,
    out: &mut Scratch,
) -> Result<Step, Error> {
    let size = |error| match error {
        EncryptError::InsufficientSize(size) => Some(size),
        EncryptError::EncryptExhausted => None,
    };
    match act {
        Act::Nothing => {}
        Act::Encrypt(bytes) => {
            // One head and tag per record of 16 KiB.
            let room = bytes.len() + RECORD_ROOM_BYTES + bytes.len() / 256;
            fit(room, out, |room| traffic.encrypt(bytes, room).map_err(size))?;
        }
        Act::Close => fit(RECORD_ROOM_BYTES, out, |room| traffic.queue_close_notify(room).map_err(size))?,
    }
    Ok(Step::Rest { acted: true })
}

/// Gives `write` some room, and as much as it asks for where that is too small.
fn fit(
    room: usize,
    out: &mut Scratch,
    mut write: impl FnMut(&mut [u8]) -> Result<usize, Option<InsufficientSizeError>>,
) -> Result<(), Error> {
    let written = write(out.room(room)).or_else(|error| match error {
        Some(InsufficientSizeError { required_size }) => write(out.room(required_size)),
        None => Err(None),
    });
    match written {
        Ok(written) => {
            out.advance(written);
            Ok(())
        }
        Err(_) => Err(Error::EncryptError),
    }
}
