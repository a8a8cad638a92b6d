//! Clocks: wall time for certificates and records, and the boot clock by which leases run.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Time on `CLOCK_BOOTTIME`: it goes on while the machine sleeps, so a lease cannot be outslept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct BootTime(Duration);

impl BootTime {
    /// The time since boot.
    pub fn now() -> Self {
        let time = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        Self(Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or(0)))
    }

    /// A time from milliseconds since boot.
    pub fn from_millis(millis: u64) -> Self {
        Self(Duration::from_millis(millis))
    }

    /// Milliseconds since boot.
    pub fn as_millis(self) -> u64 {
        u64::try_from(self.0.as_millis()).unwrap_or(u64::MAX)
    }
}

/// Milliseconds since the Unix epoch; zero on a machine whose clock stands before it.
pub fn unix_millis() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn boot_time_never_runs_backwards() {
        let first = BootTime::now();
        assert!(BootTime::now() >= first);
        assert!(first.as_millis() > 0);
    }

    #[test]
    fn wall_time_is_after_2024() {
        assert!(unix_millis() > 1_704_067_200_000);
    }
}
