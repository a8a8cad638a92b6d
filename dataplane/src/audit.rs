//! One record per request, as one JSON line, written by one thread.
//!
//! A shard writes the line itself and puts it behind those that wait, whose bytes are bounded. Where there is no room
//! the record is counted as lost and the caller is told, so that it refuses the request instead of letting it pass
//! unrecorded; a shard never waits for a disk. Where a disk took no record, what comes is refused until it takes one
//! again: that of a refusal.

use std::{
    cell::RefCell,
    fs::OpenOptions,
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::PathBuf,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
};

use crate::limits::{RECORD_BATCH_BYTES_KEPT, RECORD_GATHER_TIME, RECORDS_QUEUED_BYTES_MAX};
use crate::respond::{Blame, Refusal};

mod json;
mod record;

pub use record::{Asked, LogLine, Record};

/// Where records go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sink {
    /// Behind what the file holds; made for its owner alone where there is none.
    File(PathBuf),
    /// Standard output, for whoever collects it.
    Stdout,
}

impl Sink {
    /// Opens it.
    ///
    /// # Errors
    /// When the file cannot be opened.
    pub fn open(&self) -> io::Result<Box<dyn Write + Send>> {
        match self {
            Self::File(path) => {
                let file = OpenOptions::new().append(true).create(true).mode(0o600).open(path)?;
                Ok(Box::new(file))
            }
            Self::Stdout => Ok(Box::new(io::stdout())),
        }
    }
}

/// There is no room or the writer has ended; the record is counted.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("the record could not be queued; the disk of the records is too slow or full")]
pub struct NotRecorded;

/// What shards and writer share.
#[derive(Default)]
struct Shared {
    lines: Mutex<Lines>,
    filled: Condvar,
    lost: AtomicU64,
    failing: AtomicBool,
}

/// Lines that wait for the writer.
#[derive(Default)]
struct Lines {
    bytes: Vec<u8>,
    count: u64,
    /// Whoever may still hand over a line.
    senders: usize,
    /// The writer takes no more.
    ended: bool,
}

impl Shared {
    fn lines(&self) -> MutexGuard<'_, Lines> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, line: &[u8]) -> Result<(), NotRecorded> {
        let mut lines = self.lines();
        if lines.ended || lines.bytes.len() + line.len() > RECORDS_QUEUED_BYTES_MAX {
            drop(lines);
            self.lost.fetch_add(1, Ordering::Relaxed);
            return Err(NotRecorded);
        }
        // While there are lines the writer is awake.
        let first = lines.bytes.is_empty();
        lines.bytes.extend_from_slice(line);
        lines.count += 1;
        drop(lines);
        if first {
            self.filled.notify_one();
        }
        Ok(())
    }

    /// Waits for lines, gathers for a moment and takes them all, so that shards wake the writer and it enters the kernel
    /// once per moment, not once per record. Gives how many they are; none when no more can come.
    fn take(&self, batch: &mut Vec<u8>) -> Option<u64> {
        batch.clear();
        batch.shrink_to(RECORD_BATCH_BYTES_KEPT);
        let idle = |lines: &mut Lines| lines.bytes.is_empty() && lines.senders > 0;
        let mut lines = self.filled.wait_while(self.lines(), idle).unwrap_or_else(PoisonError::into_inner);
        if lines.senders > 0 {
            drop(lines);
            thread::sleep(RECORD_GATHER_TIME);
            lines = self.lines();
        }
        std::mem::swap(&mut lines.bytes, batch);
        let count = std::mem::take(&mut lines.count);
        (count > 0).then_some(count)
    }
}

/// Hands records to the writer.
pub struct Audit {
    shared: Arc<Shared>,
}

impl Clone for Audit {
    fn clone(&self) -> Self {
        self.shared.lines().senders += 1;
        Self { shared: Arc::clone(&self.shared) }
    }
}

impl Drop for Audit {
    fn drop(&mut self) {
        self.shared.lines().senders -= 1;
        self.shared.filled.notify_one();
    }
}

