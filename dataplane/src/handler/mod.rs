//! The handler host: runs precompiled Wasm inline on a shard, bounded in time and memory, and puts every instance back
//! to what it was before the call.
//!
//! `load` judges a signed envelope and gives a [`Loaded`] version, on the link's thread. Each shard owns one [`Host`],
//! whose [`Host::call`] writes the request's view into a guest's memory, makes one call and answers the validated list
//! of actions. Nothing of one request survives into the next: memory, its size and the globals are restored, and an
//! instance that trapped or ran out of budget is thrown away.

pub mod watchdog;

mod memory;
mod tunables;
mod loaded;
mod instance;
mod host;
mod error;

pub use error::{HandlerError, LoadError, ProtocolError};
pub use host::{Host, HostConfig};
pub use instance::Restore;
pub use loaded::{Loaded, VerifyingKey, load, target};
pub use watchdog::Watchdog;

/// What a handler asked for, validated whole.
pub type Actions = handlers_sdk_abi::ActionList<Vec<u8>>;
