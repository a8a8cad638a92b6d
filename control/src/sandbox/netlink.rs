//! Messages to the kernel over netlink(7), by hand: neither `ip` nor `nft` need be there.

use std::io;
use std::net::IpAddr;
use std::os::fd::OwnedFd;

use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, Protocol, RecvFlags, SendFlags, SocketFlags, SocketType};

use super::limits::NETLINK_TIME;

const RTM_NEWLINK: u16 = 16;
const RTM_NEWADDR: u16 = 20;
const RTM_NEWROUTE: u16 = 24;
const NLMSG_ERROR: u16 = 2;
pub(super) const NLM_F_REQUEST: u16 = 1;
pub(super) const NLM_F_ACK: u16 = 4;
const NLM_F_EXCL: u16 = 0x200;
pub(super) const NLM_F_CREATE: u16 = 0x400;
pub(super) const NLM_F_APPEND: u16 = 0x800;
const NLA_F_NESTED: u16 = 0x8000;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
const IFF_UP: u32 = 1;
/// The loopback interface is the first of each namespace.
const LOOPBACK: u32 = 1;
/// Length, type, flags, sequence, port (struct nlmsghdr).
const HEADER_BYTES: usize = 16;

/// A socket to one of the kernel's netlink families.
pub(super) struct Netlink(OwnedFd);

impl Netlink {
    /// Opens one in this thread's network namespace; without a family it is the first, `NETLINK_ROUTE`.
    pub fn open(family: Option<Protocol>) -> io::Result<Self> {
        let socket =
            rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, family)?;
        set_socket_timeout(&socket, Timeout::Recv, Some(NETLINK_TIME))?;
        Ok(Self(socket))
    }

    /// Sends messages of which `acknowledged` ask for an acknowledgement, and waits for those.
    pub fn ask(&self, messages: &[u8], acknowledged: usize) -> io::Result<()> {
        rustix::net::send(&self.0, messages, SendFlags::empty())?;
        let mut told = 0;
        while told < acknowledged {
            let mut answer = [0; 8192];
            let (count, _) = rustix::net::recv(&self.0, &mut answer[..], RecvFlags::empty())?;
            told += acknowledgements(&answer[..count])?;
        }
        Ok(())
    }
}

