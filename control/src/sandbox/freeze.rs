//! Everything inside, stopped while a person is asked: what goes on could draw over the question, or take the answer.

use std::collections::BTreeSet;
use std::fs;

use rustix::process::{Pid, Signal, getpid, kill_process, kill_process_group};

/// Whether the sandbox is stopped, and which processes were so by themselves.
#[derive(Debug, Default)]
pub(super) struct Freeze(Option<BTreeSet<i32>>);

impl Freeze {
    /// Stops every process but the first, which calls this.
    pub fn stop(&mut self) {
        // Anywhere else that would be every process of the user.
        if getpid() != Pid::INIT {
            return;
        }
        self.0.get_or_insert_with(|| {
            stat().filter(|(_, is_stopped)| *is_stopped).map(|(pid, _)| pid).collect()
        });
        // The group of this number is every process that may be sent a signal (kill(2)); none is made meanwhile.
        let _nobody = kill_process_group(Pid::INIT, Signal::STOP);
    }

    /// Lets all go on that were stopped here. The younger first: a shell that went on before its program would see
    /// that stopped.
    pub fn go_on(&mut self) {
        let Some(before) = self.0.take() else { return };
        let inside: BTreeSet<i32> = stat().map(|(pid, _)| pid).collect();
        for pid in (&inside - &before).into_iter().rev().filter_map(Pid::from_raw) {
            if pid != Pid::INIT {
                let _ended = kill_process(pid, Signal::CONT);
            }
        }
    }
}

/// The processes that there are, and whether each is stopped (proc_pid_stat(5)).
fn stat() -> impl Iterator<Item = (i32, bool)> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| {
        let pid = entry.file_name().to_str()?.parse().ok()?;
        let stat = fs::read_to_string(entry.path().join("stat")).ok()?;
        let (_, columns) = stat.rsplit_once(')')?;
        Some((pid, columns.trim_start().starts_with('T')))
    })
}
