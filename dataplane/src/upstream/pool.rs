//! Idle connections to upstreams that may be used again, each only by the sandbox that opened it.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Instant;

use foldhash::fast::RandomState;

use crate::http::{Host, Scheme};
use crate::identity::SandboxId;
use crate::inject::{Mark, Means};
use crate::limits::{UPSTREAM_IDLE_MAX, UPSTREAM_IDLE_SHARE, UPSTREAM_IDLE_TIME};
use crate::policy::{AddressPolicy, Permit, Way};
use crate::ring::Ring;
use crate::tls::Wire;

/// Who may use a connection again: everything that decided where it went and how, whom it trusted and what it showed. A
/// policy or a secret that changes any of it finds none of the older connections.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    sandbox: SandboxId,
    scheme: Scheme,
    host: Host,
    port: u16,
    addresses: AddressPolicy,
    roots: Option<[u8; 32]>,
    /// Rare and large: the key of every other request does not hold it.
    made: Option<Box<Made>>,
}

/// How the connections of a key were made, where they are not made as most are.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Made {
    way: Option<Way>,
    certificate: Option<Mark>,
    login: Option<Mark>,
}

impl Key {
    /// Whose connections they are.
    pub fn sandbox(&self) -> &SandboxId {
        &self.sandbox
    }

    /// What was shown on its connections.
    pub fn marks(&self) -> impl Iterator<Item = &Mark> {
        self.made.iter().flat_map(|made| made.certificate.iter().chain(&made.login))
    }

    /// The key of a permit's connections that are made with these means.
    pub fn of(permit: &Permit, means: &Means) -> Self {
        let made = || Made {
            way: permit.way().cloned(),
            certificate: means.certificate().map(|certificate| certificate.mark().clone()),
            login: means.login().map(|login| login.mark().clone()),
        };
        let unusual = permit.way().is_some() || means.certificate().is_some();
        Self {
            sandbox: permit.sandbox().clone(),
            scheme: permit.scheme(),
            host: permit.host().clone(),
            port: permit.port(),
            addresses: permit.addresses().clone(),
            roots: permit.roots().map(|roots| *roots.key()),
            made: unusual.then(|| Box::new(made())),
        }
    }
}

/// The idle connections of one shard, bounded in number, in number per sandbox, and in time.
#[derive(Default)]
pub struct Pool(RefCell<Idle>);

/// A connection's number: later ones are larger, so the smallest is the one that is idle longest.
type Number = u64;

#[derive(Default)]
struct Idle {
    put: Number,
    connections: BTreeMap<Number, Connection>,
    /// In order. Lists that are empty stay until the next sweep: one that is used again costs no allocation.
    by_key: HashMap<Rc<Key>, Vec<Number>, RandomState>,
    /// The same.
    by_sandbox: HashMap<SandboxId, VecDeque<Number>, RandomState>,
}

struct Connection {
    key: Rc<Key>,
    wire: Rc<Wire>,
    /// Where it leads, for the records of those who use it again.
    address: SocketAddr,
    since: Instant,
}

impl Pool {
    /// A connection for this key and where it leads, the one used last: it is the likeliest to live. Never one on which
    /// anything came since, an end included: an answer that nobody asked for would be taken for the next one. The peer
    /// may still close it at this moment, so a request that was not answered at all may have to be sent again.
    pub fn take(&self, key: &Key) -> Option<(Rc<Wire>, SocketAddr)> {
        self.take_at(key, Ring::current().now())
    }

    /// The same for a request that must not be sent twice: the kernel is asked too. A receive that was armed in this
    /// turn has told nothing yet, and under load a request follows the one before within a turn.
    pub fn take_proven(&self, key: &Key) -> Option<(Rc<Wire>, SocketAddr)> {
        std::iter::from_fn(|| self.take(key)).find(|(wire, _)| wire.is_quiet_now())
    }

    /// Keeps a connection whose last exchange ended, and begins to listen on it. One that is not quiet, or that
    /// somebody else still holds, is dropped instead. A sandbox keeps as many as it sends requests `at_once`, and never
    /// less than [`UPSTREAM_IDLE_SHARE`]. Where that is reached, its oldest goes; where the shard's bound is, the
    /// oldest of a sandbox that has more than its share goes before those of others.
    pub fn put(&self, key: &Key, connection: (Rc<Wire>, SocketAddr), at_once: usize) {
        self.put_at(key, connection, at_once, Ring::current().now());
    }

