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
mod listener;
pub mod mailbox;
mod operation;
mod packet;
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

use glommio::{Latency, LocalExecutorBuilder, Placement, Shares, TaskQueueHandle};

pub use buffers::Buf;
pub use datagram::Datagram;
pub use error::RingError;
pub use listener::Listener;
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
    /// Times the driver parked in the executor.
    pub parks: u64,
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

/// One shard's ring. Clones are the same ring.
#[derive(Clone)]
pub struct Ring(Rc<Core>, Rc<Outside>);

/// What a ring has beside its core.
struct Outside {
    doorbell: Arc<Doorbell>,
    urgent: TaskQueueHandle,
}

/// Opens the shard's ring, makes it current on this thread and spawns its driver in a queue of its own. Call it from
/// the queue in which the connections will run.
///
/// # Errors
/// Sizes, or the machine; see [`RingError`].
pub async fn start(config: RingConfig) -> Result<Ring, RingError> {
    let core = Core::open(&config)?;
    let driver = Driver::new(Rc::clone(&core)).map_err(RingError::opening)?;
    let executor = glommio::executor();
    let own = executor.create_task_queue(Shares::Static(1000), Latency::NotImportant, "ring");
    let urgent = executor.create_task_queue(
        Shares::Static(1000),
        Latency::Matters(Duration::from_millis(1)),
        "urgent",
    );
    let ring = Ring(core, Rc::new(Outside { doorbell: driver.doorbell(), urgent }));
    CURRENT.with(|current| current.replace(Some(ring.clone())));
    glommio::spawn_local(driver.echo()).detach();
    glommio::spawn_local_into(driver.run(), own)
        .map_err(|error| RingError::Other(io::Error::other(error.to_string())))?
        .detach();
    Ok(ring)
}

/// Opens and closes a ring on the calling thread, to say before anything else why this machine gives none.
///
/// # Errors
/// See [`RingError`].
pub fn preflight() -> Result<(), RingError> {
    Uring::open(8).map(drop).map_err(RingError::opening)
}

/// An executor for a shard, set up as the ring wants it: little registered memory, and a preemption timer short
/// enough for what other threads wake.
pub fn executor_builder(placement: Placement) -> LocalExecutorBuilder {
    LocalExecutorBuilder::new(placement).io_memory(64 << 10).preempt_timer(Duration::from_millis(10))
}

/// Lets the other tasks of the shard run, and the ring: a task that never waits would leave a parked driver asleep.
pub async fn yield_now() {
    if let Some(ring) = CURRENT.with(|current| current.borrow().clone()) {
        ring.0.bell.ring();
    }
    futures_lite::future::yield_now().await;
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

    /// Runs a task that other threads wake: it gets its turn within tens of microseconds on a busy shard. For
    /// mailboxes, not for connections.
    pub fn spawn_urgent<F: Future<Output = ()> + 'static>(&self, task: F) {
        // The queue is made in `start` and never removed.
        if let Ok(task) = glommio::spawn_local_into(task, self.1.urgent) {
            task.detach();
        }
    }

    /// Ends the ring after the connections: cancels every operation, waits for the kernel, gives the memory back.
    /// Who still awaits something gets `ESHUTDOWN`. Takes at most a second.
    pub async fn shutdown(self) {
        self.0.close();
        CURRENT.with(|current| current.replace(None));
        // The driver ends in its own queue; after it, nothing of the ring runs.
        glommio::executor().yield_task_queue_now().await;
    }

    /// The time of the last turn: coarse, and free.
    pub fn now(&self) -> Instant {
        self.0.now()
    }

    /// What the ring did and holds.
    pub fn stats(&self) -> Stats {
        self.0.stats()
    }
}
