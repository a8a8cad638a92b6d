//! A plane's end of the link: events come to the test, and rows are kept as a plane would keep them.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, mpsc};

use control_wire::row::{Envelope, HandlerRow, Op, TemplateRow};
use dataplane::clock::Lease;
use dataplane::link::{LinkConfig, LinkError, LinkEvent, LinkHandle, enter, start};
use dataplane::snapshot::{ApplyError, Tables};
use dataplane::tls::PoolMaster;
use tempfile::TempDir;
use zeroize::Zeroizing;

use crate::PATIENCE;
use crate::control::Control;

/// One life of a plane's link.
pub struct Plane {
    handle: Arc<OnceLock<LinkHandle>>,
    master: Arc<OnceLock<Arc<PoolMaster>>>,
    pub lease: Arc<Lease>,
    /// Rows by kind and name, as a text of their content.
    pub rows: BTreeMap<String, String>,
    pub handlers: BTreeMap<String, HandlerRow>,
    pub revision: u64,
    events: mpsc::Receiver<LinkEvent>,
    refuses: Arc<AtomicBool>,
    fails: Arc<AtomicBool>,
    folder: Arc<TempDir>,
}

impl Plane {
    pub fn settings(
        control: std::net::SocketAddr,
        name: &str,
        folder: &Path,
        token: Option<Zeroizing<String>>,
    ) -> LinkConfig {
        LinkConfig {
            control,
            plane: name.into(),
            identity: folder.join("identity"),
            join_token: token,
            triple: "x86_64-unknown-linux-gnu".into(),
            cpu_features: vec!["avx2".into()],
            wasmer: "7".into(),
            lease: Arc::default(),
        }
    }

    /// A plane that has no identity yet.
    pub fn new(control: &Control, name: &str, token: Option<Zeroizing<String>>) -> Self {
        let folder = Arc::new(tempfile::tempdir().unwrap());
        Self::begin(Self::settings(control.address, name, folder.path(), token), folder)
    }

    pub fn begin(settings: LinkConfig, folder: Arc<TempDir>) -> Self {
        let lease = settings.lease.clone();
        let (sender, events) = mpsc::channel();
        let losses: mpsc::Sender<LinkEvent> = sender.clone();
        let refuses = Arc::new(AtomicBool::new(false));
        let fails = Arc::new(AtomicBool::new(false));
        let (refusing, failing) = (refuses.clone(), fails.clone());
        let sink = move |event| {
            let rows = matches!(event, LinkEvent::Snapshot { .. } | LinkEvent::Delta { .. });
            assert!(!(rows && failing.swap(false, Ordering::SeqCst)), "the mistake that the test asks for");
            if rows && refusing.swap(false, Ordering::SeqCst) {
                return Err(impossible());
            }
            // Nobody listens when the test has ended.
            let _ = sender.send(event);
            Ok(())
        };
        let (handle, master) = (Arc::new(OnceLock::new()), Arc::new(OnceLock::new()));
        let (begun, entered) = (handle.clone(), master.clone());
        let body = move || {
            let told = |error: LinkError| match losses.send(LinkEvent::Lost(error)) {
                Ok(()) => ControlFlow::Continue(()),
                // Nobody listens when the test has ended.
                Err(_) => ControlFlow::Break(()),
            };
            match enter(&settings, told) {
                Ok(None) => {}
                Ok(Some(member)) => {
                    let _first = entered.set(member.master().clone());
                    let _first = begun.set(start(settings, member, sink).unwrap());
                }
                Err(error) => drop(losses.send(LinkEvent::Lost(error))),
            }
        };
        std::thread::spawn(body);
        let (rows, handlers) = Default::default();
        Self { handle, master, lease, rows, handlers, revision: 0, events, refuses, fails, folder }
    }

    /// Speaks to control; waits until the plane has joined.
    pub fn handle(&self) -> &LinkHandle {
        self.handle.wait()
    }

    /// The master of the plane's pool.
    pub fn master(&self) -> &Arc<PoolMaster> {
        self.master.wait()
    }

    /// A plane that has joined, and holds what control holds.
    pub fn joined(control: &Control, name: &str) -> Self {
        let mut plane = Self::new(control, name, Some(control.token()));
        assert!(matches!(plane.event(), LinkEvent::Joined { .. }));
        assert!(matches!(plane.event(), LinkEvent::Connected));
        assert_eq!(plane.news(), News::Snapshot(control.revision()));
        plane
    }

    /// Ends this life; the folder stays.
    pub fn end(self) -> Arc<TempDir> {
        self.folder
    }

