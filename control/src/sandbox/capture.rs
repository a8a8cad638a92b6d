//! The sockets inside that catch everything which the sandbox sends out: one for every TCP port, and those of names.
//!
//! The network namespace has no interface but loopback, so nothing leaves it; these sockets are what the plane, outside,
//! accepts from. Datagrams to any port but 53 find no socket and are refused by the kernel at once, so that clients
//! fall back from QUIC.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};

use control_wire::attach::ListenerKind;
use rustix::net::sockopt::set_ipv6_v6only;
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, listen, socket_with};

use super::limits::BACKLOG;
use super::{netlink, nftables, system};

/// Where the listener of every port listens itself. A program without capabilities can take no port below 1024, and no
/// protocol in use has this one.
const CAPTURE_PORT: u16 = 1;
/// The port of names (RFC 1035 §4.2).
const DNS_PORT: u16 = 53;

/// Addresses beside loopback that a sandbox has. Resolvers ask for a kind of address only where an interface has one
/// that is no loopback (`AI_ADDRCONFIG`, RFC 3493 §6.1), and some servers listen on the machine's own. Both are of
/// documentation (RFC 5737, RFC 3849), so no destination in the world is lost.
pub const OWN_ADDRESSES: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1))];

/// Makes loopback take all addresses, and answers the sockets that catch what comes there. Called in the new network
/// namespace, with its capabilities.
///
/// # Errors
/// The step that was refused. Without IPv6 on the machine there is none inside either.
pub fn open() -> Result<Vec<(ListenerKind, OwnedFd)>, (&'static str, io::Error)> {
    let step = |what: &'static str| move |error: io::Error| (what, error);
    let v6 = netlink::own_all_addresses().map_err(step("bring loopback up and route all addresses to it"))?;
    for address in OWN_ADDRESSES.into_iter().filter(|address| v6 || address.is_ipv4()) {
        netlink::add_address(address).map_err(step("give loopback an address"))?;
    }
    let every_port = stream(CAPTURE_PORT, v6).map_err(step("listen for every TCP port"))?;
    nftables::capture(CAPTURE_PORT, &OWN_ADDRESSES, &[DNS_PORT], v6).map_err(step(CAPTURE_STEP))?;
    let names = stream(DNS_PORT, v6).map_err(step("listen on TCP port 53"))?;
    let datagrams = transparent(SocketType::DGRAM, DNS_PORT, v6).map_err(step("listen on UDP port 53"))?;
    Ok(vec![
        (ListenerKind::Transparent, every_port),
        (ListenerKind::DnsTcp, names),
        (ListenerKind::DnsUdp, datagrams),
    ])
}

/// The step that a kernel without nf_tables refuses.
pub(super) const CAPTURE_STEP: &str = "hand every TCP port to one listener";

fn stream(port: u16, v6: bool) -> io::Result<OwnedFd> {
    let socket = transparent(SocketType::STREAM, port, v6)?;
    listen(&socket, BACKLOG)?;
    Ok(socket)
}

/// A socket of both versions of IP where the machine has both. What it answers comes from where it was sent to.
fn transparent(kind: SocketType, port: u16, v6: bool) -> io::Result<OwnedFd> {
    let family = if v6 { AddressFamily::INET6 } else { AddressFamily::INET };
    let address: IpAddr = if v6 { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() };
    let socket = socket_with(family, kind, SocketFlags::CLOEXEC, None)?;
    if v6 {
        set_ipv6_v6only(&socket, false)?;
    }
    system::transparent(socket.as_fd(), true, v6)?;
    bind(&socket, &SocketAddr::new(address, port))?;
    Ok(socket)
}
