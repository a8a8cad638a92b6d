//! What processes have used, read from the kernel.

use std::{fs, io, ops::Sub, time::Duration};

/// A process whose use of the machine is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Pid(pub u32);

/// Use of some processes up to one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Time that their threads ran, as the scheduler counted it.
    pub run_time: Duration,
    /// Times that their threads waited of themselves, and were made to wait.
    pub switches: u64,
    /// Resident memory in KiB: what `smaps_rollup` says, `status` where that is not to be read.
    pub resident_kib: u64,
    /// Resident memory of no file, in KiB.
    pub anonymous_kib: u64,
    /// Bytes written to storage.
    pub written_bytes: u64,
    /// Descriptors that are open.
    pub descriptors: u64,
}

impl Usage {
    /// Reads the use of several processes together, all their threads.
    ///
    /// # Errors
    /// When one is gone or its `/proc` entry may not be read.
    pub fn of(pids: &[Pid]) -> io::Result<Self> {
        let mut sum = Self::default();
        for pid in pids {
            sum.add(*pid).map_err(|error| {
                io::Error::other(format!("process {} cannot be measured: {error}; has it ended?", pid.0))
            })?;
        }
        Ok(sum)
    }

    fn add(&mut self, pid: Pid) -> io::Result<()> {
        for task in fs::read_dir(format!("/proc/{}/task", pid.0))? {
            // A thread may end between the listing and the reading; its time is then lost to everybody.
            let task = task?.path();
            if let Ok(text) = fs::read_to_string(task.join("schedstat")) {
                self.run_time += Duration::from_nanos(first_number(&text));
            }
            if let Ok(text) = fs::read_to_string(task.join("status")) {
                self.switches +=
                    field(&text, "voluntary_ctxt_switches:") + field(&text, "nonvoluntary_ctxt_switches:");
            }
        }
        let of = |name: &str| fs::read_to_string(format!("/proc/{}/{name}", pid.0));
        match of("smaps_rollup") {
            Ok(text) => {
                self.resident_kib += field(&text, "Rss:");
                self.anonymous_kib += field(&text, "Anonymous:");
            }
            Err(_) => {
                let text = of("status")?;
                self.resident_kib += field(&text, "VmRSS:");
                self.anonymous_kib += field(&text, "RssAnon:");
            }
        }
        self.written_bytes += of("io").map_or(0, |text| field(&text, "write_bytes:"));
        self.descriptors += fs::read_dir(format!("/proc/{}/fd", pid.0)).map_or(0, |fds| fds.count() as u64);
        Ok(())
    }
}

/// What was used between two moments; what is a state, as memory, is that of the later.
impl Sub for Usage {
    type Output = Self;

    fn sub(self, before: Self) -> Self {
        Self {
            run_time: self.run_time.saturating_sub(before.run_time),
            switches: self.switches.saturating_sub(before.switches),
            written_bytes: self.written_bytes.saturating_sub(before.written_bytes),
            ..self
        }
    }
}

/// Processor time of the whole machine up to one moment, in ticks of the kernel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ticks {
    all: u64,
    stolen: u64,
}

impl Ticks {
    /// Up to now; nothing where the kernel does not say.
    pub fn now() -> Self {
        Self::of(&fs::read_to_string("/proc/stat").unwrap_or_default())
    }

    /// The first line of `/proc/stat`: user, nice, system, idle, iowait, irq, softirq, steal (proc(5)).
    fn of(text: &str) -> Self {
        let first = text.lines().next().and_then(|line| line.strip_prefix("cpu ")).unwrap_or_default();
        let ticks: Vec<u64> =
            first.split_ascii_whitespace().take(8).filter_map(|word| word.parse().ok()).collect();
        Self { all: ticks.iter().sum(), stolen: ticks.get(7).copied().unwrap_or_default() }
    }

    /// Percent of the time since another moment that the machine's host gave to others. Latencies of such a time are
    /// those of the host.
    pub fn stolen_since(self, before: Self) -> f64 {
        let all = self.all.saturating_sub(before.all).max(1);
        self.stolen.saturating_sub(before.stolen) as f64 * 100.0 / all as f64
    }
}

/// Child processes of one, also of its children.
pub fn descendants(of: Pid) -> Vec<Pid> {
    let all: Vec<(Pid, Pid)> = fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .filter_map(|entry| {
            let pid: u32 = entry.ok()?.file_name().to_str()?.parse().ok()?;
            let text = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
            Some((Pid(pid), Pid(field(&text, "PPid:") as u32)))
        })
        .collect();
    let (mut found, mut next) = (Vec::new(), 0);
    let children_of = |parent: Pid| all.iter().filter(move |(_, its)| *its == parent).map(|(pid, _)| *pid);
    found.extend(children_of(of));
    while let Some(pid) = found.get(next).copied() {
        found.extend(children_of(pid));
        next += 1;
    }
    found
}

/// The name of a process, as far as the kernel keeps it.
pub fn command(pid: Pid) -> String {
    fs::read_to_string(format!("/proc/{}/comm", pid.0)).unwrap_or_default().trim().to_owned()
}

fn field(text: &str, name: &str) -> u64 {
    text.lines().find_map(|line| line.strip_prefix(name)).map_or(0, first_number)
}

fn first_number(text: &str) -> u64 {
    text.split_ascii_whitespace().next().and_then(|word| word.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_process_has_run_and_holds_memory() {
        let own = Pid(std::process::id());
        let before = Usage::of(&[own]).unwrap();
        assert!(before.resident_kib > 0 && before.anonymous_kib > 0 && before.descriptors > 0);
        let mut sum = 0_u64;
        while Usage::of(&[own]).unwrap().run_time < before.run_time + Duration::from_millis(5) {
            sum = sum.wrapping_add((0..100_000).sum());
        }
        let used = Usage::of(&[own]).unwrap() - before;
        assert!(used.run_time >= Duration::from_millis(5) && used.resident_kib > 0, "{sum}");
    }

    #[test]
    fn time_that_the_host_gave_to_others_is_told() {
        let before = Ticks::of("cpu  100 0 50 800 0 0 0 50 0 0\ncpu0 1 2 3 4 5 6 7 8 9 10\n");
        let after = Ticks::of("cpu  200 0 100 1600 0 0 0 100 7 7\n");
        assert_eq!(after.stolen_since(before), 5.0);
        assert_eq!(Ticks::of("").stolen_since(Ticks::default()), 0.0);
        assert!(Ticks::now().all > 0);
    }

    #[test]
    fn process_that_does_not_exist_is_an_error() {
        assert!(Usage::of(&[Pid(u32::MAX)]).unwrap_err().to_string().contains("cannot be measured"));
    }
}
