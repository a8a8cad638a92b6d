//! Rules that leave TLS to single hosts closed, beside hosts whose TLS is opened.

use std::{
    io::{Read, Write},
    net::TcpStream,
};

use rustls::{
    ClientConnection, StreamOwned,
    crypto::hpke::Hpke,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};
use tests::{
    client,
    gateway::{Gateway, Tls, ask, template},
    origin::{Origin, respond},
};

/// `second.test` is left closed; `origin.test` is opened and gets its credential.
const MIXED: &str = r#"{"allowedHosts":["origin.test","second.test","127.0.0.1"],
    "allowedAddresses":[{"host":"*","cidrs":["127.0.0.0/8"]}],
    "rules":[{"host":"second.test","actions":[{"passthrough":{}}]},
             {"host":"127.0.0.1","actions":[{"passthrough":{}}]},
             {"host":"origin.test","actions":[{"bearer":{"secret":"token"}}]}]}"#;

fn setup() -> (Origin, Gateway, u16) {
    let origin = Origin::tls(&["origin.test", "second.test", "127.0.0.1"], |seen, out| {
        respond(out, seen.fields("authorization").collect::<Vec<_>>().join(" ").as_bytes())
    });
    let mut gateway = Gateway::start(1, &origin);
    gateway.apply(vec![template("t", MIXED)]);
    let port = origin.address.port();
    (origin, gateway, port)
}

/// TLS with the origin itself, through a tunnel to this host.
fn unread(origin: &Origin, gateway: &Gateway, tunnel: &str, name: &str) -> Tls {
    let root = CertificateDer::from_pem_slice(origin.root_pem.as_bytes()).expect("a certificate");
    StreamOwned::new(client::trusting(&root, name, &[]), gateway.tunnel(tunnel, origin.address.port()))
}

fn get(host: &str, port: u16) -> String {
    format!("GET / HTTP/1.1\r\nHost: {host}:{port}\r\nAuthorization: mine\r\n\r\n")
}

fn fails(stream: &mut Tls, port: u16) -> String {
    let asked =
        stream.write_all(get("second.test", port).as_bytes()).and_then(|()| stream.read(&mut [0; 16]));
    asked.unwrap_err().to_string()
}

#[test]
fn one_host_is_relayed_unread_while_another_is_opened() {
    let (origin, gateway, port) = setup();
    let mut closed = unread(&origin, &gateway, "second.test", "second.test");
    let (head, body) = ask(&mut closed, &get("second.test", port), b"");
    assert!(head.starts_with("HTTP/1.1 200 ") && body == b"mine", "{head}");
    let mut opened = gateway.tls("origin.test", port);
    let (head, body) = ask(&mut opened, &get("origin.test", port), b"");
    assert!(head.starts_with("HTTP/1.1 200 ") && body.starts_with(b"Bearer "), "{head}");
    closed.conn.send_close_notify();
    closed.flush().unwrap();
    drop((closed, opened));
    let records = gateway.records(2);
    let find = |host: &str| records.iter().find(|record| record["host"] == host).expect("a record of it");
    let (closed, opened) = (find("second.test"), find("origin.test"));
    assert_eq!((&closed["scheme"], &closed["verdict"]), (&"tls".into(), &"allowed".into()), "{closed}");
    assert!(closed["bytesUp"].as_u64() > Some(100) && closed["bytesDown"].as_u64() > Some(100), "{closed}");
    assert_eq!((&opened["scheme"], &opened["secrets"][0]), (&"https".into(), &"token".into()), "{opened}");
}

#[test]
fn an_address_that_a_rule_leaves_closed_has_no_name_to_show() {
    let (origin, gateway, port) = setup();
    let mut stream = unread(&origin, &gateway, "127.0.0.1", "127.0.0.1");
    assert!(ask(&mut stream, &get("127.0.0.1", port), b"").0.starts_with("HTTP/1.1 200 "));
}

