//! Windows that overflow, that are not kept to, and that never open.

use std::{
    net::TcpListener,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use tests::{
    frames::{DATA, HEADERS, PING, Peer, WINDOW_UPDATE, frame, setting},
    origin::{Origin, respond},
};

use crate::ground::{from_within, gateway, uncounted};

const MOST: [u8; 4] = 0x7fff_ffff_u32.to_be_bytes();
/// FLOW_CONTROL_ERROR (RFC 9113 §7).
const FLOW: Option<u32> = Some(3);

#[test]
fn a_connection_whose_window_overflows_ends() {
    from_within(
        |_, out| respond(out, b"ok"),
        (2, "h2_broken"),
        |peer| {
            let get = peer.get(1);
            peer.send(&get);
            peer.until(DATA).expect("an answer");
            peer.send(&frame(WINDOW_UPDATE, 0, 0, &MOST).repeat(2));
            assert_eq!(peer.farewell(), FLOW);
        },
    );
}

#[test]
fn more_than_the_window_of_a_stream_breaks_it_off() {
    let _beside = uncounted();
    let origin = Origin::plain(|_, _| Ok(()));
    let gateway = gateway(&origin);
    // Nobody takes from this one, so nothing is given back.
    let full = TcpListener::bind("127.0.0.1:0").expect("loopback can be bound");
    let port = full.local_addr().expect("an address").port();
    let mut peer = Peer::client(&gateway, "second.test", port, &[]);
    let post = peer.post(1);
    assert!(peer.send(&post));
    let piece = frame(DATA, 0, 1, &[7; 16_384]);
    for _ in 0..(64 << 20) / piece.len() {
        if !peer.send(&piece) {
            break;
        }
    }
    // FLOW_CONTROL_ERROR (RFC 9113 §7): on the stream, and on the connection where more comes than that allows.
    assert!(matches!(peer.farewell(), Some(3) | None));
    assert!(gateway.stop().iter().all(|record| record["verdict"] != "allowed"));
}

#[test]
fn a_client_that_never_opens_its_window_holds_no_more_than_its_bound() {
    const LARGE: usize = 32 << 20;
    let _beside = uncounted();
    let sent = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&sent);
    let origin = Origin::plain(move |_, out| {
        out.write_all(format!("HTTP/1.1 200 OK\r\nContent-Length: {LARGE}\r\n\r\n").as_bytes())?;
        for _ in 0..LARGE / 65_536 {
            out.write_all(&[1; 65_536])?;
            counted.fetch_add(65_536, Ordering::SeqCst);
        }
        Ok(())
    });
    let gateway = gateway(&origin);
    let port = origin.address.port();
    let mut peer = Peer::client(&gateway, "second.test", port, &setting(4, 0));
    for index in 0..10 {
        let get = peer.get(index * 2 + 1);
        assert!(peer.send(&get));
        assert_eq!(peer.until(HEADERS).map(|head| head.stream), Some(index * 2 + 1));
    }
    // Whoever answers has had its turn after what the origins sent: twice, so that the pieces after the first had one.
    for _ in 0..2 {
        assert!(peer.send(&frame(PING, 0, 0, b"anything")));
        assert!(peer.until(PING).is_some());
    }
    // What the kernel holds between origin and gateway, on both sides, and one piece in the gateway, for each of ten.
    let most = sent.load(Ordering::SeqCst);
    assert!(most < 10 * LARGE / 2, "{most} bytes left the origin");
    drop(peer);
    for record in gateway.records(10) {
        assert_eq!((&record["code"], &record["bytesDown"]), (&"client_gone".into(), &0.into()), "{record}");
    }
}
