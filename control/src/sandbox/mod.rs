//! The sandbox of `outgate run`: namespaces, mounts and a filter around one program, made by an ordinary user.
//!
//! Three steps, so that the plane can be got ready meanwhile. [`Sandbox::make`] leaves the machine and answers the
//! listeners that catch everything the sandbox sends; the caller attaches them to a plane and gets the certificate of
//! the sandbox's authority. [`Sandbox::start`] furnishes it and starts the program. [`Running::wait`] tells the end.
//!
//! ```text
//! run ── process that leaves the machine's namespaces ── first process inside ── the program, and all it starts
//! ```
//!
//! The program has the caller's own user, no capability, `no_new_privs`; a network that has nothing but loopback; no
//! socket of the machine that was there when it started. What it can still do is to write the caller's files, whose
//! effects outlive the sandbox (a shell's start file), and to connect to sockets that appear later in folders which it
//! shares with the machine.
//!
//! The kernel ends all of it when `run` dies, however it dies. Whoever uses this calls [`process`] first of all in its
//! `main`, since the processes inside are started from the same program.

mod limits;
pub(crate) mod system;
pub(crate) mod netlink;
mod nftables;
pub(crate) mod namespace;
mod capture;
mod exposed;
mod refusal;
mod word;
mod terminal;
mod mounts;
mod pkcs12;
mod nss;
mod trust;
mod names;
pub mod environment;
pub mod credentials;
mod filter;
mod privileges;
mod lend;
mod freeze;
mod init;
mod streams;
mod supervise;

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use control_wire::attach::ListenerKind;
use rustix::process::{DumpableBehavior, set_dumpable_behavior};

pub use capture::OWN_ADDRESSES;
pub use environment::{Environment, Hidden, Removed, environment};
pub use lend::{Lender, Lent};
pub use refusal::{Machine, Refusal};
pub use trust::{Trust, TrustError, make_room_for_chromium};
pub use word::End;

use supervise::{News, Supervised};
use word::{Bytes, Fault, Furniture};

/// First argument of the process that leaves the machine's namespaces.
pub const INSIDE_COMMAND: &str = "sandbox-inside";

/// Runs a process of a sandbox where the first argument is its name.
pub fn process(arguments: &[String]) -> Option<ExitCode> {
    (arguments.first()? == INSIDE_COMMAND).then(init::main)
}

/// Closes this process's memory to everyone else of the same user (ptrace(2)). Processes that it starts are not closed.
///
/// # Errors
/// What the kernel says.
pub fn close_to_others() -> io::Result<()> {
    Ok(set_dumpable_behavior(DumpableBehavior::NotDumpable)?)
}

/// Why there is no sandbox, or no program in it.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// The machine allows none.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// One step of it failed.
    #[error("the sandbox cannot be made: {step}: {error}")]
    Step {
        /// Which.
        step: String,
        /// What the kernel said.
        error: String,
    },
    /// The program cannot be started.
    #[error("cannot start {}", program.display())]
    Program {
        /// As it was given.
        program: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The folder to start it in cannot be entered inside.
    #[error("the sandbox has no folder {}; start from one that is not covered", directory.display())]
    Folder {
        /// As it was given.
        directory: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A standard stream belongs to the machine's mounts or networks, and leads on into them.
    #[error(
        "standard {name} is {kind}, and a program inside could leave through it; give it a pipe: … | cat"
    )]
    Stream {
        /// Which.
        name: &'static str,
        /// What it is.
        kind: &'static str,
    },
    /// A file that is to be hidden cannot be.
    #[error("cannot hide {}", path.display())]
    Hide {
        /// As it was given.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file that is to be hidden has other names, under which it would be seen.
    #[error("cannot hide {}: it has {names} names (hard links); make a copy with one name", path.display())]
    Linked {
        /// As it was given.
        path: PathBuf,
        /// How many.
        names: u64,
    },
    /// The sandbox's processes were killed by someone.
    #[error("the sandbox's first process was killed from outside")]
    Lost,
}

impl SandboxError {
    /// The status by which a shell tells that a program could not be started: 127 where there is none, 126 where it may
    /// not be run; 125 where the fault is not the program's.
    pub fn status(&self) -> u8 {
        match self {
            Self::Program { source, .. } if source.kind() == io::ErrorKind::NotFound => 127,
            Self::Program { .. } => 126,
            Self::Lost => 137,
            _ => 125,
        }
    }
}

