//! Host patterns as tables: exact names, addresses, ranges and suffixes by hash, and only open globs one by one.

use std::{collections::HashMap, net::IpAddr, ops::ControlFlow};

use control_wire::pattern::{Glob, HostKind, HostPattern};
use ipnet::IpNet;

use crate::http::Host;

type Map<K> = HashMap<K, Vec<Entry>, foldhash::fast::RandomState>;

/// Where a pattern stood in its list, and the port that it is limited to.
#[derive(Clone, Copy, Debug)]
struct Entry {
    place: u32,
    port: Option<u16>,
}

/// How precisely a pattern names the host; of two that match, the lower one counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    ExactWithPort,
    Exact,
    Glob,
}

/// The patterns of one list, found by host. A place is the index in the list that it was made from.
#[derive(Debug, Default)]
pub struct HostTable {
    names: Map<Box<str>>,
    addresses: Map<IpAddr>,
    below: Map<Box<str>>,
    /// Most dots of a suffix: a host with thousands of labels costs no more look-ups than the list has labels.
    below_dots_max: usize,
    ranges: Map<IpNet>,
    /// Prefix lengths in use; the flag says IPv6.
    lengths: Vec<(bool, u8)>,
    globs: Vec<(Glob, Entry)>,
    any: Vec<Entry>,
    names_listed: bool,
}

impl HostTable {
    /// Makes the tables; places count from zero.
    pub fn new<'a>(patterns: impl IntoIterator<Item = &'a HostPattern>) -> Self {
        let mut table = Self::default();
        for (place, pattern) in (0u32..).zip(patterns) {
            table.insert(pattern, Entry { place, port: pattern.port() });
        }
        table
    }

    fn insert(&mut self, pattern: &HostPattern, entry: Entry) {
        self.names_listed |= pattern.names();
        match pattern.kind() {
            HostKind::Any => self.any.push(entry),
            HostKind::Name(name) => self.names.entry(name.clone()).or_default().push(entry),
            HostKind::Address(address) => self.addresses.entry(*address).or_default().push(entry),
            HostKind::Below(name) => {
                let dots = name.bytes().filter(|byte| *byte == b'.').count();
                self.below_dots_max = self.below_dots_max.max(dots);
                self.below.entry(name.clone()).or_default().push(entry);
            }
            HostKind::Range(range) => {
                let length = (range.addr().is_ipv6(), range.prefix_len());
                if !self.lengths.contains(&length) {
                    self.lengths.push(length);
                }
                self.ranges.entry(*range).or_default().push(entry);
            }
            HostKind::Glob(glob) => self.globs.push((glob.clone(), entry)),
        }
    }

    /// Some pattern speaks of names.
    pub fn names_listed(&self) -> bool {
        self.names_listed
    }

    /// Some pattern matches; the place of one that does, an exact one where there is one.
    pub fn find(&self, host: &Host, port: u16) -> Option<u32> {
        let mut found = None;
        let _ = self.visit(host, port, &mut |_, place| {
            found = Some(place);
            ControlFlow::Break(())
        });
        found
    }

    /// The pattern that counts: exact before glob (with its port before without), among globs the one written first.
    pub fn best(&self, host: &Host, port: u16) -> Option<u32> {
        let mut best: Option<(Rank, u32)> = None;
        let _ = self.visit(host, port, &mut |rank, place| {
            best = Some(best.map_or((rank, place), |known| known.min((rank, place))));
            ControlFlow::Continue(())
        });
        best.map(|(_, place)| place)
    }

    /// The places of all patterns that match, in the order written.
    pub fn all(&self, host: &Host, port: u16) -> Vec<u32> {
        let mut places = Vec::new();
        let _ = self.visit(host, port, &mut |_, place| {
            places.push(place);
            ControlFlow::Continue(())
        });
        places.sort_unstable();
        places
    }

    /// The place of a pattern that names this address by itself or by a range.
    pub fn find_address(&self, address: IpAddr, port: u16) -> Option<u32> {
        let mut found = None;
        let _ = self.visit_address(address, port, &mut |_, place| {
            found = Some(place);
            ControlFlow::Break(())
        });
        found
    }

    fn visit(&self, host: &Host, port: u16, see: &mut See<'_>) -> ControlFlow<()> {
        match host {
            Host::Name(name) => {
                let name = name.as_str();
                offer(self.names.get(name), port, Rank::Exact, see)?;
                self.visit_suffixes(name, port, see)?;
                self.visit_globs(name.as_bytes(), port, see)?;
            }
            Host::Ip(address) => {
                self.visit_address(*address, port, see)?;
                if !self.globs.is_empty() {
                    let text = address.to_string();
                    self.visit_globs(text.as_bytes(), port, see)?;
                }
            }
        }
        offer(Some(&self.any), port, Rank::Glob, see)
    }

    fn visit_address(&self, address: IpAddr, port: u16, see: &mut See<'_>) -> ControlFlow<()> {
        offer(self.addresses.get(&address), port, Rank::Exact, see)?;
        for (six, bits) in &self.lengths {
            if *six == address.is_ipv6()
                && let Ok(range) = IpNet::new(address, *bits)
            {
                offer(self.ranges.get(&range.trunc()), port, Rank::Glob, see)?;
            }
        }
        ControlFlow::Continue(())
    }

    /// From the last label inwards, as far as the list has suffixes.
    fn visit_suffixes(&self, name: &str, port: u16, see: &mut See<'_>) -> ControlFlow<()> {
        if self.below.is_empty() {
            return ControlFlow::Continue(());
        }
        for (dot, _) in name.rmatch_indices('.').take(self.below_dots_max + 1) {
            offer(self.below.get(&name[dot + 1..]), port, Rank::Glob, see)?;
        }
        ControlFlow::Continue(())
    }

    fn visit_globs(&self, text: &[u8], port: u16, see: &mut See<'_>) -> ControlFlow<()> {
        for (glob, entry) in &self.globs {
            if entry.port.is_none_or(|own| own == port) && glob.matches(text) {
                see(Rank::Glob, entry.place)?;
            }
        }
        ControlFlow::Continue(())
    }
}

