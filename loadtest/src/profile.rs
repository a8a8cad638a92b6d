//! Where a process spends its time: system calls by name and allocations, counted by the kernel on every thread;
//! functions by samples, where `perf` is installed.

use std::{
    collections::BTreeMap,
    ffi::CString,
    fmt::Write as _,
    fs, io,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    time::Duration,
};

use object::{Object, ObjectSegment, ObjectSymbol};
use perf_event::{
    Counter,
    events::{Event, EventData},
};
use perf_event_open_sys::bindings::perf_event_attr;

use crate::{
    counters::{on_all, threads, tracepoint},
    usage::Pid,
};

/// Functions through which the plane's allocator is asked for memory.
const ALLOCATIONS: [&str; 3] = ["mi_malloc_aligned", "mi_zalloc_aligned", "mi_realloc_aligned"];
/// Samples in a second: no divisor of usual timers, so that samples do not run with them.
const SAMPLES_PER_SECOND: &str = "997";
/// Functions with less than this percentage are left out.
const PERCENT_MIN: &str = "0.4";

/// Named counters on the threads of a process.
pub struct Tally {
    counters: Vec<(String, Vec<Counter>)>,
    /// What cannot be counted here, and why.
    pub missing: Option<String>,
}

impl Tally {
    /// Begins to count each system call by its name.
    pub fn system_calls(pid: Pid) -> Self {
        Self::system_calls_on(&threads(&[pid]))
    }

    fn system_calls_on(threads: &[i32]) -> Self {
        let names = fs::read_dir("/sys/kernel/tracing/events/syscalls").into_iter().flatten();
        let names = names.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        let mut counters = Vec::new();
        for event in names.filter(|name| name.starts_with("sys_enter_")) {
            match tracepoint(&format!("syscalls/{event}")).and_then(|event| on_all(threads, &event)) {
                Ok(made) => counters.push((event.trim_start_matches("sys_enter_").to_owned(), made)),
                Err(error) => return Self { counters: Vec::new(), missing: Some(error.to_string()) },
            }
        }
        let missing =
            counters.is_empty().then(|| "tracefs is not mounted, or not to be read by this user".into());
        Self { counters, missing }
    }

    /// Begins to count calls of the allocator.
    pub fn allocations(pid: Pid) -> Self {
        let made = || -> io::Result<Vec<(String, Vec<Counter>)>> {
            let program = fs::read_link(format!("/proc/{}/exe", pid.0))?;
            let (offsets, threads) = (offsets(&program)?, threads(&[pid]));
            let on = |(name, offset): (&str, u64)| -> io::Result<(String, Vec<Counter>)> {
                Ok((name.to_owned(), on_all(&threads, &Calls::of(&program, offset)?)?))
            };
            offsets.into_iter().map(on).collect()
        };
        match made() {
            Ok(counters) => Self { counters, missing: None },
            Err(error) => Self { counters: Vec::new(), missing: Some(error.to_string()) },
        }
    }

    /// What was counted since the start, most first; names that were never seen are left out.
    pub fn read(mut self) -> Vec<(String, u64)> {
        let sum = |counters: &mut Vec<Counter>| {
            counters.iter_mut().map(|counter| counter.read().unwrap_or(0)).sum()
        };
        let mut all: Vec<(String, u64)> =
            self.counters.iter_mut().map(|(name, counters)| (name.clone(), sum(counters))).collect();
        all.retain(|(_, count)| *count > 0);
        all.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        all
    }
}

/// Calls of a function: its place in its program's file (`perf_event_open(2)`, dynamic PMU `uprobe`).
#[derive(Clone)]
struct Calls {
    pmu: u32,
    program: Arc<CString>,
    offset: u64,
}

impl Calls {
    fn of(program: &Path, offset: u64) -> io::Result<Self> {
        let pmu = fs::read_to_string("/sys/bus/event_source/devices/uprobe/type")?;
        let program = CString::new(program.as_os_str().as_bytes()).map_err(io::Error::other)?;
        Ok(Self { pmu: pmu.trim().parse().map_err(io::Error::other)?, program: Arc::new(program), offset })
    }
}

impl Event for Calls {
    /// Nothing would keep the program's name, so this is a kind of event that the kernel refuses.
    fn update_attrs(self, attributes: &mut perf_event_attr) {
        attributes.type_ = u32::MAX;
    }

