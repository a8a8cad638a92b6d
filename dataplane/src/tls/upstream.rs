//! Settings of the leg to upstreams: whom we trust, what we offer.

use std::sync::Arc;

use rustls::client::{ResolvesClientCert, Resumption};
use rustls::crypto::aws_lc_rs::kx_group;
use rustls::crypto::{CryptoProvider, SupportedKxGroup};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, RootCertStore, SignatureScheme};
use thiserror::Error;

use super::terminator::provider;
use crate::limits::{UPSTREAM_ROOTS_BYTES_MAX, UPSTREAM_SESSIONS_MAX};

/// Groups towards upstreams. Post-quantum first: what is recorded today may be read later. The library sends an
/// X25519 share beside it, so a server without it costs no extra round trip.
static POST_QUANTUM_FIRST: &[&dyn SupportedKxGroup] =
    &[kx_group::X25519MLKEM768, kx_group::X25519, kx_group::SECP256R1, kx_group::SECP384R1];
/// Groups without post-quantum key exchange: 17 µs and 2.2 KiB less per full handshake.
static CLASSICAL: &[&dyn SupportedKxGroup] = &[kx_group::X25519, kx_group::SECP256R1, kx_group::SECP384R1];

/// Why roots cannot be used.
#[derive(Debug, Error)]
pub enum RootsError {
    /// The machine has no roots: then no upstream could ever be verified.
    #[error("no certificate authorities are installed on this machine (package ca-certificates): {0}")]
    NoneInstalled(String),
    /// The PEM text is too long.
    #[error("the roots are longer than {bytes_max} bytes")]
    TooLong {
        /// The bound.
        bytes_max: usize,
    },
    /// The PEM text cannot be read.
    #[error("the roots are not PEM certificates: {0}")]
    NotPem(String),
    /// A certificate in it cannot serve as a root.
    #[error("a certificate among the roots cannot be used")]
    Certificate(#[source] rustls::Error),
    /// There is no certificate in it.
    #[error("no certificate among the roots")]
    Empty,
    /// Our own settings are not accepted by the TLS library.
    #[error("TLS cannot be set up")]
    Setup(#[source] rustls::Error),
}

/// The settings of one shard towards upstreams; its sessions are resumed on this shard only.
pub struct UpstreamTls {
    provider: Arc<CryptoProvider>,
    roots: Arc<RootCertStore>,
    system: Arc<ClientConfig>,
}

impl UpstreamTls {
    /// Settings that trust these roots unless a rule names others.
    ///
    /// # Errors
    /// [`RootsError::Empty`], [`RootsError::Setup`].
    pub fn new(roots: RootCertStore) -> Result<Self, RootsError> {
        Self::offering(POST_QUANTUM_FIRST, roots)
    }

    /// The same without post-quantum key exchange, for middleboxes that drop long hellos.
    ///
    /// # Errors
    /// As [`UpstreamTls::new`].
    pub fn classical(roots: RootCertStore) -> Result<Self, RootsError> {
        Self::offering(CLASSICAL, roots)
    }

    fn offering(groups: &[&'static dyn SupportedKxGroup], roots: RootCertStore) -> Result<Self, RootsError> {
        let (provider, roots) = (provider(groups), Arc::new(roots));
        Ok(Self { system: config(&provider, Arc::clone(&roots), None)?, roots, provider })
    }

    /// The certificates of the authorities that the machine trusts. Reads files: once, at boot.
    ///
    /// # Errors
    /// [`RootsError::NoneInstalled`].
    pub fn system_certificates() -> Result<Vec<CertificateDer<'static>>, RootsError> {
        let found = rustls_native_certs::load_native_certs();
        if found.certs.is_empty() {
            let reasons: Vec<_> = found.errors.iter().map(ToString::to_string).collect();
            return Err(RootsError::NoneInstalled(reasons.join("; ")));
        }
        Ok(found.certs)
    }

    /// The settings with the default roots.
    pub fn system(&self) -> &Arc<ClientConfig> {
        &self.system
    }

    /// Settings that trust the PEM certificates and nothing else: a host with a private authority must not be
    /// spoken for by a public one. Without any, those that trust the default roots. Where a certificate is given, it is
    /// shown to whoever asks for one. Sessions are resumed among connections with the same settings only.
    ///
    /// # Errors
    /// [`RootsError`]; one bad certificate refuses all.
    pub fn settings(
        &self,
        pem: Option<&[u8]>,
        certificate: Option<Arc<CertifiedKey>>,
    ) -> Result<Arc<ClientConfig>, RootsError> {
        let roots = match pem {
            Some(pem) => Arc::new(read_roots(pem)?),
            None => Arc::clone(&self.roots),
        };
        config(&self.provider, roots, certificate)
    }
}

fn read_roots(pem: &[u8]) -> Result<RootCertStore, RootsError> {
    if pem.len() > UPSTREAM_ROOTS_BYTES_MAX {
        return Err(RootsError::TooLong { bytes_max: UPSTREAM_ROOTS_BYTES_MAX });
    }
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        let certificate = certificate.map_err(|error| RootsError::NotPem(error.to_string()))?;
        roots.add(certificate).map_err(RootsError::Certificate)?;
    }
    Ok(roots)
}

fn config(
    provider: &Arc<CryptoProvider>,
    roots: Arc<RootCertStore>,
    certificate: Option<Arc<CertifiedKey>>,
) -> Result<Arc<ClientConfig>, RootsError> {
    if roots.is_empty() {
        return Err(RootsError::Empty);
    }
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(rustls::ALL_VERSIONS)
        .map_err(RootsError::Setup)?
        .with_root_certificates(roots);
    let mut config = match certificate {
        None => builder.with_no_client_auth(),
        Some(certificate) => builder.with_client_cert_resolver(Arc::new(OneCertificate(certificate))),
    };
    config.resumption = Resumption::in_memory_sessions(UPSTREAM_SESSIONS_MAX);
    // No 0-RTT: early data can be replayed (RFC 8446 §8).
    config.enable_early_data = false;
    Ok(Arc::new(config))
}

/// Always this certificate, whoever the server says that it trusts: its fault says more than a certificate that was kept
/// back.
struct OneCertificate(Arc<CertifiedKey>);

impl ResolvesClientCert for OneCertificate {
    fn resolve(&self, _roots: &[&[u8]], _schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }

    fn has_certs(&self) -> bool {
        true
    }
}

impl std::fmt::Debug for OneCertificate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("OneCertificate")
    }
}
