//! Stand-in addresses for names: what a sandbox dials, and the name that it meant.
//!
//! A sandbox is told an address that exists nowhere but in its own map, so no query of it leaves the node, and a
//! connection to that address says which name was meant even where the client sends none.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::rc::Rc;

use crate::limits::SYNTHETIC_NAMES_MAX;

/// The name under which the plane itself answers.
pub const SELF_NAME: &str = "outgate.internal";
/// The plane's own address, version 4.
pub const SELF_V4: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 1);
/// The plane's own address, version 6.
pub const SELF_V6: Ipv6Addr = Ipv6Addr::from_bits(PREFIX_V6 | 1);

/// 198.18.0.0/15, set aside for benchmarks (RFC 2544, RFC 6890): no public host has an address there.
const PREFIX_V4: u32 = u32::from_be_bytes([198, 18, 0, 0]);
/// A unique local prefix (RFC 4193 §3) whose 40 bits spell `outga`; the low 64 bits are the number of the name.
const PREFIX_V6: u128 = 0xfd6f_7574_6761_0000 << 64;
/// Numbers of names: 0 is the network's address and 1 is the plane's; the last one would be its broadcast.
const NUMBERS: std::ops::Range<u32> = 2..(1 << 17) - 1;

/// A pair of addresses that stands for one name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Synthetic(u32);

impl Synthetic {
    /// The address for `A` queries, within 198.18.0.0/15.
    #[must_use]
    pub fn v4(self) -> Ipv4Addr {
        Ipv4Addr::from_bits(PREFIX_V4 | self.0)
    }

    /// The address for `AAAA` queries, within one unique local /64.
    #[must_use]
    pub fn v6(self) -> Ipv6Addr {
        Ipv6Addr::from_bits(PREFIX_V6 | u128::from(self.0))
    }

    /// The number within either prefix; `None` where the address is of neither.
    fn of(address: IpAddr) -> Option<Self> {
        match address.to_canonical() {
            IpAddr::V4(v4) => {
                let bits = v4.to_bits();
                (bits >> 17 == PREFIX_V4 >> 17).then_some(Self(bits & ((1 << 17) - 1)))
            }
            IpAddr::V6(v6) => {
                let bits = v6.to_bits();
                (bits >> 64 == PREFIX_V6 >> 64).then_some(())?;
                u32::try_from(bits & u128::from(u64::MAX)).ok().map(Self)
            }
        }
    }
}

/// Whether an address lies in the ranges from which stand-ins are taken.
#[must_use]
pub fn is_synthetic(address: IpAddr) -> bool {
    Synthetic::of(address).is_some()
}

/// The names that one sandbox has asked for, each with its stand-in, the least recently used forgotten first.
///
/// Numbers are handed out in a circle through the whole range, so the address of a forgotten name comes back to
/// another only after more than a hundred thousand names: a client that still holds it reaches nothing, not a
/// stranger.
#[derive(Debug, Default)]
pub struct SyntheticMap {
    by_name: HashMap<Rc<str>, usize>,
    by_number: HashMap<u32, usize>,
    entries: Vec<Entry>,
    /// Most and least recently used entry.
    newest: Option<usize>,
    oldest: Option<usize>,
    next_number: u32,
}

#[derive(Debug)]
struct Entry {
    name: Rc<str>,
    number: u32,
    newer: Option<usize>,
    older: Option<usize>,
}

impl SyntheticMap {
    /// An empty map; memory is taken as names come.
    #[must_use]
    pub fn new() -> Self {
        Self { next_number: NUMBERS.start, ..Self::default() }
    }

    /// An empty map that begins somewhere in the range: an address that an earlier map gave out leads nowhere then,
    /// rather than to another name.
    #[must_use]
    pub fn starting_at(seed: u64) -> Self {
        let offset = u32::try_from(seed % u64::from(NUMBERS.end - NUMBERS.start)).unwrap_or_default();
        Self { next_number: NUMBERS.start + offset, ..Self::default() }
    }

    /// The stand-in of a name (lower case, without the final dot), made now where there was none.
    pub fn stand_in(&mut self, name: &str) -> Synthetic {
        if name == SELF_NAME {
            return Synthetic(1);
        }
        if let Some(&at) = self.by_name.get(name) {
            self.touch(at);
            return Synthetic(self.entries[at].number);
        }
        let number = self.free_number();
        let name: Rc<str> = name.into();
        let at = self.place(Entry { name: name.clone(), number, newer: None, older: None });
        self.by_name.insert(name, at);
        self.by_number.insert(number, at);
        self.link_newest(at);
        Synthetic(number)
    }

    /// The name for which an address stands; it counts as a use of the name.
    pub fn name_of(&mut self, address: IpAddr) -> Option<Rc<str>> {
        let Synthetic(number) = Synthetic::of(address)?;
        if number == 1 {
            return Some(SELF_NAME.into());
        }
        let at = *self.by_number.get(&number)?;
        self.touch(at);
        Some(self.entries[at].name.clone())
    }

    /// How many names have a stand-in.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether no name has a stand-in.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The next number that stands for nothing; the range is far larger than the map, so this ends within its size.
    fn free_number(&mut self) -> u32 {
        const { assert!(SYNTHETIC_NAMES_MAX * 8 < (NUMBERS.end - NUMBERS.start) as usize) };
        loop {
            let number = self.next_number.max(NUMBERS.start);
            self.next_number = if number + 1 < NUMBERS.end { number + 1 } else { NUMBERS.start };
            if !self.by_number.contains_key(&number) {
                return number;
            }
        }
    }

