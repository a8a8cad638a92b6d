//! Sockets: made here or passed in by another process, and where their connections were going.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags,
};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use super::ListenerKind;
use crate::limits::{LISTEN_BACKLOG, PASSED_DESCRIPTORS_MAX};

/// Why the destination of a connection is not known, or is none.
#[derive(Debug, thiserror::Error)]
pub enum DestinationError {
    /// The kernel has no address from before a rewrite: the connection was not redirected.
    #[error("the kernel knows no original destination; is the connection redirected and tracked?")]
    NotRedirected(#[source] io::Error),
    /// Dialling it would lead back to this listener, for ever.
    #[error("the destination {0} is the listener itself")]
    Listener(SocketAddr),
    /// Listeners of this kind do not tell a destination.
    #[error("clients of this listener name their destination themselves")]
    NamedByClient,
}

/// Makes a listening socket that each shard may bind alike; the kernel spreads connections over them.
///
/// # Errors
/// What the kernel says of `socket`, `bind` and `listen`.
pub fn bind_listener(address: SocketAddr) -> io::Result<OwnedFd> {
    listen(new_socket(address, Type::STREAM, Protocol::TCP)?, address)
}

/// Makes a listening socket that accepts connections to any address (TPROXY); needs `CAP_NET_ADMIN`.
///
/// # Errors
/// What the kernel says; `EPERM` without the capability.
pub fn bind_transparent_listener(address: SocketAddr) -> io::Result<OwnedFd> {
    let socket = new_socket(address, Type::STREAM, Protocol::TCP)?;
    match address {
        SocketAddr::V4(_) => socket.set_ip_transparent_v4(true)?,
        SocketAddr::V6(_) => socket.set_ip_transparent_v6(true)?,
    }
    listen(socket, address)
}

/// Makes a datagram socket for name queries.
///
/// # Errors
/// What the kernel says of `socket` and `bind`.
pub fn bind_datagram(address: SocketAddr) -> io::Result<OwnedFd> {
    let socket = new_socket(address, Type::DGRAM, Protocol::UDP)?;
    socket.bind(&SockAddr::from(address))?;
    Ok(socket.into())
}

fn new_socket(address: SocketAddr, kind: Type, protocol: Protocol) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), kind.nonblocking().cloexec(), Some(protocol))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    Ok(socket)
}

fn listen(socket: Socket, address: SocketAddr) -> io::Result<OwnedFd> {
    socket.bind(&SockAddr::from(address))?;
    socket.listen(LISTEN_BACKLOG)?;
    Ok(socket.into())
}

/// Where a connection was going, IPv4 in its own form.
///
/// `bound` is the address of the listener, `local` the connection's own, `original` asks the kernel for the address
/// from before a rewrite and is called for redirected connections only.
///
/// # Errors
/// `Listener` where the destination is the listening socket itself: with connection tracking a direct connection has
/// an "original" destination too, its own. `NotRedirected` where there is none. `NamedByClient` for other kinds.
pub fn destination(
    kind: ListenerKind,
    bound: SocketAddr,
    local: SocketAddr,
    original: impl FnOnce() -> io::Result<SocketAddr>,
) -> Result<SocketAddr, DestinationError> {
    let (local, bound) = (unmapped(local), unmapped(bound));
    let destination = match kind {
        ListenerKind::Transparent => local,
        ListenerKind::Redirect => unmapped(original().map_err(DestinationError::NotRedirected)?),
        ListenerKind::Proxy | ListenerKind::DnsUdp | ListenerKind::DnsTcp => {
            return Err(DestinationError::NamedByClient);
        }
    };
    let is_own = destination == bound || (kind == ListenerKind::Redirect && destination == local);
    if is_own { Err(DestinationError::Listener(destination)) } else { Ok(destination) }
}

