//! System calls and instructions of processes, counted by the kernel's performance events. They cost what they count a
//! little, so they run in a part of a row whose CPU time is not reported.

use std::{fs, io};

use perf_event::{
    Builder, Counter,
    events::{Event, Hardware, Tracepoint},
};

use crate::usage::Pid;

/// Counters on every thread of some processes.
pub struct Counters {
    calls: Vec<Counter>,
    instructions: Vec<Counter>,
    /// What cannot be counted here, and why.
    pub missing: Vec<String>,
}

/// What was counted; nothing where the machine has no such counter or does not let us.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counted {
    /// System calls begun.
    pub calls: Option<u64>,
    /// Instructions, those of the kernel on behalf of the process included.
    pub instructions: Option<u64>,
}

impl Counters {
    /// Begins to count.
    pub fn start(pids: &[Pid]) -> Self {
        let threads = threads(pids);
        let mut missing = Vec::new();
        let mut all = |what: &str, made: io::Result<Vec<Counter>>| {
            made.unwrap_or_else(|error| {
                missing.push(format!("{what}: {error}"));
                Vec::new()
            })
        };
        let calls = all(
            "system calls",
            tracepoint("raw_syscalls/sys_enter").and_then(|event| on_all(&threads, &event)),
        );
        let instructions = all("instructions", on_all(&threads, &Hardware::INSTRUCTIONS));
        Self { calls, instructions, missing }
    }

    /// What was counted since the start.
    pub fn read(&mut self) -> Counted {
        let sum = |counters: &mut Vec<Counter>| {
            let read = counters.iter_mut().map(|counter| counter.read().unwrap_or(0)).sum();
            (!counters.is_empty()).then_some(read)
        };
        Counted { calls: sum(&mut self.calls), instructions: sum(&mut self.instructions) }
    }
}

/// A tracepoint by its name, `group/event`, wherever the machine shows them.
pub(crate) fn tracepoint(name: &str) -> io::Result<Tracepoint> {
    let places = ["/sys/kernel/tracing/events", "/sys/kernel/debug/tracing/events"];
    let found = places.iter().find_map(|place| fs::read_to_string(format!("{place}/{name}/id")).ok());
    let id =
        found.ok_or_else(|| io::Error::other("tracefs is not mounted, or not to be read by this user"))?;
    Ok(Tracepoint::with_id(id.trim().parse().map_err(io::Error::other)?))
}

/// Counts an event on each of these threads.
pub(crate) fn on_all<E: Event + Clone>(threads: &[i32], event: &E) -> io::Result<Vec<Counter>> {
    let mut counters = Vec::with_capacity(threads.len());
    for thread in threads {
        let mut builder = Builder::new(event.clone());
        let mut counter = builder.observe_pid(*thread).any_cpu().include_kernel().build()?;
        counter.enable()?;
        counters.push(counter);
    }
    Ok(counters)
}

/// Every thread of these processes.
pub(crate) fn threads(pids: &[Pid]) -> Vec<i32> {
    let tasks = pids.iter().filter_map(|pid| fs::read_dir(format!("/proc/{}/task", pid.0)).ok()).flatten();
    tasks.filter_map(|task| task.ok()?.file_name().to_str()?.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_system_calls_are_counted_where_the_kernel_lets_us() {
        let mut counters = Counters::start(&[Pid(std::process::id())]);
        for _ in 0..100 {
            let _there = fs::metadata("/").unwrap();
        }
        match counters.read().calls {
            Some(calls) => assert!(calls >= 100, "{calls}"),
            None => assert!(!counters.missing.is_empty(), "why is told"),
        }
    }
}
