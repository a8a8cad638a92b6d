//! Both legs against each other, in memory.

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
fn hello_is_read_over_one_byte_segments_and_the_handshake_goes_on() {
    let terminator = terminator();
    let config = trusting(&terminator);
    let (near, far) = Script::pair();
    near.segment(1);
    far.segment(1);
    let name = ServerName::try_from("api.example.com").unwrap();
    let (client, server) =
        block_on(zip(connect(near, name, &config), serve(far, "api.example.com", &terminator)));
    let (client, server) = (client.unwrap(), server.unwrap());
    let bytes = pattern(3_000);
    block_on(async {
        client.send(&bytes).await.unwrap();
        assert_eq!(receive_exactly(&server, bytes.len()).await, bytes);
    });
}

/// The first flight of a client as it leaves the socket.
fn first_flight(config: &Arc<ClientConfig>, name: &str) -> Vec<u8> {
    let (near, far) = Script::pair();
    let name = ServerName::try_from(name.to_owned()).unwrap();
    block_on(async {
        assert!(poll_once(connect(near, name, config)).await.is_none());
        far.receive().await.unwrap().unwrap()
    })
}

#[test]
fn hello_is_read_over_several_records() {
    let terminator = terminator();
    let flight =
        first_flight(&stranger(&terminator, &[b"h2", b"http/1.1"], rustls::ALL_VERSIONS), "API.example.com");
    let (head, message) = flight.split_at(5);
    let mut records = Vec::new();
    for part in message.chunks(7) {
        records.extend_from_slice(&head[..3]);
        records.extend_from_slice(&(part.len() as u16).to_be_bytes());
        records.extend_from_slice(part);
    }
    for segment in [1, 11, records.len()] {
        let mut reader = HelloReader::default();
        let mut found = None;
        for bytes in records.chunks(segment) {
            assert_eq!(found, None);
            found = reader.feed(bytes).unwrap();
        }
        let hello = found.unwrap();
        assert_eq!(hello.server_name.as_deref(), Some("api.example.com"));
        assert_eq!(hello.protocol(), Some(Protocol::Http2));
        assert_eq!(reader.into_bytes(), records);
    }

    // The handshake itself takes the same records.
    let (near, far) = Script::pair();
    let accepted = block_on(async {
        near.send(&records).await.unwrap();
        let (hello, replay) = read_hello(&far, b"").await.unwrap();
        let name = CertName::parse("api.example.com").unwrap();
        // No answer comes, but the server's flight does: the hello was understood.
        let pending = poll_once(accept(far, &hello, replay, &name, &terminator)).await.is_none();
        pending && near.receive().await.unwrap().unwrap()[0] == 0x16
    });
    assert!(accepted);
}

#[test]
fn an_address_in_a_hello_is_no_server_name() {
    let terminator = terminator();
    let flight = first_flight(&trusting(&terminator), "192.0.2.7");
    let hello = HelloReader::default().feed(&flight).unwrap().unwrap();
    assert_eq!(hello.server_name, None);
}

#[test]
fn oversize_hello_is_refused_before_it_is_complete() {
    let mut reader = HelloReader::default();
    // A handshake record that announces a hello of 60,000 bytes, and then more such records.
    let mut record = vec![0x16, 3, 1, 0x20, 0x00];
    record.resize(5 + 0x2000, 0);
    record[5..9].copy_from_slice(&[1, 0, 0xea, 0x60]);
    assert!(matches!(reader.feed(&record), Ok(None)));
    record[5..9].fill(0);
    assert!(matches!(reader.feed(&record), Err(TlsError::HelloTooLong { bytes_max: HELLO_BYTES_MAX })));
}

