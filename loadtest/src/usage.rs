//! What a process has used, read from the kernel.

use std::{fs, io, time::Duration};

/// A process whose use of the machine is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pid(pub u32);

/// Use of a process up to one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Time that its threads ran, as the scheduler counted it.
    pub run_time: Duration,
    /// Resident memory in KiB.
    pub resident_kib: u64,
}

impl Usage {
    /// Reads the use of one process, all its threads together.
    ///
    /// # Errors
    /// When the process is gone or its `/proc` entry may not be read.
    pub fn of(pid: Pid) -> io::Result<Self> {
        let mut run_nanos = 0;
        for task in fs::read_dir(format!("/proc/{}/task", pid.0))? {
            // A thread may end between the listing and the reading; its time is then lost to everybody.
            if let Ok(text) = fs::read_to_string(task?.path().join("schedstat")) {
                run_nanos += first_number(&text);
            }
        }
        let status = fs::read_to_string(format!("/proc/{}/status", pid.0))?;
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).map_or(0, first_number);
        Ok(Self { run_time: Duration::from_nanos(run_nanos), resident_kib: resident })
    }

    /// The use of several processes together.
    ///
    /// # Errors
    /// As [`Usage::of`].
    pub fn of_all(pids: &[Pid]) -> io::Result<Self> {
        pids.iter().try_fold(Self::default(), |sum, pid| {
            let one = Self::of(*pid)?;
            Ok(Self {
                run_time: sum.run_time + one.run_time,
                resident_kib: sum.resident_kib + one.resident_kib,
            })
        })
    }
}

fn first_number(text: &str) -> u64 {
    text.split_ascii_whitespace().next().and_then(|word| word.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_process_has_run_and_holds_memory() {
        let usage = Usage::of(Pid(std::process::id())).unwrap();
        assert!(usage.resident_kib > 0);
    }

    #[test]
    fn process_that_does_not_exist_is_an_error() {
        assert!(Usage::of(Pid(u32::MAX)).is_err());
    }
}
