//! What other threads ask of the shards about places: who is attached where, what is listened on, who leaves.

use std::{
    hash::BuildHasher,
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

    fn listen(&self, sockets: Vec<Socket>, instead_of: Vec<ListenerId>) -> Result<(), PlaceError> {
        Ok(self.ask(|done| Command::Listen { sockets, instead_of, done })??)
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

/// Sockets that are what they are said to be.
fn checked(
    sockets: Vec<(ListenerId, ListenerKind, OwnedFd)>,
    of: impl Fn(ListenerId) -> Of,
) -> Result<Vec<Socket>, PlaceError> {
    let check = |(listener, kind, socket): (_, _, OwnedFd)| {
        check_passed(kind, socket.as_fd())?;
        Ok(Socket { socket, kind, of: of(listener) })
    };
    sockets.into_iter().map(check).collect()
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
            handle.listen(vec![socket], Vec::new())?;
        }
        Ok(address)
    }

    /// Serves sockets that were passed in for one sandbox, on the sandbox's home, instead of others of it; connections
    /// of those go on. They are the sandbox's while the attachments hold the listeners.
    ///
    /// # Errors
    /// When a descriptor is not what its kind says, or the shard cannot serve it. Then the others stay.
    pub fn listen_captured(
        &self,
        sandbox: &SandboxId,
        sockets: Vec<(ListenerId, ListenerKind, OwnedFd)>,
        instead_of: Vec<ListenerId>,
    ) -> Result<(), PlaceError> {
        let sockets = checked(sockets, |listener| Of::Sandbox(listener, sandbox.clone()))?;
        self.home(sandbox).listen(sockets, instead_of)
    }

    /// Serves sockets that were passed in for many sandboxes, told apart by the address that they come from (or, on a
    /// proxy, by their credentials), instead of others of the same name. One shard accepts and hands over: none is
    /// everybody's home.
    ///
    /// # Errors
    /// As for those of one sandbox.
    pub fn listen_shared(
        &self,
        name: &str,
        sockets: Vec<(ListenerId, ListenerKind, OwnedFd)>,
        instead_of: Vec<ListenerId>,
    ) -> Result<(), PlaceError> {
        let sockets = checked(sockets, |listener| Of::Everyone(Some(listener)))?;
        let place = self.hasher.hash_one(name) % self.handles.len() as u64;
        self.handles[usize::try_from(place).unwrap_or(0)].listen(sockets, instead_of)
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
