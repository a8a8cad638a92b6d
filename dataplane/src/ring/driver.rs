//! The task that drives a ring: submits and reaps in turns with the connections, then sleeps.

use std::{
    cell::{Cell, RefCell},
    future::poll_fn,
    io::Read as _,
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::net::UnixStream,
    },
    pin::Pin,
    rc::Rc,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Waker},
    thread::{self, ThreadId},
    time::{Duration, Instant},
};

use futures_lite::AsyncRead as _;

use super::{
    core::{Core, count},
    operation::Operation,
    sys::{Kept, Request, Signal, awaitable, timespec},
};
use crate::limits::{RING_BLOCK_TIME, RING_BLOCK_TURNS};

/// Wakes a parked driver from its own shard: something was queued, or a buffer came back.
#[derive(Debug, Default)]
pub(super) struct Bell {
    rung: Cell<bool>,
    parked: RefCell<Option<Waker>>,
}

impl Bell {
    /// Makes the driver take another turn.
    pub fn ring(&self) {
        self.rung.set(true);
        let parked = self.parked.take();
        if let Some(waker) = parked {
            waker.wake();
        }
    }

    fn poll(&self, cx: &mut Context<'_>) -> Poll<()> {
        if self.rung.take() {
            return Poll::Ready(());
        }
        self.parked.replace(Some(cx.waker().clone()));
        Poll::Pending
    }
}

/// Wakes tasks of this shard from other threads.
///
/// The shard wakes them itself, in its next turn: a wake-up of glommio's waits until every queue is empty or a
/// preemption, and there is none (see `executor_builder`).
pub(super) struct Doorbell {
    home: ThreadId,
    /// `None` once the driver has ended: then nobody runs the tasks.
    woken: Mutex<Option<Vec<Waker>>>,
    rung: AtomicBool,
    asleep: AtomicBool,
    outside: UnixStream,
}

impl Doorbell {
    fn new(outside: UnixStream) -> Self {
        let (rung, asleep) = (AtomicBool::new(false), AtomicBool::new(false));
        Self { home: thread::current().id(), woken: Mutex::new(Some(Vec::new())), rung, asleep, outside }
    }

    /// Has the shard wake a task. Called after the task's message is in its place.
    pub fn wake(&self, waker: Waker) {
        if thread::current().id() == self.home {
            return waker.wake();
        }
        match &mut *self.lock() {
            Some(woken) => woken.push(waker),
            None => return,
        }
        // Either the driver sees this flag before it sleeps, or we see that it sleeps.
        self.rung.store(true, Ordering::SeqCst);
        if self.asleep.swap(false, Ordering::SeqCst) {
            // A full pair already holds what wakes the driver.
            let _ = rustix::net::send(&self.outside, b"!", SEND_FLAGS);
        }
    }

    /// The driver is about to sleep. False when it must not.
    fn fall_asleep(&self) -> bool {
        self.asleep.store(true, Ordering::SeqCst);
        !self.rung.load(Ordering::SeqCst)
    }

    fn wake_up(&self) {
        self.asleep.store(false, Ordering::SeqCst);
    }

    /// Wakes who was named since the last call; says how many.
    fn answer(&self) -> usize {
        if !self.rung.swap(false, Ordering::SeqCst) {
            return 0;
        }
        let woken = self.lock().as_mut().map(std::mem::take).unwrap_or_default();
        let count = woken.len();
        woken.into_iter().for_each(Waker::wake);
        count
    }

    fn close(&self) {
        let left = self.lock().take();
        drop(left);
    }

    fn lock(&self) -> MutexGuard<'_, Option<Vec<Waker>>> {
        self.woken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

const SEND_FLAGS: rustix::net::SendFlags =
    rustix::net::SendFlags::DONTWAIT.union(rustix::net::SendFlags::NOSIGNAL);

/// Passed once through the connections' queue and back: when it is here again, every task that was runnable ran.
#[derive(Default)]
struct Baton {
    away: Cell<bool>,
    ended: Cell<bool>,
    driver: RefCell<Option<Waker>>,
    echo: RefCell<Option<Waker>>,
}

impl Baton {
    fn wake(place: &RefCell<Option<Waker>>) {
        let waker = place.take();
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Lets the connections run.
    async fn pass(&self) {
        self.away.set(true);
        Self::wake(&self.echo);
        poll_fn(|cx| {
            if !self.away.get() {
                return Poll::Ready(());
            }
            self.driver.replace(Some(cx.waker().clone()));
            Poll::Pending
        })
        .await;
    }

    /// Runs in the connections' queue for as long as the driver lives.
    async fn echo(self: Rc<Self>) {
        poll_fn(|cx| {
            if self.ended.get() {
                return Poll::Ready(());
            }
            self.echo.replace(Some(cx.waker().clone()));
            if self.away.take() {
                Self::wake(&self.driver);
            }
            Poll::Pending
        })
        .await;
    }
}

/// What the driver sleeps with.
pub(super) struct Driver {
    core: Rc<Core>,
    baton: Rc<Baton>,
    /// Signalled by the kernel while the driver is parked.
    signal: OwnedFd,
    doorbell: Arc<Doorbell>,
    inside: UnixStream,
    knocked: Option<Operation>,
    alarm: Option<(Operation, Instant)>,
}

impl Driver {
    /// Prepares to drive; registers the signal with the ring.
    ///
    /// # Errors
    /// No descriptor is left, or the kernel refuses the signal.
    pub fn new(core: Rc<Core>) -> std::io::Result<Self> {
        let flags = rustix::event::EventfdFlags::CLOEXEC | rustix::event::EventfdFlags::NONBLOCK;
        let signal = rustix::event::eventfd(0, flags)?;
        core.with_uring(|uring| uring.register_signal(&signal)).transpose()?;
        let (inside, outside) = UnixStream::pair()?;
        inside.set_nonblocking(true)?;
        let doorbell = Arc::new(Doorbell::new(outside));
        let (baton, knocked, alarm) = (Rc::default(), None, None);
        Ok(Self { core, baton, signal, doorbell, inside, knocked, alarm })
    }

