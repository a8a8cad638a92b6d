//! The link between control and planes over real QUIC: joining, revisions, what is applied, what a peer may not do.

mod control;
mod peer;
mod plane;

mod applied;
mod bounds;
mod joining;
mod lease;
mod pool;
mod questions;
mod revisions;

use std::time::{Duration, Instant};

/// What takes longer than this has failed.
const PATIENCE: Duration = Duration::from_secs(60);

/// Waits until something holds that nobody tells of.
fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let started = Instant::now();
    while !holds() {
        assert!(started.elapsed() < PATIENCE, "never: {what}");
        std::thread::yield_now();
    }
}
