//! Hostile guests against the handler host: each is refused by name within its budget, and the next call is served.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use control::compile::{Signer, compile, compile_in_child, publish, sha256};
use control_wire::envelope::{ArtefactKey, CompileTarget, MEMORY_STYLE};
use dataplane::handler::{
    Actions, HandlerError, Host, HostConfig, LoadError, Loaded, ProtocolError, Restore, VerifyingKey,
    Watchdog, load, target,
};
use handlers_sdk_abi::ABI_VERSION;
use handlers_sdk_abi::action::{Action, ActionFault};
use handlers_sdk_abi::view::{Field, RequestView};
use tests::guests::{answering, built, entry, guest};

const LIMIT: Duration = Duration::from_millis(5);

struct Bench {
    signer: Signer,
    _watchdog: Watchdog,
    host: Host,
}

impl Bench {
    fn new() -> Self {
        Self::with(HostConfig::default())
    }

    fn with(config: HostConfig) -> Self {
        let (signer, _) = Signer::generate().expect("a key");
        let watchdog = Watchdog::start(LIMIT).expect("a thread");
        let host = Host::new(config, &watchdog).expect("a host");
        Self { signer, _watchdog: watchdog, host }
    }

    fn trust(&self) -> VerifyingKey {
        VerifyingKey(self.signer.public_key())
    }

    fn envelope(&self, wasm: &[u8]) -> Vec<u8> {
        let artefact = compile(wasm, &target()).expect("compiles");
        self.signer.seal(&ArtefactKey::current(target(), ABI_VERSION, sha256(wasm)), &artefact)
    }

    fn load(&self, wasm: &[u8]) -> Arc<Loaded> {
        load(&self.envelope(wasm), &self.trust(), &target()).expect("loads")
    }

    fn call(&mut self, loaded: &Arc<Loaded>) -> Result<Actions, HandlerError> {
        self.host.call(loaded, b"null", &view(&[]))
    }

    /// Runs a hostile guest, and a good one after it on the same host.
    fn refuse(&mut self, wasm: &[u8]) -> HandlerError {
        let good = self.load(&guest("", "i64.const 0"));
        let hostile = self.load(wasm);
        self.call(&good).expect("the neighbour is served before");
        let error = self.call(&hostile).expect_err("a hostile guest is refused");
        self.call(&good).expect("the neighbour is served after");
        assert_eq!(self.host.instances(), 1, "the hostile instance is thrown away");
        error
    }
}

