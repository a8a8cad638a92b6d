//! A shard that decides about requests and sends none.

use std::{hash::RandomState, rc::Rc, sync::Arc, time::SystemTime};

use dataplane::{
    audit::{Audit, Record},
    clock::Lease,
    flow::{
        arrived::{Accepted, Arrived, Proof},
        core::{Common, Core},
        request::{Step, prepare},
        resident::Admission,
    },
    handler::{Host as Guests, HostConfig, Watchdog},
    http::{ConnectionFacts, Host, Scheme},
    identity::SandboxId,
    respond::Refusal,
    ring::{self, RingConfig},
    snapshot::{Concerned, Tables},
    tls::{Authority, PoolMaster, SandboxSalt, UpstreamTls},
    upstream::{Resolver, RingTransport, Settings},
};

use glommio::Placement;
use rustls::RootCertStore;

use crate::heads;

/// Runs something on this thread as a shard would: with a ring, whose tasks do not run meanwhile.
///
/// # Panics
/// When the machine refuses a ring or an executor.
pub fn on_shard(run: impl FnOnce()) {
    let executor = ring::executor_builder(Placement::Unbound).make().expect("an executor");
    executor.run(async {
        let ring = ring::start(RingConfig::small()).await.expect("a ring");
        run();
        ring.close();
    });
}

/// A shard that is home of the sandbox `box-0`, which has one connection open.
pub struct Shard {
    core: Rc<Core>,
    admission: Admission,
    _watchdog: Watchdog,
}

impl Shard {
    /// A shard that enforces these tables.
    ///
    /// # Panics
    /// Outside of [`on_shard`], and when the machine refuses what a shard needs, or the tables do not hold `box-0`.
    pub fn new(tables: Tables) -> Self {
        let (audit, _writer) = Audit::start(Box::new(std::io::sink())).expect("a thread");
        let master = PoolMaster::ephemeral().expect("a master");
        let upstream_tls = UpstreamTls::new(some_root(&master)).expect("settings");
        let common = Common {
            shards: 1,
            hasher: RandomState::new(),
            master: Arc::new(master),
            lease: Arc::new(Lease::default()),
            audit,
            system_roots: String::new(),
            ask: Box::new(|_| None),
            offer_certificate: Box::new(|_, _| true),
            hand_over: Box::new(Err),
        };
        let names = Settings { name_servers: Vec::new(), hosts_file: "/dev/null".into() };
        let resolver = Resolver::new(&names, RingTransport).expect("no hosts");
        let watchdog = Watchdog::start(crate::CALL_TIME).expect("a thread");
        let guests = Guests::new(HostConfig::default(), &watchdog).expect("a handler host");
        let core = Rc::new(Core::new(0, Arc::new(common), resolver, upstream_tls, guests));
        core.apply(Arc::new(tables), &Concerned::default());
        let admission = core.admit(&SandboxId::new("box-0").expect("an id"));
        let admission = admission.unwrap_or_else(|refusal| panic!("not admitted: {refusal:?}"));
        Self { core, admission, _watchdog: watchdog }
    }

    /// What a connection says that opened TLS to this host.
    ///
    /// # Panics
    /// When it is no host.
    pub fn facts(host: &str) -> ConnectionFacts {
        ConnectionFacts {
            scheme: Scheme::Https,
            connect_target: None,
            sni: Some(Host::parse(host).expect("a host")),
            destination: Some("203.0.113.7:443".parse().expect("an address")),
            destination_name: None,
            explicit_proxy: false,
        }
    }

    /// Reads a request and decides everything about it, up to the head that would be sent.
    ///
    /// # Errors
    /// The refusal that the sandbox would be told.
    pub fn prepare(&self, bytes: &[u8], facts: &ConnectionFacts) -> Result<Step, Refusal> {
        let resident = self.admission.resident();
        let (proof, accepted) = (Proof::Connection, Accepted::default());
        let arrived = Arrived { core: &self.core, resident, facts, proof, accepted };
        prepare(&arrived, &heads::request(bytes), &[], &mut Record::default())
    }
}

/// Nothing is dialled here, so any root does.
fn some_root(master: &PoolMaster) -> RootCertStore {
    let authority = Authority::derive(master, &SandboxSalt([0; 32])).expect("an authority");
    let certificate = authority.issue_certificate("root", SystemTime::now(), 30).expect("a certificate");
    let mut roots = RootCertStore::empty();
    roots.add(certificate.into()).expect("a root");
    roots
}
