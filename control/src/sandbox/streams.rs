//! The standard streams that a program inside gets from its caller: none may lead on to what the sandbox keeps away.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{FileType, fstat};
use rustix::net::sockopt::{socket_domain, socket_type};
use rustix::net::{AddressFamily, SocketType, getpeername};

use super::SandboxError;

/// Refuses what leads on.
///
/// # Errors
/// The first stream that does.
pub(super) fn check() -> Result<(), SandboxError> {
    let (stdin, stdout, stderr) = (io::stdin(), io::stdout(), io::stderr());
    for (name, stream) in [("input", stdin.as_fd()), ("output", stdout.as_fd()), ("error", stderr.as_fd())] {
        if let Some(kind) = leading_on(stream) {
            return Err(SandboxError::Stream { name, kind });
        }
    }
    Ok(())
}

/// What a descriptor is that leads on; `None` for one that ends where it points. A stream that is closed leads nowhere.
fn leading_on(stream: BorrowedFd<'_>) -> Option<&'static str> {
    let found = fstat(stream).ok()?;
    match FileType::from_raw_mode(found.st_mode) {
        FileType::RegularFile | FileType::Fifo | FileType::CharacterDevice | FileType::BlockDevice => None,
        // It belongs to the machine's mounts, where nothing is covered.
        FileType::Directory => Some("a folder"),
        // It belongs to the network namespace in which it was made, and can be connected to another address there
        // (connect(2), AF_UNSPEC); a Unix socket of datagrams, or one that has no other end, to any name.
        FileType::Socket if !is_joined(stream) => Some("a network socket"),
        FileType::Socket => None,
        // An event queue, a filter's listener, a mount, a ring.
        _ => Some("no file"),
    }
}

/// Whether it is one end of a Unix stream that has its other end, and so no other.
fn is_joined(socket: BorrowedFd<'_>) -> bool {
    let is_stream = matches!(socket_type(socket), Ok(SocketType::STREAM | SocketType::SEQPACKET));
    is_stream && socket_domain(socket) == Ok(AddressFamily::UNIX) && getpeername(socket).is_ok()
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::net::{TcpListener, TcpStream, UdpSocket};
    use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};

    use super::*;

    #[test]
    fn files_pipes_terminals_and_ends_of_unix_streams_end_where_they_point() {
        let (below, above) = io::pipe().unwrap();
        let (one, other) = UnixStream::pair().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let file = File::create(folder.path().join("f")).unwrap();
        let null = File::open("/dev/null").unwrap();
        for stream in [below.as_fd(), above.as_fd(), one.as_fd(), other.as_fd(), file.as_fd(), null.as_fd()] {
            assert_eq!(leading_on(stream), None);
        }
        // An end whose other is gone gets no new one.
        drop(other);
        let path = folder.path().join("s");
        let _listener = UnixListener::bind(&path).unwrap();
        let again = rustix::net::connect(&one, &rustix::net::SocketAddrUnix::new(&path).unwrap());
        assert_eq!(again, Err(rustix::io::Errno::ISCONN));
        assert_eq!(leading_on(one.as_fd()), None);
    }

    #[test]
    fn folders_and_sockets_that_can_be_connected_lead_on() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let connected = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let datagrams = UdpSocket::bind("127.0.0.1:0").unwrap();
        let (unix, _other) = UnixDatagram::pair().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let listening = UnixListener::bind(folder.path().join("s")).unwrap();
        for stream in
            [connected.as_fd(), datagrams.as_fd(), unix.as_fd(), listening.as_fd(), listener.as_fd()]
        {
            assert_eq!(leading_on(stream), Some("a network socket"));
        }
        assert_eq!(leading_on(File::open("/").unwrap().as_fd()), Some("a folder"));
        let events = rustix::event::epoll::create(rustix::event::epoll::CreateFlags::CLOEXEC).unwrap();
        assert_eq!(leading_on(events.as_fd()), Some("no file"));
    }
}
