//! Frames that make work and carry nothing.

use tests::{
    frames::{
        CONTINUATION, DATA, END, HEADERS, PADDED, PING, Peer, RESET, SETTINGS, WHOLE, WINDOW_UPDATE, frame,
        request, setting,
    },
    gateway::Gateway,
    origin::{Origin, respond},
};

use crate::ground::{from_within, uncounted};

/// Bytes of a flood; no peer needs so many frames.
const FLOOD: usize = 200_000;
/// ENHANCE_YOUR_CALM (RFC 9113 §7).
const CALM: Option<u32> = Some(11);

/// Sends the same bytes until the gateway takes no more of them, after one request. The connection must end.
fn flood(bytes: &'static [u8]) {
    from_within(
        |_, out| respond(out, b"ok"),
        (2, "h2_flood"),
        |peer| {
            let get = peer.get(1);
            assert!(peer.send(&get));
            peer.until(DATA).expect("an answer");
            peer.send(&bytes.repeat(FLOOD / bytes.len()));
            assert_eq!(peer.farewell(), CALM);
        },
    );
}

#[test]
fn pings() {
    flood(b"\0\0\x08\x06\0\0\0\0\0eightlet");
}

#[test]
fn settings() {
    flood(b"\0\0\0\x04\0\0\0\0\0");
}

#[test]
fn settings_that_change_something() {
    let bytes: &'static [u8] = setting(4, 70_000).leak();
    flood(bytes);
}

#[test]
fn priorities() {
    flood(b"\0\0\x05\x02\0\0\0\0\x03\0\0\0\0\x10");
}

#[test]
fn window_updates() {
    flood(b"\0\0\x04\x08\0\0\0\0\0\0\0\0\x01");
}

#[test]
fn frames_of_unknown_kinds() {
    flood(b"\0\0\0\x63\0\0\0\0\0");
}

#[test]
fn resets_of_a_stream_that_has_ended() {
    flood(b"\0\0\x04\x03\0\0\0\0\x01\0\0\0\x08");
}

/// Frames of a body that is under way, and that carry nothing of it.
fn flood_of_a_body(bytes: &[u8]) {
    from_within(
        |_, out| respond(out, b"ok"),
        (2, "h2_flood"),
        |peer| {
            // Once the PING is answered the request is under way, and has a record of its own.
            let begun = [peer.post(1), frame(PING, 0, 0, b"eightlet")].concat();
            peer.send(&begun);
            peer.until(PING).expect("an answer");
            peer.send(&bytes.repeat(FLOOD / bytes.len()));
            assert_eq!(peer.farewell(), CALM);
        },
    );
}

#[test]
fn empty_data() {
    flood_of_a_body(&frame(DATA, 0, 1, b""));
}

#[test]
fn data_that_is_all_padding() {
    flood_of_a_body(&frame(DATA, PADDED, 1, b"\x01\0"));
}

/// Sends 20,000 requests to a host that is refused, each with what breaks it off. How many are begun before that is
/// noticed depends on the turns of the shard; all that are leave their record, and one is that of the flood.
fn broken_off(breaking: impl Fn(u32) -> Vec<u8>) {
    let _beside = uncounted();
    let origin = Origin::plain(|_, _| Ok(()));
    let gateway = Gateway::start(1, &origin);
    let mut peer = Peer::client(&gateway, "denied.test", origin.address.port(), &[]);
    let head = request("GET", &peer.authority, &[]);
    let all = (0..20_000)
        .map(|index| index * 2 + 1)
        .flat_map(|stream| [frame(HEADERS, WHOLE, stream, &head), breaking(stream)].concat());
    // The gateway may have closed the connection before all is written.
    let _cut = peer.send(&all.collect::<Vec<u8>>());
    let _code = peer.farewell();
    drop(peer);
    let records = gateway.stop();
    assert!(records.iter().any(|record| record["code"] == "h2_flood"), "{} records", records.len());
    assert!(records.len() < 5_000, "{} requests were begun", records.len());
    assert!(origin.seen().is_empty());
}

#[test]
fn requests_that_are_broken_off_at_once() {
    // CVE-2023-44487.
    broken_off(|stream| frame(RESET, 0, stream, &[0, 0, 0, 8]));
}

#[test]
fn requests_that_the_client_makes_the_gateway_break_off() {
    // CVE-2025-8671: a window that overflows breaks the stream (RFC 9113 §6.9.1), again and again.
    broken_off(|stream| frame(WINDOW_UPDATE, 0, stream, &0x7fff_ffff_u32.to_be_bytes()));
}

#[test]
fn heads_without_an_end() {
    // CVE-2024-27316: CONTINUATION without END_HEADERS, with and without something in it.
    for piece in [&b""[..], b"\0\x01a\x01b"] {
        from_within(
            |_, out| respond(out, b"never"),
            (1, "h2_flood"),
            |peer| {
                let head = request("GET", &peer.authority, &[]);
                peer.send(&frame(HEADERS, END, 1, &head));
                peer.send(&frame(CONTINUATION, 0, 1, piece).repeat(FLOOD / (9 + piece.len())));
                assert_eq!(peer.farewell(), CALM);
            },
        );
    }
}

#[test]
fn acknowledgements_of_nothing() {
    from_within(
        |_, out| respond(out, b"ok"),
        (2, "h2_broken"),
        |peer| {
            let get = peer.get(1);
            peer.send(&get);
            peer.until(DATA).expect("an answer");
            peer.send(&frame(SETTINGS, END, 0, b"").repeat(FLOOD / 9));
            // Whatever h2 makes of them, the connection is of no more use.
            peer.send(&frame(PING, 0, 0, b"short"));
            assert!(peer.farewell().is_some());
        },
    );
}
