//! What a shard keeps for a sandbox whose home it is.

use std::{
    cell::{Cell, RefCell},
    ops::Deref,
    rc::Rc,
    sync::Arc,
    time::Instant,
};

use super::{
    open::Open,
    tie::{Tie, Ties},
};
use crate::{
    handler::{Budget, Room},
    http::h2::Allowance,
    identity::SandboxId,
    limits::{H2_SANDBOX_WINDOWS, HANDLER_KEPT_SANDBOX_BYTES_MAX},
    listen::{dns::Responder, synthetic::SyntheticMap},
    policy::Rules,
    ring::{Ring, Share},
    tls::Terminator,
};

/// What a shard keeps for a sandbox whose home it is.
pub struct Resident {
    /// Its id.
    pub id: SandboxId,
    /// Its part in the shard.
    pub share: Share,
    /// Its open exchanges.
    pub open: Rc<Open>,
    /// What its clients may send over HTTP/2 before it was sent on.
    pub client_windows: Rc<Allowance>,
    /// The same of its upstreams.
    pub upstream_windows: Rc<Allowance>,
    /// Room for what handlers remember of its exchanges.
    pub kept: Rc<Room>,
    /// What its handlers may take of the shard's time.
    pub handler_time: Rc<Budget>,
    /// Its requests that wait for that.
    pub(super) waiting: Rc<Ties>,
    /// Its stand-in addresses.
    pub names: Rc<RefCell<SyntheticMap>>,
    pub(super) responder: RefCell<Responder>,
    pub(super) ties: Rc<Ties>,
    pub(super) terminator: RefCell<Option<Rc<Terminator>>>,
    pub(super) renewal_offered: Cell<Option<Instant>>,
    /// Its rules, where the tables in force were asked for them.
    pub(super) rules: RefCell<Option<Rc<Lent<Rules>>>>,
}

impl Resident {
    pub(super) fn new(id: SandboxId, names: SyntheticMap, windows: &Rc<Allowance>) -> Self {
        let names = Rc::new(RefCell::new(names));
        Self {
            id,
            share: Ring::current().share(),
            open: Rc::default(),
            client_windows: Allowance::of(windows, H2_SANDBOX_WINDOWS),
            upstream_windows: Allowance::of(windows, H2_SANDBOX_WINDOWS),
            kept: Room::new("the sandbox", HANDLER_KEPT_SANDBOX_BYTES_MAX),
            handler_time: Rc::default(),
            waiting: Rc::default(),
            responder: RefCell::new(Responder::new(Rc::clone(&names), Ring::current().now())),
            names,
            ties: Rc::default(),
            terminator: RefCell::new(None),
            renewal_offered: Cell::default(),
            rules: RefCell::default(),
        }
    }

    /// How many requests it may have under way at once: one for each of its connections, and over HTTP/2 as many as it
    /// had of late.
    pub fn requests_at_once(&self) -> usize {
        self.ties.len().max(self.open.most())
    }
}

/// What all shards share, held once by one of them and counted there: a count that all of them write is dear.
#[derive(Default)]
pub struct Lent<T>(pub(super) Arc<T>);

impl<T> Deref for Lent<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
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
