//! What an idle intercepted connection costs: memory of ours, and no work.
//!
//! `OUTGATE_IDLE_CONNECTIONS=9000` measures more of them; `--nocapture` shows where the bytes are.

use std::{fs, time::Duration};

use tests::{
    counting::{Counting, exclude_this_thread},
    gateway::{Gateway, Tls, ask},
    origin::Origin,
};

#[global_allocator]
static ALLOCATOR: Counting = Counting::new();

/// The promise: bytes of ours for each, beyond the kernel's.
const BYTES_MAX: usize = 8 << 10;

/// Nanoseconds that the shards' threads have run.
fn shard_time() -> u64 {
    let tasks = fs::read_dir("/proc/self/task").unwrap().map(|task| task.unwrap().path());
    let of_shards = tasks
        .filter(|task| fs::read_to_string(task.join("comm")).is_ok_and(|name| name.starts_with("shard-")));
    of_shards
        .map(|task| {
            let stat = fs::read_to_string(task.join("schedstat")).unwrap();
            stat.split(' ').next().unwrap().parse::<u64>().unwrap()
        })
        .sum()
}

#[test]
fn an_idle_intercepted_connection_holds_little_and_does_nothing() {
    exclude_this_thread();
    let count: usize =
        std::env::var("OUTGATE_IDLE_CONNECTIONS").map_or(500, |count| count.parse().expect("a number"));
    let origin = Origin::plain(|_, out| tests::origin::respond(out, b"never"));
    let mut gateway = Gateway::start(1, &origin);
    let boxes = count.div_ceil(2_000);
    (0..boxes).for_each(|index| gateway.add_sandbox(&format!("box-{index}"), "word", "t"));
    let open = |index: usize| {
        let mut stream = gateway.tls_as(&format!("box-{}", index % boxes), "word", "other.test", 443);
        let request = "GET / HTTP/1.1\r\nHost: other.test\r\n\r\n";
        assert!(ask(&mut stream, request, b"").0.starts_with("HTTP/1.1 403 "));
        stream
    };
    // What is made once for a sandbox, and what grows in steps, is there before.
    let mut open_ones: Vec<Tls> = (0..count).map(open).collect();
    gateway.recorded(count);
    let (bytes, sizes) = (ALLOCATOR.live(), ALLOCATOR.sizes());
    open_ones.extend((count..2 * count).map(open));
    gateway.recorded(2 * count);
    let each = ALLOCATOR.live().saturating_sub(bytes) / count;
    println!("{each} bytes for each idle intercepted connection");
    for ((size, now), (_, before)) in ALLOCATOR.sizes().into_iter().zip(sizes) {
        let per_connection = (now as f64 - before as f64) / count as f64;
        if per_connection.abs() > 0.05 {
            println!("  {per_connection:.2} of {size} bytes");
        }
    }
    let before = shard_time();
    let watched = Duration::from_secs(1);
    // The clock is what is measured against; nothing is waited for.
    std::thread::park_timeout(watched);
    let busy = Duration::from_nanos(shard_time() - before);
    println!("{busy:?} of work in {watched:?} with {} connections", 2 * count);
    assert!(each <= BYTES_MAX, "{each} bytes");
    assert!(busy < watched / 100, "{busy:?} of work in {watched:?}");
    drop(open_ones);
}
