//! The path of a request inside one process: explicit proxy, opened TLS, policy, injection, verified upstream, record.

use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream},
    sync::{Arc, Condvar, Mutex},
    time::{Duration, SystemTime},
};

use control_wire::row::{Op, SandboxRow, SecretRow, SecretValue, TemplateRow};
use data_encoding::BASE64;
use dataplane::{
    audit::Audit,
    clock::Lease,
    identity::{Attachments, CredentialHash, SandboxId},
    ring::RingConfig,
    shard::{Settings, Shards},
    snapshot::Tables,
    tls::{Authority, PoolMaster, SandboxSalt},
    upstream,
};
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, StreamOwned,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};
use tests::origin::{Origin, respond};

const SECRET: &str = "s3cret-value-that-no-sandbox-may-see";

/// Records as they are written.
#[derive(Clone, Default)]
struct Lines(Arc<(Mutex<Vec<u8>>, Condvar)>);

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.0.lock().unwrap().extend_from_slice(bytes);
        self.0.1.notify_all();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A plane with one sandbox, `box`, whose password is `word`.
struct Gateway {
    shards: Shards,
    proxy: SocketAddr,
    authority: Vec<u8>,
    tables: Tables,
    lines: Lines,
    enforced: std::sync::mpsc::Receiver<u64>,
    _folder: tempfile::TempDir,
}

impl Gateway {
    fn start(shards: usize, origin: &Origin) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let hosts_file = folder.path().join("hosts");
        std::fs::write(&hosts_file, "127.0.0.1 origin.test\n").unwrap();
        let master = PoolMaster::ephemeral().unwrap();
        let salt = [7; 32];
        let authority = Authority::derive(&master, &SandboxSalt(salt))
            .unwrap()
            .issue_certificate("box", SystemTime::now(), 30)
            .unwrap();
        let lines = Lines::default();
        let (audit, _writer) = Audit::start(Box::new(lines.clone())).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(origin.root_pem.as_bytes()).unwrap()).unwrap();
        let (told, enforced) = std::sync::mpsc::channel();
        let started = Shards::start(Settings {
            shards,
            pin: false,
            ring: RingConfig::small(),
            names: upstream::Settings { name_servers: Vec::new(), hosts_file },
            roots,
            roots_pem: String::new(),
            master,
            lease: Arc::new(Lease::default()),
            audit,
            offer_certificate: Box::new(|_, _| true),
            enforced: Box::new(move |revision| told.send(revision).unwrap_or_default()),
        })
        .unwrap();
        let sandbox = SandboxId::new("box").unwrap();
        let mut attachments = Attachments::new();
        attachments.attach_credentials(sandbox, CredentialHash::of(b"word")).unwrap();
        started.attach(&Arc::new(attachments));
        let proxy = started.listen_proxy("127.0.0.1:0".parse().unwrap()).unwrap();
        let mut gateway = Self {
            shards: started,
            proxy,
            authority: authority.clone(),
            tables: Tables::default(),
            lines,
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
            Op::UpsertSandbox(SandboxRow {
                id: "box".into(),
                template: "t".into(),
                overrides: "{}".into(),
                labels: Default::default(),
                salt,
                ca_certificate: Some(authority),
            }),
            policy(r#"["origin.test"]"#),
        ]);
        gateway
    }

    /// Applies a revision and waits until every shard acts by it.
    fn apply(&mut self, ops: Vec<Op>) {
        let revision = self.tables.revision + 1;
        let (tables, concerned, rejected) =
            self.tables.apply(revision, ops, &|_| panic!("no handler is published here")).unwrap();
        assert!(rejected.is_empty());
        self.tables = tables;
        self.shards.apply(&Arc::new(self.tables.clone()), &concerned);
        while self.enforced.recv().unwrap() < revision {}
    }

    /// A TLS connection of the sandbox to `host:port`, opened by the gateway.
    fn tls(&self, host: &str, port: u16) -> StreamOwned<ClientConnection, TcpStream> {
        let mut socket = TcpStream::connect(self.proxy).unwrap();
        let credentials = BASE64.encode(b"box:word");
        write!(
            socket,
            "CONNECT {host}:{port} HTTP/1.1\r\nHost: {host}:{port}\r\nProxy-Authorization: Basic {credentials}\r\n\r\n"
        )
        .unwrap();
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            socket.read_exact(&mut byte).unwrap();
            answer.push(byte[0]);
        }
        assert!(answer.starts_with(b"HTTP/1.1 200 "), "{}", String::from_utf8_lossy(&answer));
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from(self.authority.clone())).unwrap();
        let config =
            ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
                .with_safe_default_protocol_versions()
                .unwrap()
                .with_root_certificates(roots)
                .with_no_client_auth();
        let name = ServerName::try_from(host.to_owned()).unwrap();
        StreamOwned::new(ClientConnection::new(Arc::new(config), name).unwrap(), socket)
    }

    /// Stops everything and gives the records, of which there must be so many.
    fn records(self, count: usize) -> Vec<serde_json::Value> {
        self.shards.stop();
        let (lines, written) = &*self.lines.0;
        let enough = |bytes: &mut Vec<u8>| bytes.iter().filter(|byte| **byte == b'\n').count() < count;
        let (bytes, waited) =
            written.wait_timeout_while(lines.lock().unwrap(), Duration::from_secs(20), enough).unwrap();
        let records: Vec<_> = bytes
            .split(|byte| *byte == b'\n')
            .filter(|line| !line.is_empty())
            .map(|line| serde_json::from_slice(line).unwrap())
            .collect();
        assert!(!waited.timed_out() && records.len() == count, "{records:#?}");
        records
    }
}

