//! Reads a ClientHello over as many segments and records as it takes, before anything is signed.

use std::io;

use rustls::Error;
use rustls::server::Acceptor;

use super::fault::TlsError;
use super::socket::Socket;
use super::terminator::Protocol;
use crate::limits::HELLO_BYTES_MAX;

/// What a ClientHello says that matters before the handshake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// The name that is asked for (RFC 6066 §3), in lower case. Absent where the client connects to an address.
    pub server_name: Option<String>,
    /// The protocols offered (RFC 7301), in the client's order.
    pub alpn: Vec<Vec<u8>>,
}

impl Hello {
    /// The best protocol among those offered. Nothing where none is known, or none offered: such a client speaks
    /// HTTP/1.1 by custom.
    pub fn protocol(&self) -> Option<Protocol> {
        let offered = |protocol: &Protocol| self.alpn.iter().any(|offered| offered == protocol.id());
        [Protocol::Http2, Protocol::Http11].into_iter().find(offered)
    }
}

/// A ClientHello that comes in parts; keeps all bytes, since they are given to the handshake once more.
#[derive(Default)]
pub struct HelloReader {
    acceptor: Acceptor,
    bytes: Vec<u8>,
}

/// Whether a hello carries another, encrypted one (RFC 9849 §5), in which a name may hide that nobody here sees. What a
/// browser sends in its place to exercise the way (§6.2) cannot be told from it. The bytes are those of a whole hello,
/// as [`read_hello`] gives them; of others it is assumed.
pub fn hides_a_name(bytes: &[u8]) -> bool {
    const ENCRYPTED_CLIENT_HELLO: u16 = 0xfe0d;
    let mut message = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    // Records (RFC 8446 §5.1), whose payloads make one message.
    while let Some(([22, _, _, high, low], behind)) = rest.split_first_chunk() {
        let Some((payload, behind)) = behind.split_at_checked(usize::from(u16::from_be_bytes([*high, *low])))
        else {
            break;
        };
        message.extend_from_slice(payload);
        rest = behind;
    }
    extensions(&message).is_none_or(|kinds| kinds.contains(&ENCRYPTED_CLIENT_HELLO))
}

/// The kinds of extensions of a ClientHello (RFC 8446 §4.1.2), where it is whole.
fn extensions(message: &[u8]) -> Option<Vec<u16>> {
    fn vector<const N: usize>(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
        let (length, rest) = bytes.split_first_chunk::<N>()?;
        let length = length.iter().fold(0, |sum, byte| sum << 8 | usize::from(*byte));
        rest.split_at_checked(length)
    }
    let ([1], body) = message.split_first_chunk()? else { return None };
    let (body, _) = vector::<3>(body)?;
    // Version and random bytes.
    let (_, body) = body.split_at_checked(34)?;
    let (_, body) = vector::<1>(body)?;
    let (_, body) = vector::<2>(body)?;
    let (_, body) = vector::<1>(body)?;
    if body.is_empty() {
        return Some(Vec::new());
    }
    let (mut body, _) = vector::<2>(body)?;
    let mut kinds = Vec::new();
    while !body.is_empty() {
        let (kind, rest) = body.split_first_chunk::<2>()?;
        kinds.push(u16::from_be_bytes(*kind));
        (_, body) = vector::<2>(rest)?;
    }
    Some(kinds)
}

/// Why a hello was refused, with the alert that tells the client.
pub(super) struct HelloRefused {
    pub(super) error: TlsError,
    pub(super) alert: Vec<u8>,
}

impl HelloReader {
    /// Takes the next bytes; the hello once it is complete.
    ///
    /// # Errors
    /// [`TlsError::NotHello`], [`TlsError::HelloTooLong`].
    pub fn feed(&mut self, bytes: &[u8]) -> Result<Option<Hello>, TlsError> {
        self.judge(bytes).map_err(|refused| refused.error)
    }

    /// All bytes taken, to be replayed into the handshake.
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    pub(super) fn judge(&mut self, mut bytes: &[u8]) -> Result<Option<Hello>, HelloRefused> {
        let refused = |error| HelloRefused { error, alert: Vec::new() };
        if self.bytes.len() + bytes.len() > HELLO_BYTES_MAX {
            return Err(refused(TlsError::HelloTooLong { bytes_max: HELLO_BYTES_MAX }));
        }
        self.bytes.extend_from_slice(bytes);
        while !bytes.is_empty() {
            let taken = self.acceptor.read_tls(&mut bytes);
            match taken {
                Ok(0) => return Err(refused(TlsError::HelloTooLong { bytes_max: HELLO_BYTES_MAX })),
                Ok(_) => {}
                Err(error) => return Err(refused(error.into())),
            }
            match self.acceptor.accept() {
                Ok(None) => {}
                Ok(Some(accepted)) => {
                    let hello = accepted.client_hello();
                    let alpn = hello.alpn().into_iter().flatten().map(<[u8]>::to_vec).collect();
                    let server_name = hello.server_name().map(str::to_ascii_lowercase);
                    return Ok(Some(Hello { server_name, alpn }));
                }
                Err((error, mut alert)) => return Err(not_hello(error, |to| alert.write_all(to))),
            }
        }
        Ok(None)
    }
}

fn not_hello(error: Error, write: impl FnOnce(&mut Vec<u8>) -> io::Result<()>) -> HelloRefused {
    let mut alert = Vec::new();
    if write(&mut alert).is_err() {
        alert.clear();
    }
    HelloRefused { error: TlsError::NotHello(error), alert }
}

/// Reads the ClientHello that begins with the bytes already read, and gives back all bytes for the handshake. The
/// caller bounds the time.
///
/// # Errors
/// [`TlsError::NotHello`] and [`TlsError::HelloTooLong`] (the client was sent the alert), [`TlsError::Truncated`],
/// [`TlsError::Io`].
pub async fn read_hello<S: Socket>(stream: &S, first: &[u8]) -> Result<(Hello, Vec<u8>), TlsError> {
    let mut reader = HelloReader::default();
    let mut judged = reader.judge(first);
    loop {
        match judged {
            Ok(Some(hello)) => return Ok((hello, reader.into_bytes())),
            Ok(None) => {}
            Err(HelloRefused { error, alert }) => {
                if !alert.is_empty() {
                    // The client may be gone; the refusal stands either way.
                    let _ = stream.send(&alert).await;
                }
                return Err(error);
            }
        }
        let Some(segment) = stream.receive().await? else {
            return Err(TlsError::Truncated);
        };
        judged = reader.judge(&segment);
    }
}
