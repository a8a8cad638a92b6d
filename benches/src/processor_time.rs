//! Measures the processor time of the bench's thread: what others run on the machine meanwhile is not in the figures.

use std::time::Duration;

use criterion::measurement::{Measurement, ValueFormatter, WallTime};
use rustix::time::{ClockId, clock_gettime};

/// The measurement of all benches.
#[derive(Clone, Copy, Debug, Default)]
pub struct ProcessorTime;

impl ProcessorTime {
    /// What the calling thread has used up to now.
    pub fn spent() -> Duration {
        let time = clock_gettime(ClockId::ThreadCPUTime);
        // The clock starts at zero with its thread.
        Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or(0))
    }
}

impl Measurement for ProcessorTime {
    type Intermediate = Duration;
    type Value = Duration;

    fn start(&self) -> Duration {
        Self::spent()
    }

    fn end(&self, began: Duration) -> Duration {
        Self::spent() - began
    }

    fn add(&self, one: &Duration, other: &Duration) -> Duration {
        *one + *other
    }

    fn zero(&self) -> Duration {
        Duration::ZERO
    }

    fn to_f64(&self, value: &Duration) -> f64 {
        value.as_nanos() as f64
    }

    fn formatter(&self) -> &dyn ValueFormatter {
        WallTime.formatter()
    }
}
