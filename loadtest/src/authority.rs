//! Keys and certificates of a run: one authority that the gateway is told to trust, the origin's leaf and its peers'
//! fronts; and the one set of TLS parameters for all, so that figures compare.

use std::{
    fs,
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
    sync::Arc,
};

use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use rustls::{
    ClientConfig, RootCertStore, ServerConfig,
    client::Resumption,
    crypto::{CryptoProvider, aws_lc_rs},
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};

/// Names of protocols in handshakes (RFC 7301).
pub const ALPN_HTTP2: &[u8] = b"h2";
/// HTTP/1.1.
pub const ALPN_HTTP1: &[u8] = b"http/1.1";

/// A certificate authority, P-256.
pub struct Authority {
    key: KeyPair,
    pem: String,
}

/// A leaf certificate and its key, as PEM texts.
pub struct Leaf {
    /// The certificate.
    pub certificate: String,
    /// The key.
    pub key: String,
}

impl Authority {
    /// Makes one.
    ///
    /// # Errors
    /// When the machine gives no randomness.
    pub fn make() -> io::Result<Self> {
        let key = KeyPair::generate().map_err(io::Error::other)?;
        let pem = root().self_signed(&key).map_err(io::Error::other)?.pem();
        Ok(Self { key, pem })
    }

    /// The one that lies in a folder; made where there is none, so that a gateway that was told to trust it trusts it
    /// tomorrow.
    ///
    /// # Errors
    /// Those of the file system, and when a file is no key.
    pub fn kept(folder: &Path) -> io::Result<Self> {
        let (certificate, key) = (folder.join("root.pem"), folder.join("root.key"));
        if key.exists() {
            let key = KeyPair::from_pem(&fs::read_to_string(&key)?).map_err(io::Error::other)?;
            return Ok(Self { key, pem: fs::read_to_string(certificate)? });
        }
        let made = Self::make()?;
        fs::create_dir_all(folder)?;
        fs::write(certificate, &made.pem)?;
        // Whoever has it can be any host to a gateway that was told to trust it.
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(key)?;
        file.write_all(made.key.serialize_pem().as_bytes())?;
        Ok(made)
    }

    /// Its certificate.
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// A leaf for these names.
    ///
    /// # Errors
    /// When a name is neither a DNS name nor an address.
    pub fn leaf(&self, names: &[String]) -> io::Result<Leaf> {
        let root = root();
        let issuer = Issuer::from_params(&root, &self.key);
        let key = KeyPair::generate().map_err(io::Error::other)?;
        let mut leaf = CertificateParams::new(names).map_err(io::Error::other)?;
        leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let certificate = leaf.signed_by(&key, &issuer).map_err(io::Error::other)?.pem();
        Ok(Leaf { certificate, key: key.serialize_pem() })
    }
}

fn root() -> CertificateParams {
    let mut root = CertificateParams::default();
    // A leaf of the same name would be self-signed in the eyes of OpenSSL.
    root.distinguished_name.push(DnType::CommonName, "Outgate load test authority");
    root.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    root
}

/// TLS 1.3 with AES-128-GCM and X25519 and nothing else.
fn provider() -> Arc<CryptoProvider> {
    Arc::new(CryptoProvider {
        cipher_suites: vec![aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256],
        kx_groups: vec![aws_lc_rs::kx_group::X25519],
        ..aws_lc_rs::default_provider()
    })
}

/// A server's configuration.
///
/// # Errors
/// When the leaf is none.
pub fn server(leaf: &Leaf, protocols: &[&[u8]]) -> io::Result<Arc<ServerConfig>> {
    let certificate =
        CertificateDer::from_pem_slice(leaf.certificate.as_bytes()).map_err(io::Error::other)?;
    let key = PrivateKeyDer::from_pem_slice(leaf.key.as_bytes()).map_err(io::Error::other)?;
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(io::Error::other)?
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .map_err(io::Error::other)?;
    config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
    config.send_tls13_tickets = 1;
    config.ticketer = aws_lc_rs::Ticketer::new().map_err(io::Error::other)?;
    Ok(Arc::new(config))
}

/// A client's configuration that trusts these roots alone.
///
/// # Errors
/// When the text holds no certificate.
pub fn client(roots: &str, resumes: bool, protocol: Option<&[u8]>) -> io::Result<Arc<ClientConfig>> {
    let mut store = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(roots.as_bytes()) {
        store.add(certificate.map_err(io::Error::other)?).map_err(io::Error::other)?;
    }
    if store.is_empty() {
        return Err(io::Error::other(
            "there is no certificate to trust; does the sandbox have its authority yet?",
        ));
    }
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(io::Error::other)?
        .with_root_certificates(store)
        .with_no_client_auth();
    config.resumption = if resumes { Resumption::in_memory_sessions(256) } else { Resumption::disabled() };
    config.alpn_protocols = protocol.iter().map(|name| name.to_vec()).collect();
    Ok(Arc::new(config))
}
