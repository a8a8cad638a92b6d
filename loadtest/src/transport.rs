//! A non-blocking byte stream, plain or TLS, client or server.

use std::{
    io::{self, Read, Write},
    sync::Arc,
};

use mio::net::TcpStream;
use rustls::{ClientConfig, ClientConnection, ServerConfig, ServerConnection, pki_types::ServerName};

/// Bytes over a socket.
pub struct Transport {
    socket: TcpStream,
    tls: Option<rustls::Connection>,
    plain_out: Vec<u8>,
}

impl Transport {
    /// A stream without TLS.
    pub fn plain(socket: TcpStream) -> Self {
        Self { socket, tls: None, plain_out: Vec::new() }
    }

    /// The server's side of TLS.
    ///
    /// # Errors
    /// When rustls refuses the configuration.
    pub fn server(socket: TcpStream, config: &Arc<ServerConfig>) -> io::Result<Self> {
        let tls = ServerConnection::new(Arc::clone(config)).map_err(io::Error::other)?;
        Ok(Self { socket, tls: Some(tls.into()), plain_out: Vec::new() })
    }

    /// Starts the client's side of TLS on what was a plain stream so far.
    ///
    /// # Errors
    /// When rustls refuses the configuration.
    pub fn start_tls(&mut self, config: &Arc<ClientConfig>, name: ServerName<'static>) -> io::Result<()> {
        let tls = ClientConnection::new(Arc::clone(config), name).map_err(io::Error::other)?;
        self.tls = Some(tls.into());
        Ok(())
    }

    /// The socket, for registration.
    pub fn socket(&mut self) -> &mut TcpStream {
        &mut self.socket
    }

    /// Appends what can be read now to `into`. Answers whether the stream goes on.
    ///
    /// # Errors
    /// Those of the socket and of TLS.
    pub fn read(&mut self, into: &mut Vec<u8>) -> io::Result<bool> {
        let mut piece = [0; 16 << 10];
        loop {
            let got = match &mut self.tls {
                None => self.socket.read(&mut piece),
                Some(tls) => match tls.read_tls(&mut self.socket) {
                    Ok(0) => Ok(0),
                    Ok(_) => {
                        tls.process_new_packets().map_err(io::Error::other)?;
                        drain(tls, into)?;
                        continue;
                    }
                    Err(error) => Err(error),
                },
            };
            match got {
                Ok(0) => return Ok(false),
                Ok(n) => into.extend_from_slice(&piece[..n]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(true),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Takes bytes to be sent.
    ///
    /// # Errors
    /// Those of TLS.
    pub fn queue(&mut self, bytes: &[u8]) -> io::Result<()> {
        match &mut self.tls {
            None => {
                self.plain_out.extend_from_slice(bytes);
                Ok(())
            }
            Some(tls) => tls.writer().write_all(bytes),
        }
    }

    /// Sends what is queued as far as the socket takes it.
    ///
    /// # Errors
    /// Those of the socket.
    pub fn flush(&mut self) -> io::Result<()> {
        loop {
            let sent = match &mut self.tls {
                None if self.plain_out.is_empty() => return Ok(()),
                None => self.socket.write(&self.plain_out).map(|n| {
                    self.plain_out.drain(..n);
                }),
                Some(tls) if !tls.wants_write() => return Ok(()),
                Some(tls) => tls.write_tls(&mut self.socket).map(|_| ()),
            };
            match sent {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}

fn drain(tls: &mut rustls::Connection, into: &mut Vec<u8>) -> io::Result<()> {
    match tls.reader().read_to_end(into) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
        Err(error) => Err(error),
    }
}
