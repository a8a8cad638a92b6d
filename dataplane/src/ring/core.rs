//! The state of one shard's ring: what is queued, what is on its way, what has come.

mod close;
mod stats;

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    io,
    os::fd::OwnedFd,
    rc::Rc,
    task::Waker,
    time::{Duration, Instant},
};

use super::{
    RingConfig, RingError,
    buffers::{Buf, Pool},
    operation::Operation,
    share::Shares,
    slab::{Busy, Completion, Key, Outcome, Slab},
    sys::{Completed, Kept, Request, Uring, adopt},
    timer::Wheel,
};
use crate::limits::{ACCEPTED_QUEUE_MAX, RECEIVED_COPY_BYTES_MAX, RECEIVED_QUEUE_MAX};

/// Group of the small buffers: heads, idle connections.
pub(super) const HEADS: u16 = 0;
/// Group of the large buffers: bodies.
pub(super) const BODIES: u16 = 1;

/// Work that found the submission queue full; queued by the driver in its next turn, in order.
#[derive(Clone, Copy)]
enum Late {
    Start(Key),
    Cancel(Key),
}

/// Counters of one ring.
#[derive(Default)]
pub(super) struct Counters {
    pub enters: Cell<u64>,
    pub completions: Cell<u64>,
    pub starved: Cell<u64>,
    pub accept_pauses: Cell<u64>,
    pub strays: Cell<u64>,
}

/// Adds one.
pub(super) fn count(counter: &Cell<u64>) {
    counter.set(counter.get().wrapping_add(1));
}

/// The state of one ring, shared by the driver and by everything that has an operation.
pub(super) struct Core {
    /// `None` once the ring is shut down.
    uring: RefCell<Option<Uring>>,
    slab: RefCell<Slab>,
    pools: [Rc<Pool>; 2],
    starved: [RefCell<VecDeque<Key>>; 2],
    late: RefCell<VecDeque<Late>>,
    taken: Cell<Vec<Completed>>,
    /// Descriptors without an owner that entries still to be submitted may name.
    retired: RefCell<Vec<OwnedFd>>,
    in_flight: Cell<usize>,
    closing: Cell<bool>,
    now: Cell<Instant>,
    pub wheel: RefCell<Wheel>,
    /// A task went back to the queue, so perhaps it can run.
    pub yielded: Cell<bool>,
    pub shares: Rc<Shares>,
    pub counters: Counters,
}

impl Core {
    /// Opens ring and pools on the calling thread.
    pub fn open(config: &RingConfig) -> Result<Rc<Self>, RingError> {
        config.check()?;
        let uring = Uring::open(config.entries).map_err(RingError::opening)?;
        let pool =
            |group, (count, bytes): (u16, u32)| Pool::new(group, count, bytes).map_err(RingError::Buffers);
        let pools = [pool(HEADS, config.head_buffers)?, pool(BODIES, config.body_buffers)?];
        for pool in &pools {
            uring.register_pool(pool).map_err(RingError::Buffers)?;
        }
        let now = Instant::now();
        Ok(Rc::new(Self {
            uring: RefCell::new(Some(uring)),
            slab: RefCell::default(),
            pools,
            starved: Default::default(),
            late: RefCell::default(),
            taken: Cell::default(),
            retired: RefCell::default(),
            in_flight: Cell::new(0),
            closing: Cell::new(false),
            now: Cell::new(now),
            wheel: RefCell::new(Wheel::new(now)),
            yielded: Cell::new(false),
            shares: Shares::new(now),
            counters: Counters::default(),
        }))
    }

    /// Starts an operation; the kernel sees it in the driver's next turn.
    pub fn begin(self: &Rc<Self>, request: Request, kept: Kept) -> Operation {
        let key = self.slab.borrow_mut().insert(request, kept);
        if self.closing.get() {
            self.with(key, |busy| busy.live = false);
        } else {
            self.in_flight.set(self.in_flight.get() + 1);
            self.queue(Late::Start(key));
        }
        Operation { core: Rc::clone(self), key }
    }

    /// The time of the driver's last turn.
    pub fn now(&self) -> Instant {
        self.now.get()
    }

    /// Whether the ring is shut down or about to be.
    pub fn is_closing(&self) -> bool {
        self.closing.get()
    }

    /// Calls with the ring, unless it is shut down.
    pub fn with_uring<T>(&self, call: impl FnOnce(&mut Uring) -> T) -> Option<T> {
        self.uring.borrow_mut().as_mut().map(call)
    }

