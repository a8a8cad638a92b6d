//! The last judgement before a dial: may this permit go to this address?
//!
//! A name can resolve to anything, a metadata service or a neighbour included. What is not global unicast space is
//! refused unless the policy names it, and every address that hides in another is judged beside it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use ipnet::IpNet;

use crate::http::{Host, Scheme};
use crate::identity::SandboxId;
use crate::policy::{AddressPolicy, Permit, Via, Way};

/// One checked address for one permit: the only thing that can be dialled. Only [`target`] makes one.
#[derive(Debug)]
pub struct Target {
    sandbox: SandboxId,
    scheme: Scheme,
    host: Host,
    address: SocketAddr,
}

impl Target {
    /// For whom.
    pub fn sandbox(&self) -> &SandboxId {
        &self.sandbox
    }

    /// How to speak.
    pub fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// Whose certificate is expected.
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// Where to.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

/// Why an address may not be dialled.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GuardError {
    /// The address is special-purpose and the policy does not name it for this host.
    #[error("{host} has the address {address}, which is {purpose}")]
    Special {
        /// The host.
        host: Host,
        /// What it resolved to; where one address hides in another, the hidden one.
        address: IpAddr,
        /// What the range is for.
        purpose: &'static str,
    },
    /// A range that the policy denies contains the address.
    #[error("{host} has the address {address} within the denied range {range}")]
    Denied {
        /// The host.
        host: Host,
        /// What it resolved to, or what hides in it.
        address: IpAddr,
        /// The range.
        range: IpNet,
    },
    /// A proxy would resolve the host, and the policy denies ranges: nobody would see whether the address is in one.
    #[error("{host} would be resolved by a proxy, and nobody could check it against the denied ranges")]
    Unchecked {
        /// The host.
        host: Host,
    },
    /// The host is an address, and this is another one.
    #[error("{host} is not {address}")]
    Other {
        /// The host.
        host: Host,
        /// The other address.
        address: IpAddr,
    },
}

/// Makes a target of a permit and one address.
///
/// # Errors
/// [`GuardError`] names the address and why it may not be dialled.
pub fn target(permit: &Permit, address: IpAddr) -> Result<Target, GuardError> {
    let address = address.to_canonical();
    let host = permit.host();
    if host.ip().is_some_and(|literal| literal.to_canonical() != address) {
        return Err(GuardError::Other { host: host.clone(), address });
    }
    judge(permit.addresses(), address).map_err(|refused| refused.about(host))?;
    Ok(Target {
        sandbox: permit.sandbox().clone(),
        scheme: permit.scheme(),
        host: host.clone(),
        address: SocketAddr::new(address, permit.port()),
    })
}

/// Makes a target of the proxy through which a permit's connections go, and one of the proxy's addresses. Where the
/// policy names it by its address, that is what was meant; otherwise it is judged as any host's.
///
/// # Errors
/// As [`target`].
pub fn proxy(permit: &Permit, way: &Way, via: &Via, address: IpAddr) -> Result<Target, GuardError> {
    let address = address.to_canonical();
    if via.host.ip().is_some_and(|literal| literal.to_canonical() != address) {
        return Err(GuardError::Other { host: via.host.clone(), address });
    }
    judge(way.addresses(), address).map_err(|refused| refused.about(&via.host))?;
    Ok(Target {
        sandbox: permit.sandbox().clone(),
        scheme: permit.scheme(),
        host: via.host.clone(),
        address: SocketAddr::new(address, via.port),
    })
}

/// Leave to give a proxy the host's name, whose address nobody here will see.
///
/// # Errors
/// The host is an address that may not be dialled, or the policy denies ranges in which its address could be.
pub fn unresolved(permit: &Permit) -> Result<(), GuardError> {
    match permit.host() {
        Host::Ip(address) => target(permit, *address).map(drop),
        Host::Name(_) if permit.addresses().denied().is_empty() => Ok(()),
        host @ Host::Name(_) => Err(GuardError::Unchecked { host: host.clone() }),
    }
}

