//! Bounds of HTTP/2.

use std::time::Duration;

/// Bytes that are gathered of what HTTP/2 writes before they are handed to the kernel. Larger: a slow reader holds more
/// memory. Smaller: more system calls.
pub const H2_GATHERED_BYTES: usize = 64 << 10;
/// Requests that one connection carries at a time. Larger: one client holds more memory. Smaller: pages with many
/// parts wait.
pub const H2_STREAMS_MAX: u32 = 128;
/// Bytes that a peer may send of one connection, and of one stream, whatever is left for the sandbox: less cannot be
/// said (RFC 9113 §6.9.2). Larger: idle connections may hold more. Smaller: peers begin with as much anyway.
pub const H2_WINDOW_LEAST: u32 = 65_535;
/// Bytes that a peer may send of all streams of a new connection before we have sent them on; of one stream, half of
/// it. Larger: a slow reader holds more memory. Smaller: long fat links are filled later.
pub const H2_WINDOW_FIRST: usize = 16 << 20;
/// The same at most, of a connection on which more was sent on within a round trip than half of what a stream may
/// send. Larger: a slow reader that was fast holds more memory. Smaller: very long fat links are not filled.
pub const H2_WINDOW_MAX: usize = 32 << 20;
/// What one growth multiplies by. Larger: one burst takes much. Smaller: more round trips until a link is filled.
pub const H2_WINDOW_GROWTH: usize = 4;
/// A new connection gets at most this part of what is left to its sandbox. Larger: the first ones leave less.
/// Smaller: each takes little.
pub const H2_WINDOW_SHARE: usize = 4;
/// Bytes that all peers of one sandbox on one leg may send before we have sent them on, beyond the least of each.
/// Larger: one sandbox whose readers are slow takes more memory. Smaller: fewer fast transfers at a time.
pub const H2_SANDBOX_WINDOWS: usize = 64 << 20;
/// The same for all sandboxes of a shard, both legs. Larger: many slow readers fill the machine. Smaller: sandboxes
/// slow down each other.
pub const H2_SHARD_WINDOWS: usize = 1 << 30;
/// How long a reader may leave a piece lying before no more requests join its connection to the upstream. Larger:
/// requests wait behind it. Smaller: more connections.
pub const H2_STALL_NOTICE: Duration = Duration::from_secs(1);
/// Pause between two looks at a shared connection. Larger: dead ones are noticed later. Smaller: more wake-ups.
pub const H2_LOOK_TIME: Duration = Duration::from_secs(10);
/// Looks without a sign of the upstream after which an unanswered PING says that it is gone. Larger: requests wait
/// longer for a dead upstream. Smaller: a busy one counts as dead.
pub const H2_LOOKS_UNANSWERED: u32 = 2;
/// Looks without a sign of an upstream that has requests after which it is asked by a PING: 310 s. Larger: it may be
/// long gone. Smaller: servers of gRPC close connections that ask more often than every five minutes.
pub const H2_LOOKS_SILENT: u32 = 31;
/// Idle time after which a connection is asked by a PING when it is used again. Larger: requests go to dead
/// connections. Smaller: more frames.
pub const H2_UNSURE_TIME: Duration = Duration::from_secs(10);
/// Bytes of one stream that wait for the kernel. Larger: slow readers hold more memory. Smaller: more turns.
pub const H2_SEND_BYTES_MAX: usize = 64 << 10;
/// Streams that a client may break before it was answered, at a time. Larger: floods of broken requests cost more.
/// Smaller: clients that cancel much are cut off.
pub const H2_RESETS_MAX: usize = 32;
/// Broken streams that a connection remembers, so that what the peer has sent on them meanwhile is no fault of its.
/// Larger: memory. Smaller: who cancels many at once loses the connection.
pub const H2_RESETS_KNOWN: usize = 256;
/// For how long. Larger: memory. Smaller: peers that are far away lose their connection.
pub const H2_RESET_TIME: Duration = Duration::from_secs(15);
/// Requests of one connection under way, those included that the client has broken and that are still being ended.
/// Larger: a client that opens and breaks streams holds more. Smaller: clients that cancel much are cut off.
pub const H2_UNDER_WAY_MAX: usize = 2 * H2_STREAMS_MAX as usize;
/// Frames that carry nothing for a request (PING, SETTINGS, PRIORITY, WINDOW_UPDATE, RST_STREAM, empty DATA and the
/// like) that a peer may send at once. Larger: floods cost more before they end. Smaller: lively peers are cut off.
pub const H2_IDLE_FRAMES_BURST: usize = 2_000;
/// How many more of them each second allows. Larger and smaller: as above.
pub const H2_IDLE_FRAMES_PER_S: u128 = 50;
/// Bytes of payload, of either direction, that allow one more of them. Larger: readers that give back their window in
/// small parts are cut off. Smaller: floods cost more.
pub const H2_IDLE_FRAME_BYTES: usize = 256;
/// Requests of one connection that h2 may refuse by itself. Larger: floods of malformed requests cost more records.
/// Smaller: clients with one bad request among many are cut off.
pub const H2_REFUSED_MAX: usize = 256;
/// Interim answers to one request. Larger: an upstream that sends nothing else holds memory. Smaller: progress is lost.
pub const INTERIM_ANSWERS_MAX: u32 = 32;
/// Idle shared connections to upstreams of one shard. Larger: descriptors of many hosts pile up. Smaller: hosts are
/// dialled again.
pub const H2_SHARED_IDLE_MAX: usize = 2_048;
/// Hosts of which a shard remembers that they do not speak HTTP/2. Larger: memory. Smaller: bursts to new connections
/// wait for the first.
pub const HTTP11_HOSTS_MAX: usize = 8_192;
