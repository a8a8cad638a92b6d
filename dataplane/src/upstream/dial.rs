//! The connection to an upstream: TCP to a checked address, TLS where the permit says so, every wait bounded.

use std::cell::RefCell;
use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use rustls::ClientConfig;
use rustls::pki_types::{DnsName, ServerName};

use super::guard::{self, GuardError, Target};
use crate::http::{Host, Scheme};
use crate::limits::{ADDRESSES_MAX, CONNECT_TIME, DIAL_TIME, HANDSHAKE_TIME, ROOTS_KEPT_MAX};
use crate::policy::{Permit, Roots};
use crate::ring::{self, Stream};
use crate::tls::{self, Protocol, RootsError, TlsError, UpstreamTls, Wire};

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
        source: TlsError,
    },
    /// The TLS handshake did not end in time.
    #[error("the TLS handshake with {host} at {address} does not end")]
    HandshakeTimedOut {
        /// The host.
        host: Host,
        /// Where.
        address: SocketAddr,
    },
    /// The tries together took too long.
    #[error("no address of {host} gave a connection in time")]
    TimedOut {
        /// The host.
        host: Host,
    },
}

impl DialError {
    fn connecting(target: &Target, source: io::Error) -> Self {
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
            | Self::TimedOut { .. } => None,
        }
    }

    /// Whether another address of the host may fare better: the fault is of a machine or of the way to it, not of the
    /// host's certificate, of the settings or of ours.
    fn is_of_address(&self) -> bool {
        match self {
            Self::Refused { .. }
            | Self::Unreachable { .. }
            | Self::ConnectTimedOut { .. }
            | Self::Connect { .. }
            | Self::HandshakeTimedOut { .. } => true,
            Self::Tls { source, .. } => matches!(source, TlsError::Io(_) | TlsError::Truncated),
            _ => false,
        }
    }
}

/// Connects to a target: TCP within [`CONNECT_TIME`], and for `https` TLS within [`HANDSHAKE_TIME`], verified for the
/// target's host by `roots` alone, or by the system's where there are none; these protocols are offered. Where there are
/// none, TLS is somebody else's and only TCP is connected. Dropping it ends the try.
///
/// # Errors
/// [`DialError`] with the host and the address.
pub async fn dial(
    target: &Target,
    tls: &UpstreamTls,
    roots: Option<&Arc<Roots>>,
    protocols: Option<&[Protocol]>,
) -> Result<Wire, DialError> {
    let address = target.address();
    let host = || target.host().clone();
    // What needs no network is known before anything is sent.
    let secure = match (target.scheme(), protocols) {
        (Scheme::Http, _) | (_, None) => None,
        (Scheme::Https, Some(protocols)) => {
            let name = server_name(target.host()).ok_or_else(|| DialError::Name { host: host() })?;
            let config =
                config_for(tls, roots).map_err(|source| DialError::Roots { host: host(), source })?;
            Some((name, config, protocols))
        }
    };
    let stream = match ring::timeout(CONNECT_TIME, Stream::connect(address)).await {
        Ok(connected) => connected.map_err(|source| DialError::connecting(target, source))?,
        Err(_) => return Err(DialError::ConnectTimedOut { host: host(), address }),
    };
    let Some((name, config, protocols)) = secure else { return Ok(Wire::Plain(stream)) };
    match ring::timeout(HANDSHAKE_TIME, tls::connect(stream, name, &config, protocols)).await {
        Ok(Ok(stream)) => Ok(Wire::Tls(Box::new(stream))),
        Ok(Err(source)) => Err(DialError::Tls { host: host(), address, source }),
        Err(_) => Err(DialError::HandshakeTimedOut { host: host(), address }),
    }
}

/// Tries the addresses of a permit's host, the families in turn, until one gives a connection; all tries together
/// within [`DIAL_TIME`]. Addresses that the guard refuses are never dialled. Also tells which address it was.
///
/// # Errors
/// The last fault of an address that was tried; where none might be tried, the first refusal of the guard. Faults
/// that no other address can mend end it at once.
pub async fn dial_any(
    permit: &Permit,
    addresses: &[IpAddr],
    tls: &UpstreamTls,
    protocols: Option<&[Protocol]>,
) -> Result<(Wire, SocketAddr), DialError> {
    let tries = first_of(permit, addresses, |target| async move {
        let wire = dial(&target, tls, permit.roots(), protocols).await?;
        Ok((wire, target.address()))
    });
    match ring::timeout(DIAL_TIME, tries).await {
        Ok(outcome) => outcome,
        Err(_) => Err(DialError::TimedOut { host: permit.host().clone() }),
    }
}

