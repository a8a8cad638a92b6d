//! Coarse timers: a wheel of 4 ms ticks in which arming and disarming cost no search.

use std::{
    fmt,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

use super::{Ring, core::Core};

/// One tick.
pub(super) const TICK: Duration = Duration::from_millis(4);
const TICKS_IN_SECOND: u64 = 1_000_000_000 / TICK.subsec_nanos() as u64;
const LEVELS: usize = 7;
const SLOTS: usize = 64;
const NONE: u32 = u32::MAX;

/// Names one timer and which life of its entry.
#[derive(Clone, Copy)]
pub(super) struct TimerKey {
    index: u32,
    generation: u32,
}

struct Entry {
    generation: u32,
    tick: u64,
    /// Level and slot while it is in a list.
    place: Option<(u8, u8)>,
    previous: u32,
    next: u32,
    fired: bool,
    waker: Option<Waker>,
}

/// A hierarchical wheel: level `n` has 64 slots of 64ⁿ ticks.
pub(super) struct Wheel {
    start: Instant,
    /// The last tick that was served.
    now: u64,
    heads: [[u32; SLOTS]; LEVELS],
    occupied: [u64; LEVELS],
    entries: Vec<Entry>,
    free: Vec<u32>,
}

impl Wheel {
    /// An empty wheel that starts at `start`.
    pub fn new(start: Instant) -> Self {
        let heads = [[NONE; SLOTS]; LEVELS];
        Self { start, now: 0, heads, occupied: [0; LEVELS], entries: Vec::new(), free: Vec::new() }
    }

    /// Arms a timer that never fires early and at most one tick and one turn late.
    pub fn insert(&mut self, deadline: Instant, waker: Waker) -> TimerKey {
        let tick = self.tick_after(deadline).max(self.now + 1);
        let index = self.free.pop().unwrap_or_else(|| {
            let (previous, next) = (NONE, NONE);
            let entry =
                Entry { generation: 0, tick: 0, place: None, previous, next, fired: false, waker: None };
            self.entries.push(entry);
            u32::try_from(self.entries.len() - 1).expect("fewer timers than four thousand million")
        });
        let entry = &mut self.entries[index as usize];
        entry.tick = tick;
        entry.fired = false;
        entry.waker = Some(waker);
        let generation = entry.generation;
        self.link(index);
        TimerKey { index, generation }
    }

    /// Whether the timer has fired; if not, `waker` is whom it wakes.
    pub fn poll(&mut self, key: TimerKey, waker: &Waker) -> Poll<()> {
        let Some(entry) = self.entry(key) else { return Poll::Ready(()) };
        if entry.fired {
            return Poll::Ready(());
        }
        match &entry.waker {
            Some(known) if known.will_wake(waker) => {}
            _ => entry.waker = Some(waker.clone()),
        }
        Poll::Pending
    }

    /// Disarms and frees a timer. Returns the waker, to be dropped when the wheel is no longer borrowed.
    pub fn remove(&mut self, key: TimerKey) -> Option<Waker> {
        self.entry(key)?;
        self.unlink(key.index);
        let entry = &mut self.entries[key.index as usize];
        entry.generation = entry.generation.wrapping_add(1);
        self.free.push(key.index);
        entry.waker.take()
    }

    /// Timers that are armed or have fired unseen.
    pub fn len(&self) -> usize {
        self.entries.len() - self.free.len()
    }

    /// When the wheel has to be served next.
    pub fn next(&self) -> Option<Instant> {
        self.next_slot().map(|(_, _, tick)| self.time_of(tick))
    }

    /// Serves all ticks up to `now` and returns whom to wake.
    pub fn advance(&mut self, now: Instant) -> Vec<Waker> {
        let since = now.saturating_duration_since(self.start);
        let target =
            since.as_secs() * TICKS_IN_SECOND + u64::from(since.subsec_nanos() / TICK.subsec_nanos());
        let mut woken = Vec::new();
        while let Some((level, slot, tick)) = self.next_slot().filter(|(_, _, tick)| *tick <= target) {
            self.now = tick;
            let mut index = std::mem::replace(&mut self.heads[level][slot], NONE);
            self.occupied[level] &= !(1 << slot);
            while index != NONE {
                let entry = &mut self.entries[index as usize];
                let next = entry.next;
                entry.place = None;
                if entry.tick <= tick {
                    entry.fired = true;
                    woken.extend(entry.waker.take());
                } else {
                    self.link(index);
                }
                index = next;
            }
        }
        self.now = self.now.max(target);
        woken
    }

    fn entry(&mut self, key: TimerKey) -> Option<&mut Entry> {
        self.entries.get_mut(key.index as usize).filter(|entry| entry.generation == key.generation)
    }

    fn tick_after(&self, time: Instant) -> u64 {
        let since = time.saturating_duration_since(self.start);
        since.as_secs() * TICKS_IN_SECOND + u64::from(since.subsec_nanos().div_ceil(TICK.subsec_nanos()))
    }

    fn time_of(&self, tick: u64) -> Instant {
        let nanos = u128::from(tick) * TICK.as_nanos();
        self.start + Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }

    /// The slot to be served first. All entries of a level lie ahead of `now` within the level's current round, and
    /// a lower level's entries come before a higher one's.
    fn next_slot(&self) -> Option<(usize, usize, u64)> {
        let level = (0..LEVELS).find(|level| self.occupied[*level] != 0)?;
        let slot = self.occupied[level].trailing_zeros() as usize;
        let shift = 6 * level as u32;
        let round = self.now >> (shift + 6) << (shift + 6);
        Some((level, slot, round + ((slot as u64) << shift)))
    }

    fn link(&mut self, index: u32) {
        let tick = self.entries[index as usize].tick;
        let differing = 63 - ((self.now ^ tick) | 1).leading_zeros();
        let level = (differing / 6) as usize;
        let level = level.min(LEVELS - 1);
        let slot = ((tick >> (6 * level)) & 63) as usize;
        let head = std::mem::replace(&mut self.heads[level][slot], index);
        self.occupied[level] |= 1 << slot;
        if head != NONE {
            self.entries[head as usize].previous = index;
        }
        let entry = &mut self.entries[index as usize];
        (entry.previous, entry.next) = (NONE, head);
        entry.place = Some((level as u8, slot as u8));
    }

    fn unlink(&mut self, index: u32) {
        let entry = &mut self.entries[index as usize];
        let Some((level, slot)) = entry.place.take() else { return };
        let (previous, next) = (entry.previous, entry.next);
        if next != NONE {
            self.entries[next as usize].previous = previous;
        }
        if previous != NONE {
            self.entries[previous as usize].next = next;
            return;
        }
        self.heads[usize::from(level)][usize::from(slot)] = next;
        if next == NONE {
            self.occupied[usize::from(level)] &= !(1 << slot);
        }
    }
}

/// A wait that the wheel ends.
pub struct Sleep {
    time: Duration,
    armed: Option<(Rc<Core>, TimerKey)>,
}

impl Sleep {
    /// A wait of `time` from its first poll. It costs nothing until then.
    pub fn new(time: Duration) -> Self {
        Self { time, armed: None }
    }
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if let Some((core, key)) = &self.armed {
            return core.wheel.borrow_mut().poll(*key, cx.waker());
        }
        let (core, now) = (Ring::current().0, Instant::now());
        // A wait beyond the clock's end never ends; a year does for that.
        let deadline = now.checked_add(self.time).unwrap_or(now + Duration::from_secs(365 * 24 * 3600));
        let key = core.wheel.borrow_mut().insert(deadline, cx.waker().clone());
        self.armed = Some((core, key));
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        if let Some((core, key)) = &self.armed {
            let waker = core.wheel.borrow_mut().remove(*key);
            drop(waker);
        }
    }
}