    /// Drops what is idle for [`UPSTREAM_IDLE_TIME`] and what did not stay quiet. To be called now and then: a
    /// connection that its upstream closed holds its descriptor until then.
    pub fn sweep(&self, now: Instant) {
        let mut idle = self.0.borrow_mut();
        let dead = |(number, held): (&Number, &Connection)| (!held.is_usable(now)).then_some(*number);
        let numbers: Vec<Number> = idle.connections.iter().filter_map(dead).collect();
        let removed: Vec<_> = numbers.into_iter().filter_map(|number| idle.remove(number)).collect();
        idle.by_key.retain(|_, numbers| !numbers.is_empty());
        idle.by_sandbox.retain(|_, numbers| !numbers.is_empty());
        drop(idle);
        drop(removed);
    }

    /// Drops the connections of a sandbox that is gone.
    pub fn forget(&self, sandbox: &SandboxId) {
        let mut idle = self.0.borrow_mut();
        let numbers = idle.by_sandbox.remove(sandbox).unwrap_or_default();
        let removed: Vec<_> = numbers.into_iter().filter_map(|number| idle.remove(number)).collect();
        drop(idle);
        drop(removed);
    }

    /// Drops the connections on which something was shown that is no longer in force.
    pub fn forget_marks(&self, in_force: impl Fn(&Mark) -> bool) {
        let mut idle = self.0.borrow_mut();
        let stale = |key: &Key| !key.marks().all(&in_force);
        let keys = idle.by_key.iter().filter(|(key, _)| stale(key));
        let numbers: Vec<Number> = keys.flat_map(|(_, numbers)| numbers.iter().copied()).collect();
        let removed: Vec<_> = numbers.into_iter().filter_map(|number| idle.remove(number)).collect();
        drop(idle);
        drop(removed);
    }

    /// Drops all connections: the shard ends.
    pub fn clear(&self) {
        drop(self.0.take());
    }

    /// How many connections are kept.
    pub fn len(&self) -> usize {
        self.0.borrow().connections.len()
    }

    /// Whether none is kept.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn take_at(&self, key: &Key, now: Instant) -> Option<(Rc<Wire>, SocketAddr)> {
        loop {
            let mut idle = self.0.borrow_mut();
            let number = *idle.by_key.get(key)?.last()?;
            let connection = idle.remove(number)?;
            drop(idle);
            if connection.is_usable(now) {
                return Some((connection.wire, connection.address));
            }
        }
    }

    fn put_at(&self, key: &Key, (wire, address): (Rc<Wire>, SocketAddr), at_once: usize, now: Instant) {
        wire.arm();
        if Rc::strong_count(&wire) != 1 || !wire.is_quiet() {
            return;
        }
        let mut idle = self.0.borrow_mut();
        let full = idle.connections.len() >= UPSTREAM_IDLE_MAX;
        let bound = if full { UPSTREAM_IDLE_SHARE } else { at_once.max(UPSTREAM_IDLE_SHARE) };
        let own = idle.by_sandbox.get(&key.sandbox).filter(|numbers| numbers.len() >= bound);
        let oldest = match own.and_then(VecDeque::front) {
            None if full => idle.connections.keys().next().copied(),
            own => own.copied(),
        };
        let removed = oldest.and_then(|number| idle.remove(number));
        idle.insert(key, (wire, address), now);
        drop(idle);
        drop(removed);
    }
}

impl Connection {
    fn is_usable(&self, now: Instant) -> bool {
        self.wire.is_quiet() && now.saturating_duration_since(self.since) < UPSTREAM_IDLE_TIME
    }
}

impl Idle {
    fn insert(&mut self, key: &Key, (wire, address): (Rc<Wire>, SocketAddr), since: Instant) {
        self.put += 1;
        let number = self.put;
        let key = match self.by_key.get_key_value(key) {
            Some((same, _)) => same.clone(),
            None => Rc::new(key.clone()),
        };
        match self.by_sandbox.get_mut(&key.sandbox) {
            Some(numbers) => numbers.push_back(number),
            None => drop(self.by_sandbox.insert(key.sandbox.clone(), VecDeque::from([number]))),
        }
        self.by_key.entry(key.clone()).or_default().push(number);
        self.connections.insert(number, Connection { key, wire, address, since });
    }