async fn first_of<T, F: Future<Output = Result<T, DialError>>>(
    permit: &Permit,
    addresses: &[IpAddr],
    dial: impl Fn(Target) -> F,
) -> Result<T, DialError> {
    let (mut refused, mut failed) = (None, None);
    for address in in_turn(addresses) {
        let target = match guard::target(permit, address) {
            Ok(target) => target,
            Err(refusal) => {
                refused.get_or_insert(refusal);
                continue;
            }
        };
        match dial(target).await {
            Err(fault) if fault.is_of_address() => failed = Some(fault),
            outcome => return outcome,
        }
    }
    let none = || DialError::NoAddress { host: permit.host().clone() };
    Err(failed.or(refused.map(DialError::Guard)).unwrap_or_else(none))
}

/// The addresses with their families in turn, beginning with that of the first (RFC 8305 §4): where one family has no
/// way out, the second try leaves it.
fn in_turn(addresses: &[IpAddr]) -> impl Iterator<Item = IpAddr> + '_ {
    let v4_first = addresses.first().is_some_and(IpAddr::is_ipv4);
    let mut preferred = addresses.iter().filter(move |address| address.is_ipv4() == v4_first);
    let mut other = addresses.iter().filter(move |address| address.is_ipv4() != v4_first);
    let mut turn = false;
    let next = std::iter::from_fn(move || {
        turn = !turn;
        if turn {
            preferred.next().or_else(|| other.next())
        } else {
            other.next().or_else(|| preferred.next())
        }
    });
    next.copied().take(ADDRESSES_MAX)
}

fn server_name(host: &Host) -> Option<ServerName<'static>> {
    match host {
        Host::Ip(address) => Some(ServerName::IpAddress((*address).into())),
        Host::Name(name) => {
            let name = DnsName::try_from(name.as_str()).ok()?;
            Some(ServerName::DnsName(name.to_owned()))
        }
    }
}

/// TLS settings that were made for private roots, the one used last at the end.
type Kept = Vec<([u8; 32], Arc<ClientConfig>)>;

thread_local! {
    /// Of this shard: sessions are resumed where they were begun.
    static KEPT: RefCell<Kept> = const { RefCell::new(Vec::new()) };
}

/// The settings for these roots; the one used longest ago goes when there are too many.
fn config_for(tls: &UpstreamTls, roots: Option<&Arc<Roots>>) -> Result<Arc<ClientConfig>, RootsError> {
    let Some(roots) = roots else { return Ok(tls.system().clone()) };
    KEPT.with_borrow_mut(|kept| {
        let same = |(key, config): &([u8; 32], Arc<ClientConfig>)| {
            // Settings of another `UpstreamTls` offer other groups.
            key == roots.key() && Arc::ptr_eq(config.crypto_provider(), tls.system().crypto_provider())
        };
        let found = kept.iter().position(same).map(|at| kept.remove(at));
        let entry = match found {
            Some(entry) => entry,
            None => (*roots.key(), tls.with_roots(roots.pem().as_bytes())?),
        };
        if kept.len() >= ROOTS_KEPT_MAX {
            kept.remove(0);
        }
        let config = entry.1.clone();
        kept.push(entry);
        Ok(config)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_are_tried_in_turn_beginning_with_the_first() {
        let order = |texts: &[&str]| {
            let addresses: Vec<IpAddr> = texts.iter().map(|text| text.parse().unwrap()).collect();
            in_turn(&addresses).map(|address| address.to_string()).collect::<Vec<_>>()
        };
        assert_eq!(
            order(&["1.1.1.1", "1.1.1.2", "1.1.1.3", "2::1"]),
            ["1.1.1.1", "2::1", "1.1.1.2", "1.1.1.3"]
        );
        assert_eq!(order(&["2::1", "2::2", "1.1.1.1"]), ["2::1", "1.1.1.1", "2::2"]);
        assert!(order(&[]).is_empty());
        assert_eq!(order(&["1.1.1.1"; 40]).len(), ADDRESSES_MAX);
    }
}
