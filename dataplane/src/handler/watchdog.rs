//! One thread per plane that stops handler calls which run too long, by raising a flag inside the running guest.
//!
//! Each shard has a seat, an atomic word that says whether a call runs, which one, and where its flag is. The thread
//! looks at all seats once per tick. It notes when it first saw a call, so shards read no clock, and raises the flag
//! of a call that has used the limit of its shard's *processor* time since: a shard that the kernel put aside in the
//! middle of a call is not the handler's fault. The flag lies in memory of the instance; the seat's word makes sure
//! that it is written only while that call has not ended, so neither a freed instance nor the next call is hit.
#![allow(
    unsafe_code,
    reason = "writes a global of running guest code, and reads the processor clock of another thread"
)]

use std::io;
use std::marker::PhantomData;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicPtr, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{JoinHandle, Thread};
use std::time::{Duration, Instant};

use crate::limits::HANDLER_HELD_UP;

/// Between two looks at the seats. Larger: calls are stopped later than their limit by as much. Smaller: the thread
/// takes processor time from the shards.
const TICK: Duration = Duration::from_millis(1);
/// Idle ticks after which the thread sleeps until a call begins. Larger: an idle plane wakes up for nothing. Smaller:
/// shards pay for waking it more often.
const IDLE_TICKS: u32 = 100;

/// No call runs.
const IDLE: u64 = 0;
/// A call runs.
const RUNNING: u64 = 1;
/// The watchdog is writing the flag.
const RAISING: u64 = 2;
/// The watchdog has written the flag.
const RAISED: u64 = 3;
const PHASE_BITS: u32 = 2;
const PHASE: u64 = (1 << PHASE_BITS) - 1;

/// The thread. Stops when dropped; seats that are left then time nothing out.
pub struct Watchdog {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    limit: Duration,
    seats: Mutex<Vec<Arc<Inner>>>,
    stop: AtomicBool,
    /// The thread sleeps without a timer and must be woken by whoever begins a call.
    asleep: AtomicBool,
}

struct Inner {
    /// Number of the call, shifted, and its phase.
    word: AtomicU64,
    flag: AtomicPtr<i32>,
    clock: libc::clockid_t,
    /// The last call that was seen to hold up the shard, as its word names it.
    held_up: AtomicU64,
    gone: AtomicBool,
}

/// A shard's seat. Bound to the thread that took it, whose processor time counts.
pub struct Seat {
    inner: Arc<Inner>,
    shared: Arc<Shared>,
    thread: Thread,
    calls: u64,
    here: PhantomData<*const ()>,
}

impl Watchdog {
    /// Starts the thread, which stops calls after `limit` of processor time, at the latest two ticks (2 ms) later.
    ///
    /// # Errors
    /// Where no thread can be started.
    pub fn start(limit: Duration) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            limit,
            seats: Mutex::new(Vec::new()),
            stop: AtomicBool::new(false),
            asleep: AtomicBool::new(false),
        });
        let watched = shared.clone();
        let thread = std::thread::Builder::new().name("watchdog".into()).spawn(move || watch(&watched))?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// A seat for the calling thread.
    ///
    /// # Errors
    /// Where the kernel gives no clock for this thread, or the watchdog is stopping.
    pub fn seat(&self) -> io::Result<Seat> {
        let thread = self.thread.as_ref().ok_or_else(|| io::Error::from(io::ErrorKind::NotConnected))?;
        let inner = Arc::new(Inner {
            word: AtomicU64::new(IDLE),
            flag: AtomicPtr::new(std::ptr::null_mut()),
            clock: clock_of_this_thread()?,
            held_up: AtomicU64::new(0),
            gone: AtomicBool::new(false),
        });
        self.shared.seats.lock().unwrap_or_else(PoisonError::into_inner).push(inner.clone());
        Ok(Seat {
            inner,
            shared: self.shared.clone(),
            thread: thread.thread().clone(),
            calls: 0,
            here: PhantomData,
        })
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            // The thread holds no lock while it sleeps and panics nowhere; a failure to join changes nothing here.
            let _ = thread.join();
        }
    }
}

impl Seat {
    /// Calls until now.
    pub(super) fn calls(&self) -> u64 {
        self.calls
    }

    /// Whether one of the calls after so many was seen to take [`HANDLER_HELD_UP`] of processor time.
    pub(super) fn held_up_after(&self, calls: u64) -> bool {
        self.inner.held_up.load(Ordering::Relaxed) >> PHASE_BITS > calls
    }

