//! Origins whose TLS is the test's own, down to their certificates.

use std::{
    io::{BufRead, BufReader, Write},
    net::TcpStream,
    sync::Arc,
    thread,
};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
};
use rustls::{
    RootCertStore, ServerConfig, ServerConnection, StreamOwned, SupportedProtocolVersion,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::{ClientCertVerifierBuilder, WebPkiClientVerifier, danger::ClientCertVerifier},
};

use crate::origin::{Origin, respond};

/// A certificate authority of a test.
pub struct Authority(CertifiedIssuer<'static, KeyPair>);

/// A certificate with its key.
pub struct Issued {
    /// Certificate in PEM form.
    pub certificate: String,
    /// Its key in PEM form.
    pub key: String,
}

impl Issued {
    /// Both, as the secret of a client certificate holds them.
    pub fn pem(&self) -> String {
        format!("{}{}", self.certificate, self.key)
    }

    fn parts(&self) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
        let certificate = CertificateDer::from_pem_slice(self.certificate.as_bytes()).expect("a certificate");
        (vec![certificate], PrivateKeyDer::from_pem_slice(self.key.as_bytes()).expect("a key"))
    }
}

impl Authority {
    /// A new one of this name.
    ///
    /// # Panics
    /// When no key can be made.
    pub fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("signed"))
    }

    /// Its own certificate in PEM form.
    pub fn pem(&self) -> String {
        self.0.pem()
    }

    /// Its own certificate and key, as if it were one of a server.
    pub fn itself(&self) -> Issued {
        Issued { certificate: self.pem(), key: self.0.key().serialize_pem() }
    }

    /// A certificate for a server of these names, changed as the test wants.
    ///
    /// # Panics
    /// When a name is none.
    pub fn server(&self, names: &[&str], change: impl FnOnce(&mut CertificateParams)) -> Issued {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).expect("names");
        change(&mut params);
        self.issue(&params)
    }

    /// A certificate for a client whose subject has this common name.
    ///
    /// # Panics
    /// When no key can be made.
    pub fn client(&self, name: &str) -> Issued {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.issue(&params)
    }

    fn issue(&self, params: &CertificateParams) -> Issued {
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.0).expect("signed").pem();
        Issued { certificate, key: key.serialize_pem() }
    }
}

/// Settings of an origin with this certificate, in these versions of TLS. Where an authority is given, only clients with
/// a certificate of its are served.
///
/// # Panics
/// When certificate and key do not belong together.
pub fn settings(
    own: &Issued,
    versions: &[&'static SupportedProtocolVersion],
    clients: Option<&Authority>,
) -> ServerConfig {
    verifying(own, versions, clients.map(|authority| verifier(authority).build().expect("a verifier")))
}

/// The same where clients are asked for a certificate, and served without one too.
///
/// # Panics
/// As [`settings`].
pub fn asking(
    own: &Issued,
    versions: &[&'static SupportedProtocolVersion],
    clients: &Authority,
) -> ServerConfig {
    let verifier = verifier(clients).allow_unauthenticated().build().expect("a verifier");
    verifying(own, versions, Some(verifier))
}

fn verifier(authority: &Authority) -> ClientCertVerifierBuilder {
    let mut roots = RootCertStore::empty();
    roots.add(authority.0.der().clone()).expect("a root");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
}

fn verifying(
    own: &Issued,
    versions: &[&'static SupportedProtocolVersion],
    verifier: Option<Arc<dyn ClientCertVerifier>>,
) -> ServerConfig {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ServerConfig::builder_with_provider(provider);
    let builder = builder.with_protocol_versions(versions).expect("versions");
    let builder = match verifier {
        None => builder.with_no_client_auth(),
        Some(verifier) => builder.with_client_cert_verifier(verifier),
    };
    let (chain, key) = own.parts();
    builder.with_single_cert(chain, key).expect("key and certificate belong together")
}

/// An origin with these settings that answers each request, which has no body, with what `answer` says of its
/// connection and its head. Where the answer is empty, the connection ends instead.
///
/// # Panics
/// When loopback cannot be bound.
pub fn origin(
    config: ServerConfig,
    root_pem: String,
    answer: impl Fn(&ServerConnection, &str) -> String + Send + Sync + 'static,
) -> Origin {
    let (mut origin, listener, _, count) = Origin::apart(&["origin.test"]);
    origin.root_pem = root_pem;
    let ended = origin.ends();
    let (config, answer) = (Arc::new(config), Arc::new(answer));
    thread::spawn(move || {
        while let Ok((socket, _)) = listener.accept() {
            count();
            let (config, answer, ended) = (Arc::clone(&config), Arc::clone(&answer), Arc::clone(&ended));
            thread::spawn(move || {
                // A connection that breaks is what many tests are about.
                let _ = serve(socket, config, &*answer);
                ended();
            });
        }
    });
    origin
}

fn serve(
    socket: TcpStream,
    config: Arc<ServerConfig>,
    answer: &(impl Fn(&ServerConnection, &str) -> String + ?Sized),
) -> std::io::Result<()> {
    socket.set_nodelay(true)?;
    let connection = ServerConnection::new(config).map_err(std::io::Error::other)?;
    let mut reader = BufReader::new(StreamOwned::new(connection, socket));
    loop {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if reader.read_line(&mut head)? == 0 {
                return Ok(());
            }
        }
        let stream = reader.get_mut();
        let body = answer(&stream.conn, &head);
        if body.is_empty() {
            stream.conn.send_close_notify();
            return stream.flush();
        }
        respond(stream, body.as_bytes())?;
    }
}
