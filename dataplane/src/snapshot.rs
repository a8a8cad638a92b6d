//! All tables of one revision, shared by structure: a change copies one segment of 1,024, not the table.

mod table;

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, Mutex, PoisonError, Weak},
};

use aws_lc_rs::digest;
use control_wire::{
    pattern::PatternError,
    policy::PolicyDocument,
    row::{Envelope, HandlerRow, Op, SandboxRow},
    validate::DocumentError,
};

use crate::{
    causes::chain,
    handler::{LoadError, Loaded},
    identity::{IdentityError, SandboxId},
    inject::Secret,
    policy::{AnswerError, Answers, RuleError, Rules},
};

pub use table::Table;

/// One template, with the rules that sandboxes without overrides share.
#[derive(Debug)]
pub struct Template {
    document: PolicyDocument,
    /// Rules by hash of the overrides: sandboxes with equal overrides share one compilation.
    compiled: Mutex<HashMap<[u8; 32], Weak<Rules>>>,
}

/// One sandbox.
#[derive(Debug)]
pub struct Sandbox {
    /// Its identifier.
    pub id: SandboxId,
    /// The row as control wrote it.
    pub row: SandboxRow,
    /// What people have answered for it.
    pub answers: Answers,
    overrides: PolicyDocument,
    key: [u8; 32],
    /// Rules with the template that they were compiled from. Only the home shard asks, so nobody waits for the lock.
    rules: Mutex<Option<(Weak<Template>, Arc<Rules>)>>,
}

/// One handler, checked and ready.
#[derive(Debug)]
pub struct Handler {
    /// The row as control wrote it; its envelope's bytes are let go.
    pub row: HandlerRow,
    /// What shards instantiate.
    pub loaded: Arc<Loaded>,
}

/// Checks and loads the envelope of a row. Slow: not for a shard.
pub type Load<'a> = dyn Fn(&HandlerRow) -> Result<Arc<Loaded>, LoadError> + 'a;

/// A version of a handler that did not load. The version before it stays in force; where there was none, requests
/// that need the handler are refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RejectedHandler {
    /// Name under which it was published.
    pub name: String,
    /// The version.
    pub version: u64,
    /// Why, with all causes.
    pub reason: String,
}

/// Why a revision was not applied; the one before stays in force.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// A document does not hold.
    #[error("row `{row}`")]
    Document {
        /// Name of the row.
        row: String,
        /// Why.
        #[source]
        source: DocumentError,
    },
    /// A secret's host pattern does not hold.
    #[error("secret `{row}`")]
    Secret {
        /// Its name.
        row: String,
        /// Why.
        #[source]
        source: PatternError,
    },
    /// An answer that a sandbox's row keeps does not hold.
    #[error("sandbox `{row}`")]
    Answer {
        /// Its identifier.
        row: String,
        /// Why.
        #[source]
        source: AnswerError,
    },
    /// A sandbox's identifier does not hold.
    #[error("sandbox `{row}`")]
    Sandbox {
        /// As it was sent.
        row: String,
        /// Why.
        #[source]
        source: IdentityError,
    },
}

/// Whom a revision concerns: their open exchanges are judged again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Concerned {
    /// These sandboxes.
    pub sandboxes: BTreeSet<SandboxId>,
    /// All sandboxes of these templates.
    pub templates: BTreeSet<String>,
    /// All sandboxes whose rules name one of these handlers.
    pub handlers: BTreeSet<String>,
    /// All sandboxes: a secret changed, and handlers may name any.
    pub everyone: bool,
}

impl Concerned {
    /// Adds those of another revision, so that a shard that was slow skips nobody.
    pub fn merge(&mut self, other: Self) {
        self.sandboxes.extend(other.sandboxes);
        self.templates.extend(other.templates);
        self.handlers.extend(other.handlers);
        self.everyone |= other.everyone;
    }