fn view<'a>(fields: &'a [Field<'a>]) -> RequestView<'a> {
    RequestView {
        flags: 0,
        port: 443,
        http_version: 11,
        status: 0,
        body_bytes: None,
        now_ms: 0,
        random: [0; 16],
        method: "GET",
        host: "api.example",
        path: "/",
        query: None,
        container_id: "sandbox-a",
        class_name: "template",
        request_id: "1",
        traceparent: "",
        handler: "h",
        revision: 1,
        suspensions_left: 0,
        labels: &[],
        fields,
    }
}

#[test]
fn a_list_of_actions_comes_back_whole() {
    let mut bench = Bench::new();
    let loaded = bench.load(&answering(&entry(1, b"x-token", b"placeholder")));
    for _ in 0..3 {
        let actions = bench.call(&loaded).expect("actions");
        let actions: Vec<_> = actions.iter().collect();
        assert_eq!(actions, [Action::Set { name: b"x-token", value: b"placeholder" }]);
    }
}

#[test]
fn a_loop_without_end_runs_out_of_fuel() {
    let error = Bench::with(HostConfig { fuel: 10_000, ..HostConfig::default() })
        .refuse(&guest("", "(loop $l br $l) unreachable"));
    assert!(matches!(error, HandlerError::FuelExhausted), "{error:?}");
}

#[test]
fn recursion_in_the_middle_of_a_budget_runs_out_of_fuel() {
    let more = "(func $f (param i32) local.get 0 if local.get 0 i32.const 1 i32.sub call $f local.get 0 i32.const 1 \
                i32.sub call $f end)";
    let error = Bench::with(HostConfig { fuel: 10_000, ..HostConfig::default() })
        .refuse(&guest(more, "(call $f (i32.const 40)) i64.const 0"));
    assert!(matches!(error, HandlerError::FuelExhausted), "{error:?}");
}

#[test]
fn a_loop_of_long_turns_exceeds_its_time() {
    let fill = "(loop $l (memory.fill (i32.const 0) (i32.const 1) (i32.const 65536)) br $l) unreachable";
    let began = Instant::now();
    let error = Bench::new().refuse(&guest("", fill));
    assert!(matches!(error, HandlerError::TimeExceeded), "{error:?} after {:?}", began.elapsed());
}

#[test]
fn a_straight_run_of_fills_exceeds_its_time() {
    let one = "(memory.fill (i32.const 0) (i32.const 1) (i32.const 1048576))";
    let fills = format!("(drop (memory.grow (i32.const 15))) {} i64.const 0", one.repeat(6_000));
    let began = Instant::now();
    let error = Bench::new().refuse(&guest("", &fills));
    assert!(matches!(error, HandlerError::TimeExceeded), "{error:?} after {:?}", began.elapsed());
}

#[test]
fn growth_stops_at_the_cap() {
    let grow = "(loop $l (br_if $l (i32.ne (memory.grow (i32.const 1)) (i32.const -1)))) unreachable";
    let error = Bench::new().refuse(&guest("", grow));
    assert!(matches!(error, HandlerError::OutOfMemory), "{error:?}");
    let mut bench = Bench::new();
    let fits = "(if (i32.ne (memory.grow (i32.const 15)) (i32.const 1)) (then unreachable)) i64.const 0";
    let loaded = bench.load(&guest("", fits));
    for _ in 0..3 {
        bench.call(&loaded).expect("the memory is small again for each request");
    }
}

#[test]
fn runaway_recursion_overflows_its_stack() {
    let more = "(func $f (param i64) (result i64) (i64.add (local.get 0) (call $f (i64.add (local.get 0) (i64.const 1)))))";
    let error = Bench::new().refuse(&guest(more, "(call $f (i64.const 0))"));
    assert!(matches!(error, HandlerError::StackOverflow), "{error:?}");
}

/// A handler whose recursion keeps an array in each turn, in the stack that the guest has in its own memory, and beside
/// that something in its data and on its heap. The path says how deep it goes. It answers what it found.
const DEEP: &str = r#"
//! Goes as deep as it is told.
use std::hint::black_box;
use std::sync::atomic::{AtomicU32, Ordering};

use handlers_sdk::prelude::*;

static DATA: [AtomicU32; 256] = [const { AtomicU32::new(0x5eed) }; 256];

#[inline(never)]
fn dive(turns: u32) -> u64 {
    let mut kept = [turns; 128];
    black_box(&mut kept);
    let below = if turns == 0 { 0 } else { dive(turns - 1) };
    let sum: u64 = black_box(&kept).iter().map(|word| u64::from(*word)).sum();
    below + sum
}

#[handler]
async fn deep(request: Request, _: Context) -> Outcome {
    let heap = black_box(vec![0xa5_u8; 1024]);
    let turns = request.path()[1..].parse().unwrap_or(0);
    let sum = dive(turns);
    let data = DATA.iter().all(|word| word.load(Ordering::Relaxed) == 0x5eed);
    let heap = heap.iter().all(|byte| *byte == 0xa5);
    Outcome::respond(200, format!("{sum} {data} {heap}"))
}
"#;

#[test]
fn recursion_past_the_stack_of_a_guest_of_the_sdk_is_refused_by_name_and_changes_nothing() {
    let mut bench = Bench::new();
    let deep = bench.load(&built("deep", DEEP));
    let good = bench.load(&guest("", "i64.const 0"));
    let mut dive = |turns: u64| {
        let path = format!("/{turns}");
        let dived = bench.host.call(&deep, b"null", &RequestView { path: &path, ..view(&[]) });
        let dived = dived.map(|actions| match actions.iter().last() {
            Some(Action::Respond { body, .. }) => String::from_utf8_lossy(body).into_owned(),
            other => panic!("{turns}: {other:?}"),
        });
        bench.call(&good).expect("the neighbour is served after");
        dived
    };
    // What every turn kept is whole again on the way up, and so is the rest.
    let whole = |turns: u64| format!("{} true true", 128 * turns * (turns + 1) / 2);
    let deepest =
        (0..).take_while(|turns| dive(*turns).is_ok_and(|found| found == whole(*turns))).count() as u64;
    let turns = u64::from(handlers_sdk_guests::STACK_BYTES) / 512;
    assert!((turns / 2..turns).contains(&deepest), "{deepest} turns of half a KiB fit the stack");
    for turns in (deepest..deepest + 200).chain([1_000, 10_000, 1_000_000]) {
        match dive(turns) {
            Err(HandlerError::Trap { reason }) => {
                assert_eq!(reason, "out of bounds memory access", "{turns}")
            }
            other => panic!("{turns}: {other:?}"),
        }
        assert_eq!(dive(deepest - 1).as_deref().ok(), Some(&*whole(deepest - 1)), "after {turns}");
    }
}

#[test]
fn traps_are_named() {
    let cases = [
        ("unreachable", "unreachable"),
        ("(i64.div_u (i64.const 1) (i64.const 0))", "integer divide by zero"),
        ("(i64.load (i32.const 65536))", "out of bounds memory access"),
    ];
    for (body, expected) in cases {
        match Bench::new().refuse(&guest("", body)) {
            HandlerError::Trap { reason } => assert_eq!(reason, expected),
            other => panic!("{body}: {other:?}"),
        }
    }
}

#[test]
fn a_panic_tells_its_words() {
    let more = r#"(data (i32.const 64) "it broke at lib.rs:7")"#;
    let error = Bench::new().refuse(&guest(more, "(call $panic (i32.const 64) (i32.const 20)) unreachable"));
    assert!(
        matches!(&error, HandlerError::Panic { message } if message == "it broke at lib.rs:7"),
        "{error:?}"
    );
    let outside = "(call $panic (i32.const 65530) (i32.const 2000000000)) unreachable";
    assert!(matches!(Bench::new().refuse(&guest("", outside)), HandlerError::Panic { .. }));
}

#[test]
fn lists_outside_the_memory_are_refused() {
    let mut bench = Bench::new();
    for (pointer, len) in [(65_536u32, 8u32), (65_530, 8), (u32::MAX >> 1, 8)] {
        let answer = (i64::from(pointer) << 32) | i64::from(len);
        let error = bench.refuse(&guest("", &format!("i64.const {answer}")));
        let bounds = HandlerError::Protocol(ProtocolError::ListBounds { pointer, len });
        assert_eq!(format!("{error:?}"), format!("{bounds:?}"));
    }
    for answer in [-1i64, i64::MIN, 65_537] {
        let error = bench.refuse(&guest("", &format!("i64.const {answer}")));
        assert!(matches!(error, HandlerError::Protocol(ProtocolError::Answer(_))), "{answer}: {error:?}");
    }
}

#[test]
fn lists_that_break_a_rule_are_refused_whole() {
    let mut bench = Bench::new();
    let good = entry(1, b"x-good", b"1");
    let cases: [(Vec<u8>, ActionFault); 4] = [
        (entry(1, b"x-evil", b"a\r\nhost: b"), ActionFault::FieldValue),
        (entry(1, b"transfer-encoding", b"chunked"), ActionFault::ReservedField),
        (entry(99, b"", b""), ActionFault::UnknownOperation(99)),
        (entry(1, b"x-cut", b"abc")[..10].to_vec(), ActionFault::Truncated),
    ];
    for (bad, fault) in cases {
        let error = bench.refuse(&answering(&[good.clone(), bad].concat()));
        assert!(matches!(&error, HandlerError::Action(error) if error.fault == fault), "{error:?}");
    }
}

#[test]
fn too_many_actions_are_refused_by_name() {
    let list = entry(1, b"a", b"b").repeat(300);
    let error = Bench::new().refuse(&answering(&list));
    assert!(matches!(error, HandlerError::TooManyActions), "{error:?}");
}

#[test]
fn a_pending_answer_is_refused_by_name() {
    let error = Bench::new().refuse(&guest("", "i64.const 0x80000000"));
    assert!(matches!(error, HandlerError::Pending), "{error:?}");
}

#[test]
fn space_outside_the_memory_is_refused() {
    let wasm = wat::parse_str(
        r#"(module (memory (export "memory") 1)
        (func (export "og_alloc") (param i32) (result i32) i32.const 65000)
        (func (export "og_init") (param i32 i32) (result i64) i64.const 0)
        (func (export "og_event") (param i32 i32 i32) (result i64) i64.const 0)
        (@custom "outgate" "{\22abi\22:1,\22name\22:\22h\22,\22hooks\22:[\22request\22]}"))"#,
    )
    .expect("text");
    let error = Bench::new().refuse(&wasm);
    assert!(matches!(error, HandlerError::Protocol(ProtocolError::Space { .. })), "{error:?}");
}