/// The address with `::ffff:a.b.c.d` turned into `a.b.c.d`: a listener of both families reports IPv4 so.
#[must_use]
pub fn unmapped(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// Sends bytes with descriptors attached to the first of them; the descriptors stay open here.
///
/// # Errors
/// What the kernel says; `InvalidInput` for no bytes or more descriptors than `PASSED_DESCRIPTORS_MAX`.
pub fn send_descriptors(
    socket: impl AsFd,
    bytes: &[u8],
    descriptors: &[BorrowedFd<'_>],
) -> io::Result<usize> {
    if bytes.is_empty() || descriptors.len() > PASSED_DESCRIPTORS_MAX {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(PASSED_DESCRIPTORS_MAX))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() && !control.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    Ok(rustix::net::sendmsg(socket, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL)?)
}

/// Receives bytes and the descriptors attached to them, closed on `exec`. No bytes: the other side has ended.
///
/// # Errors
/// What the kernel says; `InvalidData` where more descriptors came than fit: the rest is lost, so none may be used.
pub fn receive_descriptors(socket: impl AsFd, bytes: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(PASSED_DESCRIPTORS_MAX))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received =
        rustix::net::recvmsg(socket, &mut [IoSliceMut::new(bytes)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
    let mut descriptors = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(passed) = message {
            descriptors.extend(passed);
        }
    }
    if received.flags.contains(ReturnFlags::CTRUNC) {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "more descriptors than one message may carry",
        ));
    }
    Ok((received.bytes, descriptors))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::os::unix::net::UnixStream;

    fn no_original() -> io::Result<SocketAddr> {
        panic!("the kernel is asked for redirected connections only")
    }

    fn address(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_transparent_connection_goes_where_it_was_dialled_with_ipv4_unmapped() {
        let (bound, local) = (address("[::]:443"), address("[::ffff:198.18.0.2]:443"));
        let found = destination(ListenerKind::Transparent, bound, local, no_original).unwrap();
        assert_eq!(found, address("198.18.0.2:443"));
    }

    #[test]
    fn a_redirected_connection_goes_where_the_kernel_says() {
        let (bound, local) = (address("0.0.0.0:9002"), address("127.0.0.1:9002"));
        let found =
            destination(ListenerKind::Redirect, bound, local, || Ok(address("203.0.113.9:443"))).unwrap();
        assert_eq!(found, address("203.0.113.9:443"));
        let missing =
            destination(ListenerKind::Redirect, bound, local, || Err(io::ErrorKind::NotFound.into()));
        assert!(matches!(missing, Err(DestinationError::NotRedirected(_))));
    }

    #[test]
    fn the_listener_itself_is_no_destination() {
        let (bound, local) = (address("0.0.0.0:9002"), address("127.0.0.1:9002"));
        for own in ["127.0.0.1:9002", "[::ffff:127.0.0.1]:9002"] {
            let refused = destination(ListenerKind::Redirect, bound, local, || Ok(address(own)));
            assert!(matches!(refused, Err(DestinationError::Listener(_))), "{own}");
        }
        let fixed = address("127.0.0.1:9001");
        let refused = destination(ListenerKind::Transparent, fixed, fixed, no_original);
        assert!(matches!(refused, Err(DestinationError::Listener(_))));
    }

    #[test]
    fn a_proxy_tells_no_destination() {
        let bound = address("127.0.0.1:3128");
        for kind in [ListenerKind::Proxy, ListenerKind::DnsTcp, ListenerKind::DnsUdp] {
            let refused = destination(kind, bound, bound, no_original);
            assert!(matches!(refused, Err(DestinationError::NamedByClient)));
        }
    }

    #[test]
    fn two_shards_bind_one_address() {
        let first = TcpListener::from(bind_listener(address("127.0.0.1:0")).unwrap());
        let second = bind_listener(first.local_addr().unwrap()).unwrap();
        let bound = TcpListener::from(second).local_addr().unwrap();
        assert_eq!(bound, first.local_addr().unwrap());
    }

    #[test]
    fn a_passed_listener_accepts_in_the_hands_of_the_receiver() {
        let (sender, receiver) = UnixStream::pair().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let bound = listener.local_addr().unwrap();
        assert_eq!(send_descriptors(&sender, b"one", &[listener.as_fd()]).unwrap(), 3);
        drop(listener);

        let mut bytes = [0; 16];
        let (count, mut passed) = receive_descriptors(&receiver, &mut bytes).unwrap();
        assert_eq!((&bytes[..count], passed.len()), (&b"one"[..], 1));
        let listener = TcpListener::from(passed.remove(0));
        let mut client = TcpStream::connect(bound).unwrap();
        client.write_all(b"x").unwrap();
        let mut one = [0];
        listener.accept().unwrap().0.read_exact(&mut one).unwrap();
        assert_eq!(&one, b"x");
    }

    #[test]
    fn too_many_descriptors_are_refused_before_they_are_sent() {
        let (sender, _receiver) = UnixStream::pair().unwrap();
        let many = vec![sender.as_fd(); PASSED_DESCRIPTORS_MAX + 1];
        let refused = send_descriptors(&sender, b"x", &many).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::InvalidInput);
    }

    #[test]
    fn the_end_of_the_sender_is_no_bytes() {
        let (sender, receiver) = UnixStream::pair().unwrap();
        drop(sender);
        let (count, passed) = receive_descriptors(&receiver, &mut [0; 4]).unwrap();
        assert_eq!((count, passed.len()), (0, 0));
    }
}
