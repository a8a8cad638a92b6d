//! An origin that answers every request with the same body and counts what reaches it.

use std::{
    collections::HashMap,
    io,
    net::SocketAddr,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use mio::{
    Events, Interest, Poll, Token,
    net::{TcpListener, TcpStream},
};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
};
use rustls::{ServerConfig, pki_types::PrivateKeyDer};

use crate::{answer, transport::Transport};

const LISTENER: Token = Token(usize::MAX);
/// Bytes of a request head without its end. Larger: a broken peer fills memory. Smaller: long cookies fail.
const INPUT_BYTES_MAX: usize = 1 << 20;

/// What an origin has seen.
#[derive(Debug, Default)]
pub struct Counts {
    /// Complete requests.
    pub requests: AtomicU64,
    /// Requests that lacked the header that was expected of them.
    pub without_expected: AtomicU64,
}

/// A certificate authority and a leaf, made for one run.
pub struct Credentials {
    /// The authority's certificate, for clients.
    pub root_pem: String,
    config: Arc<ServerConfig>,
}

impl Credentials {
    /// Makes an authority and a leaf for these names.
    ///
    /// # Errors
    /// When a name is not a DNS name or an address.
    pub fn make(names: &[String]) -> io::Result<Self> {
        let mut root = CertificateParams::default();
        // A leaf of the same name would be self-signed in the eyes of OpenSSL.
        root.distinguished_name.push(DnType::CommonName, "Origin test authority");
        root.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        let issuer = CertifiedIssuer::self_signed(root, KeyPair::generate().map_err(io::Error::other)?)
            .map_err(io::Error::other)?;
        let key = KeyPair::generate().map_err(io::Error::other)?;
        let mut leaf = CertificateParams::new(names).map_err(io::Error::other)?;
        leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let certificate = leaf.signed_by(&key, &issuer).map_err(io::Error::other)?;
        let config =
            ServerConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
                .with_safe_default_protocol_versions()
                .map_err(io::Error::other)?
                .with_no_client_auth()
                .with_single_cert(
                    vec![certificate.der().clone()],
                    PrivateKeyDer::Pkcs8(key.serialize_der().into()),
                )
                .map_err(io::Error::other)?;
        Ok(Self { root_pem: issuer.pem(), config: Arc::new(config) })
    }

    /// Writes the authority's certificate to a file.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn write_root(&self, path: &Path) -> io::Result<()> {
        std::fs::write(path, &self.root_pem)
    }
}

/// What an origin does.
pub struct Origin {
    listener: TcpListener,
    credentials: Option<Credentials>,
    answer: Vec<u8>,
    expected: Option<Vec<u8>>,
    counts: Arc<Counts>,
}

impl Origin {
    /// An origin that answers with a body of so many bytes; with credentials it speaks TLS.
    ///
    /// # Errors
    /// When the address cannot be bound.
    pub fn bind(
        address: SocketAddr,
        credentials: Option<Credentials>,
        body_bytes: usize,
    ) -> io::Result<Self> {
        let mut answer =
            format!("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {body_bytes}\r\n\r\n")
                .into_bytes();
        answer.resize(answer.len() + body_bytes, b'o');
        let listener = TcpListener::bind(address)
            .map_err(|error| io::Error::other(format!("cannot listen on {address}: {error}")))?;
        Ok(Self { listener, credentials, answer, expected: None, counts: Arc::default() })
    }

    /// Counts requests that lack this header line, given as `name: value` in the case in which it is sent.
    pub fn expect(mut self, line: &str) -> Self {
        self.expected = Some(line.as_bytes().to_vec());
        self
    }

    /// Where it listens.
    ///
    /// # Errors
    /// Those of the socket.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// What it has seen so far.
    pub fn counts(&self) -> Arc<Counts> {
        Arc::clone(&self.counts)
    }

    /// Serves until `stop` is set.
    ///
    /// # Errors
    /// When readiness cannot be had from the kernel.
    pub fn serve(mut self, stop: &AtomicBool) -> io::Result<()> {
        let mut poll = Poll::new()?;
        poll.registry().register(&mut self.listener, LISTENER, Interest::READABLE)?;
        let mut open: HashMap<Token, (Transport, Vec<u8>)> = HashMap::new();
        let mut next = 0;
        let mut events = Events::with_capacity(1024);
        while !stop.load(Ordering::Relaxed) {
            poll.poll(&mut events, Some(Duration::from_millis(50)))?;
            for event in &events {
                if event.token() == LISTENER {
                    self.accept_all(&poll, &mut open, &mut next)?;
                } else if let Some((transport, input)) = open.get_mut(&event.token())
                    && !self.turn(transport, input).unwrap_or(false)
                {
                    open.remove(&event.token());
                }
            }
        }
        Ok(())
    }

    fn accept_all(
        &self,
        poll: &Poll,
        open: &mut HashMap<Token, (Transport, Vec<u8>)>,
        next: &mut usize,
    ) -> io::Result<()> {
        loop {
            let socket: TcpStream = match self.listener.accept() {
                Ok((socket, _)) => socket,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            };
            socket.set_nodelay(true)?;
            let mut transport = match &self.credentials {
                Some(credentials) => Transport::server(socket, &credentials.config)?,
                None => Transport::plain(socket),
            };
            let token = Token(*next);
            *next += 1;
            poll.registry().register(transport.socket(), token, Interest::READABLE | Interest::WRITABLE)?;
            open.insert(token, (transport, Vec::new()));
        }
    }

    /// One readiness of one connection. Answers whether it goes on.
    fn turn(&self, transport: &mut Transport, input: &mut Vec<u8>) -> io::Result<bool> {
        let goes_on = transport.read(input)?;
        while let Some(message) = answer::complete(input).map_err(io::Error::other)? {
            self.counts.requests.fetch_add(1, Ordering::Relaxed);
            if let Some(expected) = &self.expected
                && !input[..message.head]
                    .windows(expected.len())
                    .any(|piece| piece.eq_ignore_ascii_case(expected))
            {
                self.counts.without_expected.fetch_add(1, Ordering::Relaxed);
            }
            input.drain(..message.total);
            transport.queue(&self.answer)?;
        }
        transport.flush()?;
        Ok(goes_on && input.len() <= INPUT_BYTES_MAX)
    }
}
