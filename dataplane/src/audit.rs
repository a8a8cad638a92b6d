//! One record per request, as one JSON line, written by one thread.
//!
//! The queue is bounded. Where it is full the record is counted as lost and the caller is told, so that it refuses
//! the request instead of letting it pass unrecorded; a shard never waits for a disk. Where a disk took no record, what
//! comes is refused until it takes one again: that of a refusal.

use std::{
    fs::OpenOptions,
    io::{self, Write},
    net::SocketAddr,
    os::unix::fs::OpenOptionsExt,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread::{self, JoinHandle},
};

use serde::{Serialize, Serializer};

use crate::limits::{RECORD_BATCH_BYTES_MAX, RECORD_GATHER_TIME, RECORD_TEXT_BYTES_MAX, RECORDS_QUEUED_MAX};
use crate::{
    http::Host,
    respond::{Blame, Refusal},
};

/// What is remembered of one request, or of a connection that carried none. Never a query or a field's value.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs, reason = "the names are the documentation: they are those of the JSON line")]
pub struct Record {
    pub unix_ms: u64,
    pub sandbox: Option<String>,
    pub method: Option<String>,
    pub scheme: Option<&'static str>,
    pub host: Option<String>,
    pub port: Option<u16>,
    pub path: Option<String>,
    pub verdict: &'static str,
    pub code: Option<&'static str>,
    /// Whose fault a refusal is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub blame: Option<Blame>,
    pub rule: Option<String>,
    /// Why it was refused, with every cause. More than the sandbox is told.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    pub handler: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub handler_version: Option<u64>,
    /// Why the handler did not decide, where the request went on all the same.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub handler_error: Option<String>,
    /// What the handler wrote.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub log: Vec<LogLine>,
    /// Where the request went instead, where the handler changed that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sent_to: Option<String>,
    /// What became of the question, where a person had to be asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub asked: Option<Asked>,
    /// Which secrets went out with the request, put there by a rule or a handler: their names.
    #[serde(skip_serializing_if = "Vec::is_empty", serialize_with = "as_texts")]
    pub secrets: Vec<Arc<str>>,
    /// Where the upstream was dialled, for this request or for one before it on the same connection.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address: Option<SocketAddr>,
    pub status: Option<u16>,
    pub bytes_up: u64,
    pub bytes_down: u64,
    pub revision: u64,
}

impl Record {
    /// Says where a connection without a request was going, as far as that is known.
    pub fn going(&mut self, whither: Option<(Host, u16)>) {
        (self.host, self.port) = whither.map(|(host, port)| (host.to_string(), port)).unzip();
    }

    /// Cuts what the sandbox or the other end could make long.
    fn cut(&mut self) {
        let texts = [
            &mut self.sandbox,
            &mut self.method,
            &mut self.host,
            &mut self.path,
            &mut self.rule,
            &mut self.reason,
            &mut self.handler,
            &mut self.handler_error,
            &mut self.sent_to,
        ];
        for text in texts.into_iter().flatten() {
            text.truncate(text.floor_char_boundary(RECORD_TEXT_BYTES_MAX));
        }
    }
}

/// How a request's wait for a person went.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Asked {
    /// `allowed` or `denied` by a person, `timedOut`, `withdrawn` by the client, `policyChanged` meanwhile, `linkLost`,
    /// `detached`, `tooMany` questions of one request, or `notAsked` because nobody could be.
    pub outcome: &'static str,
    /// What the answer covers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scope: Option<&'static str>,
    /// Who answered, where that was said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    /// Milliseconds that the request waited, answers about a second host included.
    pub waited_ms: u64,
}

fn as_texts<S: Serializer>(texts: &[Arc<str>], to: S) -> Result<S::Ok, S::Error> {
    to.collect_seq(texts.iter().map(AsRef::<str>::as_ref))
}

/// One line of a handler's log. The contract bounds lines and bytes of one request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LogLine {
    /// `error`, `warn`, `info` or `debug`.
    pub level: &'static str,
    /// The text.
    pub text: String,
}

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

/// The queue is full or the writer has ended; the record is counted.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("the record could not be queued; the disk of the records is too slow or full")]
pub struct NotRecorded;

/// Hands records to the writer.
#[derive(Clone)]
pub struct Audit {
    queue: SyncSender<Record>,
    lost: Arc<AtomicU64>,
    failing: Arc<AtomicBool>,
}

