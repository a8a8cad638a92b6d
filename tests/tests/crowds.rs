//! Many at once: what a thousand streams, ten thousand idle connections and a hundred streaming sandboxes with a slow
//! reader among them hold of memory, and that they harm nobody.
//!
//! `--nocapture` prints the rows of the table in `dataplane/DESIGN.md`: bytes of ours, without the kernel's.

use std::{
    fs,
    process::{Command, Stdio},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use bytes::Bytes;
use dataplane::limits::{H2_SANDBOX_WINDOWS, H2_WINDOW_FIRST};
use h2::{RecvStream, SendStream};
use http::Response;
use tests::{
    counting::{Counting, exclude_this_thread},
    descriptors,
    gateway::{Gateway, PATIENCE, ask},
    http2::{Answer, Client, next, origin, run_for, whole},
    origin::{Origin, respond},
    process::Process,
};
use tokio::{sync::watch, task::JoinSet};

#[global_allocator]
static ALLOCATOR: Counting = Counting::new();

/// What all of this may take on a slow machine.
const TIME: Duration = Duration::from_secs(120);

const CONNECTIONS: usize = 10;
const STREAMS: usize = 100;
/// What one stream may hold that waits for its answer, on both legs.
const STREAM_BYTES_MAX: usize = 20 << 10;
/// Bytes of an answer that nobody reads.
const UNREAD: usize = 128 << 10;
/// What all those together may hold: the windows of their sandbox, and the streams themselves.
const UNREAD_BYTES_MAX: usize = H2_SANDBOX_WINDOWS + CONNECTIONS * STREAMS * STREAM_BYTES_MAX;

const IDLE: usize = 10_000;
/// DESIGN: what an idle intercepted connection may hold.
const IDLE_BYTES_MAX: usize = 8 << 10;

const SANDBOXES: usize = 100;
/// What each sandbox streams.
const STREAMED: usize = 1 << 20;
/// What each streams before, for what is made once.
const LITTLE: usize = 64 << 10;
/// What the slow one streams, and what is held for it: the window of its stream, and what all else takes.
const SLOW: usize = 32 << 20;
const SLOW_BYTES_MAX: usize = H2_WINDOW_FIRST / 2 + (1 << 20);
/// What one sandbox that streams may hold at most, on both legs.
const STREAMING_BYTES_MAX: usize = 384 << 10;

/// Memory is counted for the whole process: one at a time.
static ALONE: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    exclude_this_thread();
    alone
}

/// Bytes of the gateway, without the records that the harness keeps.
fn held(gateway: &Gateway) -> usize {
    ALLOCATOR.live() - gateway.records_bytes()
}

/// What is held once it is no more than this, or does not become so.
fn settled(gateway: &Gateway, bytes: usize) -> usize {
    let deadline = Instant::now() + PATIENCE;
    while held(gateway) > bytes && Instant::now() < deadline {
        thread::yield_now();
    }
    held(gateway)
}

fn row(what: &str, bytes: usize, count: usize) {
    println!(
        "| {what} | {:.2} MiB | {:.1} KiB |",
        bytes as f64 / 1_048_576.0,
        bytes as f64 / 1024.0 / count as f64
    );
}

/// A client of another sandbox.
async fn client_of(gateway: &Gateway, sandbox: &str, port: u16) -> Client {
    let socket = gateway.tunnel_as(&format!("{sandbox}:word"), "origin.test", port);
    let settings = h2::client::Builder::new();
    Client::on(socket, settings, gateway.authority(sandbox), ("origin.test", port)).await
}

/// Sends as much as the windows take, and counts it.
async fn pour(stream: &mut SendStream<Bytes>, mut left: usize, count: &AtomicUsize) -> Option<()> {
    while left > 0 {
        stream.reserve_capacity(left.min(16 << 10));
        let room = std::future::poll_fn(|cx| stream.poll_capacity(cx)).await?.ok()?.min(left);
        left -= room;
        count.fetch_add(room, Ordering::SeqCst);
        stream.send_data(vec![7; room].into(), left == 0).ok()?;
    }
    Some(())
}

async fn length(mut body: RecvStream) -> usize {
    let mut length = 0;
    while let Some(data) = next(&mut body).await {
        length += data.expect("a whole answer").len();
    }
    length
}

