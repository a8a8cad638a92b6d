//! The data plane: what leaves a sandbox passes through here.
//!
//! Modules stand in the order of the data, and a module uses only what stands above it. `flow` alone knows the
//! order of the stages.

pub mod limits;
pub mod causes;
pub mod clock;
pub mod config;
pub mod ring;

pub mod listen;
pub mod identity;
pub mod tls;
pub mod http;
pub mod policy;
pub mod approval;
pub mod handler;
pub mod redact;
pub mod inject;
pub mod upstream;
pub mod respond;
pub mod audit;

pub mod snapshot;
pub mod flow;
pub mod trial;
pub mod shard;
pub mod link;
pub mod attach;
pub mod admin;
pub mod boot;
pub mod cli;
