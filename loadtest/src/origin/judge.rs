//! What the origin thinks of each request: is it what a gateway should have let through, with the right credential, in
//! the right place and nowhere else?

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
        mpsc::{Receiver, SyncSender, sync_channel},
    },
};

use crate::names::{Asked, BARE, CREDENTIAL, parse_credential};

/// What the origin has seen, and what was wrong with it.
#[derive(Debug, Default)]
pub struct Counts {
    /// Complete requests.
    pub requests: AtomicU64,
    /// Connections that came.
    pub connections: AtomicU64,
    /// Requests whose path is none of ours.
    pub strange: AtomicU64,
    /// Requests without the credential that is due.
    pub missing: AtomicU64,
    /// Credentials in a wrong place: another field, the target, a host that is due none; or proxy credentials.
    pub misplaced: AtomicU64,
    /// Credentials of another group, or twice.
    pub foreign: AtomicU64,
    /// Bodies that are not what was sent.
    pub corrupted: AtomicU64,
    /// Requests of a sandbox that came although a change that forbids them was *applied* before.
    pub after_denied: AtomicU64,
    /// Credentials that came although a newer value of the secret was *applied* before.
    pub after_rotated: AtomicU64,
}

impl Counts {
    /// Every fault by its name, with how often it was seen.
    pub fn faults(&self) -> [(&'static str, u64); 7] {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        [
            ("strange", read(&self.strange)),
            ("missing", read(&self.missing)),
            ("misplaced", read(&self.misplaced)),
            ("foreign", read(&self.foreign)),
            ("corrupted", read(&self.corrupted)),
            ("afterAppliedDenied", read(&self.after_denied)),
            ("afterAppliedRotated", read(&self.after_rotated)),
        ]
    }
}

/// What is due from now on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Nothing of this sandbox may come.
    Close(u32),
    /// Requests of this sandbox may come again.
    Open(u32),
    /// Credentials of this group are at least of this version.
    Least {
        /// The group.
        group: u32,
        /// The version.
        version: u32,
    },
}

/// Decides about requests. Orders are given from other threads.
#[derive(Debug, Default)]
pub struct Judge {
    /// What was seen.
    pub counts: Counts,
    /// Whether a credential is due at all.
    credentials: bool,
    /// Milliseconds before the origin begins a handshake: how far away it plays to be.
    pub handshake_millis: AtomicU64,
    orders: Mutex<Vec<(Order, SyncSender<()>)>>,
}

/// The state of one origin's loop: orders that hold.
#[derive(Debug, Default)]
pub struct Bench {
    closed: HashSet<u32>,
    least: HashMap<u32, u32>,
    /// Orders with the turns that must end before they hold.
    pending: Vec<(Order, SyncSender<()>, u32)>,
}

/// Turns of the origin that end before an order holds: in the first, connections that were waiting are accepted, in the
/// second what had come on them is read.
const TURNS: u32 = 2;

impl Judge {
    /// Of requests that need a credential, or may come without.
    pub fn new(credentials: bool) -> Self {
        Self { credentials, ..Self::default() }
    }

    /// Gives an order. What it answers says when the order holds: every byte that came before is judged by then, so
    /// nothing that was on its way counts as late. Until then it does not hold, so something that is late may be missed.
    pub fn order(&self, order: Order) -> Receiver<()> {
        let (done, wait) = sync_channel(1);
        self.orders.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).push((order, done));
        wait
    }

    /// Before the origin asks the kernel what is ready: orders given until now hold when all of that is read.
    pub fn turn_begins(&self, bench: &mut Bench) {
        let mut orders = self.orders.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        bench.pending.extend(orders.drain(..).map(|(order, done)| (order, done, TURNS)));
    }

    /// After a turn in which everything that was ready was read.
    pub fn turn_ends(&self, bench: &mut Bench) {
        bench.pending.iter_mut().for_each(|(.., turns)| *turns -= 1);
        // They came in their order, so those that hold are the first.
        let holds = bench.pending.iter().take_while(|(.., turns)| *turns == 0).count();
        for (order, done, _) in bench.pending.drain(..holds) {
            match order {
                Order::Close(sandbox) => _ = bench.closed.insert(sandbox),
                Order::Open(sandbox) => _ = bench.closed.remove(&sandbox),
                Order::Least { group, version } => _ = bench.least.insert(group, version),
            }
            // Whoever ordered may not wait.
            let _heard = done.try_send(());
        }
    }

    /// Judges one head.
    pub fn head<'f>(
        &self,
        bench: &Bench,
        target: &[u8],
        host: &[u8],
        fields: impl Iterator<Item = (&'f [u8], &'f [u8])>,
    ) -> Option<Asked> {
        let add = |count: &AtomicU64| _ = count.fetch_add(1, Ordering::Relaxed);
        let Some(asked) = Asked::parse(target) else {
            add(&self.counts.strange);
            return None;
        };
        if bench.closed.contains(&asked.sandbox) {
            add(&self.counts.after_denied);
        }
        let is_bare = host.starts_with(BARE.as_bytes());
        let mut found = 0;
        for (name, value) in fields {
            if name.eq_ignore_ascii_case(b"proxy-authorization") {
                add(&self.counts.misplaced);
            } else if let Some(at) = find(value, CREDENTIAL.as_bytes()) {
                let is_place = name.eq_ignore_ascii_case(b"authorization") && value[..at] == *b"Bearer ";
                if !is_place || is_bare {
                    add(&self.counts.misplaced);
                    continue;
                }
                found += 1;
                self.credential(bench, asked, &value[at..]);
            }
        }
        match found {
            0 if self.credentials && !is_bare => add(&self.counts.missing),
            0 | 1 => {}
            _ => add(&self.counts.foreign),
        }
        Some(asked)
    }

    fn credential(&self, bench: &Bench, asked: Asked, value: &[u8]) {
        match parse_credential(value) {
            Some((group, version)) if group == asked.group() => {
                if bench.least.get(&group).is_some_and(|least| version < *least) {
                    self.counts.after_rotated.fetch_add(1, Ordering::Relaxed);
                }
            }
            _ => _ = self.counts.foreign.fetch_add(1, Ordering::Relaxed),
        }
    }
}

