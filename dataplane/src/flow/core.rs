//! What the path needs of its shard, and what the shard keeps for each sandbox whose home it is.

use std::{
    cell::{Cell, Ref, RefCell},
    collections::HashMap,
    hash::{BuildHasher, RandomState},
    os::fd::OwnedFd,
    rc::Rc,
    sync::Arc,
    time::{Duration, SystemTime},
};

use super::{
    bell::Bell,
    connection::Way,
    resident::{Admission, Lent, Resident},
};
use crate::{
    approval::{AskControl, Desk},
    audit::Audit,
    clock::{BootTime, Lease},
    handler::Host as Guests,
    http::h2::Allowance,
    identity::{Attachments, SandboxId},
    inject::Mark,
    limits::{AUTHORITY_TIME, CA_DAYS, H2_SHARD_WINDOWS, RENEWAL_OFFER_PAUSE, SANDBOX_CONNECTIONS_MAX},
    listen::{dns, synthetic::SyntheticMap},
    policy::Rules,
    respond::{Blame, Refusal},
    ring::{Ring, Scope, timeout},
    snapshot::{Concerned, Tables},
    tls::{Authority, PoolMaster, SandboxSalt, Terminator, UpstreamTls},
    upstream::{Pool, Resolver, RingTransport, SharedPool, forget_certificates},
};

/// A connection on its way to the shard where its sandbox lives.
pub struct HandOver {
    /// The shard.
    pub home: usize,
    /// The connection.
    pub socket: OwnedFd,
    /// What was read from it.
    pub bytes: Vec<u8>,
    /// How it came.
    pub way: Way,
}

/// Hands control the certificate of a sandbox's authority. False when it cannot be said now.
pub type OfferCertificate = Box<dyn Fn(&str, Vec<u8>) -> bool + Send + Sync>;

/// What a plane's shards have in common. Read only, or atomic.
pub struct Common {
    /// Number of shards.
    pub shards: usize,
    /// The same for every shard, so that all agree where a sandbox lives.
    pub hasher: RandomState,
    /// The pool's master key.
    pub master: Arc<PoolMaster>,
    /// The policy lease.
    pub lease: Arc<Lease>,
    /// Where records go.
    pub audit: Audit,
    /// The system's roots in PEM form, for `bundle.pem`.
    pub system_roots: String,
    /// Hands control the certificate of a sandbox's authority. False when it cannot be said now.
    pub offer_certificate: OfferCertificate,
    /// Hands a question to control.
    pub ask: AskControl,
    /// Hands a connection to its home. Gives it back when that shard takes no more.
    pub hand_over: Box<dyn Fn(HandOver) -> Result<(), HandOver> + Send + Sync>,
}

/// The shard where a sandbox lives. Every shard and everyone who asks one takes the same hasher.
pub fn home_of(hasher: &RandomState, shards: usize, sandbox: &SandboxId) -> usize {
    let hash = hasher.hash_one(sandbox.as_str());
    usize::try_from(hash % shards as u64).unwrap_or(0)
}

/// One shard, as the path sees it.
pub struct Core {
    /// Which one.
    pub index: usize,
    /// What it shares with the others.
    pub common: Arc<Common>,
    /// Names to addresses.
    pub resolver: Resolver<RingTransport>,
    /// Idle connections to upstreams.
    pub pool: Pool,
    /// Connections to upstreams that requests share.
    pub shared: SharedPool,
    /// What all peers of HTTP/2 may send before it was sent on.
    pub windows: Rc<Allowance>,
    /// What drives those connections, and looks up names.
    pub drivers: Scope,
    /// Settings of the leg to upstreams.
    pub upstream_tls: UpstreamTls,
    /// The handler host.
    pub guests: Rc<RefCell<Guests>>,
    /// Requests that wait for a person.
    pub desk: Rc<Desk>,
    tables: RefCell<Rc<Lent<Tables>>>,
    attachments: RefCell<Arc<Attachments>>,
    /// How often attachments have changed.
    pub(super) attached: Cell<u64>,
    residents: RefCell<HashMap<SandboxId, Rc<Resident>, foldhash::fast::RandomState>>,
    /// How often other tables came into force.
    applied: Cell<u64>,
    bell: Bell,
}