/// Counts acknowledgements: struct nlmsgerr with zero; with another number it is a negative errno.
fn acknowledgements(mut answer: &[u8]) -> io::Result<usize> {
    let short = || io::Error::from(io::ErrorKind::UnexpectedEof);
    let mut count = 0;
    while !answer.is_empty() {
        let (header, _) = answer.split_first_chunk::<HEADER_BYTES>().ok_or_else(short)?;
        let length = u32::from_ne_bytes([header[0], header[1], header[2], header[3]]);
        let length = usize::try_from(length).map_err(|_| short())?;
        let message = answer.get(HEADER_BYTES..length).ok_or_else(short)?;
        let code = message.first_chunk().copied().map(i32::from_ne_bytes).ok_or_else(short)?;
        match (u16::from_ne_bytes([header[4], header[5]]), code) {
            (NLMSG_ERROR, 0) => count += 1,
            (NLMSG_ERROR, code) => return Err(io::Error::from_raw_os_error(code.saturating_neg())),
            _ => return Err(io::ErrorKind::InvalidData.into()),
        }
        answer = answer.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(count)
}

/// One message, or several behind each other. Lengths are filled in when a part ends.
#[derive(Default)]
pub(super) struct Writer(Vec<u8>);

impl Writer {
    /// Adds a message: its fixed part, then the attributes that `fill` writes.
    pub fn message(&mut self, kind: u16, flags: u16, fixed: &[u8], fill: impl FnOnce(&mut Self)) {
        let start = self.0.len();
        self.0.extend_from_slice(&[0; 4]);
        self.0.extend_from_slice(&kind.to_ne_bytes());
        self.0.extend_from_slice(&(NLM_F_REQUEST | flags).to_ne_bytes());
        self.0.extend_from_slice(&[0; 8]);
        self.0.extend_from_slice(fixed);
        fill(self);
        // All that is said here together is a few kilobytes.
        let length = u32::try_from(self.0.len() - start).unwrap_or(u32::MAX);
        self.0[start..start + 4].copy_from_slice(&length.to_ne_bytes());
    }

    /// Adds an attribute.
    pub fn attribute(&mut self, kind: u16, value: &[u8]) {
        self.part(kind, |writer| writer.0.extend_from_slice(value));
    }

    /// Adds an attribute that is a number in network order, as netfilter takes them.
    pub fn number(&mut self, kind: u16, value: u32) {
        self.attribute(kind, &value.to_be_bytes());
    }

    /// Adds an attribute that is a text, with the zero at its end.
    pub fn text(&mut self, kind: u16, value: &str) {
        self.part(kind, |writer| {
            writer.0.extend_from_slice(value.as_bytes());
            writer.0.push(0);
        });
    }

    /// Adds an attribute of attributes.
    pub fn nested(&mut self, kind: u16, fill: impl FnOnce(&mut Self)) {
        self.part(kind | NLA_F_NESTED, fill);
    }

    /// Length and kind, the value, and zeros up to a multiple of four.
    fn part(&mut self, kind: u16, fill: impl FnOnce(&mut Self)) {
        let start = self.0.len();
        self.0.extend_from_slice(&[0; 2]);
        self.0.extend_from_slice(&kind.to_ne_bytes());
        fill(self);
        let length = u16::try_from(self.0.len() - start).unwrap_or(u16::MAX);
        self.0[start..start + 2].copy_from_slice(&length.to_ne_bytes());
        self.0.resize(self.0.len().next_multiple_of(4), 0);
    }

    pub fn bytes(&self) -> &[u8] {
        &self.0
    }
}

/// Brings loopback up and routes all addresses to it, so that sockets in this network namespace take what was meant for
/// the world: the same as `ip link set lo up; ip route add local default dev lo`. Answers whether that holds for
/// version 6 too.
///
/// # Errors
/// What the kernel says about version 4; machines without version 6 exist.
pub fn own_all_addresses() -> io::Result<bool> {
    let socket = Netlink::open(None)?;
    socket.ask(link_up().bytes(), 1)?;
    socket.ask(local_default(AF_INET).bytes(), 1)?;
    Ok(socket.ask(local_default(AF_INET6).bytes(), 1).is_ok())
}

/// Gives loopback one more address.
///
/// # Errors
/// What the kernel says.
pub fn add_address(address: IpAddr) -> io::Result<()> {
    Netlink::open(None)?.ask(new_address(address).bytes(), 1)
}

/// struct ifinfomsg: family, padding, type, index, flags, which flags change.
fn link_up() -> Writer {
    let mut fixed = vec![0; 4];
    for word in [LOOPBACK, IFF_UP, IFF_UP] {
        fixed.extend_from_slice(&word.to_ne_bytes());
    }
    let mut writer = Writer::default();
    writer.message(RTM_NEWLINK, NLM_F_ACK, &fixed, |_| {});
    writer
}

/// struct rtmsg, then one attribute: the interface.
fn local_default(family: u8) -> Writer {
    const TABLE_LOCAL: u8 = 255;
    const PROTOCOL_BOOT: u8 = 3;
    const SCOPE_HOST: u8 = 254;
    const TYPE_LOCAL: u8 = 2;
    const ATTRIBUTE_INTERFACE: u16 = 4;
    let fixed = [family, 0, 0, 0, TABLE_LOCAL, PROTOCOL_BOOT, SCOPE_HOST, TYPE_LOCAL, 0, 0, 0, 0];
    let mut writer = Writer::default();
    writer.message(RTM_NEWROUTE, NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL, &fixed, |route| {
        route.attribute(ATTRIBUTE_INTERFACE, &LOOPBACK.to_ne_bytes());
    });
    writer
}

/// struct ifaddrmsg: family, prefix, flags, scope, index; then the address, as the interface's own.
fn new_address(address: IpAddr) -> Writer {
    const ATTRIBUTE_ADDRESS: u16 = 1;
    const ATTRIBUTE_LOCAL: u16 = 2;
    let (family, octets) = match address {
        IpAddr::V4(address) => (AF_INET, address.octets().to_vec()),
        IpAddr::V6(address) => (AF_INET6, address.octets().to_vec()),
    };
    let bits = u8::try_from(octets.len() * 8).unwrap_or(u8::MAX);
    let mut fixed = vec![family, bits, 0, 0];
    fixed.extend_from_slice(&LOOPBACK.to_ne_bytes());
    let mut writer = Writer::default();
    writer.message(RTM_NEWADDR, NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL, &fixed, |message| {
        message.attribute(ATTRIBUTE_LOCAL, &octets);
        message.attribute(ATTRIBUTE_ADDRESS, &octets);
    });
    writer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_says_its_own_length() {
        for (writer, length) in [
            (link_up(), 32),
            (local_default(AF_INET), 36),
            (local_default(AF_INET6), 36),
            (new_address("192.0.2.1".parse().unwrap()), 40),
            (new_address("fd00::1".parse().unwrap()), 64),
        ] {
            let bytes = writer.bytes();
            assert_eq!(u32::from_ne_bytes(bytes[..4].try_into().unwrap()) as usize, bytes.len());
            assert_eq!(bytes.len(), length);
        }
    }

    #[test]
    fn parts_are_padded_and_a_length_counts_no_padding() {
        let mut writer = Writer::default();
        writer.nested(1, |inner| inner.text(2, "ab"));
        assert_eq!(writer.bytes(), [12, 0, 1, 0x80, 7, 0, 2, 0, b'a', b'b', 0, 0]);
    }

    fn answer(code: i32) -> Vec<u8> {
        let mut bytes = vec![0; 36];
        bytes[..4].copy_from_slice(&36_u32.to_ne_bytes());
        bytes[4..6].copy_from_slice(&NLMSG_ERROR.to_ne_bytes());
        bytes[16..20].copy_from_slice(&code.to_ne_bytes());
        bytes
    }

    #[test]
    fn acknowledgements_are_counted_and_an_error_among_them_is_told() {
        assert_eq!(acknowledgements(&answer(0)).unwrap(), 1);
        assert_eq!(acknowledgements(&[answer(0), answer(0)].concat()).unwrap(), 2);
        let error = acknowledgements(&[answer(0), answer(-1)].concat()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
    }

    #[test]
    fn a_short_answer_is_an_error() {
        for end in 1..36 {
            assert!(acknowledgements(&answer(0)[..end]).is_err(), "{end}");
        }
        assert!(acknowledgements(&[0; 20]).is_err());
    }
}
