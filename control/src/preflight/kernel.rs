//! The kernel: its version, the plane's rings, and connections that outlive a restart.

use std::io;

use control_wire::machine::{KERNEL_MIN, RingRefusal};
use io_uring::IoUring;

use super::page::Line;
use crate::causes::chain;

/// Entries of a shard's ring, as the plane opens it.
const RING_ENTRIES: u32 = 4_096;
/// Where the kernel says whether it hands waiting connections to another listener.
const MIGRATE: &str = "/proc/sys/net/ipv4/tcp_migrate_req";

/// Is it new enough?
pub fn version() -> Line {
    let system = rustix::system::uname();
    judge_version(&system.release().to_string_lossy())
}

fn judge_version(release: &str) -> Line {
    let mut numbers =
        release.split(|byte: char| !byte.is_ascii_digit()).map(|text| text.parse::<u32>().unwrap_or(0));
    let found = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    let (major, minor) = KERNEL_MIN;
    if found >= KERNEL_MIN {
        return Line::fine("kernel", format!("Linux {release}; {major}.{minor} or later is needed"));
    }
    Line::fix(
        "kernel",
        format!(
            "Linux {release} is too old: {major}.{minor} or later is needed. Debian 12, Ubuntu 24.04, RHEL 10 and \
             later bring one; on Ubuntu 22.04:"
        ),
        "sudo apt-get install linux-generic-hwe-22.04 && sudo reboot",
    )
}

/// Can a plane have a ring for each shard? They are opened and closed again, because every rule has exceptions that
/// only the kernel knows.
pub fn ring(shards: usize) -> Line {
    let opened: io::Result<Vec<IoUring>> = (0..shards).map(|_| open()).collect();
    match opened {
        Ok(rings) => {
            let count = match rings.len() {
                1 => "a ring".to_owned(),
                count => format!("{count} rings"),
            };
            Line::fine("io_uring", format!("{count} of the plane's size opened, one for each core"))
        }
        Err(error) => judge_refusal(&RingRefusal::of(error)),
    }
}

/// The flags and sizes of the plane.
fn open() -> io::Result<IoUring> {
    let mut builder = IoUring::builder();
    builder
        .setup_single_issuer()
        .setup_defer_taskrun()
        .setup_taskrun_flag()
        .setup_submit_all()
        .setup_cqsize(RING_ENTRIES * 4);
    builder.build(RING_ENTRIES)
}

/// The plane's own sentence, and what to type.
fn judge_refusal(refusal: &RingRefusal) -> Line {
    let command = match refusal {
        RingRefusal::Disabled { .. } => "sudo sysctl -w kernel.io_uring_disabled=0",
        RingRefusal::Refused(_) | RingRefusal::Missing(_) => {
            "docker run --security-opt seccomp=unconfined …   # or a profile with the three calls"
        }
        RingRefusal::TooOld(_) => "uname -r",
        RingRefusal::LockedMemory(_) => "sudo prlimit --pid $$ --memlock=unlimited",
        RingRefusal::Descriptors(_) => "ulimit -n \"$(ulimit -Hn)\"",
        RingRefusal::Other(_) => "sudo dmesg | tail",
    };
    Line::fix("io_uring", chain(refusal), command)
}

/// Do connections that wait in a listener's queue survive when a plane is replaced?
pub fn migration() -> Line {
    judge_migration(std::fs::read_to_string(MIGRATE).ok().as_deref().map(str::trim))
}

fn judge_migration(value: Option<&str>) -> Line {
    let name = "tcp_migrate_req";
    match value {
        Some("1") => Line::fine(name, "waiting connections go over to the next plane at a restart"),
        Some(_) => Line::slower(
            name,
            "off: connections that wait in a listener's queue when a plane ends are reset, and their clients try again",
            "sudo sysctl -w net.ipv4.tcp_migrate_req=1",
        ),
        None => Line::slower(
            name,
            "cannot be read here; in a container, set it when the container is made",
            "docker run --sysctl net.ipv4.tcp_migrate_req=1 …",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::preflight::Verdict;

    #[test]
    fn kernels_are_judged_by_number_not_by_text() {
        for (release, verdict) in [
            ("6.1.0-18-amd64", Verdict::Fine),
            ("6.12.9", Verdict::Fine),
            ("10.0", Verdict::Fine),
            ("5.15.0-91-generic", Verdict::Fix),
            ("6.0.19", Verdict::Fix),
            ("nonsense", Verdict::Fix),
        ] {
            assert_eq!(judge_version(release).verdict, verdict, "{release}");
        }
    }

    #[test]
    fn a_refused_ring_is_told_in_the_planes_words_with_a_command() {
        let error = || io::Error::from(io::ErrorKind::PermissionDenied);
        for refusal in [
            RingRefusal::Disabled { value: "2".into() },
            RingRefusal::Refused(error()),
            RingRefusal::Missing(error()),
            RingRefusal::LockedMemory(error()),
        ] {
            let line = judge_refusal(&refusal);
            assert_eq!(line.verdict, Verdict::Fix);
            assert!(line.says.starts_with(&refusal.to_string()) && line.command.is_some(), "{line:?}");
        }
    }

    #[test]
    fn migration_that_is_off_is_slower_and_not_broken() {
        assert_eq!(judge_migration(Some("1")).verdict, Verdict::Fine);
        assert_eq!(judge_migration(Some("0")).verdict, Verdict::Slower);
        assert_eq!(judge_migration(None).verdict, Verdict::Slower);
    }
}
