//! A secret that is written anew while a request waits for its upstream: the old value does not leave.

use std::{
    io::{self, Read, Write},
    net::{TcpListener, TcpStream},
    thread,
};

use control_wire::{
    question::Verdict,
    row::{Op, SecretRow, SecretValue},
};
use tests::{
    gateway::{Gateway, ask, both_ways, policy, template},
    origin::{Origin, respond},
    questions::once,
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

fn rotated(version: u64, value: &str) -> Op {
    Op::UpsertSecret(SecretRow {
        name: "token".into(),
        version,
        value: SecretValue::new(value.as_bytes()),
        hosts: vec!["origin.test".into()],
        allow_plaintext: false,
    })
}

/// A request to an upstream whose connections the kernel takes, and on which nothing is said until they are joined to an
/// origin.
struct Request {
    front: TcpListener,
    asking: thread::JoinHandle<String>,
}

impl Request {
    fn begin(gateway: &Gateway, method: &str, body: &'static [u8]) -> Self {
        let front = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = front.local_addr().expect("bound").port();
        let mut stream = gateway.tls("origin.test", port);
        let length = body.len();
        let head =
            format!("{method} / HTTP/1.1\r\nHost: origin.test:{port}\r\nContent-Length: {length}\r\n\r\n");
        let asking = thread::spawn(move || {
            let (head, body) = ask(&mut stream, &head, body);
            head + &String::from_utf8_lossy(&body)
        });
        Self { front, asking }
    }

    /// Waits until the gateway dials, lets that happen, and gives what the client is told once the upstream answers.
    fn told(self, origin: &Origin, meanwhile: impl FnOnce()) -> String {
        let (near, _) = self.front.accept().expect("the gateway dials");
        meanwhile();
        join(&near, &TcpStream::connect(origin.address).expect("the origin listens"));
        self.asking.join().expect("an answer")
    }
}

#[test]
fn a_value_that_is_replaced_while_the_upstream_is_dialled_never_leaves_and_the_newer_does_at_once() {
    both_ways(|shards| {
        let origin = Origin::tls(&["origin.test"], |seen, out| respond(out, &seen.body));
        let mut gateway = Gateway::start(shards, &origin);
        for (version, method, body) in [(2, "GET", &b""[..]), (3, "POST", b"once"), (4, "POST", b"again")] {
            let newer = format!("{NEWER}-{version}");
            let told = Request::begin(&gateway, method, body)
                .told(&origin, || gateway.apply(vec![rotated(version, &newer)]));
            assert!(told.starts_with("HTTP/1.1 200 "), "{told}");
            let seen = origin.wait_for(version as usize - 1);
            let last = seen.last().expect("a request");
            assert_eq!(last.body, body);
            assert_eq!(last.fields("authorization").collect::<Vec<_>>(), [format!("Bearer {newer}")]);
        }
        assert_eq!((origin.seen().len(), origin.connections()), (3, 3), "once each, on what was dialled");
        for record in gateway.records(3) {
            assert_eq!((&record["verdict"], &record["secrets"][0]), (&"allowed".into(), &"token".into()));
        }
    });
}

#[test]
fn a_request_whose_secret_is_withdrawn_while_its_upstream_is_dialled_is_refused() {
    both_ways(|shards| {
        let origin = Origin::tls(&["origin.test"], |_, out| respond(out, b"done"));
        let mut gateway = Gateway::start(shards, &origin);
        let told = Request::begin(&gateway, "POST", b"body")
            .told(&origin, || gateway.apply(vec![Op::RemoveSecret("token".into())]));
        assert!(told.starts_with("HTTP/1.1 502 ") && told.contains("secret_missing"), "{told}");
        assert!(origin.seen().is_empty(), "nothing of it left");
        let records = gateway.records(1);
        assert_eq!(records[0]["code"], "secret_missing");
        assert!(records[0]["secrets"].is_null(), "none left: {}", records[0]);
    });
}

#[test]
fn a_request_that_a_person_allowed_is_not_decided_again_where_its_secret_was_replaced() {
    both_ways(|shards| {
        let origin = Origin::tls(&["origin.test"], |_, out| respond(out, b"done"));
        let mut gateway = Gateway::start(shards, &origin);
        gateway.apply(vec![template(
            "t",
            r#"{"allowedAddresses":[{"host":"*.test","cidrs":["127.0.0.0/8"]}],"ask":{"hosts":["*.test"]},
                "rules":[{"host":"origin.test","actions":[{"bearer":{"secret":"token"}}]}]}"#,
        )]);
        let request = Request::begin(&gateway, "GET", b"");
        gateway.shards.answer(once(gateway.questions.asked().id, Verdict::Allow));
        let told = request.told(&origin, || gateway.apply(vec![rotated(2, NEWER)]));
        assert!(told.starts_with("HTTP/1.1 503 ") && told.contains("secret_rewritten"), "{told}");
        assert!(origin.seen().is_empty(), "nothing of it left");
        let records = gateway.records(1);
        assert_eq!((&records[0]["code"], &records[0]["status"]), (&"secret_rewritten".into(), &503.into()));
        assert!(records[0]["secrets"].is_null(), "none left: {}", records[0]);
    });
}

#[test]
fn a_request_that_was_cut_while_its_upstream_was_dialled_is_not_decided_again() {
    both_ways(|shards| {
        let origin = Origin::tls(&["origin.test"], |_, out| respond(out, b"done"));
        let mut gateway = Gateway::start(shards, &origin);
        let front = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = front.local_addr().expect("bound").port();
        let mut stream = gateway.tls("origin.test", port);
        let head = format!("POST / HTTP/1.1\r\nHost: origin.test:{port}\r\nContent-Length: 0\r\n\r\n");
        stream.write_all(head.as_bytes()).expect("the gateway reads");
        let (near, _) = front.accept().expect("the gateway dials");
        gateway.apply(vec![rotated(2, NEWER), policy("[]")]);
        gateway.apply(vec![policy(r#"["origin.test"]"#)]);
        join(&near, &TcpStream::connect(origin.address).expect("the origin listens"));
        let mut answer = Vec::new();
        assert!(stream.read_to_end(&mut answer).is_err() && answer.is_empty(), "{answer:?}");
        let records = gateway.records(1);
        assert_eq!((&records[0]["verdict"], &records[0]["code"]), (&"cut".into(), &"revoked".into()));
        assert!(origin.seen().is_empty(), "nothing of it left");
    });
}
