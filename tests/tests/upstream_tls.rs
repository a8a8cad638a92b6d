//! TLS towards upstreams: faults are told apart with the way out, keys are exchanged against tomorrow's computers, and
//! sessions are resumed.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicUsize, Ordering},
};

use rcgen::date_time_ymd;
use rustls::{
    ClientConfig, ClientConnection, HandshakeKind, NamedGroup, RootCertStore, StreamOwned,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, ServerName},
    version,
};
use tests::{
    gateway::{Gateway, ask, both_ways, template},
    origin::Origin,
    secured::{self, Authority, Issued, settings},
};

const VERSIONS: &[&rustls::SupportedProtocolVersion] = &[&version::TLS13, &version::TLS12];

/// Asks for a page of the origin, and gives code and remedy of the refusal, after looking that the record says the same
/// and that the answer has the form of one.
fn refused(gateway: Gateway, port: u16) -> (String, String) {
    let mut stream = gateway.tls("origin.test", port);
    let (head, body) = ask(&mut stream, &format!("GET / HTTP/1.1\r\nHost: origin.test:{port}\r\n\r\n"), b"");
    assert!(head.starts_with("HTTP/1.1 502 "), "{head}");
    let told: serde_json::Value = serde_json::from_slice(&body).expect("a problem");
    drop(stream);
    let record = &gateway.records(1)[0];
    assert_eq!((&record["code"], &record["verdict"]), (&told["code"], &"refused".into()), "{record}");
    let text = |field: &str| told[field].as_str().expect("text").to_owned();
    assert!(!text("detail").contains("127.0.0.1"), "{told}");
    (text("code"), text("remedy"))
}

/// The refusal of an origin with this certificate, of which the plane trusts `roots`; no request may have reached it.
fn refused_for(own: &Issued, roots: String) -> (String, String) {
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    let origin = secured::origin(settings(own, VERSIONS, None), roots, move |_, _| {
        count.fetch_add(1, Ordering::SeqCst);
        "page".into()
    });
    let told = refused(Gateway::start(1, &origin), origin.address.port());
    assert_eq!((origin.connections(), asked.load(Ordering::SeqCst)), (1, 0), "it was met, and asked nothing");
    told
}

#[test]
fn what_is_wrong_with_a_certificate_is_told_with_the_way_out() {
    let (own, other) = (Authority::new("known"), Authority::new("other"));
    let server = |names: &[&str]| own.server(names, |_| {});
    let expired = own.server(&["origin.test"], |params| params.not_after = date_time_ymd(2020, 1, 1));
    let early = own.server(&["origin.test"], |params| params.not_before = date_time_ymd(2099, 1, 1));
    for (issued, code, way_out) in [
        (expired, "upstream_certificate_expired", "renew"),
        (early, "upstream_certificate_early", "clocks"),
        (server(&["elsewhere.test"]), "upstream_certificate_name", "name that the certificate holds"),
        (other.server(&["origin.test"], |_| {}), "upstream_certificate_issuer", "upstreamRoots"),
        (own.itself(), "upstream_certificate_authority", "issued for its name"),
    ] {
        let (told, remedy) = refused_for(&issued, own.pem());
        assert_eq!(told, code);
        assert!(remedy.contains(way_out), "{code}: {remedy}");
    }
}

/// A record of TLS (RFC 8446 §5.1).
fn record(kind: u8, body: &[u8]) -> Vec<u8> {
    [&[kind, 3, 1], &u16::try_from(body.len()).unwrap().to_be_bytes()[..], body].concat()
}

/// The first answer of a server that knows nothing newer than TLS 1.0 (RFC 2246 §7.4.1.3).
fn hello_of_1999() -> Vec<u8> {
    let hello = [&[3, 1][..], &[7; 32], &[0], &[0xc0, 0x13], &[0]].concat();
    record(22, &[&[2, 0, 0, u8::try_from(hello.len()).unwrap()], &hello[..]].concat())
}

