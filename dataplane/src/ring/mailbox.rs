//! From other threads to a shard: a bounded queue, and a one-place slot whose writes merge.
//!
//! Each message takes a lock for a few instructions; nobody holds it while waiting. The receiving task runs in the next
//! turn of the shard; where that is busy, before the connections of that turn.

use std::{
    collections::VecDeque,
    fmt,
    future::poll_fn,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
};

use super::{Ring, driver::Doorbell};

/// Whom to wake, and who does it.
struct Waiting {
    waker: Waker,
    doorbell: Arc<Doorbell>,
}

impl Waiting {
    fn here(cx: &Context<'_>) -> Self {
        Self { waker: cx.waker().clone(), doorbell: Arc::clone(&Ring::current().1.doorbell) }
    }

    fn wake(self) {
        self.doorbell.wake(self.waker);
    }
}

/// What a lock guards is whole at every instruction, so a panic elsewhere does not spoil it.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

struct State<T> {
    queue: VecDeque<T>,
    senders: usize,
    closed: bool,
    waiting: Option<Waiting>,
}

struct Channel<T> {
    state: Mutex<State<T>>,
    room: Condvar,
    capacity: usize,
}

/// A bounded queue to one shard. `capacity` is at least one.
pub fn channel<T: Send>(capacity: usize) -> (Sender<T>, Receiver<T>) {
    let state = State { queue: VecDeque::new(), senders: 1, closed: false, waiting: None };
    let channel =
        Arc::new(Channel { state: Mutex::new(state), room: Condvar::new(), capacity: capacity.max(1) });
    (Sender(Arc::clone(&channel)), Receiver(channel))
}

/// The end for any thread.
pub struct Sender<T>(Arc<Channel<T>>);

/// Why a message was not taken; it is given back.
#[derive(PartialEq, Eq)]
pub enum SendError<T> {
    /// The queue is full.
    Full(T),
    /// The receiver is gone.
    Closed(T),
}

impl<T> fmt::Debug for SendError<T> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Full(_) => "Full",
            Self::Closed(_) => "Closed",
        })
    }
}

impl<T> fmt::Display for SendError<T> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Full(_) => "the shard's mailbox is full",
            Self::Closed(_) => "the shard is gone",
        })
    }
}

impl<T> std::error::Error for SendError<T> {}

impl<T: Send> Sender<T> {
    /// Puts a message into the queue, at once or not at all. For shards.
    ///
    /// # Errors
    /// The queue is full, or the receiver is gone.
    pub fn try_send(&self, message: T) -> Result<(), SendError<T>> {
        let state = lock(&self.0.state);
        if state.closed {
            return Err(SendError::Closed(message));
        }
        if state.queue.len() >= self.0.capacity {
            return Err(SendError::Full(message));
        }
        Self::put(state, message);
        Ok(())
    }

    /// Puts a message into the queue and blocks the thread while it is full. Never on a shard.
    ///
    /// # Errors
    /// The receiver is gone.
    pub fn send_blocking(&self, message: T) -> Result<(), SendError<T>> {
        let mut state = lock(&self.0.state);
        while !state.closed && state.queue.len() >= self.0.capacity {
            state = self.0.room.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        if state.closed {
            return Err(SendError::Closed(message));
        }
        Self::put(state, message);
        Ok(())
    }

    fn put(mut state: MutexGuard<'_, State<T>>, message: T) {
        state.queue.push_back(message);
        let waiting = state.waiting.take();
        drop(state);
        if let Some(waiting) = waiting {
            waiting.wake();
        }
    }
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        lock(&self.0.state).senders += 1;
        Self(Arc::clone(&self.0))
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        let mut state = lock(&self.0.state);
        state.senders -= 1;
        let waiting = if state.senders == 0 { state.waiting.take() } else { None };
        drop(state);
        if let Some(waiting) = waiting {
            waiting.wake();
        }
    }
}

/// The end on a shard.
pub struct Receiver<T>(Arc<Channel<T>>);

impl<T: Send> Receiver<T> {
    /// The next message, or `None` when every sender is gone and the queue is empty. Dropping the await loses none.
    pub async fn recv(&mut self) -> Option<T> {
        poll_fn(|cx| self.poll_recv(cx)).await
    }

    /// Takes no more messages, and gives those that nobody received.
    pub fn close(self) -> VecDeque<T> {
        let mut state = lock(&self.0.state);
        state.closed = true;
        std::mem::take(&mut state.queue)
    }

    fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<Option<T>> {
        let mut state = lock(&self.0.state);
        if let Some(message) = state.queue.pop_front() {
            drop(state);
            self.0.room.notify_one();
            return Poll::Ready(Some(message));
        }
        if state.senders == 0 {
            return Poll::Ready(None);
        }
        let before = state.waiting.replace(Waiting::here(cx));
        drop(state);
        drop(before);
        Poll::Pending
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        let mut state = lock(&self.0.state);
        state.closed = true;
        let (left, waiting) = (std::mem::take(&mut state.queue), state.waiting.take());
        drop(state);
        drop((left, waiting));
        self.0.room.notify_all();
    }
}

struct Place<T> {
    value: Option<T>,
    waiting: Option<Waiting>,
}

/// One place between a writer that must never wait and a shard that must never fall behind: a write that finds a
/// value merges with it, so the reader skips states but no part of their meaning.
pub struct Slot<T>(Arc<Mutex<Place<T>>>);

impl<T> Clone for Slot<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T: Send> Default for Slot<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T: Send> Slot<T> {
    /// An empty slot.
    pub fn new() -> Self {
        Self(Arc::new(Mutex::new(Place { value: None, waiting: None })))
    }

    /// Puts a value into the slot. `merge` gets the value that is still there and the new one; it must be quick,
    /// because it runs under the lock.
    pub fn put(&self, value: T, merge: impl FnOnce(&mut T, T)) {
        let mut place = lock(&self.0);
        match &mut place.value {
            Some(there) => merge(there, value),
            None => place.value = Some(value),
        }
        let waiting = place.waiting.take();
        drop(place);
        if let Some(waiting) = waiting {
            waiting.wake();
        }
    }

    /// Takes the value if there is one.
    pub fn try_take(&self) -> Option<T> {
        lock(&self.0).value.take()
    }

    /// Waits for a value, on a shard. One task takes. Dropping the await loses none.
    pub async fn take(&self) -> T {
        poll_fn(|cx| {
            let mut place = lock(&self.0);
            if let Some(value) = place.value.take() {
                return Poll::Ready(value);
            }
            let before = place.waiting.replace(Waiting::here(cx));
            drop(place);
            drop(before);
            Poll::Pending
        })
        .await
    }
}
