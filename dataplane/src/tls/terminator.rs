//! The TLS end of one sandbox on its home shard: leaf key, leaves, tickets and server settings.

use std::cell::RefCell;
use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use rustls::crypto::aws_lc_rs::{Ticketer, cipher_suite, default_provider, kx_group};
use rustls::crypto::{CryptoProvider, SupportedKxGroup};
use rustls::server::{ClientHello, NoServerSessionStorage, ProducesTickets, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{ServerConfig, SupportedCipherSuite};

use super::authority::Issuer;
use super::fault::TlsError;
use super::leaf::{CertName, Mint, MintError, Recent};
use crate::limits::LEAVES_PER_SANDBOX_MAX;

/// What is spoken after TLS, where both sides say so (RFC 7301).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/1.1.
    Http11,
    /// HTTP/2.
    Http2,
}

impl Protocol {
    /// Its identifier.
    pub fn id(self) -> &'static [u8] {
        match self {
            Self::Http11 => b"http/1.1",
            Self::Http2 => b"h2",
        }
    }
}

/// The suites of both legs, best first. SHA-384 has no help from hardware, so AES-128 with SHA-256 leads whatever
/// the client's order: 25 µs less per full handshake.
static SUITES: &[SupportedCipherSuite] = &[
    cipher_suite::TLS13_AES_128_GCM_SHA256,
    cipher_suite::TLS13_AES_256_GCM_SHA384,
    cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
    cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
    cipher_suite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
    cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
    cipher_suite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
    cipher_suite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
    cipher_suite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
];

/// Groups towards sandboxes; the client's order decides among them.
static SANDBOX_GROUPS: &[&dyn SupportedKxGroup] =
    &[kx_group::X25519, kx_group::X25519MLKEM768, kx_group::SECP256R1, kx_group::SECP384R1];

/// The cryptography of both legs with these groups.
pub(super) fn provider(groups: &[&'static dyn SupportedKxGroup]) -> Arc<CryptoProvider> {
    Arc::new(CryptoProvider {
        cipher_suites: SUITES.to_vec(),
        kx_groups: groups.to_vec(),
        ..default_provider()
    })
}

thread_local! {
    /// Shared by the terminators of a shard: it is 400 bytes each otherwise.
    static SANDBOX_PROVIDER: Arc<CryptoProvider> = provider(SANDBOX_GROUPS);
}

/// Answers the TLS of one sandbox. Its tickets are sealed with a key of its own, so none of them opens a session of
/// another sandbox.
pub struct Terminator {
    mint: Mint,
    tickets: Arc<dyn ProducesTickets>,
    leaves: RefCell<Recent<Settings>>,
}

/// The settings for one name, by the protocol that is chosen, made when first needed.
struct Settings {
    leaf: Arc<CertifiedKey>,
    http2: Option<Arc<ServerConfig>>,
    http11: Option<Arc<ServerConfig>>,
    no_protocol: Option<Arc<ServerConfig>>,
}

impl Terminator {
    /// A terminator with a fresh leaf key and ticket key.
    ///
    /// # Errors
    /// The authority is not valid at `now`, or the machine gave no random bytes.
    pub fn new(issuer: Issuer, now: SystemTime) -> Result<Self, TlsError> {
        if now >= issuer.not_after() {
            return Err(MintError::AuthorityNotValid.into());
        }
        Ok(Self {
            mint: Mint::new(issuer)?,
            tickets: Ticketer::new().map_err(TlsError::Setup)?,
            leaves: RefCell::new(Recent::new(LEAVES_PER_SANDBOX_MAX)),
        })
    }

    /// The authority that signs for this sandbox.
    pub fn issuer(&self) -> &Issuer {
        self.mint.issuer()
    }

    /// Leaves in the cache.
    pub fn leaves(&self) -> usize {
        self.leaves.borrow().len()
    }

    /// The settings that answer for `name` and choose this protocol, from [`super::Hello::protocol`]. Where that is
    /// none, none is chosen, where rustls alone would end the handshake (RFC 7301 §3.2). The leaf is minted where none
    /// is kept.
    ///
    /// # Errors
    /// The authority is not valid at `now`, or the machine gave no random bytes.
    pub fn settings(
        &self,
        name: &CertName,
        protocol: Option<Protocol>,
        now: SystemTime,
    ) -> Result<Arc<ServerConfig>, TlsError> {
        let mut leaves = self.leaves.borrow_mut();
        if leaves.find(name, now).is_none() {
            let leaf = self.mint.leaf(name, now)?;
            let settings = Settings { leaf: leaf.key, http2: None, http11: None, no_protocol: None };
            leaves.keep(name.clone(), leaf.fresh_until, settings);
        }
        // Just kept with a time in the future, unless the authority ends this very moment.
        let settings = leaves.find(name, now).ok_or(MintError::AuthorityNotValid)?;
        let slot = match protocol {
            Some(Protocol::Http2) => &mut settings.http2,
            Some(Protocol::Http11) => &mut settings.http11,
            None => &mut settings.no_protocol,
        };
        if let Some(config) = slot {
            return Ok(config.clone());
        }
        let protocols = protocol.map(|protocol| protocol.id().to_vec()).into_iter().collect();
        let config = Arc::new(self.config(settings.leaf.clone(), protocols)?);
        *slot = Some(config.clone());
        Ok(config)
    }

    fn config(&self, leaf: Arc<CertifiedKey>, protocols: Vec<Vec<u8>>) -> Result<ServerConfig, TlsError> {
        let mut config = ServerConfig::builder_with_provider(SANDBOX_PROVIDER.with(Arc::clone))
            .with_protocol_versions(rustls::ALL_VERSIONS)
            .map_err(TlsError::Setup)?
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(OneLeaf(leaf)));
        config.alpn_protocols = protocols;
        config.ignore_client_order = true;
        config.ticketer = self.tickets.clone();
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 1;
        // No 0-RTT: early data can be replayed (RFC 8446 §8).
        config.max_early_data_size = 0;
        Ok(config)
    }
}

/// Always the leaf that was chosen when the hello was read.
struct OneLeaf(Arc<CertifiedKey>);

impl ResolvesServerCert for OneLeaf {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.clone())
    }
}

impl fmt::Debug for OneLeaf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OneLeaf")
    }
}
