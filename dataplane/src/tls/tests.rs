//! Both legs against each other, in memory.

mod hello;
mod later;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures_lite::future::{block_on, poll_once, zip};
use rustls::crypto::aws_lc_rs::{cipher_suite, default_provider};
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{CipherSuite, ClientConfig, ProtocolVersion, RootCertStore};

use super::*;
use crate::limits::{HELLO_BYTES_MAX, LEAVES_PER_SANDBOX_MAX};
use crate::ring::testing::{on_shard, pair};

type Stream = TlsStream<Script>;

fn issuer_from(begin: SystemTime) -> Issuer {
    let (master, salt) = (PoolMaster::ephemeral().unwrap(), SandboxSalt([3; 32]));
    let der = Authority::derive(&master, &salt).unwrap().issue_certificate("box-1", begin, 30).unwrap();
    Authority::derive(&master, &salt).unwrap().with_certificate(der).unwrap()
}

fn terminator() -> Terminator {
    let now = SystemTime::now();
    Terminator::new(issuer_from(now), now).unwrap()
}

fn roots(issuer: &Issuer) -> RootCertStore {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from(issuer.certificate().to_vec())).unwrap();
    roots
}

fn trusting(terminator: &Terminator) -> Arc<ClientConfig> {
    UpstreamTls::new(roots(terminator.issuer())).unwrap().system().clone()
}