    /// The kernel reads the program's name while the event is made; the builder keeps what is answered until then.
    fn update_attrs_with_data(self, attributes: &mut perf_event_attr) -> Option<Arc<dyn EventData>> {
        attributes.type_ = self.pmu;
        attributes.config = 0;
        attributes.uprobe_path = self.program.as_ptr() as usize as u64;
        attributes.probe_offset = self.offset;
        Some(self.program)
    }
}

/// Where functions of the allocator lie in a program's file.
fn offsets(program: &Path) -> io::Result<Vec<(&'static str, u64)>> {
    let bytes = fs::read(program)?;
    let file = object::File::parse(&*bytes).map_err(io::Error::other)?;
    let addresses: BTreeMap<&str, u64> =
        file.symbols().filter_map(|symbol| Some((symbol.name().ok()?, symbol.address()))).collect();
    let offset = |address: u64| {
        let holds = |segment: &object::Segment<'_, '_>| {
            (segment.address()..segment.address() + segment.size()).contains(&address)
        };
        file.segments().find(holds).map(|segment| address - segment.address() + segment.file_range().0)
    };
    let found: Vec<(&str, u64)> =
        ALLOCATIONS.into_iter().filter_map(|name| Some((name, offset(*addresses.get(name)?)?))).collect();
    match found.is_empty() {
        true => Err(io::Error::other("the program has no symbols of its allocator")),
        false => Ok(found),
    }
}

/// A table of counts, each also by request.
pub fn table(what: &str, counts: &[(String, u64)], requests: u64) -> String {
    let mut text = format!("{what:<32} {:>12} {:>12}\n", "count", "per request");
    for (name, count) in counts {
        let _ = writeln!(text, "{name:<32} {count:>12} {:>12.3}", *count as f64 / requests.max(1) as f64);
    }
    let sum: u64 = counts.iter().map(|(_, count)| count).sum();
    let _ = writeln!(text, "{:<32} {sum:>12} {:>12.3}", "all", sum as f64 / requests.max(1) as f64);
    text
}

/// Samples a process for a time; answers its functions by their share. The samples stay in the folder.
///
/// # Errors
/// When `perf` is not installed or not allowed.
pub fn functions(pid: Pid, time: Duration, folder: &Path) -> io::Result<String> {
    let samples: PathBuf = folder.join("perf.data");
    let missing = |error: io::Error| {
        io::Error::other(format!(
            "functions are sampled by `perf`: {error}; on Debian: apt install linux-perf"
        ))
    };
    let recorded = Command::new("perf")
        .args(["record", "-q", "-e", "cpu-clock", "-F", SAMPLES_PER_SECOND, "-p", &pid.0.to_string(), "-o"])
        .arg(&samples)
        .args(["--", "sleep", &time.as_secs_f64().to_string()])
        .output()
        .map_err(missing)?;
    if !recorded.status.success() {
        return Err(io::Error::other(String::from_utf8_lossy(&recorded.stderr).trim().to_owned()));
    }
    let mut text = String::new();
    for by in ["comm", "dso", "symbol"] {
        let said = Command::new("perf")
            .args(["report", "--stdio", "-q", "--sort", by, "--percent-limit", PERCENT_MIN, "-i"])
            .arg(&samples)
            .output()
            .map_err(missing)?;
        let _ = writeln!(text, "by {by}\n{}", String::from_utf8_lossy(&said.stdout).trim_end());
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_system_calls_have_names_where_the_kernel_lets_us() {
        let tally = Tally::system_calls_on(&[rustix::thread::gettid().as_raw_nonzero().get()]);
        match &tally.missing {
            Some(why) => assert!(!why.is_empty()),
            None => {
                for _ in 0..50 {
                    let _there = fs::read_dir("/").unwrap().count();
                }
                let counts = tally.read();
                let listed =
                    counts.iter().find(|(name, _)| name == "getdents64").map_or(0, |(_, count)| *count);
                assert!(listed >= 50, "{counts:?}");
            }
        }
    }

    #[test]
    fn counts_are_shown_by_request() {
        let text = table("system call", &[("sendto".into(), 200), ("read".into(), 50)], 100);
        assert!(text.contains("sendto") && text.lines().last().unwrap().ends_with("2.500"), "{text}");
    }
}