impl Audit {
    /// Starts the writer thread; it ends when the last sender is dropped and everything queued is written.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn start(sink: Box<dyn Write + Send>) -> io::Result<(Self, JoinHandle<()>)> {
        let (queue, records) = sync_channel(RECORDS_QUEUED_MAX);
        let lost = Arc::new(AtomicU64::new(0));
        let failing = Arc::<AtomicBool>::default();
        let (count, fails) = (Arc::clone(&lost), Arc::clone(&failing));
        let thread = thread::Builder::new()
            .name("audit".into())
            .spawn(move || write(&records, sink, &count, &fails))?;
        Ok((Self { queue, lost, failing }, thread))
    }

    /// Queues a record without waiting.
    ///
    /// # Errors
    /// [`NotRecorded`] when the queue is full or the writer has ended.
    pub fn record(&self, mut record: Record) -> Result<(), NotRecorded> {
        record.cut();
        self.queue.try_send(record).map_err(|_| {
            self.lost.fetch_add(1, Ordering::Relaxed);
            NotRecorded
        })
    }

    /// Nothing more may pass where the last records were not taken.
    ///
    /// # Errors
    /// What the sandbox is told then.
    pub fn check(&self) -> Result<(), Refusal> {
        if !self.failing.load(Ordering::Relaxed) {
            return Ok(());
        }
        let detail = "the records cannot be written, and nothing passes unrecorded";
        let remedy = "ask the operator to make room on the disk of the records";
        Err(Refusal::new(503, "records_unwritten", Blame::Gateway, detail, remedy))
    }

    /// Records that were lost, for metrics.
    pub fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }
}

/// Gathers for a moment and writes what is there in one go: shards wake this thread and it enters the kernel once per
/// moment, not once per record.
fn write(
    records: &Receiver<Record>,
    mut sink: Box<dyn Write + Send>,
    lost: &AtomicU64,
    failing: &AtomicBool,
) {
    let mut lines = Vec::new();
    let (mut torn, mut full) = (false, false);
    while let Ok(first) = records.recv() {
        lines.clear();
        if torn {
            // Ends the line that a failed write may have left half.
            lines.push(b'\n');
        }
        if !full {
            thread::sleep(RECORD_GATHER_TIME);
        }
        let mut next = Some(first);
        let mut count = 0;
        while let Some(record) = next {
            count += 1;
            // Numbers and text always serialise, and a vector takes every write.
            if serde_json::to_writer(&mut lines, &record).is_ok() {
                lines.push(b'\n');
            }
            full = lines.len() >= RECORD_BATCH_BYTES_MAX;
            next = if full { None } else { records.try_recv().ok() };
        }
        torn = sink.write_all(&lines).and_then(|()| sink.flush()).is_err();
        failing.store(torn, Ordering::Relaxed);
        if torn {
            lost.fetch_add(count, Ordering::Relaxed);
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
            audit.record(record(host)).unwrap();
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
        audit.record(record("first")).unwrap();
        while audit.lost() == 0 {
            std::thread::yield_now();
        }
        assert_eq!(audit.check().unwrap_err().status, 503);
        audit.record(record("second")).unwrap();
        while audit.check().is_err() {
            std::thread::yield_now();
        }
        let lost = Arc::clone(&audit.lost);
        drop(audit);
        thread.join().unwrap();
        assert_eq!(lost.load(Ordering::Relaxed), 1);
        let kept = String::from_utf8(sink.0.lock().unwrap().1.clone()).unwrap();
        let last = kept.lines().last().unwrap();
        assert_eq!(lines(last)[0]["host"], "second");
    }

    #[test]
    fn a_hostile_text_is_cut_at_a_character() {
        let mut long = record(&"ä".repeat(RECORD_TEXT_BYTES_MAX));
        long.path = Some("x".into());
        long.cut();
        assert_eq!(long.host.unwrap().len(), RECORD_TEXT_BYTES_MAX);
        assert_eq!(long.path.unwrap(), "x");
    }

    #[test]
    fn a_record_without_a_writer_is_refused_and_counted() {
        let (queue, records) = sync_channel(1);
        let audit = Audit { queue, lost: Arc::default(), failing: Arc::default() };
        assert_eq!(audit.record(record("a")), Ok(()));
        assert_eq!(audit.record(record("b")), Err(NotRecorded));
        drop(records);
        assert_eq!(audit.record(record("c")), Err(NotRecorded));
        assert_eq!(audit.lost(), 2);
    }
}
