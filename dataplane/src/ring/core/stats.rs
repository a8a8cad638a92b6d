//! What a ring did and holds, read out of its core.

use super::{BODIES, Core, HEADS};
use crate::ring::Stats;

impl Core {
    /// What the ring did and holds.
    pub fn stats(&self) -> Stats {
        Stats {
            enters: self.counters.enters.get(),
            completions: self.counters.completions.get(),
            starved: self.counters.starved.get(),
            accept_pauses: self.counters.accept_pauses.get(),
            strays: self.counters.strays.get(),
            in_flight: self.in_flight.get(),
            operations: self.slab.borrow().len(),
            head_buffers_out: self.pools[usize::from(HEADS)].out(),
            body_buffers_out: self.pools[usize::from(BODIES)].out(),
            timers: self.wheel.borrow().len(),
        }
    }

    /// Everything that tells why a shard does not go on.
    #[cfg(test)]
    pub fn report(&self) -> String {
        let starved = [self.starved[0].borrow().len(), self.starved[1].borrow().len()];
        format!(
            "{:#?}\nclosing {}, late {}, idle {}, starved {starved:?}, next timer {:?}\n{}",
            self.stats(),
            self.is_closing(),
            self.late.borrow().len(),
            self.is_idle(),
            self.wheel.borrow().next().map(|at| at.saturating_duration_since(std::time::Instant::now())),
            self.slab.borrow().report()
        )
    }
}