#[test]
fn a_view_larger_than_the_inbox_gets_space_of_its_own() {
    let value = vec![b'v'; 20_000];
    let fields = [Field { name: b"cookie", value: &value }];
    let mut bench = Bench::new();
    let loaded = bench.load(&guest(
        "",
        "(if (i32.lt_u (local.get $len) (i32.const 20000)) (then unreachable)) i64.const 0",
    ));
    bench.host.call(&loaded, b"null", &view(&fields)).expect("fits");
}

#[test]
fn one_flipped_bit_is_not_loaded() {
    let bench = Bench::new();
    let envelope = bench.envelope(&guest("", "i64.const 0"));
    load(&envelope, &bench.trust(), &target()).expect("the envelope itself loads");
    let step = (envelope.len() / 400).max(1);
    for at in (0..envelope.len()).step_by(step).chain(0..512) {
        let mut flipped = envelope.clone();
        flipped[at] ^= 1 << (at % 8);
        let error = load(&flipped, &bench.trust(), &target()).expect_err("a flipped bit is refused");
        assert!(
            matches!(error, LoadError::Envelope(_) | LoadError::Signature | LoadError::Hash),
            "{at}: {error:?}"
        );
    }
    for end in (0..envelope.len()).step_by(step) {
        load(&envelope[..end], &bench.trust(), &target()).expect_err("a truncation is refused");
    }
}

