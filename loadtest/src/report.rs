//! What a run found: counts, latencies, and what it cost the processes under test.

use std::{collections::BTreeMap, fmt, io, time::Duration};

use hdrhistogram::Histogram;
use serde_json::json;

use crate::{client, plan::Plan, usage::Usage};

/// The outcome of one run.
#[derive(Debug)]
pub struct Report {
    /// Complete answers.
    pub answers: u64,
    /// Answers by status.
    pub statuses: BTreeMap<u16, u64>,
    /// Connections that broke.
    pub errors: u64,
    /// The first error in words.
    pub first_error: Option<String>,
    /// Bytes of bodies.
    pub body_bytes: u64,
    /// Time from asking to the whole answer, in microseconds. With `reconnect` it contains the handshakes.
    pub latency: Histogram<u64>,
    /// How long the run took.
    pub elapsed: Duration,
    /// What the processes under test used, in all.
    pub run_time: Duration,
    /// What they hold at the end, in KiB.
    pub resident_kib: u64,
    connections: usize,
}

impl Report {
    /// An empty report of a plan.
    pub fn new(plan: &Plan) -> Self {
        Self {
            answers: 0,
            statuses: BTreeMap::new(),
            errors: 0,
            first_error: None,
            body_bytes: 0,
            latency: client::micros(),
            elapsed: Duration::ZERO,
            run_time: Duration::ZERO,
            resident_kib: 0,
            connections: plan.connections,
        }
    }

    /// Counts an answer.
    pub fn answer(&mut self, status: u16, body_bytes: usize, latency: Duration) {
        self.answers += 1;
        *self.statuses.entry(status).or_default() += 1;
        self.body_bytes += body_bytes as u64;
        self.latency.saturating_record(u64::try_from(latency.as_micros()).unwrap_or(u64::MAX));
    }

    /// Counts a connection that broke.
    pub fn error(&mut self, error: &io::Error) {
        self.errors += 1;
        self.first_error.get_or_insert_with(|| error.to_string());
    }

    /// Closes the report.
    pub fn finish(&mut self, elapsed: Duration, before: Usage, after: Usage) {
        self.elapsed = elapsed;
        self.run_time = after.run_time.saturating_sub(before.run_time);
        self.resident_kib = after.resident_kib;
    }

    /// CPU time of the processes under test for one answer, in microseconds.
    pub fn cpu_micros_per_request(&self) -> f64 {
        self.run_time.as_secs_f64() * 1e6 / self.answers.max(1) as f64
    }

    /// The report as JSON.
    pub fn to_json(&self) -> serde_json::Value {
        json!({
            "connections": self.connections,
            "answers": self.answers,
            "statuses": self.statuses,
            "errors": self.errors,
            "bodyBytes": self.body_bytes,
            "seconds": self.elapsed.as_secs_f64(),
            "requestsPerSecond": self.answers as f64 / self.elapsed.as_secs_f64().max(1e-9),
            "latencyMicros": {
                "p50": self.latency.value_at_quantile(0.5),
                "p99": self.latency.value_at_quantile(0.99),
                "max": self.latency.max(),
            },
            "cpuMicrosPerRequest": self.cpu_micros_per_request(),
            "residentKiB": self.resident_kib,
        })
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rate = self.answers as f64 / self.elapsed.as_secs_f64().max(1e-9);
        writeln!(f, "connections    {:>10}", self.connections)?;
        writeln!(f, "answers        {:>10}  {rate:.0} per second", self.answers)?;
        for (status, count) in &self.statuses {
            writeln!(f, "  status {status}   {count:>10}")?;
        }
        writeln!(f, "errors         {:>10}  {}", self.errors, self.first_error.as_deref().unwrap_or(""))?;
        let at = |quantile| self.latency.value_at_quantile(quantile);
        writeln!(f, "latency µs     p50 {} p99 {} max {}", at(0.5), at(0.99), self.latency.max())?;
        if !self.run_time.is_zero() {
            writeln!(f, "CPU-µs/request {:>10.2}", self.cpu_micros_per_request())?;
            writeln!(f, "resident KiB   {:>10}", self.resident_kib)?;
        }
        Ok(())
    }
}
