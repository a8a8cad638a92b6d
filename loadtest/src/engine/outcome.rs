//! What a load found: counts, latencies, faults in words.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use hdrhistogram::Histogram;

/// Latencies in microseconds, up to ten minutes, three digits.
pub type Micros = Histogram<u64>;

/// An empty histogram.
pub fn micros() -> Micros {
    Histogram::new_with_bounds(1, 600_000_000, 3).expect("the bounds are constants that the library accepts")
}

/// Adds a time to a histogram.
pub fn record(histogram: &mut Micros, time: Duration) {
    histogram.saturating_record(u64::try_from(time.as_micros()).unwrap_or(u64::MAX));
}

/// The outcome of one load.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Answers in the measured part.
    pub answers: u64,
    /// Answers in the part in which system calls are counted.
    pub counted_answers: u64,
    /// Answers from the beginning.
    pub all_answers: u64,
    /// Answers that are what was asked for.
    pub good: u64,
    /// Refusals where they are no errors.
    pub refused: u64,
    /// Answers that are not what was asked for.
    pub corrupted: u64,
    /// Requests that were due and had no answer at the end.
    pub unanswered: u64,
    /// Broken connections and wrong statuses.
    pub errors: u64,
    /// Faults in words, with how often each was seen.
    pub faults: BTreeMap<String, u64>,
    /// Handshakes that were abbreviated.
    pub resumed: u64,
    /// Connections that were made.
    pub connected: u64,
    /// Bytes of bodies that came and went in the measured part, whether or not their answers ended in it.
    pub body_bytes: u64,
    /// Time from when a request was due to the end of its answer; its connection's handshake is in it where it needs
    /// one.
    pub latency: Micros,
    /// How long the measured part took.
    pub elapsed: Duration,
}

impl Default for Outcome {
    fn default() -> Self {
        Self {
            answers: 0,
            counted_answers: 0,
            all_answers: 0,
            good: 0,
            refused: 0,
            corrupted: 0,
            unanswered: 0,
            errors: 0,
            faults: BTreeMap::new(),
            resumed: 0,
            connected: 0,
            body_bytes: 0,
            latency: micros(),
            elapsed: Duration::ZERO,
        }
    }
}

/// Kinds of faults that are told apart. Larger: reports swell. Smaller: the one that matters is missing.
const FAULTS_MAX: usize = 16;

impl Outcome {
    /// Counts a fault.
    pub fn error(&mut self, what: &str) {
        self.errors += 1;
        self.fault(what);
    }

    /// Counts an answer that is not what was asked for.
    pub fn corrupt(&mut self, what: &str) {
        self.corrupted += 1;
        self.fault(what);
    }

    fn fault(&mut self, what: &str) {
        if self.faults.len() < FAULTS_MAX || self.faults.contains_key(what) {
            *self.faults.entry(what.to_owned()).or_default() += 1;
        }
    }

    /// The fault that was seen most.
    pub fn worst(&self) -> Option<&str> {
        self.faults.iter().max_by_key(|(_, count)| **count).map(|(what, _)| what.as_str())
    }

    /// Counts a request that was due and has no answer: it counts as one that takes until now.
    pub fn unanswer(&mut self, due: Instant, now: Instant) {
        self.unanswered += 1;
        record(&mut self.latency, now.saturating_duration_since(due));
    }

    /// Answers in a second.
    pub fn rate(&self) -> f64 {
        self.answers as f64 / self.elapsed.as_secs_f64().max(1e-9)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_those_of_the_values_within_a_thousandth() {
        let mut histogram = micros();
        (1..=100_000).for_each(|value| record(&mut histogram, Duration::from_micros(value)));
        for (quantile, value) in [(0.5, 50_000.0), (0.99, 99_000.0), (0.999, 99_900.0)] {
            let found = histogram.value_at_quantile(quantile) as f64;
            assert!((found / value - 1.0).abs() < 0.001, "{quantile}: {found}");
        }
        record(&mut histogram, Duration::from_secs(10_000));
        assert!(histogram.max() >= 600_000_000, "what is too long is the longest, not lost");
    }

    #[test]
    fn the_fault_that_was_seen_most_is_told() {
        let mut outcome = Outcome::default();
        outcome.error("a");
        outcome.error("b");
        outcome.error("b");
        (0..100).for_each(|index| outcome.error(&format!("other {index}")));
        assert_eq!((outcome.worst(), outcome.errors, outcome.faults.len()), (Some("b"), 103, FAULTS_MAX));
    }
}
