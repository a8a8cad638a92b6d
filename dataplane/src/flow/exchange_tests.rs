//! Exchanges over scripted connections: both legs are memory, the test plays client and upstream.

use std::{cell::Cell, rc::Rc};

use futures_lite::future::zip;

use super::*;
use crate::{
    flow::edits::Edits,
    http::{About, Exchange, Leg, Parsed, ServeError, Served, parse_request, serve},
    ring::testing::on_shard,
    tls::{Script, Socket},
};

/// A gate that the test opens and shuts.
pub(super) struct Door(Cell<bool>);

impl Gate for Door {
    fn is_open(&self) -> bool {
        self.0.get()
    }
}

pub(super) fn open() -> Rc<Door> {
    Rc::new(Door(Cell::new(true)))
}

/// The plane's side of both legs.
pub(super) struct Plane {
    near: Rc<Wire>,
    inbound: Inbound<Chunk>,
    up: Wire,
    /// What edits the exchanges.
    pub(super) edits: Option<Edits>,
}

/// The plane's side and the test's ends of both legs.
pub(super) fn legs() -> (Plane, Script, Script) {
    let ((client, near), (upstream, far)) = (Script::pair(), Script::pair());
    let near = Rc::new(Wire::Scripted(near));
    (Plane { near, inbound: Inbound::default(), up: Wire::Scripted(upstream), edits: None }, client, far)
}

impl Plane {
    /// Takes one request, whose head was read, along both legs.
    pub(super) async fn take(&mut self, method: &str, framing: &str, gate: &Rc<Door>) -> Taken {
        let text = format!("{method} / HTTP/1.1\r\nHost: a.test\r\n{framing}\r\n");
        let Ok(Parsed::Complete { head, .. }) = parse_request(text.as_bytes()) else { panic!("{text}") };
        let sent = Cell::new(0);
        let sending = Sending { head: text.as_bytes(), method, framing: head.framing(), sent: &sent };
        let about = About::of(&head);
        let (made, driver) = Exchange::new(head, Rc::clone(&self.near) as Rc<dyn Leg>);
        let mut upstream = Inbound::default();
        let path = async {
            let Exchange { mut body, reply, .. } = made;
            reply.guard(Rc::clone(gate) as Rc<dyn Gate>);
            let ends =
                (FromClient::new(&mut body, self.edits.as_ref()), ToClient::new(&reply, self.edits.as_ref()));
            let done = exchange(ends, (&self.up, &mut upstream), sending, &**gate).await;
            (done, reply.is_started())
        };
        let turns = driver.turns();
        let serving = serve(&*self.near, &mut self.inbound, about, driver);
        let ((outcome, started), served) = turns.take(path, serving).await;
        Taken { outcome, sent: sent.get(), started, served }
    }
}

/// What became of a request on both sides.
#[derive(Debug)]
pub(super) struct Taken {
    pub(super) outcome: Result<Answered, ExchangeError>,
    sent: u64,
    pub(super) started: bool,
    pub(super) served: Served,
}

impl Taken {
    pub(super) fn goes_on(&self) -> bool {
        matches!(self.served.outcome, Ok(true))
    }
}

/// Receives until `text` was seen.
pub(super) async fn expect(end: &Script, text: &str) -> String {
    let mut seen = String::new();
    while !seen.contains(text) {
        let bytes =
            end.receive().await.expect("the leg holds").unwrap_or_else(|| panic!("ended after {seen:?}"));
        seen.push_str(&String::from_utf8_lossy(&bytes));
    }
    seen
}

#[test]
fn answer_passes_with_its_framing_and_both_legs_go_on() {
    on_shard(|| async {
        let (mut plane, client, far) = legs();
        let play = async {
            assert_eq!(expect(&far, "\r\n\r\n").await, "GET / HTTP/1.1\r\nHost: a.test\r\n\r\n");
            far.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi").await.expect("sent");
            let seen = expect(&client, "hi").await;
            assert!(seen.starts_with("HTTP/1.1 200 OK\r\n") && seen.contains("Content-Length: 2"), "{seen}");
        };
        let gate = open();
        let (answered, ()) = zip(plane.take("GET", "", &gate), play).await;
        assert!(answered.goes_on());
        assert_eq!(answered.served.payload_bytes, 2);
        let answered = answered.outcome.expect("answered");
        assert!(answered.status == 200 && answered.upstream_goes_on);
    });
}

