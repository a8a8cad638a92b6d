//! Golden bytes, round trip and truncation of the request view.

use alloc::vec;

use super::*;

const FIELDS: [Field<'static>; 3] = [
    Field { name: b"Host", value: b"example.com" },
    Field { name: b"X-Odd", value: b"\xe9" },
    Field { name: b"AUTHORIZATION", value: b"Basic x" },
];
const LABELS: [Label<'static>; 1] = [Label { name: "team", value: "blue" }];

fn sample() -> RequestView<'static> {
    RequestView {
        flags: flags::TLS,
        port: 443,
        http_version: 11,
        status: 0,
        body_bytes: None,
        now_ms: 0x0102_0304,
        random: [7; 16],
        method: "GET",
        host: "example.com",
        path: "/a",
        query: Some(""),
        container_id: "c1",
        class_name: "agent",
        request_id: "r",
        traceparent: "",
        handler: "injectToken",
        revision: 42,
        suspensions_left: 16,
        labels: &LABELS,
        fields: &FIELDS,
    }
}

fn encoded(view: &RequestView<'_>) -> Vec<u8> {
    let mut out = Vec::new();
    view.encode(&mut out).expect("it fits");
    out
}

#[test]
fn version_one_has_golden_bytes() {
    let view = RequestView { labels: &[], fields: &FIELDS[..1], query: None, ..sample() };
    let bytes = encoded(&view);
    let mut golden = vec![0_u8; HEAD_BYTES];
    golden[..16].copy_from_slice(&[0x13, 1, 0, 0, 1, 0, 1, 0, 1, 0, 0xbb, 1, 1, 11, 0, 0]);
    golden[16..24].fill(0xff);
    golden[24..28].copy_from_slice(&[4, 3, 2, 1]);
    golden[32..48].fill(7);
    let spans =
        [(48, 224, 3), (56, 227, 11), (64, 238, 2), (80, 240, 2), (88, 242, 5), (96, 247, 1), (104, 248, 0)];
    for (at, from, len) in spans.into_iter().chain([(112, 224, 0), (192, 248, 11)]) {
        golden[at..at + 4].copy_from_slice(&u32::to_le_bytes(from));
        golden[at + 4..at + 8].copy_from_slice(&u32::to_le_bytes(len));
    }
    golden[120] = 16;
    golden[124] = 208;
    golden[128] = 1;
    golden[200] = 42;
    golden.extend_from_slice(&[3, 1, 0, 0, 4, 0, 0, 0, 7, 1, 0, 0, 11, 0, 0, 0]);
    golden.extend_from_slice(b"GETexample.com/ac1agentrinjectTokenhostexample.com");
    let total = golden.len() as u32;
    golden[0..4].copy_from_slice(&total.to_le_bytes());
    assert_eq!(bytes, golden);
}

#[test]
fn a_view_survives_a_round_trip() {
    let bytes = encoded(&sample());
    let view = View::parse(&bytes).expect("a view");
    assert_eq!(
        (view.method(), view.host(), view.path(), view.query()),
        ("GET", "example.com", "/a", Some(""))
    );
    assert_eq!((view.container_id(), view.class_name(), view.handler()), ("c1", "agent", "injectToken"));
    assert_eq!((view.port(), view.revision(), view.now_ms(), view.random()), (443, 42, 0x0102_0304, [7; 16]));
    assert_eq!((view.flags(), view.body_bytes(), view.suspensions_left()), (flags::TLS, None, 16));
    assert_eq!((view.method_id(), view.http_version(), view.status()), (MethodId(1), 11, 0));
    assert_eq!((view.request_id(), view.traceparent()), ("r", ""));
    let names: Vec<&[u8]> = view.fields().map(|field| field.name).collect();
    assert_eq!(names, [&b"host"[..], b"x-odd", b"authorization"]);
    assert_eq!(view.field("X-ODD"), Some(&b"\xe9"[..]));
    assert_eq!(view.known(Known::Authorization), Some(&b"Basic x"[..]));
    assert_eq!((view.known(Known::Cookie), view.field("none")), (None, None));
    assert_eq!(view.labels().collect::<Vec<_>>(), LABELS);
}

#[test]
fn absent_and_empty_queries_differ() {
    let bytes = encoded(&RequestView { query: None, ..sample() });
    assert_eq!(View::parse(&bytes).expect("a view").query(), None);
}

#[test]
fn the_first_of_equal_fields_is_the_known_one() {
    let twice = [Field { name: b"Cookie", value: b"1" }, Field { name: b"cookie", value: b"2" }];
    let bytes = encoded(&RequestView { fields: &twice, ..sample() });
    assert_eq!(View::parse(&bytes).expect("a view").field("cookie"), Some(&b"1"[..]));
}

#[test]
fn a_truncated_view_is_refused_at_every_length() {
    let bytes = encoded(&sample());
    for len in 0..bytes.len() {
        assert!(View::parse(&bytes[..len]).is_err(), "cut at {len}");
        if len >= 4 {
            // The same cut with a total that claims nothing was cut.
            let mut honest = bytes[..len].to_vec();
            honest[..4].copy_from_slice(&(len as u32).to_le_bytes());
            assert!(View::parse(&honest).is_err(), "honest cut at {len}");
        }
    }
}

#[test]
fn flipped_bytes_never_panic() {
    let bytes = encoded(&sample());
    for at in 0..bytes.len() {
        for value in [0, 1, 0x7f, 0xff] {
            let mut flipped = bytes.clone();
            flipped[at] = value;
            if let Ok(view) = View::parse(&flipped) {
                let seen = view.fields().map(|field| field.value.len()).sum::<usize>();
                assert!(seen <= 128 * flipped.len() && view.labels().len() <= VIEW_LABELS_MAX);
                Known::ALL.iter().for_each(|known| {
                    assert!(view.known(*known).is_none_or(|value| value.len() <= flipped.len()))
                });
            }
        }
    }
}

#[test]
fn a_longer_head_of_a_later_host_is_read() {
    let mut bytes = encoded(&RequestView { fields: &[], labels: &[], ..sample() });
    bytes[124] = 216;
    assert!(View::parse(&bytes).is_ok());
    bytes[124] = 200;
    assert_eq!(View::parse(&bytes).unwrap_err(), ViewError::Truncated(124));
}

#[test]
fn bounds_hold() {
    let many = [FIELDS[0]; VIEW_FIELDS_MAX + 1];
    let view = RequestView { fields: &many, ..sample() };
    assert_eq!(view.encoded_len(), Err(ViewError::TooManyFields(129)));
    let long = "x".repeat(VIEW_BYTES_MAX);
    let view = RequestView { path: &long, ..sample() };
    assert!(matches!(view.encoded_len(), Err(ViewError::TooLong(_))));
    let labels = [LABELS[0]; VIEW_LABELS_MAX + 1];
    assert_eq!(RequestView { labels: &labels, ..sample() }.encoded_len(), Err(ViewError::TooManyLabels(65)));
    let fits = sample();
    let need = fits.encoded_len().expect("it fits");
    assert_eq!(fits.encode_into(&mut vec![0; need - 1]), Err(ViewError::NoSpace(need)));
    assert_eq!(fits.encode_into(&mut vec![0xff; need + 9]), Ok(need));
}

#[test]
fn methods_have_frozen_numbers() {
    assert_eq!([MethodId::of("GET"), MethodId::of("TRACE"), MethodId::of("get")], [1, 9, 0].map(MethodId));
}