    /// Queues for the kernel what had found no buffer or no room.
    pub fn prepare(&self) {
        self.feed();
        self.queue_late();
    }

    /// Whether nothing is here for tasks, all that they asked for is where the kernel will see it, and nothing waits
    /// to be closed after that.
    pub fn is_idle(&self) -> bool {
        self.late.borrow().is_empty()
            && self.retired.borrow().is_empty()
            && self.shares.is_line_empty()
            && self.with_uring(|uring| uring.has_completions()) != Some(true)
    }

    /// Submits, takes what has come and fires timers, without waiting.
    pub fn look(&self) {
        self.enter(Uring::turn);
    }

    /// Sleeps in the ring until something comes or a timer is due.
    pub fn sleep(&self) {
        let (began, next) = (Instant::now(), self.wheel.borrow().next());
        self.block(next.map(|at| at.saturating_duration_since(began)));
        self.shares.rested(self.now().saturating_duration_since(began));
    }

    /// Sleeps in the ring until something comes, at most so long.
    fn block(&self, at_most: Option<Duration>) {
        self.enter(|uring| uring.wait(at_most).map(|()| true));
    }

    /// Enters the kernel; takes what has come and fires timers.
    fn enter(&self, call: impl FnOnce(&mut Uring) -> io::Result<bool>) {
        match self.with_uring(call) {
            Some(Ok(true)) => count(&self.counters.enters),
            Some(Ok(false)) | None => {}
            Some(Err(error)) => panic!("the shard cannot go on: its ring refuses to be entered: {error}"),
        }
        self.close_retired();
        let came = self.reap();
        self.now.set(Instant::now());
        let fired = self.wheel.borrow_mut().advance(self.now.get());
        self.shares.begin(came + fired.len(), self.now.get());
        fired.into_iter().for_each(Waker::wake);
    }

    /// Closes a descriptor as soon as no entry that waits to be submitted can name it.
    pub fn retire(&self, descriptor: OwnedFd) {
        if self.has_entries() {
            self.retired.borrow_mut().push(descriptor);
        }
    }

    fn has_entries(&self) -> bool {
        !self.late.borrow().is_empty() || self.with_uring(|uring| uring.has_entries()) == Some(true)
    }

    fn close_retired(&self) {
        if !self.retired.borrow().is_empty() && !self.has_entries() {
            drop(self.retired.take());
        }
    }

    fn queue_late(&self) {
        loop {
            let first = self.late.borrow().front().copied();
            match first {
                Some(work) if self.push(work) => drop(self.late.borrow_mut().pop_front()),
                _ => return,
            }
        }
    }

    /// Takes completions; says how many.
    fn reap(&self) -> usize {
        let mut taken = self.taken.take();
        self.with_uring(|uring| uring.take(&mut taken));
        let came = taken.len();
        for completed in taken.drain(..) {
            count(&self.counters.completions);
            if let Some(waker) = self.complete(completed) {
                waker.wake();
            }
        }
        self.taken.set(taken);
        came
    }

    /// Files one completion. What it drops (buffer, descriptor, slot) it drops outside the slab's borrow.
    fn complete(&self, completed: Completed) -> Option<Waker> {
        let key = Key::from_data(completed.data);
        let last = !completed.more();
        let mut slab = self.slab.borrow_mut();
        let Some(busy) = slab.get_mut(key) else {
            count(&self.counters.strays);
            return None;
        };
        let outcome = self.outcome(busy.request, completed);
        if last {
            busy.live = false;
            self.in_flight.set(self.in_flight.get() - 1);
        }
        if busy.orphan {
            let freed = if last { slab.remove(key) } else { None };
            drop(slab);
            drop((outcome, freed));
            return None;
        }
        let outcome = match (outcome, busy.request) {
            (Outcome::Failed(libc::ENOBUFS), Request::Receive { group, .. }) => {
                count(&self.counters.starved);
                if !busy.cancelling {
                    busy.starved = true;
                    self.starved[usize::from(group)].borrow_mut().push_back(key);
                    let pool = &self.pools[usize::from(group)];
                    pool.widen();
                    return None;
                }
                Outcome::Failed(libc::ECANCELED)
            }
            (outcome, _) => outcome,
        };
        let bound = self.bound(busy.request);
        // A multishot receive takes up to 32 buffers before it sees the cancel. What its slow owner lets lie goes out
        // of the pool: the memory is that connection's, the buffers are everybody's. So does what is small while the
        // pool is scarce: its owner may have to wait for its turn.
        let small = |buffer: &Buf| bound == 1 && buffer.len() <= RECEIVED_COPY_BYTES_MAX;
        let outcome = match outcome {
            Outcome::Data(buffer) if busy.queue.len() >= bound || small(&buffer) => {
                Outcome::Data(buffer.into_heap())
            }
            outcome => outcome,
        };
        busy.queue.push_back(Completion { outcome, last });
        let cancel = !last && !busy.cancelling && busy.queue.len() >= bound;
        busy.cancelling |= cancel;
        let waker = busy.waker.take();
        drop(slab);
        if cancel {
            self.queue(Late::Cancel(key));
        }
        waker
    }

