//! What control holds: templates, sandboxes, handlers and secrets, each with the revision of its last change.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use control_wire::message::StoreId;
use control_wire::policy::{Labels, OnControlLoss, PolicyDocument};
use control_wire::question::KeptAnswer;
use control_wire::row::SALT_BYTES;
use serde::{Deserialize, Serialize};

use crate::limits::CHANGES_KEPT;

/// The lease of a document that sets none.
pub const LEASE_MS_DEFAULT: u64 = 10_000;

/// A sandbox as stored.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sandbox {
    /// Name of its template.
    pub template: String,
    /// What it sets instead of the template.
    pub overrides: PolicyDocument,
    /// Labels for selectors.
    pub labels: Labels,
    /// See [`control_wire::row::SandboxRow::salt`].
    pub salt: [u8; SALT_BYTES],
    /// Certificate of its authority in DER form.
    pub ca_certificate: Option<Vec<u8>>,
    /// What people have answered for it, and said to keep.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub answers: Vec<KeptAnswer>,
}

/// A handler as stored; its envelope is a file named by its hash.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Handler {
    /// Counts up with each publish.
    pub version: u64,
    /// SHA-256 of the envelope, in hex.
    pub hash: String,
    /// Bytes of the envelope.
    pub bytes: usize,
    /// SHA-256 of the module as published, in hex.
    pub module: String,
}

/// A secret as stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Secret {
    /// Counts up with each write.
    pub version: u64,
    /// The sealed value, in base64.
    pub sealed: String,
    /// Host patterns to which it is bound.
    pub hosts: Vec<String>,
    /// It may go over connections without verified TLS.
    pub allow_plaintext: bool,
}

/// A value and the revision of its last change.
#[derive(Clone, Debug)]
pub struct Entry<T> {
    /// The revision.
    pub revision: u64,
    /// The value.
    pub value: Arc<T>,
}

/// The kinds of rows, as they stand in keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// A policy document.
    Template,
    /// A sandbox.
    Sandbox,
    /// A handler.
    Handler,
    /// A secret.
    Secret,
}

impl Kind {
    /// All of them, in the order in which a plane needs them.
    pub const ALL: [Self; 4] = [Self::Secret, Self::Handler, Self::Template, Self::Sandbox];

    /// As it stands in a key.
    pub fn name(self) -> &'static str {
        match self {
            Self::Template => "template",
            Self::Sandbox => "sandbox",
            Self::Handler => "handler",
            Self::Secret => "secret",
        }
    }
}

/// Kind and name of a row.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    /// Its kind.
    pub kind: Kind,
    /// Its name.
    pub name: String,
}

/// One change.
#[derive(Clone, Debug)]
pub enum Change {
    /// A template is set or removed.
    Template(String, Option<PolicyDocument>),
    /// A sandbox is set or removed.
    Sandbox(String, Option<Sandbox>),
    /// A handler is set or removed.
    Handler(String, Option<Handler>),
    /// A secret is set or removed.
    Secret(String, Option<Secret>),
}

impl Change {
    /// What it changes.
    pub fn key(&self) -> Key {
        let (kind, name) = match self {
            Self::Template(name, _) => (Kind::Template, name),
            Self::Sandbox(name, _) => (Kind::Sandbox, name),
            Self::Handler(name, _) => (Kind::Handler, name),
            Self::Secret(name, _) => (Kind::Secret, name),
        };
        Key { kind, name: name.clone() }
    }

    /// The stored form; `None` when it removes.
    ///
    /// # Errors
    /// When a value has no JSON form, which ours always have.
    pub fn stored(&self) -> serde_json::Result<Option<String>> {
        fn text<T: Serialize>(value: Option<&T>) -> serde_json::Result<Option<String>> {
            value.map(serde_json::to_string).transpose()
        }
        match self {
            Self::Template(_, value) => text(value.as_ref()),
            Self::Sandbox(_, value) => text(value.as_ref()),
            Self::Handler(_, value) => text(value.as_ref()),
            Self::Secret(_, value) => text(value.as_ref()),
        }
    }