fn policy(allowed: &str) -> Op {
    let document = format!(
        r#"{{"allowedHosts":{allowed},
            "allowedAddresses":[{{"host":"origin.test","cidrs":["127.0.0.0/8"]}}],
            "rules":[{{"host":"origin.test","actions":[{{"bearer":{{"secret":"token"}}}}]}}]}}"#
    );
    Op::UpsertTemplate(TemplateRow { name: "t".into(), document })
}

/// One request over a connection, and the whole answer, whose length must be known.
fn ask(stream: &mut (impl Read + Write), head: &str, body: &[u8]) -> (String, Vec<u8>) {
    stream.write_all(head.as_bytes()).unwrap();
    stream.write_all(body).unwrap();
    stream.flush().unwrap();
    let mut seen = Vec::new();
    let head_end = loop {
        if let Some(at) = seen.windows(4).position(|four| four == b"\r\n\r\n") {
            break at + 4;
        }
        let mut piece = [0; 4096];
        let count = stream.read(&mut piece).unwrap();
        assert!(count > 0, "the answer ended after {:?}", String::from_utf8_lossy(&seen));
        seen.extend_from_slice(&piece[..count]);
    };
    let head = String::from_utf8(seen[..head_end].to_vec()).unwrap();
    let length = head
        .lines()
        .find_map(|line| {
            line.to_ascii_lowercase().strip_prefix("content-length:").map(str::trim).map(str::to_owned)
        })
        .expect("a length")
        .parse()
        .unwrap();
    let mut body = seen.split_off(head_end);
    while body.len() < length {
        let mut piece = [0; 4096];
        let count = stream.read(&mut piece).unwrap();
        assert!(count > 0, "the body ended early");
        body.extend_from_slice(&piece[..count]);
    }
    (head, body)
}

fn both_ways(test: impl Fn(usize)) {
    for shards in [1, 4] {
        test(shards);
    }
}

#[test]
fn allowed_requests_carry_a_credential_that_the_sandbox_never_sees() {
    both_ways(|shards| {
        let origin = Origin::tls(&["origin.test"], |seen, out| respond(out, &seen.body));
        let gateway = Gateway::start(shards, &origin);
        let port = origin.address.port();
        let mut stream = gateway.tls("origin.test", port);
        let mut everything = String::new();
        for (method, body) in [("GET", &b""[..]), ("POST", b"hello"), ("POST", &[b'x'; 100_000])] {
            let head = format!(
                "{method} /p?q=1 HTTP/1.1\r\nHost: origin.test:{port}\r\nAuthorization: Bearer stolen\r\nContent-Length: {}\r\n\r\n",
                body.len()
            );
            let (answer, returned) = ask(&mut stream, &head, body);
            assert!(answer.starts_with("HTTP/1.1 200 "), "{answer} {}", String::from_utf8_lossy(&returned));
            assert_eq!(returned, body);
            everything.push_str(&answer);
        }
        for seen in origin.wait_for(3) {
            let values: Vec<_> = seen.fields("authorization").collect();
            assert_eq!(values, [format!("Bearer {SECRET}")], "one credential, the gateway's");
        }
        drop(stream);
        let records = gateway.records(3);
        let told: Vec<_> = records.iter().filter(|record| record["verdict"] == "allowed").collect();
        assert_eq!(told.len(), 3, "{records:#?}");
        assert_eq!(told[0]["rule"], "allowedHosts: origin.test");
        let recorded = serde_json::to_string(&records).unwrap();
        assert!(!recorded.contains(SECRET) && !recorded.contains("q=1") && !everything.contains(SECRET));
    });
}