/// Waits until a number does not change any more.
async fn still(number: &AtomicUsize) {
    let mut before = usize::MAX;
    while before != number.load(Ordering::SeqCst) {
        before = number.load(Ordering::SeqCst);
        // The event is that nothing happens for so long.
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
}

/// `/held` is answered when it is told, `/unread` as far as it is read, all else at once.
async fn serve(
    path: String,
    mut answer: Answer,
    mut told: watch::Receiver<bool>,
    (begun, poured): (Arc<AtomicUsize>, Arc<AtomicUsize>),
) -> Option<()> {
    begun.fetch_add(1, Ordering::SeqCst);
    if path == "/held" {
        told.wait_for(|told| *told).await.ok()?;
    }
    if path == "/unread" {
        return pour(&mut answer.send_response(Response::new(()), false).ok()?, UNREAD, &poured).await;
    }
    tests::http2::respond(&mut answer, "here", None)
}

#[test]
fn a_thousand_streams_on_ten_connections_hold_little_and_stall_nobody_else() {
    let _alone = alone();
    let (tell, told) = watch::channel(false);
    let (begun, poured) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let counts = (Arc::clone(&begun), Arc::clone(&poured));
    let origin = origin(&["origin.test"], move |request, answer| {
        serve(request.uri().path().to_owned(), answer, told.clone(), counts.clone())
    });
    let mut gateway = Gateway::start(2, &origin);
    gateway.add_sandbox("other", "word", "t");
    let port = origin.address.port();
    run_for(TIME, async {
        let mut other = client_of(&gateway, "other", port).await;
        assert_eq!(other.get("/").await.text(), "here");
        let mut clients = Vec::new();
        for _ in 0..CONNECTIONS {
            let mut client = Client::connect(&gateway, "origin.test", port).await;
            assert_eq!(client.get("/").await.text(), "here");
            clients.push(client);
        }
        let before = held(&gateway);
        let first = begun.load(Ordering::SeqCst);
        let mut answers = Vec::new();
        for index in 0..CONNECTIONS * STREAMS {
            let client = &mut clients[index % CONNECTIONS];
            answers.push(client.send(client.request("GET", "/held"), true).await.0);
        }
        while begun.load(Ordering::SeqCst) < first + CONNECTIONS * STREAMS {
            tokio::task::yield_now().await;
        }
        let waiting = held(&gateway).saturating_sub(before);
        row("1,000 streams on 10 connections that wait for their answers", waiting, CONNECTIONS * STREAMS);
        assert_eq!(other.get("/").await.text(), "here");
        tell.send(true).expect("the origin lives");
        for answer in answers {
            assert_eq!(whole(answer).await.unwrap().text(), "here");
        }
        assert!(waiting <= CONNECTIONS * STREAMS * STREAM_BYTES_MAX, "{waiting} bytes");

        let mut bodies = Vec::new();
        for index in 0..CONNECTIONS * STREAMS {
            let client = &mut clients[index % CONNECTIONS];
            let (answer, _) = client.send(client.request("GET", "/unread"), true).await;
            bodies.push(answer.await.unwrap().into_body());
        }
        still(&poured).await;
        let unread = held(&gateway).saturating_sub(before);
        row("the same with answers of 128 KiB that nobody reads", unread, CONNECTIONS * STREAMS);
        for _ in 0..20 {
            assert_eq!(other.get("/").await.text(), "here");
        }
        let mut reading: JoinSet<usize> = JoinSet::new();
        for body in bodies {
            reading.spawn_local(length(body));
        }
        while let Some(length) = reading.join_next().await {
            assert_eq!(length.unwrap(), UNREAD);
        }
        assert!(unread <= UNREAD_BYTES_MAX, "{unread} bytes");
        // The connections live, with room for as many streams.
        let left = settled(&gateway, before + (5 << 20)).saturating_sub(before);
        row("the same when all were answered", left, CONNECTIONS * STREAMS);
        assert!(left <= 5 << 20, "{left} bytes");
    });
    assert!(origin.connections() <= 12, "{} connections to the origin", origin.connections());
    assert_eq!(begun.load(Ordering::SeqCst), 2 * CONNECTIONS * STREAMS + CONNECTIONS + 1 + 1 + 20);
    gateway.stop();
}

#[test]
fn ten_thousand_idle_connections_hold_little_and_the_others_go_on() {
    const BOXES: usize = 10;
    let _alone = alone();
    descriptors::raise(IDLE as u64 + 1_000);
    let origin = Origin::tls(&["origin.test"], |_, out| respond(out, b"here"));
    let mut gateway = Gateway::start(2, &origin);
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut authorities = Vec::new();
    for index in 0..BOXES {
        gateway.add_sandbox(&format!("box-{index}"), "word", "t");
        let file = folder.path().join(format!("{index}.der"));
        fs::write(&file, gateway.authority(&format!("box-{index}"))).expect("a file is written");
        authorities.push(file);
    }
    let clients = |count: usize| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_idle-clients"));
        command.arg(gateway.proxy.to_string()).arg(count.to_string()).args(&authorities);
        let clients = Process::spawn(command.stdin(Stdio::piped()));
        assert_eq!(clients.told_within(TIME, "open "), count.to_string());
        clients
    };
    let mut active = gateway.tls("origin.test", origin.address.port());
    let request = format!("GET / HTTP/1.1\r\nHost: origin.test:{}\r\n\r\n", origin.address.port());
    assert_eq!(ask(&mut active, &request, b"").1, b"here");
    // What is made once for each sandbox is there before.
    let mut first = clients(BOXES);
    gateway.recorded(1 + BOXES);
    let before = held(&gateway);
    let mut all = clients(IDLE);
    for _ in 0..100 {
        assert_eq!(ask(&mut active, &request, b"").1, b"here");
    }
    gateway.recorded(1 + BOXES + IDLE + 100);
    let bytes = held(&gateway).saturating_sub(before);
    row("10,000 idle intercepted connections", bytes, IDLE);
    assert!(bytes <= IDLE * IDLE_BYTES_MAX, "{bytes} bytes");
    for clients in [&mut first, &mut all] {
        clients.end_input();
        assert!(clients.ended(), "{}", clients.said());
    }
    // Tables that have grown stay as large.
    let left = settled(&gateway, before + (8 << 20)).saturating_sub(before);
    row("the same when all have gone", left, IDLE);
    assert!(left <= 8 << 20, "{left} bytes");
    assert_eq!(ask(&mut active, &request, b"").1, b"here");
    drop(active);
    gateway.stop();
}

