//! What one sandbox has open, so that a change of its policy can be judged on it and cut it.
//!
//! An entry lives from the decision to the end of the exchange. Cutting resets both legs in the turn in which the
//! change is applied, so nothing is forwarded after the change was acknowledged.

use std::{
    borrow::Cow,
    cell::{Cell, RefCell},
    rc::Rc,
    sync::Arc,
};

use crate::{
    approval::About,
    clock::unix_millis,
    http::{Host, Leg, Scheme},
    policy::{Asked, Decision, Permit, Route, Rules, Way, decide, decide_opaque},
    snapshot::Sandbox,
};

/// What was judged, kept for the next judgement.
#[derive(Clone, Debug)]
pub struct Judged {
    /// Method.
    pub method: Cow<'static, str>,
    /// Scheme.
    pub scheme: Scheme,
    /// Host.
    pub host: Host,
    /// Port.
    pub port: u16,
    /// Path as it was sent.
    pub path: Box<[u8]>,
    /// The protocol that it would change to, where that is not a WebSocket.
    pub upgrade: Option<Box<str>>,
    /// Whether the host was named, by the sandbox or a handler.
    pub name_proven: bool,
    /// A person has allowed this one request.
    pub approved: bool,
    /// It is TLS that is relayed unread: nobody knows method and path.
    pub opaque: bool,
    /// How its connection was to be made: it may not go on in another way.
    pub route: Option<Arc<Route>>,
    /// No credential can come back unseen: the answer is searched, or the request was given none.
    pub searched: bool,
    /// What the sandbox asked for, where a handler sent it elsewhere: both must stay allowed.
    pub before: Option<Box<Judged>>,
}

impl Judged {
    /// The same question again.
    pub fn asked(&self) -> Asked<'_> {
        Asked {
            method: &self.method,
            scheme: self.scheme,
            host: &self.host,
            port: self.port,
            path: &self.path,
            upgrade: self.upgrade.as_deref(),
            name_proven: self.name_proven,
        }
    }

    /// What a person would be asked about.
    pub fn about(&self) -> About {
        About { scheme: self.scheme, host: self.host.clone(), port: self.port }
    }

    /// What goes out in the place of what was asked for.
    pub fn instead_of(mut self, mut before: Self) -> Self {
        // Credentials are given to what goes out.
        before.searched = true;
        self.before = Some(Box::new(before));
        self
    }

    /// Keeps how the connection is made.
    pub fn going_as(&mut self, permit: &Permit) {
        self.route = permit.way().map(|way| Arc::clone(way.route()));
    }

    fn goes_as(&self, permit: &Permit) -> bool {
        self.route.as_ref() == permit.way().map(Way::route)
    }

    fn is_searched_as(&self, permit: &Permit) -> bool {
        self.searched || !permit.redacts()
    }

    /// Whether an exchange that was judged so may go on. What a person has allowed once goes on for as long as the
    /// policy would ask.
    pub fn stays(&self, rules: &Rules, row: &Sandbox) -> bool {
        if self.opaque {
            let opaque = || decide_opaque(rules, &row.id, &self.host, self.port, self.name_proven);
            return rules.leaves_closed(&self.host, self.port).is_some()
                && opaque().is_ok_and(|permit| self.goes_as(&permit));
        }
        let allowed = match judge(rules, row, &self.asked()) {
            Decision::Allow(permit) => self.goes_as(&permit) && self.is_searched_as(&permit),
            Decision::Ask(question) => {
                let permit = question.allow();
                self.approved && self.goes_as(&permit) && self.is_searched_as(&permit)
            }
            Decision::Deny(_) => false,
        };
        allowed && self.before.as_ref().is_none_or(|before| before.stays(rules, row))
    }
}

/// One exchange under way.
pub struct Entry {
    judged: Rc<Judged>,
    client: Rc<dyn Leg>,
    upstream: RefCell<Option<Rc<dyn Leg>>>,
    cut: Cell<bool>,
}

impl Entry {
    /// Joins the upstream leg. Answers false when the exchange has been cut meanwhile: nothing may be sent then.
    pub fn join(&self, upstream: Rc<dyn Leg>) -> bool {
        *self.upstream.borrow_mut() = Some(upstream);
        !self.cut.get()
    }

    /// Lets the upstream leg go, whose part is done: it may serve another exchange, and is not this one's to cut.
    pub fn part(&self) {
        self.upstream.borrow_mut().take();
    }

    /// Whether a change of policy ended it.
    pub fn is_cut(&self) -> bool {
        self.cut.get()
    }

    /// Ends it now, on both legs.
    fn cut(&self) {
        self.cut.set(true);
        self.client.reset();
        if let Some(upstream) = &*self.upstream.borrow() {
            upstream.reset();
        }
    }
}

/// All open exchanges of one sandbox.
#[derive(Default)]
pub struct Open {
    places: RefCell<Places>,
    /// The most that were open at once since the last look.
    most: Cell<usize>,
}

/// A list whose places are used again, so that entering and leaving cost the same however many are open.
#[derive(Default)]
struct Places {
    entries: Vec<Option<Rc<Entry>>>,
    free: Vec<usize>,
}

impl Open {
    /// Enters an exchange; it leaves when the returned hold is dropped.
    pub fn enter(self: &Rc<Self>, judged: Rc<Judged>, client: Rc<dyn Leg>) -> Hold {
        let entry = Rc::new(Entry { judged, client, upstream: RefCell::new(None), cut: Cell::new(false) });
        let mut places = self.places.borrow_mut();
        let place = places.free.pop().unwrap_or_else(|| {
            places.entries.push(None);
            places.entries.len() - 1
        });
        places.entries[place] = Some(Rc::clone(&entry));
        self.most.set(self.most.get().max(places.entries.len() - places.free.len()));
        Hold { open: Rc::clone(self), place, entry }
    }

    /// Cuts every exchange that does not `stay`, by what was judged. Answers how many.
    pub fn cut_unless(&self, stays: impl Fn(&Judged) -> bool) -> usize {
        let places = self.places.borrow();
        let open = places.entries.iter().flatten();
        open.filter(|entry| !entry.is_cut() && !stays(&entry.judged)).map(|entry| entry.cut()).count()
    }

    /// The most that were open at once since [`Open::forget_most`].
    pub fn most(&self) -> usize {
        self.most.get()
    }

    /// Begins to count the most anew.
    pub fn forget_most(&self) {
        self.most.set(self.len());
    }

    /// Number of open exchanges.
    pub fn len(&self) -> usize {
        let places = self.places.borrow();
        places.entries.len() - places.free.len()
    }

    /// Nothing is open.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Keeps an exchange entered.
pub struct Hold {
    open: Rc<Open>,
    place: usize,
    entry: Rc<Entry>,
}

impl std::ops::Deref for Hold {
    type Target = Entry;

    fn deref(&self) -> &Entry {
        &self.entry
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        let mut places = self.open.places.borrow_mut();
        places.entries[self.place] = None;
        places.free.push(self.place);
    }
}

/// Judges one request by the rules of a sandbox, and where these would ask, by what people have answered before.
pub(super) fn judge(rules: &Rules, row: &Sandbox, asked: &Asked<'_>) -> Decision {
    match decide(rules, &row.id, asked) {
        Decision::Ask(question) => row.answers.settle(question, asked, unix_millis()),
        decided => decided,
    }
}