    /// Whether a sandbox is meant.
    pub fn concerns(&self, tables: &Tables, sandbox: &SandboxId) -> bool {
        if self.everyone || self.sandboxes.contains(sandbox) {
            return true;
        }
        let Some(row) = tables.sandboxes.get(sandbox.as_str()) else { return true };
        self.templates.contains(&row.row.template)
            || (!self.handlers.is_empty()
                && tables
                    .rules(sandbox)
                    .is_none_or(|rules| rules.handlers().any(|name| self.handlers.contains(&**name))))
    }
}

/// All tables of one revision.
#[derive(Clone, Default)]
pub struct Tables {
    /// Their revision; 0 before the first snapshot, when everything is denied.
    pub revision: u64,
    /// By identifier.
    pub sandboxes: Table<Sandbox>,
    /// By name.
    pub templates: Table<Template>,
    /// By name.
    pub handlers: Table<Handler>,
    /// By name.
    pub secrets: Table<Secret>,
}

impl Tables {
    /// The rules of a sandbox, compiled at first use. `None` means deny: no such sandbox or template, or documents
    /// that do not compile.
    pub fn rules(&self, sandbox: &SandboxId) -> Option<Arc<Rules>> {
        let row = self.sandboxes.get(sandbox.as_str())?;
        let template = self.templates.get(&row.row.template)?;
        let mut cell = row.rules.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((of, rules)) = &*cell
            && std::ptr::eq(of.as_ptr(), Arc::as_ptr(template))
        {
            return Some(Arc::clone(rules));
        }
        let rules = template.compile(row.key, &row.overrides).ok()?;
        *cell = Some((Arc::downgrade(template), Arc::clone(&rules)));
        Some(rules)
    }

    /// The secret of that name.
    pub fn secret(&self, name: &str) -> Option<&Secret> {
        self.secrets.get(name).map(|secret| &**secret)
    }

    /// The handler of that name.
    pub fn handler(&self, name: &str) -> Option<&Handler> {
        self.handlers.get(name).map(|handler| &**handler)
    }

    /// Builds the next revision: all of it or nothing, but for handlers that do not load, which are told apart.
    ///
    /// # Errors
    /// When a row does not hold.
    pub fn apply(
        &self,
        revision: u64,
        ops: Vec<Op>,
        load: &Load<'_>,
    ) -> Result<(Self, Concerned, Vec<RejectedHandler>), ApplyError> {
        self.clone().advance(revision, ops, (&self.handlers, load))
    }

    /// Builds a revision from a full snapshot: what it does not name is gone. Handlers that are loaded already, by
    /// the hash of their envelope, are not loaded again. Everyone is concerned.
    ///
    /// # Errors
    /// When a row does not hold.
    pub fn replace(
        &self,
        revision: u64,
        ops: Vec<Op>,
        load: &Load<'_>,
    ) -> Result<(Self, Concerned, Vec<RejectedHandler>), ApplyError> {
        let (mut next, mut concerned, rejected) =
            Self::default().advance(revision, ops, (&self.handlers, load))?;
        concerned.everyone = true;
        for handler in &rejected {
            if let Some(known) = self.handlers.get(&handler.name) {
                next.handlers.insert_shared(&handler.name, Arc::clone(known));
            }
        }
        Ok((next, concerned, rejected))
    }