impl From<Fault> for SandboxError {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Refused(refusal) => Self::Refused(refusal),
            Fault::Step { step, error } => Self::Step { step, error },
            // The caller knows their names.
            Fault::Program { errno } => Self::program(&OsString::new(), errno),
            Fault::Folder { errno } => {
                Self::Folder { directory: PathBuf::new(), source: io::Error::from_raw_os_error(errno) }
            }
        }
    }
}

impl SandboxError {
    fn program(program: &OsString, errno: i32) -> Self {
        Self::Program { program: program.into(), source: io::Error::from_raw_os_error(errno) }
    }
}

/// A program and what it finds inside.
#[derive(Debug)]
pub struct World {
    /// The program: a path, or a name that is looked for in the `PATH` of its environment.
    pub program: OsString,
    /// Its arguments.
    pub arguments: Vec<OsString>,
    /// The folder in which it starts.
    pub directory: PathBuf,
    /// Its variables, as [`environment()`] computes them.
    pub environment: Vec<(OsString, OsString)>,
    /// Files of trust, as [`Trust::new`] makes them for [`folder`].
    pub trust: Trust,
    /// Files and folders that must not be seen, links followed. A file that is replaced while the program runs is seen
    /// again.
    pub hidden: Vec<PathBuf>,
    /// Hidden too, and in use by whoever runs the sandbox: no folder above it can be renamed, and another put in its
    /// place. What is moved from one of those to another is copied, as between two file systems.
    pub kept: Option<PathBuf>,
}

/// The folder that only a sandbox has, for [`Trust::new`].
///
/// # Errors
/// On a machine that has none of the folders below which it could be.
pub fn folder() -> Result<PathBuf, SandboxError> {
    mounts::folder().ok_or_else(|| SandboxError::Step {
        step: "find a folder for the sandbox's own files".into(),
        error: "none of /dev/shm, /media, /mnt, /srv exists".into(),
    })
}

/// A sandbox without a program. Dropped, it is gone.
pub struct Sandbox {
    supervised: Supervised,
    listeners: Vec<(ListenerKind, OwnedFd)>,
    took: Duration,
}

impl Sandbox {
    /// Makes one; answers when its listeners are there.
    ///
    /// # Errors
    /// Why the machine allows none, or the step that failed.
    pub fn make() -> Result<Self, SandboxError> {
        let supervised = Supervised::start()?;
        match supervised.next()? {
            News::Ready { listeners, micros } => {
                Ok(Self { supervised, listeners, took: Duration::from_micros(micros) })
            }
            _ => Err(SandboxError::Lost),
        }
    }

    /// What catches its traffic: every TCP port, and names over TCP and UDP. The listeners are answered once; whoever
    /// holds one keeps the sandbox's network alive.
    pub fn take_listeners(&mut self) -> Vec<(ListenerKind, OwnedFd)> {
        std::mem::take(&mut self.listeners)
    }

    /// How long it took inside, from the start of its first process to its listeners.
    pub fn took(&self) -> Duration {
        self.took
    }

    /// Furnishes it and starts the program, with the caller's standard streams. From here on, SIGHUP, SIGINT, SIGQUIT,
    /// SIGTERM, SIGUSR1 and SIGUSR2 go to the program, unless the caller ignores them; a terminal's foreground is the
    /// program's until it ends, and this process stops with it.
    ///
    /// # Errors
    /// When something cannot be hidden, the step that failed, or why the program does not start.
    pub fn start(self, world: World) -> Result<Running, SandboxError> {
        let Self { mut supervised, .. } = self;
        let step = |error: io::Error| SandboxError::Step {
            step: "tell what to start".into(),
            error: error.to_string(),
        };
        streams::check()?;
        let (program, directory) = (world.program.clone(), world.directory.clone());
        let furniture = furniture(world)?.write().map_err(step)?;
        let stdin = io::stdin().as_fd().try_clone_to_owned().map_err(step)?;
        supervised.order_start(&furniture, &stdin).map_err(step)?;
        match supervised.next() {
            Ok(News::Started) => Ok(Running { supervised }),
            Ok(_) => Err(SandboxError::Lost),
            Err(SandboxError::Program { source, .. }) => {
                Err(SandboxError::Program { program: program.into(), source })
            }
            Err(SandboxError::Folder { source, .. }) => Err(SandboxError::Folder { directory, source }),
            Err(error) => Err(error),
        }
    }
}

