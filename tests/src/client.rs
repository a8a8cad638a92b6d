//! What programs in a sandbox do, byte by byte: a tunnel through the explicit proxy, and TLS in it.

use std::{
    io::Write,
    net::{SocketAddr, TcpStream},
    sync::Arc,
};

use data_encoding::BASE64;
use rustls::{
    ClientConfig, ClientConnection, RootCertStore,
    pki_types::{CertificateDer, ServerName},
};

use crate::{gateway::PATIENCE, reading::read_head};

/// A connection to the explicit proxy.
///
/// # Panics
/// When it is refused.
pub fn socket(proxy: SocketAddr) -> TcpStream {
    let socket = TcpStream::connect(proxy).expect("the gateway listens");
    socket.set_read_timeout(Some(PATIENCE)).expect("an option");
    socket.set_write_timeout(Some(PATIENCE)).expect("an option");
    socket.set_nodelay(true).expect("an option");
    socket
}

/// A tunnel to `host:port`, asked for with credentials of the form `id:password`.
///
/// # Panics
/// When it is not given.
pub fn tunnel(proxy: SocketAddr, credentials: &str, host: &str, port: u16) -> TcpStream {
    let mut socket = socket(proxy);
    let credentials = BASE64.encode(credentials.as_bytes());
    let head = format!(
        "CONNECT {host}:{port} HTTP/1.1\r\nHost: {host}:{port}\r\nProxy-Authorization: Basic {credentials}\r\n\r\n"
    );
    socket.write_all(head.as_bytes()).expect("the gateway reads");
    let answer = read_head(&mut socket);
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    socket
}

/// The client's side of TLS to `host`, by one authority (DER) alone.
///
/// # Panics
/// When the authority cannot be a root or the name is none.
pub fn trusting(authority: &[u8], host: &str, alpn: &[&[u8]]) -> ClientConnection {
    let name = ServerName::try_from(host.to_owned()).expect("a name");
    ClientConnection::new(Arc::new(settings(authority, alpn)), name).expect("a client")
}

/// Settings of a client that trusts one authority (DER) alone.
///
/// # Panics
/// When the authority cannot be a root.
pub fn settings(authority: &[u8], alpn: &[&[u8]]) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from(authority.to_vec())).expect("a root");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
    config
}
