//! HTTP without I/O: heads, bodies, the one authority of a request, and the exchange.

pub mod host;

pub use host::{Authority, DnsName, Host, HostError, Scheme};
