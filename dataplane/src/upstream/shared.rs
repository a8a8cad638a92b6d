//! Connections of HTTP/2 to upstreams: each carries many requests at once, all of the sandbox for which it was opened.

use std::{
    cell::{Cell, RefCell},
    collections::{HashMap, HashSet},
    future::{Future, poll_fn},
    net::SocketAddr,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

use ::h2::{
    SendStream,
    client::{Builder, Connection, ResponseFuture, SendRequest},
};
use ::http::Request;
use foldhash::fast::RandomState;
use futures_lite::future::or;

use super::pool::Key;
use crate::{
    http::{
        Host,
        h2::{Allowance, Look, Payload, Pipe, Pump, Role, StreamLeg, Watch, Windows},
    },
    identity::SandboxId,
    inject::Mark,
    limits::{
        H2_LOOK_TIME, H2_RESET_TIME, H2_RESETS_KNOWN, H2_SEND_BYTES_MAX, H2_SHARED_IDLE_MAX, H2_STREAMS_MAX,
        H2_UNSURE_TIME, HEAD_BYTES_MAX, HTTP11_HOSTS_MAX, LINGER_TIME, UPSTREAM_IDLE_TIME,
    },
    ring::{Ring, sleep, timeout},
    tls::Wire,
};

/// One connection.
pub struct Shared {
    requests: SendRequest<Payload>,
    pump: Pump,
    /// Where it leads, for the records.
    address: SocketAddr,
    windows: Rc<Windows>,
    streams: Rc<Cell<u32>>,
    /// When the last stream ended.
    idle_since: Cell<Instant>,
}

impl Shared {
    /// Begins HTTP/2 on a wire. Gives the connection, and what must run for as long as it is used: it ends by itself
    /// when nobody holds the connection any more.
    ///
    /// # Errors
    /// The wire is broken.
    pub async fn begin(
        wire: Rc<Wire>,
        address: SocketAddr,
        allowance: &Rc<Allowance>,
    ) -> Result<(Rc<Self>, impl Future<Output = ()> + 'static), ::h2::Error> {
        Self::looked_at(wire, address, allowance, H2_LOOK_TIME).await
    }

    async fn looked_at(
        wire: Rc<Wire>,
        address: SocketAddr,
        allowance: &Rc<Allowance>,
        pause: Duration,
    ) -> Result<(Rc<Self>, impl Future<Output = ()> + 'static), ::h2::Error> {
        let (pipe, pump) = Pipe::new(wire, Role::Client);
        let windows = Windows::of(allowance);
        let mut builder = Builder::new();
        builder
            // Nobody asked for what is pushed.
            .enable_push(false)
            .initial_window_size(windows.stream())
            .initial_connection_window_size(windows.connection())
            .max_header_list_size(HEAD_BYTES_MAX as u32)
            .max_send_buffer_size(H2_SEND_BYTES_MAX)
            .max_concurrent_reset_streams(H2_RESETS_KNOWN)
            .reset_stream_duration(H2_RESET_TIME);
        let (requests, mut connection) = builder.handshake(pipe).await?;
        windows.measure_by(connection.ping_pong());
        let streams = Rc::<Cell<u32>>::default();
        let driving = drive(connection, pump.clone(), Rc::clone(&windows), (Rc::clone(&streams), pause));
        let idle_since = Cell::new(Ring::current().now());
        Ok((Rc::new(Self { requests, pump, address, windows, streams, idle_since }), driving))
    }

    fn leg(&self, sender: SendStream<Payload>) -> StreamLeg {
        StreamLeg::asking(sender, self.pump.clone(), Rc::clone(&self.windows))
    }

    /// Another handle, and whether the upstream still takes requests.
    fn look(&self) -> (SendRequest<Payload>, bool) {
        let mut requests = self.requests.clone();
        let ready = requests.poll_ready(&mut Context::from_waker(Waker::noop()));
        (requests, !matches!(ready, Poll::Ready(Err(_))))
    }

    /// Takes a place for one request, where the upstream takes another one now.
    fn place(self: &Rc<Self>) -> Result<Place, Full> {
        let most = u32::try_from(self.requests.current_max_send_streams()).unwrap_or(u32::MAX);
        if self.streams.get() >= most.min(H2_STREAMS_MAX) {
            return Err(Full::Now);
        }
        // Others would wait behind what a slow reader leaves lying.
        if self.windows.is_stalled() {
            return Err(Full::Now);
        }
        let (requests, lives) = self.look();
        if !lives {
            return Err(Full::ForEver);
        }
        if self.streams.get() == 0 {
            // What has come to an idle connection may be its end.
            if !self.pump.wire().is_quiet() {
                return Err(Full::Now);
            }
            let idle = Ring::current().now().saturating_duration_since(self.idle_since.get());
            if idle >= H2_UNSURE_TIME {
                self.windows.ask();
            }
        }
        self.streams.set(self.streams.get() + 1);
        Ok(Place { shared: Rc::clone(self), requests })
    }
}

/// Drives a connection for as long as it is used, looking now and then whether its peer is there, and says farewell.
async fn drive(
    mut connection: Connection<Pipe, Payload>,
    pump: Pump,
    windows: Rc<Windows>,
    (streams, pause): (Rc<Cell<u32>>, Duration),
) {
    let broken = {
        let connected = poll_fn(|cx| {
            windows.tend(&mut connection, cx);
            let ended = Pin::new(&mut connection).poll(cx);
            if pump.flood().is_some() {
                return Poll::Ready(true);
            }
            ended.map(|ended| ended.is_err())
        });
        let watched = async {
            let mut watch = Watch::default();
            loop {
                sleep(pause).await;
                match watch.look(pump.heard(), streams.get() > 0, windows.is_asked()) {
                    Look::Fine => {}
                    Look::Ask => windows.ask(),
                    Look::Gone => return,
                }
            }
        };
        // The pump is polled after h2, so that what it wrote in a turn leaves in one send.
        let lost = async {
            or(async { drop(pump.run().await) }, watched).await;
            true
        };
        or(connected, lost).await
    };
    // Where it was broken, whoever has a stream finds out by this.
    drop(connection);
    let farewell = async {
        let _told = pump.flush().await;
        pump.wire().close().await
    };
    if broken || !matches!(timeout(LINGER_TIME, farewell).await, Ok(Ok(()))) {
        pump.wire().reset();
    }
    pump.release();
}

enum Full {
    Now,
    ForEver,
}

/// A place for one request on a shared connection.
pub struct Place {
    shared: Rc<Shared>,
    requests: SendRequest<Payload>,
}

impl Place {
    /// Where the connection leads.
    pub fn address(&self) -> SocketAddr {
        self.shared.address
    }

    /// Opens the stream. Its head leaves even where it is broken at once, so leave to send it is asked for before.
    ///
    /// # Errors
    /// The connection takes no more.
    pub fn open(
        &mut self,
        head: Request<()>,
        ended: bool,
    ) -> Result<(ResponseFuture, Rc<StreamLeg>), ::h2::Error> {
        let (answer, sender) = self.requests.send_request(head, ended)?;
        Ok((answer, Rc::new(self.shared.leg(sender))))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let shared = &self.shared;
        shared.streams.set(shared.streams.get() - 1);
        shared.idle_since.set(Ring::current().now());
    }
}

/// The shared connections of one shard.
#[derive(Default)]
pub struct SharedPool {
    connections: RefCell<HashMap<Key, Vec<Rc<Shared>>, RandomState>>,
    dials: RefCell<HashMap<Key, Rc<Waiting>, RandomState>>,
    http11: RefCell<HashSet<(Host, u16)>>,
}

/// Who waits to hear what a dialled upstream speaks.
#[derive(Default)]
struct Waiting {
    ended: Cell<bool>,
    /// It led to a connection that carries many requests.
    shares: Cell<bool>,
    wakers: RefCell<Vec<Waker>>,
}

impl SharedPool {
    /// A place on a connection of this key.
    pub fn find(&self, key: &Key) -> Option<Place> {
        let mut connections = self.connections.borrow_mut();
        let of_key = connections.get_mut(key)?;
        let mut found = None;
        of_key.retain(|shared| {
            if found.is_some() {
                return true;
            }
            match shared.place() {
                Ok(place) => found = Some(place),
                Err(Full::Now) => {}
                Err(Full::ForEver) => return false,
            }
            true
        });
        if of_key.is_empty() {
            connections.remove(key);
        }
        found
    }

    /// Keeps a connection for the requests to come, and gives a place on it.
    pub fn share(&self, key: Key, shared: Rc<Shared>) -> Option<Place> {
        let place = shared.place().ok();
        if place.is_some()
            && let Some(waiting) = self.dials.borrow().get(&key)
        {
            waiting.shares.set(true);
        }
        self.connections.borrow_mut().entry(key).or_default().push(shared);
        place
    }

    /// Remembers that an upstream does not speak HTTP/2.
    pub fn speaks_http11(&self, host: &Host, port: u16) {
        let mut hosts = self.http11.borrow_mut();
        if hosts.len() >= HTTP11_HOSTS_MAX {
            hosts.clear();
        }
        hosts.insert((host.clone(), port));
    }

    /// Takes part in dialling an upstream that may speak HTTP/2: the first dials, and the others wait to hear whether
    /// they can share.
    pub async fn dial_or_wait(&self, key: &Key, host: (&Host, u16)) -> Turn<'_> {
        if self.http11.borrow().contains(&(host.0.clone(), host.1)) {
            return Turn::Own;
        }
        let waiting = self.dials.borrow().get(key).cloned();
        let Some(waiting) = waiting else {
            let waiting = Rc::<Waiting>::default();
            self.dials.borrow_mut().insert(key.clone(), Rc::clone(&waiting));
            return Turn::Dial(Box::new(Dialling { pool: self, key: key.clone(), waiting }));
        };
        poll_fn(|cx| {
            if waiting.ended.get() {
                return Poll::Ready(());
            }
            let mut wakers = waiting.wakers.borrow_mut();
            if !wakers.iter().any(|waker| waker.will_wake(cx.waker())) {
                wakers.push(cx.waker().clone());
            }
            Poll::Pending
        })
        .await;
        if waiting.shares.get() { Turn::Look } else { Turn::Own }
    }

    /// Lets go of connections that carry nothing for [`UPSTREAM_IDLE_TIME`] or take nothing more, and of the oldest
    /// idle ones beyond [`H2_SHARED_IDLE_MAX`]. Each ends by itself.
    pub fn sweep(&self, now: Instant) {
        let mut connections = self.connections.borrow_mut();
        let mut idle: Vec<Instant> = Vec::new();
        connections.retain(|_, of_key| {
            of_key.retain(|shared| {
                let carries = shared.streams.get() > 0;
                let fresh = now.saturating_duration_since(shared.idle_since.get()) < UPSTREAM_IDLE_TIME;
                if !carries {
                    idle.push(shared.idle_since.get());
                }
                shared.look().1 && (carries || fresh)
            });
            !of_key.is_empty()
        });
        if idle.len() > H2_SHARED_IDLE_MAX {
            idle.sort_unstable();
            let youngest_to_go = idle[idle.len() - H2_SHARED_IDLE_MAX - 1];
            connections.retain(|_, of_key| {
                of_key.retain(|shared| shared.streams.get() > 0 || shared.idle_since.get() > youngest_to_go);
                !of_key.is_empty()
            });
        }
    }

    /// Lets go of the connections of a sandbox that is gone.
    pub fn forget(&self, sandbox: &SandboxId) {
        self.connections.borrow_mut().retain(|key, _| key.sandbox() != sandbox);
    }

    /// Lets go of the connections of a sandbox that carry nothing: others need what they allow their upstreams.
    pub fn forget_idle(&self, sandbox: &SandboxId) {
        self.connections.borrow_mut().retain(|key, of_key| {
            if key.sandbox() == sandbox {
                of_key.retain(|shared| shared.streams.get() > 0);
            }
            !of_key.is_empty()
        });
    }

    /// Lets go of the connections on which something was shown that is no longer in force. What they carry goes on to
    /// its end.
    pub fn forget_marks(&self, in_force: impl Fn(&Mark) -> bool) {
        self.connections.borrow_mut().retain(|key, _| key.marks().all(&in_force));
    }

    /// Lets go of all connections: the shard ends.
    pub fn clear(&self) {
        self.connections.take();
    }

    /// How many connections are kept.
    pub fn len(&self) -> usize {
        self.connections.borrow().values().map(Vec::len).sum()
    }

    /// Whether none is kept.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// What somebody does who needs a connection.
pub enum Turn<'a> {
    /// Dials for all who come meanwhile.
    Dial(Box<Dialling<'a>>),
    /// Looks for a place on what another has opened; where others were quicker, asks again.
    Look,
    /// Dials for itself: HTTP/2 is not spoken, or another found nothing to share.
    Own,
}

/// Held by who dials. When it is dropped, those who wait go on.
pub struct Dialling<'a> {
    pool: &'a SharedPool,
    key: Key,
    waiting: Rc<Waiting>,
}

impl Drop for Dialling<'_> {
    fn drop(&mut self) {
        self.pool.dials.borrow_mut().remove(&self.key);
        self.waiting.ended.set(true);
        self.waiting.wakers.take().into_iter().for_each(Waker::wake);
    }
}

#[cfg(test)]
#[path = "shared_tests.rs"]
mod tests;
