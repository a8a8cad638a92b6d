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
/// Time of a busy shard that a sandbox gets at once, while others ask for little. Larger: those wait as long. Smaller: the
/// ring is looked at more often, at a few microseconds each time.
pub const SHARE_SLICE: Duration = Duration::from_micros(30);
/// The same while all ask for much. Larger: they wait for each other. Smaller: as above.
pub const SHARE_SLICE_LONG: Duration = Duration::from_micros(200);
/// For how long slices stay short after somebody who asks for little was seen. Larger: a shard on which all ask for much
/// looks at the ring more often. Smaller: whoever asks seldom waits for a long slice.
pub const SHARE_QUICK: Duration = Duration::from_millis(100);
/// Time over which it is judged who asks for little. Larger: who begins to ask for much counts as little for longer.
/// Smaller: one request counts as much.
pub const SHARE_WINDOW: Duration = Duration::from_millis(10);
/// What a sandbox that asks for little has of that at most: a twentieth. Larger: looks at the ring for many that share a
/// busy shard. Smaller: long slices for those who ask some hundred times in a second.
pub const SHARE_LITTLE: Duration = Duration::from_micros(500);
/// For how long a shard counts as shared after two sandboxes had something to do. Larger: one that is alone pays for the
/// looks of others. Smaller: whoever asks seldom finds the shard taken by one that asks for much.
pub const SHARE_MEMORY: Duration = Duration::from_secs(1);
/// Parts of one task, such as the streams of a connection, that go on in one turn before they are measured. Larger: others
/// wait for more of them. Smaller: quiet connections read the clock.
pub const SHARE_PARTS: u32 = 4;
/// What a sandbox has had at most by one turn of a task; the clock also counts what the kernel ran meanwhile. Larger: who is
/// put aside by the kernel waits again. Smaller: costly turns, such as handshakes, count as cheap ones.
pub const SHARE_CHARGE_MAX: Duration = Duration::from_millis(1);
