//! The listeners of one shard: opened and closed by command, each a task that hands out connections.

use std::{
    cell::RefCell, collections::HashMap, io, os::fd::OwnedFd, panic::AssertUnwindSafe, rc::Rc, sync::mpsc,
};

use futures_lite::FutureExt as _;
use glommio::Task;

use super::{Command, names};
use crate::{
    flow::{
        connection::{Way, serve},
        core::Core,
    },
    identity::{ListenerId, SandboxId},
    listen::{ListenerKind, socket},
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

/// What a shard listens on.
pub(super) struct Listeners {
    core: Rc<Core>,
    connections: Scope,
    /// Those that were passed in. A task that is dropped takes no more connections, and closes its socket.
    open: RefCell<HashMap<ListenerId, (Of, Task<()>)>>,
    /// Those that stay open until the shard stops.
    lasting: RefCell<Vec<Task<()>>>,
}

impl Listeners {
    /// None yet. What they accept is served in `connections`.
    pub(super) fn new(core: Rc<Core>, connections: Scope) -> Self {
        Self { core, connections, open: RefCell::default(), lasting: RefCell::default() }
    }

    /// Closes all of them.
    pub(super) async fn end(&self) {
        let open = self.open.take().into_values().map(|(_, task)| task);
        for task in open.chain(self.lasting.take()) {
            task.cancel().await;
        }
    }

    /// Does what the shard is told. False: it is to stop.
    pub(super) fn obey(&self, command: Command) -> bool {
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
            Command::Listen(socket, done) => {
                let _gone = done.send(self.open(socket));
            }
            Command::Close(listeners, done) => {
                let mut open = self.open.borrow_mut();
                listeners.iter().for_each(|listener| drop(open.remove(listener)));
                let _gone = done.send(());
            }
            Command::Detach(sandbox, done) => {
                let leaves = |of: &Of| matches!(of, Of::Sandbox(_, holder) if *holder == sandbox);
                self.open.borrow_mut().retain(|_, (of, _)| !leaves(of));
                let _gone = done.send(self.core.detach(&sandbox));
            }
            Command::Certify(sandbox, done) => {
                self.connections.spawn(certify(Rc::clone(&self.core), sandbox, done));
            }
            Command::Stop => return false,
        }
        true
    }

    fn open(&self, Socket { socket, kind, of }: Socket) -> io::Result<()> {
        let (core, connections) = (Rc::clone(&self.core), self.connections.clone());
        let task = match (kind, of.clone()) {
            (ListenerKind::DnsUdp, Of::Sandbox(_, sandbox)) => {
                let socket = Datagram::from_fd(socket)?;
                glommio::spawn_local(names::serve_datagrams(core, socket, sandbox))
            }
            (ListenerKind::DnsTcp, Of::Sandbox(_, sandbox)) => {
                let listener = Listener::from_fd(socket)?;
                glommio::spawn_local(names::serve_listener(core, connections, listener, sandbox))
            }
            (ListenerKind::DnsUdp | ListenerKind::DnsTcp, Of::Everyone(_)) => {
                return Err(io::Error::new(io::ErrorKind::Unsupported, "name queries are of one sandbox"));
            }
            (_, of) => glommio::spawn_local(accept(core, connections, Listener::from_fd(socket)?, kind, of)),
        };
        match of {
            Of::Sandbox(listener, _) | Of::Everyone(Some(listener)) => {
                self.open.borrow_mut().insert(listener, (of, task));
            }
            Of::Everyone(None) => self.lasting.borrow_mut().push(task),
        }
        Ok(())
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

/// Takes connections from one listener until it fails for good.
async fn accept(core: Rc<Core>, connections: Scope, listener: Listener, kind: ListenerKind, of: Of) {
    // A Unix socket has none, and needs none.
    let bound = listener.local_addr();
    while let Ok(stream) = listener.accept().await {
        let way = match (&of, kind) {
            (Of::Everyone(_), ListenerKind::Proxy) => Way::Proxy,
            (Of::Sandbox(listener, _), ListenerKind::Proxy) => Way::OwnProxy { listener: *listener },
            (of, kind) => {
                let (Ok(bound), Ok(local)) = (&bound, stream.local_addr()) else { continue };
                let Ok(destination) =
                    socket::destination(kind, *bound, local, || stream.original_destination())
                else {
                    // A connection to the listener itself has no destination; dropping it closes it.
                    continue;
                };
                match of {
                    Of::Sandbox(listener, _) => Way::Captured { listener: *listener, destination },
                    Of::Everyone(_) => Way::Shared { destination },
                }
            }
        };
        spawn(&core, &connections, stream, way);
    }
}

/// Serves a connection in a task of its own. A panic ends that task alone.
fn spawn(core: &Rc<Core>, connections: &Scope, stream: Stream, way: Way) {
    let core = Rc::clone(core);
    connections.spawn(async move {
        if AssertUnwindSafe(serve(&core, stream, way)).catch_unwind().await.is_err() {
            eprintln!("outgate-dataplane: a connection ended by a mistake of ours; the others go on");
        }
    });
}
