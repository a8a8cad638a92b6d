//! How much a peer of HTTP/2 may send before the other leg has taken it.
//!
//! A window that is smaller than what a link holds slows a transfer down; a larger one lets a slow reader hold memory.
//! So each connection begins with a part of what is left to its sandbox, and grows only when its other leg takes so much
//! within a round trip that the window can be what slows it. What all windows of a sandbox allow together is bounded,
//! and so is what those of a shard do.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    task::{Context, Poll},
};

use ::h2::{Ping, PingPong, client, server};

use super::{Payload, Pipe};
use crate::limits::{H2_WINDOW_FIRST, H2_WINDOW_GROWTH, H2_WINDOW_LEAST, H2_WINDOW_MAX, H2_WINDOW_SHARE};

/// Bytes that peers may be allowed to send, together.
pub struct Allowance {
    left: Cell<usize>,
    whole: Option<Rc<Allowance>>,
}

impl Allowance {
    /// So many bytes.
    pub fn new(bytes: usize) -> Rc<Self> {
        Rc::new(Self { left: Cell::new(bytes), whole: None })
    }

    /// So many bytes of a larger allowance, for as long as that has them.
    pub fn of(whole: &Rc<Self>, bytes: usize) -> Rc<Self> {
        Rc::new(Self { left: Cell::new(bytes), whole: Some(Rc::clone(whole)) })
    }

    /// Bytes that are left.
    pub fn left(&self) -> usize {
        self.whole.as_ref().map_or(usize::MAX, |whole| whole.left()).min(self.left.get())
    }

    fn take(&self, bytes: usize) {
        self.left.set(self.left.get() - bytes);
        if let Some(whole) = &self.whole {
            whole.take(bytes);
        }
    }

    fn give_back(&self, bytes: usize) {
        self.left.set(self.left.get() + bytes);
        if let Some(whole) = &self.whole {
            whole.give_back(bytes);
        }
    }
}

/// What one connection has of an allowance; given back when it is dropped.
struct Grant {
    from: Rc<Allowance>,
    bytes: Cell<usize>,
}

impl Grant {
    /// A part of what is left.
    fn first(from: &Rc<Allowance>) -> Self {
        let bytes = (from.left() / H2_WINDOW_SHARE).min(H2_WINDOW_FIRST);
        from.take(bytes);
        Self { from: Rc::clone(from), bytes: Cell::new(bytes) }
    }

    /// More of it, never more than half of what is left. Gives whether that is worth a change.
    fn grow(&self) -> bool {
        let bytes = self.bytes.get();
        let wanted = (bytes.max(H2_WINDOW_LEAST as usize) * H2_WINDOW_GROWTH).min(H2_WINDOW_MAX);
        let more = wanted.saturating_sub(bytes).min(self.from.left() / 2);
        if more < bytes / 4 || more == 0 {
            return false;
        }
        self.from.take(more);
        self.bytes.set(bytes + more);
        true
    }
}

impl Drop for Grant {
    fn drop(&mut self) {
        self.from.give_back(self.bytes.get());
    }
}

/// A connection whose windows can be changed.
pub trait Resize {
    /// Lets the peer send so much of each stream and of all together. False where the change before is not known to
    /// the peer yet: nothing was changed then.
    fn resize(&mut self, stream: u32, connection: u32) -> bool;
}

impl Resize for server::Connection<Pipe, Payload> {
    fn resize(&mut self, stream: u32, connection: u32) -> bool {
        let changed = self.set_initial_window_size(stream).is_ok();
        if changed {
            self.set_target_window_size(connection);
        }
        changed
    }
}

impl Resize for client::Connection<Pipe, Payload> {
    fn resize(&mut self, stream: u32, connection: u32) -> bool {
        let changed = self.set_initial_window_size(stream).is_ok();
        if changed {
            self.set_target_window_size(connection);
        }
        changed
    }
}

/// The windows of one connection, and the PING by which its round trips are measured and its peer is asked whether it
/// is there: h2 has one for both.
pub struct Windows {
    grant: Grant,
    /// What the peer was told last.
    told: Cell<usize>,
    /// Bytes that the other leg has taken.
    taken: Cell<u64>,
    /// The same when the last round trip began.
    before: Cell<u64>,
    /// Bytes to be taken before another round trip is measured.
    pause: Cell<u64>,
    pings: RefCell<Option<PingPong>>,
    asked: Cell<bool>,
    stalled: Cell<u32>,
}

impl Windows {
    /// Of a new connection.
    pub fn of(allowance: &Rc<Allowance>) -> Rc<Self> {
        let grant = Grant::first(allowance);
        let told = grant.bytes.get();
        Rc::new(Self {
            grant,
            told: Cell::new(told),
            taken: Cell::new(0),
            before: Cell::new(0),
            pause: Cell::new(u64::from(stream_of(told)) / 4),
            pings: RefCell::new(None),
            asked: Cell::new(false),
            stalled: Cell::new(0),
        })
    }

    /// Bytes that the peer may send of one stream.
    pub fn stream(&self) -> u32 {
        stream_of(self.told.get())
    }

    /// Bytes that the peer may send of all streams.
    pub fn connection(&self) -> u32 {
        connection_of(self.told.get())
    }

    /// Measures by this from now on.
    pub fn measure_by(&self, pings: Option<PingPong>) {
        self.pings.replace(pings);
    }

    /// The other leg has taken so many bytes.
    pub fn took(&self, bytes: usize) {
        let taken = self.taken.get() + bytes as u64;
        self.taken.set(taken);
        if !self.asked.get() && taken - self.before.get() >= self.pause.get() {
            self.ask();
        }
    }

