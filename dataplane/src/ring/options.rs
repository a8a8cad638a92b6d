//! Options and addresses of internet sockets.

use std::{io, net::SocketAddr};

use socket2::{Domain, SockAddr, SockRef, TcpKeepalive};

use crate::limits::{NOT_SENT_BYTES_MAX, TCP_PROBE_PAUSE, TCP_PROBES, TCP_SILENCE};

/// Options of every TCP socket; a listener's are inherited by what it accepts. Unix sockets need none.
pub(super) fn prepare(socket: &SockRef<'_>) -> io::Result<()> {
    if matches!(socket.domain()?, Domain::IPV4 | Domain::IPV6) {
        socket.set_tcp_nodelay(true)?;
        socket.set_tcp_notsent_lowat(NOT_SENT_BYTES_MAX)?;
        // Idle peers that vanished are found out. No TCP_USER_TIMEOUT: it would also end who reads slowly.
        let keep_alive = TcpKeepalive::new().with_time(TCP_SILENCE).with_interval(TCP_PROBE_PAUSE);
        socket.set_tcp_keepalive(&keep_alive.with_retries(TCP_PROBES))?;
    }
    Ok(())
}

/// The address of an internet socket.
pub(super) fn internet(address: &SockAddr) -> io::Result<SocketAddr> {
    address.as_socket().ok_or_else(|| io::Error::new(io::ErrorKind::Unsupported, "not an internet socket"))
}
