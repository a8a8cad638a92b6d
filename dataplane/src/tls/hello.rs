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
