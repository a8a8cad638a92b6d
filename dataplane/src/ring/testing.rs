//! For tests: a shard with a ring of its own on a thread of its own.

use std::{
    io::Write as _,
    net::TcpListener,
    os::fd::OwnedFd,
    sync::mpsc::{Receiver, RecvTimeoutError, channel},
    thread,
    time::Duration,
};

use glommio::Placement;

use super::{Listener, Ring, RingConfig, Stream, mailbox, start};

/// After this a test on a shard is taken for hung. The slowest takes seconds on a machine with nothing else to do.
const HANG_TIME: Duration = Duration::from_secs(120);

/// Runs `test` on a small shard and returns what it gave; the ring is shut down after it.
pub(crate) fn on_shard<T: Send + 'static, F: Future<Output = T> + 'static>(
    test: impl FnOnce() -> F + Send + 'static,
) -> T {
    on_shard_with(RingConfig::small(), test)
}

/// As [`on_shard`], with sizes.
pub(crate) fn on_shard_with<T: Send + 'static, F: Future<Output = T> + 'static>(
    config: RingConfig,
    test: impl FnOnce() -> F + Send + 'static,
) -> T {
    let (ask, mut asked) = mailbox::channel::<()>(1);
    let (over, watched) = channel();
    let name = thread::current().name().unwrap_or("a thread of a test").to_owned();
    let watchdog = thread::spawn(move || watch(&name, &ask, &watched));
    let ended = over.clone();
    let result = super::executor_builder(Placement::Unbound)
        .spawn(move || async move {
            let ring = start(config).await.expect("this machine gives a ring");
            let reported = ring.clone();
            let report = async move {
                while asked.recv().await.is_some() {
                    say(&reported.0.report());
                    over.send(()).expect("the watchdog waits for the report");
                }
            };
            let report = glommio::spawn_local(report);
            let result = test().await;
            report.cancel().await;
            ring.shutdown().await;
            result
        })
        .expect("an executor")
        .join();
    ended.send(()).expect("the watchdog waits for the end");
    watchdog.join().expect("the watchdog did not panic");
    result.expect("the test's shard did not panic")
}

/// To the process's own standard error: what a test prints is lost when the process ends.
fn say(text: &str) {
    let written = writeln!(std::io::stderr(), "{text}");
    written.expect("standard error is open");
}

/// Ends the process when a shard's test hangs, and says which test it is and what its driver was doing.
fn watch(name: &str, ask: &mailbox::Sender<()>, over: &Receiver<()>) {
    if over.recv_timeout(HANG_TIME) == Err(RecvTimeoutError::Timeout) {
        say(&format!("{name} hangs:"));
        let asked = ask.try_send(());
        if asked.is_err() || over.recv_timeout(Duration::from_secs(10)) == Err(RecvTimeoutError::Timeout) {
            say("its executor does not run: a task holds it, or a wake-up from another thread is lost");
        }
        std::process::abort();
    }
}

/// A listener on a free port of the loopback.
pub(crate) fn listener() -> (Listener, std::net::SocketAddr) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a port");
    let address = listener.local_addr().expect("an address");
    (Listener::from_fd(OwnedFd::from(listener)).expect("a listener"), address)
}

/// Two ends of one TCP connection, both on the ring.
pub(crate) async fn pair() -> (Stream, Stream) {
    let (listener, address) = listener();
    let client = Stream::connect(address).await.expect("connected");
    let server = listener.accept().await.expect("accepted");
    (client, server)
}

/// Lets the driver take at least so many turns.
pub(crate) async fn turns(count: usize) {
    let ring = Ring::current();
    for _ in 0..count {
        let before = ring.now();
        while ring.now() == before {
            super::yield_now().await;
        }
    }
}
