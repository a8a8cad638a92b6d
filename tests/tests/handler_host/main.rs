//! Hostile guests against the handler host: each is refused by name within its budget, and the next call is served.

mod isolation;
mod kept;
mod loading;

use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use control::compile::{Signer, compile, sha256};
use control_wire::envelope::ArtefactKey;
use dataplane::handler::{
    Actions, HandlerError, Host, HostConfig, Loaded, ProtocolError, Room, VerifyingKey, Watchdog, load,
    target,
};
use handlers_sdk_abi::ABI_VERSION;
use handlers_sdk_abi::action::{Action, ActionFault};
use handlers_sdk_abi::view::{Field, RequestView};
use tests::guests::{answering, built, entry, guest};

/// Wall time of one call: on a busy machine a good guest must not be stopped.
const LIMIT: Duration = Duration::from_millis(50);

struct Bench {
    signer: Signer,
    _watchdog: Watchdog,
    host: Host,
    room: Rc<Room>,
}

impl Bench {
    fn new() -> Self {
        Self::with(HostConfig::default())
    }

    fn with(config: HostConfig) -> Self {
        Self::with_room(config, 64 << 20)
    }

    /// One whose sandbox may keep so many bytes.
    fn with_room(config: HostConfig, bytes: usize) -> Self {
        let (signer, _) = Signer::generate().expect("a key");
        let watchdog = Watchdog::start(LIMIT).expect("a thread");
        let host = Host::new(config, &watchdog).expect("a host");
        Self { signer, _watchdog: watchdog, host, room: Room::new("the sandbox", bytes) }
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
        self.host.call(loaded, b"null", &VIEW)
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

const VIEW: RequestView<'static> = RequestView {
    flags: 0,
    port: 443,
    http_version: 11,
    status: 0,
    body_bytes: None,
    now_ms: 0,
    random: [0; 16],
    method: "GET",
    host: "a.test",
    path: "/",
    query: None,
    container_id: "box",
    class_name: "t",
    request_id: "",
    traceparent: "",
    handler: "h",
    revision: 1,
    suspensions_left: 0,
    labels: &[],
    fields: &[],
};

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
        let dived = bench.host.call(&deep, b"null", &RequestView { path: &path, ..VIEW });
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
    bench.host.call(&loaded, b"null", &RequestView { fields: &fields, ..VIEW }).expect("fits");
}