#[test]
fn a_wrong_signature_and_every_wrong_key_is_not_loaded() {
    let bench = Bench::new();
    let wasm = guest("", "i64.const 0");
    let artefact = compile(&wasm, &target()).expect("compiles");
    let key = ArtefactKey::current(target(), ABI_VERSION, sha256(&wasm));
    let (stranger, _) = Signer::generate().expect("a key");
    let refused = load(&stranger.seal(&key, &artefact), &bench.trust(), &target());
    assert!(matches!(refused, Err(LoadError::Signature)));
    let other = |change: fn(&mut ArtefactKey)| {
        let mut key = key.clone();
        change(&mut key);
        match load(&bench.signer.seal(&key, &artefact), &bench.trust(), &target()) {
            Err(LoadError::Key { field }) => field,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(other(|key| key.abi += 1), "ABI version");
    assert_eq!(other(|key| key.wasmer = "7.4.3".into()), "wasmer version");
    assert_eq!(other(|key| key.memory_style = "static".into()), "memory style");
    assert_eq!(other(|key| key.target.triple = "aarch64-unknown-linux-gnu".into()), "target triple");
    assert_eq!(other(|key| key.target.cpu_features.clear()), "CPU features");
    assert_eq!(other(|key| key.budget = "none".into()), "budget kind");
}

/// Compiles as nobody should: with Wasmer's own style, which has no bounds checks, under a key that lies about it.
fn compile_static(wasm: &[u8]) -> Vec<u8> {
    let engine =
        wasmer::Engine::from(wasmer::sys::EngineBuilder::new(wasmer::sys::Cranelift::new()).engine());
    wasmer::Module::new(&engine, wasm).expect("compiles").serialize().expect("serialises").to_vec()
}

#[test]
fn code_of_another_memory_style_is_not_loaded() {
    let bench = Bench::new();
    // The budget's globals are the guest's own here, so that the style is what it fails for.
    let globals = r#"(global (export "outgate:fuel") (mut i64) (i64.const 0))
                     (global (export "outgate:flag") (mut i32) (i32.const 0))"#;
    let wasm = guest(globals, "i64.const 0");
    let key = ArtefactKey::current(target(), ABI_VERSION, sha256(&wasm));
    assert_eq!(key.memory_style, MEMORY_STYLE);
    let refused = load(&bench.signer.seal(&key, &compile_static(&wasm)), &bench.trust(), &target());
    match refused {
        Err(LoadError::Instance(error)) => {
            assert!(format!("{error}").contains("memory style Static"), "{error}")
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn code_without_a_budget_or_with_a_start_is_not_loaded() {
    let bench = Bench::new();
    for (more, words) in [("", "counts no fuel"), ("(func $s) (start $s)", "has a start function")] {
        let wasm = guest(more, "i64.const 0");
        let key = ArtefactKey::current(target(), ABI_VERSION, sha256(&wasm));
        match load(&bench.signer.seal(&key, &compile_static(&wasm)), &bench.trust(), &target()) {
            Err(LoadError::Contract(found)) => assert_eq!(found, words),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn start_function_and_foreign_import_are_refused_at_publish() {
    let started = compile(&guest("(func $s) (start $s)", "i64.const 0"), &target());
    assert!(format!("{:?}", started.expect_err("refused")).contains("StartFunction"));
    let text = r#"(module (import "env" "clock" (func)) (memory (export "memory") 1))"#;
    let foreign = compile(&wat::parse_str(text).expect("text"), &target());
    assert!(format!("{:?}", foreign.expect_err("refused")).contains("ForeignImport"));
}

#[test]
fn child_compiles_the_same_code_and_says_why_it_refuses() {
    let child = Path::new(env!("CARGO_BIN_EXE_compile-child"));
    let wasm = guest("", "i64.const 0");
    let code = compile_in_child(child, &wasm, &target()).expect("compiles");
    assert_eq!(code, compile(&wasm, &target()).expect("compiles"));
    let nowhere = CompileTarget::new("sparc-sun-solaris", Vec::new());
    let refused = compile_in_child(child, &wasm, &nowhere).expect_err("refused");
    assert!(refused.to_string().contains("sparc-sun-solaris"), "{refused}");
    let bench = Bench::new();
    let published = publish(child, &wasm, &target(), &bench.signer).expect("published");
    assert_eq!(published.manifest.name, "h");
    load(&published.envelope, &bench.trust(), &target()).expect("loads");
}

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
        let actions = bench.host.call(&loaded, params.as_bytes(), &view(&[])).expect("actions");
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
                let view = RequestView { now_ms: base.into(), ..view(&[]) };
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
