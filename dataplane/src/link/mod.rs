//! The link to control over QUIC: the plane joins; then a thread receives revisions in order, acknowledges and renews.
//!
//! Everything that control says arrives as a [`LinkEvent`] in the order in which it was said, on the link's thread.
//! After a loss the link comes back with the last revision that was applied and is sent only what changed since; a
//! revision that could not be applied ends the connection, and the next one begins with a whole snapshot.

mod connect;
mod held;
mod identity;
mod join;
mod questions;
mod session;

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::{fmt, io};

use control_wire::codec::WireError;
use control_wire::message::ToControl;
use control_wire::question::{Answer, Question};
use control_wire::row::Op;
use tokio::sync::mpsc;
use zeroize::Zeroizing;

use crate::approval::Withdrawal;
use crate::causes::tell;
use crate::clock::Lease;
use crate::limits::{LINK_OUTGOING_MAX, LINK_PAUSE_MAX};
use crate::snapshot::ApplyError;
use crate::tls::{HandoverError, MasterError};
use held::Held;
pub use join::{Member, enter};
use questions::Questions;
use session::Rejections;

/// What the link is told at start.
pub struct LinkConfig {
    /// UDP address of control.
    pub control: SocketAddr,
    /// This plane's name.
    pub plane: String,
    /// Folder of the plane's key and certificate and of the pool's sealed master; made with mode 0700.
    pub identity: PathBuf,
    /// One-time token: needed while the folder holds no identity, and to join again after a removal or at another
    /// control.
    pub join_token: Option<Zeroizing<String>>,
    /// Target triple, for which control compiles handlers.
    pub triple: String,
    /// CPU features that compiled code may use.
    pub cpu_features: Vec<String>,
    /// Version of Wasmer.
    pub wasmer: String,
    /// Renewed by the link, read by the shards.
    pub lease: Arc<Lease>,
}

/// What control said, or what became of the link.
#[derive(Debug)]
pub enum LinkEvent {
    /// Who the plane is. Comes before everything else, and again when it had to join anew.
    Joined {
        /// Public key, Ed25519, by which envelopes of handlers are checked.
        handler_key: [u8; 32],
    },
    /// The link is open.
    Connected,
    /// All rows of one revision: whatever was held before is replaced. Every envelope is [`Envelope::Here`] and has
    /// the hash that its row names. One without rows comes when control has removed this plane, which is to refuse
    /// everything then.
    ///
    /// [`Envelope::Here`]: control_wire::row::Envelope::Here
    Snapshot {
        /// The plane's number of the revision: larger than any before, or 0 while there are no rows at all.
        revision: u64,
        /// Upserts only.
        ops: Vec<Op>,
    },
    /// The changes from the revision delivered before to this one.
    Delta {
        /// The plane's number of the revision: larger than any before.
        revision: u64,
        /// Its changes.
        ops: Vec<Op>,
    },
    /// A person has answered a question of this plane.
    Answer(Answer),
    /// The link is lost, or could not be opened; another attempt follows by itself.
    Lost(LinkError),
}

