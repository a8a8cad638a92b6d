//! The store: SQLite behind one writer thread, and the tables in memory that mirror it.
//!
//! A change is a function from the tables to a list of changes. The writer runs it, commits what it returns as one
//! revision, then makes it visible; so a decision and its commit never have another change between them, and a caller
//! that goes away leaves nothing half done.

use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, mpsc};
use std::thread;

use control_wire::message::StoreId;
use rusqlite::{Connection, OptionalExtension, params};
use tokio::sync::{oneshot, watch};

use crate::limits::WRITER_QUEUE_MAX;
use crate::tables::{Change, Key, Tables};

const PUT_LOCAL: &str =
    "INSERT INTO local (key, value) VALUES (?1, ?2) ON CONFLICT (key) DO UPDATE SET value = ?2";

/// Why the store did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// SQLite refused.
    #[error("the store refused")]
    Sqlite(#[from] rusqlite::Error),
    /// Its file.
    #[error("cannot use {path}")]
    File {
        /// Where it is.
        path: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A stored value is not of its shape.
    #[error("the stored {key} cannot be read; it was written by a newer version or changed by hand")]
    Value {
        /// Its key.
        key: String,
        /// What is wrong.
        #[source]
        source: serde_json::Error,
    },
    /// Another process has the store.
    #[error("{path} is in use by another control process; stop that one first, or use another --state")]
    InUse {
        /// The file.
        path: String,
    },
    /// The writer has ended.
    #[error("the store has stopped")]
    Stopped,
}

/// Why a change was not made.
#[derive(Debug)]
pub enum ChangeError<E> {
    /// The decision refused it.
    Refused(E),
    /// The store failed.
    Store(StoreError),
}

impl<E> From<StoreError> for ChangeError<E> {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

/// What a decision wants done.
#[derive(Debug)]
pub struct Plan<T> {
    /// Changes of rows.
    pub changes: Vec<Change>,
    /// Values to be set that planes never see, by key.
    pub local: Vec<(String, String)>,
    /// For whoever asked.
    pub answer: T,
}

/// The values that planes never see, as a decision reads them.
pub struct Local<'a>(&'a Connection);

impl Local<'_> {
    /// The value of a key.
    ///
    /// # Errors
    /// The store's fault.
    pub fn value(&self, key: &str) -> Result<Option<String>, StoreError> {
        let mut statement = self.0.prepare_cached("SELECT value FROM local WHERE key = ?1")?;
        Ok(statement.query_row(params![key], |row| row.get(0)).optional()?)
    }

    /// Keys and values under a prefix, which must not hold `%` or `_`.
    ///
    /// # Errors
    /// The store's fault.
    pub fn under(&self, prefix: &str) -> Result<Vec<(String, String)>, StoreError> {
        let sql = "SELECT key, value FROM local WHERE key LIKE ?1 || '%' ORDER BY key";
        let mut statement = self.0.prepare_cached(sql)?;
        let rows = statement.query_map(params![prefix], |row| Ok((row.get(0)?, row.get(1)?)))?;
        Ok(rows.collect::<Result<Vec<_>, _>>()?)
    }
}

type Job = Box<dyn FnOnce(&mut Writer) + Send>;

/// A handle on the store; clones share it.
#[derive(Clone)]
pub struct Store {
    tables: Arc<RwLock<Tables>>,
    jobs: mpsc::SyncSender<Job>,
    revisions: watch::Receiver<u64>,
}

struct Writer {
    connection: Connection,
    tables: Arc<RwLock<Tables>>,
    revisions: watch::Sender<u64>,
}

