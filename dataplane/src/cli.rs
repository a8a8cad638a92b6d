//! The command line of the plane: one file of settings, and a look whether the machine will do.

use std::{path::PathBuf, process::ExitCode};

use clap::Parser;
use control_wire::trial::TRIAL_COMMAND;

use crate::{
    boot::{self, BootError},
    causes::chain,
    config::Config,
    trial,
};

#[derive(Parser)]
#[command(
    name = "outgate-dataplane",
    version,
    about = "The data plane of the egress gateway; `outgate serve` starts one by itself"
)]
struct Cli {
    /// File of settings (TOML).
    #[arg(long)]
    config: PathBuf,
    /// Say whether the plane could run here with these settings, and end.
    #[arg(long)]
    check: bool,
}

/// Runs the command. Every failure is one line that ends with its cause.
pub fn main() -> ExitCode {
    // Asked by `outgate handler test`, with the trial on standard input.
    if std::env::args_os().nth(1).is_some_and(|first| first == TRIAL_COMMAND) {
        return trial::main();
    }
    match run(&Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("outgate-dataplane: {}", chain(&error));
            ExitCode::FAILURE
        }
    }
}

fn run(cli: &Cli) -> Result<(), BootError> {
    let config = Config::read(&cli.config)?;
    if cli.check {
        return boot::check(&config);
    }
    boot::settle_copies();
    boot::run(&config)
}