/// Waits for `time`, at most one tick (4 ms) and one turn of the shard longer. Even no time at all lets others run.
pub async fn sleep(time: Duration) {
    Sleep::new(time).await;
}

/// The time was over first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Elapsed;

impl fmt::Display for Elapsed {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("the time was over")
    }
}

impl std::error::Error for Elapsed {}

pin_project_lite::pin_project! {
    /// A future with a bound on its time. Made by [`timeout`].
    pub struct Timeout<F> {
        #[pin]
        future: F,
        sleep: Sleep,
    }
}

/// Awaits `future` for at most `time`; then it is dropped with the [`Timeout`]. Nothing is armed when the future is
/// ready at once.
pub fn timeout<F: Future>(time: Duration, future: F) -> Timeout<F> {
    Timeout { future, sleep: Sleep::new(time) }
}

impl<F: Future> Future for Timeout<F> {
    type Output = Result<F::Output, Elapsed>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        if let Poll::Ready(output) = this.future.poll(cx) {
            return Poll::Ready(Ok(output));
        }
        Pin::new(this.sleep).poll(cx).map(|()| Err(Elapsed))
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::{
            Arc,
            atomic::{AtomicU32, Ordering},
        },
        task::Wake,
    };

    use super::*;

    #[derive(Default)]
    struct Woken(AtomicU32);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn random(state: &mut u64) -> u64 {
        *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        *state >> 33
    }

    #[test]
    fn the_wheel_agrees_with_a_sorted_list() {
        let (start, mut seed) = (Instant::now(), 7);
        let (mut wheel, mut now) = (Wheel::new(start), start);
        let mut armed: Vec<(Instant, TimerKey, Arc<Woken>)> = Vec::new();
        for step in 0..4_000 {
            for _ in 0..random(&mut seed) % 4 {
                // From within a tick to beyond the third level.
                let bound = [3, 300, 20_000, 2_000_000][(random(&mut seed) % 4) as usize];
                let deadline = now + Duration::from_millis(random(&mut seed) % bound);
                let woken = Arc::new(Woken::default());
                let key = wheel.insert(deadline, Waker::from(Arc::clone(&woken)));
                armed.push((deadline, key, woken));
            }
            if random(&mut seed).is_multiple_of(3) && !armed.is_empty() {
                let (_, key, woken) = armed.swap_remove(random(&mut seed) as usize % armed.len());
                drop(wheel.remove(key));
                assert_eq!((woken.0.load(Ordering::Relaxed), Arc::strong_count(&woken)), (0, 1));
            }
            let first = armed.iter().map(|(deadline, ..)| *deadline).min();
            assert!(wheel.next().is_none_or(|next| next <= first.unwrap() + TICK), "step {step}");
            assert_eq!(wheel.next().is_none(), armed.is_empty(), "step {step}");
            now +=
                Duration::from_millis(random(&mut seed) % [2, 50, 5_000][(random(&mut seed) % 3) as usize]);
            wheel.advance(now).into_iter().for_each(Waker::wake);
            armed.retain(|(deadline, key, woken)| {
                let fired = woken.0.load(Ordering::Relaxed);
                assert!(fired <= 1 && (fired == 0 || *deadline <= now), "step {step}: early");
                assert!(fired == 1 || *deadline + TICK > now, "step {step}: late");
                let waker = Waker::from(Arc::clone(woken));
                assert_eq!(wheel.poll(*key, &waker).is_ready(), fired == 1);
                if fired == 1 {
                    drop(wheel.remove(*key));
                }
                fired == 0
            });
            assert_eq!(wheel.len(), armed.len());
        }
    }
}
