//! A non-blocking byte stream, plain or TLS, client or server.

use std::{
    io::{self, Read, Write},
    sync::Arc,
};

use mio::net::TcpStream;
use rustls::{
    ClientConfig, ClientConnection, HandshakeKind, ServerConfig, ServerConnection, pki_types::ServerName,
};

use crate::limits::QUEUED_BYTES_MAX;

/// Bytes over a socket.
pub struct Transport {
    socket: TcpStream,
    tls: Option<rustls::Connection>,
    out: Vec<u8>,
    sent: usize,
}

/// What a reading brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Got {
    /// So many bytes; there may be more.
    Bytes(usize),
    /// Nothing more for now.
    Blocked,
    /// The peer has ended.
    Ended,
}

impl Transport {
    /// A stream without TLS.
    pub fn plain(socket: TcpStream) -> Self {
        Self { socket, tls: None, out: Vec::new(), sent: 0 }
    }

    /// The server's side of TLS.
    ///
    /// # Errors
    /// When rustls refuses the configuration.
    pub fn server(socket: TcpStream, config: &Arc<ServerConfig>) -> io::Result<Self> {
        let mut tls = ServerConnection::new(Arc::clone(config)).map_err(io::Error::other)?;
        tls.set_buffer_limit(Some(2 * QUEUED_BYTES_MAX));
        Ok(Self { tls: Some(tls.into()), ..Self::plain(socket) })
    }

    /// Starts the client's side of TLS on what was a plain stream so far.
    ///
    /// # Errors
    /// When rustls refuses the configuration.
    pub fn start_tls(&mut self, config: &Arc<ClientConfig>, name: ServerName<'static>) -> io::Result<()> {
        let mut tls = ClientConnection::new(Arc::clone(config), name).map_err(io::Error::other)?;
        tls.set_buffer_limit(Some(2 * QUEUED_BYTES_MAX));
        self.tls = Some(tls.into());
        Ok(())
    }

    /// The socket, for registration.
    pub fn socket(&mut self) -> &mut TcpStream {
        &mut self.socket
    }

    /// Whether its handshake was an abbreviated one.
    pub fn is_resumed(&self) -> bool {
        self.tls.as_ref().is_some_and(|tls| tls.handshake_kind() == Some(HandshakeKind::Resumed))
    }

    /// The protocol that the handshake agreed on.
    pub fn alpn(&self) -> Option<&[u8]> {
        self.tls.as_ref().and_then(|tls| tls.alpn_protocol())
    }

    /// Reads what is there into a buffer.
    ///
    /// # Errors
    /// Those of the socket and of TLS.
    pub fn read(&mut self, into: &mut [u8]) -> io::Result<Got> {
        loop {
            let Some(tls) = &mut self.tls else {
                return match self.socket.read(into) {
                    Ok(0) => Ok(Got::Ended),
                    Ok(n) => Ok(Got::Bytes(n)),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(Got::Blocked),
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                    Err(error) => Err(error),
                };
            };
            match tls.reader().read(into) {
                Ok(0) => return Ok(Got::Ended),
                Ok(n) => return Ok(Got::Bytes(n)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
            match tls.read_tls(&mut self.socket) {
                Ok(0) => return Ok(Got::Ended),
                Ok(_) => {
                    if let Err(error) = tls.process_new_packets() {
                        // The alert says to the peer what it did wrong.
                        let _told = tls.write_tls(&mut self.socket);
                        return Err(io::Error::other(error));
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Got::Blocked),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Bytes that may still be queued.
    pub fn room(&self) -> usize {
        QUEUED_BYTES_MAX.saturating_sub(self.out.len() - self.sent)
    }

    /// Takes bytes to be sent: what TLS has no room for waits in front of it.
    ///
    /// # Errors
    /// Those of TLS.
    pub fn queue(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.out.extend_from_slice(bytes);
        self.encrypt()
    }

    /// Sends what is queued as far as the socket takes it. Answers whether all of it went.
    ///
    /// # Errors
    /// Those of the socket.
    pub fn flush(&mut self) -> io::Result<bool> {
        loop {
            self.encrypt()?;
            let sent = match &mut self.tls {
                None if self.sent == self.out.len() => return Ok(true),
                None => self.socket.write(&self.out[self.sent..]).map(|n| {
                    self.sent += n;
                    self.forget();
                }),
                Some(tls) if !tls.wants_write() => return Ok(self.out.is_empty()),
                Some(tls) => tls.write_tls(&mut self.socket).map(|_| ()),
            };
            match sent {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Says goodbye as TLS wants it (RFC 8446 §6.1). Nothing waits for it to be taken.
    pub fn close(mut self) {
        if let Some(tls) = &mut self.tls {
            tls.send_close_notify();
            let _told = tls.write_tls(&mut self.socket);
        }
    }

    fn encrypt(&mut self) -> io::Result<()> {
        if let Some(tls) = &mut self.tls
            && self.sent < self.out.len()
        {
            self.sent += tls.writer().write(&self.out[self.sent..])?;
            self.forget();
        }
        Ok(())
    }

    fn forget(&mut self) {
        if self.sent == self.out.len() {
            self.out.clear();
            self.sent = 0;
        } else if self.sent > QUEUED_BYTES_MAX {
            self.out.drain(..self.sent);
            self.sent = 0;
        }
    }
}
