//! Exchanges over scripted connections: both legs are memory, the test plays client and upstream.

use std::{cell::Cell, rc::Rc};

use super::*;
use crate::{
    flow::relay::{Gate, Inbound},
    ring::testing::on_shard,
    tls::{Script, Socket},
};

/// A gate that the test opens and shuts.
struct Door(Cell<bool>);

impl Gate for Door {
    fn is_open(&self) -> bool {
        self.0.get()
    }
}

fn open() -> Door {
    Door(Cell::new(true))
}

/// The plane's ends and the test's ends of both legs.
fn legs() -> (Inbound, Inbound, Script, Script) {
    let ((client, near), (upstream, far)) = (Script::pair(), Script::pair());
    let inbound = |script| Inbound::new(Rc::new(Wire::Scripted(script)));
    (inbound(near), inbound(upstream), client, far)
}

fn get() -> Sending<'static> {
    sending("GET", Framing::None)
}

fn sending(method: &'static str, framing: Framing) -> Sending<'static> {
    let head = format!("{method} / HTTP/1.1\r\nHost: a.test\r\n\r\n").into_bytes();
    Sending { head, method, framing, version: Version::Http11, keep_alive: true }
}

/// Receives until `text` was seen.
async fn expect(end: &Script, text: &str) -> String {
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
        let (mut near, mut up, client, far) = legs();
        let play = async {
            assert_eq!(expect(&far, "\r\n\r\n").await, "GET / HTTP/1.1\r\nHost: a.test\r\n\r\n");
            far.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi").await.expect("sent");
            let seen = expect(&client, "hi").await;
            assert!(seen.starts_with("HTTP/1.1 200 OK\r\n") && seen.contains("Content-Length: 2"), "{seen}");
        };
        let gate = open();
        let (answered, ()) = future::zip(exchange(&mut near, &mut up, get(), &gate), play).await;
        let answered = answered.expect("answered");
        assert_eq!((answered.status, answered.response_bytes), (200, 2));
        assert!(answered.client_goes_on && answered.upstream_goes_on);
    });
}

#[test]
fn first_byte_of_a_stream_passes_before_the_rest_exists() {
    on_shard(|| async {
        let (mut near, mut up, client, far) = legs();
        let play = async {
            expect(&far, "\r\n\r\n").await;
            far.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n").await.expect("sent");
            expect(&client, "1\r\na\r\n").await;
            far.send(b"1\r\nb\r\n0\r\n\r\n").await.expect("sent");
            expect(&client, "1\r\nb\r\n0\r\n\r\n").await;
        };
        let gate = open();
        let (answered, ()) = future::zip(exchange(&mut near, &mut up, get(), &gate), play).await;
        assert_eq!(answered.expect("answered").response_bytes, 2);
    });
}

#[test]
fn interim_answers_pass_before_the_answer() {
    on_shard(|| async {
        let (mut near, mut up, client, far) = legs();
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
        let put = sending("PUT", Framing::Length(4));
        let (answered, ()) = future::zip(exchange(&mut near, &mut up, put, &gate), play).await;
        assert_eq!(answered.expect("answered").request_bytes, 4);
    });
}

#[test]
fn early_answer_arrives_and_the_connection_is_not_used_again() {
    on_shard(|| async {
        let (mut near, mut up, client, far) = legs();
        let play = async {
            expect(&far, "\r\n\r\n").await;
            far.send(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n").await.expect("sent");
            expect(&client, "413").await;
        };
        let gate = open();
        let post = sending("POST", Framing::Length(1_000_000));
        let (answered, ()) = future::zip(exchange(&mut near, &mut up, post, &gate), play).await;
        let answered = answered.expect("answered");
        assert!(!answered.client_goes_on && !answered.upstream_goes_on);
    });
}

#[test]
fn client_that_leaves_ends_the_wait_for_the_answer() {
    on_shard(|| async {
        let (mut near, mut up, client, far) = legs();
        let play = async move {
            expect(&far, "\r\n\r\n").await;
            drop(client);
            far
        };
        let gate = open();
        let (answered, _far) = future::zip(exchange(&mut near, &mut up, get(), &gate), play).await;
        assert!(matches!(answered, Err(ExchangeError::ClientGone)), "{answered:?}");
    });
}

#[test]
fn upstream_that_closes_without_an_answer_can_be_told() {
    on_shard(|| async {
        let (mut near, mut up, _client, far) = legs();
        let play = async move {
            expect(&far, "\r\n\r\n").await;
            drop(far);
        };
        let gate = open();
        let (answered, ()) = future::zip(exchange(&mut near, &mut up, get(), &gate), play).await;
        let error = answered.expect_err("no answer");
        assert!(matches!(error, ExchangeError::Unanswered(_)) && error.can_be_told(), "{error:?}");
    });
}

#[test]
fn answer_cut_short_is_broken_not_whole() {
    on_shard(|| async {
        let (mut near, mut up, client, far) = legs();
        let play = async move {
            expect(&far, "\r\n\r\n").await;
            far.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf").await.expect("sent");
            drop(far);
            expect(&client, "half").await;
            client
        };
        let gate = open();
        let (answered, _client) = future::zip(exchange(&mut near, &mut up, get(), &gate), play).await;
        let error = answered.expect_err("cut");
        assert!(matches!(error, ExchangeError::Broken(_)) && !error.can_be_told(), "{error:?}");
    });
}

#[test]
fn nothing_is_forwarded_once_the_gate_is_shut() {
    on_shard(|| async {
        let (mut near, mut up, client, far) = legs();
        let gate = open();
        let play = async {
            expect(&far, "\r\n\r\n").await;
            far.send(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nab").await.expect("sent");
            expect(&client, "ab").await;
            gate.0.set(false);
            far.send(b"cd").await.expect("sent");
        };
        let (answered, ()) = future::zip(exchange(&mut near, &mut up, get(), &gate), play).await;
        assert!(matches!(answered, Err(ExchangeError::Revoked)), "{answered:?}");
        drop((near, up));
        assert_eq!(
            client.receive().await.expect("no reset here"),
            None,
            "nothing came after the gate was shut"
        );
    });
}

#[test]
fn pipelined_request_is_kept_for_its_turn() {
    on_shard(|| async {
        let (mut near, mut up, client, far) = legs();
        let play = async {
            expect(&far, "\r\n\r\n").await;
            client.send(b"GET /2 HTTP/1.1\r\nHost: a.test\r\n\r\n").await.expect("sent");
            far.send(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await.expect("sent");
            expect(&client, "Content-Length: 0").await;
        };
        let gate = open();
        let (answered, ()) = future::zip(exchange(&mut near, &mut up, get(), &gate), play).await;
        assert!(answered.expect("answered").client_goes_on);
        let next = near.next().await.expect("the leg holds").expect("the next request");
        assert!(next.starts_with(b"GET /2 "));
    });
}
