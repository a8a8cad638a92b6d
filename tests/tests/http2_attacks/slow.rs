//! Peers that take their time.

use std::sync::RwLockReadGuard;

use tests::{
    frames::{CONTINUATION, DATA, END, HEADERS, Peer, RESET, frame, request},
    gateway::Gateway,
    origin::{Origin, respond},
};

use crate::ground::{gateway, uncounted};

/// A gateway in front of an origin that says hello.
fn hello() -> (RwLockReadGuard<'static, ()>, Origin, Gateway, u16) {
    let beside = uncounted();
    let origin = Origin::plain(|_, out| respond(out, b"hello"));
    let gateway = gateway(&origin);
    let port = origin.address.port();
    (beside, origin, gateway, port)
}

#[test]
fn a_head_that_does_not_end_has_its_time_and_other_requests_have_theirs() {
    let (_beside, origin, gateway, port) = hello();
    let mut slow = Peer::client(&gateway, "second.test", port, &[]);
    let get = slow.get(1);
    assert!(slow.send(&get));
    assert!(slow.until(DATA).is_some());
    let head = request("GET", &slow.authority, &[]);
    // A frame that is not whole counts as well as one that is not the last.
    assert!(slow.send(&frame(HEADERS, END, 3, &head[..10])));
    assert!(slow.send(&frame(CONTINUATION, 0, 3, &head[10..])[..12]));
    slow.wire.set_read_timeout(Some(std::time::Duration::from_secs(60))).expect("an option");
    assert_eq!(slow.farewell(), Some(11));
    assert_eq!(origin.seen().len(), 1);
    let records = gateway.records(2);
    assert_eq!(records[1]["code"], "too_slow");
}

#[test]
fn bodies_that_drip_hold_up_nobody_else() {
    let (_beside, origin, gateway, port) = hello();
    let mut slow = Peer::client(&gateway, "second.test", port, &[]);
    for index in 0..100 {
        let post = slow.post(index * 2 + 1);
        assert!(slow.send(&post));
        assert!(slow.send(&frame(DATA, 0, index * 2 + 1, b"x")));
    }
    let mut quick = Peer::client(&gateway, "second.test", port, &[]);
    for index in 0..20 {
        let get = quick.get(index * 2 + 1);
        assert!(quick.send(&get));
        let mut body = Vec::new();
        while body != b"hello" {
            body.extend(quick.until(DATA).expect("the rest").payload);
        }
        // Another byte of each.
        for slow_index in 0..100 {
            assert!(slow.send(&frame(DATA, 0, slow_index * 2 + 1, b"x")));
        }
    }
    for index in 0..100 {
        assert!(slow.send(&frame(RESET, 0, index * 2 + 1, &[0, 0, 0, 8])));
    }
    drop(slow);
    assert_eq!(origin.seen().len(), 20, "no body of the others is whole");
    let records = gateway.records(120);
    assert_eq!(records.iter().filter(|record| record["code"] == "client_gone").count(), 100);
}

#[test]
fn a_connection_without_a_request_leaves_one_record() {
    let (_beside, origin, gateway, port) = hello();
    let mut silent = Peer::client(&gateway, "second.test", port, &[]);
    assert!(silent.read().is_some());
    drop(silent);
    assert_eq!(gateway.records(1)[0]["code"], "client_gone");
    assert!(origin.seen().is_empty());
}

#[test]
fn more_requests_at_a_time_than_the_settings_say_are_refused_by_name() {
    let (_beside, _origin, gateway, port) = hello();
    let mut peer = Peer::client(&gateway, "second.test", port, &[]);
    for index in 0..130 {
        let post = peer.post(index * 2 + 1);
        assert!(peer.send(&post));
    }
    for stream in [257, 259] {
        let refused = peer.until(RESET).expect("a refusal");
        // REFUSED_STREAM (RFC 9113 §7).
        assert_eq!((refused.stream, refused.number(0)), (stream, 7));
    }
    drop(peer);
    let records = gateway.records(130);
    assert_eq!(records.iter().filter(|record| record["code"] == "h2_streams").count(), 2);
}
