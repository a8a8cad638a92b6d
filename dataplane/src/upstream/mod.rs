//! Towards the internet: which address a permitted host has, whether it may be dialled, and the connection to it.

pub mod cache;
pub mod dial;
mod fault;
pub mod guard;
pub mod hosts;
pub mod pool;
pub mod query;
mod race;
pub mod resolve;
pub mod shared;
pub mod transport;
mod trust;
mod via;

pub use dial::{DialError, Found, dial_any};
pub use guard::{GuardError, Target, target};
pub use pool::{Key, Pool};
pub use resolve::{ResolveError, Resolver, Settings, Transport};
pub use shared::{Place, Shared, SharedPool, Turn};
pub use transport::{RingTransport, system_name_servers};
pub use trust::forget_certificates;
pub use via::ProxyError;
