//! What the kernel counts for each user and process: locked memory and descriptors.

use std::fs;

use rustix::process::{Resource, getrlimit};

use super::page::Line;
use crate::limits::{DESCRIPTORS_FEW, DESCRIPTORS_MIN};

/// Locked memory of one shard: its ring and its executor's.
const SHARD_BYTES: u64 = 1 << 20;
/// The executor refuses to start below this.
const LOCKED_MIN: u64 = 512 << 10;
/// Number of CAP_IPC_LOCK (capabilities(7)): who has it is not counted.
const CAP_IPC_LOCK: u32 = 14;

/// Is there enough for a ring on each core?
pub fn locked_memory(shards: usize) -> Line {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let map = fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    let limit = getrlimit(Resource::Memlock).current;
    judge_locked(limit, uncounted(&status, &map), shards as u64)
}

/// The capability counts in the machine's own user namespace only, which maps every user.
fn uncounted(status: &str, uid_map: &str) -> bool {
    let capabilities = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let capabilities = capabilities.and_then(|text| u64::from_str_radix(text.trim(), 16).ok()).unwrap_or(0);
    let whole = uid_map.split_whitespace().eq(["0", "0", "4294967295"]);
    whole && capabilities & (1 << CAP_IPC_LOCK) != 0
}

fn judge_locked(limit: Option<u64>, uncounted: bool, shards: u64) -> Line {
    let name = "locked memory";
    let limit = match limit {
        _ if uncounted => return Line::fine(name, "not counted for this user, who has CAP_IPC_LOCK"),
        None => return Line::fine(name, "without bound"),
        Some(limit) => limit,
    };
    let need = shards * SHARD_BYTES;
    if limit >= need && limit >= LOCKED_MIN {
        let says = format!("{}, of which {shards} shards take about {}", size(limit), size(need));
        return Line::fine(name, says);
    }
    let says = format!(
        "{} for all processes of this user, and {shards} shards take about {}. In a unit file write \
         LimitMEMLOCK=infinity; in this shell:",
        size(limit),
        size(need.max(LOCKED_MIN))
    );
    Line::fix(name, says, "sudo prlimit --pid $$ --memlock=unlimited")
}

fn size(bytes: u64) -> String {
    if bytes >= 1 << 20 { format!("{} MiB", bytes >> 20) } else { format!("{} KiB", bytes >> 10) }
}

/// How many connections can a plane hold?
pub fn descriptors() -> Line {
    // A plane raises its own bound to the hard one.
    judge_descriptors(getrlimit(Resource::Nofile).maximum)
}

fn judge_descriptors(limit: Option<u64>) -> Line {
    let name = "descriptors";
    let Some(limit) = limit else { return Line::fine(name, "without bound") };
    let says = format!("{limit} for each process: about {} requests at once", limit / 2);
    if limit >= DESCRIPTORS_FEW {
        return Line::fine(name, says);
    }
    let says = format!("{says}. In a unit file write LimitNOFILE=1048576; in this shell:");
    let command = "sudo prlimit --pid $$ --nofile=1048576:1048576";
    if limit >= DESCRIPTORS_MIN { Line::slower(name, says, command) } else { Line::fix(name, says, command) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::preflight::Verdict;

    #[test]
    fn locked_memory_is_judged_by_the_number_of_shards() {
        let verdict = |limit, shards| judge_locked(limit, false, shards).verdict;
        assert_eq!(verdict(Some(8 << 20), 8), Verdict::Fine);
        assert_eq!(verdict(Some(8 << 20), 9), Verdict::Fix);
        assert_eq!(verdict(Some(64 << 10), 1), Verdict::Fix);
        assert_eq!(verdict(None, 1_000), Verdict::Fine);
        assert_eq!(judge_locked(Some(0), true, 4).verdict, Verdict::Fine);
    }

    #[test]
    fn the_capability_of_a_nested_namespace_does_not_count() {
        let (all, none) = ("Name:\tx\nCapEff:\t000001ffffffffff\n", "CapEff:\t0000000000000000\n");
        let machine = "         0          0 4294967295\n";
        assert!(uncounted(all, machine));
        assert!(!uncounted(none, machine));
        assert!(!uncounted(all, "         0       1000          1\n"));
    }

    #[test]
    fn few_descriptors_are_slower_and_hardly_any_are_broken() {
        assert_eq!(judge_descriptors(Some(1_048_576)).verdict, Verdict::Fine);
        assert_eq!(judge_descriptors(Some(4_096)).verdict, Verdict::Slower);
        assert_eq!(judge_descriptors(Some(256)).verdict, Verdict::Fix);
        assert_eq!(judge_descriptors(None).verdict, Verdict::Fine);
    }
}
