//! A TLS connection over a socket, on either leg.

use std::cell::RefCell;
use std::io;
use std::sync::Arc;
use std::time::SystemTime;

use rustls::pki_types::ServerName;
use rustls::{CipherSuite, ClientConfig, HandshakeKind, ProtocolVersion};
use zeroize::Zeroize;

use super::fault::TlsError;
use super::hello::Hello;
use super::leaf::CertName;
use super::outbox::Outbox;
use super::session::Session;
use super::socket::Socket;
use super::terminator::{Protocol, Terminator};
use crate::limits::{TLS_JOINED_BYTES_MAX, TLS_SEND_STEP_BYTES};
use crate::ring::Stream;

thread_local! {
    /// Where a head and the first bytes of its body become one.
    static JOINED: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// A TLS connection whose handshake is done. Receiving and sending may be awaited at once by one task; a dropped
/// future of either loses no byte.
pub struct TlsStream<S: Socket = Stream> {
    socket: S,
    session: RefCell<Session>,
    outbox: Outbox,
}

/// Answers a sandbox's handshake with a leaf for `name`. `replay` are all bytes read so far, from [`super::read_hello`].
/// The caller bounds the time.
///
/// # Errors
/// [`TlsError`]; the client was sent the alert.
pub async fn accept<S: Socket>(
    socket: S,
    hello: &Hello,
    mut replay: Vec<u8>,
    name: &CertName,
    terminator: &Terminator,
) -> Result<TlsStream<S>, TlsError> {
    let settings = terminator.settings(name, hello.protocol(), SystemTime::now())?;
    let session = Session::server(settings).map_err(TlsError::Setup)?;
    let stream = TlsStream::new(socket, session);
    let taken = stream.take(&mut replay);
    drop(replay);
    stream.handshake(taken).await?;
    Ok(stream)
}

/// Begins TLS towards an upstream, offers these protocols, and verifies its certificate for `name`. The caller bounds
/// the time.
///
/// # Errors
/// [`TlsError`]; [`TlsError::Certificate`] tells what is wrong with the certificate.
pub async fn connect<S: Socket>(
    socket: S,
    name: ServerName<'static>,
    config: &Arc<ClientConfig>,
    protocols: &[Protocol],
) -> Result<TlsStream<S>, TlsError> {
    let protocols = protocols.iter().map(|protocol| protocol.id().to_vec()).collect();
    connect_offering(socket, name, config, protocols).await
}

pub(super) async fn connect_offering<S: Socket>(
    socket: S,
    name: ServerName<'static>,
    config: &Arc<ClientConfig>,
    protocols: Vec<Vec<u8>>,
) -> Result<TlsStream<S>, TlsError> {
    let session = Session::client(config.clone(), name, protocols).map_err(TlsError::Setup)?;
    let stream = TlsStream::new(socket, session);
    let begun = stream.outbox.append(|out| stream.session.borrow_mut().begin(out));
    stream.handshake(begun).await?;
    Ok(stream)
}

impl<S: Socket> TlsStream<S> {
    fn new(socket: S, session: Session) -> Self {
        Self { socket, session: RefCell::new(session), outbox: Outbox::default() }
    }

    fn take(&self, bytes: &mut [u8]) -> Result<(), TlsError> {
        self.outbox.append(|out| self.session.borrow_mut().take(bytes, out))
    }

    async fn handshake(&self, mut taken: Result<(), TlsError>) -> Result<(), TlsError> {
        loop {
            let flushed = self.outbox.flush(&self.socket).await;
            // The first fault is the cause; that its alert could not be sent is not.
            taken?;
            flushed?;
            if !self.session.borrow().common().is_handshaking() {
                return Ok(());
            }
            let Some(mut bytes) = self.socket.receive().await? else {
                return Err(TlsError::Truncated);
            };
            taken = self.take(&mut bytes);
        }
    }

    /// The next plain bytes; `None` when the peer said that it is done.
    ///
    /// # Errors
    /// `UnexpectedEof` where the connection ended without a `close_notify` (RFC 8446 §6.1: a truncation),
    /// `InvalidData` where the peer broke the protocol, or what the socket says.
    pub async fn receive(&self) -> io::Result<Option<Vec<u8>>> {
        loop {
            if let Some(done) = self.ready() {
                return Ok(done);
            }
            let bytes = self.socket.receive().await?;
            self.arrived(bytes).await?;
        }
    }

    /// As [`TlsStream::receive`], with larger buffers.
    ///
    /// # Errors
    /// As [`TlsStream::receive`].
    pub async fn receive_body(&self) -> io::Result<Option<Vec<u8>>> {
        loop {
            if let Some(done) = self.ready() {
                return Ok(done);
            }
            let bytes = self.socket.receive_body().await?;
            self.arrived(bytes).await?;
        }
    }

    /// What can be given without waiting: bytes, or the end.
    fn ready(&self) -> Option<Option<Vec<u8>>> {
        let mut session = self.session.borrow_mut();
        match session.take_plain() {
            Some(plain) => Some(Some(plain)),
            None if session.peer_closed() => Some(None),
            None => None,
        }
    }

    async fn arrived(&self, bytes: Option<S::Buf>) -> io::Result<()> {
        let Some(mut bytes) = bytes else {
            return Err(TlsError::Truncated.into_io());
        };
        let taken = self.take(&mut bytes);
        // Given back before anything is awaited.
        drop(bytes);
        // A peer may end its reading and go on to say something: that no answer reaches it does not end what comes.
        let _unanswered = self.outbox.nudge(&self.socket).await;
        taken.map_err(TlsError::into_io)
    }

    /// Sends all bytes.
    ///
    /// # Errors
    /// What the socket says, or `InvalidData` after a fault.
    pub async fn send(&self, bytes: &[u8]) -> io::Result<()> {
        for step in bytes.chunks(TLS_SEND_STEP_BYTES) {
            self.encrypt(step)?;
            self.outbox.flush(&self.socket).await?;
        }
        Ok(())
    }

    /// Sends a head and the first bytes of its body with one write; small ones in one record.
    ///
    /// # Errors
    /// As [`TlsStream::send`].
    pub async fn send2(&self, head: &[u8], body: &[u8]) -> io::Result<()> {
        if head.len() + body.len() <= TLS_JOINED_BYTES_MAX {
            JOINED.with_borrow_mut(|joined| {
                joined.clear();
                joined.extend_from_slice(head);
                joined.extend_from_slice(body);
                let encrypted = self.encrypt(joined);
                if self.session.borrow().is_client() {
                    // A credential may stand in it.
                    joined.zeroize();
                }
                encrypted
            })?;
            return self.outbox.flush(&self.socket).await;
        }
        let (first, rest) = body.split_at(body.len().min(TLS_SEND_STEP_BYTES));
        if head.len() > TLS_SEND_STEP_BYTES {
            self.send(head).await?;
        } else {
            self.encrypt(head)?;
        }
        self.encrypt(first)?;
        self.outbox.flush(&self.socket).await?;
        self.send(rest).await
    }

    fn encrypt(&self, bytes: &[u8]) -> io::Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        self.outbox.append(|out| self.session.borrow_mut().encrypt(bytes, out)).map_err(TlsError::into_io)
    }

    /// Says that we are done and ends our direction; the peer's may go on.
    ///
    /// # Errors
    /// What the socket says.
    pub async fn close(&self) -> io::Result<()> {
        let said = self.outbox.append(|out| self.session.borrow_mut().close(out)).map_err(TlsError::into_io);
        self.outbox.flush(&self.socket).await?;
        said?;
        self.socket.shutdown_write()
    }

    /// Breaks the connection in both directions at once.
    pub fn reset(&self) {
        self.socket.reset();
    }

    /// Starts receiving without awaiting, so that [`TlsStream::is_quiet`] can tell.
    pub fn arm(&self) {
        self.socket.arm();
    }

    /// No byte for us arrived and the peer did not end: an idle connection that can be used again.
    ///
    /// Tickets and key updates may come at any time after the handshake (RFC 8446 §4.6) and are no answer to
    /// anything, so what arrived is understood first. Only while nobody receives.
    pub fn is_quiet(&self) -> bool {
        while self.session.borrow().is_quiet() {
            if self.socket.is_quiet() {
                return true;
            }
            // Ends: the socket gives only what came before this call.
            match self.socket.receive_now() {
                Some(Ok(Some(mut bytes))) => {
                    if self.take(&mut bytes).is_err() {
                        return false;
                    }
                }
                Some(_) => return false,
                // There was nothing, and it listens now.
                None => return true,
            }
        }
        false
    }

    /// Bytes that the socket took, records' overhead included.
    pub fn bytes_sent(&self) -> u64 {
        self.socket.bytes_sent()
    }

    /// The socket below.
    pub fn socket(&self) -> &S {
        &self.socket
    }

    /// The protocol that was chosen (RFC 7301).
    pub fn protocol(&self) -> Option<Vec<u8>> {
        self.session.borrow().common().alpn_protocol().map(<[u8]>::to_vec)
    }

    /// Whether both sides chose HTTP/2.
    pub fn speaks_http2(&self) -> bool {
        self.session.borrow().common().alpn_protocol() == Some(Protocol::Http2.id())
    }

    /// TLS 1.2 or 1.3.
    pub fn version(&self) -> Option<ProtocolVersion> {
        self.session.borrow().common().protocol_version()
    }

    /// The suite that was chosen.
    pub fn suite(&self) -> Option<CipherSuite> {
        self.session.borrow().common().negotiated_cipher_suite().map(|suite| suite.suite())
    }

    /// Whether an earlier session was resumed.
    pub fn was_resumed(&self) -> bool {
        self.session.borrow().common().handshake_kind() == Some(HandshakeKind::Resumed)
    }
}
