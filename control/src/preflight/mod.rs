//! `outgate preflight`: will this machine do? A line for each thing that a gateway needs, with the command that mends
//! it.
//!
//! Everything is tried, not guessed: rings are opened, a sandbox is made, certificates are signed.

mod kernel;
mod namespaces;
mod bounds;
mod time;
mod page;

use std::path::PathBuf;
use std::process::ExitCode;

use crate::causes::chain;
use crate::local_plane::{BUILD_COMMAND, PROGRAM, PlaneError, find};
pub use page::{Line, Verdict};

/// Looks at the machine and prints what was found; fails where something has to be mended.
pub fn main(program: Option<PathBuf>) -> ExitCode {
    let shards = std::thread::available_parallelism().map_or(1, usize::from);
    let lines = [
        kernel::version(),
        kernel::ring(shards),
        plane(program),
        namespaces::look(),
        bounds::locked_memory(shards),
        bounds::descriptors(),
        kernel::migration(),
        time::clock(),
        time::mint(),
    ];
    page::print(&lines);
    let broken = lines.iter().any(|line| line.verdict == Verdict::Fix);
    if broken { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// The program that `serve` and `run` start.
fn plane(program: Option<PathBuf>) -> Line {
    match find(program) {
        Ok(path) => Line::fine("plane", format!("{} is there", path.display())),
        Err(PlaneError::Missing { looked }) => Line::fix(
            "plane",
            format!("{PROGRAM} was not found (looked at {looked}); build it:"),
            BUILD_COMMAND,
        ),
        Err(error) => Line::fix("plane", chain(&error), BUILD_COMMAND),
    }
}
