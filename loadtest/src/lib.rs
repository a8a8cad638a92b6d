//! The load generator: a stranger on the network that counts and times.

pub mod usage;
pub mod plan;
pub mod transport;
pub mod answer;
pub mod client;
pub mod origin;
pub mod report;