/// A refusal that does not know its host yet.
#[derive(Debug, PartialEq, Eq)]
enum Refused {
    Special(IpAddr, &'static str),
    Denied(IpAddr, IpNet),
}

impl Refused {
    fn about(self, host: &Host) -> GuardError {
        let host = host.clone();
        match self {
            Self::Special(address, purpose) => GuardError::Special { host, address, purpose },
            Self::Denied(address, range) => GuardError::Denied { host, address, range },
        }
    }
}

fn judge(policy: &AddressPolicy, address: IpAddr) -> Result<(), Refused> {
    judge_by(policy.allowed(), policy.denied(), address)
}

/// Denied ranges win; then each form of the address that is special has to be named.
fn judge_by(allowed: &[IpNet], denied: &[IpNet], address: IpAddr) -> Result<(), Refused> {
    let address = address.to_canonical();
    let forms = [Some(address), embedded(address).map(IpAddr::V4)];
    for form in forms.into_iter().flatten() {
        if let Some(range) = denied.iter().find(|range| covers(range, form)) {
            return Err(Refused::Denied(form, *range));
        }
    }
    for form in forms.into_iter().flatten() {
        if let Some(purpose) = special(form)
            && !allowed.iter().any(|range| covers(range, form))
        {
            return Err(Refused::Special(form, purpose));
        }
    }
    Ok(())
}

/// Whether a range contains an address, also where the range is written as IPv4-mapped (`::ffff:10.0.0.0/104`).
fn covers(range: &IpNet, address: IpAddr) -> bool {
    let mapped = match (range, address) {
        (IpNet::V6(_), IpAddr::V4(v4)) => {
            range.contains(&IpAddr::V6(v4.to_ipv6_mapped())) && range.prefix_len() >= 96
        }
        _ => false,
    };
    mapped || range.contains(&address)
}

/// The IPv4 address to which a translator or a tunnel would carry packets for an IPv6 address.
fn embedded(address: IpAddr) -> Option<Ipv4Addr> {
    let IpAddr::V6(v6) = address else { return None };
    let [a, b, c, d, e, f, g, h] = v6.segments();
    let low = Ipv4Addr::from_bits(u32::from(g) << 16 | u32::from(h));
    match (a, b) {
        // NAT64's well-known prefix (RFC 6052 §2.1) and the older compatible form (RFC 4291 §2.5.5.1).
        (0x64, 0xff9b) if [c, d, e, f] == [0; 4] => Some(low),
        (0, 0) if [c, d, e, f] == [0; 4] && v6 > Ipv6Addr::LOCALHOST => Some(low),
        // 6to4 (RFC 3056 §2): the 32 bits after 2002.
        (0x2002, _) => Some(Ipv4Addr::from_bits(u32::from(b) << 16 | u32::from(c))),
        // Teredo (RFC 4380 §4): the client's address, each bit inverted.
        (0x2001, 0) => Some(Ipv4Addr::from_bits(!low.to_bits())),
        // ISATAP (RFC 5214 §6.1): an interface identifier of 0000:5efe or 0200:5efe, then the address.
        _ if f == 0x5efe && (e == 0 || e == 0x200) => Some(low),
        _ => None,
    }
}

/// What a special-purpose address is for; `None` for global unicast space.
fn special(address: IpAddr) -> Option<&'static str> {
    match address {
        IpAddr::V4(v4) => {
            let bits = v4.to_bits();
            SPECIAL_V4
                .iter()
                .find(|(net, length, _)| within(bits, net.to_bits(), *length))
                .map(|range| range.2)
        }
        IpAddr::V6(v6) => special_v6(v6),
    }
}

fn within(bits: u32, net: u32, length: u32) -> bool {
    (bits ^ net).checked_shr(32 - length).unwrap_or(0) == 0
}

const fn v4(a: u8, b: u8, c: u8, d: u8) -> Ipv4Addr {
    Ipv4Addr::new(a, b, c, d)
}

