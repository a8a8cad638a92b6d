//! Every bound of the plane, each with what breaks when it is larger and when it is smaller.

use std::time::Duration;

/// Bytes of a plane's name. Larger: records and certificates swell. Smaller: host names do not fit.
pub const PLANE_NAME_BYTES_MAX: usize = 128;
/// Shards of one plane. Larger: locked memory for their rings runs out. Smaller: big machines idle.
pub const SHARDS_MAX: usize = 256;

/// From the first byte of a request to the end of its head. Larger: slow heads hold connections. Smaller: bad
/// mobile links fail.
pub const HEAD_TIME: Duration = Duration::from_secs(20);
/// A TLS handshake, each leg. Larger: half-open handshakes pile up. Smaller: slow clients fail.
pub const HANDSHAKE_TIME: Duration = Duration::from_secs(15);
/// An idle client connection between requests. Larger: idle connections pile up. Smaller: clients reconnect often.
pub const IDLE_TIME: Duration = Duration::from_secs(900);
/// Silence of an upstream while its answer is due. Larger: a dead upstream holds its client. Smaller: models that
/// think for minutes are cut off.
pub const UPSTREAM_SILENCE: Duration = Duration::from_secs(900);
/// Connections of one sandbox. Larger: one sandbox takes the plane's descriptors. Smaller: browsers and package
/// managers stall.
pub const SANDBOX_CONNECTIONS_MAX: usize = 4096;
/// Connections waiting to be handed to another shard. Larger: a stopped shard hoards descriptors. Smaller: bursts
/// are refused.
pub const HANDOVER_QUEUE_MAX: usize = 1024;
/// Bytes not yet sent that the kernel holds for one connection beyond what the peer acknowledged
/// (`TCP_NOTSENT_LOWAT`). Larger: more leaves after a lease ended in a stopped process. Smaller: bulk slows down.
pub const NOT_SENT_BYTES_MAX: u32 = 64 << 10;

/// Bytes of a host name as text (RFC 1035 §2.3.4). Larger: no resolver takes it. Smaller: valid names are refused.
pub const HOST_BYTES_MAX: usize = 253;
/// Bytes of one label of a host name (RFC 1035 §2.3.4). Larger: no resolver takes it. Smaller: valid names are refused.
pub const LABEL_BYTES_MAX: usize = 63;

/// Bytes of a sandbox's identifier. Larger: records and certificate subjects swell. Smaller: identifiers of
/// orchestrators do not fit.
pub const SANDBOX_ID_BYTES_MAX: usize = 128;
/// Places of one plane to which sandboxes are attached. Larger: a runaway orchestrator fills memory. Smaller: the
/// 100,000 sandboxes of a plane, each with a few places, do not fit.
pub const ATTACHMENTS_MAX: usize = 400_000;
/// Bytes of a `Proxy-Authorization` value. Larger: strangers make the plane decode and hash more. Smaller: long
/// tokens do not fit.
pub const PROXY_CREDENTIALS_BYTES_MAX: usize = 1024;