impl Core {
    /// A shard that denies everything until its first snapshot.
    pub fn new(
        index: usize,
        common: Arc<Common>,
        resolver: Resolver<RingTransport>,
        upstream_tls: UpstreamTls,
        guests: Guests,
    ) -> Self {
        Self {
            index,
            desk: Desk::new(index, common.shards),
            common,
            resolver,
            pool: Pool::default(),
            shared: SharedPool::default(),
            windows: Allowance::new(H2_SHARD_WINDOWS),
            drivers: Scope::default(),
            upstream_tls,
            guests: Rc::new(RefCell::new(guests)),
            tables: RefCell::default(),
            attachments: RefCell::default(),
            attached: Cell::default(),
            residents: RefCell::default(),
            applied: Cell::default(),
            bell: Bell::default(),
        }
    }

    /// The tables that are in force now.
    pub fn tables(&self) -> Rc<Lent<Tables>> {
        Rc::clone(&self.tables.borrow())
    }

    /// How often other tables came into force: while it is the same, so is what they say.
    pub fn applied(&self) -> u64 {
        self.applied.get()
    }

    /// The attachments that are in force now.
    pub fn attachments(&self) -> Ref<'_, Attachments> {
        Ref::map(self.attachments.borrow(), Arc::as_ref)
    }

    /// Takes other attachments, and counts that.
    pub fn attach(&self, attachments: Arc<Attachments>) {
        self.attachments.replace(attachments);
        self.attached.set(self.attached.get() + 1);
    }

    /// The shard where a sandbox lives.
    pub fn home_of(&self, sandbox: &SandboxId) -> usize {
        home_of(&self.common.hasher, self.common.shards, sandbox)
    }

    /// Takes a revision, and cuts what it no longer allows. When this returns, nothing more is forwarded that the
    /// revision refuses. Returns the tables before, to be dropped elsewhere.
    pub fn apply(&self, tables: Arc<Tables>, concerned: &Concerned) -> Arc<Tables> {
        let before = self.tables.replace(Rc::new(Lent(Arc::clone(&tables))));
        self.applied.set(self.applied.get() + 1);
        let mut waiting = Vec::new();
        self.residents.borrow_mut().retain(|sandbox, resident| {
            resident.rules.take();
            let row = tables.sandboxes.get(sandbox.as_str());
            if concerned.concerns(&tables, sandbox) {
                let rules = tables.rules(sandbox);
                resident.open.cut_unless(|judged| match (&rules, row) {
                    (Some(rules), Some(row)) => judged.stays(rules, row),
                    _ => false,
                });
                waiting.extend((self.desk.parked() > 0).then(|| sandbox.clone()));
            }
            row.is_some() || !resident.ties.is_empty()
        });
        if concerned.everyone {
            // A secret may be another one now: what was shown of it before is shown no more.
            let in_force = |mark: &Mark| tables.secret(mark.secret()).is_some_and(|secret| secret.is(mark));
            self.pool.forget_marks(in_force);
            self.shared.forget_marks(in_force);
            forget_certificates(in_force);
        }
        waiting.iter().for_each(|sandbox| self.desk.reconsider(sandbox));
        self.bell.ring();
        Arc::clone(&before.0)
    }

    /// What is kept for a sandbox that is in the tables.
    fn resident(&self, sandbox: &SandboxId) -> Result<Rc<Resident>, Refusal> {
        let tables = self.tables.borrow();
        if tables.sandboxes.get(sandbox.as_str()).is_none() {
            return Err(unknown(&tables, sandbox));
        }
        let mut residents = self.residents.borrow_mut();
        let resident = residents.entry(sandbox.clone()).or_insert_with(|| {
            // Numbers begin elsewhere in each process: what a client remembers of the plane before means nothing now.
            let seed = self.common.hasher.hash_one(("names", sandbox.as_str()));
            Rc::new(Resident::new(sandbox.clone(), SyntheticMap::starting_at(seed), &self.windows))
        });
        Ok(Rc::clone(resident))
    }

    /// Counts a connection of a sandbox in.
    ///
    /// # Errors
    /// When the sandbox is not in the tables, or has too many connections.
    pub fn admit(&self, sandbox: &SandboxId) -> Result<Admission, Refusal> {
        let resident = self.resident(sandbox)?;
        if resident.ties.len() >= SANDBOX_CONNECTIONS_MAX {
            let detail = format!("the sandbox has {SANDBOX_CONNECTIONS_MAX} connections open already");
            let remedy = "close connections that are not used";
            return Err(Refusal::new(503, "too_many_connections", Blame::Sandbox, &detail, remedy));
        }
        Ok(Admission { tie: resident.ties.tie(), resident })
    }

    /// Drops what is idle for too long and what nobody holds any more. To be called now and then.
    pub fn sweep(&self) {
        let now = Ring::current().now();
        self.pool.sweep(now);
        self.shared.sweep(now);
        self.guests.borrow_mut().sweep();
        self.residents.borrow().values().for_each(|resident| resident.open.forget_most());
    }

    /// The answer to a name query of a sandbox; a refusal where the sandbox is not in the tables. `None` where no
    /// answer may be given.
    pub fn answer_query(&self, sandbox: &SandboxId, message: &[u8]) -> Option<Vec<u8>> {
        match self.resident(sandbox) {
            Ok(resident) => resident.responder.borrow_mut().answer(message, Ring::current().now()),
            Err(_) => dns::refuse(message),
        }
    }

    /// Ends every connection of a sandbox that left this plane: exchanges under way are reset on both legs in this
    /// turn. Answers how many connections there were.
    pub fn detach(&self, sandbox: &SandboxId) -> usize {
        let Some(resident) = self.residents.borrow().get(sandbox).map(Rc::clone) else { return 0 };
        resident.open.cut_unless(|_| false);
        self.pool.forget(sandbox);
        self.shared.forget(sandbox);
        self.desk.detach(sandbox);
        resident.waiting.cut();
        resident.ties.cut()
    }

    /// Ends every connection of every sandbox, because the shard ends.
    pub fn cut(&self) {
        let residents: Vec<SandboxId> = self.residents.borrow().keys().cloned().collect();
        residents.iter().for_each(|sandbox| {
            self.detach(sandbox);
        });
    }

    /// The rules of a sandbox. Asked for each request and before each write, so they are looked for once for each change
    /// of the tables.
    pub fn rules(&self, resident: &Resident) -> Option<Rc<Lent<Rules>>> {
        if let Some(rules) = &*resident.rules.borrow() {
            return Some(Rc::clone(rules));
        }
        let found = Rc::new(Lent(self.tables.borrow().rules(&resident.id)?));
        resident.rules.replace(Some(Rc::clone(&found)));
        Some(found)
    }

    /// Whether a sandbox may go on as the tables in force say, control out of reach or not.
    pub fn goes_on(&self, resident: &Resident) -> bool {
        self.rules(resident).is_some_and(|rules| self.runs(rules.lease()))
    }

    fn runs(&self, lease: Option<Duration>) -> bool {
        lease.is_none_or(|length| self.common.lease.runs(length, BootTime::now()))
    }

    /// Whether policy lets a sandbox go on while control is out of reach.
    ///
    /// # Errors
    /// When it may not go on: what the sandbox is told.
    pub fn check_lease(&self, rules: &Rules) -> Result<(), Refusal> {
        let detail = "control is out of reach and the policy says to refuse then";
        let remedy = "try again when control is reachable";
        let ended = || Refusal::new(503, "lease_ended", Blame::Gateway, detail, remedy);
        self.runs(rules.lease()).then_some(()).ok_or_else(ended)
    }

    /// What opens TLS for a sandbox. The authority's certificate is made once in the fleet: where its row has none, or
    /// one that is over, one is offered to control, and what comes back in the row is used, whoever made it. In the
    /// last third of its time another is offered, and the one that is there goes on until the row holds that.
    ///
    /// # Errors
    /// When control does not store a certificate in time, or what is stored does not belong to the sandbox's key.
    pub async fn terminator(&self, resident: &Resident) -> Result<Rc<Terminator>, Refusal> {
        let waiting = async {
            let mut offered = false;
            loop {
                let rings = self.bell.rings();
                if let Some(found) = self.terminator_now(resident, &mut offered)? {
                    return Ok(found);
                }
                self.bell.after(rings).await;
            }
        };
        timeout(AUTHORITY_TIME, waiting).await.unwrap_or_else(|_| Err(authority_pending()))
    }

    fn terminator_now(
        &self,
        resident: &Resident,
        offered: &mut bool,
    ) -> Result<Option<Rc<Terminator>>, Refusal> {
        let tables = self.tables();
        let sandbox =
            tables.sandboxes.get(resident.id.as_str()).ok_or_else(|| unknown(&tables, &resident.id))?;
        let stored = sandbox.row.ca_certificate.as_deref();
        let now = SystemTime::now();
        let failed = |error: &dyn std::error::Error| {
            let remedy = "ask the operator to look at the sandbox's authority";
            Refusal::new(502, "authority_unusable", Blame::Gateway, &error.to_string(), remedy)
        };
        let salt = sandbox.row.salt;
        let kept = resident.terminator.borrow().clone();
        let made = match (kept, stored) {
            (Some(made), Some(stored)) if made.issuer().certificate() == stored => Some(made),
            (_, Some(stored)) => {
                let issuer = Authority::derive(&self.common.master, &SandboxSalt(salt))
                    .and_then(|authority| authority.with_certificate(stored.to_vec()))
                    .map_err(|error| failed(&error))?;
                // One that is over is as good as none.
                let lasts = now < issuer.not_after();
                lasts
                    .then(|| Terminator::new(issuer, now).map(Rc::new))
                    .transpose()
                    .map_err(|error| failed(&error))?
            }
            (_, None) => None,
        };
        let made = made.filter(|made| now < made.issuer().not_after());
        resident.terminator.replace(made.clone());
        match &made {
            Some(made) if made.issuer().renewal_is_due(now) => self.offer_renewal(resident, salt)?,
            Some(_) => {}
            None if std::mem::replace(offered, true) => {}
            None => self.offer(resident, salt)?,
        }
        Ok(made)
    }

    /// Offers a renewal, whose coming nobody waits for; again after a while, where control has not taken it.
    fn offer_renewal(&self, resident: &Resident, salt: [u8; 32]) -> Result<(), Refusal> {
        let now = Ring::current().now();
        if resident.renewal_offered.get().is_some_and(|offered| now < offered + RENEWAL_OFFER_PAUSE) {
            return Ok(());
        }
        resident.renewal_offered.set(Some(now));
        self.offer(resident, salt)
    }

    /// Makes a certificate for the sandbox's authority and offers it to control.
    fn offer(&self, resident: &Resident, salt: [u8; 32]) -> Result<(), Refusal> {
        let made = Authority::derive(&self.common.master, &SandboxSalt(salt)).and_then(|authority| {
            authority.issue_certificate(resident.id.as_str(), SystemTime::now(), CA_DAYS)
        });
        let der = made.map_err(|error| {
            let remedy = "ask the operator to look at the plane";
            Refusal::new(502, "authority_unusable", Blame::Gateway, &error.to_string(), remedy)
        })?;
        // Where it cannot be said now, the wait ends by its time and the next connection offers again.
        let _said = (self.common.offer_certificate)(resident.id.as_str(), der);
        Ok(())
    }
}

/// Why a sandbox whose authority has no certificate must wait.
pub fn authority_pending() -> Refusal {
    let detail = "no certificate of the sandbox's authority that is still valid is stored yet";
    let remedy = "try again when control is reachable";
    Refusal::new(503, "authority_pending", Blame::Gateway, detail, remedy)
}

/// Why a sandbox that is not in the tables is refused.
pub fn unknown(tables: &Tables, sandbox: &SandboxId) -> Refusal {
    if tables.revision == 0 {
        let detail = "the gateway has no policy yet and refuses everything";
        let remedy = "try again when control is reachable";
        return Refusal::new(503, "no_snapshot", Blame::Gateway, detail, remedy);
    }
    let detail = format!("sandbox `{sandbox}` is not known");
    Refusal::new(403, "sandbox_unknown", Blame::Policy, &detail, "ask the operator to create the sandbox")
}