impl Store {
    /// Opens or makes the store and reads all of it.
    ///
    /// # Errors
    /// When the file cannot be opened, is in use, or holds what cannot be read.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        // SQLite's other files take their mode from this one.
        let private = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path);
        drop(private.map_err(|source| StoreError::File { path: path.display().to_string(), source })?);
        let connection = Connection::open(path)?;
        prepare(&connection).map_err(|error| match error.sqlite_error_code() {
            Some(rusqlite::ErrorCode::DatabaseBusy) => StoreError::InUse { path: path.display().to_string() },
            _ => error.into(),
        })?;
        let tables = load(&connection)?;
        let (revisions, receiver) = watch::channel(tables.revision);
        let tables = Arc::new(RwLock::new(tables));
        let mut writer = Writer { connection, tables: tables.clone(), revisions };
        let (jobs, queue) = mpsc::sync_channel::<Job>(WRITER_QUEUE_MAX);
        let body = move || {
            for job in queue {
                job(&mut writer);
            }
        };
        thread::Builder::new().name("store".into()).spawn(body).map_err(|_| StoreError::Stopped)?;
        Ok(Self { tables, jobs, revisions: receiver })
    }

    /// The tables as they are now. Held only between awaits.
    pub fn tables(&self) -> RwLockReadGuard<'_, Tables> {
        // A writer that panicked has not touched the tables halfway: they change only after the commit, by moves.
        self.tables.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells when there is a newer revision.
    pub fn revisions(&self) -> watch::Receiver<u64> {
        self.revisions.clone()
    }

    /// Decides and commits. Answers the new revision, or the current one where nothing is to be changed.
    ///
    /// # Errors
    /// What `decide` refuses with, or the store's fault; then nothing has changed.
    pub async fn change<E, F>(&self, decide: F) -> Result<u64, ChangeError<E>>
    where
        E: Send + 'static,
        F: FnOnce(&Tables) -> Result<Vec<Change>, E> + Send + 'static,
    {
        let plan = move |tables: &Tables, _: &Local<'_>| match decide(tables) {
            Ok(changes) => Ok(Plan { changes, local: Vec::new(), answer: Ok(()) }),
            Err(refusal) => Ok(Plan { changes: Vec::new(), local: Vec::new(), answer: Err(refusal) }),
        };
        let (revision, decided) = self.carry_out(plan).await?;
        decided.map(|()| revision).map_err(ChangeError::Refused)
    }

    /// Decides over the rows and the values that planes never see, and commits changes of both as one. Answers the
    /// revision, and what the decision answers.
    ///
    /// # Errors
    /// The store's fault; then nothing has changed.
    pub async fn carry_out<T, F>(&self, decide: F) -> Result<(u64, T), StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&Tables, &Local<'_>) -> Result<Plan<T>, StoreError> + Send + 'static,
    {
        let job = move |writer: &mut Writer| {
            let plan = {
                let tables = writer.tables.read().unwrap_or_else(PoisonError::into_inner);
                decide(&tables, &Local(&writer.connection))?
            };
            Ok((writer.commit(plan.changes, &plan.local)?, plan.answer))
        };
        self.run(job).await?
    }

    /// Sets a value that planes never see.
    ///
    /// # Errors
    /// The store's fault.
    pub async fn put_local(&self, key: String, value: String) -> Result<(), StoreError> {
        self.run(move |writer| writer.connection.execute(PUT_LOCAL, params![key, value])).await??;
        Ok(())
    }

    /// Reads a value.
    ///
    /// # Errors
    /// The store's fault.
    pub async fn local(&self, key: String) -> Result<Option<String>, StoreError> {
        self.run(move |writer| Local(&writer.connection).value(&key)).await?
    }

    /// Reads and removes a value in one step: whoever gets it is the only one.
    ///
    /// # Errors
    /// The store's fault.
    pub async fn take_local(&self, key: String) -> Result<Option<String>, StoreError> {
        let sql = "DELETE FROM local WHERE key = ?1 RETURNING value";
        let job = move |writer: &mut Writer| {
            writer.connection.query_row(sql, params![key], |row| row.get(0)).optional()
        };
        Ok(self.run(job).await??)
    }

    /// All values under a prefix, which must not hold `%` or `_`.
    ///
    /// # Errors
    /// The store's fault.
    pub async fn list_local(&self, prefix: &'static str) -> Result<Vec<(String, String)>, StoreError> {
        self.run(move |writer| Local(&writer.connection).under(prefix)).await?
    }

    async fn run<T: Send + 'static>(
        &self,
        job: impl FnOnce(&mut Writer) -> T + Send + 'static,
    ) -> Result<T, StoreError> {
        let (answer, answered) = oneshot::channel();
        let mut boxed: Job = Box::new(move |writer| {
            // The caller may have gone away; the change stands all the same.
            let _ = answer.send(job(writer));
        });
        loop {
            match self.jobs.try_send(boxed) {
                Ok(()) => break,
                Err(mpsc::TrySendError::Disconnected(_)) => return Err(StoreError::Stopped),
                Err(mpsc::TrySendError::Full(back)) => {
                    boxed = back;
                    tokio::time::sleep(std::time::Duration::from_millis(1)).await;
                }
            }
        }
        answered.await.map_err(|_| StoreError::Stopped)
    }
}

impl Writer {
    fn commit(&mut self, changes: Vec<Change>, local: &[(String, String)]) -> Result<u64, StoreError> {
        let current = self.tables.read().unwrap_or_else(PoisonError::into_inner).revision;
        if changes.is_empty() && local.is_empty() {
            return Ok(current);
        }
        let revision = if changes.is_empty() { current } else { current + 1 };
        let transaction = self.connection.transaction()?;
        for (key, value) in local {
            transaction.prepare_cached(PUT_LOCAL)?.execute(params![key, value])?;
        }
        let mut keys = Vec::with_capacity(changes.len());
        for change in &changes {
            let key = change.key();
            let text =
                change.stored().map_err(|source| StoreError::Value { key: key.name.clone(), source })?;
            write(&transaction, &key, text.as_deref(), revision)?;
            keys.push(key);
        }
        transaction.execute("UPDATE meta SET revision = ?1", params![revision])?;
        transaction.commit()?;
        if revision == current {
            return Ok(current);
        }
        let mut tables = self.tables.write().unwrap_or_else(PoisonError::into_inner);
        for change in changes {
            tables.apply(revision, change);
        }
        tables.finish(revision, keys);
        drop(tables);
        self.revisions.send_replace(revision);
        Ok(revision)
    }
}

