//! One core: its executor, its ring, its tables, its connections; and the set of all of them.

mod listeners;
mod memory;
mod names;
mod places;
mod progress;
mod questions;

use std::{
    hash::RandomState,
    io,
    rc::Rc,
    sync::{Arc, Mutex, PoisonError, mpsc},
    thread::JoinHandle,
};

use glommio::Placement;
use rustls::RootCertStore;

use listeners::{Listeners, Socket};
use progress::Progress;

use crate::{
    approval::{AskControl, Heard},
    audit::Audit,
    clock::Lease,
    flow::core::{Common, Core, HandOver, OfferCertificate},
    handler::{Host as Guests, HostConfig, Watchdog},
    identity::{Attachments, ListenerId, SandboxId},
    limits::{HANDLER_TIME, HANDOVER_QUEUE_MAX, SWEEP_TIME},
    ring::{self, Ring, RingConfig, RingError, Scope, mailbox, sleep, yield_now},
    snapshot::{Concerned, Tables},
    tls::{PoolMaster, RootsError, UpstreamTls},
    upstream::{Resolver, RingTransport, Settings as NameSettings},
};

pub use places::PlaceError;

/// What shards are started with.
pub struct Settings {
    /// How many.
    pub shards: usize,
    /// Pin each to a core.
    pub pin: bool,
    /// Sizes of each ring.
    pub ring: RingConfig,
    /// The plane's own resolver.
    pub names: NameSettings,
    /// By which upstreams are verified.
    pub roots: RootCertStore,
    /// The same in PEM form, for `bundle.pem`.
    pub roots_pem: String,
    /// The pool's master key.
    pub master: Arc<PoolMaster>,
    /// The policy lease.
    pub lease: Arc<Lease>,
    /// Where records go.
    pub audit: Audit,
    /// Hands control the certificate of a sandbox's authority.
    pub offer_certificate: OfferCertificate,
    /// Hands a question to control; the answer comes by [`Shards::answer`].
    pub ask: AskControl,
    /// Told the revision that every shard enforces, from the thread of the last one.
    pub enforced: Box<dyn Fn(u64) + Send + Sync>,
}

