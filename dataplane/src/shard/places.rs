//! What other threads ask of the shards about places: who is attached where, what is listened on, who leaves.

use std::{
    io,
    net::SocketAddr,
    os::fd::{AsFd, OwnedFd},
    sync::{Arc, PoisonError, mpsc},
    time::{Duration, Instant},
};

use super::{
    Command, Handle, Shards,
    listeners::{Of, Socket},
};
use crate::{
    flow::core::home_of,
    identity::{Attachments, ListenerId, SandboxId},
    limits::{AUTHORITY_TIME, SHARD_ANSWER_TIME},
    listen::{
        ListenerKind,
        socket::{PassedError, bind_listener, check_passed},
    },
};

/// Why a place could not be changed.
#[derive(Debug, thiserror::Error)]
pub enum PlaceError {
    /// The shard has ended.
    #[error("the plane is stopping; try again when it has been restarted")]
    Gone,
    /// The shard did not answer.
    #[error("a shard of the plane did not answer in time; look at its load, or restart it")]
    Silent,
    /// The descriptor is of no use.
    #[error(transparent)]
    Passed(#[from] PassedError),
    /// The kernel.
    #[error("the socket cannot be served")]
    Socket(#[from] io::Error),
}

impl Handle {
    /// Tells the shard, and waits for its answer. Blocks: never on a shard.
    fn ask<T>(&self, command: impl FnOnce(mpsc::Sender<T>) -> Command) -> Result<T, PlaceError> {
        self.tell(command)?.wait()
    }

    fn tell<T>(&self, command: impl FnOnce(mpsc::Sender<T>) -> Command) -> Result<Answer<T>, PlaceError> {
        let (done, answer) = mpsc::channel();
        self.commands.send_blocking(command(done)).map_err(|_| PlaceError::Gone)?;
        Ok(Answer(answer))
    }
}

/// What a shard will answer.
struct Answer<T>(mpsc::Receiver<T>);

impl<T> Answer<T> {
    fn wait(self) -> Result<T, PlaceError> {
        self.0.recv_timeout(SHARD_ANSWER_TIME).map_err(|error| match error {
            mpsc::RecvTimeoutError::Timeout => PlaceError::Silent,
            mpsc::RecvTimeoutError::Disconnected => PlaceError::Gone,
        })
    }
}

impl Shards {
    fn home(&self, sandbox: &SandboxId) -> &Handle {
        &self.handles[home_of(&self.hasher, self.handles.len(), sandbox)]
    }

    /// Tells every shard who is attached where, and waits until all of them act by it.
    ///
    /// # Errors
    /// When a shard has ended or does not answer in time; others may act by it then.
    pub fn attach(&self, attachments: &Arc<Attachments>) -> Result<(), PlaceError> {
        let told: Result<Vec<_>, _> = self
            .handles
            .iter()
            .map(|handle| handle.tell(|done| Command::Attach(Arc::clone(attachments), done)))
            .collect();
        told?.into_iter().try_for_each(Answer::wait)
    }

    /// Serves an explicit proxy on this address, on every shard. Port 0 becomes one that is free.
    ///
    /// # Errors
    /// When the address cannot be bound.
    pub fn listen_proxy(&self, mut address: SocketAddr) -> Result<SocketAddr, PlaceError> {
        for handle in &self.handles {
            let socket = bind_listener(address)?;
            address = socket2::SockRef::from(&socket).local_addr()?.as_socket().unwrap_or(address);
            let socket = Socket { socket, kind: ListenerKind::Proxy, of: Of::Everyone(None) };
            handle.ask(|done| Command::Listen(socket, done))??;
        }
        Ok(address)
    }

    /// Serves a socket that was passed in for many sandboxes, told apart by the address that they come from (or, on a
    /// proxy, by their credentials). One shard accepts and hands over: no shard is anybody's home here.
    ///
    /// # Errors
    /// When the descriptor is not what its kind says, or the shard cannot serve it.
    pub fn listen_shared(
        &self,
        listener: ListenerId,
        kind: ListenerKind,
        socket: OwnedFd,
    ) -> Result<(), PlaceError> {
        check_passed(kind, socket.as_fd())?;
        let socket = Socket { socket, kind, of: Of::Everyone(Some(listener)) };
        Ok(self.acceptor(listener).ask(|done| Command::Listen(socket, done))??)
    }

    /// Takes no more connections from a listener of many. Those that are open go on.
    ///
    /// # Errors
    /// When the shard has ended or does not answer in time.
    pub fn close_shared(&self, listener: ListenerId) -> Result<(), PlaceError> {
        self.acceptor(listener).ask(|done| Command::Close(vec![listener], done))
    }

    /// Listeners of many lie on the shards in turn.
    fn acceptor(&self, listener: ListenerId) -> &Handle {
        let shards = self.handles.len();
        &self.handles[usize::try_from(listener.0 % shards as u64).unwrap_or(0)]
    }

    /// Serves a socket that was passed in for one sandbox, on the sandbox's home. Its connections are the sandbox's
    /// while the attachments hold the listener.
    ///
    /// # Errors
    /// When the descriptor is not what its kind says, or the shard cannot serve it.
    pub fn listen_captured(
        &self,
        listener: ListenerId,
        kind: ListenerKind,
        socket: OwnedFd,
        sandbox: &SandboxId,
    ) -> Result<(), PlaceError> {
        check_passed(kind, socket.as_fd())?;
        let of = Of::Sandbox(listener, sandbox.clone());
        Ok(self.home(sandbox).ask(|done| Command::Listen(Socket { socket, kind, of }, done))??)
    }

    /// Takes no more connections from these listeners of a sandbox. Those that are open go on.
    ///
    /// # Errors
    /// When the shard has ended or does not answer in time.
    pub fn close(&self, sandbox: &SandboxId, listeners: Vec<ListenerId>) -> Result<(), PlaceError> {
        self.home(sandbox).ask(|done| Command::Close(listeners, done))
    }

    /// Closes every listener of a sandbox and ends all of its connections. The attachments must not hold it any more.
    /// Answers how many connections there were.
    ///
    /// # Errors
    /// When the shard has ended or does not answer in time.
    pub fn detach(&self, sandbox: &SandboxId) -> Result<usize, PlaceError> {
        self.home(sandbox).ask(|done| Command::Detach(sandbox.clone(), done))
    }

    /// Waits until a sandbox's authority has its certificate, so that `ca.pem` is there before the first connection;
    /// for a bounded time, since control must store it.
    ///
    /// # Errors
    /// When the shard has ended or does not answer in time.
    pub fn certify(&self, sandbox: &SandboxId) -> Result<(), PlaceError> {
        let Answer(answer) = self.home(sandbox).tell(|done| Command::Certify(sandbox.clone(), done))?;
        answer.recv_timeout(AUTHORITY_TIME + SHARD_ANSWER_TIME).map_err(|_| PlaceError::Silent)
    }

    /// Waits until every shard enforces tables that hold a sandbox. Answers their revision; `None` when the time is
    /// over.
    pub fn wait_for(&self, sandbox: &SandboxId, patience: Duration) -> Option<u64> {
        let end = Instant::now() + patience;
        // The revision to wait for stays the same while others follow, or a stream of changes would never let it end.
        let mut due: Option<u64> = None;
        let mut handed = self.progress.handed();
        loop {
            let newest = handed.back().filter(|tables| tables.sandboxes.get(sandbox.as_str()).is_some());
            due = newest.map(|tables| due.unwrap_or(tables.revision));
            if let Some(revision) = due.filter(|revision| self.progress.least() >= *revision) {
                return Some(revision);
            }
            let left = end.checked_duration_since(Instant::now()).filter(|left| !left.is_zero())?;
            let waited = self.progress.moved.wait_timeout(handed, left);
            handed = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}
