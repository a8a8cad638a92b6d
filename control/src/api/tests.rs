//! The API over its socket, with planes over real QUIC.
