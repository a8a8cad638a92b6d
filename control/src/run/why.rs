//! `outgate why`: the last refusals, of the last run or of a running gateway.

use std::fs;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use clap::Args;

use super::summary::refusal;
use super::tally::Tally;
use crate::files;
use crate::serve::Fault;

/// Refusals that are kept of a run. Larger: nobody reads them. Smaller: the one that matters is gone.
const KEPT_MAX: usize = 100;

const NO_PLACE: &str = "neither XDG_STATE_HOME nor HOME is set";

/// What `outgate why` is told.
#[derive(Args)]
pub struct WhyArgs {
    /// The records of a running gateway; the last run's refusals unless given
    #[arg(long, value_name = "FILE")]
    records: Option<PathBuf>,
    /// How many, the newest last
    #[arg(long, short = 'n', default_value_t = 10)]
    number: usize,
}

/// Prints them.
///
/// # Errors
/// When the records cannot be read.
pub fn why(args: &WhyArgs) -> Result<(), Fault> {
    let path = match &args.records {
        Some(path) => path.clone(),
        None => place().ok_or_else(|| format!("{NO_PLACE}; name a file with --records"))?,
    };
    let text = match fs::read_to_string(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && args.records.is_none() => {
            return Err("there was no `outgate run` yet; name a gateway's records with --records".into());
        }
        text => text.map_err(|error| format!("cannot read {}: {error}", path.display()))?,
    };
    let refusals = Tally::of(&text).refusals;
    if refusals.is_empty() {
        println!("nothing was refused");
    }
    let newest = &refusals[refusals.len().saturating_sub(args.number)..];
    let shown: Vec<String> = newest.iter().map(refusal).collect();
    print!("{}", shown.join("\n"));
    Ok(())
}

/// Where the refusals of the last run are.
pub fn place() -> Option<PathBuf> {
    let home = || std::env::home_dir().map(|home| home.join(".local/state"));
    let state = std::env::var_os("XDG_STATE_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
    Some(state.or_else(home)?.join("outgate/last-run.jsonl"))
}

/// Opens the file where the refusals will be, so that it can be hidden from the program. It is held open: a
/// program that renames a folder above it could otherwise put another file, or a pipe that nobody reads, in its place.
///
/// # Errors
/// A sentence with the fix, also where there is a link or a pipe instead of a file.
pub fn open() -> Result<(PathBuf, fs::File), String> {
    let path = place().ok_or_else(|| NO_PLACE.to_owned())?;
    let opened = || {
        if let Some(folder) = path.parent() {
            files::make_folder(folder)?;
        }
        let mut options = fs::OpenOptions::new();
        options.write(true).create(true).truncate(false).mode(0o600);
        options.custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(&path)
    };
    match opened() {
        Ok(file) => Ok((path, file)),
        Err(error) => Err(unwritten(&path, &error)),
    }
}

/// Keeps the lines of refusals among the records, in place of those of an earlier run.
///
/// # Errors
/// A sentence with the fix.
pub fn keep(path: &Path, mut file: fs::File, records: &str) -> Result<(), String> {
    let refused = |line: &&str| Tally::of(line).refusals.len() == 1;
    let lines: Vec<&str> = records.lines().filter(refused).collect();
    let newest = &lines[lines.len().saturating_sub(KEPT_MAX)..];
    let text: String = newest.iter().map(|line| format!("{line}\n")).collect();
    // Only now: runs may overlap, and each has held the file since it began.
    let written = file.set_len(0).and_then(|()| file.write_all(text.as_bytes()));
    written.map_err(|error| unwritten(path, &error))
}

fn unwritten(path: &Path, error: &std::io::Error) -> String {
    format!("cannot write {}: {error}; set XDG_STATE_HOME to a folder that you may write", path.display())
}
