//! Wakes every task of a shard that waits for the next snapshot.

use std::{
    cell::{Cell, RefCell},
    future::poll_fn,
    task::{Poll, Waker},
};

/// Rung when the shard has taken a new snapshot.
#[derive(Default)]
pub struct Bell {
    rings: Cell<u64>,
    waiting: RefCell<Vec<Waker>>,
}

impl Bell {
    /// How often it was rung. To be read before what the caller wants to see change.
    pub fn rings(&self) -> u64 {
        self.rings.get()
    }

    /// Waits until it was rung more than `seen` times. Each waiting task is held once; their number is bounded by
    /// that of connections.
    pub async fn after(&self, seen: u64) {
        poll_fn(|cx| {
            if self.rings.get() > seen {
                return Poll::Ready(());
            }
            let mut waiting = self.waiting.borrow_mut();
            if !waiting.iter().any(|waker| waker.will_wake(cx.waker())) {
                waiting.push(cx.waker().clone());
            }
            Poll::Pending
        })
        .await;
    }

    /// Wakes everyone who waits.
    pub fn ring(&self) {
        self.rings.set(self.rings.get() + 1);
        let waiting = std::mem::take(&mut *self.waiting.borrow_mut());
        waiting.into_iter().for_each(Waker::wake);
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use futures_lite::future::{block_on, poll_once};

    use super::*;

    #[test]
    fn waiter_sees_a_ring_that_came_before_it_waited() {
        let bell = Bell::default();
        let seen = bell.rings();
        bell.ring();
        block_on(bell.after(seen));
    }

    #[test]
    fn waiter_sleeps_until_the_ring() {
        let bell = Bell::default();
        let mut waiter = pin!(bell.after(bell.rings()));
        assert!(block_on(poll_once(&mut waiter)).is_none());
        bell.ring();
        assert!(block_on(poll_once(&mut waiter)).is_some());
    }
}
