//! HTTP/2 (RFC 9113) by the crate h2 over our own wires, one exchange for each stream.
//!
//! A head becomes text of HTTP/1.1 and goes through the same parser, so every check of that holds for both versions and
//! everything behind the seam knows one kind of head.

mod frames;
mod head;
mod leg;
mod meter;
mod pipe;
mod serve;
mod watch;
mod windows;

pub use head::{request, request_head, response, response_head};
pub use leg::{SendError, StreamLeg};
pub use meter::{Role, Turned};
pub use pipe::{Pipe, Pump};
pub use serve::{StreamOf, serve};
pub use watch::{Look, Watch};
pub use windows::{Allowance, Resize, Stalled, Windows};

use std::rc::Rc;

use bytes::Buf;

use super::{exchange::Gate, h1::Slice};
use crate::tls::Chunk;

/// Payload as h2 sends it: where it was received. It holds the gate of its exchange, so that a change of policy meets
/// the exchange for as long as h2 has any of it queued.
#[derive(Default)]
pub struct Payload {
    bytes: Slice<Chunk>,
    gate: Option<(Rc<dyn Gate>, Pump)>,
}

impl Payload {
    /// Payload of the exchange with this gate.
    pub fn new(bytes: Slice<Chunk>, gate: Option<(Rc<dyn Gate>, Pump)>) -> Self {
        Self { bytes, gate }
    }
}

/// What is dropped was written and not yet sent, so the pump holds the gate on. Nor could it be dropped here: h2 drops
/// payload under its lock, and the last holder of a gate ends a stream, which takes that lock.
impl Drop for Payload {
    fn drop(&mut self) {
        if let Some((gate, pump)) = self.gate.take() {
            pump.hold(gate);
        }
    }
}

impl Buf for Payload {
    fn remaining(&self) -> usize {
        self.bytes.len()
    }

    fn chunk(&self) -> &[u8] {
        &self.bytes
    }

    fn advance(&mut self, count: usize) {
        self.bytes.advance(count);
    }
}
