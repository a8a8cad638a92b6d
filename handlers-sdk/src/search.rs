//! Finding and replacing byte patterns in a body that comes in chunks, matches across chunk borders included.
//!
//! ```
//! use handlers_sdk::search::{Replace, Search};
//!
//! let search = Search::ignoring_case(["project-falcon", "AKIA"]);
//! let mut scan = search.scan();
//! assert!(scan.finds(b"the Project-").is_none());
//! let found = scan.finds(b"Falcon plan").expect("it crosses the border");
//! assert_eq!((found.pattern, found.end), (0, 18));
//!
//! let (mut replace, mut out) = (Replace::new(&search, "***"), Vec::new());
//! replace.feed(b"key ak", &mut out);
//! replace.feed(b"ia1", &mut out);
//! replace.end(&mut out);
//! assert_eq!(out, b"key ***1");
//! ```
//!
//! One automaton (Aho and Corasick, 1975) finds all patterns in one pass: the cost of a byte does not grow with their
//! number. It is shared by clones, takes about 20 bytes for each byte of the patterns, and can be read straight from
//! the parameters, so that it is built once and not for each request: a field of type [`Search`] takes a list of
//! texts, and [`ignoring_case`] makes such a field blind to ASCII case. A scan keeps a few numbers between chunks, a
//! replacement at most as many bytes as the longest pattern.
//!
//! Bodies are searched as they are sent: what is compressed is not found. A handler that must see plain text removes
//! `accept-encoding` from the request, or refuses answers with `content-encoding`.

use core::fmt;
use std::collections::VecDeque;
use std::rc::Rc;

use serde::de::{Deserialize, Deserializer, Error as _};

mod replace;

pub use replace::Replace;

/// Bytes of all patterns of one search. Larger: the automaton does not fit a handler's memory, which is put back after
/// each request. Smaller: long lists of words do not fit.
pub const PATTERN_BYTES_MAX: usize = 16 * 1024;

/// Why patterns are refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SearchError {
    /// A pattern without a byte, which is everywhere.
    Empty,
    /// More bytes than [`PATTERN_BYTES_MAX`].
    TooLong,
}

impl fmt::Display for SearchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("a pattern to search for is empty"),
            Self::TooLong => write!(f, "the patterns to search for exceed {PATTERN_BYTES_MAX} bytes"),
        }
    }
}

impl std::error::Error for SearchError {}

/// Patterns to search for. Clones share them.
#[derive(Clone, Debug)]
pub struct Search(Rc<Automaton>);

/// Where a pattern was found; offsets count from the first byte that the scan was fed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Match {
    /// Which pattern, from 0.
    pub pattern: usize,
    /// Offset of its first byte.
    pub start: u64,
    /// Offset behind its last byte.
    pub end: u64,
}

impl Search {
    /// Searches for patterns as they are.
    ///
    /// # Panics
    /// As [`try_new`](Self::try_new) fails.
    #[track_caller]
    pub fn new<P: AsRef<[u8]>>(patterns: impl IntoIterator<Item = P>) -> Self {
        Self::try_new(patterns, false).unwrap_or_else(|error| panic!("{error}"))
    }

    /// Searches for patterns whatever the case of their ASCII letters.
    ///
    /// # Panics
    /// As [`try_new`](Self::try_new) fails.
    #[track_caller]
    pub fn ignoring_case<P: AsRef<[u8]>>(patterns: impl IntoIterator<Item = P>) -> Self {
        Self::try_new(patterns, true).unwrap_or_else(|error| panic!("{error}"))
    }

    /// Searches for patterns.
    ///
    /// # Errors
    /// Where one is empty, or all together are too long. No pattern at all is allowed, and never found.
    pub fn try_new<P: AsRef<[u8]>>(
        patterns: impl IntoIterator<Item = P>,
        ignore_case: bool,
    ) -> Result<Self, SearchError> {
        Automaton::build(patterns, ignore_case).map(|automaton| Self(Rc::new(automaton)))
    }

    /// A scan of one stream of bytes, from its beginning.
    pub fn scan(&self) -> Scan {
        Scan { automaton: Rc::clone(&self.0), state: ROOT, at: 0 }
    }

