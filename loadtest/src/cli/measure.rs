//! `outgate-loadtest measure`: everything that backs the figures in the documents, and profiles. What it finds lies in
//! `target/measure`.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use clap::{Args, Subcommand};
use loadtest::{
    authority::Authority,
    engine::{Engine, Part, Watch, outcome::Outcome},
    gateway::{Gateway, Start},
    origin::Origin,
    pin,
    plan::{Load, Plan, Reading},
    profile::{Tally, functions, table},
    report::Report,
};
use serde_json::{Value, json};

use super::{
    PlanArgs, ProgramArgs, RunArgs,
    peers::{PeersArgs, USUAL, compare},
    run_plans,
};

/// Plans in which no peer can take part.
const ALONE: [&str; 4] = ["first-hit", "idle", "fleet", "churn"];
/// The one in which the load must not take the core of who is measured.
const PINNED: [&str; 1] = ["noisy"];
/// How the plane is built: alone, so that it holds no compiler.
const BUILDS: [&[&str]; 2] = [
    &["build", "--profile", "plane", "--locked", "-p", "dataplane", "--bin", "outgate-dataplane"],
    &["build", "--release", "--locked", "-p", "control", "--bin", "outgate"],
];

#[derive(Args)]
pub struct MeasureArgs {
    #[command(subcommand)]
    profile: Option<Profile>,
    #[command(flatten)]
    programs: ProgramArgs,
    /// Folder for what is found
    #[arg(long, default_value = "target/measure", value_name = "FOLDER", global = true)]
    out: PathBuf,
    /// Times that each row is measured on each, in turns
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Leave the benches out
    #[arg(long)]
    no_benches: bool,
    /// Small and short, no benches
    #[arg(long, global = true)]
    smoke: bool,
}

#[derive(Subcommand)]
enum Profile {
    /// Says where the plane's time goes under one row: system calls, allocations, functions
    Profile {
        /// The plan
        #[arg(default_value = "keepalive")]
        plan: String,
        /// The first row whose name has this in it
        #[arg(long, default_value = "intercepted, 64")]
        row: String,
    },
}

impl MeasureArgs {
    /// Does it.
    ///
    /// # Errors
    /// When something cannot be built, started or loaded.
    pub fn run(self) -> io::Result<ExitCode> {
        fs::create_dir_all(&self.out)?;
        let programs = self.programs.found_or_built()?;
        match &self.profile {
            Some(Profile::Profile { plan, row }) => profile(&programs, &self, plan, row),
            None => measure(programs, &self),
        }
    }
}

impl ProgramArgs {
    /// The programs, built first where none were named and this is a checkout.
    fn found_or_built(&self) -> io::Result<Self> {
        if self.outgate.is_none() && Path::new("control/Cargo.toml").exists() {
            for build in BUILDS {
                if !Command::new("cargo").args(build).status()?.success() {
                    return Err(io::Error::other(format!("cargo {} failed", build.join(" "))));
                }
            }
        }
        Ok(Self {
            outgate: self.outgate.clone(),
            dataplane: self.dataplane.clone(),
            shards: self.shards,
            pin: self.pin,
        })
    }
}

