//! One call of a handler: a guest that answers at once, of one page and of two, with isolation and without, and the
//! example `inject_token` as planes run it; and one chunk of a body, for a guest that looks at it and goes on, and for
//! the example `mask_answers`, alone and in turns with another exchange.

mod guest;

use std::{hint::black_box, sync::Arc, time::Duration};

use benches::{
    CALL_TIME,
    heads::{LIBRARY, request},
    processor_time::ProcessorTime,
};
use criterion::BenchmarkId;
use dataplane::{
    handler::{Host, HostConfig, Loaded, Next, Restore, Room, Watchdog},
    limits::HANDLER_KEPT_SANDBOX_BYTES_MAX,
};
use handlers_sdk_abi::{
    Chunk,
    action::Action,
    limits::BODY_CHUNK_BYTES_MAX,
    view::{Field, RequestView},
};

/// Nothing is put back: what isolation costs is the difference.
const NOTHING: Restore = Restore { memory: false, size: false, globals: false };

/// Calls in a row without restoring. More: the figure is less like that of a call behind a restored one. Fewer: the
/// reading of the clock is seen in it.
const UNRESTORED_CALLS: u64 = 256;

fn view<'a>(fields: &'a [Field<'a>]) -> RequestView<'a> {
    RequestView {
        flags: 0,
        port: 443,
        http_version: 11,
        status: 0,
        body_bytes: Some(1834),
        now_ms: 1_763_740_800_000,
        random: [7; 16],
        method: "POST",
        host: "api.github.com",
        path: "/v1/chat/completions",
        query: None,
        container_id: "box-0",
        class_name: "coding-agent",
        request_id: "",
        traceparent: "",
        handler: "inject-token",
        revision: 1,
        suspensions_left: 0,
        labels: &[],
        fields,
    }
}

/// The time of calls without restoring. Between short runs of them one call that restores puts the guest back, unseen
/// by the clock.
fn unisolated(host: &mut Option<Host>, loaded: &Arc<Loaded>, view: &RequestView<'_>, calls: u64) -> Duration {
    let (mut left, mut spent) = (calls, Duration::ZERO);
    while left > 0 {
        let run = left.min(UNRESTORED_CALLS);
        let mut bare = host.take().expect("given back below").with_restore(NOTHING);
        let began = ProcessorTime::spent();
        for _ in 0..run {
            black_box(bare.call(loaded, b"null", black_box(view)).expect("actions"));
        }
        spent += ProcessorTime::spent() - began;
        let mut whole = bare.with_restore(Restore::ALL);
        whole.call(loaded, b"null", view).expect("actions");
        *host = Some(whole);
        left -= run;
    }
    spent
}

fn handler_call(criterion: &mut benches::Criterion) {
    let watchdog = Watchdog::start(CALL_TIME).expect("a thread");
    let head = request(LIBRARY);
    let fields: Vec<Field<'_>> =
        head.fields().map(|field| Field { name: field.name, value: field.value }).collect();
    let view = view(&fields);
    let mut group = criterion.benchmark_group("handler_call");
    for (size, wasm) in [
        ("64KiB_fixed_answer", guest::answering(1)),
        ("128KiB_fixed_answer", guest::answering(2)),
        ("64KiB_inject_token", guest::module()),
    ] {
        let loaded = guest::loaded(&wasm);
        let mut host = Host::new(HostConfig::default(), &watchdog).expect("a host");
        let actions = host.call(&loaded, b"null", &view).expect("actions");
        assert!(actions.iter().any(|action| matches!(action, Action::SetSecret { .. })));
        group.bench_function(BenchmarkId::new("isolated", size), |bencher| {
            bencher.iter(|| host.call(&loaded, b"null", black_box(&view)).expect("actions"));
        });
        // The example's allocator relies on being put back: without it the memory grows from call to call.
        if size == "64KiB_inject_token" {
            continue;
        }
        let mut host = Some(host);
        group.bench_function(BenchmarkId::new("without_isolation", size), |bencher| {
            bencher.iter_custom(|calls| unisolated(&mut host, &loaded, &view, calls));
        });
    }
    group.finish();
}

/// What an answer's body looks like to a search for words.
const TEXT: &[u8] = b"The quick brown fox jumps over the lazy dog. ";

fn handler_chunk(criterion: &mut benches::Criterion) {
    let watchdog = Watchdog::start(CALL_TIME).expect("a thread");
    let view = view(&[]);
    let chunk: Vec<u8> = TEXT.iter().copied().cycle().take(BODY_CHUNK_BYTES_MAX).collect();
    let mut group = criterion.benchmark_group("handler_chunk");
    for (guest, wasm, params) in [
        ("64KiB_looks", guest::looking(), &b"null"[..]),
        ("mask_answers", guest::example("mask_answers"), br#"{"words":["falcon","eagle"]}"#),
    ] {
        let loaded = guest::loaded(&wasm);
        let mut host = Host::new(HostConfig::default(), &watchdog).expect("a host");
        let room = Room::new("the sandbox", HANDLER_KEPT_SANDBOX_BYTES_MAX);
        let mut begin = || {
            let (_, mut kept) = host.begin(&loaded, params, &view, &room).expect("actions");
            let answer = RequestView { status: 200, ..view };
            host.resume(&mut kept, &Next::Response(&answer)).expect("actions");
            kept
        };
        let (mut one, mut other) = (begin(), begin());
        let next = Next::ResponseChunk(Chunk { last: false, bytes: &chunk });
        group.bench_function(BenchmarkId::new("alone_16KiB", guest), |bencher| {
            bencher.iter(|| host.resume(&mut one, black_box(&next)).expect("actions"));
        });
        group.bench_function(BenchmarkId::new("in_turns_16KiB", guest), |bencher| {
            bencher.iter(|| {
                std::mem::swap(&mut one, &mut other);
                host.resume(&mut one, black_box(&next)).expect("actions")
            });
        });
    }
    group.finish();
}

benches::main!(handler_call, handler_chunk);
