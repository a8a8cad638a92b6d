//! TLS on both legs: certificate authorities, leaves, and streams over the ring.
