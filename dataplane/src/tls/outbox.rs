//! Encrypted bytes on their way to the socket: one sender at a time, in the order of encryption.
//!
//! Receiving makes bytes too (tickets, alerts, key updates), and records must leave in the order in which they were
//! encrypted. So both sides append here, and whoever finds no sender at work sends what is there.

use std::cell::{Cell, RefCell};
use std::future::{Future as _, poll_fn};
use std::io;
use std::pin::pin;
use std::task::{Poll, Waker};

use super::socket::Socket;
use crate::limits::{TLS_OUTBOX_BYTES_MAX, TLS_SCRATCH_BUFFERS_MAX, TLS_SCRATCH_BYTES_MAX};

thread_local! {
    /// Buffers that connections of this shard take while they have something to send.
    static SPARES: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

/// A growing buffer whose room is kept initialised, so that reuse does not clear it again.
#[derive(Default)]
pub(super) struct Scratch {
    bytes: Vec<u8>,
    used: usize,
}

impl Scratch {
    /// At least `room` bytes behind what is used.
    pub(super) fn room(&mut self, room: usize) -> &mut [u8] {
        if self.bytes.capacity() == 0 {
            self.bytes = SPARES.with_borrow_mut(Vec::pop).unwrap_or_default();
        }
        let needed = self.used + room;
        if self.bytes.len() < needed {
            self.bytes.resize(needed, 0);
        }
        &mut self.bytes[self.used..]
    }

    /// The first `count` bytes of the room are now used.
    pub(super) fn advance(&mut self, count: usize) {
        self.used += count;
        debug_assert!(self.used <= self.bytes.len());
    }

    pub(super) fn used(&self) -> &[u8] {
        &self.bytes[..self.used]
    }

    fn push(&mut self, bytes: &[u8]) {
        self.room(bytes.len())[..bytes.len()].copy_from_slice(bytes);
        self.advance(bytes.len());
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if self.bytes.capacity() == 0 || self.bytes.len() > TLS_SCRATCH_BYTES_MAX {
            return;
        }
        let bytes = std::mem::take(&mut self.bytes);
        // The thread may be ending; then the buffer is simply freed.
        let _ = SPARES.try_with(|spares| {
            let mut spares = spares.borrow_mut();
            if spares.len() < TLS_SCRATCH_BUFFERS_MAX {
                spares.push(bytes);
            }
        });
    }
}

/// The bytes of one connection that are encrypted and not yet sent.
#[derive(Default)]
pub(super) struct Outbox {
    queue: RefCell<Scratch>,
    sending: Cell<bool>,
    broken: Cell<Option<io::ErrorKind>>,
    waiting: RefCell<Vec<Waker>>,
}

impl Outbox {
    /// Appends through `write`, which may encrypt into the queue.
    ///
    /// # Errors
    /// What `write` says; and when the queue is over its bound, since its peer does not read.
    pub(super) fn append<T, E: From<io::Error>>(
        &self,
        write: impl FnOnce(&mut Scratch) -> Result<T, E>,
    ) -> Result<T, E> {
        let mut queue = self.queue.borrow_mut();
        if queue.used > TLS_OUTBOX_BYTES_MAX {
            self.broken.set(Some(io::ErrorKind::BrokenPipe));
            return Err(io::Error::new(io::ErrorKind::BrokenPipe, "the peer asks and does not read").into());
        }
        write(&mut queue)
    }

    /// Sends all that is queued, after whoever is sending now.
    pub(super) async fn flush<S: Socket>(&self, socket: &S) -> io::Result<()> {
        // Most sockets take it at once. A first try lies on the stack, and what has to wait is begun anew on the heap,
        // so that whoever sends holds neither.
        match poll_fn(|cx| Poll::Ready(pin!(self.send_queued(socket)).poll(cx))).await {
            Poll::Ready(sent) => sent,
            Poll::Pending => Box::pin(self.send_queued(socket)).await,
        }
    }

    /// What [`Outbox::flush`] awaits. Dropping the future loses nothing.
    async fn send_queued<S: Socket>(&self, socket: &S) -> io::Result<()> {
        loop {
            poll_fn(|context| {
                if !self.sending.get() {
                    return Poll::Ready(());
                }
                let mut waiting = self.waiting.borrow_mut();
                if !waiting.iter().any(|waker| waker.will_wake(context.waker())) {
                    waiting.push(context.waker().clone());
                }
                Poll::Pending
            })
            .await;
            if let Some(kind) = self.broken.get() {
                return Err(kind.into());
            }
            let bytes = self.queue.take();
            if bytes.used == 0 {
                return Ok(());
            }
            self.sending.set(true);
            let mut flight = Flight { outbox: self, socket, bytes, sent_before: socket.bytes_sent() };
            let sent = socket.send(flight.bytes.used()).await;
            if let Err(error) = &sent {
                self.broken.set(Some(error.kind()));
            }
            // Nothing is left to give back, sent or broken.
            flight.bytes.used = 0;
            drop(flight);
            sent?;
        }
    }

    /// Sends what is queued unless somebody is sending already, who will send this too.
    pub(super) async fn nudge<S: Socket>(&self, socket: &S) -> io::Result<()> {
        let nothing = self.queue.borrow().used == 0 && self.broken.get().is_none();
        if nothing || self.sending.get() {
            return Ok(());
        }
        // Rare: what receives does not hold it.
        Box::pin(self.flush(socket)).await
    }
}

/// Bytes that a sender holds. When its future is dropped half-way, what the socket did not take goes back to the
/// front of the queue: a record once begun is finished by whoever sends next.
struct Flight<'a, S: Socket> {
    outbox: &'a Outbox,
    socket: &'a S,
    bytes: Scratch,
    sent_before: u64,
}

impl<S: Socket> Drop for Flight<'_, S> {
    fn drop(&mut self) {
        let taken = usize::try_from(self.socket.bytes_sent() - self.sent_before).unwrap_or(usize::MAX);
        let left = self.bytes.used().get(taken..).unwrap_or_default();
        if !left.is_empty() {
            let mut queue = self.outbox.queue.borrow_mut();
            let mut joined = Scratch::default();
            joined.push(left);
            joined.push(queue.used());
            *queue = joined;
        }
        self.outbox.sending.set(false);
        for waker in self.outbox.waiting.borrow_mut().drain(..) {
            waker.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_lite::future::{block_on, poll_once};

    use super::super::socket::Script;
    use super::*;

    fn append(outbox: &Outbox, bytes: &[u8]) {
        let appended: io::Result<()> = outbox.append(|queue| {
            queue.push(bytes);
            Ok(())
        });
        appended.unwrap();
    }

    #[test]
    fn a_dropped_sender_leaves_its_rest_to_the_next_one() {
        block_on(async {
            let (ours, theirs) = Script::pair();
            theirs.accept_at_most(3);
            let outbox = Outbox::default();
            append(&outbox, b"abcdef");
            assert!(poll_once(outbox.flush(&ours)).await.is_none());
            append(&outbox, b"ghi");
            theirs.accept_at_most(1 << 20);
            outbox.flush(&ours).await.unwrap();
            let mut seen = Vec::new();
            while seen.len() < 9 {
                seen.extend(theirs.receive().await.unwrap().unwrap());
            }
            assert_eq!(seen, b"abcdefghi");
        });
    }

    #[test]
    fn a_peer_that_never_reads_is_given_up_at_the_bound() {
        let outbox = Outbox::default();
        append(&outbox, &vec![0; TLS_OUTBOX_BYTES_MAX + 1]);
        let refused: io::Result<()> = outbox.append(|_| Ok(()));
        assert!(refused.is_err());
    }
}