    /// The next revision meets a mistake of the plane's.
    pub fn fail_next(&self) {
        self.fails.store(true, Ordering::SeqCst);
    }

    /// The next revision is not applied.
    pub fn refuse_next(&self) {
        self.refuses.store(true, Ordering::SeqCst);
    }

    pub fn identity(&self) -> PathBuf {
        self.folder.path().join("identity")
    }

    pub fn event(&self) -> LinkEvent {
        self.events.recv_timeout(PATIENCE).expect("the link says something")
    }

    /// The loss that comes next; nothing else may come before it.
    pub fn loss(&self) -> LinkError {
        match self.event() {
            LinkEvent::Lost(error) => error,
            other => panic!("no loss: {other:?}"),
        }
    }

    /// Waits for a loss that the test is about, past those of attempts that came too early.
    pub fn until_lost(&self, fits: impl Fn(&LinkError) -> bool) -> LinkError {
        loop {
            if let LinkEvent::Lost(error) = self.event()
                && fits(&error)
            {
                return error;
            }
        }
    }

    pub fn until_connected(&self) {
        while !matches!(self.event(), LinkEvent::Connected) {}
    }

    /// The next revision, applied.
    pub fn news(&mut self) -> News {
        loop {
            let event = self.event();
            if let Some(news) = self.take(event) {
                return news;
            }
        }
    }

    fn take(&mut self, event: LinkEvent) -> Option<News> {
        let (news, ops) = match event {
            LinkEvent::Snapshot { revision, ops } => {
                self.rows.clear();
                self.handlers.clear();
                (News::Snapshot(revision), ops)
            }
            LinkEvent::Delta { revision, ops } => (News::Delta(revision, names(&ops)), ops),
            _ => return None,
        };
        self.revision = match news {
            News::Snapshot(revision) | News::Delta(revision, _) => {
                // The empty store has the revision 0, however often it is sent.
                let grows = revision > self.revision || revision == 0;
                assert!(grows, "{revision} came after {}", self.revision);
                revision
            }
        };
        for op in ops {
            self.apply(op);
        }
        Some(news)
    }

    /// Applies revisions until this one.
    pub fn follow(&mut self, revision: u64) {
        while self.revision < revision {
            self.news();
        }
    }

    fn apply(&mut self, op: Op) {
        let name = name(&op);
        match op {
            Op::RemoveTemplate(_) | Op::RemoveSandbox(_) | Op::RemoveSecret(_) => {
                assert!(self.rows.remove(&name).is_some(), "{name} was not there");
            }
            Op::RemoveHandler(handler) => {
                self.handlers.remove(&handler);
            }
            Op::UpsertHandler(row) => {
                self.handlers.insert(row.name.clone(), row);
            }
            Op::UpsertSecret(row) => {
                let value = String::from_utf8_lossy(row.value.expose()).into_owned();
                self.rows.insert(name, format!("{row:?} {value}"));
            }
            Op::UpsertTemplate(row) => {
                self.rows.insert(name, row.document);
            }
            Op::UpsertSandbox(row) => {
                self.rows.insert(name, format!("{row:?}"));
            }
        }
    }

    pub fn envelope(&self, handler: &str) -> &[u8] {
        match &self.handlers[handler].envelope {
            Envelope::Here(bytes) => bytes,
            Envelope::Apart { .. } => panic!("the link promises that every envelope is here"),
        }
    }
}

/// What a revision was, with the names of what it changed.
#[derive(Debug, PartialEq, Eq)]
pub enum News {
    Snapshot(u64),
    Delta(u64, Vec<String>),
}

fn names(ops: &[Op]) -> Vec<String> {
    ops.iter().map(name).collect()
}

fn name(op: &Op) -> String {
    match op {
        Op::UpsertTemplate(TemplateRow { name, .. }) | Op::RemoveTemplate(name) => format!("template {name}"),
        Op::UpsertSandbox(row) => format!("sandbox {}", row.id),
        Op::RemoveSandbox(id) => format!("sandbox {id}"),
        Op::UpsertHandler(HandlerRow { name, .. }) | Op::RemoveHandler(name) => format!("handler {name}"),
        Op::UpsertSecret(row) => format!("secret {}", row.name),
        Op::RemoveSecret(name) => format!("secret {name}"),
    }
}

/// What a plane finds in a document that it cannot read.
fn impossible() -> ApplyError {
    let row = TemplateRow { name: "t".into(), document: "{".into() };
    let load = |_: &HandlerRow| unreachable!("no handler is there");
    Tables::default().apply(1, vec![Op::UpsertTemplate(row)], &load).err().expect("it is no document")
}
