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
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Context, Poll, Waker},
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

/// Wakes a driver that sleeps in its own ring, from another thread: glommio sees nothing meanwhile.
pub(super) struct Doorbell {
    asleep: AtomicBool,
    knocks: AtomicU64,
    outside: UnixStream,
}

impl Doorbell {
    /// Called after the sender's message is in its place and its waker was woken.
    pub fn knock(&self) {
        self.knocks.fetch_add(1, Ordering::SeqCst);
        if self.asleep.load(Ordering::SeqCst) {
            // A full pair already holds what wakes the driver.
            let _ = rustix::net::send(&self.outside, b"!", SEND_FLAGS);
        }
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
    knocks_seen: u64,
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
        let doorbell =
            Arc::new(Doorbell { asleep: AtomicBool::new(false), knocks: AtomicU64::new(0), outside });
        let (baton, knocked, alarm) = (Rc::default(), None, None);
        Ok(Self { core, baton, signal, doorbell, inside, knocked, knocks_seen: 0, alarm })
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
        self.baton.ended.set(true);
        Baton::wake(&self.baton.echo);
    }

    fn turn(&mut self) -> usize {
        self.answer_door();
        self.core.bell.rung.set(false);
        self.core.turn()
    }

    /// Keeps the inner end of the pair watched, and empty.
    fn answer_door(&mut self) {
        if self.knocked.as_ref().is_some_and(Operation::is_quiet) {
            return;
        }
        let mut knocks = [0; 64];
        while matches!((&self.inside).read(&mut knocks), Ok(1..)) {}
        let request = Request::Poll { fd: self.inside.as_raw_fd(), events: libc::POLLIN };
        self.knocked = Some(self.core.begin(request, Kept::Nothing));
    }

    /// Sleeps in the own ring for a moment: cheaper than parking when the next event is near. Only when no task is
    /// runnable; what other threads woke in glommio's queues runs first.
    fn block(&mut self) -> usize {
        if glommio::executor().need_preempt() {
            return 0;
        }
        let until_timer =
            self.core.wheel.borrow().next().map(|at| at.saturating_duration_since(Instant::now()));
        let at_most = until_timer.map_or(RING_BLOCK_TIME, |time| time.min(RING_BLOCK_TIME));
        if at_most.is_zero() {
            return 0;
        }
        self.doorbell.asleep.store(true, Ordering::SeqCst);
        let knocks = self.doorbell.knocks.load(Ordering::SeqCst);
        // A knock before the line above found nobody asleep: its task waits in glommio.
        let came = if knocks == self.knocks_seen { self.core.block(at_most) } else { 0 };
        self.knocks_seen = knocks;
        self.doorbell.asleep.store(false, Ordering::SeqCst);
        came
    }

    /// Lets the executor sleep until the kernel signals, something is queued, or the next timer is due.
    async fn park(&mut self) {
        count(&self.core.counters.parks);
        self.set_alarm();
        self.core.with_uring(|uring| uring.signal(Signal::On));
        // What arrived before the switch gave no signal. A first enter submits the alarm. It may leave work behind
        // without having brought anything: the kernel does a bounded part at a time.
        if self.turn() == 0 && !self.core.must_enter() {
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
