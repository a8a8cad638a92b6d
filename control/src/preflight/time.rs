//! The clocks, and the time that a certificate takes.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustix::time::{ClockId, clock_gettime};

use super::page::Line;
use crate::limits::{MINT_SLOW, MINTS_MEASURED};

/// 2026-01-01: before this program was written.
const EARLIEST: Duration = Duration::from_secs(1_767_225_600);
/// 2100-01-01: no certificate of today is valid then.
const LATEST: Duration = Duration::from_secs(4_102_444_800);

/// Is the date believable, and does the clock of leases count?
pub fn clock() -> Line {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let (boot, monotonic) = (clock_gettime(ClockId::Boottime), clock_gettime(ClockId::Monotonic));
    judge_clock(since, boot.tv_sec >= monotonic.tv_sec && boot.tv_sec + boot.tv_nsec > 0)
}

fn judge_clock(since: Duration, boot_counts: bool) -> Line {
    if !(EARLIEST..LATEST).contains(&since) {
        let says = "the date is not this century's, so no certificate of any upstream is valid";
        return Line::fix("clock", says, "sudo timedatectl set-ntp true && date");
    }
    if !boot_counts {
        let says = "CLOCK_BOOTTIME runs behind CLOCK_MONOTONIC, so policy leases cannot be trusted; a time namespace \
                    may do that";
        return Line::fix("clock", says, "cat /proc/self/timens_offsets");
    }
    Line::fine("clock", "the date can be believed, and CLOCK_BOOTTIME counts the leases")
}

/// How long does a host name wait for its certificate the first time?
pub fn mint() -> Line {
    let times = measure();
    match times {
        Ok(mut times) => {
            times.sort();
            judge_mint(times.get(times.len() / 2).copied().unwrap_or_default())
        }
        Err(error) => Line::fix(
            "certificates",
            format!("cannot be made: {error}"),
            "openssl ecparam -name prime256v1 -genkey -noout >/dev/null && cat /proc/sys/kernel/random/entropy_avail",
        ),
    }
}

/// Signs leaves for one key by an authority of P-256, as a plane does.
fn measure() -> Result<Vec<Duration>, rcgen::Error> {
    let mut authority = CertificateParams::default();
    authority.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    let authority = CertifiedIssuer::self_signed(authority, KeyPair::generate()?)?;
    let key = KeyPair::generate()?;
    let params = CertificateParams::new(vec!["preflight.outgate.internal".to_owned()])?;
    let one = || {
        let started = Instant::now();
        params.signed_by(&key, &authority).map(|_| started.elapsed())
    };
    (0..MINTS_MEASURED).map(|_| one()).collect()
}

fn judge_mint(time: Duration) -> Line {
    let says = format!("{} µs to mint one, once for each host name of a sandbox", time.as_micros());
    if time <= MINT_SLOW {
        return Line::fine("certificates", says);
    }
    if cfg!(debug_assertions) {
        return Line::slower(
            "certificates",
            format!("{says}; this build is not optimised"),
            "cargo build --release",
        );
    }
    Line::slower("certificates", format!("{says}; the machine is slow or busy"), "uptime")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::preflight::Verdict;

    #[test]
    fn a_clock_that_cannot_be_right_is_to_be_mended() {
        let today = Duration::from_secs(1_790_000_000);
        assert_eq!(judge_clock(today, true).verdict, Verdict::Fine);
        assert_eq!(judge_clock(Duration::ZERO, true).verdict, Verdict::Fix);
        assert_eq!(judge_clock(LATEST, true).verdict, Verdict::Fix);
        assert_eq!(judge_clock(today, false).verdict, Verdict::Fix);
    }

    #[test]
    fn certificates_are_really_signed_and_judged_by_their_time() {
        let times = measure().unwrap();
        assert!(times.len() == MINTS_MEASURED && times.iter().all(|time| !time.is_zero()), "{times:?}");
        assert_eq!(judge_mint(Duration::from_micros(20)).verdict, Verdict::Fine);
        assert_eq!(judge_mint(Duration::from_millis(5)).verdict, Verdict::Slower);
    }
}
