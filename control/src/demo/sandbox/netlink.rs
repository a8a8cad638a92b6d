//! Makes every address of a network namespace its own, so that ordinary listeners take what was meant for the world.
//!
//! The same as `ip link set lo up; ip route add local default dev lo`, without needing that program (rtnetlink(7)).

use std::io;
use std::os::fd::OwnedFd;

use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

const RTM_NEWLINK: u16 = 16;
const RTM_NEWROUTE: u16 = 24;
const NLMSG_ERROR: u16 = 2;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const NLM_F_EXCL: u16 = 0x200;
const NLM_F_CREATE: u16 = 0x400;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
const IFF_UP: u32 = 1;
/// The loopback interface is the first of each namespace.
const LOOPBACK: u32 = 1;
/// Length, type, flags, sequence, port (struct nlmsghdr).
const HEADER_BYTES: usize = 16;

/// Brings loopback up and routes all addresses to it. Answers whether that holds for version 6 too.
///
/// # Errors
/// What the kernel says about version 4; machines without version 6 exist.
pub fn own_all_addresses() -> io::Result<bool> {
    // Without a protocol it is the first of netlink(7), NETLINK_ROUTE.
    let socket =
        rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None)?;
    ask(&socket, &link_up())?;
    ask(&socket, &local_default(AF_INET))?;
    Ok(ask(&socket, &local_default(AF_INET6)).is_ok())
}

/// Sends one message and waits for its acknowledgement.
fn ask(socket: &OwnedFd, message: &[u8]) -> io::Result<()> {
    rustix::net::send(socket, message, SendFlags::empty())?;
    let mut answer = [0; 4096];
    let (count, _) = rustix::net::recv(socket, &mut answer[..], RecvFlags::empty())?;
    acknowledged(&answer[..count])
}

/// struct nlmsgerr: zero is the acknowledgement, else a negative errno.
fn acknowledged(answer: &[u8]) -> io::Result<()> {
    let short = || io::Error::from(io::ErrorKind::UnexpectedEof);
    let kind = answer.get(4..6).and_then(|bytes| bytes.try_into().ok()).map(u16::from_ne_bytes);
    let code = answer.get(HEADER_BYTES..HEADER_BYTES + 4).and_then(|bytes| bytes.try_into().ok());
    match (kind.ok_or_else(short)?, i32::from_ne_bytes(code.ok_or_else(short)?)) {
        (NLMSG_ERROR, 0) => Ok(()),
        (NLMSG_ERROR, code) => Err(io::Error::from_raw_os_error(-code)),
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

/// struct ifinfomsg: family, padding, type, index, flags, which flags change.
fn link_up() -> Vec<u8> {
    let mut body = vec![0; 4];
    for word in [LOOPBACK, IFF_UP, IFF_UP] {
        body.extend_from_slice(&word.to_ne_bytes());
    }
    message(RTM_NEWLINK, 0, &body)
}

/// struct rtmsg, then one attribute: the interface.
fn local_default(family: u8) -> Vec<u8> {
    const TABLE_LOCAL: u8 = 255;
    const PROTOCOL_BOOT: u8 = 3;
    const SCOPE_HOST: u8 = 254;
    const TYPE_LOCAL: u8 = 2;
    const ATTRIBUTE_INTERFACE: u16 = 4;
    let mut body = vec![family, 0, 0, 0, TABLE_LOCAL, PROTOCOL_BOOT, SCOPE_HOST, TYPE_LOCAL, 0, 0, 0, 0];
    for half in [8, ATTRIBUTE_INTERFACE] {
        body.extend_from_slice(&half.to_ne_bytes());
    }
    body.extend_from_slice(&LOOPBACK.to_ne_bytes());
    message(RTM_NEWROUTE, NLM_F_CREATE | NLM_F_EXCL, &body)
}

fn message(kind: u16, flags: u16, body: &[u8]) -> Vec<u8> {
    let mut message = Vec::with_capacity(HEADER_BYTES + body.len());
    // Both messages are a few dozen bytes.
    let length = u32::try_from(HEADER_BYTES + body.len()).unwrap_or(u32::MAX);
    message.extend_from_slice(&length.to_ne_bytes());
    message.extend_from_slice(&kind.to_ne_bytes());
    message.extend_from_slice(&(NLM_F_REQUEST | NLM_F_ACK | flags).to_ne_bytes());
    message.extend_from_slice(&[0; 8]);
    message.extend_from_slice(body);
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_says_its_own_length() {
        for message in [link_up(), local_default(AF_INET), local_default(AF_INET6)] {
            assert_eq!(u32::from_ne_bytes(message[..4].try_into().unwrap()) as usize, message.len());
        }
        assert_eq!((link_up().len(), local_default(AF_INET).len()), (32, 36));
    }

    #[test]
    fn an_error_of_the_kernel_is_told_and_a_short_answer_is_one() {
        let answer = |code: i32| {
            let mut bytes = vec![0; 36];
            bytes[4..6].copy_from_slice(&NLMSG_ERROR.to_ne_bytes());
            bytes[16..20].copy_from_slice(&code.to_ne_bytes());
            bytes
        };
        assert!(acknowledged(&answer(0)).is_ok());
        assert_eq!(acknowledged(&answer(-1)).unwrap_err().kind(), io::ErrorKind::PermissionDenied);
        assert!(acknowledged(&answer(0)[..17]).is_err());
    }
}
