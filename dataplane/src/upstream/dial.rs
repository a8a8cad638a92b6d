//! The connection to an upstream: TCP to a checked address, TLS where the permit says so, every wait bounded.

use std::io;
use std::iter::Peekable;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::vec::IntoIter;

use socket2::{Domain, Socket, Type};

pub use super::fault::DialError;
use super::guard::{self, GuardError, Target};
use super::race::{Pace, race};
use super::trust::Trust;
use super::via::{self, ProxyError, Whither};
use crate::http::Host;
use crate::inject::{Login, Means};
use crate::limits::{
    ADDRESSES_MAX, CONNECT_STAGGER, CONNECT_TIME, CONNECTS_AT_ONCE_MAX, DIAL_TIME, HANDSHAKE_TIME, PROXY_TIME,
};
use crate::policy::{Permit, Via, Way};
use crate::ring::{self, Stream};
use crate::tls::{self, Protocol, UpstreamTls, Wire};

/// How connects to the addresses of one host follow each other.
const PACE: Pace = Pace { stagger: CONNECT_STAGGER, at_once: CONNECTS_AT_ONCE_MAX };

/// The addresses that were found for a permit.
#[derive(Clone, Debug)]
pub struct Found {
    /// Of the host; none where a proxy resolves it.
    pub host: Rc<[IpAddr]>,
    /// Of the proxy through which the host is reached; none where it is reached directly.
    pub proxy: Rc<[IpAddr]>,
}

/// Connects to what a permit allows: TCP within [`CONNECT_TIME`], and for `https` TLS within [`HANDSHAKE_TIME`],
/// verified for the permit's host by its roots alone, or by the system's where it names none; these protocols are
/// offered. Where there are none, TLS is somebody else's and only TCP is connected. Dropping it ends all tries.
///
/// The addresses are tried with the families in turn, the next one beside those before where these take longer than
/// [`CONNECT_STAGGER`], and at once where they fail; the first that connects counts and the others are dropped (RFC 8305
/// §5). Where its TLS fails for a reason that lies with that address, those that are left are tried. All together within
/// [`DIAL_TIME`]. Addresses that the guard refuses are never dialled. Also tells which address it was.
///
/// Where the permit names a proxy, that is connected to in the same way, and told the host's checked addresses one after
/// the other, or the name where it resolves. Where it fails, the connection fails: nothing ever goes directly then.
///
/// # Errors
/// The last fault of an address that was tried; where none might be tried, the first refusal of the guard. Faults
/// that no other address can mend end it at once.
pub async fn dial_any(
    permit: &Permit,
    means: &Means,
    found: &Found,
    tls: &UpstreamTls,
    protocols: Option<&[Protocol]>,
) -> Result<(Wire, SocketAddr), DialError> {
    let trust = Trust::of(permit, means, tls, protocols)?;
    let tries = async {
        match permit.way() {
            Some(way) if let Some(via) = &way.route().via => {
                Through { permit, way, via, login: means.login().map(|login| &**login) }
                    .dial(found, trust.as_ref())
                    .await
            }
            way => {
                directly(permit, way.and_then(|way| way.route().source), &found.host, trust.as_ref()).await
            }
        }
    };
    match ring::timeout(DIAL_TIME, tries).await {
        Ok(outcome) => outcome,
        Err(_) => Err(DialError::TimedOut { host: permit.host().clone() }),
    }
}

async fn directly(
    permit: &Permit,
    source: Option<IpAddr>,
    addresses: &[IpAddr],
    trust: Option<&Trust<'_>>,
) -> Result<(Wire, SocketAddr), DialError> {
    let (targets, refused) = checked(addresses, |address| guard::target(permit, address));
    let (mut targets, mut failed) = (targets.into_iter().peekable(), None);
    loop {
        match first(&mut targets, source).await {
            Ok((stream, target)) => match secure(stream, permit.host(), target.address(), trust).await {
                Err(fault) if fault.is_of_address() => failed = Some(fault),
                outcome => return outcome.map(|wire| (wire, target.address())),
            },
            Err(Some(fault)) if !fault.is_of_address() => return Err(fault),
            Err(fault) => return Err(none_left(permit.host(), fault.or(failed), refused)),
        }
    }
}

/// A host that is reached through a proxy.
struct Through<'a> {
    permit: &'a Permit,
    way: &'a Way,
    via: &'a Via,
    login: Option<&'a Login>,
}