#[test]
fn a_hundred_sandboxes_stream_and_a_slow_reader_among_them_holds_back_its_own_sender_alone() {
    let _alone = alone();
    let slow_sent = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&slow_sent);
    let origin = origin(&["origin.test"], move |request, mut answer| {
        let (slow, quick) = (Arc::clone(&counted), AtomicUsize::new(0));
        async move {
            let mut stream = answer.send_response(Response::new(()), false).ok()?;
            match request.uri().path() {
                "/slow" => pour(&mut stream, SLOW, &slow).await,
                "/little" => pour(&mut stream, LITTLE, &quick).await,
                _ => pour(&mut stream, STREAMED, &quick).await,
            }
        }
    });
    let mut gateway = Gateway::start(2, &origin);
    (0..SANDBOXES).for_each(|index| gateway.add_sandbox(&format!("box-{index}"), "word", "t"));
    let port = origin.address.port();
    run_for(TIME, async {
        let mut clients = Vec::new();
        for index in 0..SANDBOXES {
            let mut client = client_of(&gateway, &format!("box-{index}"), port).await;
            // What is made once for each sandbox is there before.
            assert_eq!(client.get("/little").await.body.len(), LITTLE);
            clients.push(client);
        }
        let before = settled(&gateway, 0);
        let slow = &mut clients[0];
        let (answer, _) = slow.send(slow.request("GET", "/slow"), true).await;
        let slow = answer.await.unwrap().into_body();
        still(&slow_sent).await;
        let sent = slow_sent.load(Ordering::SeqCst);
        assert!(sent < SLOW / 2, "{sent} bytes were sent to who reads none");
        let alone = held(&gateway).saturating_sub(before);
        row("a slow reader of 32 MiB", alone, 1);
        assert!(alone <= SLOW_BYTES_MAX, "{alone} bytes");

        let mut streaming: JoinSet<usize> = JoinSet::new();
        for client in &mut clients[1..] {
            let (answer, _) = client.send(client.request("GET", "/quick"), true).await;
            streaming.spawn_local(async move { length(answer.await.expect("an answer").into_body()).await });
        }
        let mut most = 0;
        while let Some(length) = streaming.join_next().await {
            assert_eq!(length.unwrap(), STREAMED);
            most = most.max(held(&gateway).saturating_sub(before));
        }
        row("99 sandboxes beside it that stream 1 MiB each, at most", most, SANDBOXES - 1);
        assert!(most <= SLOW_BYTES_MAX + SANDBOXES * STREAMING_BYTES_MAX, "{most} bytes");
        assert_eq!(slow_sent.load(Ordering::SeqCst), sent, "the slow one was held back all the time");
        assert_eq!(length(slow).await, SLOW);
    });
    gateway.stop();
}
