//! What is told of a run when it has ended: its records, as a table and for `outgate why`.

use std::fs;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::gate::{Gate, Naming};
use super::options::RunArgs;
use super::summary;
use super::tally::Tally;
use super::why;
use crate::files;
use crate::serve::Fault;
use crate::tell::tell;

/// Silence after which a gateway that runs on is taken to have written all records of a sandbox that was detached: it
/// gathers them for a tenth of that.
const SILENCE: Duration = Duration::from_millis(20);
/// Time for that silence, while others keep the gateway busy.
const SILENCE_TIME: Duration = Duration::from_millis(500);

/// Where the records of the run go.
pub(super) struct Records {
    /// The caller's file; the gateway's own where there is none.
    pub path: Option<PathBuf>,
    /// The same, open: a program may put another folder in the place of that in which it lies.
    file: Option<fs::File>,
    /// How much the caller's file held before.
    before: u64,
}

impl Records {
    /// Their file's name in the gateway's folder.
    pub const NAME: &str = "records.jsonl";

    /// Opens the caller's file, so that it can be hidden.
    pub fn open(args: &RunArgs) -> Result<Self, Fault> {
        let Some(path) = &args.record else { return Ok(Self { path: None, file: None, before: 0 }) };
        let path = std::path::absolute(path)?;
        let mut options = fs::OpenOptions::new();
        // A pipe that nobody reads is not waited for.
        options.append(true).create(true).mode(0o600).custom_flags(libc::O_NONBLOCK);
        let opened = options.open(&path).and_then(|file| Ok((file.metadata()?, file)));
        let told =
            |why: &dyn std::fmt::Display| format!("cannot write the records to {}: {why}", path.display());
        let (found, file) = opened.map_err(|error| told(&error))?;
        // They are read at the end.
        if !found.is_file() {
            return Err(told(&"it is no file; name one with --record").into());
        }
        Ok(Self { before: found.len(), file: Some(file), path: Some(path) })
    }
}

/// What is told of a run when it has ended.
pub(super) struct Trail {
    /// The caller's file.
    path: Option<PathBuf>,
    file: Option<fs::File>,
    /// Read while the gateway's folder is there, since it goes with the gateway.
    source: io::Result<fs::File>,
    /// How much that held before.
    before: u64,
    /// Where the records of others are among them: which are this run's.
    among_others: Option<Naming>,
    /// For `outgate why`, or why it cannot be kept.
    refusals: Result<(PathBuf, fs::File), String>,
}

impl Trail {
    /// Begins before the program does.
    pub fn begin(gate: &Gate, records: Records) -> Self {
        // Where it cannot be written there is no `why`; the run is not worse for it.
        let refusals = why::open();
        let Records { path, file, before } = records;
        match gate {
            Gate::Own(gateway) => {
                let place = path.clone().unwrap_or_else(|| gateway.folder().join(Records::NAME));
                // Open before the folder goes: the plane's last words are written when it ends. Its first ones come
                // later.
                let mut options = fs::OpenOptions::new();
                let source = options.read(true).append(true).create(true).mode(0o600).open(place);
                Self { path, file, source, before, among_others: None, refusals }
            }
            Gate::Running(running) => {
                let source = regular(running.records());
                let before = source.as_ref().ok().and_then(|file| file.metadata().ok());
                let before = before.map_or(0, |found| found.len());
                Self { path, file, source, before, among_others: Some(gate.naming().clone()), refusals }
            }
        }
    }

    /// Files that the program must not see.
    pub fn places(&self) -> impl Iterator<Item = &Path> {
        let refusals = self.refusals.iter().map(|(path, _)| path);
        self.path.iter().chain(refusals).map(PathBuf::as_path)
    }

    /// Tells of a full disk, while the gateway's folder is there: much is free again when that is gone.
    pub fn look_at_disk(&self) {
        if self.source.as_ref().is_ok_and(|file| files::is_full(rustix::fs::fstatvfs(file))) {
            tell(format_args!(
                "outgate run: the disk of the records is full, so nothing more was let through, and the table may \
                 lack what was let through last: make room, or set TMPDIR or --record to another place"
            ));
        }
    }