/// Told of each match; stops the search by breaking.
type See<'a> = dyn FnMut(Rank, u32) -> ControlFlow<()> + 'a;

fn offer(entries: Option<&Vec<Entry>>, port: u16, rank: Rank, see: &mut See<'_>) -> ControlFlow<()> {
    for entry in entries.into_iter().flatten() {
        match (entry.port, rank) {
            (Some(own), _) if own != port => {}
            (Some(_), Rank::Exact) => see(Rank::ExactWithPort, entry.place)?,
            _ => see(rank, entry.place)?,
        }
    }
    ControlFlow::Continue(())
}

#[cfg(test)]
mod tests {
    use control_wire::pattern::HostRef;

    use super::*;

    fn table(patterns: &[&str]) -> HostTable {
        let patterns: Vec<_> = patterns.iter().map(|text| HostPattern::parse(text).unwrap()).collect();
        HostTable::new(&patterns)
    }

    fn host(text: &str) -> Host {
        Host::parse(text).unwrap()
    }

    #[test]
    fn exact_comes_before_glob_and_among_globs_the_first_written() {
        let table = table(&["*.com", "a*.com", "a.com", "*.a.com", "a.com:8443", "*"]);
        assert_eq!(table.best(&host("a.com"), 443), Some(2));
        assert_eq!(table.best(&host("a.com"), 8443), Some(4));
        assert_eq!(table.best(&host("abc.com"), 443), Some(0));
        assert_eq!(table.best(&host("x.a.com"), 443), Some(0));
        assert_eq!(table.best(&host("x.org"), 443), Some(5));
        assert_eq!(table.all(&host("a.com"), 8443), [0, 1, 2, 4, 5]);
    }

    #[test]
    fn tables_answer_as_the_patterns_one_by_one_do() {
        let written = [
            "a.com",
            "*.a.com",
            "*.b.a.com",
            "a*a",
            "*a.com",
            "api.*.com",
            "10.0.0.0/8",
            "10.1.0.0/16",
            "192.0.2.7",
            "192.0.*",
            "::1",
            "2001:db8::/32",
            "2001:db8:*",
            "*.com:80",
            "x.com:443",
            "*:22",
            "**.org",
            "*.1",
        ];
        let hosts = [
            "a.com",
            "x.a.com",
            "y.b.a.com",
            "b.a.com",
            "aa",
            "aba",
            "xa.com",
            "api.q.com",
            "api.com",
            "10.1.2.3",
            "10.2.2.3",
            "192.0.2.7",
            "192.0.3.1",
            "[::1]",
            "[2001:db8::9]",
            "x.com",
            "x.org",
            "org",
            "nothing.test",
        ];
        for patterns in [&written[..], &written[3..9], &written[9..], &written[..1]] {
            let table = table(patterns);
            for text in hosts {
                for port in [22, 80, 443] {
                    let host = host(text);
                    let seen = match &host {
                        Host::Name(name) => HostRef::Name(name.as_str()),
                        Host::Ip(address) => HostRef::Address(*address),
                    };
                    let alone: Vec<u32> = (0u32..)
                        .zip(patterns)
                        .filter(|(_, text)| HostPattern::parse(text).unwrap().matches(seen, port))
                        .map(|(place, _)| place)
                        .collect();
                    assert_eq!(table.all(&host, port), alone, "{text}:{port}");
                    assert_eq!(table.find(&host, port).is_some(), !alone.is_empty(), "{text}:{port}");
                }
            }
        }
    }

    #[test]
    fn a_name_of_many_labels_is_looked_up_no_oftener_than_the_list_has_labels() {
        let table = table(&["*.a.com"]);
        assert_eq!(table.below_dots_max, 1);
        let deep = format!("{}a.com", "x.".repeat(120));
        assert_eq!(table.find(&host(&deep), 1), Some(0));
    }

    #[test]
    fn ten_thousand_exact_and_suffix_patterns_leave_no_list_to_walk() {
        let texts: Vec<String> =
            (0..5_000).flat_map(|n| [format!("h{n}.example.com"), format!("*.s{n}.example.com")]).collect();
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        let table = table(&texts);
        assert!(table.globs.is_empty() && table.any.is_empty());
        assert_eq!(table.find(&host("h4999.example.com"), 1), Some(9_998));
        assert_eq!(table.find(&host("x.y.s4999.example.com"), 1), Some(9_999));
        assert_eq!(table.find(&host("s4999.example.com"), 1), None);
    }
}
