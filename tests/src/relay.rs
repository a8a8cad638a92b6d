//! A long link: bytes of each direction come out of it so much later than they went in, however many they are.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::mpsc,
    task::spawn_local,
    time::{Instant, sleep_until},
};

/// Bytes that are on their way in one direction of all connections, and the most there were.
#[derive(Default)]
struct Load {
    now: AtomicUsize,
    most: AtomicUsize,
}

/// A link to one address, open until the test process ends.
pub struct Relay {
    /// Where its near end listens.
    pub address: SocketAddr,
    there: Arc<Load>,
    back: Arc<Load>,
}

impl Relay {
    /// A link to an address on which each direction takes `delay`.
    ///
    /// # Panics
    /// When loopback cannot be bound.
    pub fn to(target: SocketAddr, delay: Duration) -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("loopback can be bound");
        let address = listener.local_addr().expect("an address");
        let (there, back) = (Arc::<Load>::default(), Arc::<Load>::default());
        let (up, down) = (Arc::clone(&there), Arc::clone(&back));
        std::thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(tokio::task::LocalSet::new().run_until(async move {
                listener.set_nonblocking(true).expect("an option");
                let listener = TcpListener::from_std(listener).expect("a socket");
                while let Ok((near, _)) = listener.accept().await {
                    let (up, down) = (Arc::clone(&up), Arc::clone(&down));
                    spawn_local(async move {
                        let far = TcpStream::connect(target).await.ok()?;
                        near.set_nodelay(true).ok()?;
                        far.set_nodelay(true).ok()?;
                        let (near_in, near_out) = near.into_split();
                        let (far_in, far_out) = far.into_split();
                        delayed(near_in, far_out, delay, up);
                        delayed(far_in, near_out, delay, down);
                        Some(())
                    });
                }
            }));
        });
        Self { address, there, back }
    }

    /// The most bytes that were on their way to the far end at a time.
    pub fn most_there(&self) -> usize {
        self.there.most.load(Ordering::SeqCst)
    }

    /// The most bytes that were on their way back at a time.
    pub fn most_back(&self) -> usize {
        self.back.most.load(Ordering::SeqCst)
    }
}

/// One direction of one connection: each piece is due when its time on the link is over.
fn delayed(
    mut from: impl AsyncRead + Unpin + 'static,
    mut to: impl AsyncWrite + Unpin + 'static,
    delay: Duration,
    load: Arc<Load>,
) {
    let (line, mut end) = mpsc::unbounded_channel::<(Instant, Vec<u8>)>();
    let entering = Arc::clone(&load);
    spawn_local(async move {
        let mut buffer = vec![0; 256 << 10];
        while let Ok(count @ 1..) = from.read(&mut buffer).await {
            let now = entering.now.fetch_add(count, Ordering::SeqCst) + count;
            entering.most.fetch_max(now, Ordering::SeqCst);
            if line.send((Instant::now() + delay, buffer[..count].to_vec())).is_err() {
                break;
            }
        }
    });
    spawn_local(async move {
        while let Some((due, bytes)) = end.recv().await {
            sleep_until(due).await;
            load.now.fetch_sub(bytes.len(), Ordering::SeqCst);
            if to.write_all(&bytes).await.is_err() {
                return;
            }
        }
        // The end of a direction takes as long as its bytes did; whoever waits for it has had them all.
        let _ended = to.shutdown().await;
    });
}
