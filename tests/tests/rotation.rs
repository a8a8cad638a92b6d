//! A secret that is written anew while a request waits for its upstream: the old value does not leave.

use std::{
    io,
    net::{TcpListener, TcpStream},
    thread,
};

use control_wire::row::{Op, SecretRow, SecretValue};
use tests::{
    gateway::{Gateway, SECRET, ask, both_ways},
    origin::{Origin, respond},
};

const NEWER: &str = "newer-value-5b1d";

/// Carries both directions until each ends.
fn join(near: &TcpStream, far: &TcpStream) {
    let one_way = |mut from: TcpStream, mut to: TcpStream| {
        thread::spawn(move || {
            // Whoever closes first ends it for the other.
            let _carried = io::copy(&mut from, &mut to);
            let _closed = to.shutdown(std::net::Shutdown::Write);
        });
    };
    one_way(near.try_clone().expect("a socket"), far.try_clone().expect("a socket"));
    one_way(far.try_clone().expect("a socket"), near.try_clone().expect("a socket"));
}

fn rotated() -> Op {
    Op::UpsertSecret(SecretRow {
        name: "token".into(),
        version: 2,
        value: SecretValue::new(NEWER.as_bytes()),
        hosts: vec!["origin.test".into()],
        allow_plaintext: false,
    })
}

#[test]
fn a_value_that_was_replaced_while_the_upstream_was_dialled_does_not_leave() {
    both_ways(|shards| {
        let origin = Origin::tls(&["origin.test"], |_, out| respond(out, b"done"));
        let mut gateway = Gateway::start(shards, &origin);
        // The kernel takes the connection; what is said on it waits until it is joined to the origin.
        let front = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = front.local_addr().expect("bound").port();
        let mut stream = gateway.tls("origin.test", port);
        let request = format!("GET / HTTP/1.1\r\nHost: origin.test:{port}\r\n\r\n");
        let asking = thread::spawn({
            let request = request.clone();
            move || (ask(&mut stream, &request, b"").0, stream)
        });
        let (near, _) = front.accept().expect("the gateway dials");
        gateway.apply(vec![rotated()]);
        join(&near, &TcpStream::connect(origin.address).expect("the origin listens"));
        let (answer, mut stream) = asking.join().expect("an answer");
        assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
        assert!(answer.contains("secret_rewritten"), "{answer}");
        assert!(origin.seen().is_empty(), "nothing of it left");
        // The same again takes what is in force now.
        let again = thread::spawn(move || ask(&mut stream, &request, b"").0);
        let (near, _) = front.accept().expect("the gateway dials");
        join(&near, &TcpStream::connect(origin.address).expect("the origin listens"));
        assert!(again.join().expect("an answer").starts_with("HTTP/1.1 200 "));
        let seen = origin.wait_for(1);
        assert_eq!(seen[0].fields("authorization").collect::<Vec<_>>(), [format!("Bearer {NEWER}")]);
        assert_ne!(NEWER, SECRET);
        let records = gateway.records(2);
        assert_eq!((&records[0]["code"], &records[0]["status"]), (&"secret_rewritten".into(), &503.into()));
        assert!(records[0]["secrets"].is_null(), "none left: {}", records[0]);
    });
}
