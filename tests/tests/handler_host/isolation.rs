//! Nothing of one request is seen by the next, and no access reaches a neighbour's memory.

use dataplane::handler::Restore;

use super::*;

/// Answers with what it finds of earlier calls, as a log line, and leaves a canary in every place it has.
fn leaky() -> Vec<u8> {
    let more = r#"
        (global $kept (mut i64) (i64.const 0))
        (data (i32.const 4096) "\07\03\00\00\08\00\00\00........")"#;
    // 0: memory. 1: a private global. 2: size. 3: a grown page's content.
    let event = r#"
        (i32.store8 (i32.const 4104) (i32.add (i32.const 48) (i32.ne (i32.load (i32.const 32768)) (i32.const 0))))
        (i32.store8 (i32.const 4105) (i32.add (i32.const 48) (i64.ne (global.get $kept) (i64.const 0))))
        (i32.store8 (i32.const 4106) (i32.add (i32.const 48) (i32.ne (memory.size) (i32.const 1))))
        (drop (memory.grow (i32.const 1)))
        (i32.store8 (i32.const 4107) (i32.add (i32.const 48) (i32.ne (i32.load (i32.const 70000)) (i32.const 0))))
        (i32.store (i32.const 32768) (i32.const 0xc0ffee))
        (i32.store (i32.const 70000) (i32.const 0xc0ffee))
        (global.set $kept (i64.const 0xc0ffee))
        i64.const 0x100000000010"#;
    guest(more, event)
}