    /// Says that a call begins whose flag is at `flag`, runs it, and says that it has ended. The flag is zero before.
    ///
    /// # Safety
    /// `flag` is valid, aligned for an `i32`, and not freed before this returns or unwinds.
    pub(super) unsafe fn run<T>(&mut self, flag: NonNull<i32>, call: impl FnOnce() -> T) -> T {
        struct End<'a>(&'a Inner, u64);
        impl Drop for End<'_> {
            fn drop(&mut self) {
                self.0.end(self.1);
            }
        }
        self.calls += 1;
        self.inner.flag.store(flag.as_ptr(), Ordering::Relaxed);
        let number = self.calls << PHASE_BITS;
        // Sequentially consistent against the watchdog's look at the seats after it said that it sleeps: one of the
        // two sees the other.
        self.inner.word.store(number | RUNNING, Ordering::SeqCst);
        if self.shared.asleep.load(Ordering::SeqCst) {
            self.thread.unpark();
        }
        let _end = End(&self.inner, number);
        call()
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.inner.gone.store(true, Ordering::Release);
    }
}

impl Inner {
    /// Ends a call. Waits out a flag that is being written, which takes nanoseconds unless the watchdog lost its
    /// processor at that very moment.
    fn end(&self, number: u64) {
        let ended = self.word.compare_exchange(number | RUNNING, IDLE, Ordering::AcqRel, Ordering::Acquire);
        if ended.is_ok() {
            return;
        }
        while self.word.load(Ordering::Acquire) != number | RAISED {
            std::thread::yield_now();
        }
        self.word.store(IDLE, Ordering::Release);
    }

    /// Raises the flag of the call with this word, unless it has ended.
    fn raise(&self, running: u64) {
        let number = running & !PHASE;
        let claimed = self
            .word
            .compare_exchange(running, number | RAISING, Ordering::AcqRel, Ordering::Acquire)
            .is_ok();
        if !claimed {
            return;
        }
        let flag = self.flag.load(Ordering::Relaxed);
        // SAFETY: the word is RAISING, so `end` waits and `run` has not returned; its caller keeps the pointer valid
        // and aligned until then. Guest code reads the same word in machine code, outside Rust's memory model; an
        // atomic write is one store that it sees whole.
        let flag = unsafe { AtomicI32::from_ptr(flag) };
        flag.store(1, Ordering::Relaxed);
        self.word.store(number | RAISED, Ordering::Release);
    }
}

/// What the watchdog knows about the call that it saw last on one seat.
#[derive(Clone, Copy)]
struct Seen {
    word: u64,
    at: Instant,
    spent: Option<Duration>,
}

impl Seen {
    /// Processor time since. Where its clock fails, wall time counts.
    fn ran(&self, clock: libc::clockid_t) -> Duration {
        let passed = self.at.elapsed();
        match (self.spent, time_of(clock)) {
            (Some(then), Some(now)) => passed.min(now.saturating_sub(then)),
            _ => passed,
        }
    }
}

fn watch(shared: &Shared) {
    let mut seen: Vec<Option<Seen>> = Vec::new();
    let mut idle = 0;
    while !shared.stop.load(Ordering::SeqCst) {
        let running = look(shared, &mut seen);
        idle = if running { 0 } else { idle + 1 };
        if idle < IDLE_TICKS {
            std::thread::park_timeout(TICK);
            continue;
        }
        shared.asleep.store(true, Ordering::SeqCst);
        // A call that began before the word above was set did not wake anybody.
        if !look(shared, &mut seen) && !shared.stop.load(Ordering::SeqCst) {
            std::thread::park();
        }
        shared.asleep.store(false, Ordering::SeqCst);
        idle = 0;
    }
}

