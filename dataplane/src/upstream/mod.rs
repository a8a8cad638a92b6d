//! Towards the internet: which address a permitted host has, whether it may be dialled, and the connection to it.

pub mod cache;
pub mod guard;
pub mod hosts;
pub mod query;
pub mod resolve;

pub use guard::{GuardError, Target, target};
pub use resolve::{ResolveError, Resolver, Settings, Transport};
