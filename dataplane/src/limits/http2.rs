//! Bounds of HTTP/2.

use std::time::Duration;

/// Bytes that are gathered of what HTTP/2 writes before they are handed to the kernel. Larger: a slow reader holds more
/// memory. Smaller: more system calls.
pub const H2_GATHERED_BYTES: usize = 64 << 10;
/// Requests that one connection carries at a time. Larger: one client holds more memory. Smaller: pages with many
/// parts wait.
pub const H2_STREAMS_MAX: u32 = 128;
/// Bytes that a peer may send of one stream before we have sent them on. Larger: a slow reader holds more memory.
/// Smaller: long fat links are not filled.
pub const H2_STREAM_WINDOW: u32 = 256 << 10;
/// Bytes that a peer may send of all streams of a connection before we have sent them on. Larger: slow readers hold
/// more memory. Smaller: one stalled stream stalls the others.
pub const H2_CONNECTION_WINDOW: u32 = 2 << 20;
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
/// Interim answers to one request. Larger: an upstream that sends nothing else holds memory. Smaller: progress is lost.
pub const INTERIM_ANSWERS_MAX: u32 = 32;
/// Idle shared connections to upstreams of one shard. Larger: descriptors of many hosts pile up. Smaller: hosts are
/// dialled again.
pub const H2_SHARED_IDLE_MAX: usize = 2_048;
/// Hosts of which a shard remembers that they do not speak HTTP/2. Larger: memory. Smaller: bursts to new connections
/// wait for the first.
pub const HTTP11_HOSTS_MAX: usize = 8_192;