impl Audit {
    /// Starts the writer thread; it ends when the last sender is dropped and everything queued is written.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn start(sink: Box<dyn Write + Send>) -> io::Result<(Self, JoinHandle<()>)> {
        let audit = Self::waiting();
        let shared = Arc::clone(&audit.shared);
        let thread = thread::Builder::new().name("audit".into()).spawn(move || write(&shared, sink))?;
        Ok((audit, thread))
    }

    fn waiting() -> Self {
        let shared = Arc::<Shared>::default();
        shared.lines().senders = 1;
        Self { shared }
    }

    /// Queues a record without waiting.
    ///
    /// # Errors
    /// [`NotRecorded`] when there is no room or the writer has ended.
    pub fn record(&self, record: &Record) -> Result<(), NotRecorded> {
        thread_local! {
            // The line is written outside the lock, which all shards take.
            static LINE: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
        }
        LINE.with_borrow_mut(|line| {
            line.clear();
            record.write_to(line);
            self.shared.push(line)
        })
    }

    /// Nothing more may pass where the last records were not taken.
    ///
    /// # Errors
    /// What the sandbox is told then.
    pub fn check(&self) -> Result<(), Refusal> {
        if !self.shared.failing.load(Ordering::Relaxed) {
            return Ok(());
        }
        let detail = "the records cannot be written, and nothing passes unrecorded";
        let remedy = "ask the operator to make room on the disk of the records";
        Err(Refusal::new(503, "records_unwritten", Blame::Gateway, detail, remedy))
    }

    /// Records that were lost, for metrics.
    pub fn lost(&self) -> u64 {
        self.shared.lost.load(Ordering::Relaxed)
    }
}

/// Takes no more when the writer ends, however it does.
struct Writing<'a>(&'a Shared);

impl Drop for Writing<'_> {
    fn drop(&mut self) {
        self.0.lines().ended = true;
    }
}

fn write(shared: &Shared, mut sink: Box<dyn Write + Send>) {
    let writing = Writing(shared);
    let (mut batch, mut torn) = (Vec::new(), false);
    while let Some(count) = writing.0.take(&mut batch) {
        // Ends the line that a failed write may have left half.
        let mended = if torn { sink.write_all(b"\n") } else { Ok(()) };
        torn = mended.and_then(|()| sink.write_all(&batch)).and_then(|()| sink.flush()).is_err();
        shared.failing.store(torn, Ordering::Relaxed);
        if torn {
            shared.lost.fetch_add(count, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::sync::Mutex;

    use super::*;

    fn record(host: &str) -> Record {
        Record { host: Some(host.into()), verdict: "allowed", ..Record::default() }
    }

    fn lines(text: &str) -> Vec<serde_json::Value> {
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    #[test]
    fn records_go_behind_what_the_file_holds_and_only_its_owner_reads_it() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("records");
        for host in ["one", "two\n\u{2028}"] {
            let (audit, thread) = Audit::start(Sink::File(path.clone()).open().unwrap()).unwrap();
            audit.record(&record(host)).unwrap();
            drop(audit);
            thread.join().unwrap();
        }
        let found = lines(&std::fs::read_to_string(&path).unwrap());
        let hosts: Vec<&str> = found.iter().map(|line| line["host"].as_str().unwrap()).collect();
        assert_eq!(hosts, ["one", "two\n\u{2028}"]);
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }

    /// Fails the first write after half of it.
    #[derive(Clone, Default)]
    struct Half(Arc<Mutex<(bool, Vec<u8>)>>);

    impl Write for Half {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let (failed, kept) = &mut *self.0.lock().unwrap();
            if !*failed && !kept.is_empty() {
                *failed = true;
                return Err(io::ErrorKind::StorageFull.into());
            }
            let taken = if *failed { bytes.len() } else { bytes.len() / 2 };
            kept.extend_from_slice(&bytes[..taken]);
            Ok(taken)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_record_that_the_disk_did_not_take_is_counted_and_spoils_no_later_one() {
        let sink = Half::default();
        let (audit, thread) = Audit::start(Box::new(sink.clone())).unwrap();
        audit.record(&record("first")).unwrap();
        while audit.lost() == 0 {
            std::thread::yield_now();
        }
        assert_eq!(audit.check().unwrap_err().status, 503);
        audit.record(&record("second")).unwrap();
        while audit.check().is_err() {
            std::thread::yield_now();
        }
        let shared = Arc::clone(&audit.shared);
        drop(audit);
        thread.join().unwrap();
        assert_eq!(shared.lost.load(Ordering::Relaxed), 1);
        let kept = String::from_utf8(sink.0.lock().unwrap().1.clone()).unwrap();
        let last = kept.lines().last().unwrap();
        assert_eq!(lines(last)[0]["host"], "second");
    }

    #[test]
    fn a_record_without_a_writer_or_without_room_is_refused_and_counted() {
        let audit = Audit::waiting();
        assert_eq!(audit.record(&record("a")), Ok(()));
        audit.shared.lines().bytes.resize(RECORDS_QUEUED_BYTES_MAX, b' ');
        assert_eq!(audit.record(&record("b")), Err(NotRecorded));
        audit.shared.lines().bytes.clear();
        assert_eq!(audit.record(&record("c")), Ok(()));
        drop(Writing(&audit.shared));
        assert_eq!(audit.record(&record("d")), Err(NotRecorded));
        assert_eq!(audit.lost(), 2);
    }
}
