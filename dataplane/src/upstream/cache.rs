//! What name servers said, for as long as they said it holds.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use super::resolve::Failure;
use crate::limits::{FAILURE_TTL, NAME_CACHE_MAX, NEGATIVE_TTL_MAX, POSITIVE_TTL_MAX, POSITIVE_TTL_MIN};

/// What is known of a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Known {
    /// It has these addresses.
    Addresses(Rc<[IpAddr]>),
    /// There is no such name.
    NoSuchName,
    /// The name exists and has no address.
    NoAddress,
    /// No server gave a usable answer; how the last try ended.
    Unanswered(Failure),
}

/// A bounded memory of names: the oldest entry goes when it is full.
#[derive(Debug, Default)]
pub struct Cache {
    entries: HashMap<Rc<str>, Entry>,
    /// In the order written; an entry that was written anew appears again, and its older mark is passed over.
    order: VecDeque<(Rc<str>, u64)>,
    writes: u64,
}

#[derive(Debug)]
struct Entry {
    known: Known,
    until: Instant,
    write: u64,
}

impl Cache {
    /// What is known of a name now.
    #[must_use]
    pub fn find(&self, name: &str, now: Instant) -> Option<Known> {
        self.entries.get(name).filter(|entry| now < entry.until).map(|entry| entry.known.clone())
    }

    /// Remembers an answer for its time to live, clamped by `limits`.
    pub fn remember(&mut self, name: &str, known: Known, ttl: Duration, now: Instant) {
        let ttl = match known {
            Known::Addresses(_) => ttl.clamp(POSITIVE_TTL_MIN, POSITIVE_TTL_MAX),
            Known::NoSuchName | Known::NoAddress => ttl.min(NEGATIVE_TTL_MAX),
            Known::Unanswered(_) => FAILURE_TTL,
        };
        let name: Rc<str> = name.into();
        self.writes += 1;
        let write = self.writes;
        self.order.push_back((name.clone(), write));
        self.entries.insert(name, Entry { known, until: now + ttl, write });
        // Marks of rewritten entries are bounded too: the queue never holds twice the entries.
        while self.entries.len() > NAME_CACHE_MAX || self.order.len() > 2 * NAME_CACHE_MAX {
            let Some((oldest, write)) = self.order.pop_front() else { break };
            if self.entries.get(&oldest).is_some_and(|entry| entry.write == write) {
                self.entries.remove(&oldest);
            }
        }
    }

    /// How many names are remembered, ended ones included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether nothing is remembered.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn some(address: &str) -> Known {
        Known::Addresses(Rc::from([address.parse().unwrap()]))
    }

    #[test]
    fn an_answer_holds_for_its_time_and_not_longer() {
        let (mut cache, now) = (Cache::default(), Instant::now());
        cache.remember("a", some("1.1.1.1"), Duration::from_secs(30), now);
        assert_eq!(cache.find("a", now + Duration::from_secs(29)), Some(some("1.1.1.1")));
        assert_eq!(cache.find("a", now + Duration::from_secs(30)), None);
        assert_eq!(cache.find("b", now), None);
    }

    #[test]
    fn times_to_live_are_clamped() {
        let (mut cache, now) = (Cache::default(), Instant::now());
        let year = Duration::from_secs(365 * 86_400);
        cache.remember("long", some("1.1.1.1"), year, now);
        cache.remember("zero", some("1.1.1.1"), Duration::ZERO, now);
        cache.remember("none", Known::NoSuchName, year, now);
        cache.remember("dead", Known::Unanswered(Failure::TimedOut), year, now);
        assert_eq!(cache.find("long", now + POSITIVE_TTL_MAX), None);
        assert!(cache.find("zero", now).is_some());
        assert_eq!(cache.find("zero", now + POSITIVE_TTL_MIN), None);
        assert_eq!(cache.find("none", now), Some(Known::NoSuchName));
        assert_eq!(cache.find("none", now + NEGATIVE_TTL_MAX), None);
        assert!(cache.find("dead", now).is_some());
        assert_eq!(cache.find("dead", now + FAILURE_TTL), None);
    }

    #[test]
    fn the_memory_is_bounded_in_names_and_in_rewrites() {
        let (mut cache, now) = (Cache::default(), Instant::now());
        for number in 0..NAME_CACHE_MAX * 2 {
            cache.remember(&number.to_string(), Known::NoSuchName, Duration::from_secs(9), now);
        }
        assert_eq!(cache.len(), NAME_CACHE_MAX);
        assert_eq!(cache.find("0", now), None);
        for _ in 0..NAME_CACHE_MAX * 3 {
            cache.remember("same", Known::NoSuchName, Duration::from_secs(9), now);
        }
        assert!(cache.order.len() <= 2 * NAME_CACHE_MAX && cache.find("same", now).is_some());
    }
}
