//! Ways in: listening sockets, the first bytes of a connection, and the names that a sandbox asks for.

pub mod dns;
pub mod sniff;
pub mod socket;
pub mod synthetic;

use serde::{Deserialize, Serialize};

/// What a listening socket is for, and so how the destination of its connections is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ListenerKind {
    /// The kernel delivers connections to any address: the destination is the connection's local address.
    Transparent,
    /// Netfilter rewrote the destination: the kernel is asked for the one before.
    Redirect,
    /// The client names its destination itself, by `CONNECT` or an absolute target.
    Proxy,
    /// Name queries in datagrams.
    DnsUdp,
    /// Name queries with a length before each (RFC 1035 §4.2.2).
    DnsTcp,
}