/// Why shards did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The ring.
    #[error(transparent)]
    Ring(#[from] RingError),
    /// The executor's thread.
    #[error("cannot start the executor of shard {index}: {reason}")]
    Executor {
        /// Which one.
        index: usize,
        /// What the executor said.
        reason: String,
    },
    /// The handler host.
    #[error("cannot make room for handlers")]
    Guests(#[source] io::Error),
    /// The resolver's files.
    #[error("cannot read the hosts file")]
    Names(#[source] io::Error),
    /// The roots.
    #[error("upstreams cannot be verified")]
    Roots(#[from] RootsError),
}

/// What a shard is told, in order. Who needs to know sends along where the shard answers.
enum Command {
    Arrive(HandOver),
    Attach(Arc<Attachments>, mpsc::Sender<()>),
    Listen { sockets: Vec<Socket>, instead_of: Vec<ListenerId>, done: mpsc::Sender<io::Result<()>> },
    Detach(SandboxId, mpsc::Sender<usize>),
    Certify(SandboxId, mpsc::Sender<()>),
    Stop,
}

/// A revision on its way to a shard.
struct Update {
    tables: Arc<Tables>,
    concerned: Concerned,
}

struct Handle {
    commands: mailbox::Sender<Command>,
    updates: mailbox::Slot<Update>,
    heard: mailbox::Slot<Heard>,
    /// Taken by whoever stops the shard.
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// All shards of a plane.
pub struct Shards {
    handles: Vec<Handle>,
    progress: Arc<Progress>,
    /// Says where a sandbox lives, as the shards themselves do.
    hasher: RandomState,
}

impl Shards {
    /// Starts them. They deny everything until the first tables.
    ///
    /// # Errors
    /// [`StartError`] of the first shard that did not start; the others are stopped.
    pub fn start(settings: Settings) -> Result<Self, StartError> {
        let count = settings.shards;
        let (senders, receivers): (Vec<_>, Vec<_>) =
            (0..count).map(|_| mailbox::channel(HANDOVER_QUEUE_MAX)).unzip();
        let homes = senders.clone();
        let common = Arc::new(Common {
            shards: count,
            hasher: RandomState::new(),
            master: settings.master,
            lease: settings.lease,
            audit: settings.audit,
            system_roots: settings.roots_pem,
            offer_certificate: settings.offer_certificate,
            ask: settings.ask,
            hand_over: Box::new(move |moved| {
                homes[moved.home].try_send(Command::Arrive(moved)).map_err(|refused| match refused {
                    mailbox::SendError::Full(Command::Arrive(moved))
                    | mailbox::SendError::Closed(Command::Arrive(moved)) => moved,
                    _ => unreachable!("what was refused is what was sent"),
                })
            }),
        });
        let progress = Arc::new(Progress::new(count, settings.enforced));
        let watchdog = Arc::new(Watchdog::start(HANDLER_TIME).map_err(StartError::Guests)?);
        let mut shards = Self { handles: Vec::new(), progress, hasher: common.hasher.clone() };
        for (index, (commands, inbox)) in senders.into_iter().zip(receivers).enumerate() {
            let (updates, heard) = (mailbox::Slot::new(), mailbox::Slot::new());
            let seed = Seed {
                index,
                common: Arc::clone(&common),
                ring: settings.ring,
                names: settings.names.clone(),
                roots: settings.roots.clone(),
                watchdog: Arc::clone(&watchdog),
                progress: Arc::clone(&shards.progress),
                inbox,
                updates: updates.clone(),
                heard: heard.clone(),
            };
            let placement = if settings.pin { Placement::Fixed(index) } else { Placement::Unbound };
            match seed.grow(placement) {
                Ok(thread) => {
                    let thread = Mutex::new(Some(thread));
                    shards.handles.push(Handle { commands, updates, heard, thread });
                }
                Err(error) => {
                    shards.stop();
                    return Err(error);
                }
            }
        }
        Ok(shards)
    }

    /// Hands a revision to every shard; `enforced` says when all of them act by it. Shards that are slow skip
    /// revisions, and nobody whom a skipped one concerned.
    pub fn apply(&self, tables: &Arc<Tables>, concerned: &Concerned) {
        for handle in &self.handles {
            let update = Update { tables: Arc::clone(tables), concerned: concerned.clone() };
            handle.updates.put(update, |waiting, newer| {
                waiting.tables = newer.tables;
                waiting.concerned.merge(newer.concerned);
            });
        }
        let enforced = self.progress.least();
        let mut handed = self.progress.handed();
        handed.push_back(Arc::clone(tables));
        // The newest stays: it says who is in the tables.
        let old = handed.iter().take_while(|tables| tables.revision < enforced).count().min(handed.len() - 1);
        let retired: Vec<_> = handed.drain(..old).collect();
        drop(handed);
        self.progress.moved.notify_all();
        // Freed without the lock, for which a shard may wait.
        drop(retired);
    }

    /// Stops all shards and waits for them. Whoever asks something of them afterwards is told that they are gone.
    pub fn stop(&self) {
        for handle in &self.handles {
            // One that ended takes nothing.
            let _gone = handle.commands.send_blocking(Command::Stop);
        }
        for handle in &self.handles {
            let thread = handle.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
            // A shard that panicked has said so on standard error.
            let _ended = thread.map(JoinHandle::join);
        }
    }
}

/// What a shard's thread begins with.
struct Seed {
    index: usize,
    common: Arc<Common>,
    ring: RingConfig,
    names: NameSettings,
    roots: RootCertStore,
    watchdog: Arc<Watchdog>,
    progress: Arc<Progress>,
    inbox: mailbox::Receiver<Command>,
    updates: mailbox::Slot<Update>,
    heard: mailbox::Slot<Heard>,
}

impl Seed {
    /// Starts the thread and waits until the shard can serve. Where it cannot, the thread has ended.
    fn grow(self, placement: Placement) -> Result<JoinHandle<()>, StartError> {
        let (index, (ready, started)) = (self.index, mpsc::channel());
        let failed = |reason: String| StartError::Executor { index, reason };
        let thread = std::thread::Builder::new()
            .name(format!("shard-{index}"))
            .spawn(move || {
                let made = ring::executor_builder(placement).make();
                match made {
                    Ok(executor) => executor.run(self.run(ready)),
                    Err(error) => {
                        // The starter waits for exactly one message.
                        let _told = ready.send(Err(no_executor(index, error.to_string())));
                    }
                }
            })
            .map_err(|error| failed(error.to_string()))?;
        match started.recv().unwrap_or_else(|_| Err(failed("its thread ended".into()))) {
            Ok(()) => Ok(thread),
            Err(error) => {
                // One that panicked has said so on standard error.
                let _ended = thread.join();
                Err(error)
            }
        }
    }

    async fn run(self, ready: mpsc::Sender<Result<(), StartError>>) {
        let Self { index, common, ring, names, roots, watchdog, progress, inbox, updates, heard } = self;
        // The starter waits for exactly one message.
        let tell = |outcome| drop(ready.send(outcome));
        let ring = match ring::start(ring).await {
            Ok(ring) => ring,
            Err(error) => return tell(Err(error.into())),
        };
        let core = || -> Result<Core, StartError> {
            let resolver = Resolver::new(&names, RingTransport).map_err(StartError::Names)?;
            let guests = Guests::new(HostConfig::default(), &watchdog).map_err(StartError::Guests)?;
            Ok(Core::new(index, common, resolver, UpstreamTls::new(roots)?, guests))
        };
        match core() {
            Ok(core) => {
                tell(Ok(()));
                serve_shard(&ring, Rc::new(core), progress, inbox, (updates, heard)).await;
            }
            Err(error) => tell(Err(error)),
        }
        ring.shutdown().await;
    }
}

async fn serve_shard(
    ring: &Ring,
    core: Rc<Core>,
    progress: Arc<Progress>,
    mut inbox: mailbox::Receiver<Command>,
    (updates, heard): (mailbox::Slot<Update>, mailbox::Slot<Heard>),
) {
    let (services, connections) = (Scope::default(), Scope::default());
    let applying = Rc::clone(&core);
    services.spawn(async move {
        loop {
            let Update { tables, concerned } = updates.take().await;
            let revision = tables.revision;
            drop(applying.apply(tables, &concerned));
            progress.reached(applying.index, revision);
        }
    });
    services.spawn(questions::listen(Rc::clone(&core.desk), heard));
    let sweeping = Rc::clone(&core);
    services.spawn(async move {
        loop {
            sleep(SWEEP_TIME).await;
            sweeping.sweep();
            memory::give_back();
        }
    });
    let listeners = Listeners::new(Rc::clone(&core), connections.clone());
    while let Some(command) = inbox.recv().await {
        if !listeners.obey(command).await {
            break;
        }
    }
    listeners.end().await;
    services.end().await;
    // Those that another shard handed over meanwhile leave their records like all others.
    for command in inbox.close() {
        if matches!(command, Command::Arrive(_)) {
            listeners.obey(command).await;
        }
    }
    end(ring, &core, &connections).await;
}

/// Ends all connections, each with its record. A task that was left when its executor ends would be leaked, and with
/// it the sender for whose end the writer of records waits.
async fn end(ring: &Ring, core: &Core, connections: &Scope) {
    core.cut();
    // Who waits for a socket outside any sandbox is told, and ends as it would if its client had left.
    ring.close();
    let mut before = usize::MAX;
    while connections.len() < before {
        before = connections.len();
        yield_now().await;
    }
    connections.end().await;
    core.drivers.end().await;
}

/// Why an executor was refused. Its own check of locked memory tells no error of the kernel's.
fn no_executor(index: usize, reason: String) -> StartError {
    if reason.contains("MemLockLimit") {
        return RingError::from(control_wire::machine::RingRefusal::LockedMemory(io::Error::other(reason)))
            .into();
    }
    StartError::Executor { index, reason }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shard_that_cannot_start_says_why_and_its_thread_ends() {
        let (audit, writer) = Audit::start(Box::new(io::sink())).unwrap();
        let folder = std::env::temp_dir();
        let refused = Shards::start(Settings {
            shards: 2,
            pin: false,
            ring: RingConfig::small(),
            names: NameSettings { name_servers: Vec::new(), hosts_file: folder },
            roots: RootCertStore::empty(),
            roots_pem: String::new(),
            master: Arc::new(PoolMaster::ephemeral().unwrap()),
            lease: Arc::default(),
            audit,
            offer_certificate: Box::new(|_, _| true),
            ask: Box::new(|_| None),
            enforced: Box::new(|_| ()),
        });
        // A folder is no hosts file. That this is answered at all says that the thread ended.
        assert!(matches!(refused, Err(StartError::Names(_))), "{:?}", refused.err());
        writer.join().unwrap();
    }
}
