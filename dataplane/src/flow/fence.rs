//! What is asked in the turn in which bytes of an exchange are handed to the kernel.

use std::{cell::RefCell, rc::Rc, sync::Arc};

use super::{core::Core, open::Hold, resident::Resident};
use crate::{
    http::Gate,
    inject::Secret,
    respond::{Blame, Refusal},
    snapshot::Tables,
};

/// The gate of one exchange: its entry among the open ones, and the lease. It lives until the last byte of the answer
/// was handed to the kernel, so a change of policy meets the exchange until then.
pub(super) struct Fence {
    pub(super) core: Rc<Core>,
    pub(super) resident: Rc<Resident>,
    pub(super) hold: Hold,
    /// What leaves with the head; nothing once that was let through.
    pub(super) credentials: RefCell<Option<Rc<Credentials>>>,
}

impl Fence {
    pub(super) fn new(
        core: &Rc<Core>,
        resident: &Rc<Resident>,
        hold: Hold,
        credentials: Option<Rc<Credentials>>,
    ) -> Self {
        let (core, resident) = (Rc::clone(core), Rc::clone(resident));
        Self { core, resident, hold, credentials: RefCell::new(credentials) }
    }

    /// Whether the credentials that have not left were withdrawn or written anew.
    pub(super) fn is_stale(&self) -> bool {
        self.credentials.borrow().as_ref().is_some_and(|taken| !taken.are_in_force(&self.core))
    }
}

impl Gate for Fence {
    fn is_open(&self) -> bool {
        let open = !self.hold.is_cut() && self.core.goes_on(&self.resident) && !self.is_stale();
        if open {
            self.credentials.take();
        }
        open
    }
}

/// Which secrets a request took, in which form: it may have to wait for a connection, and what was withdrawn or written
/// anew meanwhile must not leave.
pub struct Credentials {
    applied: u64,
    secrets: Box<[(Arc<str>, Option<u64>)]>,
}

impl Credentials {
    /// Those of these names as the tables in force have them; none without names.
    pub fn of<'n>(core: &Core, names: impl Iterator<Item = &'n Arc<str>>) -> Option<Rc<Self>> {
        let tables = core.tables();
        let secrets: Box<[_]> = names.map(|name| (Arc::clone(name), serial(&tables, name))).collect();
        (!secrets.is_empty()).then(|| Rc::new(Self { applied: core.applied(), secrets }))
    }

    /// Whether they still are what the tables in force have.
    pub fn are_in_force(&self, core: &Core) -> bool {
        let same = |tables: &Tables| self.secrets.iter().all(|(name, taken)| serial(tables, name) == *taken);
        self.applied == core.applied() || same(&core.tables())
    }
}

fn serial(tables: &Tables, name: &str) -> Option<u64> {
    tables.secret(name).map(Secret::serial)
}

/// Nothing of the request has left, so it can be made again with what the tables have now.
pub(super) fn rewritten() -> Refusal {
    let detail = "a credential of the request was written anew while its upstream was dialled";
    Refusal::new(503, "secret_rewritten", Blame::Gateway, detail, "send the request again")
}
