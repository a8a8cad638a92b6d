//! The time that the handlers of one sandbox may take of its shard: a bucket that fills at a constant rate.
//!
//! While a handler runs nothing else on the shard does. Calls as short as the rest of the work on a request are free. A
//! call that held up everybody, or had to be stopped, costs many times its time, so that a handler that never ends takes
//! far less of the shard than one that is merely slow.

use std::cell::Cell;
use std::time::{Duration, Instant};

use crate::limits::{
    HANDLER_BUDGET_DEPTH, HANDLER_BUDGET_PART, HANDLER_CALL_FREE, HANDLER_HELD_UP, HANDLER_HELD_UP_TIMES,
};

/// What a call did to the others on its shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    /// It ended soon; where its time is long all the same, the kernel ran something else meanwhile.
    Passed,
    /// It held them up, or was stopped by its bounds.
    HeldUp,
}

/// What a sandbox has left.
#[derive(Debug, Default)]
pub struct Budget {
    /// Nothing while it is full.
    taken: Cell<Option<Taken>>,
}

/// What is missing to a full bucket, and when that was so.
#[derive(Clone, Copy, Debug)]
struct Taken {
    time: Duration,
    at: Instant,
}

impl Budget {
    /// Takes what a call cost that ended now after so long.
    pub fn charge(&self, took: Duration, call: Call, now: Instant) {
        let cost = match call {
            Call::Passed => took.min(HANDLER_HELD_UP).saturating_sub(HANDLER_CALL_FREE),
            Call::HeldUp => took * HANDLER_HELD_UP_TIMES,
        };
        if !cost.is_zero() {
            self.taken.set(Some(Taken { time: self.missing(now) + cost, at: now }));
        }
    }

    /// How long no handler may be called; nothing where one may now.
    pub fn debt(&self, now: Instant) -> Option<Duration> {
        // The usual case reads nothing else.
        self.taken.get()?;
        let missing = self.missing(now);
        if missing.is_zero() {
            self.taken.set(None);
        }
        let beyond = missing.saturating_sub(HANDLER_BUDGET_DEPTH);
        (!beyond.is_zero()).then(|| beyond * HANDLER_BUDGET_PART)
    }

    fn missing(&self, now: Instant) -> Duration {
        let Some(Taken { time, at }) = self.taken.get() else { return Duration::ZERO };
        time.saturating_sub(now.saturating_duration_since(at) / HANDLER_BUDGET_PART)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn calls_as_short_as_other_work_cost_nothing() {
        let (budget, now) = (Budget::default(), Instant::now());
        for _ in 0..1_000_000 {
            budget.charge(HANDLER_CALL_FREE, Call::Passed, now);
        }
        assert_eq!(budget.debt(now), None);
        assert!(budget.taken.get().is_none(), "no clock is needed for the next call");
    }

    #[test]
    fn what_is_taken_beyond_the_depth_is_waited_for_and_comes_back() {
        let (budget, now) = (Budget::default(), Instant::now());
        budget.charge(HANDLER_BUDGET_DEPTH / HANDLER_HELD_UP_TIMES, Call::HeldUp, now);
        assert_eq!(budget.debt(now), None, "the whole depth may be taken at once");
        budget.charge(MS, Call::Passed, now);
        let debt = budget.debt(now).expect("it is beyond its depth");
        assert_eq!(debt, (MS - HANDLER_CALL_FREE) * HANDLER_BUDGET_PART);
        assert!(budget.debt(now + debt - MS / 10).is_some());
        assert_eq!(budget.debt(now + debt), None);
        let full = now + debt + HANDLER_BUDGET_DEPTH * HANDLER_BUDGET_PART;
        assert_eq!(budget.debt(full), None);
        assert!(budget.taken.get().is_none(), "a full one is forgotten");
    }

    #[test]
    fn nothing_is_saved_beyond_the_depth() {
        let (budget, now) = (Budget::default(), Instant::now());
        let later = now + Duration::from_secs(3600);
        budget.charge(MS, Call::Passed, now);
        budget.charge(HANDLER_BUDGET_DEPTH / HANDLER_HELD_UP_TIMES * 2, Call::HeldUp, later);
        assert_eq!(budget.debt(later), Some(HANDLER_BUDGET_DEPTH * HANDLER_BUDGET_PART));
    }

    #[test]
    fn a_call_that_the_kernel_put_aside_is_not_charged_for_the_pause() {
        let (budget, now) = (Budget::default(), Instant::now());
        budget.charge(Duration::from_secs(10), Call::Passed, now);
        assert_eq!(budget.debt(now), None);
    }

    #[test]
    fn endless_calls_one_after_the_other_take_less_than_half_a_percent_of_the_shard() {
        let (budget, begin) = (Budget::default(), Instant::now());
        let (each, mut now, mut ran) = (7 * MS, begin, Duration::ZERO);
        while now < begin + Duration::from_secs(600) {
            now += budget.debt(now).unwrap_or_default();
            assert_eq!(budget.debt(now), None);
            now += each;
            ran += each;
            budget.charge(each, Call::HeldUp, now);
        }
        let part = ran.as_secs_f64() / (now - begin).as_secs_f64();
        assert!(part < 0.005, "{part}");
    }

    #[test]
    fn slow_calls_take_at_most_their_part() {
        let (budget, begin) = (Budget::default(), Instant::now());
        let (each, mut now, mut ran) = (MS, begin, Duration::ZERO);
        while now < begin + Duration::from_secs(60) {
            now += budget.debt(now).unwrap_or_default();
            now += each;
            ran += each;
            budget.charge(each, Call::Passed, now);
        }
        let part = ran.as_secs_f64() / (now - begin).as_secs_f64();
        assert!((0.09..0.11).contains(&part), "{part}");
    }
}
