//! The listeners of one shard: opened and closed by command, each a task that hands out connections.

use std::{
    cell::RefCell, collections::HashMap, io, net::SocketAddr, os::fd::OwnedFd, panic::AssertUnwindSafe,
    pin::Pin, rc::Rc, sync::mpsc,
};

use futures_lite::FutureExt as _;
use futures_util::FutureExt as _;
use glommio::Task;

use super::{
    Command,
    names::{self, Queries},
};
use crate::{
    causes::tell,
    flow::{
        connection::{Way, record, serve},
        core::Core,
        tie::{Tie, Ties},
    },
    identity::{ListenerId, SandboxId},
    listen::{
        ListenerKind,
        socket::{self, DestinationError},
    },
    respond::Refusal,
    ring::{Datagram, Listener, Scope, Stream},
};

/// A socket that a shard is to serve.
pub(super) struct Socket {
    pub socket: OwnedFd,
    pub kind: ListenerKind,
    pub of: Of,
}

/// Whose connections a listener takes.
#[derive(Clone)]
pub(super) enum Of {
    /// Those of one sandbox, whose home is here.
    Sandbox(ListenerId, SandboxId),
    /// Those of everyone; the connection says whose it is. One without a number stays open until the shard stops.
    Everyone(Option<ListenerId>),
}

impl Of {
    fn owner(&self) -> Option<&SandboxId> {
        match self {
            Self::Sandbox(_, sandbox) => Some(sandbox),
            Self::Everyone(_) => None,
        }
    }
}

/// What a shard listens on.
pub(super) struct Listeners {
    core: Rc<Core>,
    connections: Scope,
    /// Those that were passed in.
    open: RefCell<HashMap<ListenerId, Held>>,
    /// Those that stay open until the shard stops.
    lasting: RefCell<Vec<Held>>,
}

/// One that is listened on.
struct Held {
    of: Of,
    task: Task<()>,
    /// Cut, it takes no more.
    ties: Rc<Ties>,
}

impl Held {
    /// Takes no more; what was accepted is served. The kernel has let go of the socket when this returns, so another
    /// may listen on it.
    async fn end(self) {
        self.ties.cut();
        self.task.await;
    }
}

impl Listeners {
    /// None yet. What they accept is served in `connections`.
    pub(super) fn new(core: Rc<Core>, connections: Scope) -> Self {
        Self { core, connections, open: RefCell::default(), lasting: RefCell::default() }
    }

    /// Closes all of them.
    pub(super) async fn end(&self) {
        let open = self.open.take().into_values();
        for held in open.chain(self.lasting.take()) {
            held.end().await;
        }
    }

    /// Does what the shard is told. False: it is to stop.
    pub(super) async fn obey(&self, command: Command) -> bool {
        // Who asked may have stopped waiting; then nobody misses the answer.
        match command {
            Command::Arrive(moved) => {
                if let Ok(stream) = Stream::from_parts(moved.socket, moved.bytes) {
                    spawn(&self.core, &self.connections, stream, moved.way);
                }
            }
            Command::Attach(attachments, done) => {
                self.core.attach(attachments);
                let _gone = done.send(());
            }
            Command::Listen { sockets, instead_of, done } => {
                let _gone = done.send(self.listen(sockets, &instead_of).await);
            }
            Command::Detach(sandbox, done) => {
                let leaves = |held: &Held| matches!(&held.of, Of::Sandbox(_, holder) if *holder == sandbox);
                let left: Vec<_> = self.open.borrow_mut().extract_if(|_, held| leaves(held)).collect();
                for (_, held) in left {
                    held.end().await;
                }
                let _gone = done.send(self.core.detach(&sandbox));
            }
            Command::Certify(sandbox, done) => {
                self.connections.spawn(certify(Rc::clone(&self.core), sandbox, done));
            }
            Command::Stop => return false,
        }
        true
    }

    /// Listens on sockets instead of others; when one of them cannot be served, the others stay. The others end first:
    /// two that accept from the same socket take each other's wake-ups.
    async fn listen(&self, sockets: Vec<Socket>, instead_of: &[ListenerId]) -> io::Result<()> {
        let ready: io::Result<Vec<_>> = sockets.into_iter().map(|socket| self.prepare(socket)).collect();
        let ready = ready?;
        for listener in instead_of {
            let replaced = self.open.borrow_mut().remove(listener);
            if let Some(held) = replaced {
                held.end().await;
            }
        }
        for (of, ties, task) in ready {
            let held = Held { of: of.clone(), task: glommio::spawn_local(task), ties };
            match of {
                Of::Sandbox(listener, _) | Of::Everyone(Some(listener)) => {
                    self.open.borrow_mut().insert(listener, held);
                }
                Of::Everyone(None) => self.lasting.borrow_mut().push(held),
            }
        }
        Ok(())
    }