fn measure(programs: ProgramArgs, args: &MeasureArgs) -> io::Result<ExitCode> {
    let plans = |names: &[&str]| PlanArgs {
        plans: names.iter().map(|name| (*name).to_owned()).collect(),
        row: None,
        set: Vec::new(),
        smoke: args.smoke,
        json: None,
    };
    let beside = PeersArgs {
        plans: plans(&USUAL),
        programs,
        peers: Vec::new(),
        rounds: if args.smoke { 1 } else { args.rounds },
    };
    let mut report = compare(&beside)?;
    let mut alone = RunArgs::of(plans(&ALONE), beside.programs);
    report.rows.extend(run_plans(&alone)?.rows);
    (alone.plans, alone.programs.pin) = (plans(&PINNED), true);
    report.rows.extend(run_plans(&alone)?.rows);
    // What is built and run from here on may take all cores again.
    pin::release()?;
    let text = format!("{}\n{}", report.table(), report.ratios("outgate"));
    print!("{text}");
    write(&args.out.join("plans.json"), &serde_json::to_string_pretty(&report).map_err(io::Error::other)?)?;
    write(&args.out.join("plans.txt"), &text)?;
    write(&args.out.join("README.md"), &short(&report))?;
    if !args.smoke && report.rows.iter().all(|row| !row.figures.contains_key("instructionsPerRequest")) {
        // Where the machine has no counter, or shows it to nobody: at least those of the head's way, in process.
        let text = match instructions(args) {
            Ok(count) => {
                format!("{count} instructions of our own from a received head to the one that is sent\n")
            }
            Err(error) => format!("instructions: {error}\n"),
        };
        print!("{text}");
        write(&args.out.join("instructions.txt"), &text)?;
    }
    if !args.no_benches && !args.smoke {
        let benches = benches()?;
        let pretty = serde_json::to_string_pretty(&benches).map_err(io::Error::other)?;
        write(&args.out.join("benches.json"), &pretty)?;
    }
    Ok(if report.is_clean() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn write(path: &Path, text: &str) -> io::Result<()> {
    fs::write(path, text)?;
    eprintln!("wrote {}", path.display());
    Ok(())
}

/// The short table for documents: what, cost, ratio to each peer, command.
fn short(report: &Report) -> String {
    let mut text = "| what | cost | to nginx | to HAProxy | command |\n|---|---|---|---|---|\n".to_owned();
    for row in report.rows.iter().filter(|row| row.target == "outgate") {
        let ours = match row.cost() {
            Some((loadtest::report::PER_GIB, cost)) => (cost, format!("{cost:.2} CPU-s/GiB")),
            Some((_, cost)) => (cost, format!("{cost:.1} CPU-µs")),
            None => continue,
        };
        let ratio = |peer: &str| {
            let same = |other: &&loadtest::report::Row| {
                (&other.plan, &other.row, other.target.as_str()) == (&row.plan, &row.row, peer)
            };
            let theirs = report.rows.iter().find(same).and_then(loadtest::report::Row::cost);
            theirs.map_or_else(|| "–".to_owned(), |(_, theirs)| format!("{:.2}", ours.0 / theirs))
        };
        let (plan, name) = (&row.plan, &row.row);
        let command = if USUAL.contains(&plan.as_str()) { "peers" } else { "run" };
        text.push_str(&format!(
            "| {plan}: {name} | {} | {} | {} | `outgate-loadtest {command} {plan}` |\n",
            ours.1,
            ratio("nginx"),
            ratio("haproxy")
        ));
    }
    text
}

/// Instructions of a request, counted by callgrind: what more requests take than fewer do.
fn instructions(args: &MeasureArgs) -> io::Result<u64> {
    const BUILD: [&str; 7] = ["build", "--release", "--locked", "-p", "benches", "--bin", "requests"];
    if !Command::new("cargo").args(BUILD).status()?.success() {
        return Err(io::Error::other(format!("cargo {} failed", BUILD.join(" "))));
    }
    let (program, samples) = (built().join("release/requests"), args.out.join("callgrind.out"));
    let counted = |requests: u64| -> io::Result<u64> {
        let said = Command::new("valgrind")
            .arg("--tool=callgrind")
            .arg(format!("--callgrind-out-file={}", samples.display()))
            .arg(&program)
            .arg(requests.to_string())
            .output();
        let missing = |error| io::Error::other(format!("{error}; on Debian: apt install valgrind"));
        let said = said.map_err(missing)?;
        let text = String::from_utf8_lossy(&said.stderr);
        collected(&text).ok_or_else(|| io::Error::other(text.trim().to_owned()))
    };
    const FEW: u64 = 1_000;
    Ok((counted(3 * FEW)? - counted(FEW)?) / (2 * FEW))
}

/// What callgrind says at its end that it has counted.
fn collected(text: &str) -> Option<u64> {
    text.lines().filter_map(|line| line.split_once("Collected :")).next_back()?.1.trim().parse().ok()
}

/// Where Cargo leaves what it builds.
fn built() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| PathBuf::from("target"), PathBuf::from)
}