    /// Prints the summary, after the gateway has ended, or the sandbox there, and all records are written.
    pub fn tell(mut self, args: &RunArgs, took: Duration) -> Result<(), Fault> {
        if let (Some(_), Err(error)) = (&self.among_others, &self.source) {
            // The program's status counts for more.
            tell(format_args!("outgate run: no table, since the gateway's records cannot be read: {error}"));
            return Ok(());
        }
        let text = match self.read() {
            Ok(text) => text,
            Err(fault) if self.among_others.is_some() => {
                tell(format_args!("outgate run: no table: {fault}"));
                return Ok(());
            }
            Err(fault) => return Err(fault),
        };
        if let (Some(_), Some(path), Some(file)) = (&self.among_others, &self.path, &mut self.file)
            && let Err(error) = file.write_all(text.as_bytes())
        {
            tell(format_args!("outgate run: cannot write the records to {}: {error}", path.display()));
        }
        let tally = Tally::of(&text);
        let kept = self.refusals.and_then(|(path, file)| why::keep(&path, file, &text));
        if let Some(problem) = kept.err().filter(|_| !tally.refusals.is_empty()) {
            tell(format_args!("outgate run: `outgate why` will not know of this run: {problem}"));
        }
        if args.no_tty_summary {
            return Ok(());
        }
        let mut text = format!("\n{}{}", summary::table(&tally, took), summary::remedies(&tally));
        if args.observe {
            text += &summary::least(&tally);
        }
        tell(text.trim_end_matches('\n'));
        Ok(())
    }

    /// What was written since the beginning; of a gateway with others only what is of this run, line by line, since
    /// others may have written much.
    fn read(&mut self) -> Result<String, Fault> {
        let file = self.source.as_mut().map_err(|error| format!("cannot read the records: {error}"))?;
        file.seek(SeekFrom::Start(self.before))?;
        let mut reader = BufReader::new(file);
        let (mut text, mut line, begun) = (String::new(), String::new(), Instant::now());
        let Some(naming) = &self.among_others else {
            reader.read_to_string(&mut text)?;
            return Ok(text);
        };
        let mut silent = false;
        while !silent && begun.elapsed() <= SILENCE_TIME {
            let waited = begun.elapsed() >= SILENCE;
            silent = waited;
            while reader.read_line(&mut line)? > 0 && line.ends_with('\n') {
                silent = false;
                text.extend(own(line.trim_end(), naming));
                line.clear();
            }
            if !silent {
                std::thread::sleep(SILENCE);
            }
        }
        Ok(text)
    }
}

/// Opens what was written as a file: a pipe has another reader already.
fn regular(path: &Path) -> io::Result<fs::File> {
    let file = fs::OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
    match path.is_absolute() && file.metadata()?.is_file() {
        true => Ok(file),
        false => Err(io::Error::other("the gateway writes them to no file")),
    }
}

/// The record, where it is one of this run, with names as the caller wrote them.
fn own(line: &str, naming: &Naming) -> Option<String> {
    let record: Value = serde_json::from_str(line).ok()?;
    (record["sandbox"] == naming.sandbox()).then(|| format!("{}\n", naming.plain(line)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_records_of_this_run_are_its_own() {
        let naming = Naming::among_others("run-1".into());
        let line = r#"{"sandbox":"run-1","secrets":["run-1.token"],"handler":"run-1.get_only"}"#;
        let plain = "{\"sandbox\":\"run-1\",\"secrets\":[\"token\"],\"handler\":\"get_only\"}\n";
        assert_eq!(own(line, &naming).as_deref(), Some(plain));
        for other in [r#"{"sandbox":"run-2"}"#, r#"{"host":"run-1"}"#, r#"{"sandbox":"run-1""#] {
            assert_eq!(own(other, &naming), None, "{other}");
        }
    }
}
