//! Control's own certificate authority: made at first start, it signs control's server certificate and those of planes.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::hmac;
use control_wire::message::{ALPN, CONTROL_NAME, JOIN_SECRET_BYTES};
use quinn::crypto::rustls::QuicServerConfig;
use quinn::{ConnectionId, ConnectionIdGenerator};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};
use rustls::RootCertStore;
use rustls::server::WebPkiClientVerifier;
use rustls_pki_types::{CertificateDer, CertificateSigningRequestDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use zeroize::Zeroizing;

use crate::files;
use crate::limits::LINK_IDLE_TIME;

/// SHA-256 of something.
pub type Hash = [u8; 32];

/// What a join token begins with, so that one is recognised where it should not be.
pub const TOKEN_PREFIX: &str = "ogj_";

/// Bytes of a connection's name (RFC 9000 §5.1). Larger: each packet grows. Smaller: names collide.
const CONNECTION_NAME_BYTES: usize = 8;

/// Why the authority could not do its work.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    /// A file of the authority.
    #[error("cannot use control's certificate authority in {path}")]
    File {
        /// Its folder.
        path: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A key or certificate could not be made or read.
    #[error("control's certificate authority failed")]
    Certificate(#[from] rcgen::Error),
    /// The link's socket.
    #[error("the address cannot be bound; choose another with --listen")]
    Socket(#[source] io::Error),
    /// TLS did not take what was made.
    #[error("TLS of the link could not be set up")]
    Tls(#[from] rustls::Error),
    /// The verifier did not take the authority.
    #[error("TLS of the link could not be set up: {0}")]
    Verifier(String),
}

/// The authority with its key.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
    reset_key: hmac::Key,
}

/// The key by which the link's socket signs resets. It is the same in each of control's lives, so after a crash planes
/// are told that their connection is gone instead of waiting out the silence (RFC 9000 §10.3).
fn reset_key(key: &KeyPair) -> hmac::Key {
    let secret = hmac::Key::new(hmac::HMAC_SHA256, &Zeroizing::new(key.serialize_der()));
    hmac::Key::new(hmac::HMAC_SHA256, hmac::sign(&secret, b"outgate link stateless resets").as_ref())
}

/// Names connections by random bytes. The names of an earlier life are answered with a reset, not ignored as
/// impossible.
struct RandomNames;

impl ConnectionIdGenerator for RandomNames {
    fn generate_cid(&mut self) -> ConnectionId {
        let mut name = [0; CONNECTION_NAME_BYTES];
        aws_lc_rs::rand::fill(&mut name).expect("the system gives randomness, or no key was made either");
        ConnectionId::new(&name)
    }

    fn cid_len(&self) -> usize {
        CONNECTION_NAME_BYTES
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        None
    }
}

/// SHA-256.
pub fn sha256(bytes: &[u8]) -> Hash {
    let mut hash = Hash::default();
    hash.copy_from_slice(digest(&SHA256, bytes).as_ref());
    hash
}

/// The token that an operator gives to a plane: which control to trust, and the right to join once.
pub fn join_token(authority: &Hash, secret: &[u8; JOIN_SECRET_BYTES]) -> Zeroizing<String> {
    let bytes = Zeroizing::new([&authority[..], secret].concat());
    Zeroizing::new(format!("{TOKEN_PREFIX}{}", data_encoding::BASE64URL_NOPAD.encode(&bytes)))
}

fn authority_params() -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = named("Outgate control");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    // The authority lives as long as the installation; whoever distrusts it makes a new state folder.
    params.not_before = rcgen::date_time_ymd(2024, 1, 1);
    params.not_after = rcgen::date_time_ymd(2099, 1, 1);
    params
}

fn named(name: &str) -> DistinguishedName {
    let mut names = DistinguishedName::new();
    names.push(DnType::CommonName, name);
    names
}

impl Authority {
    /// Reads the authority from a folder, or makes it there.
    ///
    /// # Errors
    /// When its files cannot be read or made.
    pub fn open_or_create(folder: &Path) -> Result<Self, PkiError> {
        let fault = |source| PkiError::File { path: folder.display().to_string(), source };
        let (key_path, certificate_path) = (folder.join("authority.key"), folder.join("authority.der"));
        files::make_folder(folder).map_err(fault)?;
        // The certificate is written first, so a key that is there has its certificate.
        let key = match files::read_private(&key_path).map_err(fault)? {
            Some(der) => KeyPair::try_from(&PrivatePkcs8KeyDer::from(&der[..]))?,
            None => {
                let key = KeyPair::generate()?;
                let certificate = authority_params().self_signed(&key)?;
                files::write_private(&certificate_path, certificate.der()).map_err(fault)?;
                files::write_private(&key_path, &Zeroizing::new(key.serialize_der())).map_err(fault)?;
                key
            }
        };
        let certificate = std::fs::read(&certificate_path).map_err(fault)?.into();
        let reset_key = reset_key(&key);
        Ok(Self { issuer: Issuer::new(authority_params(), key), certificate, reset_key })
    }

    /// Its certificate in DER form.
    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// What a join token holds of it.
    pub fn fingerprint(&self) -> Hash {
        sha256(&self.certificate)
    }

    /// Signs a plane's certificate. Of the request only the key is taken: the names are ours to give.
    ///
    /// # Errors
    /// When the request cannot be read, or its signature does not hold.
    pub fn sign_plane(&self, plane: &str, csr: &[u8]) -> Result<CertificateDer<'static>, PkiError> {
        let mut request =
            CertificateSigningRequestParams::from_der(&CertificateSigningRequestDer::from(csr))?;
        request.params = leaf_params(plane, ExtendedKeyUsagePurpose::ClientAuth)?;
        Ok(request.signed_by(&self.issuer)?.der().clone())
    }

    /// Opens the UDP socket on which planes are taken; inside a tokio runtime.
    ///
    /// # Errors
    /// When TLS does not take what was made, or the address cannot be bound.
    pub fn listen(&self, address: SocketAddr) -> Result<quinn::Endpoint, PkiError> {
        let socket = UdpSocket::bind(address).map_err(PkiError::Socket)?;
        let mut config = quinn::EndpointConfig::new(Arc::new(self.reset_key.clone()));
        config.cid_generator(|| Box::new(RandomNames));
        let runtime = Arc::new(quinn::TokioRuntime);
        quinn::Endpoint::new(config, Some(self.server_config()?), socket, runtime).map_err(PkiError::Socket)
    }

    /// Settings of the server: a fresh certificate, and client certificates asked for but not demanded, because a
    /// plane that joins has none yet.
    ///
    /// # Errors
    /// When TLS does not take what was made.
    fn server_config(&self) -> Result<quinn::ServerConfig, PkiError> {
        let key = KeyPair::generate()?;
        let leaf =
            leaf_params(CONTROL_NAME, ExtendedKeyUsagePurpose::ServerAuth)?.signed_by(&key, &self.issuer)?;
        let mut roots = RootCertStore::empty();
        roots.add(self.certificate.clone())?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
            .allow_unauthenticated()
            .build()
            .map_err(|error| PkiError::Verifier(error.to_string()))?;
        let private = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let mut tls = rustls::ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_client_cert_verifier(verifier)
            // The authority goes along, so that a joining plane can compare it with its token.
            .with_single_cert(vec![leaf.der().clone(), self.certificate.clone()], private)?;
        tls.alpn_protocols = vec![ALPN.to_vec()];
        let crypto =
            QuicServerConfig::try_from(tls).map_err(|error| PkiError::Verifier(error.to_string()))?;
        let mut config = quinn::ServerConfig::with_crypto(Arc::new(crypto));
        config.transport_config(Arc::new(transport()));
        Ok(config)
    }
}

fn leaf_params(name: &str, usage: ExtendedKeyUsagePurpose) -> Result<CertificateParams, PkiError> {
    let mut params = CertificateParams::new(vec![CONTROL_NAME.to_owned()])?;
    if usage == ExtendedKeyUsagePurpose::ClientAuth {
        params.subject_alt_names.clear();
    }
    params.distinguished_name = named(name);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![usage];
    params.use_authority_key_identifier_extension = true;
    params.not_before = rcgen::date_time_ymd(2024, 1, 1);
    params.not_after = rcgen::date_time_ymd(2099, 1, 1);
    Ok(params)
}

fn transport() -> quinn::TransportConfig {
    let mut transport = quinn::TransportConfig::default();
    // A peer opens one stream; more would only let it hold memory.
    transport.max_concurrent_bidi_streams(1u8.into());
    transport.max_concurrent_uni_streams(0u8.into());
    let idle = u32::try_from(LINK_IDLE_TIME.as_millis()).unwrap_or(u32::MAX);
    transport.max_idle_timeout(Some(quinn::VarInt::from_u32(idle).into()));
    transport.datagram_receive_buffer_size(None);
    transport.keep_alive_interval(Some(Duration::from_secs(2)));
    transport
}
