//! What the handler host keeps of a guest between the events of one exchange: nobody else sees it, and it is bounded.

use dataplane::handler::{Kept, Next};
use handlers_sdk_abi::{Chunk, limits::BODY_CHUNK_BYTES_MAX, manifest::Hook};
use tests::guests::guest_for;

use super::*;

const PAGE: usize = 64 << 10;

impl Bench {
    fn begin(&mut self, loaded: &Arc<Loaded>) -> Result<(String, Kept), HandlerError> {
        let begun = self.host.begin(loaded, b"null", &VIEW, &self.room);
        begun.map(|(actions, kept)| (said(&actions), kept))
    }

    fn chunk(&mut self, kept: &mut Kept, bytes: &[u8]) -> Result<String, HandlerError> {
        let next = Next::ResponseChunk(Chunk { last: false, bytes });
        self.host.resume(kept, &next).map(|actions| said(&actions))
    }
}

/// What a guest wrote to its log.
fn said(actions: &Actions) -> String {
    let text = |action| if let Action::Log { text, .. } = action { Some(text.to_owned()) } else { None };
    actions.iter().find_map(text).unwrap_or_default()
}

/// Counts its events in a global, in its memory and in a page that it grew, and says the counts, its size in pages, and
/// what its payload ends with.
fn counting() -> Vec<u8> {
    let more = r#"
        (global $count (mut i32) (i32.const 0))
        (data (i32.const 4096) "\07\03\00\00\05\00\00\00.....")
        (func $say (param $at i32) (param $number i32)
            (i32.store8 (i32.add (i32.const 4104) (local.get $at)) (i32.add (i32.const 48) (local.get $number))))"#;
    let event = r#"
        (call $say (i32.const 3) (memory.size))
        (if (i32.eq (memory.size) (i32.const 1)) (then (drop (memory.grow (i32.const 1)))))
        (call $say (i32.const 0) (global.get $count))
        (call $say (i32.const 1) (i32.load (i32.const 40000)))
        (call $say (i32.const 2) (i32.load (i32.const 70000)))
        (i32.store8 (i32.const 4108) (i32.load8_u (i32.sub (i32.add (local.get $at) (local.get $len)) (i32.const 1))))
        (global.set $count (i32.add (global.get $count) (i32.const 1)))
        (i32.store (i32.const 40000) (global.get $count))
        (i32.store (i32.const 70000) (global.get $count))
        i64.const 0x10000000000d"#;
    guest_for(&Hook::ALL, more, event)
}

#[test]
fn what_a_guest_remembers_stays_with_its_exchange_and_nobody_else_sees_it() {
    let mut bench = Bench::new();
    let loaded = bench.load(&counting());
    let (first, mut one) = bench.begin(&loaded).expect("begins");
    assert_eq!(&first[..4], "0001");
    assert_eq!(bench.chunk(&mut one, b"xa").expect("goes on"), "1112a");
    let (second, mut two) = bench.begin(&loaded).expect("begins");
    assert_eq!(&second[..4], "0001", "an exchange begins with what a handler is after its parameters");
    assert_eq!(bench.chunk(&mut one, b"xb").expect("goes on"), "2222b");
    assert_eq!(bench.chunk(&mut two, b"c").expect("goes on"), "1112c");
    // A chunk that the inbox does not hold has a space of its own, which is used again.
    let long = [vec![b'x'; BODY_CHUNK_BYTES_MAX - 1], b"d".to_vec()].concat();
    assert_eq!(bench.chunk(&mut one, &long).expect("goes on"), "3332d");
    assert_eq!(bench.chunk(&mut one, &long).expect("goes on"), "4442d");
    // Left behind in the middle: the next request of anybody sees nothing of it.
    drop(one);
    let actions = bench.host.call(&loaded, b"null", &VIEW).expect("a call");
    assert_eq!(&said(&actions)[..4], "0001");
    assert_eq!(bench.chunk(&mut two, b"e").expect("goes on"), "2222e");
    drop(two);
    assert_eq!((bench.host.kept_bytes(), bench.room.used()), (0, 0));
}

#[test]
fn an_exchange_goes_on_in_another_instance_when_its_own_was_evicted() {
    let mut bench = Bench::with(HostConfig { instances_max: 1, ..HostConfig::default() });
    let (loaded, other) = (bench.load(&counting()), bench.load(&guest("", "i64.const 0")));
    let (_, mut kept) = bench.begin(&loaded).expect("begins");
    for expected in ["1112x", "2222x", "3332x"] {
        bench.host.call(&other, b"null", &VIEW).expect("takes the only place");
        assert_eq!(bench.host.instances(), 1);
        assert_eq!(bench.chunk(&mut kept, b"x").expect("goes on"), expected);
    }
    // Nobody else holds the version any more: the exchange keeps it.
    drop(loaded);
    bench.host.sweep();
    assert_eq!(bench.chunk(&mut kept, b"x").expect("goes on"), "4442x");
}

