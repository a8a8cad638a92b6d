//! What a plane is sent: all rows once, then what has changed, and between the frames the answers to its renewals.

use control_wire::message::ToPlane;
use control_wire::row::{Envelope, Op};
use data_encoding::HEXLOWER;
use quinn::SendStream;
use tokio::sync::mpsc;

use super::LinkError;
use super::rows::{is_upsert, op, read_artefact};
use super::session::Session;
use crate::limits::{RENEW_EVERY, ROWS_PER_FRAME};
use crate::tables::{Key, Tables};

/// The way to the plane.
struct Outlet {
    stream: SendStream,
    queue: mpsc::Receiver<ToPlane>,
}

impl Outlet {
    /// Sends a message, and first what waits: an answer to a renewal must not stand behind a whole snapshot.
    async fn send(&mut self, message: &ToPlane) -> Result<(), LinkError> {
        while let Ok(waiting) = self.queue.try_recv() {
            self.stream.write_all(&waiting.encode()).await?;
        }
        Ok(self.stream.write_all(&message.encode()).await?)
    }

    /// Sends what comes to wait while other work is under way.
    async fn beside<T>(&mut self, work: impl Future<Output = T>) -> Result<T, LinkError> {
        tokio::pin!(work);
        loop {
            tokio::select! {
                done = &mut work => return Ok(done),
                Some(waiting) = self.queue.recv() => self.stream.write_all(&waiting.encode()).await?,
            }
        }
    }
}

/// The rows that a plane lacks.
enum News {
    Changed(Vec<Key>),
    All(Vec<Key>),
}

impl News {
    fn since(tables: &Tables, held: Option<u64>) -> Self {
        match held.and_then(|held| tables.changed_since(held)) {
            Some(changed) => Self::Changed(changed.into_iter().collect()),
            None => Self::All(tables.keys()),
        }
    }
}

impl Session<'_> {
    /// Brings the plane up to date, again and again.
    pub(super) async fn write(
        &self,
        stream: SendStream,
        queue: mpsc::Receiver<ToPlane>,
        mut held: Option<u64>,
    ) -> Result<(), LinkError> {
        let mut outlet = Outlet { stream, queue };
        let mut revisions = self.core.store.revisions();
        let (store, revision) = {
            let tables = self.core.store.tables();
            (tables.store, tables.revision)
        };
        let renew_ms = u64::try_from(RENEW_EVERY.as_millis()).unwrap_or(u64::MAX);
        outlet.send(&ToPlane::Welcome { store, revision, renew_ms }).await?;
        loop {
            revisions.mark_unchanged();
            held = Some(self.send_news(&mut outlet, held).await?);
            tokio::select! {
                changed = revisions.changed() => {
                    changed.map_err(|_| LinkError::Protocol("the store has stopped"))?;
                }
                Some(message) = outlet.queue.recv() => outlet.send(&message).await?,
            }
        }
    }

    /// Sends what a plane that holds `held` lacks; answers what it holds then.
    ///
    /// Rows are read frame by frame, so one that changes meanwhile may be newer than the revision that is sent. What
    /// comes next starts at that revision and carries such a row again, so nothing is lost; what is told of the
    /// revision stays true, because a newer row is the one that counts.
    async fn send_news(&self, outlet: &mut Outlet, held: Option<u64>) -> Result<u64, LinkError> {
        let (revision, news) = {
            let tables = self.core.store.tables();
            if held == Some(tables.revision) {
                return Ok(tables.revision);
            }
            (tables.revision, News::since(&tables, held))
        };
        self.core.planes.sending(self.name, revision);
        match news {
            News::Changed(keys) => self.send_delta(outlet, revision, &keys).await?,
            News::All(keys) => self.send_snapshot(outlet, revision, &keys).await?,
        }
        Ok(revision)
    }

    async fn send_delta(&self, outlet: &mut Outlet, revision: u64, keys: &[Key]) -> Result<(), LinkError> {
        let mut frames = keys.chunks(ROWS_PER_FRAME).peekable();
        while let Some(keys) = frames.next() {
            let ops = self.ops(keys)?;
            let apart = apart(&ops);
            let message = match frames.peek() {
                Some(_) => ToPlane::DeltaRows { ops },
                None => ToPlane::Delta { revision, ops },
            };
            outlet.send(&message).await?;
            outlet.beside(self.send_artefacts(apart)).await??;
        }
        Ok(())
    }

    async fn send_snapshot(&self, outlet: &mut Outlet, revision: u64, keys: &[Key]) -> Result<(), LinkError> {
        outlet.send(&ToPlane::SnapshotBegin { revision }).await?;
        let mut rows = 0;
        for keys in keys.chunks(ROWS_PER_FRAME) {
            let mut ops = self.ops(keys)?;
            ops.retain(is_upsert);
            rows += ops.len() as u64;
            let apart = apart(&ops);
            outlet.send(&ToPlane::SnapshotRows { ops }).await?;
            outlet.beside(self.send_artefacts(apart)).await??;
        }
        outlet.send(&ToPlane::SnapshotEnd { revision, rows }).await
    }

    /// The operations that bring rows to what they are now.
    fn ops(&self, keys: &[Key]) -> Result<Vec<Op>, LinkError> {
        let tables = self.core.store.tables();
        keys.iter().map(|key| op(self.core, &tables, key)).collect()
    }

    /// Each on a stream of its own, after the frame that names it: the plane waits for exactly this one.
    async fn send_artefacts(&self, hashes: Vec<[u8; 32]>) -> Result<(), LinkError> {
        for hash in hashes {
            let bytes = read_artefact(self.core, &HEXLOWER.encode(&hash)).await?;
            let mut stream = self.connection.open_uni().await?;
            stream.write_all(&ToPlane::Artefact { hash, bytes: bytes.len() }.encode()).await?;
            stream.write_all(&bytes).await?;
            let _ = stream.finish();
        }
        Ok(())
    }
}

/// Hashes of the envelopes that are too large for their operations.
fn apart(ops: &[Op]) -> Vec<[u8; 32]> {
    let hash = |op: &Op| match op {
        Op::UpsertHandler(row) if matches!(row.envelope, Envelope::Apart { .. }) => Some(row.hash),
        _ => None,
    };
    ops.iter().filter_map(hash).collect()
}
