//! Heads that grow in memory, and heads that are none.

use tests::{
    frames::{CONTINUATION, END, HEADERS, RESET, WHOLE, field, frame, request},
    origin::respond,
};

use crate::ground::from_within;

/// A field that goes into the table of the gateway's decoder (RFC 7541 §6.2.1), with so many bytes of value.
fn remembered(bytes: usize) -> Vec<u8> {
    let mut literal = field("x-bomb", &"a".repeat(bytes));
    literal[0] = 0x40;
    literal
}

#[test]
fn a_small_head_that_means_a_large_one_is_refused() {
    // Two thousand times the one entry that the table holds, each by one byte: 8 MB.
    from_within(
        |_, out| respond(out, b"never"),
        (1, "h2_flood"),
        |peer| {
            let mut head = request("GET", &peer.authority, &[]);
            head.extend(remembered(3_900));
            head.extend([0xbe; 2_000]);
            assert!(peer.send(&frame(HEADERS, WHOLE | END, 1, &head)));
            // ENHANCE_YOUR_CALM: this is no mistake.
            assert_eq!(peer.farewell(), Some(11));
        },
    );
}

#[test]
fn a_large_head_is_refused() {
    from_within(
        |_, out| respond(out, b"never"),
        (1, "head_too_long"),
        |peer| {
            let mut parts = request("GET", &peer.authority, &[]);
            for index in 0..12 {
                parts.extend(field(&format!("x-{index}"), &"a".repeat(8_000)));
            }
            let mut pieces = parts.chunks(16_000).peekable();
            let mut bytes = frame(HEADERS, END, 1, pieces.next().expect("a first"));
            while let Some(piece) = pieces.next() {
                let flags = if pieces.peek().is_none() { WHOLE } else { 0 };
                bytes.extend(frame(CONTINUATION, flags, 1, piece));
            }
            assert!(peer.send(&bytes));
            assert!(peer.until(HEADERS).is_some());
        },
    );
}

#[test]
fn heads_of_many_fields_are_refused() {
    from_within(
        |_, out| respond(out, b"never"),
        (1, "head_too_long"),
        |peer| {
            let mut head = request("GET", &peer.authority, &[]);
            (0..1_200).for_each(|index| head.extend(field(&format!("x{index}"), "b")));
            assert!(peer.send(&frame(HEADERS, WHOLE | END, 1, &head)));
            assert!(peer.until(HEADERS).is_some());
        },
    );
}

#[test]
fn malformed_heads_are_refused_one_by_one_and_the_connection_goes_on() {
    for (more, code) in [
        (&[("connection", "close")][..], "h2_malformed"),
        (&[(":method", "GET")], "h2_malformed"),
        (&[(":path", "/twice")], "h2_malformed"),
        (&[("te", "gzip")], "h2_malformed"),
        (&[("transfer-encoding", "chunked")], "h2_malformed"),
        (&[("content-length", "x")], "h2_malformed"),
        (&[("content-length", "5")], "h2_malformed"),
    ] {
        from_within(
            |_, out| respond(out, b"never"),
            (1, code),
            |peer| {
                let head = request("GET", &peer.authority, more);
                assert!(peer.send(&frame(HEADERS, WHOLE | END, 1, &head)));
                let broken = peer.until(RESET).unwrap_or_else(|| panic!("{more:?} is taken"));
                assert_eq!((broken.stream, broken.number(0)), (1, 1), "{more:?}");
            },
        );
    }
}

#[test]
fn names_that_are_none_end_the_connection() {
    for name in ["Upper", ":unknown", "sp ace"] {
        from_within(
            |_, out| respond(out, b"never"),
            (1, "h2_broken"),
            |peer| {
                let head = request("GET", &peer.authority, &[(name, "x")]);
                assert!(peer.send(&frame(HEADERS, WHOLE | END, 1, &head)));
                assert_eq!(peer.farewell(), Some(1), "{name}");
            },
        );
    }
}