    /// What other threads wake this shard's driver with.
    pub fn doorbell(&self) -> Arc<Doorbell> {
        Arc::clone(&self.doorbell)
    }

    /// The task that must run in the connections' queue.
    pub fn echo(&self) -> impl Future<Output = ()> + use<> {
        Rc::clone(&self.baton).echo()
    }

    /// Drives until the ring is shut down.
    pub async fn run(mut self) {
        let mut empty = 0;
        while !self.core.is_closing() {
            // Rung: a task queued something or only yielded, so perhaps it is runnable; it must not wait for a sleep.
            let rung = self.core.bell.rung.get();
            if self.turn() > 0 || rung {
                empty = 0;
                self.baton.pass().await;
            } else if empty < RING_BLOCK_TURNS {
                empty = if self.block() > 0 { 0 } else { empty + 1 };
                self.baton.pass().await;
            } else {
                empty = 0;
                self.park().await;
            }
        }
        self.doorbell.close();
        self.baton.ended.set(true);
        Baton::wake(&self.baton.echo);
    }

    /// Whom other threads wake runs before whom the ring wakes, and both before who had too much.
    fn turn(&mut self) -> usize {
        self.watch_door();
        self.core.bell.rung.set(false);
        self.doorbell.answer() + self.core.turn() + usize::from(self.core.shares.grant())
    }

    /// Keeps the inner end of the pair watched, and empty.
    fn watch_door(&mut self) {
        if self.knocked.as_ref().is_some_and(Operation::is_quiet) {
            return;
        }
        let mut knocks = [0; 64];
        while matches!((&self.inside).read(&mut knocks), Ok(1..)) {}
        let request = Request::Poll { fd: self.inside.as_raw_fd(), events: libc::POLLIN };
        self.knocked = Some(self.core.begin(request, Kept::Nothing));
    }

    /// Sleeps in the own ring for a moment: cheaper than parking when the next event is near. Only when no task is
    /// runnable.
    fn block(&mut self) -> usize {
        let until_timer =
            self.core.wheel.borrow().next().map(|at| at.saturating_duration_since(Instant::now()));
        let at_most = until_timer.map_or(RING_BLOCK_TIME, |time| time.min(RING_BLOCK_TIME));
        if at_most.is_zero() {
            return 0;
        }
        let came = if self.doorbell.fall_asleep() { self.core.block(at_most) } else { 0 };
        self.doorbell.wake_up();
        came + self.doorbell.answer()
    }

    /// Lets the executor sleep until the kernel signals, something is queued, or the next timer is due.
    async fn park(&mut self) {
        count(&self.core.counters.parks);
        self.set_alarm();
        self.core.with_uring(|uring| uring.signal(Signal::On));
        self.doorbell.fall_asleep();
        // What arrived before the switch gave no signal. A first enter submits the alarm. It may leave work behind
        // without having brought anything: the kernel does a bounded part at a time.
        if self.turn() == 0 && !self.core.has_work() {
            match awaitable(&self.signal) {
                Ok(mut wrapped) => {
                    let mut byte = [0];
                    poll_fn(|cx| {
                        if self.core.bell.poll(cx).is_ready() {
                            return Poll::Ready(());
                        }
                        // An eventfd is no socket: readiness ends in ENOTSOCK, which is the wake-up.
                        Pin::new(&mut wrapped).poll_read(cx, &mut byte).map(|_| ())
                    })
                    .await;
                    self.core.bell.parked.replace(None);
                }
                // No descriptor is left to wait on: go on in short sleeps.
                Err(_) => drop(self.core.block(RING_BLOCK_TIME)),
            }
        }
        self.doorbell.wake_up();
        self.core.with_uring(|uring| uring.signal(Signal::Off));
        let mut value = [0; 8];
        // Empty when it was the bell that rang.
        let _ = rustix::io::read(&self.signal, &mut value);
        self.baton.pass().await;
    }

    /// Has the kernel wake a parked driver when the next timer is due.
    fn set_alarm(&mut self) {
        let Some(at) = self.core.wheel.borrow().next() else { return };
        let armed = self.alarm.as_ref().is_some_and(|(alarm, time)| *time == at && alarm.is_quiet());
        if !armed {
            let time = at.saturating_duration_since(Instant::now()).max(Duration::from_nanos(1));
            let alarm = self.core.begin(Request::Timeout, Kept::Time(Box::new(timespec(time))));
            self.alarm = Some((alarm, at));
        }
    }
}