#[test]
fn trailers_that_are_there_at_once_follow_the_head() {
    on_shard(|| async {
        let (mut plane, client, far) = legs();
        client.send(b"0\r\nX-Sum: 1\r\n\r\n").await.expect("sent");
        let play = async {
            let expected =
                "POST / HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX-Sum: 1\r\n\r\n";
            assert_eq!(expect(&far, "X-Sum: 1\r\n\r\n").await, expected);
            far.send(b"HTTP/1.1 204 Done\r\n\r\n").await.expect("sent");
        };
        let gate = open();
        let (answered, ()) = zip(plane.take("POST", "Transfer-Encoding: chunked\r\n", &gate), play).await;
        assert!(answered.goes_on());
    });
}

#[test]
fn first_byte_of_a_stream_passes_before_the_rest_exists() {
    on_shard(|| async {
        let (mut plane, client, far) = legs();
        let play = async {
            expect(&far, "\r\n\r\n").await;
            far.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n").await.expect("sent");
            expect(&client, "1\r\na\r\n").await;
            far.send(b"1\r\nb\r\n0\r\n\r\n").await.expect("sent");
            expect(&client, "1\r\nb\r\n0\r\n\r\n").await;
        };
        let gate = open();
        let (answered, ()) = zip(plane.take("GET", "", &gate), play).await;
        assert_eq!(answered.served.payload_bytes, 2);
        assert!(answered.goes_on());
    });
}

#[test]
fn interim_answers_pass_before_the_answer() {
    on_shard(|| async {
        let (mut plane, client, far) = legs();
        let play = async {
            expect(&far, "\r\n\r\n").await;
            far.send(b"HTTP/1.1 100 Continue\r\n\r\n").await.expect("sent");
            expect(&client, "HTTP/1.1 100 ").await;
            client.send(b"body").await.expect("sent");
            expect(&far, "body").await;
            far.send(b"HTTP/1.1 204 No Content\r\n\r\n").await.expect("sent");
            expect(&client, "HTTP/1.1 204 ").await;
        };
        let gate = open();
        let (answered, ()) = zip(plane.take("PUT", "Content-Length: 4\r\n", &gate), play).await;
        assert!(answered.outcome.is_ok());
        assert_eq!(answered.sent, 4);
    });
}

