//! For tests: a shard with a ring of its own on a thread of its own.

use std::{net::TcpListener, os::fd::OwnedFd};

use glommio::Placement;

use super::{Listener, Ring, RingConfig, Stream, start};

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
    super::executor_builder(Placement::Unbound)
        .spawn(move || async move {
            let ring = start(config).await.expect("this machine gives a ring");
            let result = test().await;
            ring.shutdown().await;
            result
        })
        .expect("an executor")
        .join()
        .expect("the test's shard did not panic")
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