    /// Whether a text that is here whole holds a pattern.
    pub fn is_in(&self, text: impl AsRef<[u8]>) -> bool {
        self.scan().finds(text.as_ref()).is_some()
    }

    /// Bytes of the longest pattern.
    pub fn longest(&self) -> usize {
        self.0.longest
    }
}

impl<'de> Deserialize<'de> for Search {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        read(from, false)
    }
}

/// Reads a list of texts as a [`Search`] that is blind to ASCII case, as in
/// `#[serde(deserialize_with = "handlers_sdk::search::ignoring_case")]`.
///
/// # Errors
/// Where it is no list of texts, or [`Search::try_new`] refuses them.
pub fn ignoring_case<'de, D: Deserializer<'de>>(from: D) -> Result<Search, D::Error> {
    read(from, true)
}

fn read<'de, D: Deserializer<'de>>(from: D, ignore_case: bool) -> Result<Search, D::Error> {
    Search::try_new(Vec::<String>::deserialize(from)?, ignore_case).map_err(D::Error::custom)
}

/// A search in one stream of bytes. It keeps its place between chunks.
#[derive(Clone, Debug)]
pub struct Scan {
    automaton: Rc<Automaton>,
    state: u16,
    at: u64,
}

impl Scan {
    /// Takes the next bytes, and answers the match in them that ends first; of those that end there, the longest.
    pub fn finds(&mut self, bytes: &[u8]) -> Option<Match> {
        let mut first = None;
        self.feed(bytes, |found| {
            first.get_or_insert(found);
        });
        first
    }

    /// Takes the next bytes, and tells of every match that ends in them, those within others included.
    pub fn feed(&mut self, bytes: &[u8], mut found: impl FnMut(Match)) {
        let automaton = &*self.automaton;
        let mut at = 0;
        while let Some(byte) = bytes.get(at) {
            if self.state == ROOT {
                // Most bytes begin no pattern, and nothing else is looked at for them.
                let rest = &bytes[at..];
                let skipped = rest.iter().position(|byte| automaton.root[usize::from(*byte)] != ROOT);
                let Some(skipped) = skipped else { break };
                at += skipped;
                self.state = automaton.root[usize::from(rest[skipped])];
            } else {
                self.state = automaton.next(self.state, *byte);
            }
            at += 1;
            automaton.matches(self.state, |pattern, length| {
                let end = self.at + at as u64;
                found(Match { pattern, start: end - u64::from(length), end });
            });
        }
        self.at += bytes.len() as u64;
    }
}

/// The state in which no byte of a pattern was seen.
const ROOT: u16 = 0;

/// The patterns as one machine: a state for each of their beginnings.
#[derive(Debug)]
struct Automaton {
    states: Vec<State>,
    /// Which byte leads from a state to which, grouped by state, in the order of the bytes.
    edges: Vec<(u8, u16)>,
    /// Where each byte leads from the root.
    root: [u16; 256],
    ignore_case: bool,
    longest: usize,
}

#[derive(Clone, Copy, Debug, Default)]
struct State {
    /// Its first edge, and how many it has.
    edges: (u16, u16),
    /// The longest beginning of a pattern that is a proper end of this one.
    fail: u16,
    /// Bytes of this beginning.
    depth: u16,
    /// The pattern that ends here, from 1; 0 for none.
    pattern: u16,
    /// The next state on the way of `fail` where a pattern ends.
    also: u16,
}

impl Automaton {
    fn build<P: AsRef<[u8]>>(
        patterns: impl IntoIterator<Item = P>,
        ignore_case: bool,
    ) -> Result<Self, SearchError> {
        let mut tree: Vec<(State, Vec<(u8, u16)>)> = vec![Default::default()];
        let (mut total, mut longest) = (0, 0);
        for (index, pattern) in patterns.into_iter().enumerate() {
            let pattern = pattern.as_ref();
            total += pattern.len();
            if pattern.is_empty() {
                return Err(SearchError::Empty);
            }
            if total > PATTERN_BYTES_MAX {
                return Err(SearchError::TooLong);
            }
            longest = longest.max(pattern.len());
            let mut at = ROOT;
            for byte in pattern {
                at = step(&mut tree, at, fold(*byte, ignore_case));
            }
            let end = &mut tree[usize::from(at)].0;
            if end.pattern == 0 {
                // Every pattern has a byte, so their number is bounded as their bytes are.
                end.pattern = index as u16 + 1;
            }
        }
        let mut automaton =
            Self { states: Vec::new(), edges: Vec::new(), root: [ROOT; 256], ignore_case, longest };
        automaton.flatten(tree);
        automaton.link();
        Ok(automaton)
    }