#[test]
fn denied_host_is_refused_inside_tls_and_the_upstream_sees_nothing() {
    both_ways(|shards| {
        let origin = Origin::tls(&["origin.test"], |_, out| respond(out, b"never"));
        let gateway = Gateway::start(shards, &origin);
        let port = origin.address.port();
        let mut stream = gateway.tls("other.test", port);
        let (head, body) =
            ask(&mut stream, &format!("GET / HTTP/1.1\r\nHost: other.test:{port}\r\n\r\n"), b"");
        let problem: serde_json::Value = serde_json::from_slice(&body).unwrap();
        assert!(head.starts_with("HTTP/1.1 403 ") && head.contains("application/problem+json"), "{head}");
        assert_eq!(problem["code"], "host_not_allowed", "{problem}");
        assert_eq!(problem["blame"], "policy");
        assert_eq!((origin.connections(), origin.seen().len()), (0, 0));
        drop(stream);
        let records = gateway.records(1);
        assert_eq!(records.iter().filter(|record| record["verdict"] == "refused").count(), 1, "{records:#?}");
    });
}

#[test]
fn lock_down_refuses_the_next_request_on_an_open_connection() {
    both_ways(|shards| {
        let origin = Origin::tls(&["origin.test"], |_, out| respond(out, b"ok"));
        let mut gateway = Gateway::start(shards, &origin);
        let port = origin.address.port();
        let mut stream = gateway.tls("origin.test", port);
        let request = format!("GET / HTTP/1.1\r\nHost: origin.test:{port}\r\n\r\n");
        assert!(ask(&mut stream, &request, b"").0.starts_with("HTTP/1.1 200 "));
        gateway.apply(vec![policy("[]")]);
        assert!(ask(&mut stream, &request, b"").0.starts_with("HTTP/1.1 403 "));
        assert_eq!(origin.seen().len(), 1, "nothing reached the upstream after the change");
        gateway.apply(vec![policy(r#"["origin.test"]"#)]);
        assert!(ask(&mut stream, &request, b"").0.starts_with("HTTP/1.1 200 "));
        drop(stream);
        gateway.records(3);
    });
}

#[test]
fn lock_down_cuts_a_stream_that_is_under_way() {
    both_ways(|shards| {
        let origin = Origin::tls(&["origin.test"], |_, out| {
            write!(out, "HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\nfirst")?;
            out.flush()
        });
        let mut gateway = Gateway::start(shards, &origin);
        let port = origin.address.port();
        let mut stream = gateway.tls("origin.test", port);
        write!(stream, "GET / HTTP/1.1\r\nHost: origin.test:{port}\r\n\r\n").unwrap();
        let mut seen = String::new();
        while !seen.ends_with("first") {
            let mut piece = [0; 1024];
            let count = stream.read(&mut piece).unwrap();
            seen.push_str(&String::from_utf8_lossy(&piece[..count]));
        }
        gateway.apply(vec![policy("[]")]);
        let after = stream.read(&mut [0; 1024]);
        assert!(after.is_err(), "the stream was reset, not ended: {after:?}");
        drop(stream);
        let records = gateway.records(1);
        assert!(
            records.iter().any(|record| record["verdict"] == "cut" || record["verdict"] == "broken"),
            "{records:#?}"
        );
    });
}

#[test]
fn wrong_proxy_password_is_told_how_to_authenticate() {
    let origin = Origin::tls(&["origin.test"], |_, out| respond(out, b"never"));
    let gateway = Gateway::start(2, &origin);
    let mut socket = TcpStream::connect(gateway.proxy).unwrap();
    let (head, _) = ask(&mut socket, "GET http://origin.test/ HTTP/1.1\r\nHost: origin.test\r\n\r\n", b"");
    assert!(head.starts_with("HTTP/1.1 407 ") && head.contains("Proxy-Authenticate: Basic"), "{head}");
    assert_eq!(origin.connections(), 0);
    drop(socket);
    let records = gateway.records(1);
    assert_eq!(
        records.iter().filter(|record| record["code"] == "proxy_credentials").count(),
        1,
        "{records:#?}"
    );
}

#[test]
fn plane_answers_who_is_asking_before_policy() {
    let origin = Origin::tls(&["origin.test"], |_, out| respond(out, b"never"));
    let gateway = Gateway::start(4, &origin);
    let credentials = BASE64.encode(b"box:word");
    let mut socket = TcpStream::connect(gateway.proxy).unwrap();
    let request = format!(
        "GET http://outgate.internal/whoami HTTP/1.1\r\nHost: outgate.internal\r\nProxy-Authorization: Basic {credentials}\r\n\r\n"
    );
    let (head, body) = ask(&mut socket, &request, b"");
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    assert_eq!(serde_json::from_slice::<serde_json::Value>(&body).unwrap()["containerId"], "box");
    drop(socket);
    gateway.records(1);
}