#[test]
fn what_is_not_a_hello_is_refused_with_an_alert_and_never_panics() {
    for bytes in
        [&b"GET / HTTP/1.1\r\n\r\n"[..], b"\x16\x03\x01\x00\x04\x02\x00\x00\x00", b"\x80\x2e\x01\x03\x01\x00"]
    {
        let (near, far) = Script::pair();
        block_on(async {
            near.send(bytes).await.unwrap();
            near.shutdown_write().unwrap();
            let refused = read_hello(&far, b"").await;
            assert!(matches!(refused, Err(TlsError::NotHello(_) | TlsError::Truncated)), "{bytes:?}");
        });
    }
    // Every truncation and many mutations of a true hello.
    let terminator = terminator();
    let flight = first_flight(&trusting(&terminator), "api.example.com");
    for index in 0..flight.len() {
        assert!(matches!(HelloReader::default().feed(&flight[..index]), Ok(None)));
        let mut mutated = flight.clone();
        mutated[index] ^= 0xa5;
        let _ = HelloReader::default().feed(&mutated);
        let (near, far) = Script::pair();
        block_on(async {
            near.send(&mutated).await.unwrap();
            drop(near);
            let _ = serve(far, "api.example.com", &terminator).await;
        });
    }
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

/// A server that says what it is told to say, when it is told.
struct Scripted<S: Socket> {
    end: S,
    connection: rustls::ServerConnection,
}

impl<S: Socket> Scripted<S> {
    /// Completes a handshake; the ticket that would follow at once waits for [`Scripted::flush`].
    async fn accept(end: S, terminator: &Terminator) -> Self {
        let name = CertName::parse("api.example.com").unwrap();
        let settings = terminator.settings(&name, Some(Protocol::Http11), SystemTime::now()).unwrap();
        let mut this = Self { end, connection: rustls::ServerConnection::new(settings).unwrap() };
        while this.connection.is_handshaking() {
            this.flush().await;
            this.read().await;
        }
        this
    }

    async fn flush(&mut self) {
        let mut bytes = Vec::new();
        while self.connection.wants_write() {
            self.connection.write_tls(&mut bytes).unwrap();
        }
        self.end.send(&bytes).await.unwrap();
    }

    async fn read(&mut self) -> Vec<u8> {
        let bytes = self.end.receive().await.unwrap().unwrap();
        let mut bytes = &*bytes;
        while !bytes.is_empty() {
            self.connection.read_tls(&mut bytes).unwrap();
            self.connection.process_new_packets().unwrap();
        }
        let mut plain = vec![0; 1024];
        let count = std::io::Read::read(&mut self.connection.reader(), &mut plain).unwrap_or(0);
        plain.truncate(count);
        plain
    }

    async fn say(&mut self, bytes: &[u8]) {
        std::io::Write::write_all(&mut self.connection.writer(), bytes).unwrap();
        self.flush().await;
    }
}

async fn scripted<S: Socket>(near: S, far: S) -> (TlsStream<S>, Scripted<S>) {
    let terminator = terminator();
    let config = trusting(&terminator);
    let name = ServerName::try_from("api.example.com").unwrap();
    let (client, server) = zip(connect(near, name, &config), Scripted::accept(far, &terminator)).await;
    (client.unwrap(), server)
}

/// Servers send tickets when they like. One that came after a connection was put into the pool made it look as if
/// an answer had come unasked, and the connection was thrown away.
#[test]
fn tickets_and_key_updates_that_come_late_leave_a_connection_quiet() {
    block_on(async {
        let (near, far) = Script::pair();
        let (client, mut server) = scripted(near, far).await;
        assert!(client.is_quiet() && server.connection.wants_write());
        server.flush().await;
        assert!(!client.socket().is_quiet(), "the ticket is there");
        assert!(client.is_quiet());
        server.connection.refresh_traffic_keys().unwrap();
        server.flush().await;
        assert!(!client.socket().is_quiet(), "the key update is there");
        assert!(client.is_quiet());
        client.send(b"ask").await.unwrap();
        assert_eq!(server.read().await, b"ask");
        server.say(b"answer").await;
        assert_eq!(receive_exactly(&client, 6).await, b"answer");
        assert!(client.is_quiet());
        server.connection.refresh_traffic_keys().unwrap();
        server.say(b"unasked").await;
        assert!(!client.is_quiet() && !client.is_quiet(), "bytes are bytes, whatever came with them");
        assert_eq!(receive_exactly(&client, 7).await, b"unasked");
        assert!(client.is_quiet());
    });
}

#[test]
fn an_end_of_any_kind_is_not_quiet() {
    block_on(async {
        let (near, far) = Script::pair();
        let (client, mut server) = scripted(near, far).await;
        assert!(client.is_quiet());
        server.connection.send_close_notify();
        server.flush().await;
        assert!(!client.is_quiet() && !client.is_quiet(), "close_notify behind a ticket");
        let (near, far) = Script::pair();
        let (client, server) = scripted(near, far).await;
        drop(server);
        assert!(!client.is_quiet() && !client.is_quiet(), "FIN");
        let (near, far) = Script::pair();
        let (client, server) = scripted(near, far).await;
        server.end.send(b"\x17\x03\x03\x00\x20forged-forged-forged-forged-1234").await.unwrap();
        assert!(!client.is_quiet() && !client.is_quiet(), "a record that nobody of them made");
        let (near, far) = Script::pair();
        let (client, server) = scripted(near, far).await;
        server.end.send(b"\x17\x03").await.unwrap();
        assert!(!client.is_quiet(), "half a record may be anything");
    });
}

#[test]
fn an_idle_connection_to_which_a_ticket_came_holds_no_buffer() {
    on_shard(|| async {
        let ring = crate::ring::Ring::current();
        let (near, far) = pair().await;
        let (client, mut server) = scripted(near, far).await;
        client.arm();
        assert!(client.is_quiet());
        server.flush().await;
        while client.socket().is_quiet() {
            crate::ring::yield_now().await;
        }
        assert_eq!(ring.stats().head_buffers_out, 1);
        assert!(client.is_quiet());
        assert_eq!(ring.stats().head_buffers_out, 0);
        assert!(client.socket().is_quiet(), "it listens on");
        server.end.shutdown_write().unwrap();
        while client.socket().is_quiet() {
            crate::ring::yield_now().await;
        }
        assert!(!client.is_quiet());
    });
}

#[test]
fn a_forged_record_ends_the_connection() {
    let terminator = terminator();
    let (client, server) = joined(&terminator, &trusting(&terminator), "api.example.com");
    block_on(async {
        client.socket().send(b"\x17\x03\x03\x00\x20forged-forged-forged-forged-1234").await.unwrap();
        let error = server.receive().await.unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::InvalidData);
        assert!(server.send(b"x").await.is_err());
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

#[test]
fn a_hello_that_could_hide_another_name_is_recognised_and_a_torn_one_counts_as_such() {
    let config = UpstreamTls::new(roots(terminator().issuer())).unwrap().system().clone();
    let name = rustls::pki_types::ServerName::try_from("a.test").unwrap();
    let mut client = rustls::ClientConnection::new(config, name).unwrap();
    let mut hello = Vec::new();
    client.write_tls(&mut hello).unwrap();
    assert!(!super::hides_a_name(&hello));
    assert!(super::hides_a_name(&hello[..hello.len() - 1]), "torn");
    // The same message over two records.
    let (first, second) = hello[5..].split_at(100);
    let record =
        |part: &[u8]| [&[22, 3, 1], &u16::try_from(part.len()).unwrap().to_be_bytes()[..], part].concat();
    assert!(!super::hides_a_name(&[record(first), record(second)].concat()));
    // One more extension at the end, and the three lengths around it.
    let mut message = hello[5..].to_vec();
    let body = message.len() - 4;
    message.extend_from_slice(&[0xfe, 0x0d, 0, 1, 7]);
    message[1..4].copy_from_slice(&u32::try_from(body + 5).unwrap().to_be_bytes()[1..]);
    let session = usize::from(message[38]);
    let suites = 39 + session;
    let suites_length = usize::from(u16::from_be_bytes([message[suites], message[suites + 1]]));
    let compressions = suites + 2 + suites_length;
    let extensions = compressions + 1 + usize::from(message[compressions]);
    let length = u16::from_be_bytes([message[extensions], message[extensions + 1]]) + 5;
    message[extensions..extensions + 2].copy_from_slice(&length.to_be_bytes());
    assert!(super::hides_a_name(&record(&message)));
}