fn find(text: &[u8], word: &[u8]) -> Option<usize> {
    text.windows(word.len()).position(|piece| piece == word)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::names::credential;

    const PATH: &[u8] = b"/l/5/400/00000001";

    fn judged(bench: &Bench, target: &[u8], host: &str, fields: &[(&str, &str)]) -> Vec<(&'static str, u64)> {
        let judge = Judge::new(true);
        let fields = fields.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes()));
        judge.head(bench, target, host.as_bytes(), fields);
        judge.counts.faults().into_iter().filter(|(_, count)| *count > 0).collect()
    }

    #[test]
    fn every_way_to_carry_a_credential_wrongly_has_its_count() {
        let (bench, due) = (Bench::default(), format!("Bearer {}", credential(1, 0)));
        let other = format!("Bearer {}", credential(2, 0));
        let zone = "h0.origin.test";
        assert_eq!(judged(&bench, PATH, zone, &[("Authorization", &due)]), []);
        assert_eq!(judged(&bench, PATH, zone, &[]), [("missing", 1)]);
        assert_eq!(judged(&bench, PATH, zone, &[("authorization", &other)]), [("foreign", 1)]);
        assert_eq!(
            judged(&bench, PATH, zone, &[("authorization", &due), ("authorization", &due)]),
            [("foreign", 1)]
        );
        let twice = [("authorization", due.as_str()), ("x-token", due.as_str())];
        assert_eq!(judged(&bench, PATH, zone, &twice), [("misplaced", 1)]);
        assert_eq!(judged(&bench, PATH, BARE, &[("authorization", &due)]), [("misplaced", 1)]);
        assert_eq!(judged(&bench, PATH, BARE, &[]), []);
        let proxy = [("authorization", due.as_str()), ("Proxy-Authorization", "Basic eDp5")];
        assert_eq!(judged(&bench, PATH, zone, &proxy), [("misplaced", 1)]);
        assert_eq!(judged(&bench, b"/other", zone, &[("authorization", &due)]), [("strange", 1)]);
    }

    fn turn(judge: &Judge, bench: &mut Bench) {
        judge.turn_begins(bench);
        judge.turn_ends(bench);
    }

    #[test]
    fn orders_hold_after_two_turns_that_began_after_them() {
        let (judge, mut bench) = (Judge::default(), Bench::default());
        let due = format!("Bearer {}", credential(1, 3));
        let fields = [("authorization", due.as_str())];
        judge.turn_begins(&mut bench);
        let closed = judge.order(Order::Close(5));
        judge.turn_ends(&mut bench);
        assert!(closed.try_recv().is_err(), "what was on its way is not late");
        turn(&judge, &mut bench);
        assert!(closed.try_recv().is_err(), "nor is what came on a connection that was accepted then");
        turn(&judge, &mut bench);
        assert!(closed.try_recv().is_ok());
        assert_eq!(judged(&bench, PATH, "h0.origin.test", &fields), [("afterAppliedDenied", 1)]);
        for order in [Order::Open(5), Order::Least { group: 1, version: 4 }] {
            let held = judge.order(order);
            (0..TURNS).for_each(|_| turn(&judge, &mut bench));
            held.recv().unwrap();
        }
        assert_eq!(
            judged(&bench, PATH, "h0.origin.test", &fields),
            [("afterAppliedRotated", 1)],
            "an old version"
        );
    }
}