#[test]
fn upstreams_that_speak_something_else_are_told_apart() {
    let alert = |code: u8| record(21, &[2, code]);
    for (answer, code, way_out) in [
        (hello_of_1999(), "upstream_tls_legacy", "TLS 1.2 or 1.3"),
        (alert(70), "upstream_tls_legacy", "TLS 1.2 or 1.3"),
        (alert(40), "upstream_tls_alert", "ECDHE"),
        (alert(112), "upstream_name_unserved", "name that the upstream serves"),
        (alert(42), "upstream_refuses_certificate", "clientCertificate"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec(), "upstream_not_tls", "http"),
        (b"SSH-2.0-OpenSSH_9.2\r\n".to_vec(), "upstream_not_tls", "http"),
        (Vec::new(), "upstream_tls_cut", "later"),
    ] {
        let heard = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&heard);
        let origin = Origin::wire(&[], move |stream| {
            let mut bytes = [0; 4096];
            let count = stream.read(&mut bytes)?;
            log.lock().unwrap().extend_from_slice(&bytes[..count]);
            stream.write_all(&answer)?;
            stream.end()?;
            while stream.read(&mut bytes)? > 0 {}
            Ok(())
        });
        let (told, remedy) = refused(Gateway::start(1, &origin), origin.address.port());
        assert_eq!(told, code);
        assert!(remedy.contains(way_out), "{code}: {remedy}");
        assert!(
            !heard.lock().unwrap().windows(4).any(|bytes| bytes == b"GET "),
            "{code}: asked in the clear"
        );
    }
}

#[test]
fn an_upstream_that_wants_a_client_certificate_says_so_whenever_its_version_lets_it() {
    for (version, codes) in [
        (&version::TLS13, ["upstream_wants_certificate"].as_slice()),
        (
            &version::TLS12,
            &["upstream_wants_certificate", "upstream_refuses_certificate", "upstream_tls_alert"],
        ),
    ] {
        let own = Authority::new("known");
        let asked = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&asked);
        let issued = own.server(&["origin.test"], |_| {});
        let origin = secured::origin(settings(&issued, &[version], Some(&own)), own.pem(), move |_, _| {
            count.fetch_add(1, Ordering::SeqCst);
            "page".into()
        });
        let (code, remedy) = refused(Gateway::start(1, &origin), origin.address.port());
        assert!(codes.contains(&&*code), "{version:?}: {code}");
        assert!(remedy.contains("clientCertificate"), "{remedy}");
        assert_eq!(asked.load(Ordering::SeqCst), 0);
    }
}

#[test]
fn keys_are_exchanged_with_ml_kem_on_both_legs_and_sessions_to_upstreams_are_resumed() {
    both_ways(|shards| {
        let own = Authority::new("known");
        let met = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&met);
        let issued = own.server(&["origin.test"], |_| {});
        let origin = secured::origin(settings(&issued, VERSIONS, None), own.pem(), move |connection, _| {
            let group = connection.negotiated_key_exchange_group().expect("it is done").name();
            log.lock().unwrap().push((group, connection.handshake_kind().expect("it is done")));
            "page".into()
        });
        let mut gateway = Gateway::start(shards, &origin);
        let port = origin.address.port();
        let mut towards_sandbox = Vec::new();
        // Another policy of addresses makes the plane open another connection.
        for range in ["127.0.0.0/8", "127.0.0.0/16"] {
            let addresses = format!(r#"[{{"host":"origin.test","cidrs":["{range}"]}}]"#);
            let policy = format!(r#"{{"allowedHosts":["origin.test"],"allowedAddresses":{addresses}}}"#);
            gateway.apply(vec![template("t", &policy)]);
            let mut stream = StreamOwned::new(as_browsers_do(&gateway), gateway.tunnel("origin.test", port));
            let get = format!("GET / HTTP/1.1\r\nHost: origin.test:{port}\r\n\r\n");
            assert!(ask(&mut stream, &get, b"").0.starts_with("HTTP/1.1 200 "));
            towards_sandbox.push(stream.conn.negotiated_key_exchange_group().expect("it is done").name());
        }
        let ml_kem = NamedGroup::X25519MLKEM768;
        assert_eq!(towards_sandbox, [ml_kem, ml_kem]);
        assert_eq!(*met.lock().unwrap(), [(ml_kem, HandshakeKind::Full), (ml_kem, HandshakeKind::Resumed)]);
        gateway.records(2);
    });
}

/// A client that prefers ML-KEM.
fn as_browsers_do(gateway: &Gateway) -> ClientConnection {
    let mut provider = aws_lc_rs::default_provider();
    provider.kx_groups = vec![aws_lc_rs::kx_group::X25519MLKEM768, aws_lc_rs::kx_group::X25519];
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from(gateway.authority("box").to_vec())).expect("a root");
    let config = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::try_from("origin.test").expect("a name");
    ClientConnection::new(Arc::new(config), name).expect("a client")
}
