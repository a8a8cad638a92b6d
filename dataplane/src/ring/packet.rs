//! Datagrams with the address of ours to which they came.
#![allow(unsafe_code)] // Control messages of recvmsg and sendmsg have no safe form in what we depend on.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    os::fd::{AsFd, AsRawFd, BorrowedFd},
};

use socket2::{SockAddr, SockAddrStorage};

/// Room for one control message with an address; aligned as the kernel wants it.
#[repr(C, align(8))]
struct Control([u8; 64]);

/// Asks for the local address of each datagram.
///
/// # Errors
/// Not a UDP socket.
pub(super) fn ask_for_destination(socket: BorrowedFd<'_>, v6: bool) -> io::Result<()> {
    let (level, option) =
        if v6 { (libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO) } else { (libc::IPPROTO_IP, libc::IP_PKTINFO) };
    let on: libc::c_int = 1;
    // SAFETY: the option's value is an integer that lives on this stack for the call.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            option,
            (&raw const on).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// One datagram: how much of `into` it filled, whence it came, and to which address of ours. One that does not fit is
/// `InvalidData`: half a datagram is none.
///
/// # Errors
/// `WouldBlock` when there is none; the socket's error.
pub(super) fn receive(
    socket: BorrowedFd<'_>,
    into: &mut [u8],
) -> io::Result<(usize, Option<SocketAddr>, Option<IpAddr>)> {
    let mut from = SockAddrStorage::zeroed();
    let mut control = Control([0; 64]);
    let mut part = libc::iovec { iov_base: into.as_mut_ptr().cast(), iov_len: into.len() };
    // SAFETY: a message header of zeroes is valid: no name, no parts, no control.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_name = (&raw mut from).cast();
    message.msg_namelen = from.size_of();
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_control = control.0.as_mut_ptr().cast();
    message.msg_controllen = control.0.len() as _;
    // SAFETY: name, part and control point into this stack frame and `into`, with their true lengths.
    let length = unsafe {
        libc::recvmsg(
            socket.as_fd().as_raw_fd(),
            &raw mut message,
            libc::MSG_DONTWAIT | libc::MSG_CMSG_CLOEXEC,
        )
    };
    let length = usize::try_from(length).map_err(|_| io::Error::last_os_error())?;
    if message.msg_flags & (libc::MSG_TRUNC | libc::MSG_CTRUNC) != 0 {
        return Err(io::ErrorKind::InvalidData.into());
    }
    // SAFETY: the kernel wrote an address of that length; zero where there is none, which is the family of zeroes.
    let from = unsafe { SockAddr::new(from, message.msg_namelen) };
    Ok((length, from.as_socket(), destination(&message)))
}

/// The local address in the control messages of a received message.
fn destination(message: &libc::msghdr) -> Option<IpAddr> {
    // SAFETY: control pointer and length are those that the kernel left for the buffer given to it.
    let mut at = unsafe { libc::CMSG_FIRSTHDR(message) };
    while !at.is_null() {
        // SAFETY: the macros give only headers that lie whole within the control buffer.
        let header = unsafe { at.read_unaligned() };
        // SAFETY: as above; the data follows its header.
        let data = unsafe { libc::CMSG_DATA(at) };
        match (header.cmsg_level, header.cmsg_type) {
            (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
                // SAFETY: a message of this type holds this structure, perhaps unaligned.
                let info: libc::in_pktinfo = unsafe { data.cast::<libc::in_pktinfo>().read_unaligned() };
                return Some(IpAddr::from(info.ipi_addr.s_addr.to_ne_bytes()));
            }
            (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
                // SAFETY: a message of this type holds this structure, perhaps unaligned.
                let info: libc::in6_pktinfo = unsafe { data.cast::<libc::in6_pktinfo>().read_unaligned() };
                return Some(IpAddr::from(info.ipi6_addr.s6_addr));
            }
            _ => {}
        }
        // SAFETY: `at` came from the same message.
        at = unsafe { libc::CMSG_NXTHDR(message, at) };
    }
    None
}

/// Sends one datagram, from that local address where one is given.
///
/// # Errors
/// `WouldBlock` when the socket is full; the socket's error.
pub(super) fn send(
    socket: BorrowedFd<'_>,
    bytes: &[u8],
    to: SocketAddr,
    from: Option<IpAddr>,
) -> io::Result<usize> {
    let to = SockAddr::from(to);
    let mut control = Control([0; 64]);
    let mut part = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    // SAFETY: a message header of zeroes is valid: no name, no parts, no control.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_name = to.as_ptr().cast_mut().cast();
    message.msg_namelen = to.len();
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    match from {
        Some(IpAddr::V4(from)) => {
            let mut info = libc::in_pktinfo {
                ipi_ifindex: 0,
                ipi_spec_dst: libc::in_addr { s_addr: u32::from_ne_bytes(from.octets()) },
                ipi_addr: libc::in_addr { s_addr: 0 },
            };
            attach(&mut message, &mut control, (libc::IPPROTO_IP, libc::IP_PKTINFO), &mut info);
        }
        Some(IpAddr::V6(from)) => {
            let mut info =
                libc::in6_pktinfo { ipi6_addr: libc::in6_addr { s6_addr: from.octets() }, ipi6_ifindex: 0 };
            attach(&mut message, &mut control, (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO), &mut info);
        }
        None => {}
    }
    // SAFETY: name, part and control point to memory that outlives the call, with their true lengths.
    let sent = unsafe {
        libc::sendmsg(socket.as_raw_fd(), &raw const message, libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL)
    };
    usize::try_from(sent).map_err(|_| io::Error::last_os_error())
}

/// Writes one control message of plain data.
fn attach<T: Copy>(message: &mut libc::msghdr, control: &mut Control, kind: (i32, i32), info: &mut T) {
    let length = size_of::<T>() as u32;
    message.msg_control = control.0.as_mut_ptr().cast();
    // SAFETY: arithmetic only.
    message.msg_controllen = unsafe { libc::CMSG_SPACE(length) } as _;
    debug_assert!(message.msg_controllen <= control.0.len() as _, "the largest message is 36 bytes");
    // SAFETY: the control buffer is aligned and has room for one header and its data.
    let at = unsafe { libc::CMSG_FIRSTHDR(message) };
    // SAFETY: `at` points to the aligned start of the zeroed buffer.
    let header = unsafe { &mut *at };
    (header.cmsg_level, header.cmsg_type) = kind;
    // SAFETY: arithmetic only.
    header.cmsg_len = unsafe { libc::CMSG_LEN(length) } as _;
    // SAFETY: as above; the data lies behind the header within the buffer.
    let data = unsafe { libc::CMSG_DATA(at) };
    // SAFETY: there is room for one `T`, perhaps unaligned.
    unsafe { data.cast::<T>().write_unaligned(*info) };
}
