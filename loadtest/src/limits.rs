//! Every bound of the generator, each with what breaks when it is larger and when it is smaller.

use std::time::Duration;

/// Connections of one load. Larger: descriptors of the usual limit run out. Smaller: fleets cannot be played.
pub const CONNECTIONS_MAX: usize = 16_384;
/// Sandboxes of one plan. Larger: filling takes minutes, and a plane takes no more. Smaller: no fleet.
pub const SANDBOXES_MAX: usize = 200_000;
/// Host names of one plan. Larger: the origin's hosts file slows the plane's start. Smaller: no first hits.
pub const HOSTS_MAX: usize = 100_000;
/// HTTP/2 requests under way on one connection. Larger: usual servers allow no more. Smaller: no batching is seen.
pub const STREAMS_MAX: usize = 100;
/// Bytes of one body. Larger: positions within it no longer fit their field. Smaller: bulk is over before it is
/// measured.
pub const BODY_BYTES_MAX: u64 = 1 << 32;
/// Time in which nothing is answered while something is asked. Larger: a dead gateway is noticed late. Smaller: a
/// loaded machine counts as dead.
pub const STALL: Duration = Duration::from_secs(15);
/// Time for requests of an open loop that are under way when it ends. Larger: a stuck run ends later. Smaller: slow
/// answers count as none.
pub const DRAIN: Duration = Duration::from_secs(3);
/// Broken connections after which a load gives up. Larger: a broken gateway is hammered for longer. Smaller: a row that
/// loses connections on purpose ends.
pub const ERRORS_MAX: u64 = 2_000;
/// Bytes read from one connection at once. Larger: others wait for it. Smaller: more system calls for bulk.
pub const READ_BYTES: usize = 64 << 10;
/// Bytes of a head. Larger: a broken peer fills memory. Smaller: real ones do not fit.
pub const HEAD_BYTES_MAX: usize = 64 << 10;
/// Bytes queued on one connection. Larger: memory. Smaller: bulk stalls between turns.
pub const QUEUED_BYTES_MAX: usize = 256 << 10;
/// Readiness events of one turn. Larger: nothing. Smaller: more turns under load.
pub const EVENTS: usize = 1024;
/// Time between two looks at what does not come from a socket: the end, the progress line, dripping bodies.
pub const TICK: Duration = Duration::from_millis(20);
/// Time for a program to get ready. Larger: a dead one is noticed late. Smaller: a loaded machine fails.
pub const READY_TIME: Duration = Duration::from_secs(60);
/// Time for one call of control's API. Larger: a dead control is noticed late. Smaller: filling a fleet fails.
pub const CALL_TIME: Duration = Duration::from_secs(120);
/// Rows of one call that fills a fleet; control takes 10,000. Larger: refused. Smaller: more calls.
pub const FILL_ROWS: usize = 5_000;
/// Bytes of a refusal that are kept to be shown. Larger: reports swell. Smaller: the remedy is cut off.
pub const REFUSAL_BYTES_MAX: usize = 600;