#[test]
fn rooms_bound_what_is_kept_and_a_refusal_harms_nobody() {
    for (shard, sandbox, whose) in [(5 * PAGE, 64 << 20, "the shard"), (64 << 20, 5 * PAGE, "the sandbox")] {
        let config = HostConfig { kept_bytes_max: shard, ..HostConfig::default() };
        let mut bench = Bench::with_room(config, sandbox);
        let loaded = bench.load(&counting());
        // Two pages each: the first event has grown the memory.
        let mut kept = [bench.begin(&loaded).expect("room").1, bench.begin(&loaded).expect("room").1];
        let refused = bench.begin(&loaded).err().expect("no room");
        assert!(matches!(refused, HandlerError::TooMuchKept { whose: w, .. } if w == whose), "{refused:?}");
        assert_eq!(bench.host.kept_bytes(), 4 * PAGE);
        assert_eq!(bench.chunk(&mut kept[0], b"x").expect("goes on"), "1112x");
        let actions = bench.host.call(&loaded, b"null", &VIEW).expect("nothing is kept of it");
        assert_eq!(&said(&actions)[..4], "0001");
        drop(kept);
        bench.begin(&loaded).expect("room again");
    }
}

#[test]
fn memory_that_grows_in_an_exchange_needs_room_too() {
    let grow = guest_for(&Hook::ALL, "", "(drop (memory.grow (i32.const 1))) i64.const 0");
    let mut bench = Bench::with_room(HostConfig::default(), 4 * PAGE);
    let loaded = bench.load(&grow);
    let (_, mut kept) = bench.begin(&loaded).expect("two pages");
    bench.chunk(&mut kept, b"x").expect("three pages");
    bench.chunk(&mut kept, b"x").expect("four pages");
    assert!(matches!(bench.chunk(&mut kept, b"x"), Err(HandlerError::TooMuchKept { .. })));
    drop(kept);
    assert_eq!(bench.room.used(), 0);
    bench.begin(&loaded).expect("the next is not harmed");
}

#[test]
fn an_exchange_has_fuel_in_all_which_grows_with_its_bytes() {
    let turns = "(local $left i32) (local.set $left (i32.const 1500000))
        (loop $l (local.set $left (i32.sub (local.get $left) (i32.const 1))) (br_if $l (local.get $left))) i64.const 0";
    let mut bench = Bench::new();
    let loaded = bench.load(&guest_for(&Hook::ALL, "", turns));
    let (_, mut small) = bench.begin(&loaded).expect("begins");
    let mut events = 1;
    let error = loop {
        match bench.chunk(&mut small, b"x") {
            Ok(_) => events += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(error, HandlerError::FuelExhausted), "{error:?}");
    assert!((80..=90).contains(&events), "{events} events of 1.5 million turns, of 128 million");
    let (_, mut large) = bench.begin(&loaded).expect("begins");
    let bytes = vec![0; BODY_CHUNK_BYTES_MAX];
    for event in 0..200 {
        bench.chunk(&mut large, &bytes).unwrap_or_else(|error| panic!("{event}: {error}"));
    }
}

#[test]
fn a_guest_that_fails_in_the_middle_takes_only_its_own_exchange_along() {
    let event = "(if (i32.eq (i32.load8_u (i32.add (local.get $at) (i32.const 4))) (i32.const 33))
        (then unreachable)) i64.const 0";
    let mut bench = Bench::new();
    let loaded = bench.load(&guest_for(&Hook::ALL, "", event));
    let (_, mut one) = bench.begin(&loaded).expect("begins");
    let (_, mut two) = bench.begin(&loaded).expect("begins");
    assert!(matches!(bench.chunk(&mut one, b"!"), Err(HandlerError::Trap { .. })));
    drop(one);
    bench.chunk(&mut two, b"x").expect("goes on");
    assert_eq!(bench.host.kept_bytes(), PAGE);
}

#[test]
fn only_the_actions_of_its_event_are_taken() {
    // Emitting answers chunks, a status the answer's head: whoever does it elsewhere broke the contract.
    for (list, wrong) in [(r"\0c\00\00\00\01\00\00\00x", false), (r"\0e\00\02\00\00\00\00\00\c8\00", true)] {
        let length = if wrong { 10 } else { 9 };
        let event = format!(
            "(if (result i64) (i32.eq (local.get $kind) (i32.const 1))
                (then (i64.const 0)) (else (i64.const {})))",
            (4096_i64 << 32) + length
        );
        let data = format!(r#"(data (i32.const 4096) "{list}")"#);
        let mut bench = Bench::new();
        let loaded = bench.load(&guest_for(&Hook::ALL, &data, &event));
        let (_, mut kept) = bench.begin(&loaded).expect("begins");
        let answer = RequestView { status: 200, ..VIEW };
        let head = bench.host.resume(&mut kept, &Next::Response(&answer)).map(drop);
        assert_eq!(head.is_ok(), wrong, "{head:?}");
        let (_, mut kept) = bench.begin(&loaded).expect("begins");
        assert_eq!(bench.chunk(&mut kept, b"x").is_err(), wrong);
    }
}

#[test]
fn a_guest_is_told_that_its_exchange_broke_off() {
    let event = "(if (i32.eq (local.get $kind) (i32.const 5)) (then unreachable)) i64.const 0";
    let mut bench = Bench::new();
    let loaded = bench.load(&guest_for(&Hook::ALL, "", event));
    let (_, mut kept) = bench.begin(&loaded).expect("begins");
    bench.chunk(&mut kept, b"x").expect("goes on");
    assert!(matches!(bench.host.resume(&mut kept, &Next::Cancelled), Err(HandlerError::Trap { .. })));
}
