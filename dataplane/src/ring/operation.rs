//! The owner's handle of one operation of the kernel.

use std::{
    rc::Rc,
    task::{Context, Poll},
};

use super::{
    core::Core,
    slab::{Completion, Key, Outcome},
};

/// One operation of the kernel and its owner's only handle. Dropping it cancels; memory that the kernel may still
/// use stays with the slot.
pub(super) struct Operation {
    pub(super) core: Rc<Core>,
    pub(super) key: Key,
}

impl Operation {
    /// The next completion. After the last one, and after a shutdown, an error that is the last.
    pub fn poll(&self, cx: &mut Context<'_>) -> Poll<Completion> {
        let ended = |error| Poll::Ready(Completion { outcome: Outcome::Failed(error), last: true });
        let closing = self.core.is_closing();
        let polled = self.core.with(self.key, |busy| {
            if let Some(completion) = busy.queue.pop_front() {
                return Poll::Ready(completion);
            }
            if closing {
                return ended(libc::ESHUTDOWN);
            }
            if !busy.live && !busy.starved {
                return ended(libc::ECANCELED);
            }
            match &busy.waker {
                Some(waker) if waker.will_wake(cx.waker()) => {}
                _ => busy.waker = Some(cx.waker().clone()),
            }
            Poll::Pending
        });
        polled.unwrap_or_else(|| ended(libc::ECANCELED))
    }

    /// Whether the kernel has the operation and nothing has come from it.
    pub fn is_quiet(&self) -> bool {
        self.core.with(self.key, |busy| busy.live && busy.queue.is_empty()) == Some(true)
    }

    /// Asks the kernel to end it. What has come, and the last completion, are still there to be polled.
    pub fn cancel(&self) {
        self.core.cancel(self.key);
    }

    /// Whether it waits for a buffer outside the kernel and all that it took was polled: it may be dropped without loss.
    pub fn is_starved(&self) -> bool {
        self.core.with(self.key, |busy| busy.starved && busy.queue.is_empty()) == Some(true)
    }

    /// Wakes whoever polls it, without a completion.
    pub fn wake(&self) {
        if let Some(waker) = self.core.with(self.key, |busy| busy.waker.take()).flatten() {
            waker.wake();
        }
    }
}

impl Drop for Operation {
    fn drop(&mut self) {
        self.core.abandon(self.key);
    }
}