    /// Reads what [`Self::stored`] wrote; `None` for a kind that this version does not know.
    ///
    /// # Errors
    /// When the text is not of the kind's shape.
    pub fn from_stored(kind: &str, name: String, text: &str) -> serde_json::Result<Option<Self>> {
        Ok(Some(match kind {
            "template" => Self::Template(name, serde_json::from_str(text)?),
            "sandbox" => Self::Sandbox(name, serde_json::from_str(text)?),
            "handler" => Self::Handler(name, serde_json::from_str(text)?),
            "secret" => Self::Secret(name, serde_json::from_str(text)?),
            _ => return Ok(None),
        }))
    }
}

/// What a plane does with a sandbox when it loses control, and since which revision that has been so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaseFacts {
    /// Keep or deny.
    pub on_control_loss: OnControlLoss,
    /// Length of the lease in milliseconds.
    pub lease_ms: u64,
    /// A plane that has acknowledged this revision behaves so.
    pub since: u64,
}

/// All rows of one revision.
#[derive(Debug, Default)]
pub struct Tables {
    /// The store's identity.
    pub store: StoreId,
    /// The newest revision.
    pub revision: u64,
    /// By name.
    pub templates: BTreeMap<String, Entry<PolicyDocument>>,
    /// By identifier.
    pub sandboxes: BTreeMap<String, Entry<Sandbox>>,
    /// By name.
    pub handlers: BTreeMap<String, Entry<Handler>>,
    /// By name.
    pub secrets: BTreeMap<String, Entry<Secret>>,
    lease_facts: BTreeMap<String, LeaseFacts>,
    /// Ends of kept answers, with their sandboxes.
    answer_ends: BTreeSet<(u64, String)>,
    changed: VecDeque<(u64, Key)>,
    /// Changes up to this revision are no longer in `changed`.
    forgotten: u64,
}

fn put<T>(map: &mut BTreeMap<String, Entry<T>>, name: String, revision: u64, value: Option<T>) {
    match value {
        Some(value) => {
            map.insert(name, Entry { revision, value: Arc::new(value) });
        }
        None => {
            map.remove(&name);
        }
    }
}

impl Tables {
    /// Empty tables of a store at a revision; what changed before is not known.
    pub fn new(store: StoreId, revision: u64) -> Self {
        Self { store, revision, forgotten: revision, ..Self::default() }
    }

    /// Makes one change part of a revision. [`Self::finish`] ends the revision.
    pub fn apply(&mut self, revision: u64, change: Change) {
        match change {
            Change::Template(name, value) => put(&mut self.templates, name, revision, value),
            Change::Sandbox(name, value) => {
                self.note_answers(&name, value.as_ref());
                put(&mut self.sandboxes, name, revision, value);
            }
            Change::Handler(name, value) => put(&mut self.handlers, name, revision, value),
            Change::Secret(name, value) => put(&mut self.secrets, name, revision, value),
        }
    }

    fn note_answers(&mut self, id: &str, next: Option<&Sandbox>) {
        let ends =
            |row: &Sandbox| row.answers.iter().filter_map(|answer| answer.until_unix_ms).collect::<Vec<_>>();
        for end in self.sandboxes.get(id).map(|row| ends(&row.value)).unwrap_or_default() {
            self.answer_ends.remove(&(end, id.to_owned()));
        }
        self.answer_ends
            .extend(next.map(ends).unwrap_or_default().into_iter().map(|end| (end, id.to_owned())));
    }

    /// When the first of the answers ends that are kept for a time, in milliseconds of Unix time.
    pub fn first_answer_end(&self) -> Option<u64> {
        self.answer_ends.first().map(|(end, _)| *end)
    }

    /// Sandboxes, at most so many, with answers that have ended.
    pub fn answers_ended(&self, now_unix_ms: u64, max: usize) -> BTreeSet<String> {
        let ended = self.answer_ends.iter().take_while(|(end, _)| *end <= now_unix_ms);
        ended.take(max).map(|(_, id)| id.clone()).collect()
    }

    /// Ends a revision: notes what changed, and what that means for leases.
    pub fn finish(&mut self, revision: u64, keys: Vec<Key>) {
        self.revision = revision;
        for key in &keys {
            match key.kind {
                Kind::Sandbox => self.note_lease(&key.name, revision),
                Kind::Template => {
                    for id in self.sandboxes_of_template(&key.name) {
                        self.note_lease(&id, revision);
                    }
                }
                Kind::Handler | Kind::Secret => {}
            }
        }
        self.changed.extend(keys.into_iter().map(|key| (revision, key)));
        while self.changed.len() > CHANGES_KEPT {
            if let Some((revision, _)) = self.changed.pop_front() {
                self.forgotten = revision;
            }
        }
    }