    /// Takes a connection out of all tables.
    fn remove(&mut self, number: Number) -> Option<Connection> {
        let connection = self.connections.remove(&number)?;
        let key = &*connection.key;
        if let Some(numbers) = self.by_key.get_mut(key)
            && let Ok(place) = numbers.binary_search(&number)
        {
            numbers.remove(place);
            if numbers.is_empty() && self.by_key.len() > UPSTREAM_IDLE_MAX {
                self.by_key.remove(key);
            }
        }
        if let Some(numbers) = self.by_sandbox.get_mut(&key.sandbox)
            && let Ok(place) = numbers.binary_search(&number)
        {
            numbers.remove(place);
            if numbers.is_empty() && self.by_sandbox.len() > UPSTREAM_IDLE_MAX {
                self.by_sandbox.remove(&key.sandbox);
            }
        }
        Some(connection)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::{Asked, Decision, Rules, decide};
    use crate::ring::testing::{on_shard, pair};

    fn key(sandbox: &str, host: &str) -> Key {
        let document = serde_json::from_str(r#"{"enable_internet": true}"#)
            .or_else(|_| serde_json::from_str(r#"{"enableInternet": true}"#))
            .unwrap();
        let rules = Rules::compile(&document, &Default::default()).unwrap();
        let host = Host::parse(host).unwrap();
        let asked = Asked {
            method: "GET",
            scheme: Scheme::Http,
            host: &host,
            port: 80,
            path: b"/",
            upgrade: None,
            name_proven: true,
        };
        match decide(&rules, &SandboxId::new(sandbox).unwrap(), &asked) {
            Decision::Allow(permit) => Key::of(&permit, &Means::default()),
            refused => panic!("{refused:?}"),
        }
    }

    fn idle(wire: Wire) -> (Rc<Wire>, SocketAddr) {
        (Rc::new(wire), "192.0.2.1:443".parse().unwrap())
    }

    #[test]
    fn a_connection_is_used_again_by_its_own_key_only_and_only_while_quiet() {
        on_shard(|| async {
            let (pool, own) = (Pool::default(), key("box-1", "a.example"));
            let (client, server) = pair().await;
            pool.put(&own, idle(Wire::Plain(client)), 1);
            assert!(pool.take(&key("box-2", "a.example")).is_none());
            assert!(pool.take(&key("box-1", "b.example")).is_none());
            let found = pool.take(&own).expect("quiet");
            assert!(pool.is_empty());
            assert_eq!(found.1.to_string(), "192.0.2.1:443");
            pool.put(&own, found.clone(), 1);
            assert!(pool.is_empty(), "somebody else still holds it");
            let seen = Rc::downgrade(&found.0);
            pool.put(&own, found, 1);
            server.send(b"unasked").await.unwrap();
            while seen.upgrade().is_some_and(|wire| wire.is_quiet()) {
                crate::ring::yield_now().await;
            }
            assert!(pool.take(&own).is_none() && pool.is_empty());
        });
    }

    #[test]
    fn idle_connections_are_bounded_in_time_and_per_sandbox() {
        on_shard(|| async {
            let (pool, own, now) = (Pool::default(), key("box-1", "a.example"), Instant::now());
            let mut ends = Vec::new();
            for _ in 0..UPSTREAM_IDLE_SHARE + 3 {
                let (client, server) = pair().await;
                ends.push(server);
                pool.put_at(&own, idle(Wire::Plain(client)), 1, now);
            }
            assert_eq!(pool.len(), UPSTREAM_IDLE_SHARE);
            let (client, server) = pair().await;
            ends.push(server);
            pool.put_at(&own, idle(Wire::Plain(client)), UPSTREAM_IDLE_SHARE + 9, now);
            assert_eq!(pool.len(), UPSTREAM_IDLE_SHARE + 1, "it has as many connections open itself");
            pool.put_at(&own, pool.take_at(&own, now).expect("quiet"), 1, now);
            pool.sweep(now);
            assert_eq!(pool.len(), UPSTREAM_IDLE_SHARE);
            assert!(pool.take_at(&own, now + UPSTREAM_IDLE_TIME).is_none());
            pool.sweep(now);
            assert!(pool.is_empty() && pool.0.borrow().by_sandbox.is_empty());
            assert!(pool.0.borrow().by_key.is_empty());
        });
    }
}
