//! Replacing patterns in a stream of bytes.

use std::rc::Rc;

use super::{Automaton, ROOT, Search};

/// Puts a text in the place of every match, of matches that overlap the leftmost, and of those the longest. It holds
/// back what could be the beginning of a match, and no more.
#[derive(Clone, Debug)]
pub struct Replace {
    automaton: Rc<Automaton>,
    with: Rc<[u8]>,
    state: u16,
    /// What was not given on: from the earliest byte that could belong to a match.
    pub(super) held: Vec<u8>,
    /// The best match so far, in `held`: its start and its end.
    best: Option<(usize, usize)>,
    count: u64,
}

impl Replace {
    /// Replaces every match by one text.
    pub fn new(search: &Search, with: impl AsRef<[u8]>) -> Self {
        let (automaton, with) = (Rc::clone(&search.0), with.as_ref().into());
        Self { automaton, with, state: ROOT, held: Vec::new(), best: None, count: 0 }
    }

    /// Takes the next bytes, and appends what can be given on.
    pub fn feed(&mut self, bytes: &[u8], out: &mut Vec<u8>) {
        let mut rest = bytes;
        while let Some(byte) = rest.first() {
            if self.state == ROOT && self.best.is_none() {
                // Nothing is held, and what begins no pattern is given on as it lies.
                let plain = rest.iter().position(|byte| self.automaton.root[usize::from(*byte)] != ROOT);
                let (plain, behind) = rest.split_at(plain.unwrap_or(rest.len()));
                out.extend_from_slice(plain);
                rest = behind;
                if !plain.is_empty() {
                    continue;
                }
            }
            rest = &rest[1..];
            self.take(*byte, out);
        }
    }

    /// The stream is over: appends what was held back. Another may begin then.
    pub fn end(&mut self, out: &mut Vec<u8>) {
        while self.best.is_some() {
            self.settle(out);
        }
        out.append(&mut self.held);
        self.state = ROOT;
    }

    /// How many matches were replaced.
    pub fn count(&self) -> u64 {
        self.count
    }

    fn take(&mut self, byte: u8, out: &mut Vec<u8>) {
        self.held.push(byte);
        self.state = self.automaton.next(self.state, byte);
        let end = self.held.len();
        if let Some((_, length)) = self.automaton.longest_match(self.state) {
            let found = (end - usize::from(length), end);
            // Further left wins, then longer.
            if self.best.is_none_or(|best| found.0 <= best.0) {
                self.best = Some(found);
            }
        }
        let open = end - self.automaton.depth(self.state);
        match self.best {
            // A match that begins as far left could still become whole.
            Some((start, end)) if open <= start => {
                self.give(open, out);
                self.best = Some((start - open, end - open));
            }
            Some(_) => self.settle(out),
            None => self.give(open, out),
        }
    }

    /// Replaces the best match, and looks at what came behind it again, without it.
    fn settle(&mut self, out: &mut Vec<u8>) {
        let Some((start, end)) = self.best.take() else { return };
        let behind = self.held.split_off(end);
        self.held.truncate(start);
        out.append(&mut self.held);
        out.extend_from_slice(&self.with);
        self.count += 1;
        self.state = ROOT;
        behind.into_iter().for_each(|byte| self.take(byte, out));
    }

    /// Gives on the front of what is held.
    fn give(&mut self, count: usize, out: &mut Vec<u8>) {
        if count > 0 {
            out.extend(self.held.drain(..count));
        }
    }
}