    /// After loading: every sandbox behaves as it does since this revision at the latest.
    pub fn note_all_leases(&mut self) {
        let ids: Vec<String> = self.sandboxes.keys().cloned().collect();
        for id in ids {
            self.note_lease(&id, self.revision);
        }
    }

    fn note_lease(&mut self, id: &str, revision: u64) {
        let Some(sandbox) = self.sandboxes.get(id) else {
            self.lease_facts.remove(id);
            return;
        };
        let template = self.templates.get(&sandbox.value.template).map(|entry| &entry.value);
        let overrides = &sandbox.value.overrides;
        let facts = LeaseFacts {
            on_control_loss: overrides
                .on_control_loss
                .or(template.and_then(|template| template.on_control_loss))
                .unwrap_or_default(),
            lease_ms: overrides
                .lease_ms
                .or(template.and_then(|template| template.lease_ms))
                .unwrap_or(LEASE_MS_DEFAULT),
            since: revision,
        };
        let same = self.lease_facts.get(id).filter(|old| LeaseFacts { since: revision, ..**old } == facts);
        if same.is_none() {
            self.lease_facts.insert(id.to_owned(), facts);
        }
    }

    /// What planes do with a sandbox without control.
    pub fn lease_facts(&self, id: &str) -> Option<LeaseFacts> {
        self.lease_facts.get(id).copied()
    }

    /// The same of every sandbox that changes concern. Any may use a handler or a secret.
    pub fn lease_facts_of(&self, changes: &[Change]) -> Vec<Option<LeaseFacts>> {
        let everyone = changes.is_empty()
            || changes.iter().any(|change| matches!(change, Change::Handler(..) | Change::Secret(..)));
        if everyone {
            return self.lease_facts.values().copied().map(Some).collect();
        }
        let concerned = changes.iter().flat_map(|change| match change {
            Change::Sandbox(id, _) => vec![id.clone()],
            Change::Template(name, _) => self.sandboxes_of_template(name),
            Change::Handler(..) | Change::Secret(..) => Vec::new(),
        });
        concerned.map(|id| self.lease_facts(&id)).collect()
    }

    /// Whether a change would change nothing.
    pub fn holds(&self, change: &Change) -> bool {
        fn same<T: PartialEq>(rows: &BTreeMap<String, Entry<T>>, name: &str, value: Option<&T>) -> bool {
            rows.get(name).map(|row| &*row.value) == value
        }
        match change {
            Change::Template(name, value) => same(&self.templates, name, value.as_ref()),
            Change::Sandbox(name, value) => same(&self.sandboxes, name, value.as_ref()),
            Change::Handler(name, value) => same(&self.handlers, name, value.as_ref()),
            Change::Secret(name, value) => same(&self.secrets, name, value.as_ref()),
        }
    }

    /// Identifiers of the sandboxes that use a template.
    pub fn sandboxes_of_template(&self, template: &str) -> Vec<String> {
        let uses =
            |(id, entry): (&String, &Entry<Sandbox>)| (entry.value.template == template).then(|| id.clone());
        self.sandboxes.iter().filter_map(uses).collect()
    }

    /// Rows that changed after a revision; `None` when that is no longer known.
    pub fn changed_since(&self, revision: u64) -> Option<BTreeSet<Key>> {
        if revision < self.forgotten || revision > self.revision {
            return None;
        }
        let from = self.changed.partition_point(|(at, _)| *at <= revision);
        Some(self.changed.range(from..).map(|(_, key)| key.clone()).collect())
    }

    /// Every row, in the order in which a plane needs them.
    pub fn keys(&self) -> Vec<Key> {
        let mut keys = Vec::new();
        for kind in Kind::ALL {
            let names: Vec<&String> = match kind {
                Kind::Template => self.templates.keys().collect(),
                Kind::Sandbox => self.sandboxes.keys().collect(),
                Kind::Handler => self.handlers.keys().collect(),
                Kind::Secret => self.secrets.keys().collect(),
            };
            keys.extend(names.into_iter().map(|name| Key { kind, name: name.clone() }));
        }
        keys
    }
}