impl Through<'_> {
    async fn dial(&self, found: &Found, trust: Option<&Trust<'_>>) -> Result<(Wire, SocketAddr), DialError> {
        let host = self.permit.host();
        if self.via.resolves {
            guard::unresolved(self.permit)?;
            let (stream, proxy) = self.open(found, &Whither::Host(host, self.permit.port())).await?;
            return Ok((secure(stream, host, proxy, trust).await?, proxy));
        }
        let (targets, refused) = checked(&found.host, |address| guard::target(self.permit, address));
        let mut failed = None;
        for target in targets {
            let address = target.address();
            let outcome = match self.open(found, &Whither::Address(address)).await {
                Ok((stream, _)) => secure(stream, host, address, trust).await,
                Err(fault) => Err(fault),
            };
            match outcome {
                Err(fault) if fault.is_of_address() => failed = Some(fault),
                outcome => return outcome.map(|wire| (wire, address)),
            }
        }
        Err(none_left(host, failed, refused))
    }

    /// A connection on which the proxy relays; also tells the proxy's address.
    async fn open(&self, found: &Found, whither: &Whither<'_>) -> Result<(Stream, SocketAddr), DialError> {
        let host = || self.permit.host().clone();
        let to_proxy = |source| DialError::ToProxy { host: host(), source: Box::new(source) };
        let check = |address| guard::proxy(self.permit, self.way, self.via, address);
        let (targets, refused) = checked(&found.proxy, check);
        let mut targets = targets.into_iter().peekable();
        let connected = first(&mut targets, self.way.route().source).await;
        let (stream, target) =
            connected.map_err(|fault| to_proxy(none_left(&self.via.host, fault, refused)))?;
        let opened = ring::timeout(PROXY_TIME, via::open(&stream, self.via.kind, whither, self.login)).await;
        match opened.unwrap_or(Err(ProxyError::TimedOut)) {
            Ok(()) => Ok((stream, target.address())),
            Err(source) => Err(DialError::Proxy { host: host(), proxy: self.via.clone(), source }),
        }
    }
}

/// The addresses that may be dialled, in the order in which they are tried, and the first refusal.
fn checked(
    addresses: &[IpAddr],
    check: impl Fn(IpAddr) -> Result<Target, GuardError>,
) -> (Vec<Target>, Option<GuardError>) {
    let mut refused = None;
    let check = |address| check(address).map_err(|refusal| refused.get_or_insert(refusal)).ok();
    let targets = in_turn(addresses).filter_map(check).collect();
    (targets, refused)
}

fn none_left(host: &Host, failed: Option<DialError>, refused: Option<GuardError>) -> DialError {
    let none = || DialError::NoAddress { host: host.clone() };
    failed.or(refused.map(DialError::Guard)).unwrap_or_else(none)
}

/// The first of these targets that connects.
async fn first(
    targets: &mut Peekable<IntoIter<Target>>,
    source: Option<IpAddr>,
) -> Result<(Stream, Target), Option<DialError>> {
    race(targets, |target| connect(target, source), |fault| !DialError::is_of_address(fault), PACE).await
}

/// TCP to one target.
async fn connect(target: Target, source: Option<IpAddr>) -> Result<(Stream, Target), DialError> {
    let to = target.address();
    let connecting = async {
        match source {
            None => Stream::connect(to).await.map_err(|source| DialError::connecting(&target, source)),
            Some(from) => {
                let bound = bound(from, to).map_err(|source| {
                    let host = target.host().clone();
                    DialError::Source { host, from, source }
                })?;
                let connected = Stream::connect_socket(bound, to).await;
                connected.map_err(|source| DialError::connecting(&target, source))
            }
        }
    };
    match ring::timeout(CONNECT_TIME, connecting).await {
        Ok(connected) => connected.map(|stream| (stream, target)),
        Err(_) => Err(DialError::ConnectTimedOut { host: target.host().clone(), address: to }),
    }
}

/// A socket that connects from an address of this machine.
fn bound(from: IpAddr, to: SocketAddr) -> io::Result<Socket> {
    if from.is_ipv4() != to.is_ipv4() {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "the other end has an address of the other family",
        ));
    }
    let socket = Socket::new(Domain::for_address(to), Type::STREAM.nonblocking().cloexec(), None)?;
    socket.bind(&SocketAddr::new(from, 0).into())?;
    Ok(socket)
}

/// TLS over a connection, where it is ours to speak.
async fn secure(
    stream: Stream,
    host: &Host,
    address: SocketAddr,
    trust: Option<&Trust<'_>>,
) -> Result<Wire, DialError> {
    let Some(Trust { name, config, protocols }) = trust else { return Ok(Wire::Plain(stream)) };
    let host = || host.clone();
    match ring::timeout(HANDSHAKE_TIME, tls::connect(stream, name.clone(), config, protocols)).await {
        Ok(Ok(stream)) => Ok(Wire::Tls(Box::new(stream))),
        Ok(Err(source)) => Err(DialError::Tls { host: host(), address, source: Box::new(source) }),
        Err(_) => Err(DialError::HandshakeTimedOut { host: host(), address }),
    }
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
