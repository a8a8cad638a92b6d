//! Clocks: wall time for certificates and records, and the boot clock by which leases run.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

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
}

impl std::ops::Add<Duration> for BootTime {
    type Output = Self;

    fn add(self, later: Duration) -> Self {
        Self(self.0.saturating_add(later))
    }
}

/// The policy lease: until when the last snapshot may be enforced where a policy says `onControlLoss: deny`. Holds when
/// the last renewal that control answered was *sent*, in nanoseconds on the boot clock; zero before the first.
#[derive(Debug, Default)]
pub struct Lease {
    renewed_nanos: AtomicU64,
}

impl Lease {
    /// Notes a renewal by the moment of its sending. An earlier moment than the noted one changes nothing.
    pub fn renew(&self, sent: BootTime) {
        self.renewed_nanos.fetch_max(u64::try_from(sent.0.as_nanos()).unwrap_or(u64::MAX), Ordering::Release);
    }

    /// Whether a lease of this length still runs. Asked in the turn in which a byte is forwarded, so that a process
    /// which was stopped meanwhile finds it ended.
    pub fn runs(&self, length: Duration, now: BootTime) -> bool {
        let renewed = self.renewed_nanos.load(Ordering::Acquire);
        renewed != 0 && now < BootTime(Duration::from_nanos(renewed)) + length
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
        assert!(first > BootTime::from_millis(0));
    }

    #[test]
    fn wall_time_is_after_2024() {
        assert!(unix_millis() > 1_704_067_200_000);
    }

    #[test]
    fn lease_runs_from_the_sending_of_the_renewal() {
        let lease = Lease::default();
        assert!(
            !lease.runs(Duration::from_secs(1), BootTime::from_millis(5)),
            "nothing runs before the first renewal"
        );
        lease.renew(BootTime::from_millis(10_000));
        assert!(lease.runs(Duration::from_secs(1), BootTime::from_millis(10_999)));
        assert!(!lease.runs(Duration::from_secs(1), BootTime::from_millis(11_000)));
    }

    #[test]
    fn answer_that_comes_late_does_not_shorten_a_newer_lease() {
        let lease = Lease::default();
        lease.renew(BootTime::from_millis(20_000));
        lease.renew(BootTime::from_millis(10_000));
        assert!(lease.runs(Duration::from_secs(1), BootTime::from_millis(20_500)));
    }
}
