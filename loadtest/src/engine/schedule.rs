//! When requests are due. In an open loop a request is due at its time whatever became of those before it, and its
//! latency counts from then: a target that stalls cannot hide the requests that it kept from being sent.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

/// Requests at a constant rate.
#[derive(Debug)]
pub struct Schedule {
    begins: Instant,
    pause: Duration,
    given: u64,
    backlog: VecDeque<Instant>,
}

impl Schedule {
    /// So many requests in a second, the first at once.
    pub fn new(begins: Instant, rate: f64) -> Self {
        let pause = Duration::from_secs_f64(1.0 / rate);
        Self { begins, pause, given: 0, backlog: VecDeque::new() }
    }

    fn due(&self, number: u64) -> Instant {
        self.begins + Duration::from_nanos((self.pause.as_nanos() as u64).saturating_mul(number))
    }

    /// Moves everything that is due by now to the backlog.
    pub fn advance(&mut self, now: Instant) {
        while self.due(self.given) <= now {
            self.backlog.push_back(self.due(self.given));
            self.given += 1;
        }
    }

    /// The request that has waited longest.
    pub fn take(&mut self) -> Option<Instant> {
        self.backlog.pop_front()
    }

    /// Gives one back that nobody could take.
    pub fn put_back(&mut self, due: Instant) {
        self.backlog.push_front(due);
    }

    /// When the next one is due that is not in the backlog.
    pub fn next(&self) -> Instant {
        self.due(self.given)
    }

    /// Requests that no connection was free for.
    pub fn waiting(&self) -> impl Iterator<Item = Instant> + '_ {
        self.backlog.iter().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_due_at_their_times_however_late_one_looks() {
        let begins = Instant::now();
        let mut schedule = Schedule::new(begins, 1_000.0);
        schedule.advance(begins);
        assert_eq!(schedule.take(), Some(begins));
        assert_eq!(schedule.take(), None);
        // A stall of 10 ms: ten requests are late by 9, 8, … ms, none is left out.
        schedule.advance(begins + Duration::from_millis(10));
        let due: Vec<u128> =
            std::iter::from_fn(|| schedule.take()).map(|due| (due - begins).as_millis()).collect();
        assert_eq!(due, (1..=10).collect::<Vec<u128>>());
        assert_eq!(schedule.next(), begins + Duration::from_millis(11));
    }

    #[test]
    fn a_million_requests_later_the_rate_has_not_drifted() {
        let begins = Instant::now();
        let mut schedule = Schedule::new(begins, 3_000.0);
        schedule.given = 3_000_000;
        let off = schedule.next() - begins;
        assert!(off.abs_diff(Duration::from_secs(1_000)) < Duration::from_millis(2), "{off:?}");
        schedule.advance(begins + off);
        assert!(schedule.take().is_some() && schedule.take().is_none());
    }
}