/// One look at every seat. Answers whether any call runs.
fn look(shared: &Shared, seen: &mut Vec<Option<Seen>>) -> bool {
    let mut seats = shared.seats.lock().unwrap_or_else(PoisonError::into_inner);
    if seats.iter().any(|seat| seat.gone.load(Ordering::Acquire)) {
        seats.retain(|seat| !seat.gone.load(Ordering::Acquire));
        seen.clear();
    }
    seen.resize(seats.len(), None);
    let mut running = false;
    for (seat, seen) in seats.iter().zip(seen.iter_mut()) {
        let word = seat.word.load(Ordering::SeqCst);
        if word & PHASE != RUNNING {
            *seen = None;
            continue;
        }
        running = true;
        match seen {
            Some(known) if known.word == word => {
                let ran = known.ran(seat.clock);
                if ran >= HANDLER_HELD_UP {
                    seat.held_up.store(word & !PHASE, Ordering::Relaxed);
                }
                if ran >= shared.limit {
                    seat.raise(word);
                }
            }
            _ => *seen = Some(Seen { word, at: Instant::now(), spent: time_of(seat.clock) }),
        }
    }
    running
}

fn clock_of_this_thread() -> io::Result<libc::clockid_t> {
    let mut clock: libc::clockid_t = 0;
    // SAFETY: takes nothing and cannot fail; std does not give out this handle.
    let thread = unsafe { libc::pthread_self() };
    // SAFETY: the thread is the calling one, so it exists, and `clock` is a valid place for the answer.
    let failed = unsafe { libc::pthread_getcpuclockid(thread, &mut clock) };
    if failed == 0 { Ok(clock) } else { Err(io::Error::from_raw_os_error(failed)) }
}

/// Processor time on a clock. Nothing where its thread has ended.
fn time_of(clock: libc::clockid_t) -> Option<Duration> {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a valid place for the answer, and an unknown clock is an error, not undefined. std knows no
    // processor clocks.
    let failed = unsafe { libc::clock_gettime(clock, &mut time) };
    (failed == 0).then(|| Duration::new(time.tv_sec as u64, time.tv_nsec as u32))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spin_until(flag: &AtomicI32) -> i32 {
        while flag.load(Ordering::Relaxed) == 0 {
            std::hint::spin_loop();
        }
        flag.load(Ordering::Relaxed)
    }

    #[test]
    fn a_call_without_end_gets_its_flag() {
        let watchdog = Watchdog::start(Duration::from_millis(2)).expect("a thread");
        let mut seat = watchdog.seat().expect("a seat");
        let flag = AtomicI32::new(0);
        let at = NonNull::new(flag.as_ptr()).expect("not null");
        // SAFETY: the flag outlives the call.
        assert_eq!(unsafe { seat.run(at, || spin_until(&flag)) }, 1);
    }

    #[test]
    fn calls_that_held_up_the_shard_are_told_from_those_that_did_not() {
        let watchdog = Watchdog::start(HANDLER_HELD_UP * 3).expect("a thread");
        let mut seat = watchdog.seat().expect("a seat");
        let flag = AtomicI32::new(0);
        let at = NonNull::new(flag.as_ptr()).expect("not null");
        // SAFETY: the flag outlives the call.
        unsafe { seat.run(at, || ()) };
        assert!(!seat.held_up_after(0));
        // SAFETY: the flag outlives the call.
        unsafe { seat.run(at, || spin_until(&flag)) };
        assert!(seat.held_up_after(0) && seat.held_up_after(1));
        // SAFETY: the flag outlives the call.
        unsafe { seat.run(at, || ()) };
        assert!(!seat.held_up_after(2));
    }

    #[test]
    fn a_sleeping_watchdog_is_woken_by_a_call() {
        let watchdog = Watchdog::start(Duration::from_millis(1)).expect("a thread");
        let mut seat = watchdog.seat().expect("a seat");
        while !watchdog.shared.asleep.load(Ordering::SeqCst) {
            std::thread::yield_now();
        }
        let flag = AtomicI32::new(0);
        let at = NonNull::new(flag.as_ptr()).expect("not null");
        // SAFETY: the flag outlives the call.
        assert_eq!(unsafe { seat.run(at, || spin_until(&flag)) }, 1);
    }

    #[test]
    fn short_calls_never_leave_a_raised_flag_to_the_next() {
        let watchdog = Watchdog::start(Duration::ZERO).expect("a thread");
        let mut seat = watchdog.seat().expect("a seat");
        for _ in 0..20_000 {
            let flag = Box::new(AtomicI32::new(0));
            let at = NonNull::new(flag.as_ptr()).expect("not null");
            // SAFETY: the flag is freed after the call.
            unsafe { seat.run(at, || std::hint::black_box(&flag)) };
            drop(flag);
            assert_eq!(seat.inner.word.load(Ordering::SeqCst), IDLE);
        }
    }
}
