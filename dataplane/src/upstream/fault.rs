//! Why there is no connection to an upstream, told apart by who can mend it.

use std::io;
use std::net::{IpAddr, SocketAddr};

use super::guard::{GuardError, Target};
use super::via::ProxyError;
use crate::http::Host;
use crate::policy::Via;
use crate::tls::{RootsError, TlsError};

/// Why there is no connection to an upstream.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// There was no address to try.
    #[error("{host} has no address")]
    NoAddress {
        /// The host.
        host: Host,
    },
    /// No address of the host may be dialled; the first refusal.
    #[error(transparent)]
    Guard(#[from] GuardError),
    /// Nothing listens on the port.
    #[error("{host} refuses connections at {address}")]
    Refused {
        /// The host.
        host: Host,
        /// Where.
        address: SocketAddr,
    },
    /// There is no way to the address.
    #[error("{host} cannot be reached at {address}")]
    Unreachable {
        /// The host.
        host: Host,
        /// Where.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// The address did not answer in time.
    #[error("{host} does not answer at {address}")]
    ConnectTimedOut {
        /// The host.
        host: Host,
        /// Where.
        address: SocketAddr,
    },
    /// This machine has no descriptor, port or memory left for another connection.
    #[error("the gateway has no room for a connection to {host}")]
    Exhausted {
        /// The host.
        host: Host,
        /// What the system said.
        source: io::Error,
    },
    /// Connecting failed in another way.
    #[error("connecting to {host} at {address} failed")]
    Connect {
        /// The host.
        host: Host,
        /// Where.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// No certificate can be for this name.
    #[error("{host} is not a name that a certificate can hold")]
    Name {
        /// The host.
        host: Host,
    },
    /// The roots that the policy names for the host cannot be used.
    #[error("the roots for {host} cannot be used")]
    Roots {
        /// The host.
        host: Host,
        /// Why.
        source: RootsError,
    },
    /// The TLS handshake failed.
    #[error("no TLS with {host} at {address}")]
    Tls {
        /// The host.
        host: Host,
        /// Where.
        address: SocketAddr,
        /// How.
        source: Box<TlsError>,
    },
    /// The TLS handshake did not end in time.
    #[error("the TLS handshake with {host} at {address} does not end")]
    HandshakeTimedOut {
        /// The host.
        host: Host,
        /// Where.
        address: SocketAddr,
    },
    /// The proxy through which the policy makes the connection cannot be connected to.
    #[error("{host} is reached through a proxy, and that cannot be connected to")]
    ToProxy {
        /// The host.
        host: Host,
        /// Why.
        source: Box<DialError>,
    },
    /// The proxy through which the policy makes the connection did not connect.
    #[error("{host} is reached through the proxy {proxy}, which did not connect to it")]
    Proxy {
        /// The host.
        host: Host,
        /// The proxy.
        proxy: Via,
        /// Why.
        source: ProxyError,
    },
    /// The connection cannot be made from the address that the policy names.
    #[error("{host} cannot be connected to from {from}")]
    Source {
        /// The host.
        host: Host,
        /// The address.
        from: IpAddr,
        /// What the system said.
        source: io::Error,
    },
    /// The tries together took too long.
    #[error("no address of {host} gave a connection in time")]
    TimedOut {
        /// The host.
        host: Host,
    },
}

impl DialError {
    pub(super) fn connecting(target: &Target, source: io::Error) -> Self {
        let (host, address) = (target.host().clone(), target.address());
        match source.raw_os_error() {
            Some(libc::ECONNREFUSED) => Self::Refused { host, address },
            Some(libc::ETIMEDOUT) => Self::ConnectTimedOut { host, address },
            // No route, or no address of that family to come from.
            Some(
                libc::ENETUNREACH
                | libc::EHOSTUNREACH
                | libc::ENETDOWN
                | libc::EHOSTDOWN
                | libc::EAFNOSUPPORT
                | libc::EACCES
                | libc::EPERM,
            ) => Self::Unreachable { host, address, source },
            // Connecting from any port, `EADDRNOTAVAIL` means that none is left (connect(2)).
            Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM | libc::EADDRNOTAVAIL) => {
                Self::Exhausted { host, source }
            }
            _ => Self::Connect { host, address, source },
        }
    }

    /// Where it was dialled, if anywhere; of several tries the last.
    pub fn address(&self) -> Option<SocketAddr> {
        match self {
            Self::Refused { address, .. }
            | Self::Unreachable { address, .. }
            | Self::ConnectTimedOut { address, .. }
            | Self::Connect { address, .. }
            | Self::Tls { address, .. }
            | Self::HandshakeTimedOut { address, .. } => Some(*address),
            Self::NoAddress { .. }
            | Self::Guard(_)
            | Self::Exhausted { .. }
            | Self::Name { .. }
            | Self::Roots { .. }
            | Self::Source { .. }
            | Self::Proxy { .. }
            | Self::TimedOut { .. } => None,
            Self::ToProxy { source, .. } => source.address(),
        }
    }

    /// Whether another address of the host may fare better: the fault is of a machine or of the way to it, not of the
    /// host's certificate, of the settings or of ours.
    pub(super) fn is_of_address(&self) -> bool {
        match self {
            Self::Refused { .. }
            | Self::Unreachable { .. }
            | Self::ConnectTimedOut { .. }
            | Self::Connect { .. }
            | Self::HandshakeTimedOut { .. }
            // Of the other family.
            | Self::Source { .. } => true,
            Self::Proxy { source, .. } => matches!(source, ProxyError::Unreached(_)),
            Self::Tls { source, .. } => matches!(**source, TlsError::Io(_) | TlsError::Truncated),
            _ => false,
        }
    }
}
