//! Peers that say what a program of ours would never say: bytes and messages as the test writes them.

use std::path::Path;
use std::sync::Arc;

use control_wire::message::{
    ALPN, CONTROL_NAME, FRAME_HEADER_BYTES, StoreId, ToControl, ToPlane, frame_header,
};
use control_wire::pool::{MasterId, Recipient};
use quinn::crypto::rustls::QuicClientConfig;
use quinn::{Connection, ConnectionError, Endpoint, RecvStream, SendStream};
use rcgen::{CertificateParams, KeyPair};
use rustls::RootCertStore;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

use crate::PATIENCE;
use crate::control::{Control, anywhere};

/// One connection to control, driven message by message in control's runtime.
pub struct Peer<'a> {
    control: &'a Control,
    connection: Connection,
    send: SendStream,
    receive: RecvStream,
    _endpoint: Endpoint,
}

/// What a plane proves its name by.
pub struct Identity {
    chain: Vec<CertificateDer<'static>>,
    key: Vec<u8>,
}

impl Identity {
    /// Joins as a plane would.
    pub fn join(control: &Control, plane: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        let csr = CertificateParams::default().serialize_request(&key).unwrap().der().to_vec();
        let mut peer = Peer::connect(control, None);
        peer.say(&join(secret(&control.token()), plane, csr));
        match peer.hear() {
            ToPlane::Joined { certificate, .. } => {
                Self { chain: vec![certificate.into()], key: key.serialize_der() }
            }
            other => panic!("not joined: {other:?}"),
        }
    }
}

/// The master with which every peer joins: they are of one pool.
pub const MASTER: MasterId = MasterId([9; 32]);

/// A request to join with a key that nobody has.
pub fn join(secret: [u8; 32], plane: &str, csr: Vec<u8>) -> ToControl {
    let recipient = Recipient { plane: plane.into(), public_key: [9; 32] };
    ToControl::Join { secret, recipient, csr, master: MASTER }
}

/// The secret half of a token.
pub fn secret(token: &str) -> [u8; 32] {
    let bytes = data_encoding::BASE64URL_NOPAD.decode(&token.as_bytes()["ogj_".len()..]).unwrap();
    bytes[32..].try_into().unwrap()
}

impl<'a> Peer<'a> {
    pub fn connect(control: &'a Control, identity: Option<&Identity>) -> Self {
        let mut roots = RootCertStore::empty();
        roots.add(control.core.authority.certificate().clone()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = rustls::ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_root_certificates(roots);
        let mut tls = match identity {
            None => builder.with_no_client_auth(),
            Some(Identity { chain, key }) => {
                let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.clone()));
                builder.with_client_auth_cert(chain.clone(), key).unwrap()
            }
        };
        tls.alpn_protocols = vec![ALPN.to_vec()];
        let config = quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls).unwrap()));
        let address = control.address;
        let connected = async {
            let endpoint = Endpoint::client(anywhere()).unwrap();
            let connection = endpoint.connect_with(config, address, CONTROL_NAME).unwrap().await.unwrap();
            let (send, receive) = connection.open_bi().await.unwrap();
            (endpoint, connection, send, receive)
        };
        let (endpoint, connection, send, receive) = control.runtime.block_on(connected);
        Self { control, connection, send, receive, _endpoint: endpoint }
    }

    /// A plane that has joined and been welcomed; it claims to hold a revision of a store.
    pub fn plane(control: &'a Control, identity: &Identity, name: &str, held: (StoreId, u64)) -> Self {
        let mut peer = Self::connect(control, Some(identity));
        peer.say(&hello(name, held));
        match peer.hear() {
            ToPlane::Welcome { store, .. } => assert_eq!(store, control.core.store.tables().store),
            other => panic!("not welcomed: {other:?}"),
        }
        peer
    }

    pub fn say(&mut self, message: &ToControl) {
        self.say_bytes(&message.encode());
    }

    pub fn say_bytes(&mut self, bytes: &[u8]) {
        self.control.runtime.block_on(self.send.write_all(bytes)).unwrap();
    }

    /// Says as much as control takes.
    pub async fn send_all(&mut self, bytes: &[u8]) -> Result<(), quinn::WriteError> {
        self.send.write_all(bytes).await
    }

    pub fn hear(&mut self) -> ToPlane {
        let heard = self.control.runtime.block_on(async {
            tokio::time::timeout(PATIENCE, read_to_plane(&mut self.receive)).await.unwrap()
        });
        heard.expect("control says something")
    }

    /// What control says at the end, past everything that it said before.
    pub fn farewell(&mut self) -> String {
        let closed = self
            .control
            .runtime
            .block_on(async { tokio::time::timeout(PATIENCE, self.connection.closed()).await.unwrap() });
        match closed {
            ConnectionError::ApplicationClosed(close) => String::from_utf8_lossy(&close.reason).into_owned(),
            other => panic!("control did not close it: {other:?}"),
        }
    }
}

