//! `outgate demo`: everything on one machine with real processes, and what was measured while it ran.
//!
//! `sandbox` is the program inside the sandbox, a stranger to the rest; `word` is what it and the demo say.

mod word;
pub mod sandbox;
mod driver;
mod origin;
mod report;
mod stage;
mod steps;
mod lockdown;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use handlers_sdk_guests::GuestBuild;
use tokio::signal::unix::{SignalKind, signal};

use crate::causes::chain;
use crate::gateway::INTERRUPTED;
use crate::serve::Fault;
use driver::Sandbox;
use origin::Origin;
use report::{Report, time};
use stage::Stage;
use steps::Demo;

/// Handlers that the demo builds from source.
const HANDLERS: [&str; 2] = ["inject_token", "get_only"];
/// Time for something that is about to happen.
const SOON: Duration = Duration::from_secs(5);

/// Runs a process of the demo where the first argument is one's name.
pub fn process(arguments: &[String]) -> Option<ExitCode> {
    let (first, rest) = arguments.split_first()?;
    match first.as_str() {
        sandbox::SANDBOX_COMMAND => Some(sandbox::main(rest)),
        sandbox::INSIDE_COMMAND => Some(sandbox::inside_main(rest)),
        _ => None,
    }
}

/// The demo. It fails when any step does.
pub fn main() -> ExitCode {
    let report = Report::new();
    match run(report) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("\noutgate demo: {}", chain(&*error));
            ExitCode::FAILURE
        }
    }
}

fn run(report: Report) -> Result<(), Fault> {
    let program = stage::plane_program()?;
    let handlers = build_handlers(&report)?;
    let played = format!("{}, {} and {}", steps::ALLOWED, steps::DENIED, lockdown::STREAMED);
    report.line("Outgate demo: real processes in a temporary folder. Nothing leaves this machine: a TLS server of the");
    report.line(&format!("demo plays {played}."));
    heed_signals()?;
    let started = Instant::now();
    let names = [steps::ALLOWED, steps::DENIED, lockdown::STREAMED];
    let origin = Origin::start(&names)?;
    let (credential, planted) = (steps::token()?, steps::token()?);
    let sandbox = Sandbox::start(&planted)?;
    let stage = Stage::start(&program, &origin, &names)?;
    let mut demo = Demo { report, stage, origin, sandbox, credential, planted };
    let told = story(&mut demo, &handlers);

    let Demo { report, stage, sandbox, .. } = demo;
    drop(sandbox);
    let (processes, files) = stage.end();
    told?;
    let left = format!("{processes} processes and {files} files left behind, so no namespace either");
    let elapsed = time(u64::try_from(started.elapsed().as_micros())?);
    steps::hold(processes + files == 0, || left.clone())?;
    report.line(&format!("\nEverything held, in {elapsed}; {left}."));
    Ok(())
}

fn story(demo: &mut Demo, handlers: &[(String, PathBuf)]) -> Result<(), Fault> {
    demo.set_up(handlers)?;
    demo.allowed()?;
    demo.denied()?;
    demo.credential()?;
    demo.swap()?;
    demo.lock_down()?;
    demo.records(lockdown::FLEET)
}

/// Builds the handlers of the demo, or takes those that an earlier run has left.
fn build_handlers(report: &Report) -> Result<Vec<(String, PathBuf)>, Fault> {
    let target_dir = handlers_sdk_guests::default_target_dir();
    if !target_dir.join("modules").is_dir() {
        report.line(
            "Building two handlers for WebAssembly, once. Where that target is missing, rustup or Debian's archive is\n\
             asked for it; what is fetched is said here and stays below target/.\n",
        );
    }
    let examples = handlers_sdk_guests::examples_dir();
    steps::hold(examples.is_dir(), || {
        format!("the demo builds its handlers from source; run it where {} exists", examples.display())
    })?;
    let build = |name: &&str| {
        let build = GuestBuild { manifest_dir: examples.join(name), target_dir: target_dir.clone() };
        Ok(((*name).to_owned(), handlers_sdk_guests::build(&build)?))
    };
    HANDLERS.iter().map(build).collect()
}

/// From here on, a signal lets the demo end in order, at its next call.
fn heed_signals() -> Result<(), Fault> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let entered = runtime.enter();
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hang_up = signal(SignalKind::hangup())?;
    drop(entered);
    std::thread::spawn(move || {
        runtime.block_on(async {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
                _ = hang_up.recv() => {}
            }
        });
        INTERRUPTED.store(true, Ordering::Relaxed);
    });
    Ok(())
}

/// Looks until something is there.
fn until<T>(mut look: impl FnMut() -> Result<Option<T>, Fault>) -> Result<T, Fault> {
    let end = Instant::now() + SOON;
    loop {
        if let Some(found) = look()? {
            return Ok(found);
        }
        steps::hold(Instant::now() < end, || "a record that must be written was not written in time".into())?;
        std::thread::sleep(Duration::from_millis(10));
    }
}
