//! Why a ring cannot be had, with the setting that would allow it.

use std::io;

use control_wire::machine::RingRefusal;

use super::RingConfig;

/// Why there is no ring.
#[derive(Debug, thiserror::Error)]
pub enum RingError {
    /// The machine gives none. The sentence names the setting.
    #[error(transparent)]
    Machine(#[from] RingRefusal),
    /// The ring of buffers was refused.
    #[error(
        "the kernel refuses the ring of receive buffers: Linux 6.1 or later is needed, and LimitMEMLOCK must leave \
         room for it"
    )]
    Buffers(#[source] io::Error),
    /// Sizes that no ring can have.
    #[error(
        "no ring can have these sizes: {0:?}; entries and buffer counts are powers of two up to 32768, buffers are \
         512 bytes to 1 MiB"
    )]
    Sizes(RingConfig),
}

impl RingError {
    /// Tells apart why `io_uring_setup` failed.
    pub(super) fn opening(error: io::Error) -> Self {
        RingRefusal::of(error).into()
    }
}
