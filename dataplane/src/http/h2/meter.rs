//! What h2 does by itself, seen from beside its wire: requests that it refuses, heads that it has written, and frames
//! that make work and carry nothing.

use std::{
    cell::{Cell, RefCell},
    time::Instant,
};

use super::frames::{Frame, Frames, Kind, Seen};
use crate::{
    limits::{H2_IDLE_FRAME_BYTES, H2_IDLE_FRAMES_BURST, H2_IDLE_FRAMES_PER_S, H2_STREAMS_MAX},
    ring::Ring,
};

/// Which end of a connection the gateway is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The sandbox speaks first.
    Server,
    /// We do.
    Client,
}

/// The first bytes of a client (RFC 9113 §3.4).
const PREFACE_BYTES: usize = 24;

/// A request that h2 has refused before anybody saw it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turned {
    /// Its stream was broken for this reason (RFC 9113 §7).
    Broken(u32),
    /// It was answered: its head is too long.
    Answered,
}

/// Reads along in both directions.
pub(super) struct Meter {
    inbound: RefCell<Frames>,
    outbound: RefCell<Frames>,
    role: Role,
    /// Frames that carry nothing and may still come.
    credit: Cell<usize>,
    since: Cell<Instant>,
    fault: Cell<Option<&'static str>>,
    head_open: Cell<bool>,
    newest: Cell<u32>,
    /// Streams that the peer has opened and that nobody has seen.
    fresh: RefCell<Vec<u32>>,
    turned: RefCell<Vec<Turned>>,
    opened: Cell<u32>,
    /// We have said farewell: whoever opens a stream after that asks elsewhere.
    leaving: Cell<bool>,
}

impl Meter {
    pub fn new(role: Role) -> Self {
        let (inbound, outbound) = match role {
            Role::Server => (PREFACE_BYTES, 0),
            Role::Client => (0, PREFACE_BYTES),
        };
        Self {
            inbound: RefCell::new(Frames::after(inbound)),
            outbound: RefCell::new(Frames::after(outbound)),
            role,
            credit: Cell::new(H2_IDLE_FRAMES_BURST),
            since: Cell::new(Ring::current().now()),
            fault: Cell::new(None),
            head_open: Cell::new(false),
            newest: Cell::new(0),
            fresh: RefCell::default(),
            turned: RefCell::default(),
            opened: Cell::new(0),
            leaving: Cell::new(false),
        }
    }

    /// Which frames the peer has sent too many of.
    pub fn fault(&self) -> Option<&'static str> {
        self.fault.get()
    }

    /// A head has begun and is not whole.
    pub fn is_head_open(&self) -> bool {
        self.head_open.get()
    }

    /// The stream of the last head that we wrote.
    pub fn opened(&self) -> u32 {
        self.opened.get()
    }

    /// Somebody has this request now.
    pub fn accepted(&self, stream: u32) {
        self.fresh.borrow_mut().retain(|fresh| *fresh != stream);
    }

    /// Requests that h2 has refused since the last call.
    pub fn turned(&self) -> Vec<Turned> {
        self.turned.take()
    }

    /// How many requests have come that nobody has seen. Those are not told of again.
    pub fn unseen(&self) -> usize {
        self.fresh.take().len()
    }

    /// Bytes come in. Tells of streams that ended by them.
    pub fn received(&self, bytes: &[u8], mut ended: impl FnMut(u32)) {
        self.inbound.borrow_mut().pass(bytes, |seen| match seen {
            Seen::Begun(frame) if frame.kind == Kind::Headers => self.head_open.set(true),
            Seen::Begun(_) => {}
            Seen::Whole(frame) => {
                if matches!(frame.kind, Kind::Headers | Kind::Continuation) && frame.ends_head() {
                    self.head_open.set(false);
                }
                if frame.kind == Kind::Reset {
                    ended(frame.stream);
                }
                self.came(&frame);
            }
        });
    }

    fn came(&self, frame: &Frame) {
        let carries = match frame.kind {
            Kind::Headers => true,
            Kind::Data => frame.length > 0 || frame.ends_stream(),
            _ => frame.acknowledges(),
        };
        if !carries {
            self.charge(frame.kind);
        } else if frame.kind == Kind::Data {
            self.earn(frame.length);
        }
        if self.role == Role::Server && frame.kind == Kind::Headers && frame.stream > self.newest.get() {
            self.newest.set(frame.stream);
            let mut fresh = self.fresh.borrow_mut();
            // h2 takes or refuses them before it reads more than a few frames.
            if !self.leaving.get() && fresh.len() < 2 * H2_STREAMS_MAX as usize {
                fresh.push(frame.stream);
            }
        }
    }

    /// Bytes go out. Tells of streams that ended by them.
    pub fn written(&self, bytes: &[u8], mut ended: impl FnMut(u32)) {
        self.outbound.borrow_mut().pass(bytes, |seen| {
            let Seen::Whole(frame) = seen else { return };
            match frame.kind {
                Kind::Headers => {
                    self.opened.set(self.opened.get().max(frame.stream));
                    self.turn(frame.stream, Turned::Answered);
                    self.earn(H2_IDLE_FRAME_BYTES * 4);
                }
                Kind::Reset => self.turn(frame.stream, Turned::Broken(frame.code)),
                Kind::Data => self.earn(frame.length),
                Kind::GoAway => self.leaving.set(true),
                _ => {}
            }
            if frame.kind == Kind::Reset || frame.ends_stream() {
                ended(frame.stream);
            }
        });
    }

    fn turn(&self, stream: u32, turned: Turned) {
        let mut fresh = self.fresh.borrow_mut();
        let before = fresh.len();
        fresh.retain(|fresh| *fresh != stream);
        if fresh.len() < before {
            self.turned.borrow_mut().push(turned);
        }
    }

    /// Payload that passes lets the peer send more of what goes with it.
    fn earn(&self, bytes: usize) {
        let earned = 2 + bytes / H2_IDLE_FRAME_BYTES;
        self.credit.set((self.credit.get() + earned).min(2 * H2_IDLE_FRAMES_BURST));
    }

    fn charge(&self, kind: Kind) {
        if self.credit.get() == 0 {
            let now = Ring::current().now();
            let passed = now.saturating_duration_since(self.since.replace(now));
            let earned = passed.as_millis().saturating_mul(H2_IDLE_FRAMES_PER_S) / 1_000;
            self.credit.set(usize::try_from(earned).unwrap_or(usize::MAX).min(H2_IDLE_FRAMES_BURST));
        }
        match self.credit.get() {
            0 => self.fault.set(self.fault.get().or(Some(kind.name()))),
            left => self.credit.set(left - 1),
        }
    }
}
