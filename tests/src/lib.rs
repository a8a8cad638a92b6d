//! The harness that end-to-end, attack and tidy tests share.