/// A program in its sandbox. Dropped, both are gone.
pub struct Running {
    supervised: Supervised,
}

impl Running {
    /// Waits for the program's end, with which everything else inside ends.
    ///
    /// # Errors
    /// When the sandbox was killed by someone else.
    pub fn wait(self) -> Result<End, SandboxError> {
        match self.supervised.next()? {
            News::Ended(end) => Ok(end),
            _ => Err(SandboxError::Lost),
        }
    }

    /// Something with which another thread can ask the person at the terminal.
    pub fn lender(&self) -> Lender {
        Lender(self.supervised.desk())
    }

    /// Something with which another thread can end it; [`Running::wait`] then fails.
    pub fn ender(&self) -> Ender {
        Ender(self.supervised.socket())
    }
}

/// Ends a sandbox from elsewhere.
#[derive(Clone, Debug)]
pub struct Ender(Arc<OwnedFd>);

impl Ender {
    /// Ends everything inside at once.
    pub fn end(&self) {
        // One that is gone needs none.
        let _gone = rustix::net::shutdown(&*self.0, rustix::net::Shutdown::Both);
    }
}

fn furniture(world: World) -> Result<Furniture, SandboxError> {
    let covers = world.trust.covers.into_iter().map(|(name, over)| (name, over.into_os_string()));
    let (mut files, mut covers) = (Vec::new(), covers.collect::<Vec<_>>());
    files.extend(world.trust.files.into_iter().map(|(name, bytes)| (name, Bytes(bytes))));
    for (name, text, over) in [Some(names::resolver()), names::services()].into_iter().flatten() {
        files.push((name.to_owned(), Bytes(text.into_bytes())));
        covers.push((name.to_owned(), over.into()));
    }
    let folders = world.trust.folders.into_iter().map(|(path, files)| {
        (path.into(), files.into_iter().map(|(name, bytes)| (name, Bytes(bytes))).collect())
    });
    let kept = world.kept.map(|path| hideable(&path)).transpose()?.flatten();
    let hidden = world.hidden.into_iter().chain(kept.clone()).collect::<Vec<_>>();
    let hidden = hidden_everywhere(&hidden)?;
    Ok(Furniture {
        files,
        covers,
        folders: folders.collect(),
        kept: kept.map(|path| renamable(&path)).unwrap_or_default(),
        hidden,
        program: world.program,
        arguments: world.arguments,
        environment: world.environment,
        directory: world.directory.into(),
        foreground: terminal::Terminal::open().is_some_and(|terminal| terminal.is_ours()),
    })
}

/// All paths by which the files could be seen that are to be hidden.
fn hidden_everywhere(wanted: &[PathBuf]) -> Result<Vec<OsString>, SandboxError> {
    let points = exposed::mount_points()
        .map_err(|error| SandboxError::Step { step: "read the mounts".into(), error: error.to_string() })?;
    let mut paths = Vec::new();
    for path in wanted {
        if let Some(path) = hideable(path)? {
            paths.extend(exposed::elsewhere(&path, &points));
            paths.push(path);
        }
    }
    Ok(paths.into_iter().map(OsString::from).collect())
}

/// Folders above this path that the user may rename, from the top: those that lie in a folder which it may write.
fn renamable(path: &Path) -> Vec<OsString> {
    let above = path.ancestors().skip(1).filter(|folder| {
        folder.parent().is_some_and(|parent| rustix::fs::access(parent, rustix::fs::Access::WRITE_OK).is_ok())
    });
    let mut above: Vec<_> = above.map(OsString::from).collect();
    above.reverse();
    above
}

/// Where a file is that is to be hidden; it must have no other name. A pipe, as of a shell's `<(…)`, was read and holds
/// nothing any more.
fn hideable(path: &Path) -> Result<Option<PathBuf>, SandboxError> {
    let fault = |source| SandboxError::Hide { path: path.to_owned(), source };
    let found = path.metadata().map_err(fault)?;
    if std::os::unix::fs::FileTypeExt::is_fifo(&found.file_type()) {
        return Ok(None);
    }
    match std::os::unix::fs::MetadataExt::nlink(&found) {
        names @ 2.. if found.is_file() => Err(SandboxError::Linked { path: path.to_owned(), names }),
        _ => path.canonicalize().map(Some).map_err(fault),
    }
}
