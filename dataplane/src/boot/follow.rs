//! What control says becomes the next revision of the tables, and every shard gets it.

use std::sync::{Arc, OnceLock};

use control_wire::{
    envelope::CompileTarget,
    row::{Envelope, HandlerRow, Op},
};

use crate::{
    causes::{chain, tell},
    handler::{self, LoadError, Loaded, VerifyingKey},
    link::{LinkEvent, LinkHandle},
    shard::Shards,
    snapshot::{ApplyError, Concerned, RejectedHandler, Tables},
};

/// Follows control: lives on the link's thread, where tables are built and where their last reference dies.
pub(super) struct Follower {
    pub(super) shards: Arc<Shards>,
    pub(super) link: Arc<OnceLock<LinkHandle>>,
    tables: Tables,
    target: CompileTarget,
    trust: Option<VerifyingKey>,
    /// Why the link was lost, as it was told last.
    lost: String,
}

impl Follower {
    pub(super) fn new(shards: Arc<Shards>, link: Arc<OnceLock<LinkHandle>>, target: CompileTarget) -> Self {
        Self { shards, link, tables: Tables::default(), target, trust: None, lost: String::new() }
    }

    /// Takes in what control said.
    pub(super) fn hear(&mut self, event: LinkEvent) -> Result<(), ApplyError> {
        match event {
            LinkEvent::Joined { handler_key } => self.trust = Some(VerifyingKey(handler_key)),
            LinkEvent::Connected => {
                self.lost.clear();
                tell("connected to control");
            }
            LinkEvent::Lost(error) => {
                self.shards.link_lost();
                self.tell_lost(chain(&error));
            }
            LinkEvent::Answer(answer) => self.shards.answer(answer),
            LinkEvent::Snapshot { revision, ops } => self.advance(Tables::replace, revision, ops)?,
            LinkEvent::Delta { revision, ops } => self.advance(Tables::apply, revision, ops)?,
        }
        Ok(())
    }

    /// An attempt is made every other second; what keeps it from succeeding is told once.
    fn tell_lost(&mut self, why: String) {
        if self.lost != why {
            tell(&why);
            self.lost = why;
        }
    }

    fn advance(
        &mut self,
        step: impl FnOnce(&Tables, u64, Vec<Op>, &crate::snapshot::Load<'_>) -> Result<Step, ApplyError>,
        revision: u64,
        ops: Vec<Op>,
    ) -> Result<(), ApplyError> {
        let (tables, concerned, rejected) = step(&self.tables, revision, ops, &|row| self.load(row))?;
        self.tables = tables;
        for RejectedHandler { name, version, reason } in rejected {
            tell(format_args!("handler {name} version {version} is not taken: {reason}"));
            // Where it cannot be said now, control sees that the revision is not acknowledged for it.
            let _said = self.link.wait().reject_handler(name, version, reason);
        }
        self.shards.apply(&Arc::new(self.tables.clone()), &concerned);
        Ok(())
    }

    /// The link has compared the envelope's bytes with the row's hash.
    fn load(&self, row: &HandlerRow) -> Result<Arc<Loaded>, LoadError> {
        let (Some(trust), Envelope::Here(bytes)) = (&self.trust, &row.envelope) else {
            return Err(LoadError::Signature);
        };
        handler::load(bytes, trust, &self.target)
    }
}

type Step = (Tables, Concerned, Vec<RejectedHandler>);
