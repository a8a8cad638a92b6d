//! The link to control over QUIC.
