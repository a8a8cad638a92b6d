//! TLS that the policy leaves closed: judged by the name that the client asks for, relayed unread, recorded, cut.

use std::io::{Read, Write};

use rustls::{
    StreamOwned,
    pki_types::{CertificateDer, pem::PemObject},
};
use socket2::SockRef;
use tests::{
    client,
    gateway::{Gateway, Tls, ask, template},
    origin::{Origin, respond},
};

const UNREAD: &str = r#"{"allowedHosts":["origin.test"],"interceptHttps":false,
    "allowedAddresses":[{"host":"*","cidrs":["127.0.0.0/8"]}]}"#;

fn setup() -> (Origin, Gateway, u16) {
    let origin = Origin::tls(&["origin.test", "denied.test"], |seen, out| {
        respond(out, seen.fields("authorization").collect::<Vec<_>>().join(" ").as_bytes())
    });
    let mut gateway = Gateway::start(1, &origin);
    gateway.apply(vec![template("t", UNREAD)]);
    let port = origin.address.port();
    (origin, gateway, port)
}

/// TLS with the origin itself, through a tunnel to this host.
fn tls(origin: &Origin, gateway: &Gateway, tunnel: &str, name: &str) -> Tls {
    let root = CertificateDer::from_pem_slice(origin.root_pem.as_bytes()).expect("a certificate");
    StreamOwned::new(client::trusting(&root, name, &[]), gateway.tunnel(tunnel, origin.address.port()))
}

fn get(port: u16) -> String {
    format!("GET / HTTP/1.1\r\nHost: origin.test:{port}\r\nAuthorization: mine\r\n\r\n")
}

#[test]
fn client_and_origin_speak_their_own_tls_and_nothing_is_added() {
    let (origin, gateway, port) = setup();
    let mut stream = tls(&origin, &gateway, "origin.test", "origin.test");
    let (head, body) = ask(&mut stream, &get(port), b"");
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    assert_eq!(body, b"mine");
    stream.conn.send_close_notify();
    stream.flush().unwrap();
    drop(stream);
    let record = &gateway.records(1)[0];
    let told = (&record["scheme"], &record["host"], &record["verdict"], &record["rule"]);
    let expected = ("tls".into(), "origin.test".into(), "allowed".into(), "allowedHosts: origin.test".into());
    assert_eq!(told, (&expected.0, &expected.1, &expected.2, &expected.3));
    assert!(record["bytesUp"].as_u64() > Some(100) && record["bytesDown"].as_u64() > Some(100), "{record}");
}

#[test]
fn names_that_are_not_allowed_and_names_that_contradict_each_other_are_refused_before_anything_is_dialled() {
    let (origin, gateway, port) = setup();
    for (tunnel, name) in [("denied.test", "denied.test"), ("origin.test", "denied.test")] {
        let mut stream = tls(&origin, &gateway, tunnel, name);
        let error =
            stream.write_all(get(port).as_bytes()).and_then(|()| stream.read(&mut [0; 16])).unwrap_err();
        assert!(error.to_string().contains("AccessDenied"), "{error}");
    }
    assert_eq!(origin.connections(), 0);
    let codes: Vec<_> = gateway.records(2).iter().map(|record| record["code"].clone()).collect();
    assert_eq!(codes, ["host_not_allowed", "misdirected_host"]);
}

#[test]
fn rules_that_could_not_act_refuse_what_is_unread() {
    let (origin, mut gateway, port) = setup();
    let rules = r#""rules":[{"host":"origin.test","actions":[{"bearer":{"secret":"token"}}]}]"#;
    gateway.apply(vec![template("t", &UNREAD.replacen('{', &format!("{{{rules},"), 1))]);
    let mut stream = tls(&origin, &gateway, "origin.test", "origin.test");
    assert!(stream.write_all(get(port).as_bytes()).and_then(|()| stream.read(&mut [0; 16])).is_err());
    assert_eq!(origin.connections(), 0);
    drop(stream);
    assert_eq!(gateway.records(1)[0]["code"], "needs_interception");
}

#[test]
fn a_change_of_policy_cuts_what_is_relayed_unread() {
    for later in [r#"{"allowedHosts":[],"interceptHttps":false}"#, &UNREAD.replace("false", "true")] {
        let (origin, mut gateway, port) = setup();
        let mut stream = tls(&origin, &gateway, "origin.test", "origin.test");
        assert!(ask(&mut stream, &get(port), b"").0.starts_with("HTTP/1.1 200 "));
        gateway.apply(vec![template("t", later)]);
        assert!(stream.sock.read(&mut [0; 16]).is_err(), "cut, not ended");
        drop(stream);
        assert_eq!(gateway.records(1)[0]["verdict"], "cut");
    }
}

#[test]
fn a_connection_that_was_opened_before_is_sent_away() {
    let (_origin, mut gateway, port) = setup();
    gateway.apply(vec![template("t", &UNREAD.replace("false", "true"))]);
    let mut stream = gateway.tls("origin.test", port);
    assert!(ask(&mut stream, &get(port), b"").0.starts_with("HTTP/1.1 200 "));
    gateway.apply(vec![template("t", UNREAD)]);
    let (head, body) = ask(&mut stream, &get(port), b"");
    let body = String::from_utf8_lossy(&body).into_owned();
    assert!(head.starts_with("HTTP/1.1 421 ") && body.contains("tls_not_opened"), "{head}{body}");
    drop(stream);
    gateway.records(2);
}

/// An origin that had said everything and gone broke the relay as soon as the client said another word, and a client
/// that reads slowly lost what it had not yet read. Now the origin's half is handed over to its end.
#[test]
fn what_an_origin_says_last_is_handed_over_although_it_reads_no_more() {
    // More than lies in the kernel for a client that does not read, and no more than the gateway's kernel takes.
    const LAST: usize = 120 << 10;
    let origin = Origin::wire(&[], |wire| {
        wire.read_exact(&mut [0; 5])?;
        wire.write_all(&[b'x'; LAST])?;
        wire.end()
    });
    let mut gateway = Gateway::start(1, &origin);
    gateway.apply(vec![template("t", UNREAD)]);
    let mut socket = gateway.tunnel("origin.test", origin.address.port());
    SockRef::from(&socket).set_recv_buffer_size(4 << 10).unwrap();
    gateway.client("box", "origin.test", &[]).write_tls(&mut socket).unwrap();
    // Waits until the origin has answered.
    socket.read_exact(&mut [0]).unwrap();
    socket.write_all(&[b'y'; 1 << 20]).expect("nothing breaks");
    let mut rest = Vec::new();
    socket.read_to_end(&mut rest).expect("an end, not a cut");
    assert_eq!(rest.len(), LAST - 1);
    drop(socket);
    let record = &gateway.records(1)[0];
    assert_eq!((&record["verdict"], &record["bytesDown"]), (&"allowed".into(), &LAST.into()), "{record}");
}