    fn outcome(&self, request: Request, completed: Completed) -> Outcome {
        let buffer = match (request, completed.buffer()) {
            (Request::Receive { group, .. }, Some(id)) => {
                Some(self.pools[usize::from(group)].take(id, completed.result.max(0).unsigned_abs()))
            }
            _ => None,
        };
        match (request, completed.result, buffer) {
            (_, result, _) if result < 0 => Outcome::Failed(-result),
            (Request::Accept { .. }, descriptor, _) => Outcome::Descriptor(adopt(descriptor)),
            (Request::Receive { .. }, 1.., Some(buffer)) => Outcome::Data(buffer),
            (Request::Connect { .. }, ..) | (_, _, _) => Outcome::Done,
        }
    }

    /// Completions that may wait for a slow owner before its operation is cancelled. While a pool is scarce nobody
    /// may hoard: one sandbox that does not read must not starve the others.
    fn bound(&self, request: Request) -> usize {
        match request {
            Request::Receive { group, .. } => {
                let pool = &self.pools[usize::from(group)];
                if pool.free() < pool.count() / 2 { 1 } else { RECEIVED_QUEUE_MAX }
            }
            _ => ACCEPTED_QUEUE_MAX,
        }
    }

    /// Arms receives that had found no buffer, oldest first, as many as there are buffers.
    fn feed(&self) {
        if self.closing.get() {
            return;
        }
        for (pool, starved) in self.pools.iter().zip(&self.starved) {
            if starved.borrow().is_empty() || pool.free() < pool.low_water() {
                continue;
            }
            for _ in 0..pool.free() {
                let Some(key) = starved.borrow_mut().pop_front() else { break };
                let armed = self.with(key, |busy| {
                    let arm = std::mem::take(&mut busy.starved);
                    busy.live |= arm;
                    arm
                });
                if armed == Some(true) {
                    self.in_flight.set(self.in_flight.get() + 1);
                    self.queue(Late::Start(key));
                }
            }
        }
    }

    pub fn with<T>(&self, key: Key, call: impl FnOnce(&mut Busy) -> T) -> Option<T> {
        self.slab.borrow_mut().get_mut(key).map(call)
    }

    /// Queues work for the kernel.
    fn queue(&self, work: Late) {
        // A cancel must not overtake the start of its operation.
        if !self.late.borrow().is_empty() || !self.push(work) {
            self.late.borrow_mut().push_back(work);
        }
    }

    fn push(&self, work: Late) -> bool {
        let done = match work {
            Late::Start(key) => self.with_uring(|uring| {
                self.with(key, |busy| uring.start(busy.request, &busy.kept, key.to_data())).unwrap_or(true)
            }),
            Late::Cancel(key) => self.with_uring(|uring| uring.cancel(key.to_data())),
        };
        done.unwrap_or(true)
    }

    /// Asks the kernel to end an operation; its last completion still comes.
    pub fn cancel(&self, key: Key) {
        let ask = self.with(key, |busy| busy.live && !std::mem::replace(&mut busy.cancelling, true));
        if ask == Some(true) {
            self.queue(Late::Cancel(key));
        }
    }

    /// The owner is gone: what waits is dropped, and the slot is freed by the last completion.
    pub fn abandon(&self, key: Key) {
        let mut slab = self.slab.borrow_mut();
        let Some(busy) = slab.get_mut(key) else { return };
        let waiting: Vec<Completion> = busy.queue.drain(..).collect();
        let waker = busy.waker.take();
        busy.orphan = true;
        let cancel = busy.live && !busy.cancelling;
        busy.cancelling |= cancel;
        let freed = if busy.live { None } else { slab.remove(key) };
        drop(slab);
        drop((waiting, waker, freed));
        if cancel {
            self.queue(Late::Cancel(key));
        }
    }
}

/// The error of a failed completion.
pub(super) fn failure(number: i32) -> io::Error {
    io::Error::from_raw_os_error(number)
}
