//! Sockets as a fleet needs them: listeners on a port that another address has too, clients that speak from an address.

use std::{
    io,
    net::{IpAddr, SocketAddr},
};

use mio::net::{TcpListener, TcpStream};
use socket2::{Domain, Protocol, Socket, Type};

/// Connections that wait to be accepted. Larger: the kernel cuts it anyway. Smaller: bursts of connections wait a
/// second.
const BACKLOG: i32 = 4096;

/// Listens, also where a wildcard address has the port already.
///
/// # Errors
/// Those of the kernel, with the address.
pub fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let bound = || -> io::Result<TcpListener> {
        let socket =
            Socket::new(Domain::for_address(address), Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
        socket.set_reuse_address(true)?;
        socket.set_reuse_port(true)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        Ok(TcpListener::from_std(socket.into()))
    };
    bound().map_err(|error| io::Error::other(format!("cannot listen on {address}: {error}")))
}

/// Begins to connect; readiness to write tells the end of it.
///
/// # Errors
/// Those of the kernel.
pub fn connect(to: SocketAddr, from: Option<IpAddr>) -> io::Result<TcpStream> {
    let Some(from) = from else {
        let stream = TcpStream::connect(to)?;
        stream.set_nodelay(true)?;
        return Ok(stream);
    };
    let socket = Socket::new(Domain::for_address(to), Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
    socket.set_tcp_nodelay(true)?;
    socket.set_reuse_address(true)?;
    socket.bind(&SocketAddr::new(from, 0).into())?;
    match socket.connect(&to.into()) {
        Ok(()) => {}
        // EINPROGRESS: the kernel works on it.
        Err(error) if error.kind() == io::ErrorKind::WouldBlock || error.raw_os_error() == Some(115) => {}
        Err(error) => return Err(error),
    }
    Ok(TcpStream::from_std(socket.into()))
}