    fn advance(
        mut self,
        revision: u64,
        ops: Vec<Op>,
        (before, load): (&Table<Handler>, &Load<'_>),
    ) -> Result<(Self, Concerned, Vec<RejectedHandler>), ApplyError> {
        self.revision = revision;
        let (mut concerned, mut rejected) = (Concerned::default(), Vec::new());
        for op in ops {
            match op {
                Op::UpsertHandler(row) => match self.settle(row, (before, load)) {
                    Ok(name) => {
                        concerned.handlers.insert(name);
                    }
                    Err(handler) => rejected.push(handler),
                },
                other => self.apply_one(other, &mut concerned)?,
            }
        }
        Ok((self, concerned, rejected))
    }

    /// Takes a version of a handler, or keeps the one before it.
    fn settle(
        &mut self,
        mut row: HandlerRow,
        (before, load): (&Table<Handler>, &Load<'_>),
    ) -> Result<String, RejectedHandler> {
        let known = before.get(&row.name);
        let same = known.filter(|known| known.row.hash == row.hash).map(|known| Arc::clone(&known.loaded));
        match same.map_or_else(|| load(&row), Ok) {
            Ok(loaded) => {
                if let Envelope::Here(bytes) = &row.envelope {
                    row.envelope = Envelope::Apart { bytes: bytes.len() };
                }
                let name = row.name.clone();
                self.handlers.insert(&name, Handler { row, loaded });
                Ok(name)
            }
            Err(error) => {
                Err(RejectedHandler { name: row.name, version: row.version, reason: chain(&error) })
            }
        }
    }

    fn apply_one(&mut self, op: Op, concerned: &mut Concerned) -> Result<(), ApplyError> {
        match op {
            Op::UpsertTemplate(row) => {
                self.templates.insert(&row.name, Template::new(document(&row.name, &row.document)?));
                concerned.templates.insert(row.name);
            }
            Op::RemoveTemplate(name) => {
                self.templates.remove(&name);
                concerned.templates.insert(name);
            }
            Op::UpsertSandbox(row) => {
                let sandbox = Sandbox::new(row)?;
                concerned.sandboxes.insert(sandbox.id.clone());
                let id = sandbox.id.clone();
                self.sandboxes.insert(id.as_str(), sandbox);
            }
            Op::RemoveSandbox(id) => {
                if let Some(row) = self.sandboxes.remove(&id) {
                    concerned.sandboxes.insert(row.id.clone());
                }
            }
            // `advance` has taken it.
            Op::UpsertHandler(_) => {}
            Op::RemoveHandler(name) => {
                self.handlers.remove(&name);
                concerned.handlers.insert(name);
            }
            Op::UpsertSecret(row) => {
                let name = row.name.clone();
                let secret =
                    Secret::new(row).map_err(|source| ApplyError::Secret { row: name.clone(), source })?;
                self.secrets.insert(&name, secret);
                concerned.everyone = true;
            }
            Op::RemoveSecret(name) => {
                self.secrets.remove(&name);
                concerned.everyone = true;
            }
        }
        Ok(())
    }
}

impl Template {
    fn new(document: PolicyDocument) -> Self {
        Self { document, compiled: Mutex::default() }
    }

    /// Locked only when a sandbox is used for the first time under this template, never per request.
    fn compile(&self, key: [u8; 32], overrides: &PolicyDocument) -> Result<Arc<Rules>, RuleError> {
        let mut compiled = self.compiled.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(rules) = compiled.get(&key).and_then(Weak::upgrade) {
            return Ok(rules);
        }
        let rules = Arc::new(Rules::compile(&self.document, overrides)?);
        compiled.retain(|_, known| known.strong_count() > 0);
        compiled.insert(key, Arc::downgrade(&rules));
        Ok(rules)
    }
}

impl Sandbox {
    fn new(row: SandboxRow) -> Result<Self, ApplyError> {
        let id =
            SandboxId::new(&row.id).map_err(|source| ApplyError::Sandbox { row: row.id.clone(), source })?;
        let overrides = document(&row.id, &row.overrides)?;
        let answers = Answers::new(&row.answers)
            .map_err(|source| ApplyError::Answer { row: row.id.clone(), source })?;
        let mut key = [0; 32];
        key.copy_from_slice(digest::digest(&digest::SHA256, row.overrides.as_bytes()).as_ref());
        Ok(Self { id, row, answers, overrides, key, rules: Mutex::default() })
    }
}

fn document(row: &str, text: &str) -> Result<PolicyDocument, ApplyError> {
    PolicyDocument::from_json(text).map_err(|source| ApplyError::Document { row: row.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;
    use control_wire::row::TemplateRow;

    fn template(document: &str) -> Op {
        Op::UpsertTemplate(TemplateRow { name: "t".into(), document: document.into() })
    }

    fn sandbox(id: &str) -> Op {
        Op::UpsertSandbox(SandboxRow {
            id: id.into(),
            template: "t".into(),
            overrides: "{}".into(),
            labels: Default::default(),
            salt: [0; 32],
            ca_certificate: None,
            answers: Vec::new(),
        })
    }

    fn handler(version: u64) -> Op {
        Op::UpsertHandler(HandlerRow {
            name: "h".into(),
            version,
            hash: [u8::try_from(version).unwrap(); 32],
            envelope: Envelope::Here([1, 2, 3].as_slice().into()),
        })
    }

    fn refuse(_: &HandlerRow) -> Result<Arc<Loaded>, LoadError> {
        Err(LoadError::Signature)
    }

    fn apply(tables: &Tables, revision: u64, ops: Vec<Op>) -> (Tables, Concerned) {
        let (next, concerned, rejected) = tables.apply(revision, ops, &refuse).unwrap();
        assert!(rejected.is_empty());
        (next, concerned)
    }

    #[test]
    fn a_template_change_is_one_row_and_old_readers_keep_what_they_began_with() {
        let (one, _) = apply(&Tables::default(), 1, vec![template("{}"), sandbox("a"), sandbox("b")]);
        let (a, b) = (SandboxId::new("a").unwrap(), SandboxId::new("b").unwrap());
        assert!(Arc::ptr_eq(&one.rules(&a).unwrap(), &one.rules(&b).unwrap()));
        let (two, concerned) = apply(&one, 2, vec![template(r#"{"denyStatus":520}"#)]);
        assert!(concerned.concerns(&two, &a) && concerned.concerns(&two, &b));
        assert!(Arc::ptr_eq(one.sandboxes.get("a").unwrap(), two.sandboxes.get("a").unwrap()));
        assert_eq!(two.rules(&a).unwrap().deny_status(), 520);
        assert_eq!(one.rules(&a).unwrap().deny_status(), 403);
    }

    #[test]
    fn a_refused_revision_changes_nothing_and_nothing_known_means_no_rules() {
        let (one, _) = apply(&Tables::default(), 1, vec![template("{}"), sandbox("a")]);
        assert!(one.apply(2, vec![sandbox("b"), template(r#"{"allowedHosts":[""]}"#)], &refuse).is_err());
        assert_eq!((one.revision, one.sandboxes.len()), (1, 1));
        assert!(Tables::default().rules(&SandboxId::new("a").unwrap()).is_none());
    }

    #[test]
    fn a_full_snapshot_takes_away_what_it_does_not_name_and_concerns_everyone() {
        let (one, _) = apply(&Tables::default(), 1, vec![template("{}"), sandbox("a"), sandbox("b")]);
        let (two, concerned, rejected) = one.replace(9, vec![template("{}"), sandbox("b")], &refuse).unwrap();
        assert_eq!((two.revision, two.sandboxes.len(), rejected.len()), (9, 1, 0));
        assert!(concerned.everyone);
        assert!(two.rules(&SandboxId::new("a").unwrap()).is_none());
    }

    #[test]
    fn a_handler_that_does_not_load_stays_missing_is_reported_and_stops_nothing_else() {
        let ops = vec![handler(7), template("{}"), sandbox("a")];
        let (one, concerned, rejected) = Tables::default().apply(1, ops, &refuse).unwrap();
        assert!(one.handler("h").is_none() && concerned.handlers.is_empty());
        assert_eq!(one.sandboxes.len(), 1);
        let reason = LoadError::Signature.to_string();
        assert_eq!(rejected, [RejectedHandler { name: "h".into(), version: 7, reason }]);
    }
}
