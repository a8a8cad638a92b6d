//! How far the shards of a plane are with what control says.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use crate::snapshot::Tables;

/// Which revision each shard enforces.
pub(super) struct Progress {
    revisions: Vec<AtomicU64>,
    told: Box<dyn Fn(u64) + Send + Sync>,
    /// Tables that a shard may still hold, the newest last. They are kept so that the last reference dies here and not
    /// on a shard, where freeing a large fleet's rows would stop every connection.
    handed: Mutex<VecDeque<Arc<Tables>>>,
    /// Rung when tables were handed out and when all shards enforce a revision.
    pub(super) moved: Condvar,
}

impl Progress {
    /// Of so many shards, none of which enforces anything yet. `told` hears what all of them enforce.
    pub(super) fn new(shards: usize, told: Box<dyn Fn(u64) + Send + Sync>) -> Self {
        let revisions = (0..shards).map(|_| AtomicU64::new(0)).collect();
        Self { revisions, told, handed: Mutex::default(), moved: Condvar::new() }
    }

    /// The revision that every shard enforces, or a later one.
    pub(super) fn least(&self) -> u64 {
        self.revisions.iter().map(|revision| revision.load(Ordering::SeqCst)).min().unwrap_or(0)
    }

    /// A shard enforces a revision. The last one says so for all.
    pub(super) fn reached(&self, index: usize, revision: u64) {
        // One order of all stores and looks: of two shards that store at once, with a weaker one neither might see the
        // other's, and nobody would say that both are there.
        self.revisions[index].store(revision, Ordering::SeqCst);
        if self.least() >= revision {
            (self.told)(revision);
            // Whoever looked before the store above waits by now: it holds the lock from its look to its wait.
            drop(self.handed());
            self.moved.notify_all();
        }
    }

    /// What the lock guards is whole at every instruction, so a panic elsewhere does not spoil it.
    pub(super) fn handed(&self) -> MutexGuard<'_, VecDeque<Arc<Tables>>> {
        self.handed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    /// Revisions that both shards reach at the same moment, as near as two threads come.
    const REVISIONS: u64 = 200_000;

    /// Goes on when the other thread is here as well.
    fn meet(here: &[AtomicU64; 2], own: usize, step: u64) {
        here[own].store(step, Ordering::SeqCst);
        while here[1 - own].load(Ordering::SeqCst) < step {
            // Together on one processor they would wait for its next slice.
            thread::yield_now();
        }
    }

    #[test]
    fn of_shards_that_reach_a_revision_at_once_one_says_that_all_did() {
        let told = Arc::new(AtomicU64::new(0));
        let hears = Arc::clone(&told);
        let hear = move |revision| _ = hears.fetch_max(revision, Ordering::SeqCst);
        let (progress, here) = (Progress::new(2, Box::new(hear)), Default::default());
        let run = |own: usize| {
            let unsaid = |revision: &u64| {
                meet(&here, own, 2 * revision);
                progress.reached(own, *revision);
                meet(&here, own, 2 * revision + 1);
                told.load(Ordering::SeqCst) < *revision
            };
            (1..=REVISIONS).filter(unsaid).count()
        };
        let unsaid = thread::scope(|scope| {
            let other = scope.spawn(|| run(1));
            run(0) + other.join().expect("it counts only")
        });
        assert_eq!(unsaid, 0);
    }
}