/// IANA IPv4 Special-Purpose Address Registry (RFC 6890) where it is not globally reachable, multicast (RFC 5771), and
/// one public address that means something else on every machine of one cloud.
const SPECIAL_V4: &[(Ipv4Addr, u32, &str)] = &[
    (v4(0, 0, 0, 0), 8, "this network (RFC 791)"),
    (v4(10, 0, 0, 0), 8, "private (RFC 1918)"),
    (v4(100, 64, 0, 0), 10, "shared by carriers (RFC 6598)"),
    (v4(127, 0, 0, 0), 8, "loopback (RFC 1122)"),
    (v4(169, 254, 0, 0), 16, "link-local, where clouds keep their metadata (RFC 3927)"),
    (v4(172, 16, 0, 0), 12, "private (RFC 1918)"),
    (v4(192, 0, 0, 0), 24, "for protocols (RFC 6890)"),
    (v4(192, 0, 2, 0), 24, "for documentation (RFC 5737)"),
    (v4(192, 88, 99, 0), 24, "a former 6to4 relay (RFC 7526)"),
    (v4(192, 168, 0, 0), 16, "private (RFC 1918)"),
    (v4(198, 18, 0, 0), 15, "for benchmarks (RFC 2544)"),
    (v4(198, 51, 100, 0), 24, "for documentation (RFC 5737)"),
    (v4(203, 0, 113, 0), 24, "for documentation (RFC 5737)"),
    (v4(224, 0, 0, 0), 4, "multicast (RFC 5771)"),
    (v4(240, 0, 0, 0), 4, "reserved (RFC 1112)"),
    (v4(168, 63, 129, 16), 32, "the host agent of Azure"),
];

