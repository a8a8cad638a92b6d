//! Bounds of TCP connections, of either leg.

use std::time::Duration;

/// Silence of a TCP connection after which the kernel asks the peer whether it is there. Larger: peers
/// that vanished are noticed late. Smaller: idle connections cost.
pub const TCP_SILENCE: Duration = Duration::from_secs(60);
/// Pause between two of its questions. Larger and smaller: as above.
pub const TCP_PROBE_PAUSE: Duration = Duration::from_secs(15);
/// Questions without an answer. Larger: as above. Smaller: links that lose packets lose connections.
pub const TCP_PROBES: u32 = 4;
/// How long a peer may take nothing of what is sent to it. Larger: readers that stand still hold both legs. Smaller:
/// downloads that a person has paused break off.
pub const SEND_SILENCE: Duration = Duration::from_secs(900);