/// What the guest of [`leaky`] found at its second call.
fn leaks(restore: Restore) -> String {
    let mut bench = Bench::new();
    bench.host = bench.host.with_restore(restore);
    let loaded = bench.load(&leaky());
    bench.call(&loaded).expect("the first sandbox's request");
    let actions = bench.call(&loaded).expect("the second sandbox's request");
    match actions.iter().next() {
        Some(Action::Log { text, .. }) => text[..4].to_owned(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn nothing_of_one_request_is_seen_by_the_next() {
    assert_eq!(leaks(Restore::ALL), "0000");
}

#[test]
fn leaving_out_any_step_of_restoring_is_seen() {
    assert_eq!(&leaks(Restore { memory: false, ..Restore::ALL })[..1], "1");
    assert_eq!(&leaks(Restore { globals: false, ..Restore::ALL })[1..2], "1");
    let size = leaks(Restore { size: false, ..Restore::ALL });
    assert_eq!(&size[2..], "11");
}

#[test]
fn nothing_of_a_failed_request_is_seen_by_the_next() {
    let more = "(global $kept (mut i64) (i64.const 0))";
    let event = r#"
        (if (i32.or (i64.ne (global.get $kept) (i64.const 0)) (i32.ne (i32.load (i32.const 32768)) (i32.const 0)))
            (then (call $panic (i32.const 0) (i32.const 0))))
        (global.set $kept (i64.const 1)) (i32.store (i32.const 32768) (i32.const 1)) unreachable"#;
    let mut bench = Bench::new();
    let loaded = bench.load(&guest(more, event));
    for _ in 0..3 {
        let error = bench.call(&loaded).expect_err("traps");
        assert!(matches!(error, HandlerError::Trap { .. }), "{error:?}");
    }
}

#[test]
fn parameters_of_one_use_are_not_seen_by_another() {
    let wasm = wat::parse_str(
        r#"(module (memory (export "memory") 1)
        (global $params (mut i32) (i32.const 0))
        (func (export "og_alloc") (param i32) (result i32) i32.const 16384)
        (func (export "og_init") (param i32 i32) (result i64)
            (global.set $params (i32.add (global.get $params) (i32.load8_u (local.get 0)))) i64.const 0)
        (func (export "og_event") (param i32 i32 i32) (result i64)
            (i32.store8 (i32.const 4104) (global.get $params))
            (i64.const 0x100000000009))
        (data (i32.const 4096) "\07\03\00\00\01\00\00\00?")
        (@custom "outgate" "{\22abi\22:1,\22name\22:\22h\22,\22hooks\22:[\22request\22]}"))"#,
    )
    .expect("text");
    let mut bench = Bench::with(HostConfig { snapshot_bytes_max: 200_000, ..HostConfig::default() });
    let loaded = bench.load(&wasm);
    for params in ["a", "b", "a", "c", "d", "b", "a", "a"] {
        let actions = bench.host.call(&loaded, params.as_bytes(), &VIEW).expect("actions");
        let Some(Action::Log { text, .. }) = actions.iter().next() else { panic!("a log line") };
        assert_eq!(text, params);
    }
    assert_eq!(bench.host.instances(), 1);
}

#[test]
fn instances_beyond_the_bound_take_the_place_of_the_oldest() {
    let mut bench = Bench::with(HostConfig { instances_max: 2, ..HostConfig::default() });
    let versions: Vec<_> =
        (0..4).map(|n| bench.load(&guest("", &format!("(drop (i32.const {n})) i64.const 0")))).collect();
    for loaded in versions.iter().chain(&versions) {
        bench.call(loaded).expect("served");
        assert!(bench.host.instances() <= 2);
    }
    drop(versions);
    bench.host.sweep();
    assert_eq!(bench.host.instances(), 0);
}

/// Loads and stores of every width at odd places must trap exactly when they leave the guest's own memory, though the
/// neighbours' slots are mapped and full of a canary.
#[test]
fn accesses_out_of_bounds_never_reach_a_neighbour() {
    const CANARY: u8 = 0xa5;
    let mut bench = Bench::new();
    let canary = format!(
        r#"(drop (memory.grow (i32.const 15)))
        (if (i32.load8_u (i32.const 0)) (then
            (local.set $at (i32.const 65536))
            (loop $next
                (if (i64.ne (i64.load (local.get $at)) (i64.const 0xa5a5a5a5a5a5a5a5)) (then unreachable))
                (local.set $at (i32.add (local.get $at) (i32.const 8)))
                (br_if $next (i32.lt_u (local.get $at) (i32.const 1048576))))))
        (memory.fill (i32.const 0) (i32.const {CANARY}) (i32.const 1048576)) i64.const 0"#
    );
    // Left unrestored on purpose, so that the neighbours stay full.
    bench.host = bench.host.with_restore(Restore { memory: false, size: false, globals: true });
    let below = bench.load(&guest("", &canary));
    bench.call(&below).expect("fills");
    let accesses = [
        ("i32.load8_u", 1u64),
        ("i32.load16_u", 2),
        ("i32.load", 4),
        ("i64.load", 8),
        ("v128.load", 16),
        ("i32.store8", 1),
        ("i64.store", 8),
        ("v128.store", 16),
        ("memory.fill", 3),
        ("memory.copy", 5),
    ];
    let offsets = [0u64, 1, 7, 65_535, 65_536, 1 << 20, (1 << 31) + 1, u64::from(u32::MAX)];
    let bases = [
        0u32,
        1,
        65_519,
        65_520,
        65_528,
        65_533,
        65_535,
        65_536,
        1 << 20,
        i32::MAX as u32,
        u32::MAX - 3,
        u32::MAX,
    ];
    let mut victim_above = None;
    let mut tried = 0;
    for (name, bytes) in accesses {
        for offset in offsets {
            if name.starts_with("memory.") && offset != 0 {
                continue;
            }
            // The base travels as the view's time, so that one module serves all bases.
            let at = "(i32.wrap_i64 (i64.load offset=24 (local.get $at)))";
            let access = match name {
                "memory.fill" => format!("(memory.fill {at} (i32.const 0) (i32.const {bytes}))"),
                "memory.copy" => format!("(memory.copy (i32.const 8) {at} (i32.const {bytes}))"),
                "v128.store" => format!("(v128.store offset={offset} align=1 {at} (v128.const i64x2 0 0))"),
                "i64.store" => format!("(i64.store offset={offset} align=1 {at} (i64.const 0))"),
                "i32.store8" => format!("(i32.store8 offset={offset} {at} (i32.const 0))"),
                load => format!("(drop ({load} offset={offset} align=1 {at}))"),
            };
            let attacker = bench.load(&guest("", &format!("{access} i64.const 0")));
            for base in bases {
                let view = RequestView { now_ms: base.into(), ..VIEW };
                let inside = u64::from(base) + offset + bytes <= 65_536;
                let result = bench.host.call(&attacker, b"null", &view);
                match (inside, result) {
                    (true, Ok(_)) => {}
                    (false, Err(HandlerError::Trap { reason })) => {
                        assert_eq!(reason, "out of bounds memory access", "{name} {offset} {base}");
                    }
                    (_, other) => panic!("{name} offset {offset} base {base}: {other:?}"),
                }
                tried += 1;
                if victim_above.is_none() {
                    let above = bench.load(&guest("(func)", &canary));
                    bench.call(&above).expect("fills");
                    victim_above = Some(above);
                }
            }
        }
    }
    assert!(tried > 600, "{tried}");
    // Each checks its own canary before it fills again.
    bench.call(&below).expect("the neighbour below is whole");
    bench.call(&victim_above.expect("made above")).expect("the neighbour above is whole");
}