/// A client of another make: its own order of suites, its own protocols.
fn stranger(
    terminator: &Terminator,
    protocols: &[&[u8]],
    versions: &[&'static rustls::SupportedProtocolVersion],
) -> Arc<ClientConfig> {
    let mut provider = default_provider();
    provider
        .cipher_suites
        .sort_by_key(|suite| suite.suite() != cipher_suite::TLS13_AES_256_GCM_SHA384.suite());
    let mut config = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(versions)
        .unwrap()
        .with_root_certificates(roots(terminator.issuer()))
        .with_no_client_auth();
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
    Arc::new(config)
}

async fn serve(end: Script, name: &str, terminator: &Terminator) -> Result<Stream, TlsError> {
    let (hello, replay) = read_hello(&end, b"").await?;
    accept(end, &hello, replay, &CertName::parse(name).unwrap(), terminator).await
}

/// A handshake whose server presents a leaf for `presented` and whose client asks for `asked`.
fn handshake(
    terminator: &Terminator,
    config: &Arc<ClientConfig>,
    presented: &str,
    asked: &str,
) -> (Result<Stream, TlsError>, Result<Stream, TlsError>) {
    let (near, far) = Script::pair();
    let asked = ServerName::try_from(asked.to_owned()).unwrap();
    block_on(zip(connect(near, asked, config), serve(far, presented, terminator)))
}

fn joined(terminator: &Terminator, config: &Arc<ClientConfig>, name: &str) -> (Stream, Stream) {
    let (client, server) = handshake(terminator, config, name, name);
    (client.unwrap(), server.unwrap())
}

async fn receive_exactly(stream: &Stream, count: usize) -> Vec<u8> {
    let mut all = Vec::new();
    while all.len() < count {
        all.extend(stream.receive_body().await.unwrap().expect("the stream goes on"));
    }
    assert_eq!(all.len(), count);
    all
}

fn pattern(count: usize) -> Vec<u8> {
    (0..count).map(|index| (index * 31 + index / 251) as u8).collect()
}

/// As a stranger connects, who offers what its settings say.
async fn connect<S: Socket>(
    socket: S,
    name: ServerName<'static>,
    config: &Arc<ClientConfig>,
) -> Result<TlsStream<S>, TlsError> {
    super::stream::connect_offering(socket, name, config, config.alpn_protocols.clone()).await
}

#[test]
fn names_and_addresses_are_served_and_http11_is_chosen() {
    let terminator = terminator();
    let config = stranger(&terminator, &[b"http/1.1"], rustls::ALL_VERSIONS);
    for name in ["api.example.com", "192.0.2.7", "2001:db8::7"] {
        let (client, server) = joined(&terminator, &config, name);
        assert_eq!(client.protocol().as_deref(), Some(&b"http/1.1"[..]));
        assert_eq!(server.version(), Some(ProtocolVersion::TLSv1_3));
        block_on(async {
            client.send(b"ask").await.unwrap();
            assert_eq!(receive_exactly(&server, 3).await, b"ask");
            server.send2(b"head ", b"body").await.unwrap();
            assert_eq!(receive_exactly(&client, 9).await, b"head body");
            assert!(client.is_quiet() && server.is_quiet());
        });
    }
    assert_eq!(terminator.leaves(), 3);
}

#[test]
fn leaves_of_a_sandbox_are_bounded() {
    let terminator = terminator();
    for index in 0..LEAVES_PER_SANDBOX_MAX + 10 {
        let name = CertName::parse(&format!("n{index}.example.com")).unwrap();
        terminator.settings(&name, Some(Protocol::Http11), SystemTime::now()).unwrap();
    }
    assert_eq!(terminator.leaves(), LEAVES_PER_SANDBOX_MAX);
}

#[test]
fn aes_128_is_chosen_although_the_client_prefers_aes_256() {
    let terminator = terminator();
    let config = stranger(&terminator, &[], &[&rustls::version::TLS13]);
    let first = config.crypto_provider().cipher_suites[0].suite();
    assert_eq!(first, CipherSuite::TLS13_AES_256_GCM_SHA384);
    let (_, server) = joined(&terminator, &config, "api.example.com");
    assert_eq!(server.suite(), Some(CipherSuite::TLS13_AES_128_GCM_SHA256));
}

#[test]
fn tls_1_2_works_in_both_directions_and_closes() {
    let terminator = terminator();
    let config = stranger(&terminator, &[b"h2", b"http/1.1"], &[&rustls::version::TLS12]);
    let (client, server) = joined(&terminator, &config, "api.example.com");
    assert_eq!(server.version(), Some(ProtocolVersion::TLSv1_2));
    assert_eq!(server.protocol().as_deref(), Some(&b"h2"[..]));
    let bytes = pattern(100_000);
    block_on(async {
        client.send(&bytes).await.unwrap();
        assert_eq!(receive_exactly(&server, bytes.len()).await, bytes);
        server.close().await.unwrap();
        assert_eq!(client.receive().await.unwrap(), None);
    });
}

#[test]
fn a_client_that_offers_nothing_known_gets_no_protocol_and_no_alert() {
    let terminator = terminator();
    let config = stranger(&terminator, &[b"spdy/3"], rustls::ALL_VERSIONS);
    let (client, server) = joined(&terminator, &config, "api.example.com");
    assert_eq!((client.protocol(), server.protocol()), (None, None));
}

#[test]
fn a_session_is_resumed_with_its_own_sandbox_only() {
    let (one, other) = (terminator(), terminator());
    let mut both = roots(one.issuer());
    both.add(CertificateDer::from(other.issuer().certificate().to_vec())).unwrap();
    let config = UpstreamTls::new(both).unwrap().system().clone();
    let finish = |terminator: &Terminator| {
        let (client, server) = joined(terminator, &config, "api.example.com");
        block_on(async {
            // The ticket comes with the first bytes.
            server.send(b"x").await.unwrap();
            receive_exactly(&client, 1).await;
        });
        assert_eq!(client.was_resumed(), server.was_resumed());
        server.was_resumed()
    };
    assert!(!finish(&one));
    assert!(finish(&one));
    assert!(!finish(&other));
}

#[test]
fn certificate_faults_have_names() {
    let terminator = terminator();
    let config = trusting(&terminator);
    let fault = |result: Result<Stream, TlsError>| match result {
        Err(TlsError::Certificate(fault)) => fault,
        Err(other) => panic!("{other:?}"),
        Ok(_) => panic!("accepted"),
    };
    let (client, server) = handshake(&terminator, &config, "other.example.com", "api.example.com");
    assert!(matches!(fault(client), CertificateFault::WrongName { names } if !names.contains("DnsName")));
    assert!(
        matches!(server, Err(TlsError::Alert(rustls::AlertDescription::BadCertificate))),
        "{:?}",
        server.err()
    );

    let unknown = trusting(&super::tests::terminator());
    let (client, server) = handshake(&terminator, &unknown, "api.example.com", "api.example.com");
    assert_eq!(fault(client), CertificateFault::UnknownIssuer);
    assert!(matches!(server, Err(TlsError::Alert(rustls::AlertDescription::UnknownCA))));
}

#[test]
fn expired_and_future_certificates_are_told_apart() {
    #[derive(Debug)]
    struct At(SystemTime);
    impl rustls::time_provider::TimeProvider for At {
        fn current_time(&self) -> Option<rustls::pki_types::UnixTime> {
            Some(rustls::pki_types::UnixTime::since_unix_epoch(
                self.0.duration_since(SystemTime::UNIX_EPOCH).unwrap(),
            ))
        }
    }
    let terminator = terminator();
    let days = |days: u64| Duration::from_secs(days * 86_400);
    let at = |time: SystemTime| {
        let config = ClientConfig::builder_with_details(
            trusting(&terminator).crypto_provider().clone(),
            Arc::new(At(time)),
        )
        .with_protocol_versions(rustls::ALL_VERSIONS)
        .unwrap()
        .with_root_certificates(roots(terminator.issuer()))
        .with_no_client_auth();
        match handshake(&terminator, &Arc::new(config), "api.example.com", "api.example.com").0 {
            Err(TlsError::Certificate(fault)) => fault,
            other => panic!("{:?}", other.err()),
        }
    };
    let now = SystemTime::now();
    assert_eq!(at(now + days(8)), CertificateFault::Expired);
    assert_eq!(at(now - days(2)), CertificateFault::NotValidYet);
}

#[test]
fn an_upstream_without_tls_is_named_so() {
    let config = trusting(&terminator());
    let (near, far) = Script::pair();
    let result = block_on(async {
        far.send(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
        connect(near, ServerName::try_from("api.example.com").unwrap(), &config).await
    });
    assert!(matches!(result, Err(TlsError::NotTls)), "{:?}", result.err());
}

#[test]
fn bulk_passes_both_ways_at_once_through_narrow_pipes() {
    let terminator = terminator();
    let config = trusting(&terminator);
    let (client, server) = joined(&terminator, &config, "api.example.com");
    let bytes = pattern(1_000_000);
    for (stream, segment) in [(&client, 1_461), (&server, 40_000)] {
        stream.socket().accept_at_most(5_000);
        stream.socket().segment(segment);
    }
    block_on(async {
        let there = zip(client.send(&bytes), receive_exactly(&server, bytes.len()));
        let back =
            zip(server.send2(&bytes[..70_000], &bytes[70_000..]), receive_exactly(&client, bytes.len()));
        let ((sent, there), (answered, back)) = zip(there, back).await;
        sent.unwrap();
        answered.unwrap();
        assert!(there == bytes && back == bytes);
    });
}

#[test]
fn a_dropped_receive_and_a_dropped_send_lose_nothing() {
    let terminator = terminator();
    let config = trusting(&terminator);
    let (client, server) = joined(&terminator, &config, "api.example.com");
    server.socket().accept_at_most(10);
    block_on(async {
        assert!(poll_once(server.receive()).await.is_none());
        assert!(poll_once(client.send(b"first")).await.is_none());
        assert!(poll_once(server.receive()).await.is_none());
        let (sent, received) = zip(client.send(b" second"), receive_exactly(&server, 12)).await;
        sent.unwrap();
        assert_eq!(received, b"first second");
    });
}

#[test]
fn a_cut_is_an_error_and_a_close_is_an_end() {
    let terminator = terminator();
    let config = trusting(&terminator);
    let (client, server) = joined(&terminator, &config, "api.example.com");
    block_on(async {
        server.send(b"last").await.unwrap();
        server.close().await.unwrap();
        assert_eq!(receive_exactly(&client, 4).await, b"last");
        assert_eq!(client.receive().await.unwrap(), None);
        assert!(!client.is_quiet());
        // Half-closed: our direction still works.
        client.send(b"still").await.unwrap();
        assert_eq!(receive_exactly(&server, 5).await, b"still");
    });
    let (client, server) = joined(&terminator, &config, "api.example.com");
    block_on(async {
        drop(server);
        let error = loop {
            match client.receive().await {
                Ok(Some(_)) => {}
                Ok(None) => panic!("a cut must not look like an end"),
                Err(error) => break error,
            }
        };
        assert_eq!(error.kind(), std::io::ErrorKind::UnexpectedEof);
    });
}

#[test]
fn an_authority_that_is_over_terminates_nothing() {
    let past = SystemTime::now() - Duration::from_secs(31 * 86_400);
    assert!(Terminator::new(issuer_from(past), SystemTime::now()).is_err());
}

#[test]
fn own_roots_replace_those_of_the_system() {
    let upstream = UpstreamTls::new(roots(terminator().issuer())).unwrap();
    assert!(matches!(upstream.settings(Some(b""), None), Err(RootsError::Empty)));
    assert!(matches!(
        upstream.settings(Some(b"-----BEGIN CERTIFICATE-----\n!!\n-----END CERTIFICATE-----\n"), None),
        Err(RootsError::NotPem(_))
    ));
    let private = terminator();
    let pem = format!(
        "-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n",
        data_encoding::BASE64.encode(private.issuer().certificate())
    );
    let config = upstream.settings(Some(pem.as_bytes()), None).unwrap();
    assert!(handshake(&private, &config, "api.internal", "api.internal").0.is_ok());
    assert!(handshake(&terminator(), &config, "api.internal", "api.internal").0.is_err());
}

#[test]
fn a_wire_over_the_ring_carries_bulk_both_ways_and_closes() {
    on_shard(|| async {
        let terminator = terminator();
        let config = trusting(&terminator);
        let (near, far) = pair().await;
        let name = ServerName::try_from("api.example.com").unwrap();
        let served = async {
            let (hello, replay) = read_hello(&far, b"").await.unwrap();
            let name = CertName::parse("api.example.com").unwrap();
            accept(far, &hello, replay, &name, &terminator).await
        };
        let (client, server) = zip(connect(near, name, &config), served).await;
        let (client, server) = (Wire::Tls(Box::new(client.unwrap())), Wire::Tls(Box::new(server.unwrap())));
        let bytes = pattern(3_000_000);
        let read = async |wire: &Wire| {
            let mut all = Vec::new();
            while let Some(chunk) = wire.receive_body().await.unwrap() {
                all.extend_from_slice(&chunk);
            }
            all
        };
        let write = async |wire: &Wire| {
            wire.send2(b"head", &bytes).await.unwrap();
            wire.close().await.unwrap();
        };
        let ((there, back), _) =
            zip(zip(read(&server), read(&client)), zip(write(&client), write(&server))).await;
        for all in [there, back] {
            assert!(all[..4] == *b"head" && all[4..] == bytes);
        }
        assert!(client.bytes_sent() > 3_000_000);
    });
}