#[test]
fn a_hello_without_a_name_or_with_another_is_refused_before_anything_is_dialled() {
    let (origin, gateway, port) = setup();
    // No name: of an address none is sent.
    let mut nameless = unread(&origin, &gateway, "second.test", "127.0.0.1");
    assert!(fails(&mut nameless, port).contains("AccessDenied"));
    for (tunnel, name) in [("second.test", "origin.test"), ("origin.test", "second.test")] {
        let mut stream = unread(&origin, &gateway, tunnel, name);
        assert!(fails(&mut stream, port).contains("AccessDenied"), "{tunnel} {name}");
    }
    assert_eq!(origin.connections(), 0);
    let records = gateway.records(3);
    let (nameless, misdirected): (Vec<_>, Vec<_>) =
        records.iter().partition(|record| record["code"] == "passthrough_without_name");
    assert_eq!(nameless[0]["rule"], "rules[0]: second.test");
    assert!(misdirected.len() == 2 && misdirected.iter().all(|record| record["code"] == "misdirected_host"));
}

/// The hello of a client that asks for `name`, with an encrypted one beside.
fn hello_with_another_inside(origin: &Origin, name: &str) -> Vec<u8> {
    let root = CertificateDer::from_pem_slice(origin.root_pem.as_bytes()).expect("a certificate");
    let provider = std::sync::Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let suite = rustls::crypto::aws_lc_rs::hpke::DH_KEM_X25519_HKDF_SHA256_AES_128;
    let (public, _) = suite.generate_key_pair().expect("a key");
    let mode = rustls::client::EchMode::Grease(rustls::client::EchGreaseConfig::new(suite, public));
    let mut roots = rustls::RootCertStore::empty();
    roots.add(root).expect("a root");
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_ech(mode)
        .expect("settings")
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::try_from(name.to_owned()).expect("a name");
    let mut connection = ClientConnection::new(std::sync::Arc::new(config), name).expect("a client");
    let mut hello = Vec::new();
    connection.write_tls(&mut hello).expect("a hello");
    hello
}

#[test]
fn an_encrypted_hello_is_refused_where_a_rule_leaves_a_host_closed_and_opened_elsewhere() {
    let (origin, gateway, port) = setup();
    let say = |host: &str| -> (TcpStream, Vec<u8>) {
        let mut socket = gateway.tunnel(host, port);
        socket.write_all(&hello_with_another_inside(&origin, host)).unwrap();
        let mut answer = vec![0; 7];
        socket.read_exact(&mut answer).unwrap();
        (socket, answer)
    };
    let (closed, answer) = say("second.test");
    assert_eq!(answer, [21, 3, 3, 0, 2, 2, 49], "access denied");
    drop(closed);
    assert_eq!(gateway.recorded(1)[0]["code"], "passthrough_hidden_name");
    let (opened, answer) = say("origin.test");
    assert_eq!(answer[0], 22, "the handshake goes on");
    assert_eq!(origin.connections(), 0);
    drop(opened);
}

#[test]
fn a_lock_down_and_a_rule_that_is_taken_back_cut_what_is_relayed_unread() {
    let no_rule = MIXED.replace(r#"{"host":"second.test","actions":[{"passthrough":{}}]},"#, "");
    let other_way = MIXED.replacen(
        r#"{"passthrough":{}}"#,
        r#"{"passthrough":{}},{"upstream":{"via":"http://127.0.0.1:9"}}"#,
        1,
    );
    for later in [r#"{"allowedHosts":[]}"#, &no_rule, &other_way] {
        let (origin, mut gateway, port) = setup();
        let mut stream = unread(&origin, &gateway, "second.test", "second.test");
        assert!(ask(&mut stream, &get("second.test", port), b"").0.starts_with("HTTP/1.1 200 "));
        gateway.apply(vec![template("t", later)]);
        assert!(stream.sock.read(&mut [0; 16]).is_err(), "cut, not ended");
        drop(stream);
        assert_eq!(gateway.records(1)[0]["verdict"], "cut");
    }
}

#[test]
fn what_was_opened_before_the_rule_is_sent_away() {
    let (_origin, mut gateway, port) = setup();
    gateway
        .apply(vec![template("t", &MIXED.replacen("second.test\",\"actions", "third.test\",\"actions", 1))]);
    let mut stream = gateway.tls("second.test", port);
    assert!(ask(&mut stream, &get("second.test", port), b"").0.starts_with("HTTP/1.1 200 "));
    gateway.apply(vec![template("t", MIXED)]);
    let (head, body) = ask(&mut stream, &get("second.test", port), b"");
    let body = String::from_utf8_lossy(&body).into_owned();
    assert!(head.starts_with("HTTP/1.1 421 ") && body.contains("rules[0]: second.test"), "{head}{body}");
}
