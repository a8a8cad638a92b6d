//! What the plane holds of control's revisions, and the numbers under which it knows them.

use control_wire::message::StoreId;

/// The last revision that was applied.
///
/// The plane's own numbers only grow, because shards and acknowledgements compare them. They are control's, until
/// control comes back with another store or an earlier day of its own: then they go on from where they were, so that
/// an acknowledgement of the former store cannot be taken for one of the new.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Held {
    store: StoreId,
    /// Control's number.
    revision: u64,
    /// What the plane's numbers are ahead of control's.
    ahead: u64,
    /// Nothing that followed was refused, so control may go on from here.
    whole: bool,
}

impl Held {
    /// Store and revision that control is told; zeroes ask for everything.
    pub(super) fn claim(&self) -> (StoreId, u64) {
        if self.whole { (self.store, self.revision) } else { Default::default() }
    }

    /// Whether a change to this revision can follow.
    pub(super) fn leads_to(&self, store: StoreId, revision: u64) -> bool {
        self.whole && self.store == store && self.revision < revision
    }

    /// When this revision is applied.
    pub(super) fn with(self, store: StoreId, revision: u64) -> Self {
        let goes_on = store == self.store && self.revision <= revision;
        let ahead = if goes_on { self.ahead } else { self.number() };
        Self { store, revision, ahead, whole: true }
    }

    /// When what followed was not applied, or only in part.
    pub(super) fn broken(self) -> Self {
        Self { whole: false, ..self }
    }

    /// When the plane was removed; `None` where it held nothing of control.
    pub(super) fn emptied(self) -> Option<Self> {
        let emptied = Self { whole: false, ..self.with(StoreId::default(), 1) };
        (self.store != StoreId::default()).then_some(emptied)
    }

    /// The plane's number.
    pub(super) fn number(&self) -> u64 {
        self.ahead + self.revision
    }

    /// Control's number of what the shards acknowledge; `None` when that belongs to another store.
    pub(super) fn acknowledged(&self, store: StoreId, number: u64) -> Option<u64> {
        number.checked_sub(self.ahead).filter(|revision| *revision > 0 && store == self.store)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: StoreId = [1; 16];
    const NEW: StoreId = [2; 16];

    #[test]
    fn numbers_are_controls_until_it_comes_with_another_store() {
        let held = Held::default().with(OLD, 3).with(OLD, 10);
        assert_eq!((held.number(), held.claim()), (10, (OLD, 10)));
        let held = held.with(NEW, 2);
        assert_eq!((held.number(), held.claim()), (12, (NEW, 2)));
        assert_eq!(held.with(NEW, 4).number(), 14);
        assert_eq!(held.with(NEW, 1).number(), 13, "control was put back to an earlier day");
    }

    #[test]
    fn an_acknowledgement_of_the_former_store_is_none_of_the_new() {
        let held = Held::default().with(OLD, 10);
        assert_eq!(held.acknowledged(OLD, 9), Some(9));
        assert_eq!(held.acknowledged(NEW, 9), None, "its snapshot has not come yet");
        let held = held.with(NEW, 20);
        assert_eq!(held.acknowledged(NEW, 10), None);
        assert_eq!(held.acknowledged(NEW, 30), Some(20));
    }

    #[test]
    fn after_a_revision_that_was_not_applied_everything_is_asked_for() {
        let held = Held::default().with(OLD, 10).broken();
        assert_eq!(held.claim(), (StoreId::default(), 0));
        assert!(!held.leads_to(OLD, 11));
        assert_eq!(held.with(OLD, 11).number(), 11);
    }

    #[test]
    fn a_plane_that_was_removed_holds_nothing_once() {
        assert_eq!(Held::default().emptied(), None);
        let held = Held::default().with(OLD, 10).emptied().unwrap();
        assert_eq!((held.number(), held.claim()), (11, (StoreId::default(), 0)));
        assert_eq!(held.emptied(), None);
        assert!(held.with(OLD, 10).number() > 11);
    }
}
