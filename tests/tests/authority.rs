//! The certificate of a sandbox's authority grows old: another of the same key is offered in time, and nobody who trusts
//! the one before notices.

use std::{
    sync::mpsc::TryRecvError,
    time::{Duration, SystemTime},
};

use control_wire::certificate::Certificate;
use rustls::StreamOwned;
use tests::{
    client,
    gateway::{Gateway, PATIENCE, ask, both_ways},
    origin::{Origin, respond},
};

const DAY: Duration = Duration::from_secs(86_400);

fn origin() -> Origin {
    Origin::tls(&["origin.test"], |_, out| respond(out, b"ok"))
}

/// Asks as a program of `box` that trusts this certificate alone.
fn ask_trusting(gateway: &Gateway, authority: &[u8], port: u16) {
    let socket = gateway.tunnel("origin.test", port);
    let mut stream = StreamOwned::new(client::trusting(authority, "origin.test", &[]), socket);
    let (head, body) = ask(&mut stream, &format!("GET / HTTP/1.1\r\nHost: origin.test:{port}\r\n\r\n"), b"");
    assert!(head.starts_with("HTTP/1.1 200 ") && body == b"ok", "{head}");
}

/// What the plane tells the sandbox to trust.
fn told(gateway: &Gateway) -> String {
    let request = "GET http://outgate.internal/ca.pem HTTP/1.1\r\nHost: outgate.internal\r\n\
                   Proxy-Authorization: Basic Ym94OndvcmQ=\r\n\r\n";
    String::from_utf8(ask(&mut gateway.socket(), request, b"").1).unwrap()
}

#[test]
fn certificate_in_its_last_third_is_offered_anew_once_and_both_are_trusted() {
    both_ways(|shards| {
        let origin = origin();
        let port = origin.address.port();
        let mut gateway = Gateway::start(shards, &origin);
        ask_trusting(&gateway, gateway.authority("box"), port);
        let young = SystemTime::now() - DAY * 19;
        gateway.put_sandbox("box", "t", young);
        ask_trusting(&gateway, gateway.authority("box"), port);
        assert_eq!(gateway.offers.try_recv(), Err(TryRecvError::Empty), "there is time");

        gateway.put_sandbox("box", "t", SystemTime::now() - DAY * 21);
        let old = gateway.authority("box").to_vec();
        for _ in 0..3 {
            ask_trusting(&gateway, &old, port);
        }
        // It was offered before the answers came.
        let (sandbox, offered) = gateway.offers.try_recv().unwrap();
        assert_eq!(gateway.offers.try_recv(), Err(TryRecvError::Empty), "it is offered once");
        let (offered, stored) = (Certificate::parse(&offered).unwrap(), Certificate::parse(&old).unwrap());
        assert!(sandbox == "box" && offered.outlasts(&stored));
        assert!(stored.is_in_its_last_third(SystemTime::now()), "control finds it due too");

        // Control has taken one.
        gateway.put_sandbox("box", "t", SystemTime::now());
        let new = gateway.authority("box").to_vec();
        ask_trusting(&gateway, &new, port);
        ask_trusting(&gateway, &old, port);
        assert_eq!(told(&gateway), dataplane::admin::to_pem(&new));
        assert_eq!(gateway.offers.try_recv(), Err(TryRecvError::Empty));
    });
}

#[test]
fn certificate_that_is_over_is_waited_for_like_one_that_was_never_made() {
    both_ways(|shards| {
        let origin = origin();
        let port = origin.address.port();
        let mut gateway = Gateway::start(shards, &origin);
        gateway.put_sandbox("box", "t", SystemTime::now() - DAY * 31);
        let socket = gateway.tunnel("origin.test", port);
        let request = format!("GET / HTTP/1.1\r\nHost: origin.test:{port}\r\n\r\n");
        // This client looks at name and key of what it trusts, not at its days.
        let trusting = gateway.authority("box").to_vec();
        let asking = std::thread::spawn(move || {
            let mut stream = StreamOwned::new(client::trusting(&trusting, "origin.test", &[]), socket);
            ask(&mut stream, &request, b"").0
        });
        // Control's answer comes while the connection waits.
        let (sandbox, _) = gateway.offers.recv_timeout(PATIENCE).unwrap();
        assert_eq!(sandbox, "box");
        gateway.put_sandbox("box", "t", SystemTime::now());
        let head = asking.join().unwrap();
        assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    });
}
