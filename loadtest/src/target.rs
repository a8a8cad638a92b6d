//! What is measured: where it takes connections, whose they are, and which processes it is.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
};

use rustls::ClientConfig;

use crate::{
    authority::{self, ALPN_HTTP2},
    origin::Leg,
    plan::{Connect, Load, Scheme},
    usage::Pid,
};

/// Something between the generator and the origin.
pub struct Target {
    /// Its name in reports.
    pub name: String,
    /// Its version, as it says itself.
    pub version: String,
    /// Its processes.
    pub pids: Vec<Pid>,
    /// The origin's ports, by leg.
    pub ports: [u16; 3],
    /// Who speaks. Never empty.
    pub seats: Vec<Seat>,
}

/// One sandbox as it is on the network.
pub struct Seat {
    /// Its number, from which its credential follows.
    pub sandbox: u32,
    /// Where its connections go, by leg of the origin.
    pub doors: [SocketAddr; 3],
    /// The address from which it speaks.
    pub source: Option<IpAddr>,
    /// What it says first.
    pub greeting: Greeting,
    /// Certificates that it trusts, as PEM.
    pub roots: Arc<str>,
    /// Refusals are no errors: what it may do changes.
    pub is_refusable: bool,
}

/// What is said on a new connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Greeting {
    /// Nothing: the connection was captured, or the target is a reverse proxy.
    None,
    /// `CONNECT`, or an absolute target; the value of `Proxy-Authorization`.
    Proxy(Option<String>),
}

impl Load {
    /// The port of the origin that its requests end at.
    pub fn leg(&self) -> Leg {
        match (self.scheme, self.origin_http2) {
            (Scheme::Http, _) => Leg::Plain,
            (Scheme::Https, false) => Leg::Tls,
            (Scheme::Https, true) => Leg::Http2,
        }
    }

    /// What a sandbox trusts and offers in its handshakes; nothing for plain HTTP.
    ///
    /// # Errors
    /// When its roots are none.
    pub fn tls(&self, seat: &Seat) -> io::Result<Option<Arc<ClientConfig>>> {
        let protocol = self.streams.map(|_| ALPN_HTTP2);
        match self.scheme {
            Scheme::Http => Ok(None),
            Scheme::Https => {
                authority::client(&seat.roots, self.connect == Connect::Resumed, protocol).map(Some)
            }
        }
    }
}

/// Why a target is not loaded.
#[derive(Debug, thiserror::Error)]
#[error(
    "{0} is not a loopback address; whoever may load other machines says --allow-remote (never do that to what is not yours)"
)]
pub struct Remote(IpAddr);

impl Target {
    /// Refuses addresses of other machines.
    ///
    /// # Errors
    /// [`Remote`], naming the first.
    pub fn check(&self, allow_remote: bool) -> Result<(), Remote> {
        let mut doors = self.seats.iter().flat_map(|seat| seat.doors);
        match doors.find(|door| !door.ip().is_loopback()) {
            Some(door) if !allow_remote => Err(Remote(door.ip())),
            _ => Ok(()),
        }
    }
}

/// The source address of a sandbox by its number: all of 127.64.0.0/10, so it is never an address that somebody listens
/// on.
pub fn source_of(sandbox: u32) -> IpAddr {
    IpAddr::V4(Ipv4Addr::from(0x7f40_0000_u32 + 1 + sandbox % 0x003f_fff0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_machines_are_refused_unless_they_are_allowed() {
        let seat = |door: &str| Seat {
            sandbox: 0,
            doors: [door.parse().unwrap(); 3],
            source: None,
            greeting: Greeting::None,
            roots: "".into(),
            is_refusable: false,
        };
        let mut target = Target {
            name: "t".into(),
            version: String::new(),
            pids: Vec::new(),
            ports: [1; 3],
            seats: vec![seat("127.0.0.1:80"), seat("192.0.2.1:80")],
        };
        assert!(target.check(false).unwrap_err().to_string().contains("192.0.2.1 is not a loopback address"));
        assert!(target.check(true).is_ok());
        target.seats.pop();
        assert!(target.check(false).is_ok());
    }

    #[test]
    fn every_sandbox_of_a_fleet_has_its_own_source_address() {
        let all: std::collections::HashSet<_> = (0..200_000).map(source_of).collect();
        assert_eq!(all.len(), 200_000);
        assert!(all.iter().all(IpAddr::is_loopback));
    }
}
