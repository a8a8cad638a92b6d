//! Upstreams that lie, stall, break off and flood: what they do harms the request that asked them, and no other.

use tests::{
    frames::{
        DATA, END, Frame, GOAWAY, HEADERS, PING, PUSH, Peer, RESET, SETTINGS, Secured, WHOLE, WINDOW_UPDATE,
        field, frame, origin,
    },
    gateway::Gateway,
    origin::Origin,
};

use crate::ground::{from_without, uncounted};

/// The head of an answer: status 200 and these fields.
fn head(flags: u8, stream: u32, fields: &[(&str, &str)]) -> Vec<u8> {
    let mut block = vec![0x88];
    fields.iter().for_each(|(name, value)| block.extend(field(name, value)));
    frame(HEADERS, WHOLE | flags, stream, &block)
}

/// An origin that answers each request with these bytes, which it makes from the request's stream.
fn answering(answer: impl Fn(u32) -> Vec<u8> + Send + Sync + 'static) -> Origin {
    origin(&["origin.test"], move |_, peer: &mut Peer<Secured>| {
        loop {
            let Frame { stream, .. } = peer.until(HEADERS)?;
            peer.send(&answer(stream)).then_some(())?;
        }
    })
}

/// Asks once, over HTTP/1.1, and reads until the gateway ends or is silent about it.
fn ask(gateway: &Gateway, port: u16) -> String {
    use std::io::{Read, Write};
    tests::counting::exclude_this_thread();
    let mut stream = gateway.tls("origin.test", port);
    let request = format!("GET / HTTP/1.1\r\nHost: origin.test:{port}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).expect("the gateway reads");
    let mut answer = Vec::new();
    // Where the answer is cut, so is the connection.
    let _cut = stream.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}

/// Every such answer ends in this status, or breaks off where that is 200, and leaves this code.
fn harms(status: u16, code: &str, answer: impl Fn(u32) -> Vec<u8> + Send + Sync + 'static) {
    from_without(
        || answering(answer),
        (1, code),
        |gateway, port| {
            let answer = ask(gateway, port);
            let told = answer.contains(&format!("HTTP/1.1 {status} "));
            // A head may wait for what comes with it, and breaks off with that.
            assert!(told || (status == 200 && answer.is_empty()), "{answer}");
            let whole = answer.ends_with("0\r\n\r\n") || answer.ends_with("much");
            assert!(status != 200 || !whole, "{answer}");
        },
    );
}

#[test]
fn a_body_that_is_shorter_than_it_says_never_looks_whole() {
    harms(200, "answer_broken", |stream| {
        [head(0, stream, &[("content-length", "10")]), frame(DATA, END, stream, b"short")].concat()
    });
}

#[test]
fn a_body_that_is_longer_than_it_says_is_cut() {
    harms(200, "answer_broken", |stream| {
        [head(0, stream, &[("content-length", "3")]), frame(DATA, 0, stream, b"much longer")].concat()
    });
}

#[test]
fn lengths_that_disagree_are_refused() {
    harms(502, "upstream_closed", |stream| {
        head(0, stream, &[("content-length", "3"), ("content-length", "4")])
    });
}

#[test]
fn an_answer_that_is_broken_off_never_looks_whole() {
    harms(200, "upstream_reset", |stream| {
        let pieces =
            [head(0, stream, &[]), frame(DATA, 0, stream, b"part"), frame(RESET, 0, stream, &[0, 0, 0, 2])];
        pieces.concat()
    });
}

#[test]
fn a_request_that_is_broken_off_is_told() {
    harms(502, "upstream_reset", |stream| frame(RESET, 0, stream, &[0, 0, 0, 2]));
}

#[test]
fn heads_that_are_none_are_refused() {
    for fields in [&[("Upper", "case")][..], &[("connection", "close")], &[(":status", "200")]] {
        harms(502, "upstream_closed", move |stream| head(END, stream, fields));
    }
}

#[test]
fn a_head_that_grows_in_memory_is_refused() {
    harms(502, "upstream_closed", |stream| {
        let mut block = vec![0x88];
        let mut remembered = field("x-bomb", &"a".repeat(3_900));
        remembered[0] = 0x40;
        block.extend(remembered);
        block.extend([0xbe; 2_000]);
        frame(HEADERS, WHOLE | END, stream, &block)
    });
}

#[test]
fn interim_answers_without_an_end_are_refused() {
    harms(502, "upstream_malformed", |stream| {
        let block = field(":status", "103");
        frame(HEADERS, WHOLE, stream, &block).repeat(100)
    });
}

#[test]
fn promises_of_what_nobody_asked_for_end_the_connection() {
    harms(502, "upstream_closed", |stream| {
        frame(PUSH, WHOLE, stream, &[&[0, 0, 0, 2][..], &field(":method", "GET")].concat())
    });
}

#[test]
fn floods_end_the_connection() {
    for bytes in [
        frame(PING, 0, 0, b"anything"),
        frame(SETTINGS, 0, 0, b""),
        frame(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1]),
        frame(0x63, 0, 0, b""),
    ] {
        harms(502, "upstream_closed", move |_| bytes.repeat(20_000));
    }
}

#[test]
fn windows_that_overflow_end_the_connection() {
    harms(502, "upstream_closed", |_| frame(WINDOW_UPDATE, 0, 0, &0x7fff_ffff_u32.to_be_bytes()).repeat(2));
}

#[test]
fn a_farewell_before_the_request_sends_it_elsewhere() {
    let _beside = uncounted();
    let origin = origin(&["origin.test"], |connection, peer| {
        let Frame { stream, .. } = peer.until(HEADERS)?;
        if connection.is_multiple_of(2) {
            peer.send(&frame(GOAWAY, 0, 0, &[0; 8]));
            // Closing over what was not read would break the connection, and the farewell could be lost.
            return peer.until(GOAWAY).map(drop);
        }
        // In one piece: a request that came between answer and farewell would be sent elsewhere for the second time.
        let farewell = frame(GOAWAY, 0, 0, &[&stream.to_be_bytes()[..], &[0; 4]].concat());
        peer.send(&[head(0, stream, &[]), frame(DATA, END, stream, b"whole"), farewell].concat());
        peer.until(GOAWAY).map(drop)
    });
    let gateway = Gateway::start(1, &origin);
    for _ in 0..3 {
        let answer = ask(&gateway, origin.address.port());
        assert!(answer.contains("whole"), "{answer}");
    }
    assert_eq!(origin.connections(), 6);
    gateway.records(3);
}
