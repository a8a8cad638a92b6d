//! Who the plane is to control, and whom it trusts to be control.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};
use control_wire::message::{ALPN, JOIN_SECRET_BYTES};
use quinn::crypto::rustls::QuicClientConfig;
use rcgen::{CertificateParams, KeyPair};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::{CertificateError, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use zeroize::Zeroizing;

use super::LinkError;
use crate::limits::{LINK_KEEP_ALIVE, LINK_SILENCE};

const TOKEN_PREFIX: &str = "ogj_";

/// What a plane holds once it has joined.
pub(super) struct Identity {
    key: Zeroizing<Vec<u8>>,
    certificate: Vec<u8>,
    authority: Vec<u8>,
    /// Public key by which handlers are checked.
    pub(super) handler_key: [u8; 32],
}

/// A join token, taken apart.
pub(super) struct Token {
    /// SHA-256 of the certificate of control's authority.
    authority: [u8; 32],
    /// What control knows it by.
    pub(super) secret: Zeroizing<[u8; JOIN_SECRET_BYTES]>,
}

impl Token {
    pub(super) fn parse(text: &str) -> Result<Self, LinkError> {
        let body = text.trim().strip_prefix(TOKEN_PREFIX).ok_or(LinkError::BadToken)?;
        let bytes =
            data_encoding::BASE64URL_NOPAD.decode(body.as_bytes()).map_err(|_| LinkError::BadToken)?;
        let bytes = Zeroizing::new(bytes);
        let (authority, secret) = bytes.split_first_chunk::<32>().ok_or(LinkError::BadToken)?;
        let secret = <[u8; JOIN_SECRET_BYTES]>::try_from(secret).map_err(|_| LinkError::BadToken)?;
        Ok(Self { authority: *authority, secret: Zeroizing::new(secret) })
    }

    /// Whether it is of the control that gave this identity.
    pub(super) fn is_of(&self, identity: &Identity) -> bool {
        digest(&SHA256, &identity.authority).as_ref() == self.authority
    }
}

/// A key made for joining, and the request to sign it.
pub(super) struct Request {
    key: Zeroizing<Vec<u8>>,
    pub(super) csr: Vec<u8>,
}

impl Request {
    pub(super) fn make() -> Result<Self, rcgen::Error> {
        let key = KeyPair::generate()?;
        let csr = CertificateParams::default().serialize_request(&key)?.der().to_vec();
        Ok(Self { key: Zeroizing::new(key.serialize_der()), csr })
    }

    pub(super) fn complete(
        self,
        certificate: Vec<u8>,
        authority: Vec<u8>,
        handler_key: [u8; 32],
    ) -> Identity {
        Identity { key: self.key, certificate, authority, handler_key }
    }
}

impl Identity {
    /// Reads the identity; `None` where the plane has not joined.
    pub(super) fn load(folder: &Path) -> io::Result<Option<Self>> {
        // The key is written last, so where it is, the rest is.
        let key = match fs::read(folder.join("plane.key")) {
            Ok(key) => Zeroizing::new(key),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let handler_key = fs::read(folder.join("handler.pub"))?;
        let handler_key = handler_key
            .try_into()
            .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "handler.pub does not hold 32 bytes"))?;
        let certificate = fs::read(folder.join("plane.der"))?;
        Ok(Some(Self { key, certificate, authority: fs::read(folder.join("control.der"))?, handler_key }))
    }

    /// Makes the folder, and takes a former identity out of it: no crash leaves its key beside a certificate or a
    /// master that does not belong to it.
    pub(super) fn make_room(folder: &Path) -> io::Result<()> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        match fs::remove_file(folder.join("plane.key")) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => fs::File::open(folder)?.sync_all(),
        }
    }

    /// Into the room that was made.
    pub(super) fn store(&self, folder: &Path) -> io::Result<()> {
        write(folder, "plane.der", &self.certificate)?;
        write(folder, "control.der", &self.authority)?;
        write(folder, "handler.pub", &self.handler_key)?;
        write(folder, "plane.key", &self.key)
    }

    /// Settings of the link: control is whoever the authority vouches for, the plane shows its certificate.
    pub(super) fn client_config(&self) -> Result<quinn::ClientConfig, Error> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_slice(&self.authority).into_owned())?;
        let chain = vec![CertificateDer::from_slice(&self.certificate).into_owned()];
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(&self.key[..])).clone_key();
        let tls = rustls::ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_root_certificates(roots)
            .with_client_auth_cert(chain, key)?;
        over_quic(tls)
    }
}

/// Written beside and renamed, so that a crash leaves the old file or the new one.
fn write(folder: &Path, name: &str, bytes: &[u8]) -> io::Result<()> {
    let beside = folder.join(format!("{name}.new"));
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&beside)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&beside, folder.join(name))?;
    fs::File::open(folder)?.sync_all()
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

/// Settings for joining: control is whoever holds a certificate of the authority that the token names.
pub(super) fn join_config(token: &Token) -> Result<quinn::ClientConfig, Error> {
    let verifier = PinnedAuthority { fingerprint: token.authority, provider: provider() };
    let tls = rustls::ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    over_quic(tls)
}

fn over_quic(mut tls: rustls::ClientConfig) -> Result<quinn::ClientConfig, Error> {
    tls.alpn_protocols = vec![ALPN.to_vec()];
    let crypto = QuicClientConfig::try_from(tls).map_err(|error| Error::General(error.to_string()))?;
    let mut transport = quinn::TransportConfig::default();
    transport.datagram_receive_buffer_size(None);
    transport.max_concurrent_bidi_streams(0u8.into());
    // Envelopes come one after the other.
    transport.max_concurrent_uni_streams(4u8.into());
    let silence = u32::try_from(LINK_SILENCE.as_millis()).unwrap_or(u32::MAX);
    transport.max_idle_timeout(Some(quinn::VarInt::from_u32(silence).into()));
    transport.keep_alive_interval(Some(LINK_KEEP_ALIVE));
    let mut config = quinn::ClientConfig::new(Arc::new(crypto));
    config.transport_config(Arc::new(transport));
    Ok(config)
}

/// Verifies a chain whose authority is known only by its fingerprint.
#[derive(Debug)]
struct PinnedAuthority {
    fingerprint: [u8; 32],
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for PinnedAuthority {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        chain: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let pinned =
            |certificate: &&CertificateDer<'_>| digest(&SHA256, certificate).as_ref() == self.fingerprint;
        let authority = chain.iter().find(pinned).ok_or(CertificateError::UnknownIssuer)?;
        let mut roots = RootCertStore::empty();
        roots.add(authority.clone().into_owned())?;
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), self.provider.clone())
            .build()
            .map_err(|error| Error::General(error.to_string()))?;
        verifier.verify_server_cert(leaf, chain, name, ocsp, now)
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("the link speaks TLS 1.3 only".into()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
