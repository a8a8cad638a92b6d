//! A plane inside the test: its shards, its tables, its records, and clients that speak to it.

use std::{
    io::{self, Write},
    net::{SocketAddr, TcpStream},
    path::Path,
    sync::{Arc, Condvar, Mutex, mpsc},
    time::{Duration, SystemTime},
};

use control::compile::{Signer, compile, sha256};
use control_wire::{
    envelope::ArtefactKey,
    question::KeptAnswer,
    row::{Envelope, HandlerRow, Op, SandboxRow, SecretRow, SecretValue},
};
use dataplane::{
    audit::Audit,
    clock::Lease,
    handler::{VerifyingKey, load, target},
    identity::{Attachments, CredentialHash, SandboxId},
    ring::RingConfig,
    shard::{Settings, Shards},
    snapshot::Tables,
    tls::{Authority, PoolMaster, SandboxSalt},
    upstream,
};
use handlers_sdk_abi::ABI_VERSION;
use rustls::{
    ClientConnection, RootCertStore, StreamOwned,
    pki_types::{CertificateDer, pem::PemObject},
};

use crate::{client, origin::Origin, questions::Questions};
pub use crate::{
    reading::{ask, read_answer, read_head},
    rows::{policy, template},
};

/// Value of the secret `token`.
pub const SECRET: &str = "s3cret-value-that-no-sandbox-may-see";

/// A peer of a test that says nothing for this long has failed it.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// A TLS connection of a sandbox, opened by the gateway.
pub type Tls = StreamOwned<ClientConnection, TcpStream>;

/// Records as they are written.
#[derive(Clone, Default)]
struct Lines(Arc<(Mutex<Vec<u8>>, Condvar)>);

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.0.lock().expect("no thread panicked holding it").extend_from_slice(bytes);
        self.0.1.notify_all();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A plane with one sandbox, `box`, whose password is `word` and whose template is `t`.
pub struct Gateway {
    /// The shards, for what a test does beyond requests.
    pub shards: Arc<Shards>,
    /// Where the explicit proxy listens.
    pub proxy: SocketAddr,
    /// Certificates that the plane offers to control, with their sandboxes.
    pub offers: mpsc::Receiver<(String, Vec<u8>)>,
    /// What the plane asks of people.
    pub questions: Questions,
    master: Arc<PoolMaster>,
    attachments: Attachments,
    authorities: Vec<(String, Vec<u8>)>,
    signer: Signer,
    tables: Tables,
    lines: Lines,
    audit: Audit,
    writer: std::thread::JoinHandle<()>,
    enforced: mpsc::Receiver<u64>,
    _folder: tempfile::TempDir,
}

impl Gateway {
    /// Starts a plane that trusts the origin's root and finds `origin.test` and `second.test` on loopback.
    ///
    /// # Panics
    /// When anything that a plane needs is missing on this machine.
    pub fn start(shards: usize, origin: &Origin) -> Self {
        Self::start_where(shards, origin, "127.0.0.1 origin.test second.test\n")
    }

    /// The same where names lead elsewhere, in the form of a hosts file.
    ///
    /// # Panics
    /// As [`Gateway::start`].
    pub fn start_where(shards: usize, origin: &Origin, hosts: &str) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let hosts_file = folder.path().join("hosts");
        std::fs::write(&hosts_file, hosts).expect("a file is written");
        let lines = Lines::default();
        let (audit, writer) = Audit::start(Box::new(lines.clone())).expect("a thread");
        let mut roots = RootCertStore::empty();
        let root = CertificateDer::from_pem_slice(origin.root_pem.as_bytes()).expect("a certificate");
        roots.add(root).expect("a root");
        let (told, enforced) = mpsc::channel();
        let (offering, offers) = mpsc::channel();
        let (questions, ask) = Questions::channel();
        let shards = Shards::start(Settings {
            shards,
            pin: false,
            ring: RingConfig::small(),
            names: upstream::Settings { name_servers: Vec::new(), hosts_file },
            roots,
            roots_pem: String::new(),
            master: master(folder.path()),
            lease: Arc::new(Lease::default()),
            audit: audit.clone(),
            offer_certificate: Box::new(move |id, der| offering.send((id.to_owned(), der)).is_ok()),
            ask,
            enforced: Box::new(move |revision| told.send(revision).unwrap_or_default()),
        })
        .expect("shards start");
        let proxy = shards.listen_proxy(([127, 0, 0, 1], 0).into()).expect("loopback can be bound");
        let mut gateway = Self {
            shards: Arc::new(shards),
            proxy,
            offers,
            questions,
            // The same key again: tests make the certificates of sandboxes themselves.
            master: master(folder.path()),
            attachments: Attachments::new(),
            authorities: Vec::new(),
            signer: Signer::generate().expect("a key").0,
            tables: Tables::default(),
            lines,
            audit,
            writer,
            enforced,
            _folder: folder,
        };
        gateway.apply(vec![
            Op::UpsertSecret(SecretRow {
                name: "token".into(),
                version: 1,
                value: SecretValue::new(SECRET.as_bytes()),
                hosts: vec!["origin.test".into()],
                allow_plaintext: false,
            }),
            policy(r#"["origin.test"]"#),
        ]);
        gateway.add_sandbox("box", "word", "t");
        gateway
    }