    fn flatten(&mut self, tree: Vec<(State, Vec<(u8, u16)>)>) {
        self.states.reserve_exact(tree.len());
        self.edges.reserve_exact(tree.len() - 1);
        for (state, mut edges) in tree {
            edges.sort_unstable();
            let place = (self.edges.len() as u16, edges.len() as u16);
            self.edges.extend_from_slice(&edges);
            self.states.push(State { edges: place, ..state });
        }
        for (byte, to) in self.edges_of(ROOT).to_vec() {
            self.root[usize::from(byte)] = to;
            if self.ignore_case {
                self.root[usize::from(byte.to_ascii_uppercase())] = to;
            }
        }
    }

    /// Links each state to the longest end of it that begins a pattern, nearer states first.
    fn link(&mut self) {
        let mut queue: VecDeque<u16> = self.edges_of(ROOT).iter().map(|(_, to)| *to).collect();
        while let Some(from) = queue.pop_front() {
            let State { fail, edges: (first, count), .. } = self.states[usize::from(from)];
            for at in first..first + count {
                let (byte, to) = self.edges[usize::from(at)];
                let linked = self.next(fail, byte);
                let ends = self.states[usize::from(linked)];
                let state = &mut self.states[usize::from(to)];
                state.fail = linked;
                state.also = if ends.pattern > 0 { linked } else { ends.also };
                queue.push_back(to);
            }
        }
    }

    fn edges_of(&self, state: u16) -> &[(u8, u16)] {
        let (first, count) = self.states[usize::from(state)].edges;
        &self.edges[usize::from(first)..usize::from(first + count)]
    }

    /// Where a byte leads.
    fn next(&self, mut state: u16, byte: u8) -> u16 {
        let folded = fold(byte, self.ignore_case);
        while state != ROOT {
            if let Some((_, to)) = self.edges_of(state).iter().find(|(edge, _)| *edge == folded) {
                return *to;
            }
            state = self.states[usize::from(state)].fail;
        }
        self.root[usize::from(byte)]
    }

    /// Patterns that end in a state, and their lengths, the longest first.
    fn matches(&self, mut state: u16, mut found: impl FnMut(usize, u16)) {
        while state != ROOT {
            let State { pattern, depth, also, .. } = self.states[usize::from(state)];
            if pattern > 0 {
                found(usize::from(pattern) - 1, depth);
            }
            state = also;
        }
    }

    /// The longest pattern that ends in a state, and its length.
    fn longest_match(&self, state: u16) -> Option<(usize, u16)> {
        let State { pattern, depth, also, .. } = self.states[usize::from(state)];
        match (pattern, also) {
            (0, ROOT) => None,
            (0, also) => self.longest_match(also),
            (pattern, _) => Some((usize::from(pattern) - 1, depth)),
        }
    }

    /// Bytes of the beginning that a state stands for.
    fn depth(&self, state: u16) -> usize {
        usize::from(self.states[usize::from(state)].depth)
    }
}

fn fold(byte: u8, ignore_case: bool) -> u8 {
    if ignore_case { byte.to_ascii_lowercase() } else { byte }
}

/// The state behind a byte, made where there is none.
fn step(tree: &mut Vec<(State, Vec<(u8, u16)>)>, from: u16, byte: u8) -> u16 {
    let (state, edges) = &tree[usize::from(from)];
    if let Some((_, to)) = edges.iter().find(|(edge, _)| *edge == byte) {
        return *to;
    }
    let depth = state.depth + 1;
    // At most one state for each byte of the patterns, which are bounded far below.
    let to = tree.len() as u16;
    tree[usize::from(from)].1.push((byte, to));
    tree.push((State { depth, ..State::default() }, Vec::new()));
    to
}

#[cfg(test)]
#[path = "search_tests.rs"]
mod tests;
