//! Sockets, buffers, timers and mailbox on an io_uring of our own inside the executor.
//!
//! One ring per shard, driven by a task of the shard. Operations belong to connections, not to futures: an await may
//! be dropped at any time and loses nothing. The kernel takes a buffer only when data is there, so an idle connection
//! holds none. Everything here stays on its shard; only [`mailbox`] crosses.

mod buffers;
mod core;
mod datagram;
mod descriptor;
mod driver;
mod error;
mod left;
mod listener;
pub mod mailbox;
mod operation;
mod options;
mod packet;
mod scope;
mod share;
mod slab;
mod stream;
mod sys;
mod timer;

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

use std::{
    cell::RefCell,
    io,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use glommio::{Latency, LocalExecutorBuilder, Placement, Shares, task::JoinHandle};

pub use buffers::Buf;
pub use datagram::Datagram;
pub use error::RingError;
pub use left::is_left;
pub use listener::Listener;
pub use scope::Scope;
pub use share::Share;
pub use stream::Stream;
pub use timer::{Elapsed, Sleep, Timeout, sleep, timeout};

use self::{
    core::Core,
    driver::{Doorbell, Driver},
    sys::Uring,
};

/// Sizes of one shard's ring.
#[derive(Clone, Copy, Debug)]
pub struct RingConfig {
    /// Places of the submission queue; the completion queue has four times as many. A power of two.
    pub entries: u32,
    /// Count (a power of two up to 32,768) and bytes of the buffers for heads and idle connections.
    pub head_buffers: (u16, u32),
    /// Count and bytes of the buffers for bodies.
    pub body_buffers: (u16, u32),
}

impl Default for RingConfig {
    fn default() -> Self {
        Self { entries: 4096, head_buffers: (4096, 4 << 10), body_buffers: (256, 64 << 10) }
    }
}

impl RingConfig {
    /// Sizes for tests: a shard costs half a megabyte.
    pub fn small() -> Self {
        Self { entries: 256, head_buffers: (64, 4 << 10), body_buffers: (16, 16 << 10) }
    }

    fn check(&self) -> Result<(), RingError> {
        let pools = [self.head_buffers, self.body_buffers];
        let wrong =
            |(count, bytes): (u16, u32)| !count.is_power_of_two() || !(512..=1 << 20).contains(&bytes);
        if !self.entries.is_power_of_two() || self.entries > 1 << 15 || pools.into_iter().any(wrong) {
            return Err(RingError::Sizes(*self));
        }
        Ok(())
    }
}

/// What a ring did, and what it holds now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Times the kernel was entered.
    pub enters: u64,
    /// Completions taken.
    pub completions: u64,
    /// Receives that found no buffer.
    pub starved: u64,
    /// Times accepting paused because descriptors or memory had run out.
    pub accept_pauses: u64,
    /// Completions whose slot was not theirs any more. Never, unless there is a defect.
    pub strays: u64,
    /// Operations that the kernel has.
    pub in_flight: usize,
    /// Slots in use.
    pub operations: usize,
    /// Head buffers that are lent to tasks.
    pub head_buffers_out: u16,
    /// Body buffers that are lent to tasks.
    pub body_buffers_out: u16,
    /// Timers that are armed.
    pub timers: usize,
}

thread_local! {
    static CURRENT: RefCell<Option<Ring>> = const { RefCell::new(None) };
}

/// Longer than any machine runs.
const NO_PREEMPTION: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

/// One shard's ring. Clones are the same ring.
#[derive(Clone)]
pub struct Ring(Rc<Core>, Rc<Outside>);

/// What a ring has beside its core.
struct Outside {
    doorbell: Arc<Doorbell>,
    /// The driver's tasks, until somebody waits for their end.
    ended: RefCell<Option<[JoinHandle<()>; 2]>>,
}

/// Opens the shard's ring, makes it current on this thread and spawns its driver in a queue of its own. Call it from
/// the queue in which the connections will run. The executor does not end before the ring is closed.
///
/// # Errors
/// Sizes, or the machine; see [`RingError`].
pub async fn start(config: RingConfig) -> Result<Ring, RingError> {
    let core = Core::open(&config)?;
    let driver = Driver::new(Rc::clone(&core)).map_err(RingError::opening)?;
    let own = glommio::executor().create_task_queue(Shares::Static(1000), Latency::NotImportant, "ring");
    let ring = Ring(core, Rc::new(Outside { doorbell: driver.doorbell(), ended: RefCell::default() }));
    CURRENT.with(|current| current.replace(Some(ring.clone())));
    let echo = glommio::spawn_local(driver.echo()).detach();
    let driver = glommio::spawn_local_into(driver.run(), own)
        .map_err(|error| RingError::opening(io::Error::other(error.to_string())))?
        .detach();
    ring.1.ended.replace(Some([driver, echo]));
    Ok(ring)
}

/// Opens and closes a ring on the calling thread, to say before anything else why this machine gives none.
///
/// # Errors
/// See [`RingError`].
pub fn preflight() -> Result<(), RingError> {
    Uring::open(8).map(drop).map_err(RingError::opening)
}

/// An executor for a shard, set up as the ring wants it: little registered memory, and no preemption.
///
/// glommio 0.9 sleeps over runnable tasks when its preemption timer fires between the moment in which it arms it and
/// the first look at the queues: the queues then say that nothing ran, and the timer's completion wakes nobody. A
/// thread that other work keeps off its core for the length of the timer at that moment hangs for good. So the timer
/// never fires. The ring depends on that: its driver sleeps when all queues of the executor have run empty, and a
/// queue that was preempted, or one beside those of the ring and the connections, would wait for the next completion.
pub fn executor_builder(placement: Placement) -> LocalExecutorBuilder {
    LocalExecutorBuilder::new(placement).io_memory(64 << 10).preempt_timer(NO_PREEMPTION)
}

/// Lets the other tasks of the shard run, and the ring. To yield only to one's own queue would keep the ring's driver
/// from its turn.
pub async fn yield_now() {
    if let Some(ring) = CURRENT.with(|current| current.borrow().clone()) {
        ring.0.yielded.set(true);
    }
    glommio::executor().yield_task_queue_now().await;
}

impl Ring {
    /// The ring of this shard.
    ///
    /// # Panics
    /// On a thread that has none: only shards have sockets.
    pub fn current() -> Self {
        CURRENT
            .with(|current| current.borrow().clone())
            .expect("sockets, timers and mailboxes are used on a shard, after its ring was started")
    }

    /// Cancels every operation, waits for the kernel and gives the memory back. Who awaits a socket gets
    /// `ESHUTDOWN`, now and from now on; no timer fires any more. Takes at most a second.
    pub fn close(&self) {
        self.0.close();
    }

    /// Ends the ring, after the connections.
    pub async fn shutdown(self) {
        self.close();
        CURRENT.with(|current| current.replace(None));
        // They own descriptors, and a task that has not ended when its executor does is leaked.
        for task in self.1.ended.take().into_iter().flatten() {
            task.await;
        }
    }

    /// The time of the last turn: coarse, and free.
    pub fn now(&self) -> Instant {
        self.0.now()
    }

    /// A part in this shard, for one of those who share it.
    pub fn share(&self) -> Share {
        Share::of(&self.0.shares)
    }

    /// What the ring did and holds.
    pub fn stats(&self) -> Stats {
        self.0.stats()
    }
}