    /// Makes a sandbox that identifies itself with this password.
    ///
    /// # Panics
    /// When the name is not one or is taken.
    pub fn add_sandbox(&mut self, id: &str, password: &str, template: &str) {
        let sandbox = SandboxId::new(id).expect("an identifier");
        let credentials = CredentialHash::of(password.as_bytes());
        self.attachments.attach_credentials(sandbox, credentials).expect("a new name");
        self.shards.attach(&Arc::new(self.attachments.clone())).expect("the shards answer");
        self.put_sandbox(id, template, SystemTime::now());
    }

    /// Writes a sandbox's row, with a certificate of its authority that was made then and is valid for 30 days.
    ///
    /// # Panics
    /// When the name is not one.
    pub fn put_sandbox(&mut self, id: &str, template: &str, made: SystemTime) {
        let salt: [u8; 32] = sha256(id.as_bytes());
        let authority = Authority::derive(&self.master, &SandboxSalt(salt))
            .and_then(|authority| authority.issue_certificate(id, made, 30))
            .expect("an authority");
        self.authorities.retain(|(known, _)| known != id);
        self.authorities.push((id.to_owned(), authority.clone()));
        self.apply(vec![Op::UpsertSandbox(SandboxRow {
            id: id.into(),
            template: template.into(),
            overrides: "{}".into(),
            labels: Default::default(),
            salt,
            ca_certificate: Some(authority),
            answers: Vec::new(),
        })]);
    }

    /// Keeps answers in the row of `box`.
    ///
    /// # Panics
    /// When one is about no host.
    pub fn keep(&mut self, answers: Vec<KeptAnswer>) {
        let row = self.tables.sandboxes.get("box").expect("it was made").row.clone();
        self.apply(vec![Op::UpsertSandbox(SandboxRow { answers, ..row })]);
    }

    /// Applies a revision and waits until every shard acts by it.
    ///
    /// # Panics
    /// When a row does not hold or a shard ended.
    pub fn apply(&mut self, ops: Vec<Op>) {
        let revision = self.tables.revision + 1;
        let trust = VerifyingKey(self.signer.public_key());
        let load = |row: &HandlerRow| match &row.envelope {
            Envelope::Here(bytes) => load(bytes, &trust, &target()),
            Envelope::Apart { .. } => panic!("tests hand envelopes over whole"),
        };
        let (tables, concerned, rejected) = self.tables.apply(revision, ops, &load).expect("rows hold");
        assert!(rejected.is_empty(), "{rejected:?}");
        self.tables = tables;
        self.shards.apply(&Arc::new(self.tables.clone()), &concerned);
        while self.enforced.recv().expect("shards live") < revision {}
    }

    /// One version of a handler, compiled and signed.
    ///
    /// # Panics
    /// When the module does not compile.
    pub fn handler(&self, name: &str, version: u64, wasm: &[u8]) -> Op {
        let artefact = compile(wasm, &target()).expect("the module compiles");
        let key = ArtefactKey::current(target(), ABI_VERSION, sha256(wasm));
        let envelope = self.signer.seal(&key, &artefact);
        Op::UpsertHandler(HandlerRow {
            name: name.to_owned(),
            version,
            hash: sha256(&envelope),
            envelope: Envelope::Here(envelope.into()),
        })
    }

    /// A connection on which `box` has asked for a tunnel and was given it.
    ///
    /// # Panics
    /// When it is not given.
    pub fn tunnel(&self, host: &str, port: u16) -> TcpStream {
        self.tunnel_as("box:word", host, port)
    }

    /// The same for a sandbox with other credentials, as `id:password`.
    ///
    /// # Panics
    /// When it is not given.
    pub fn tunnel_as(&self, credentials: &str, host: &str, port: u16) -> TcpStream {
        client::tunnel(self.proxy, credentials, host, port)
    }