#[test]
fn early_answer_arrives_and_the_connection_is_not_used_again() {
    on_shard(|| async {
        let (mut plane, client, far) = legs();
        let play = async {
            expect(&far, "\r\n\r\n").await;
            far.send(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n").await.expect("sent");
            expect(&client, "413").await;
        };
        let gate = open();
        let (answered, ()) = zip(plane.take("POST", "Content-Length: 1000000\r\n", &gate), play).await;
        assert!(!answered.goes_on());
        assert!(!answered.outcome.expect("answered").upstream_goes_on);
    });
}

#[test]
fn client_that_leaves_ends_the_wait_for_the_answer() {
    on_shard(|| async {
        let (mut plane, client, far) = legs();
        let play = async move {
            expect(&far, "\r\n\r\n").await;
            drop(client);
            far
        };
        let gate = open();
        let (answered, _far) = zip(plane.take("GET", "", &gate), play).await;
        assert!(matches!(answered.outcome, Err(ExchangeError::ClientGone)), "{answered:?}");
        assert!(
            matches!(answered.served.outcome, Err(ServeError::Cut(BodyError::Cancelled))),
            "{answered:?}"
        );
    });
}

#[test]
fn upstream_that_closes_without_an_answer_can_be_told() {
    on_shard(|| async {
        let (mut plane, _client, far) = legs();
        let play = async move {
            expect(&far, "\r\n\r\n").await;
            drop(far);
        };
        let gate = open();
        let (answered, ()) = zip(plane.take("GET", "", &gate), play).await;
        assert!(matches!(answered.outcome, Err(ExchangeError::Unanswered(_))), "{answered:?}");
        assert!(!answered.started, "a refusal can be told");
    });
}

#[test]
fn what_went_up_is_counted_though_no_answer_came() {
    on_shard(|| async {
        let (mut plane, client, far) = legs();
        let play = async move {
            expect(&far, "\r\n\r\n").await;
            client.send(b"part").await.expect("sent");
            expect(&far, "part").await;
            drop(far);
            client
        };
        let gate = open();
        let (answered, _client) = zip(plane.take("PUT", "Content-Length: 1000\r\n", &gate), play).await;
        assert!(matches!(answered.outcome, Err(ExchangeError::Unanswered(_))), "{answered:?}");
        assert_eq!(answered.sent, 4);
    });
}

#[test]
fn answer_cut_short_is_broken_not_whole() {
    on_shard(|| async {
        let (mut plane, client, far) = legs();
        let play = async move {
            expect(&far, "\r\n\r\n").await;
            far.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf").await.expect("sent");
            drop(far);
            expect(&client, "half").await;
            client
        };
        let gate = open();
        let (answered, _client) = zip(plane.take("GET", "", &gate), play).await;
        assert!(matches!(answered.outcome, Err(ExchangeError::Broken(_))), "{answered:?}");
        assert!(
            matches!(answered.served.outcome, Err(ServeError::Cut(BodyError::Cancelled))),
            "{answered:?}"
        );
    });
}

#[test]
fn nothing_is_forwarded_once_the_gate_is_shut() {
    on_shard(|| async {
        let (mut plane, client, far) = legs();
        let gate = open();
        let play = async {
            expect(&far, "\r\n\r\n").await;
            far.send(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nab").await.expect("sent");
            expect(&client, "ab").await;
            gate.0.set(false);
            far.send(b"cd").await.expect("sent");
        };
        let (answered, ()) = zip(plane.take("GET", "", &gate), play).await;
        assert!(matches!(answered.served.outcome, Err(ServeError::Revoked)), "{answered:?}");
        drop(plane);
        assert_eq!(
            client.receive().await.expect("no reset here"),
            None,
            "nothing came after the gate was shut"
        );
    });
}

#[test]
fn a_cut_that_meets_the_last_of_an_answer_is_none_of_the_client() {
    on_shard(|| async {
        let (mut plane, client, far) = legs();
        let (gate, near) = (open(), Rc::clone(&plane.near));
        client.accept_at_most(10);
        let play = async {
            expect(&far, "\r\n\r\n").await;
            far.send(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nabcd").await.expect("sent");
            assert_eq!(expect(&client, "HTTP/1.1 2").await, "HTTP/1.1 2");
            client.accept_at_most(0);
            // As a change of policy does.
            gate.0.set(false);
            near.reset();
        };
        let (answered, ()) = zip(plane.take("GET", "", &gate), play).await;
        assert!(answered.outcome.is_ok(), "all of it was handed over: {answered:?}");
        assert!(matches!(answered.served.outcome, Err(ServeError::Revoked)), "{answered:?}");
    });
}

#[test]
fn pipelined_request_is_kept_for_its_turn() {
    on_shard(|| async {
        let (mut plane, client, far) = legs();
        let play = async {
            expect(&far, "\r\n\r\n").await;
            client.send(b"GET /2 HTTP/1.1\r\nHost: a.test\r\n\r\n").await.expect("sent");
            far.send(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await.expect("sent");
            expect(&client, "Content-Length: 0").await;
        };
        let gate = open();
        let (answered, ()) = zip(plane.take("GET", "", &gate), play).await;
        assert!(answered.goes_on());
        let next = plane.inbound.read_request(&*plane.near).await.expect("sound").expect("the next request");
        assert_eq!(next.path(), "/2");
    });
}