/// Why the link is not open.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// The pool's master, or the seal on it.
    #[error(transparent)]
    Master(#[from] MasterError),
    /// The pool's master was not handed over.
    #[error(transparent)]
    Handover(#[from] HandoverError),
    /// A plane that has joined has no master any more. Another one would be another authority for every sandbox.
    #[error(
        "the pool's master {sealed} is gone; restore it, or join again: `outgate plane rm {plane}`, delete {key}, \
         and start the plane with a token of `outgate plane token`"
    )]
    MasterGone {
        /// Where it was.
        sealed: PathBuf,
        /// The plane's name.
        plane: String,
        /// The identity's key.
        key: PathBuf,
    },
    /// A plane that was removed has joined again, and meanwhile the pool has another master than the plane runs with.
    #[error(
        "the pool has another master than before this plane was removed; start the plane again to use it"
    )]
    OtherMaster,
    /// The identity's files.
    #[error("cannot use the plane's identity in {path}")]
    Identity {
        /// The folder.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// There is no identity, and no token to get one.
    #[error(
        "the plane has not joined: make a token with `outgate plane token` and set control.joinTokenFile"
    )]
    NoToken,
    /// The token is not one.
    #[error("the join token is damaged: copy the whole line that `outgate plane token` printed")]
    BadToken,
    /// Control refused the join.
    #[error("control refused the join: {reason}")]
    Refused {
        /// What control said.
        reason: String,
    },
    /// Control closed the link and said why.
    #[error("control closed the link: {reason}")]
    Closed {
        /// What control said.
        reason: String,
    },
    /// Control does not know this plane, or no longer.
    #[error(
        "control has removed this plane, which refuses everything now; to join again, make a token with \
         `outgate plane token`, put it into the file that control.joinTokenFile names and start the plane again"
    )]
    Removed,
    /// Whoever answers has no certificate of the authority that the token or the identity names.
    #[error(
        "who answers at {address} is not the control that this plane's token or identity names; correct \
         control.address, or set control.joinTokenFile to a token of that control"
    )]
    Stranger {
        /// Where.
        address: SocketAddr,
        /// What TLS said.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The connection could not be made.
    #[error("cannot connect to control at {address}")]
    Connect {
        /// Where.
        address: SocketAddr,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The connection broke.
    #[error("the connection to control ended")]
    Ended {
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Control was not understood.
    #[error("control was not understood")]
    Wire(#[from] WireError),
    /// Control did what the protocol does not allow.
    #[error("{0}")]
    Protocol(&'static str),
    /// A revision was not applied; the one before stays in force.
    #[error("control sent a revision that does not hold")]
    Apply(#[from] ApplyError),
}

fn ended(source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> LinkError {
    LinkError::Ended { source: source.into() }
}

/// Speaks to control. Clones share the link; it ends when the last is dropped.
#[derive(Clone)]
pub struct LinkHandle {
    outgoing: mpsc::Sender<ToControl>,
    acknowledged: tokio::sync::watch::Sender<u64>,
    questions: Questions,
}

impl fmt::Debug for LinkHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LinkHandle").finish_non_exhaustive()
    }
}

impl LinkHandle {
    /// Every shard enforces the revision that the plane knows by this number. Kept and said again after a loss, so it
    /// cannot get lost.
    pub fn acknowledge(&self, revision: u64) {
        self.acknowledged.send_if_modified(|held| {
            let newer = revision > *held;
            *held = revision.max(*held);
            newer
        });
    }

    /// Hands control the certificate of a sandbox's authority. False when the queue is full or the link has ended;
    /// it is to be offered again while the sandbox's row has none.
    pub fn offer_certificate(&self, sandbox: String, der: Vec<u8>) -> bool {
        self.outgoing.try_send(ToControl::CaCertificate { sandbox, der }).is_ok()
    }

    /// Asks a person, by control. `None` where no link is open, or it takes no more questions; what is given withdraws
    /// the question. The answer, or the loss of the link, comes as an event.
    pub fn ask(&self, question: Question) -> Option<Withdrawal> {
        self.questions.ask(question)
    }

    /// Tells control that a handler did not pass the checks; to be called before the revision that brought it is
    /// acknowledged. False when it could not be said.
    pub fn reject_handler(&self, name: String, version: u64, reason: String) -> bool {
        self.outgoing.try_send(ToControl::HandlerRejected { name, version, reason }).is_ok()
    }
}

/// What the link's thread keeps from one connection to the next.
struct Worker<S> {
    config: LinkConfig,
    sink: S,
    outgoing: mpsc::Receiver<ToControl>,
    acknowledged: tokio::sync::watch::Receiver<u64>,
    held: Cell<Held>,
    member: Member,
    /// Control does not know the identity any more.
    removed: bool,
    /// The pool's master is not the one that the shards hold.
    outdated: bool,
    rejected: RefCell<Rejections>,
    questions: Questions,
}

/// Starts the thread of a plane that has joined. Events go to `sink` there; it fails only on revisions that do not hold.
///
/// # Errors
/// When the thread cannot be started.
pub fn start(
    config: LinkConfig,
    member: Member,
    sink: impl FnMut(LinkEvent) -> Result<(), ApplyError> + Send + 'static,
) -> io::Result<LinkHandle> {
    let (outgoing, queue) = mpsc::channel(LINK_OUTGOING_MAX);
    let (acknowledged, acknowledgements) = tokio::sync::watch::channel(0);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut worker = Worker {
        config,
        sink,
        outgoing: queue,
        acknowledged: acknowledgements,
        held: Cell::default(),
        member,
        removed: false,
        outdated: false,
        rejected: RefCell::default(),
        questions: Questions::default(),
    };
    let questions = worker.questions.clone();
    // A mistake of ours ends the connection that met it and not the link: a plane that no longer hears control would
    // go on by old policy.
    let body = move || {
        while catch_unwind(AssertUnwindSafe(|| runtime.block_on(worker.run()))).is_err() {
            worker.held.set(worker.held.get().broken());
            tell("the link failed by a mistake of ours; it begins anew");
            thread::sleep(LINK_PAUSE_MAX);
        }
    };
    thread::Builder::new().name("link".into()).spawn(body)?;
    Ok(LinkHandle { outgoing, acknowledged, questions })
}
