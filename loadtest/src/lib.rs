//! `outgate-loadtest`: a fleet on the network. It shares nothing with the gateway that it measures; `DESIGN.md` says
//! why it is as it is.
//!
//! ```text
//! plan ─▶ session ─▶ engine (connections of a fleet) ─▶ gateway or peer ─▶ origin (checks and counts)
//!            │                                             │
//!            └── report ◀── usage, counters ◀── /proc, performance events
//! ```

pub mod limits;
pub mod names;
pub mod pattern;
pub mod sockets;
pub mod transport;
pub mod http1;
pub mod http2;
pub mod authority;
pub mod origin;
pub mod plan;
pub mod usage;
pub mod counters;
pub mod target;
pub mod engine;
pub mod gateway;
pub mod peers;
pub mod pin;
pub mod report;
pub mod churn;
pub mod session;
pub mod profile;
