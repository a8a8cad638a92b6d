//! What a stream's leg holds, and what it breaks, over connections that exist in memory only.

use std::{
    cell::Cell,
    future::{Future, pending, poll_fn},
    pin::{Pin, pin},
    rc::Rc,
    time::Duration,
};

use ::h2::{RecvStream, client, server};
use ::http::{Request, Response};
use futures_lite::future::{or, poll_once, yield_now};

use super::{SendError, StreamLeg};
use crate::{
    http::{
        exchange::{Gate, Leg},
        h2::{Allowance, Payload, Pipe, Pump, Role, Windows},
    },
    ring::testing::on_shard,
    tls::{Script, Socket, Wire},
};

/// A gate that is open.
struct Open;

impl Gate for Open {
    fn is_open(&self) -> bool {
        true
    }
}

/// A frame (RFC 9113 §4.1).
fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
    [&[0, 0, payload.len() as u8, kind, flags, 0, 0, 0, stream], payload].concat()
}

/// `GET http://a/`, all by the static table but its authority (RFC 7541, appendix A).
const HEAD: &[u8] = b"\x82\x86\x84\x41\x01a";

/// A client that says hello, how much of each stream it takes, and one request.
fn hello(window: u8) -> Vec<u8> {
    let settings = frame(4, 0, 0, &[0, 4, 0, 0, 0, window]);
    [&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..], &settings, &frame(1, 5, 1, HEAD)].concat()
}

/// A connection from a client that has sent one request.
struct Driven {
    connection: server::Connection<Pipe, Payload>,
    pump: Pump,
    _body: RecvStream,
}

/// The connection, the leg of its request, and the client's end.
async fn served(window: u8) -> (Driven, StreamLeg, Script) {
    let (near, far) = Script::pair();
    far.send(&hello(window)).await.expect("there is room");
    let (pipe, pump) = Pipe::new(Rc::new(Wire::Scripted(near)), Role::Server);
    let mut connection: server::Connection<Pipe, Payload> =
        server::Builder::new().handshake(pipe).await.expect("a preface");
    let (request, answer) = connection.accept().await.expect("a request").expect("no error");
    let leg = StreamLeg::answering(answer, pump.clone(), Windows::of(&Allowance::new(0)));
    (Driven { connection, pump, _body: request.into_body() }, leg, far)
}

impl Driven {
    /// Drives the connection for as long as the future takes.
    async fn during<T>(&mut self, future: impl Future<Output = T>) -> T {
        let Self { connection, pump, .. } = self;
        let driven = async {
            let connected = async { drop(poll_fn(|cx| connection.poll_closed(cx)).await) };
            or(connected, async { drop(pump.run().await) }).await;
            pending().await
        };
        or(future, driven).await
    }

    /// Drives it for some turns.
    async fn settle(&mut self) {
        self.during(turns()).await;
    }
}

async fn turns() {
    for _ in 0..10 {
        yield_now().await;
    }
}

/// Waits until nobody else holds the gate.
async fn let_go(gate: &Rc<dyn Gate>) {
    while Rc::strong_count(gate) > 1 {
        yield_now().await;
    }
}

#[test]
fn a_client_that_never_opens_its_window_is_given_up() {
    on_shard(|| async {
        let (mut driven, mut leg, _far) = served(0).await;
        leg.patience = Duration::from_millis(20);
        let sent = Cell::new(0);
        let sending = async {
            leg.answer(Response::new(()), false, None).expect("a stream");
            leg.send_all(vec![7; 10].into(), None, &sent).await
        };
        let outcome = driven.during(sending).await;
        assert!(matches!(outcome, Err(SendError::Stalled)), "{outcome:?}");
        assert_eq!(sent.get(), 0);
    });
}

#[test]
fn an_end_without_payload_holds_its_gate_until_it_is_sent() {
    on_shard(|| async {
        let (mut driven, leg, far) = served(100).await;
        // Only the answer is left to be sent.
        driven.settle().await;
        far.accept_at_most(0);
        let gate: Rc<dyn Gate> = Rc::new(Open);
        leg.answer(Response::new(()), true, Some(Rc::clone(&gate))).expect("a stream");
        driven.settle().await;
        assert!(Rc::strong_count(&gate) > 1, "the end lies in the gateway");
        far.accept_at_most(1 << 20);
        driven.during(let_go(&gate)).await;
    });
}

#[test]
fn a_stream_that_is_broken_lets_its_gate_go() {
    on_shard(|| async {
        let (mut driven, leg, _far) = served(100).await;
        driven.settle().await;
        let gate: Rc<dyn Gate> = Rc::new(Open);
        leg.answer(Response::new(()), true, Some(Rc::clone(&gate))).expect("a stream");
        leg.reset();
        driven.during(let_go(&gate)).await;
    });
}

#[test]
fn a_head_that_the_upstream_holds_back_never_leaves_after_a_cut() {
    on_shard(|| async {
        let (near, far) = Script::pair();
        // No stream at all may be opened (RFC 9113 §6.5.2).
        far.send(&frame(4, 0, 0, &[0, 3, 0, 0, 0, 0])).await.expect("there is room");
        let (pipe, pump) = Pipe::new(Rc::new(Wire::Scripted(near)), Role::Client);
        let shaken = client::Builder::new().handshake::<Pipe, Payload>(pipe).await;
        let (mut requests, mut connection) = shaken.expect("settings");
        let mut driven = pin!(async {
            let connected = async { drop(Pin::new(&mut connection).await) };
            or(connected, async { drop(pump.run().await) }).await;
        });
        for _ in 0..10 {
            assert!(poll_once(driven.as_mut()).await.is_none());
            yield_now().await;
        }
        let request = Request::get("http://a/").body(()).expect("a request");
        let (_answer, sender) = requests.send_request(request, true).expect("a place in the queue");
        let leg = StreamLeg::asking(sender, pump.clone(), Windows::of(&Allowance::new(0)));
        for _ in 0..10 {
            assert!(poll_once(driven.as_mut()).await.is_none());
        }
        assert!(!far.was_reset());
        leg.reset();
        assert!(far.was_reset(), "h2 keeps the head: only without its connection it cannot leave");
    });
}
