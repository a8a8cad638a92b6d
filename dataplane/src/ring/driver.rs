//! The task that drives a ring: submits and reaps in turns with the connections, and sleeps where none can run.

use std::{
    cell::{Cell, RefCell},
    future::poll_fn,
    io::Read as _,
    os::{fd::AsRawFd, unix::net::UnixStream},
    rc::Rc,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Poll, Waker},
    thread::{self, ThreadId},
};

use super::{
    core::Core,
    operation::Operation,
    sys::{Kept, Request},
};

/// Wakes tasks of this shard from other threads.
///
/// The shard wakes them itself, in its next turn. A wake-up of glommio's would wait until the executor sleeps, which
/// it never does.
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
        let rung = self.rung.load(Ordering::SeqCst);
        if rung {
            self.wake_up();
        }
        !rung
    }

    fn wake_up(&self) {
        self.asleep.store(false, Ordering::SeqCst);
    }

    /// Wakes who was named since the last call; says whether anybody was.
    fn answer(&self) -> bool {
        let rung = self.rung.swap(false, Ordering::SeqCst);
        if rung {
            let woken = self.lock().as_mut().map(std::mem::take).unwrap_or_default();
            woken.into_iter().for_each(Waker::wake);
        }
        rung
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

/// Submits and reaps, in turns with the connections.
pub(super) struct Driver {
    core: Rc<Core>,
    baton: Rc<Baton>,
    doorbell: Arc<Doorbell>,
    inside: UnixStream,
    knocked: Option<Operation>,
}

impl Driver {
    /// Prepares to drive.
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn new(core: Rc<Core>) -> std::io::Result<Self> {
        let (inside, outside) = UnixStream::pair()?;
        inside.set_nonblocking(true)?;
        let doorbell = Arc::new(Doorbell::new(outside));
        Ok(Self { core, baton: Rc::default(), doorbell, inside, knocked: None })
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
        while !self.core.is_closing() {
            self.turn();
            self.baton.pass().await;
        }
        self.doorbell.close();
        self.baton.ended.set(true);
        Baton::wake(&self.baton.echo);
    }

    /// One look at the ring, in which the shard sleeps where no task can run. It never sleeps elsewhere: the executor
    /// would take ten system calls for it, and nothing but the ring wakes a task of a shard.
    ///
    /// On a busy shard whom other threads wake runs before whom the ring wakes, and both before who had too much.
    fn turn(&mut self) {
        self.watch_door();
        self.core.prepare();
        let runnable = self.core.yielded.take() | self.doorbell.answer();
        if !runnable && self.core.is_idle() && self.doorbell.fall_asleep() {
            self.core.sleep();
            self.doorbell.wake_up();
            self.doorbell.answer();
        } else {
            self.core.look();
        }
        self.core.shares.grant();
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
}
