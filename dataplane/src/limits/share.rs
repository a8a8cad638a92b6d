//! Bounds of what one sandbox may take of its shard's time.

use std::time::Duration;

/// A handler call of that time is charged to nobody. Larger: slow calls take more than their part. Smaller: a sandbox that
/// asks much of an ordinary handler is held back although it harms nobody more than without one.
pub const HANDLER_CALL_FREE: Duration = Duration::from_micros(50);
/// Processor time after which a call has held up the shard, if the watchdog saw it; no other is charged for more, since
/// the clock on the wall also counts what the kernel ran meanwhile. Larger: others wait as long for calls that cost only
/// their time. Smaller: slow handlers are refused that others do not notice.
pub const HANDLER_HELD_UP: Duration = Duration::from_millis(1);
/// How many times its time such a call costs, and one that was stopped. Larger: one mistake of a handler silences it for
/// longer. Smaller: more requests of others wait behind one.
pub const HANDLER_HELD_UP_TIMES: u32 = 40;
/// One part in so many of a shard's time is for the charged calls of one sandbox's handlers. Larger: slow handlers are
/// refused sooner. Smaller: others wait for them more often.
pub const HANDLER_BUDGET_PART: u32 = 10;
/// What a sandbox may save of it. Larger: a burst of slow calls makes others wait for longer. Smaller: pages that ask for
/// much at once are held back.
pub const HANDLER_BUDGET_DEPTH: Duration = Duration::from_millis(100);
/// How long a request may wait until a handler may be called for it. Larger: requests pile up. Smaller: clients are refused
/// that had only to be slowed down.
pub const HANDLER_WAIT: Duration = Duration::from_millis(100);
/// Requests of one sandbox that wait so, each with a copy of its head. Larger: memory. Smaller: bursts are refused.
pub const HANDLER_WAITING_MAX: usize = 64;
