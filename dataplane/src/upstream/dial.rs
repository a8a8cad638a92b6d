//! The connection to an upstream: TCP to a checked address, TLS where the permit says so, every wait bounded.

use std::net::{IpAddr, SocketAddr};

pub use super::fault::DialError;
use super::guard::{self, Target};
use super::race::{Pace, race};
use super::trust::Trust;
use crate::limits::{
    ADDRESSES_MAX, CONNECT_STAGGER, CONNECT_TIME, CONNECTS_AT_ONCE_MAX, DIAL_TIME, HANDSHAKE_TIME,
};
use crate::policy::Permit;
use crate::ring::{self, Stream};
use crate::tls::{self, Protocol, UpstreamTls, Wire};

/// How connects to the addresses of one host follow each other.
const PACE: Pace = Pace { stagger: CONNECT_STAGGER, at_once: CONNECTS_AT_ONCE_MAX };

/// Connects to what a permit allows: TCP within [`CONNECT_TIME`], and for `https` TLS within [`HANDSHAKE_TIME`], verified
/// for the permit's host by its roots alone, or by the system's where it names none; these protocols are offered. Where
/// there are none, TLS is somebody else's and only TCP is connected. Dropping it ends all tries.
///
/// The addresses are tried with the families in turn, the next one beside those before where these take longer than
/// [`CONNECT_STAGGER`], and at once where they fail; the first that connects counts and the others are dropped (RFC 8305
/// §5). Where its TLS fails for a reason that lies with that address, those that are left are tried. All together within
/// [`DIAL_TIME`]. Addresses that the guard refuses are never dialled. Also tells which address it was.
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
    let trust = Trust::of(permit, tls, protocols)?;
    match ring::timeout(DIAL_TIME, directly(permit, addresses, trust.as_ref())).await {
        Ok(outcome) => outcome,
        Err(_) => Err(DialError::TimedOut { host: permit.host().clone() }),
    }
}

async fn directly(
    permit: &Permit,
    addresses: &[IpAddr],
    trust: Option<&Trust<'_>>,
) -> Result<(Wire, SocketAddr), DialError> {
    let mut refused = None;
    let checked =
        |address| guard::target(permit, address).map_err(|refusal| refused.get_or_insert(refusal)).ok();
    let targets: Vec<Target> = in_turn(addresses).filter_map(checked).collect();
    let (mut targets, mut failed) = (targets.into_iter().peekable(), None);
    loop {
        let connected = race(&mut targets, connect, |fault| !DialError::is_of_address(fault), PACE).await;
        let (stream, target) = match connected {
            Ok(connected) => connected,
            Err(Some(fault)) if !fault.is_of_address() => return Err(fault),
            Err(fault) => {
                let none = || DialError::NoAddress { host: permit.host().clone() };
                return Err(fault.or(failed).or(refused.map(DialError::Guard)).unwrap_or_else(none));
            }
        };
        match secure(stream, &target, trust).await {
            Err(fault) if fault.is_of_address() => failed = Some(fault),
            outcome => return outcome.map(|wire| (wire, target.address())),
        }
    }
}

/// TCP to one target.
async fn connect(target: Target) -> Result<(Stream, Target), DialError> {
    match ring::timeout(CONNECT_TIME, Stream::connect(target.address())).await {
        Ok(Ok(stream)) => Ok((stream, target)),
        Ok(Err(source)) => Err(DialError::connecting(&target, source)),
        Err(_) => Err(DialError::ConnectTimedOut { host: target.host().clone(), address: target.address() }),
    }
}

/// TLS over a connection, where it is ours to speak.
async fn secure(stream: Stream, target: &Target, trust: Option<&Trust<'_>>) -> Result<Wire, DialError> {
    let Some(Trust { name, config, protocols }) = trust else { return Ok(Wire::Plain(stream)) };
    let (host, address) = (|| target.host().clone(), target.address());
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
