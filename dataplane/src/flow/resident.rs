//! What a shard keeps for a sandbox whose home it is.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    time::{Duration, Instant},
};

use super::{
    open::Open,
    tie::{Tie, Ties},
};
use crate::{
    http::h2::Allowance,
    identity::SandboxId,
    limits::H2_SANDBOX_WINDOWS,
    listen::{dns::Responder, synthetic::SyntheticMap},
    ring::Ring,
    tls::Terminator,
};

/// What a shard keeps for a sandbox whose home it is.
pub struct Resident {
    /// Its id.
    pub id: SandboxId,
    /// Its open exchanges.
    pub open: Rc<Open>,
    /// What its clients may send over HTTP/2 before it was sent on.
    pub client_windows: Rc<Allowance>,
    /// The same of its upstreams.
    pub upstream_windows: Rc<Allowance>,
    /// Its stand-in addresses.
    pub names: Rc<RefCell<SyntheticMap>>,
    pub(super) responder: RefCell<Responder>,
    pub(super) ties: Rc<Ties>,
    pub(super) terminator: RefCell<Option<Rc<Terminator>>>,
    pub(super) renewal_offered: Cell<Option<Instant>>,
    /// What the tables say of it, and how often tables had come into force then; none where they know it not.
    pub(super) terms: Cell<(u64, Option<Terms>)>,
}

/// On which terms a sandbox may send.
#[derive(Clone, Copy, Debug)]
pub(super) struct Terms {
    /// As [`Rules::lease`](crate::policy::Rules::lease).
    pub(super) lease: Option<Duration>,
}

impl Resident {
    pub(super) fn new(id: SandboxId, names: SyntheticMap, windows: &Rc<Allowance>) -> Self {
        let names = Rc::new(RefCell::new(names));
        Self {
            id,
            open: Rc::default(),
            client_windows: Allowance::of(windows, H2_SANDBOX_WINDOWS),
            upstream_windows: Allowance::of(windows, H2_SANDBOX_WINDOWS),
            responder: RefCell::new(Responder::new(Rc::clone(&names), Ring::current().now())),
            names,
            ties: Rc::default(),
            terminator: RefCell::new(None),
            renewal_offered: Cell::default(),
            terms: Cell::default(),
        }
    }

    /// Number of its connections to the plane.
    pub fn connections(&self) -> usize {
        self.ties.len()
    }
}

/// A connection that was counted in; dropped, it is counted out.
pub struct Admission {
    pub(super) tie: Tie,
    pub(super) resident: Rc<Resident>,
}

impl Admission {
    /// Whose it is.
    pub fn resident(&self) -> &Rc<Resident> {
        &self.resident
    }

    /// What it lives by: cut when its sandbox leaves this plane.
    pub fn tie(&self) -> &Tie {
        &self.tie
    }
}