pub fn hello(name: &str, (store, revision): (StoreId, u64)) -> ToControl {
    ToControl::Hello {
        plane: name.into(),
        store,
        revision,
        triple: "t".into(),
        cpu_features: Vec::new(),
        wasmer: "7".into(),
    }
}

async fn read_to_plane(receive: &mut RecvStream) -> Option<ToPlane> {
    let mut header = [0; FRAME_HEADER_BYTES];
    receive.read_exact(&mut header).await.ok()?;
    let (tag, length) = frame_header(header).unwrap();
    let mut body = vec![0; length];
    receive.read_exact(&mut body).await.ok()?;
    Some(ToPlane::decode(tag, &body).unwrap().expect("a message that is known"))
}

async fn read_to_control(receive: &mut RecvStream) -> Option<ToControl> {
    let mut header = [0; FRAME_HEADER_BYTES];
    receive.read_exact(&mut header).await.ok()?;
    let (tag, length) = frame_header(header).unwrap();
    let mut body = vec![0; length];
    receive.read_exact(&mut body).await.ok()?;
    Some(ToControl::decode(tag, &body).unwrap().expect("a message that is known"))
}

/// Who speaks with control's own authority, and says what control would never say.
pub struct FalseControl {
    runtime: tokio::runtime::Runtime,
    endpoint: Endpoint,
}

/// A plane's connection to it, after its hello.
pub struct Caller<'a> {
    control: &'a FalseControl,
    connection: Connection,
    send: SendStream,
    receive: RecvStream,
}

impl FalseControl {
    /// Takes over from a control that was killed.
    pub fn instead_of(control: Control) -> Self {
        let (state, address) = control.kill();
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let entered = runtime.enter();
        let endpoint = loop {
            if let Ok(endpoint) = listen(&state.path().join("pki"), address) {
                break endpoint;
            }
        };
        drop(entered);
        Self { runtime, endpoint }
    }

    /// The next plane that says hello, and what it says.
    pub fn caller(&self) -> (Caller<'_>, ToControl) {
        let accepted = self.runtime.block_on(async {
            let connection = self.endpoint.accept().await.unwrap().await.unwrap();
            let (send, mut receive) = connection.accept_bi().await.unwrap();
            let hello = read_to_control(&mut receive).await.unwrap();
            (connection, send, receive, hello)
        });
        let (connection, send, receive, hello) = accepted;
        (Caller { control: self, connection, send, receive }, hello)
    }
}

fn listen(pki: &Path, address: std::net::SocketAddr) -> Result<Endpoint, control::pki::PkiError> {
    control::pki::Authority::open_or_create(pki)?.listen(address)
}

impl Caller<'_> {
    pub fn say(&mut self, message: &ToPlane) {
        self.say_bytes(&message.encode());
    }

    pub fn say_bytes(&mut self, bytes: &[u8]) {
        self.control.runtime.block_on(self.send.write_all(bytes)).unwrap();
    }

    pub fn welcome(&mut self, store: StoreId, renew_ms: u64) {
        self.say(&ToPlane::Welcome { store, revision: 1, renew_ms });
    }

    /// A stream of its own.
    pub fn stream(&mut self, bytes: &[u8]) {
        self.control.runtime.block_on(async {
            let mut stream = self.connection.open_uni().await.unwrap();
            stream.write_all(bytes).await.unwrap();
            stream.finish().unwrap();
        });
    }

    /// What the plane says when it closes the link.
    pub fn farewell(&mut self) -> String {
        let closed = self
            .control
            .runtime
            .block_on(async { tokio::time::timeout(PATIENCE, self.connection.closed()).await.unwrap() });
        match closed {
            ConnectionError::ApplicationClosed(close) => String::from_utf8_lossy(&close.reason).into_owned(),
            other => panic!("the plane did not close it: {other:?}"),
        }
    }

    pub fn hear(&mut self) -> ToControl {
        let heard = self.control.runtime.block_on(async {
            tokio::time::timeout(PATIENCE, read_to_control(&mut self.receive)).await.unwrap()
        });
        heard.expect("the plane says something")
    }
}