/// Runs the benches, and gathers the medians that they leave, in nanoseconds.
fn benches() -> io::Result<Value> {
    let status = Command::new("cargo").args(["bench", "--locked", "-p", "benches", "--benches"]).status()?;
    if !status.success() {
        return Err(io::Error::other("cargo bench -p benches failed"));
    }
    let mut medians = BTreeMap::new();
    gather(&built().join("criterion"), "", &mut medians)?;
    Ok(json!({ "medianNanos": medians }))
}

fn gather(folder: &Path, name: &str, into: &mut BTreeMap<String, f64>) -> io::Result<()> {
    let estimates = folder.join("new/estimates.json");
    if let Ok(text) = fs::read_to_string(estimates) {
        let read: Value = serde_json::from_str(&text).map_err(io::Error::other)?;
        into.extend(read["median"]["point_estimate"].as_f64().map(|median| (name.to_owned(), median)));
        return Ok(());
    }
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            let below = entry.file_name().to_string_lossy().into_owned();
            gather(
                &entry.path(),
                &if name.is_empty() {
                    below
                } else {
                    format!("{name}/{}", entry.file_name().to_string_lossy())
                },
                into,
            )?;
        }
    }
    Ok(())
}

/// Tells another thread how many answers there were, until it is stopped.
struct Answers {
    count: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
}

impl Watch for Answers {
    fn begins(&mut self, _: Part, _: &Outcome) -> io::Result<()> {
        Ok(())
    }

    fn tick(&mut self, outcome: &Outcome) -> bool {
        self.count.store(outcome.all_answers, Ordering::Relaxed);
        !self.stop.load(Ordering::Relaxed)
    }
}

fn profile(programs: &ProgramArgs, args: &MeasureArgs, plan: &str, row: &str) -> io::Result<ExitCode> {
    let how = Reading { row: Some(row.to_owned()), smoke: args.smoke, ..Reading::default() };
    let plan = Plan::find(plan, &how).map_err(io::Error::other)?;
    // Only stopped ends it.
    let load = Load { seconds: 3_600.0, counted: 0.0, requests: None, ..plan.rows[0].clone() };
    let authority = Authority::make()?;
    let origin = Origin::start(&authority, true)?;
    let found = programs.find()?;
    let start = Start { programs: &found, authority: &authority, hosts: load.hosts, shards: programs.shards };
    let mut gateway = Gateway::start(&start)?;
    let target = gateway.target(&load, &origin, &|_| {})?;
    let time = Duration::from_secs_f64(if args.smoke { 0.5 } else { 4.0 });
    let (count, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
    let mut watch = Answers { count: count.clone(), stop: stop.clone() };
    let text = thread::scope(|scope| {
        let running =
            scope.spawn(|| Engine::new(&load, &target, false).and_then(|engine| engine.run(&mut watch)));
        thread::park_timeout(time / 2);
        let mut text = format!("{}: {}\n\n", plan.name, load.name);
        for (what, begin) in [
            ("system call", Tally::system_calls as fn(_) -> Tally),
            ("allocation", Tally::allocations as fn(_) -> Tally),
        ] {
            let tally = begin(gateway.plane);
            let before = count.load(Ordering::Relaxed);
            thread::park_timeout(time);
            let requests = count.load(Ordering::Relaxed) - before;
            let missing = tally.missing.clone();
            text.push_str(
                &missing
                    .map_or_else(|| table(what, &tally.read(), requests), |why| format!("{what}s: {why}\n")),
            );
            text.push('\n');
        }
        text.push_str(
            &functions(gateway.plane, time, &args.out).unwrap_or_else(|error| format!("{error}\n")),
        );
        stop.store(true, Ordering::Relaxed);
        let ended = running.join().map_err(|_| io::Error::other("the load ended early"))?;
        ended.map(|_| text)
    })?;
    print!("{text}");
    write(&args.out.join("profile.txt"), &text)?;
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_callgrind_counted_is_read_from_what_it_says() {
        let said = "==7== Events    : Ir\n==7== Collected : 1783434690\n==7== \n==7== I   refs:      1,783,434,690\n";
        assert_eq!(collected(said), Some(1_783_434_690));
        assert_eq!(collected("valgrind: no such program"), None);
    }
}
