//! How a ring ends.

use std::{
    task::Waker,
    time::{Duration, Instant},
};

use super::{Core, Late};
use crate::{limits::RING_SHUTDOWN_TIME, ring::sys::Uring};

impl Core {
    /// Ends the ring: no new operation, everything cancelled, the kernel drained, then the memory is given back.
    ///
    /// Blocks the shard, at most [`RING_SHUTDOWN_TIME`]. Where the kernel does not finish in time the pools are
    /// leaked on purpose: a late receive must not write into memory that belongs to somebody else by then.
    pub fn close(&self) {
        if self.closing.replace(true) {
            return;
        }
        self.shares.open();
        let wakers = self.slab.borrow_mut().take_wakers();
        wakers.into_iter().for_each(Waker::wake);
        self.forget_late();
        self.with_uring(Uring::cancel_all);
        let end = Instant::now() + RING_SHUTDOWN_TIME;
        while self.in_flight.get() > 0 && Instant::now() < end {
            self.block(Some(Duration::from_millis(1)));
        }
        let ring = self.uring.borrow_mut().take();
        if let Some(ring) = &ring {
            self.pools.iter().for_each(|pool| ring.unregister_pool(pool));
        }
        drop(ring);
        drop(self.retired.take());
        if self.in_flight.get() > 0 {
            self.pools.iter().cloned().for_each(std::mem::forget);
        }
    }

    /// Operations that never reached the kernel need no completion.
    fn forget_late(&self) {
        for work in self.late.take() {
            if let Late::Start(key) = work {
                self.in_flight.set(self.in_flight.get() - 1);
                let orphan = self.with(key, |busy| {
                    busy.live = false;
                    busy.orphan
                });
                if orphan == Some(true) {
                    let freed = self.slab.borrow_mut().remove(key);
                    drop(freed);
                }
            }
        }
    }
}

impl Drop for Core {
    /// A ring that nobody shut down leaks its pools while the kernel may still write into them.
    fn drop(&mut self) {
        if self.uring.get_mut().is_some() && self.in_flight.get() > 0 {
            self.pools.iter().cloned().for_each(std::mem::forget);
        }
    }
}
