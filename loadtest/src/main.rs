//! The `outgate-loadtest` command.

use std::process::ExitCode;

use clap::Parser;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

mod cli;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // A connection is a descriptor on both sides, and so is a counter of a thread. Where the limit cannot be raised, the
    // first that is missing says so.
    let most = getrlimit(Resource::Nofile).maximum;
    let _raised = setrlimit(Resource::Nofile, Rlimit { current: most, maximum: most });
    match cli::Cli::parse().run() {
        Ok(code) => code,
        Err(error) => {
            eprintln!("outgate-loadtest: {error}");
            ExitCode::FAILURE
        }
    }
}
