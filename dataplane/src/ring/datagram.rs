//! UDP sockets on a shard.

use std::{
    cell::RefCell,
    future::poll_fn,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::{AsFd, OwnedFd},
    task::{Context, Poll},
};

use socket2::{Domain, SockAddr, SockRef, Socket, Type};

use super::{
    Ring,
    buffers::Buf,
    core::failure,
    descriptor::Descriptor,
    operation::Operation,
    options::internet,
    packet,
    slab::Outcome,
    sys::{Kept, Request},
};
use crate::limits::DATAGRAM_BYTES_MAX;

/// A UDP socket. One task receives and one task sends. Datagrams larger than [`DATAGRAM_BYTES_MAX`] are dropped.
pub struct Datagram {
    readable: RefCell<Option<Operation>>,
    writable: RefCell<Option<Operation>>,
    socket: Descriptor,
}

impl Datagram {
    /// Takes a bound UDP socket and asks for the local address of each datagram.
    ///
    /// # Errors
    /// The descriptor is no UDP socket.
    pub fn from_fd(socket: OwnedFd) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&socket, true)?;
        let v6 = SockRef::from(&socket).domain()? == Domain::IPV6;
        packet::ask_for_destination(socket.as_fd(), v6)?;
        let (readable, writable) = (RefCell::default(), RefCell::default());
        Ok(Self { readable, writable, socket: Descriptor::new(Ring::current().0, socket) })
    }

    /// A socket on a port of the kernel's random choice that talks to `to` alone: what others send is not received,
    /// and a closed port is told as `ConnectionRefused`.
    ///
    /// # Errors
    /// No descriptor or port is left, or there is no route.
    pub fn connect(to: SocketAddr) -> io::Result<Self> {
        let socket = Socket::new(Domain::for_address(to), Type::DGRAM.nonblocking().cloexec(), None)?;
        let any: IpAddr =
            if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        socket.bind(&SockAddr::from(SocketAddr::new(any, 0)))?;
        socket.connect(&SockAddr::from(to))?;
        Self::from_fd(socket.into())
    }

    /// The next datagram, whence it came, and the address of ours to which it was sent.
    ///
    /// # Errors
    /// The socket's error; the next call goes on.
    pub async fn recv_from(&self) -> io::Result<(Buf, SocketAddr, Option<IpAddr>)> {
        loop {
            let (bytes, from, to) = self.receive().await?;
            // Only an unnamed peer has no address; there is nobody to answer.
            if let Some(from) = from {
                return Ok((bytes, from, to));
            }
        }
    }

    /// The next datagram of a connected socket.
    ///
    /// # Errors
    /// As [`Datagram::recv_from`]; `ConnectionRefused` when the peer's port is closed.
    pub async fn recv(&self) -> io::Result<Buf> {
        self.receive().await.map(|(bytes, ..)| bytes)
    }

    async fn receive(&self) -> io::Result<(Buf, Option<SocketAddr>, Option<IpAddr>)> {
        poll_fn(|cx| {
            self.poll_with(&self.readable, libc::POLLIN, cx, || {
                let mut bytes = [0; DATAGRAM_BYTES_MAX];
                let (length, from, to) = packet::receive(self.socket.as_fd(), &mut bytes)?;
                let datagram = bytes.get(..length).unwrap_or_default().to_vec();
                Ok((Buf::from(datagram), from, to))
            })
        })
        .await
    }

    /// Sends one datagram to `to`.
    ///
    /// # Errors
    /// The socket's error.
    pub async fn send_to(&self, bytes: &[u8], to: SocketAddr) -> io::Result<()> {
        self.send_from(bytes, to, None).await
    }

    /// Sends one datagram to `to` from the address of ours that `from` names: an answer comes from where it was asked.
    ///
    /// # Errors
    /// The socket's error; the address is not ours.
    pub async fn send_from(&self, bytes: &[u8], to: SocketAddr, from: Option<IpAddr>) -> io::Result<()> {
        let send = || packet::send(self.socket.as_fd(), bytes, to, from).map(drop);
        poll_fn(|cx| self.poll_with(&self.writable, libc::POLLOUT, cx, send)).await
    }

    /// Sends one datagram on a connected socket.
    ///
    /// # Errors
    /// The socket's error; `ConnectionRefused` when an earlier one found the port closed.
    pub async fn send(&self, bytes: &[u8]) -> io::Result<()> {
        let send = || Ok(rustix::net::send(&self.socket, bytes, rustix::net::SendFlags::DONTWAIT).map(drop)?);
        poll_fn(|cx| self.poll_with(&self.writable, libc::POLLOUT, cx, send)).await
    }

    /// Tries `call`; where it would block, waits for the event and tries again.
    fn poll_with<T>(
        &self,
        waiting: &RefCell<Option<Operation>>,
        events: i16,
        cx: &mut Context<'_>,
        call: impl Fn() -> io::Result<T>,
    ) -> Poll<io::Result<T>> {
        let mut waiting = waiting.borrow_mut();
        loop {
            if let Some(operation) = waiting.as_ref() {
                let Poll::Ready(completion) = operation.poll(cx) else { return Poll::Pending };
                *waiting = None;
                if let Outcome::Failed(libc::ESHUTDOWN) = completion.outcome {
                    return Poll::Ready(Err(failure(libc::ESHUTDOWN)));
                }
            }
            match call() {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    let request = Request::Poll { fd: self.socket.number(), events };
                    *waiting = Some(self.socket.core().begin(request, Kept::Nothing));
                }
                // Interrupted, or a datagram beyond the bound: the next one.
                Err(error)
                    if matches!(error.kind(), io::ErrorKind::Interrupted | io::ErrorKind::InvalidData) => {}
                result => return Poll::Ready(result),
            }
        }
    }

    /// The address to which it is bound.
    ///
    /// # Errors
    /// Not an internet socket.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        internet(&SockRef::from(&self.socket).local_addr()?)
    }
}

impl Drop for Datagram {
    /// Operations go by their names, before the descriptor.
    fn drop(&mut self) {
        self.readable.replace(None);
        self.writable.replace(None);
    }
}
