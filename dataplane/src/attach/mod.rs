//! The plane's local socket: orchestrators on this machine say which sandbox is at which place of it.
//!
//! Threads of its own: nothing here runs on a shard. The protocol is that of [`control_wire::attach`].

mod book;
mod client;
mod keeper;
mod wanted;

use std::{
    collections::HashMap,
    fs, io,
    net::Shutdown,
    os::unix::{
        fs::{FileTypeExt, MetadataExt, PermissionsExt},
        net::{UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread::{self, JoinHandle},
};

use control_wire::attach::{Answer, Problem};

use crate::{limits::ATTACH_CLIENTS_MAX, shard::Shards};
use book::Book;

pub use keeper::{Keeper, wait_until_gone};

/// Why the local socket is not served.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// Another plane serves there.
    #[error("{} is served by another process; stop it or set another attachSocket", path.display())]
    InUse {
        /// The socket.
        path: PathBuf,
    },
    /// Something else lies there.
    #[error("{} is there and is no socket; remove it or set another attachSocket", path.display())]
    NoSocket {
        /// The path.
        path: PathBuf,
    },
    /// The file system.
    #[error("cannot listen on {}; does its folder exist, and may this user write there?", path.display())]
    Bind {
        /// The socket.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// No thread.
    #[error("cannot start a thread for the local socket")]
    Thread(#[source] io::Error),
    /// The keeper is not what it should be.
    #[error(
        "cannot take over what the keeper holds; start the plane by `outgate serve`, or unset OUTGATE_KEEPER"
    )]
    Keeper(#[source] io::Error),
}

/// The served socket. Dropped, it is no longer served and its file is removed; what is attached stays so until the
/// shards stop.
pub struct Server {
    path: PathBuf,
    /// Device and number of the file, so that another's is not removed.
    file: (u64, u64),
    shared: Arc<Shared>,
    accepting: Option<JoinHandle<()>>,
}

/// Takes over what the keeper holds, then serves the socket at `path` with mode 0600, to root and to this user.
///
/// Listeners that were taken over serve at once; their sandboxes are refused until their policy arrives.
///
/// # Errors
/// [`AttachError`]; the socket of a plane that died is replaced, that of one that lives is not.
pub fn start(path: &Path, shards: Arc<Shards>, keeper: Option<Keeper>) -> Result<Server, AttachError> {
    let book = Book::open(shards, keeper).map_err(AttachError::Keeper)?;
    let (listener, file) = bind(path)?;
    let shared = Arc::new(Shared { listener, book, clients: Mutex::default() });
    let serving = Arc::clone(&shared);
    let accepting = thread::Builder::new().name("attach".into()).spawn(move || serving.accept());
    let accepting = accepting.map_err(AttachError::Thread)?;
    shared.book.tell_serving();
    Ok(Server { path: path.to_owned(), file, shared, accepting: Some(accepting) })
}

/// Takes the path from a plane that died, never from one that lives.
fn bind(path: &Path) -> Result<(UnixListener, (u64, u64)), AttachError> {
    let fault = |source| AttachError::Bind { path: path.to_owned(), source };
    match fs::symlink_metadata(path) {
        Ok(found) if !found.file_type().is_socket() => {
            return Err(AttachError::NoSocket { path: path.to_owned() });
        }
        Ok(_) if UnixStream::connect(path).is_ok() => {
            return Err(AttachError::InUse { path: path.to_owned() });
        }
        Ok(_) => fs::remove_file(path).map_err(fault)?,
        Err(_) => {}
    }
    let listener = UnixListener::bind(path).map_err(fault)?;
    // Between the two calls others may connect; their credentials are checked whatever the mode is.
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).map_err(fault)?;
    let found = fs::symlink_metadata(path).map_err(fault)?;
    Ok((listener, (found.dev(), found.ino())))
}

/// What the accepting thread and those of clients share.
struct Shared {
    listener: UnixListener,
    book: Book,
    clients: Mutex<Clients>,
}

#[derive(Default)]
struct Clients {
    stopping: bool,
    next: u64,
    open: HashMap<u64, (UnixStream, Option<JoinHandle<()>>)>,
}

impl Shared {
    /// Takes clients until the listener is shut down.
    fn accept(self: &Arc<Self>) {
        loop {
            match self.listener.accept() {
                Ok((socket, _)) => self.admit(socket),
                Err(_) if self.clients().stopping => return,
                // Out of descriptors, most likely: clients wait in the backlog meanwhile.
                Err(_) => thread::sleep(crate::limits::ACCEPT_PAUSE),
            }
        }
    }

    /// Gives a client a thread, if there is room and it may speak to us.
    fn admit(self: &Arc<Self>, socket: UnixStream) {
        let mut clients = self.clients();
        if clients.stopping {
            return;
        }
        let refused = if !client::is_trusted(&socket) {
            let remedy = "call as root or as the user of the plane";
            Some(Problem::new("forbidden", "the local socket is not for this user", remedy))
        } else if clients.open.len() >= ATTACH_CLIENTS_MAX {
            let detail = format!("{ATTACH_CLIENTS_MAX} clients are connected already");
            Some(Problem::new("too_many_clients", detail, "use one connection for many requests"))
        } else {
            None
        };
        if let Some(problem) = refused {
            client::tell(&socket, &Answer::Refused(problem));
            return;
        }
        let Ok(kept) = socket.try_clone() else { return };
        let number = clients.next;
        clients.next += 1;
        let shared = Arc::clone(self);
        let thread = thread::Builder::new().name("attach-client".into()).spawn(move || {
            client::serve(&shared.book, &socket);
            shared.clients().open.remove(&number);
        });
        // The thread cannot leave before it is entered: leaving takes the lock that is held here.
        if let Ok(thread) = thread {
            clients.open.insert(number, (kept, Some(thread)));
        }
    }

    fn clients(&self) -> MutexGuard<'_, Clients> {
        self.clients.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let found = fs::symlink_metadata(&self.path);
        if found.is_ok_and(|found| (found.dev(), found.ino()) == self.file) {
            // Another may have removed it in between; it is gone either way.
            let _gone = fs::remove_file(&self.path);
        }
        let mut clients = self.shared.clients();
        clients.stopping = true;
        let threads: Vec<_> = clients.open.values_mut().filter_map(|(_, thread)| thread.take()).collect();
        for (socket, _) in clients.open.values() {
            // Fails where the client has gone already.
            let _gone = socket.shutdown(Shutdown::Both);
        }
        drop(clients);
        // Wakes the accepting thread.
        let _woken = rustix::net::shutdown(&self.shared.listener, rustix::net::Shutdown::Both);
        for thread in self.accepting.take().into_iter().chain(threads) {
            // A thread that panicked has said so on standard error.
            let _ended = thread.join();
        }
    }
}
