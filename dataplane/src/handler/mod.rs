//! The handler host: runs precompiled Wasm inline on a shard, bounded in time and memory, and puts every instance back
//! to what it was before the call.
//!
//! `load` judges a signed envelope and gives a [`Loaded`] version, on the link's thread. Each shard owns one [`Host`],
//! whose [`Host::call`] writes the request's view into a guest's memory, makes one call and answers the validated list
//! of actions. Nothing of one request survives into the next: memory, its size and the globals are restored, and an
//! instance that trapped or ran out of budget is thrown away.
//!
//! A handler that is called again for the same exchange, for its bodies or its answer, is kept in between as a copy of
//! its memory and globals ([`Kept`]), which the next event puts into whichever instance of the version is at hand. So a
//! stream holds no instance, and handlers of many streams share one as they share it for requests.

pub mod watchdog;

mod memory;
mod tunables;
mod loaded;
mod budget;
mod instance;
mod kept;
mod host;
mod error;

pub use budget::{Budget, Call};
pub use error::{HandlerError, LoadError, ProtocolError};
pub use host::{Host, HostConfig};
pub use instance::Restore;
pub use kept::{Kept, Next, Room};
pub use loaded::{Loaded, VerifyingKey, load, target};
pub use watchdog::Watchdog;

/// What a handler asked for, validated whole.
pub type Actions = handlers_sdk_abi::ActionList<Vec<u8>>;
