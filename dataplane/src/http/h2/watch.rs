//! Whether the peer of a shared connection is still there: looked at now and then, asked only where it is in doubt.

use crate::limits::{H2_LOOKS_SILENT, H2_LOOKS_UNANSWERED};

/// What one look says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    /// Nothing is in doubt.
    Fine,
    /// It is to be asked.
    Ask,
    /// It was asked, and nothing came from it.
    Gone,
}

/// Remembers what was heard at the looks before.
#[derive(Debug, Default)]
pub struct Watch {
    heard: u64,
    silent: u32,
    unanswered: u32,
}

impl Watch {
    /// One look: what was heard in all so far, whether there are requests, and whether the peer is being asked.
    /// Anything that comes from it is a sign of life.
    pub fn look(&mut self, heard: u64, carries: bool, asked: bool) -> Look {
        if heard != self.heard {
            *self = Self { heard, silent: 0, unanswered: 0 };
            return Look::Fine;
        }
        self.silent = self.silent.saturating_add(1);
        self.unanswered = if asked { self.unanswered + 1 } else { 0 };
        if self.unanswered > H2_LOOKS_UNANSWERED {
            return Look::Gone;
        }
        if carries && !asked && self.silent >= H2_LOOKS_SILENT { Look::Ask } else { Look::Fine }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_does_not_answer_and_says_nothing_else_is_gone() {
        let mut watch = Watch::default();
        assert_eq!(watch.look(1, true, true), Look::Fine);
        let looks: Vec<Look> = (0..=H2_LOOKS_UNANSWERED).map(|_| watch.look(1, true, true)).collect();
        assert_eq!(looks.last(), Some(&Look::Gone));
        assert!(looks[..looks.len() - 1].iter().all(|look| *look == Look::Fine));
        // Payload in the place of an answer counts as one.
        let mut watch = Watch::default();
        for heard in 1..20 {
            assert_eq!(watch.look(heard, true, true), Look::Fine);
        }
    }

    #[test]
    fn who_is_silent_while_requests_wait_is_asked_and_an_idle_one_is_not() {
        let (mut busy, mut idle) = (Watch::default(), Watch::default());
        for _ in 1..H2_LOOKS_SILENT {
            assert_eq!(busy.look(0, true, false), Look::Fine);
        }
        assert_eq!(busy.look(0, true, false), Look::Ask);
        for _ in 0..1_000 {
            assert_eq!(idle.look(0, false, false), Look::Fine);
        }
    }
}
