//! Sockets: made here or passed in by another process, and where their connections were going.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{BorrowedFd, OwnedFd};

use socket2::{Domain, Protocol, SockAddr, SockRef, Socket, Type};

use super::ListenerKind;
use crate::limits::LISTEN_BACKLOG;

/// Why the destination of a connection is not known, or is none.
#[derive(Debug, thiserror::Error)]
pub enum DestinationError {
    /// The kernel has no address from before a rewrite: the connection was not redirected.
    #[error("the kernel knows no original destination; is the connection redirected and tracked?")]
    NotRedirected(#[source] io::Error),
    /// Dialling it would lead back to this listener, for ever.
    #[error("the destination {0} is the listener itself")]
    Listener(SocketAddr),
    /// The client left first.
    #[error("the connection ended before its destination was known")]
    Ended(#[source] io::Error),
    /// Listeners of this kind do not tell a destination.
    #[error("clients of this listener name their destination themselves")]
    NamedByClient,
}

/// Makes a listening socket that each shard may bind alike; the kernel spreads connections over them.
///
/// # Errors
/// What the kernel says of `socket`, `bind` and `listen`.
pub fn bind_listener(address: SocketAddr) -> io::Result<OwnedFd> {
    let socket = new_socket(address, Type::STREAM, Protocol::TCP)?;
    socket.bind(&SockAddr::from(address))?;
    socket.listen(LISTEN_BACKLOG)?;
    Ok(socket.into())
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

/// Why a passed descriptor cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum PassedError {
    /// Not a socket.
    #[error("the descriptor is no socket; pass a socket that is bound and listens")]
    NoSocket(#[source] io::Error),
    /// Another family or type.
    #[error("the descriptor is another kind of socket; this kind of listener needs {wanted}")]
    Kind {
        /// What would be right.
        wanted: &'static str,
    },
    /// Nobody called `listen`.
    #[error("the socket does not listen; call listen() before you pass it")]
    NotListening,
    /// Nobody called `bind`.
    #[error("the socket is not bound; call bind() before you pass it")]
    NotBound,
}

/// Checks that a passed descriptor is what its kind says, before a shard sees it.
///
/// # Errors
/// [`PassedError`], which says what would be right.
pub fn check_passed(kind: ListenerKind, socket: BorrowedFd<'_>) -> Result<(), PassedError> {
    let socket = SockRef::from(&socket);
    let (domain, found) = (|| Ok((socket.domain()?, socket.r#type()?)))().map_err(PassedError::NoSocket)?;
    let internet = matches!(domain, Domain::IPV4 | Domain::IPV6);
    let (wanted, fits) = match kind {
        ListenerKind::DnsUdp => ("UDP over IPv4 or IPv6", internet && found == Type::DGRAM),
        ListenerKind::Proxy => ("TCP or a Unix stream", found == Type::STREAM),
        ListenerKind::Transparent | ListenerKind::Redirect | ListenerKind::DnsTcp => {
            ("TCP over IPv4 or IPv6", internet && found == Type::STREAM)
        }
    };
    if !fits {
        return Err(PassedError::Kind { wanted });
    }
    if kind != ListenerKind::DnsUdp {
        let listens = socket.is_listener().map_err(PassedError::NoSocket)?;
        return if listens { Ok(()) } else { Err(PassedError::NotListening) };
    }
    let bound = socket.local_addr().ok().and_then(|address| address.as_socket());
    if bound.is_some_and(|address| address.port() != 0) { Ok(()) } else { Err(PassedError::NotBound) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::AsFd;

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
    fn a_passed_socket_must_be_what_its_kind_says() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let connected = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let datagrams = bind_datagram(address("127.0.0.1:0")).unwrap();
        let file = std::fs::File::open("/dev/null").unwrap();
        let check =
            |kind, socket: BorrowedFd<'_>| check_passed(kind, socket).map_err(|error| error.to_string());
        for kind in [ListenerKind::Transparent, ListenerKind::Redirect, ListenerKind::DnsTcp] {
            assert_eq!(check(kind, listener.as_fd()), Ok(()));
            assert!(check(kind, connected.as_fd()).unwrap_err().contains("listen()"));
            assert!(check(kind, datagrams.as_fd()).unwrap_err().contains("needs TCP"));
            assert!(check(kind, file.as_fd()).unwrap_err().contains("no socket"));
        }
        assert_eq!(check(ListenerKind::DnsUdp, datagrams.as_fd()), Ok(()));
        assert!(check(ListenerKind::DnsUdp, listener.as_fd()).unwrap_err().contains("needs UDP"));
        let unbound = Socket::new(Domain::IPV4, Type::DGRAM, None).unwrap();
        assert!(check(ListenerKind::DnsUdp, unbound.as_fd()).unwrap_err().contains("bind()"));
    }
}
