//! One record per request, as one JSON line, written by one thread.
//!
//! The queue is bounded. Where it is full the record is counted as lost and the caller is told, so that it refuses
//! the request instead of letting it pass unrecorded; a shard never waits for a disk.

use std::{
    io::{self, Write},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread::JoinHandle,
};

use serde::Serialize;

use crate::limits::RECORDS_QUEUED_MAX;

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
    pub rule: Option<String>,
    pub handler: Option<String>,
    pub status: Option<u16>,
    pub bytes_up: u64,
    pub bytes_down: u64,
    pub revision: u64,
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
}

impl Audit {
    /// Starts the writer thread; it ends when the last sender is dropped and everything queued is written.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn start(sink: Box<dyn Write + Send>) -> io::Result<(Self, JoinHandle<()>)> {
        let (queue, records) = sync_channel(RECORDS_QUEUED_MAX);
        let lost = Arc::new(AtomicU64::new(0));
        let count = Arc::clone(&lost);
        let thread =
            std::thread::Builder::new().name("audit".into()).spawn(move || write(&records, sink, &count))?;
        Ok((Self { queue, lost }, thread))
    }

    /// Queues a record without waiting.
    ///
    /// # Errors
    /// [`NotRecorded`] when the queue is full or the writer has ended.
    pub fn record(&self, record: Record) -> Result<(), NotRecorded> {
        self.queue.try_send(record).map_err(|_| {
            self.lost.fetch_add(1, Ordering::Relaxed);
            NotRecorded
        })
    }

    /// Records that were lost, for metrics.
    pub fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }
}

fn write(records: &Receiver<Record>, mut sink: Box<dyn Write + Send>, lost: &AtomicU64) {
    while let Ok(record) = records.recv() {
        let written = serde_json::to_vec(&record).map_err(io::Error::from).and_then(|mut line| {
            line.push(b'\n');
            sink.write_all(&line)?;
            sink.flush()
        });
        if written.is_err() {
            lost.fetch_add(1, Ordering::Relaxed);
        }
    }
}