    /// A connection to the explicit proxy.
    ///
    /// # Panics
    /// When it is refused.
    pub fn socket(&self) -> TcpStream {
        client::socket(self.proxy)
    }

    /// The certificate of a sandbox's authority, in DER form.
    ///
    /// # Panics
    /// When there is no such sandbox.
    pub fn authority(&self, sandbox: &str) -> &[u8] {
        let found = self.authorities.iter().find(|(id, _)| id == sandbox);
        &found.expect("a sandbox of this test").1
    }

    /// The client's side of TLS to `host`, by the authority of a sandbox alone.
    ///
    /// # Panics
    /// When there is no such sandbox or the name is none.
    pub fn client(&self, sandbox: &str, host: &str, alpn: &[&[u8]]) -> ClientConnection {
        client::trusting(self.authority(sandbox), host, alpn)
    }

    /// A TLS connection of `box` to `host:port`, opened by the gateway.
    ///
    /// # Panics
    /// When the tunnel is not given.
    pub fn tls(&self, host: &str, port: u16) -> Tls {
        StreamOwned::new(self.client("box", host, &[]), self.tunnel(host, port))
    }

    /// The same for another sandbox of this test.
    ///
    /// # Panics
    /// As above.
    pub fn tls_as(&self, sandbox: &str, password: &str, host: &str, port: u16) -> Tls {
        let socket = self.tunnel_as(&format!("{sandbox}:{password}"), host, port);
        StreamOwned::new(self.client(sandbox, host, &[]), socket)
    }

    /// Bytes that the harness holds for the lines of records.
    ///
    /// # Panics
    /// When a thread panicked while it wrote one.
    pub fn records_bytes(&self) -> usize {
        self.lines.0.0.lock().expect("no thread panicked holding it").capacity()
    }

    /// Records that were written so far, once there are so many.
    ///
    /// # Panics
    /// When they do not come.
    pub fn recorded(&self, count: usize) -> Vec<serde_json::Value> {
        let (lines, written) = &*self.lines.0;
        let few = |bytes: &mut Vec<u8>| bytes.iter().filter(|byte| **byte == b'\n').count() < count;
        let bytes = lines.lock().expect("no thread panicked holding it");
        let (bytes, _) =
            written.wait_timeout_while(bytes, PATIENCE, few).expect("no thread panicked holding it");
        let records = parse(&bytes);
        assert!(records.len() >= count, "{} of {count} records: {records:#?}", records.len());
        records
    }

    /// Waits for the records, stops everything, and gives all of them: there must be exactly so many.
    ///
    /// # Panics
    /// When there are fewer or more.
    pub fn records(self, count: usize) -> Vec<serde_json::Value> {
        self.recorded(count);
        let records = self.stop();
        assert_eq!(records.len(), count, "{records:#?}");
        records
    }

    /// Stops everything, and gives all records.
    ///
    /// # Panics
    /// When the writer of records does not end: then something of the shards lives on.
    pub fn stop(self) -> Vec<serde_json::Value> {
        self.shards.stop();
        let Self { audit, writer, lines, .. } = self;
        drop(audit);
        let (ended, waited) = mpsc::channel();
        let joining = std::thread::spawn(move || ended.send(writer.join().is_ok()));
        assert_eq!(waited.recv_timeout(PATIENCE), Ok(true), "the writer of records ends");
        joining.join().expect("it has sent").expect("somebody waited");
        parse(&lines.0.0.lock().expect("no thread panicked holding it"))
    }
}

/// The master of the gateway that keeps its state there.
fn master(folder: &Path) -> Arc<PoolMaster> {
    let (sealed, key) = (folder.join("master"), folder.join("key"));
    let kept = PoolMaster::open(&sealed, &key).expect("what was stored opens");
    Arc::new(kept.unwrap_or_else(|| {
        let master = PoolMaster::ephemeral().expect("random bytes");
        master.store(&sealed, &key).expect("a temporary folder takes files");
        master
    }))
}

fn parse(bytes: &[u8]) -> Vec<serde_json::Value> {
    bytes
        .split(|byte| *byte == b'\n')
        .filter(|line| !line.is_empty())
        .map(|line| serde_json::from_slice(line).expect("a record is JSON"))
        .collect()
}

/// Runs a test on one shard and on four.
pub fn both_ways(test: impl Fn(usize)) {
    for shards in [1, 4] {
        test(shards);
    }
}