    /// Stores an entry, in the place of the oldest where the map is full.
    fn place(&mut self, entry: Entry) -> usize {
        let Some(oldest) = self.oldest.filter(|_| self.entries.len() >= SYNTHETIC_NAMES_MAX) else {
            self.entries.push(entry);
            return self.entries.len() - 1;
        };
        self.unlink(oldest);
        let forgotten = std::mem::replace(&mut self.entries[oldest], entry);
        self.by_name.remove(&forgotten.name);
        self.by_number.remove(&forgotten.number);
        oldest
    }

    fn touch(&mut self, at: usize) {
        if self.newest != Some(at) {
            self.unlink(at);
            self.link_newest(at);
        }
    }

    fn unlink(&mut self, at: usize) {
        let (newer, older) = (self.entries[at].newer.take(), self.entries[at].older.take());
        match newer {
            Some(newer) => self.entries[newer].older = older,
            None => self.newest = older,
        }
        match older {
            Some(older) => self.entries[older].newer = newer,
            None => self.oldest = newer,
        }
    }

    fn link_newest(&mut self, at: usize) {
        let previous = self.newest.replace(at);
        self.entries[at].older = previous;
        match previous {
            Some(previous) => self.entries[previous].newer = Some(at),
            None => self.oldest = Some(at),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_keeps_its_addresses_and_they_lead_back_to_it() {
        let mut map = SyntheticMap::new();
        let first = map.stand_in("api.example.com");
        let other = map.stand_in("example.com");
        assert_ne!(first, other);
        assert_eq!(map.stand_in("api.example.com"), first);
        for address in
            [IpAddr::V4(first.v4()), IpAddr::V6(first.v6()), IpAddr::V6(first.v4().to_ipv6_mapped())]
        {
            assert!(is_synthetic(address));
            assert_eq!(map.name_of(address).as_deref(), Some("api.example.com"));
        }
        assert_eq!(map.len(), 2);
    }

    #[test]
    fn addresses_stay_inside_their_prefixes_and_others_mean_nothing() {
        let mut map = SyntheticMap::new();
        let last = Synthetic(NUMBERS.end - 1);
        assert_eq!(last.v4(), Ipv4Addr::new(198, 19, 255, 254));
        assert_eq!(map.stand_in("a").v4(), Ipv4Addr::new(198, 18, 0, 2));
        for foreign in [
            "198.17.255.255",
            "198.20.0.0",
            "10.0.0.2",
            "fd6f:7574:6761:1::2",
            "::2",
            "fd6f:7574:6761:0:1::2",
        ] {
            assert_eq!(map.name_of(foreign.parse().unwrap()), None, "{foreign}");
        }
        assert_eq!(map.name_of("198.18.0.0".parse().unwrap()), None);
        assert_eq!(map.name_of("198.18.0.3".parse().unwrap()), None);
    }

    #[test]
    fn a_map_begins_where_it_is_told_and_stays_in_the_range() {
        for seed in [0, 1, 77, u64::from(u32::MAX), u64::MAX] {
            let mut map = SyntheticMap::starting_at(seed);
            let numbers = [map.stand_in("a").0, map.stand_in("b").0];
            assert!(numbers.iter().all(|number| NUMBERS.contains(number)), "{seed}");
        }
        let (mut one, mut other) = (SyntheticMap::starting_at(5), SyntheticMap::starting_at(99));
        let before = one.stand_in("a");
        other.stand_in("b");
        assert_eq!(other.name_of(before.v4().into()), None);
    }

    #[test]
    fn the_plane_itself_has_a_fixed_address() {
        let mut map = SyntheticMap::new();
        let own = map.stand_in(SELF_NAME);
        assert_eq!((own.v4(), own.v6()), (SELF_V4, SELF_V6));
        assert_eq!(map.name_of(SELF_V4.into()).as_deref(), Some(SELF_NAME));
        assert!(map.is_empty());
    }

    #[test]
    fn the_map_is_bounded_and_forgets_the_least_recently_used() {
        let mut map = SyntheticMap::new();
        let kept = map.stand_in("kept.example");
        let forgotten = map.stand_in("forgotten.example");
        for number in 0..SYNTHETIC_NAMES_MAX * 3 {
            map.stand_in(&format!("n{number}.example"));
            assert_eq!(map.name_of(kept.v4().into()).as_deref(), Some("kept.example"));
            assert!(map.len() <= SYNTHETIC_NAMES_MAX);
        }
        assert_eq!(map.by_name.len(), map.entries.len());
        assert_eq!(map.by_number.len(), map.entries.len());
        assert_eq!(map.name_of(forgotten.v4().into()), None, "its address is not another's yet");
        assert_eq!(map.stand_in("kept.example"), kept);
    }

    #[test]
    fn no_two_living_names_share_an_address_after_the_circle_closed() {
        let mut map = SyntheticMap::new();
        let kept = map.stand_in("kept.example");
        for number in 0..(NUMBERS.end as usize + SYNTHETIC_NAMES_MAX) {
            let given = map.stand_in(&format!("n{number}"));
            assert_ne!(given, kept);
            map.stand_in("kept.example");
        }
        let mut numbers: Vec<u32> = map.entries.iter().map(|entry| entry.number).collect();
        numbers.sort_unstable();
        numbers.dedup();
        assert_eq!(numbers.len(), SYNTHETIC_NAMES_MAX);
    }
}