/// Only 2000::/3 is global unicast (RFC 4291 §2.4, IANA IPv6 address space); within it, the IANA IPv6 Special-Purpose
/// Address Registry names what is not. NAT64's well-known prefix is judged by what hides in it.
fn special_v6(address: Ipv6Addr) -> Option<&'static str> {
    let [a, b, c, ..] = address.segments();
    match (a, b) {
        (0x64, 0xff9b) if embedded(address.into()).is_some() => None,
        (0x64, 0xff9b) if c == 1 => Some("local translation (RFC 8215)"),
        (0x2001, 0) => Some("a Teredo tunnel (RFC 4380)"),
        (0x2001, 0x0db8) => Some("for documentation (RFC 3849)"),
        (0x2001, b) if b < 0x200 => Some("for protocols (RFC 2928)"),
        (0x2002, _) => Some("a 6to4 tunnel (RFC 3056)"),
        (0x3fff, b) if b < 0x1000 => Some("for documentation (RFC 9637)"),
        (0x2000..=0x3fff, _) => None,
        _ if address.is_loopback() => Some("loopback (RFC 4291)"),
        _ if address.is_unspecified() => Some("unspecified (RFC 4291)"),
        (0x100, 0) => Some("discarded or for tests (RFC 6666, RFC 9780)"),
        (0x5f00, _) => Some("for segment routing (RFC 9602)"),
        (0xfc00..=0xfdff, _) => Some("unique local (RFC 4193)"),
        (0xfe80..=0xfebf, _) => Some("link-local (RFC 4291)"),
        (0xfec0..=0xfeff, _) => Some("site-local (RFC 3879)"),
        (0xff00..=0xffff, _) => Some("multicast (RFC 4291)"),
        _ => Some("outside global unicast space (RFC 4291)"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn nets(texts: &[&str]) -> Vec<IpNet> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn judged(allowed: &[&str], denied: &[&str], address: &str) -> Result<(), Refused> {
        judge_by(&nets(allowed), &nets(denied), ip(address))
    }

    #[test]
    fn global_addresses_pass() {
        for address in [
            "1.1.1.1",
            "8.8.8.8",
            "9.255.255.255",
            "11.0.0.0",
            "100.63.255.255",
            "100.128.0.0",
            "172.15.255.255",
            "172.32.0.0",
            "192.0.1.0",
            "198.17.255.255",
            "198.20.0.0",
            "223.255.255.255",
            "168.63.129.17",
            "2606:4700::1111",
            "2001:200::1",
            "2001:4860:4860::8888",
            "2003::1",
            "3fff:1000::1",
            "2620:4f:8000::1",
        ] {
            assert_eq!(judged(&[], &[], address), Ok(()), "{address}");
        }
    }

    #[test]
    fn special_addresses_are_refused_at_both_ends_of_their_ranges() {
        for address in [
            "0.0.0.0",
            "0.255.255.255",
            "10.0.0.0",
            "10.255.255.255",
            "100.64.0.0",
            "100.127.255.255",
            "127.0.0.1",
            "127.255.255.255",
            "169.254.169.254",
            "172.16.0.0",
            "172.31.255.255",
            "192.0.0.192",
            "192.0.2.1",
            "192.88.99.1",
            "192.168.0.0",
            "192.168.255.255",
            "198.18.0.2",
            "198.19.255.255",
            "198.51.100.1",
            "203.0.113.1",
            "224.0.0.1",
            "239.255.255.255",
            "240.0.0.0",
            "255.255.255.255",
            "100.100.100.200",
            "168.63.129.16",
            "::",
            "::1",
            "::2",
            "100::1",
            "100:0:0:1::1",
            "64:ff9b:1::1",
            "64:ff9b:2::1",
            "2001:2::1",
            "2001:1::1",
            "2001:1ff::1",
            "2001:db8::1",
            "3fff::1",
            "5f00::1",
            "fc00::1",
            "fd00:ec2::254",
            "fe80::1",
            "febf::1",
            "fec0::1",
            "ff02::1",
            "4000::1",
            "1fff::1",
        ] {
            assert!(matches!(judged(&[], &[], address), Err(Refused::Special(..))), "{address}");
        }
    }

    #[test]
    fn an_address_that_hides_in_another_is_judged_too() {
        for (address, hidden) in [
            ("::ffff:169.254.169.254", "169.254.169.254"),
            ("64:ff9b::a9fe:a9fe", "169.254.169.254"),
            ("2a00:1::5efe:a00:1", "10.0.0.1"),
            ("2a00:1::200:5efe:7f00:1", "127.0.0.1"),
        ] {
            assert!(
                matches!(judged(&[], &[], address), Err(Refused::Special(found, _)) if found == ip(hidden)),
                "{address}"
            );
        }
        assert_eq!(judged(&[], &[], "64:ff9b::808:808"), Ok(()), "translation to a global address");
        for tunnel in ["2002:a00:1::1", "2002:808:808::1", "2001::f5ff:fffe", "::10.0.0.1", "::8.8.8.8"] {
            assert!(judged(&[], &[], tunnel).is_err(), "{tunnel}");
        }
        let hidden = judged(&["2002::/16"], &[], "2002:a00:1::1");
        assert!(matches!(hidden, Err(Refused::Special(found, _)) if found == ip("10.0.0.1")));
        let hidden = judged(&["2001::/32"], &[], "2001:0:808:808:0:0:f5ff:fffe");
        assert!(matches!(hidden, Err(Refused::Special(found, _)) if found == ip("10.0.0.1")));
    }

    #[test]
    fn a_range_that_the_policy_names_opens_that_range_only() {
        assert_eq!(judged(&["10.1.0.0/16"], &[], "10.1.2.3"), Ok(()));
        assert_eq!(judged(&["10.1.0.0/16"], &[], "::ffff:10.1.2.3"), Ok(()));
        assert_eq!(judged(&["::ffff:10.1.0.0/112"], &[], "10.1.2.3"), Ok(()));
        assert_eq!(judged(&["fd00::/8"], &[], "fd12::1"), Ok(()));
        assert!(judged(&["10.1.0.0/16"], &[], "10.2.0.1").is_err());
        assert!(judged(&["10.1.0.0/16"], &[], "127.0.0.1").is_err());
        assert!(judged(&["::/0"], &[], "10.0.0.1").is_err(), "a range of one family does not open the other");
    }

    #[test]
    fn denied_ranges_win_and_see_hidden_addresses() {
        assert!(matches!(judged(&["10.0.0.0/8"], &["10.0.0.0/8"], "10.0.0.1"), Err(Refused::Denied(..))));
        assert!(matches!(judged(&[], &["8.8.8.0/24"], "8.8.8.8"), Err(Refused::Denied(..))));
        assert!(matches!(judged(&[], &["8.8.8.0/24"], "64:ff9b::808:808"), Err(Refused::Denied(..))));
        assert!(matches!(judged(&[], &["::ffff:8.8.8.0/120"], "8.8.8.8"), Err(Refused::Denied(..))));
        assert!(matches!(
            judged(&["2002::/16"], &["8.8.8.0/24"], "2002:808:808::1"),
            Err(Refused::Denied(..))
        ));
    }
}