fn write(connection: &Connection, key: &Key, text: Option<&str>, revision: u64) -> rusqlite::Result<()> {
    match text {
        Some(text) => connection
            .prepare_cached(
                "INSERT INTO kv (kind, name, value, revision) VALUES (?1, ?2, ?3, ?4)
                 ON CONFLICT (kind, name) DO UPDATE SET value = ?3, revision = ?4",
            )?
            .execute(params![key.kind.name(), key.name, text, revision])?,
        None => connection
            .prepare_cached("DELETE FROM kv WHERE kind = ?1 AND name = ?2")?
            .execute(params![key.kind.name(), key.name])?,
    };
    Ok(())
}

fn prepare(connection: &Connection) -> rusqlite::Result<()> {
    // Acknowledged means durable: a lock-down that a power failure undoes would be a hole.
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "locking_mode", "EXCLUSIVE")?;
    // What is deleted, sealed secrets too, does not stay in free pages.
    connection.pragma_update(None, "secure_delete", "ON")?;
    connection.query_row("PRAGMA journal_mode = WAL", [], |_| Ok(()))?;
    connection.execute_batch(
        "CREATE TABLE IF NOT EXISTS meta (store BLOB NOT NULL, revision INTEGER NOT NULL);
         CREATE TABLE IF NOT EXISTS kv (
             kind TEXT NOT NULL, name TEXT NOT NULL, value TEXT NOT NULL, revision INTEGER NOT NULL,
             PRIMARY KEY (kind, name)) WITHOUT ROWID;
         CREATE TABLE IF NOT EXISTS local (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;",
    )
}

fn load(connection: &Connection) -> Result<Tables, StoreError> {
    let meta = connection
        .query_row("SELECT store, revision FROM meta", [], |row| Ok((row.get::<_, StoreId>(0)?, row.get(1)?)))
        .optional()?;
    let (store, revision) = match meta {
        Some(meta) => meta,
        None => {
            let mut store = StoreId::default();
            aws_lc_rs::rand::fill(&mut store).map_err(|_| StoreError::Stopped)?;
            connection.execute("INSERT INTO meta (store, revision) VALUES (?1, 0)", params![store])?;
            (store, 0)
        }
    };
    let mut tables = Tables::new(store, revision);
    let mut statement = connection.prepare("SELECT kind, name, value, revision FROM kv")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let (kind, name, text): (String, String, String) = (row.get(0)?, row.get(1)?, row.get(2)?);
        let change = Change::from_stored(&kind, name.clone(), &text)
            .map_err(|source| StoreError::Value { key: format!("{kind} {name}"), source })?;
        if let Some(change) = change {
            tables.apply(row.get(3)?, change);
        }
    }
    tables.note_all_leases();
    Ok(tables)
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use control_wire::policy::PolicyDocument;

    use super::*;

    async fn put(store: &Store, name: &str) -> u64 {
        let change = Change::Template(name.into(), Some(PolicyDocument::default()));
        store.change::<Infallible, _>(|_| Ok(vec![change])).await.unwrap()
    }

    #[tokio::test]
    async fn what_was_committed_is_there_after_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("store.sqlite");
        let store = Store::open(&path).unwrap();
        let id = store.tables().store;
        assert_eq!(put(&store, "a").await, 1);
        assert_eq!(put(&store, "b").await, 2);
        let removed = store.change::<Infallible, _>(|_| Ok(vec![Change::Template("a".into(), None)])).await;
        assert_eq!(removed.unwrap(), 3);
        store.put_local("x/1".into(), "v".into()).await.unwrap();
        drop(store);
        let store = reopen(&path).await;
        assert_eq!(store.tables().store, id);
        assert_eq!(store.tables().revision, 3);
        assert_eq!(store.tables().templates.keys().collect::<Vec<_>>(), ["b"]);
        assert_eq!(store.take_local("x/1".into()).await.unwrap().as_deref(), Some("v"));
        assert_eq!(store.take_local("x/1".into()).await.unwrap(), None);
    }

    /// The writer thread lets the file go a moment after its last handle is dropped.
    async fn reopen(path: &Path) -> Store {
        loop {
            match Store::open(path) {
                Ok(store) => return store,
                Err(StoreError::InUse { .. }) => tokio::task::yield_now().await,
                Err(error) => panic!("{error:?}"),
            }
        }
    }

    #[tokio::test]
    async fn a_second_process_is_refused_with_a_sentence() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("store.sqlite");
        let store = Store::open(&path).unwrap();
        put(&store, "a").await;
        let error = Store::open(&path).err().unwrap();
        assert!(error.to_string().contains("in use by another"), "{error}");
    }

    #[tokio::test]
    async fn changes_are_known_since_each_revision_and_none_before_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("store.sqlite")).unwrap();
        put(&store, "a").await;
        put(&store, "b").await;
        let names = |since| {
            let keys = store.tables().changed_since(since)?;
            Some(keys.into_iter().map(|key| key.name).collect::<Vec<_>>())
        };
        assert_eq!(names(0).unwrap(), ["a", "b"]);
        assert_eq!(names(1).unwrap(), ["b"]);
        assert!(names(2).unwrap().is_empty());
        assert_eq!(names(3), None);
    }
}
