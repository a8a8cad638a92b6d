//! Cores: who is measured has one to itself, generator and origin have the others.

use std::{fs, io};

use rustix::thread::{CpuSet, Pid as Thread, sched_setaffinity};

use crate::usage::Pid;

/// Puts every thread of these processes on the first core.
///
/// # Errors
/// When the kernel does not let us.
pub fn measured(pids: &[Pid]) -> io::Result<()> {
    let mut first = CpuSet::new();
    first.set(0);
    put(pids, &first)
}

/// Puts every thread of this process on the other cores, where there are any.
///
/// # Errors
/// When the kernel does not let us.
pub fn ourselves() -> io::Result<()> {
    let mut others = CpuSet::new();
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    (1..cores).for_each(|core| others.set(core));
    if cores > 1 { put(&[Pid(std::process::id())], &others) } else { Ok(()) }
}

/// Lets every thread of this process run on all cores again, after [`ourselves`].
///
/// # Errors
/// When the kernel does not let us.
pub fn release() -> io::Result<()> {
    let mut all = CpuSet::new();
    // What the kernel does not let us use it leaves out.
    (0..CpuSet::MAX_CPU).for_each(|core| all.set(core));
    put(&[Pid(std::process::id())], &all)
}

fn put(pids: &[Pid], on: &CpuSet) -> io::Result<()> {
    for pid in pids {
        for task in fs::read_dir(format!("/proc/{}/task", pid.0))? {
            let thread: i32 = task?.file_name().to_string_lossy().parse().map_err(io::Error::other)?;
            if let Some(thread) = Thread::from_raw(thread) {
                sched_setaffinity(Some(thread), on)?;
            }
        }
    }
    Ok(())
}