    /// Asks the peer whether it is there, where it is not being asked already.
    pub fn ask(&self) {
        if let Some(pings) = &mut *self.pings.borrow_mut()
            && !self.asked.get()
            && pings.send_ping(Ping::opaque()).is_ok()
        {
            self.asked.set(true);
            self.before.set(self.taken.get());
        }
    }

    /// Whether the peer was asked and has not answered.
    pub fn is_asked(&self) -> bool {
        self.asked.get()
    }

    /// Takes the peer's answer, and changes the windows where they are too small. To be polled with the connection.
    pub fn tend(&self, connection: &mut impl Resize, cx: &mut Context<'_>) {
        if !self.asked.get() {
            return;
        }
        let answered = match &mut *self.pings.borrow_mut() {
            Some(pings) => pings.poll_pong(cx),
            None => return,
        };
        let Poll::Ready(Ok(_)) = answered else { return };
        self.asked.set(false);
        let taken = self.taken.get() - self.before.get();
        self.before.set(self.taken.get());
        let stream = u64::from(self.stream());
        // A reader that does not keep pace gets no more to hold.
        if taken < stream / 2 || !(self.grant.bytes.get() > self.told.get() || self.grant.grow()) {
            self.pause.set((self.pause.get() * 2).min(stream * 16));
            return;
        }
        let granted = self.grant.bytes.get();
        if connection.resize(stream_of(granted), connection_of(granted)) {
            self.told.set(granted);
        }
        self.pause.set(u64::from(self.stream()) / 4);
    }

    /// A stream whose reader leaves lying what came for it, until the guard is dropped.
    pub fn stall(self: &Rc<Self>) -> Stalled {
        self.stalled.set(self.stalled.get() + 1);
        Stalled(Rc::clone(self))
    }

    /// Whether there is such a stream: it may hold half of what the peer can send.
    pub fn is_stalled(&self) -> bool {
        self.stalled.get() > 0
    }
}

/// Counts a stream as stalled.
pub struct Stalled(Rc<Windows>);

impl Drop for Stalled {
    fn drop(&mut self) {
        self.0.stalled.set(self.0.stalled.get() - 1);
    }
}

/// What a connection may send by its grant. It never exceeds what HTTP/2 can say (RFC 9113 §6.9.1).
fn connection_of(granted: usize) -> u32 {
    H2_WINDOW_LEAST + u32::try_from(granted).unwrap_or(0)
}

/// Half of it, so that one stream that stalls leaves room for the others.
fn stream_of(granted: usize) -> u32 {
    (connection_of(granted) / 2).max(H2_WINDOW_LEAST)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Remembers what it was told.
    #[derive(Default)]
    struct Told(Vec<(u32, u32)>);

    impl Resize for Told {
        fn resize(&mut self, stream: u32, connection: u32) -> bool {
            self.0.push((stream, connection));
            true
        }
    }

    #[test]
    fn connections_share_what_is_left_and_never_exceed_it() {
        let shard = Allowance::new(100 << 20);
        let sandbox = Allowance::of(&shard, 64 << 20);
        let many: Vec<_> = (0..200).map(|_| Windows::of(&sandbox)).collect();
        assert_eq!(many[0].connection(), H2_WINDOW_LEAST + (16 << 20));
        assert!(many.iter().all(|windows| windows.stream() >= H2_WINDOW_LEAST));
        let together: usize =
            many.iter().map(|windows| (windows.connection() - H2_WINDOW_LEAST) as usize).sum();
        assert_eq!((sandbox.left(), shard.left()), ((64 << 20) - together, (100 << 20) - together));
        // The last ones have the least, which is still enough to go on.
        assert_eq!(many[199].stream(), H2_WINDOW_LEAST);
        drop(many);
        assert_eq!((sandbox.left(), shard.left()), (64 << 20, 100 << 20));
    }

    #[test]
    fn a_shard_that_has_nothing_left_gives_nothing() {
        let shard = Allowance::new(1 << 20);
        let (one, two) = (Allowance::of(&shard, 64 << 20), Allowance::of(&shard, 64 << 20));
        let mut held = Vec::new();
        for _ in 0..100 {
            let windows = Windows::of(&one);
            while windows.grant.grow() {}
            held.push(windows);
        }
        assert!(shard.left() < 64, "{}", shard.left());
        assert!(Windows::of(&two).connection() < H2_WINDOW_LEAST + 64);
    }

    #[test]
    fn growth_ends_at_its_bound_and_leaves_something_to_others() {
        let sandbox = Allowance::new(1 << 30);
        let windows = Windows::of(&sandbox);
        while windows.grant.grow() {}
        assert_eq!(windows.grant.bytes.get(), H2_WINDOW_MAX);
        let narrow = Allowance::new(32 << 20);
        let windows = Windows::of(&narrow);
        while windows.grant.grow() {}
        assert!(narrow.left() > 0);
    }

    #[test]
    fn nobody_is_told_before_a_round_trip_was_measured() {
        let (windows, mut told) = (Windows::of(&Allowance::new(64 << 20)), Told::default());
        windows.took(64 << 20);
        windows.tend(&mut told, &mut Context::from_waker(std::task::Waker::noop()));
        assert!(told.0.is_empty() && !windows.is_asked());
        let stalled = windows.stall();
        assert!(windows.is_stalled());
        drop(stalled);
        assert!(!windows.is_stalled());
    }
}