    /// Whatever may fail about a listener; it waits for nothing yet.
    fn prepare(&self, Socket { socket, kind, of }: Socket) -> io::Result<(Of, Rc<Ties>, Serving)> {
        let (core, connections) = (Rc::clone(&self.core), self.connections.clone());
        let ties = Rc::new(Ties::default());
        let tie = ties.tie();
        let task: Serving = match (kind, of.clone()) {
            (ListenerKind::DnsUdp, Of::Sandbox(_, sandbox)) => {
                let socket = Datagram::from_fd(socket)?;
                Box::pin(async move {
                    let _cut = tie.hold(names::serve_datagrams(core, socket, sandbox)).await;
                })
            }
            (ListenerKind::DnsTcp, Of::Sandbox(_, sandbox)) => {
                let listener = Listener::from_fd(socket)?;
                let mut queries = Queries::new(core, connections, sandbox);
                Box::pin(async move { each(listener, tie, |stream| queries.take(stream)).await })
            }
            (ListenerKind::DnsUdp | ListenerKind::DnsTcp, Of::Everyone(_)) => {
                return Err(io::Error::new(io::ErrorKind::Unsupported, "name queries are of one sandbox"));
            }
            (_, of) => {
                let listener = Listener::from_fd(socket)?;
                // A Unix socket has none, and needs none.
                let bound = listener.local_addr().ok();
                let take = move |stream: Stream| match way(&of, kind, bound, &stream) {
                    Ok(way) => spawn(&core, &connections, stream, way),
                    // Dropped, it is closed: a connection to the listener itself goes nowhere.
                    Err(error) => record(&core, of.owner(), None, &Refusal::from(&error)),
                };
                Box::pin(each(listener, tie, take))
            }
        };
        Ok((of, ties, task))
    }
}

/// What serves one socket until it is told to leave.
type Serving = Pin<Box<dyn Future<Output = ()>>>;

/// Gives every connection away until the tie is cut or the listener fails for good.
async fn each(listener: Listener, tie: Tie, mut take: impl FnMut(Stream)) {
    while let Some(Ok(stream)) = tie.hold(listener.accept()).await {
        take(stream);
    }
    while let Some(stream) = listener.drain().await {
        take(stream);
    }
}

/// How a connection came.
fn way(
    of: &Of,
    kind: ListenerKind,
    bound: Option<SocketAddr>,
    stream: &Stream,
) -> Result<Way, DestinationError> {
    match (of, kind) {
        (Of::Everyone(_), ListenerKind::Proxy) => Ok(Way::Proxy),
        (Of::Sandbox(listener, _), ListenerKind::Proxy) => Ok(Way::OwnProxy { listener: *listener }),
        (of, kind) => {
            let bound = bound.ok_or(DestinationError::NamedByClient)?;
            let local = stream.local_addr().map_err(DestinationError::Ended)?;
            let destination = socket::destination(kind, bound, local, || stream.original_destination())?;
            Ok(match of {
                Of::Sandbox(listener, _) => Way::Captured { listener: *listener, destination },
                Of::Everyone(_) => Way::Shared { destination },
            })
        }
    }
}

/// Sees that a sandbox's authority has its certificate, and says when that is over.
async fn certify(core: Rc<Core>, sandbox: SandboxId, done: mpsc::Sender<()>) {
    if let Ok(admission) = core.admit(&sandbox) {
        // What keeps it from being made is told to whoever connects, and is tried again then.
        let _made = core.terminator(admission.resident()).await;
    }
    let _gone = done.send(());
}

/// Serves a connection in a task of its own. A panic ends that task alone.
fn spawn(core: &Rc<Core>, connections: &Scope, stream: Stream, way: Way) {
    let serving = AssertUnwindSafe(serve(Rc::clone(core), stream, way)).catch_unwind();
    connections.spawn(serving.map(|ended| {
        if ended.is_err() {
            tell("a connection ended by a mistake of ours; the others go on");
        }
    }));
}
