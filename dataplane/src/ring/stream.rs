//! A connected TCP or Unix stream that owns its descriptor and its receive operation.

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    future::poll_fn,
    io,
    net::SocketAddr,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    rc::Rc,
    task::{Context, Poll},
    time::Duration,
};

use rustix::net::{SendFlags, Shutdown};
use socket2::{Domain, SockAddr, SockRef, Socket, Type};

use super::{
    Ring,
    buffers::Buf,
    core::{BODIES, Core, HEADS, failure},
    descriptor::Descriptor,
    operation::Operation,
    options::{internet, prepare},
    slab::Outcome,
    sys::{Kept, Request},
    timer::timeout,
};
use crate::limits::SEND_SILENCE;

/// How receiving ended.
#[derive(Clone, Copy)]
enum End {
    Eof,
    Failed(i32),
}

/// The receive half: at most one operation, and what was read ahead.
#[derive(Default)]
struct Receiving {
    /// Bytes that were read elsewhere, before anything from the socket.
    early: VecDeque<Buf>,
    operation: Option<(Operation, u16)>,
    end: Option<End>,
}

/// A connected stream socket, TCP or Unix.
///
/// Receives belong to the stream: an await that is dropped (time-out, `select`) loses nothing. One task may await a
/// receive and a send at the same time; two receives, or two sends, at once wake only the later one.
pub struct Stream {
    receiving: RefCell<Receiving>,
    writable: RefCell<Option<Operation>>,
    sent: Cell<u64>,
    reset: Cell<bool>,
    socket: Descriptor,
}

impl Stream {
    /// Takes a connected socket: makes it non-blocking, and sets `TCP_NODELAY` and `TCP_NOTSENT_LOWAT` on TCP.
    ///
    /// # Errors
    /// The descriptor is no socket.
    pub fn from_fd(socket: OwnedFd) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&socket, true)?;
        prepare(&SockRef::from(&socket))?;
        Ok(Self::adopt(Ring::current().0, socket))
    }

    /// As [`Stream::from_fd`], for a stream of which another shard has read `bytes`: they are received first.
    ///
    /// # Errors
    /// As [`Stream::from_fd`].
    pub fn from_parts(socket: OwnedFd, bytes: Vec<u8>) -> io::Result<Self> {
        let stream = Self::from_fd(socket)?;
        stream.unread(bytes);
        Ok(stream)
    }

    /// A socket that is set up already (accepted from a prepared listener, or connected here).
    pub(super) fn adopt(core: Rc<Core>, socket: OwnedFd) -> Self {
        Self {
            receiving: RefCell::default(),
            writable: RefCell::default(),
            sent: Cell::new(0),
            reset: Cell::new(false),
            socket: Descriptor::new(core, socket),
        }
    }

    /// Connects over TCP. Not bounded in time: wrap it in [`timeout`](super::timeout); dropping it cancels.
    ///
    /// # Errors
    /// The kernel's error with its number: refused, unreachable and timed out are different blames.
    pub async fn connect(to: SocketAddr) -> io::Result<Self> {
        let socket = Socket::new(Domain::for_address(to), Type::STREAM.nonblocking().cloexec(), None)?;
        Self::connect_socket(socket, to).await
    }

    /// As [`Stream::connect`] with a socket that the caller made: bound, marked, in another namespace.
    ///
    /// # Errors
    /// As [`Stream::connect`].
    pub async fn connect_socket(socket: Socket, to: SocketAddr) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        prepare(&SockRef::from(&socket))?;
        let stream = Self::adopt(Ring::current().0, socket.into());
        let request = Request::Connect { fd: stream.socket.number() };
        let operation = stream.socket.core().begin(request, Kept::Address(Box::new(SockAddr::from(to))));
        match poll_fn(|cx| operation.poll(cx)).await.outcome {
            Outcome::Failed(number) => Err(failure(number)),
            _ => Ok(stream),
        }
    }

    /// Starts receiving without awaiting, so that [`Stream::is_quiet`] can tell.
    pub fn arm(&self) {
        let mut receiving = self.receiving.borrow_mut();
        if receiving.operation.is_none() && receiving.end.is_none() {
            receiving.operation = Some((self.begin_receive(HEADS, true), HEADS));
        }
    }

    /// The next bytes in a head-size buffer, or `None` at the end of the stream. Reads ahead, by no more than its
    /// bound of buffers.
    ///
    /// # Errors
    /// The socket's error; it stays.
    pub async fn receive(&self) -> io::Result<Option<Buf>> {
        poll_fn(|cx| self.poll_receive(cx)).await
    }

    /// What [`Stream::receive`] awaits.
    ///
    /// # Errors
    /// As [`Stream::receive`].
    pub fn poll_receive(&self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Buf>>> {
        self.poll_group(HEADS, cx)
    }

    /// The next bytes in a body-size buffer, or `None` at the end. Asks the kernel only now, so a reader that is slow
    /// slows down the sender. What was read ahead comes first.
    ///
    /// # Errors
    /// As [`Stream::receive`].
    pub async fn receive_body(&self) -> io::Result<Option<Buf>> {
        poll_fn(|cx| self.poll_receive_body(cx)).await
    }

    /// What [`Stream::receive_body`] awaits.
    ///
    /// # Errors
    /// As [`Stream::receive`].
    pub fn poll_receive_body(&self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Buf>>> {
        self.poll_group(BODIES, cx)
    }

    fn poll_group(&self, group: u16, cx: &mut Context<'_>) -> Poll<io::Result<Option<Buf>>> {
        let mut receiving = self.receiving.borrow_mut();
        if self.reset.get() {
            return Poll::Ready(Err(failure(libc::ECONNRESET)));
        }
        if let Some(early) = receiving.early.pop_front() {
            return Poll::Ready(Ok(Some(early)));
        }
        loop {
            match receiving.end {
                Some(End::Eof) => return Poll::Ready(Ok(None)),
                Some(End::Failed(number)) => return Poll::Ready(Err(failure(number))),
                None => {}
            }
            let (operation, armed) =
                receiving.operation.get_or_insert_with(|| (self.begin_receive(group, group == HEADS), group));
            // A multishot receive gives way to a one-shot one only when it has delivered all it took. The reverse
            // needs nothing: a one-shot receive ends by itself.
            if *armed == HEADS && group == BODIES {
                if operation.is_starved() {
                    receiving.operation = None;
                    continue;
                }
                operation.cancel();
            }
            let Poll::Ready(completion) = operation.poll(cx) else { return Poll::Pending };
            if completion.last {
                receiving.operation = None;
            }
            match completion.outcome {
                Outcome::Data(buffer) => return Poll::Ready(Ok(Some(buffer))),
                Outcome::Failed(libc::ECANCELED | libc::EINTR | libc::EAGAIN) => {}
                Outcome::Failed(number) => receiving.end = Some(End::Failed(number)),
                Outcome::Done | Outcome::Descriptor(_) => receiving.end = Some(End::Eof),
            }
        }
    }

    fn begin_receive(&self, group: u16, multishot: bool) -> Operation {
        let fd = self.socket.number();
        self.socket.core().begin(Request::Receive { fd, group, multishot }, Kept::Nothing)
    }

    /// Puts bytes back, to be received before everything else.
    pub fn unread(&self, bytes: Vec<u8>) {
        if !bytes.is_empty() {
            self.receiving.borrow_mut().early.push_front(Buf::from(bytes));
        }
    }

    /// Whether the stream is armed and nothing has come: no byte, no end, no error. No system call; the check of a
    /// pooled connection, after [`Stream::arm`].
    pub fn is_quiet(&self) -> bool {
        let receiving = self.receiving.borrow();
        receiving.early.is_empty()
            && receiving.end.is_none()
            && !self.reset.get()
            && receiving.operation.as_ref().is_some_and(|(operation, _)| operation.is_quiet())
    }

    /// The same, and nothing waits in the kernel that the ring has not told yet.
    pub fn is_quiet_now(&self) -> bool {
        self.is_quiet() && self.socket.is_drained()
    }

    /// Sends all of `bytes`. When the future is dropped, [`Stream::bytes_sent`] says how much went out.
    ///
    /// # Errors
    /// The socket's error, with part of the bytes sent: the stream is of no more use. `TimedOut` where the peer takes
    /// nothing for [`SEND_SILENCE`].
    pub async fn send(&self, bytes: &[u8]) -> io::Result<()> {
        self.send_within(SEND_SILENCE, bytes).await
    }

    pub(super) async fn send_within(&self, patience: Duration, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let sent = match poll_fn(|cx| Poll::Ready(self.poll_send(cx, bytes))).await {
                Poll::Ready(sent) => sent?,
                Poll::Pending => {
                    let taken = timeout(patience, poll_fn(|cx| self.poll_send(cx, bytes)));
                    // Apart: the future of a request, most of which never wait here, does not hold it.
                    Box::pin(taken).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))?
                }
            };
            bytes = bytes.get(sent..).unwrap_or_default();
        }
        Ok(())
    }

    /// Hands the kernel as many of `bytes` as it takes; after a pending answer the same bytes must follow.
    ///
    /// # Errors
    /// As [`Stream::send`].
    pub fn poll_send(&self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        loop {
            if self.reset.get() {
                return Poll::Ready(Err(failure(libc::ECONNRESET)));
            }
            let mut writable = self.writable.borrow_mut();
            if let Some(operation) = writable.as_ref() {
                let Poll::Ready(completion) = operation.poll(cx) else { return Poll::Pending };
                *writable = None;
                if let Outcome::Failed(libc::ESHUTDOWN) = completion.outcome {
                    return Poll::Ready(Err(failure(libc::ESHUTDOWN)));
                }
            }
            match rustix::net::send(self.as_fd(), bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
                Ok(sent) => {
                    self.sent.set(self.sent.get() + sent as u64);
                    return Poll::Ready(Ok(sent));
                }
                Err(rustix::io::Errno::AGAIN) => {
                    let request = Request::Poll { fd: self.socket.number(), events: libc::POLLOUT };
                    *writable = Some(self.socket.core().begin(request, Kept::Nothing));
                }
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Poll::Ready(Err(error.into())),
            }
        }
    }

    /// Bytes that the kernel has taken for sending since the stream was made.
    pub fn bytes_sent(&self) -> u64 {
        self.sent.get()
    }

    /// Ends our half: the peer reads the end of the stream after what was sent.
    ///
    /// # Errors
    /// The stream is not connected any more.
    pub fn shutdown_write(&self) -> io::Result<()> {
        Ok(rustix::net::shutdown(self.as_fd(), Shutdown::Write)?)
    }

    /// Cuts the stream: what the kernel has not sent is thrown away and a TCP peer gets RST. May be called again.
    ///
    /// By `connect` to no family: a linger-0 close would send no RST while the ring holds a receive.
    pub fn reset(&self) {
        if self.reset.replace(true) {
            return;
        }
        if rustix::net::connect_unspec(self.as_fd()).is_err() {
            // A Unix socket knows no reset; ending both halves is the same to its peer. Fails when the peer did so.
            let _ = rustix::net::shutdown(self.as_fd(), Shutdown::Both);
        }
        if let Some((operation, _)) = &self.receiving.borrow().operation {
            operation.wake();
        }
        if let Some(operation) = &*self.writable.borrow() {
            operation.wake();
        }
    }

    /// The address of our end; for redirected TPROXY traffic the one that was dialled.
    ///
    /// # Errors
    /// Not an internet socket, or not connected.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        internet(&SockRef::from(&self.as_fd()).local_addr()?)
    }

    /// The address of the peer.
    ///
    /// # Errors
    /// Not an internet socket, or not connected.
    pub fn peer_addr(&self) -> io::Result<SocketAddr> {
        internet(&SockRef::from(&self.as_fd()).peer_addr()?)
    }

    /// The address that was dialled before a REDIRECT rule changed it (`SO_ORIGINAL_DST`). A connection that was not
    /// redirected answers with the listener's own address: the caller must refuse that one.
    ///
    /// # Errors
    /// `ENOENT` without connection tracking.
    pub fn original_destination(&self) -> io::Result<SocketAddr> {
        let fd = self.as_fd();
        let socket = SockRef::from(&fd);
        let v4 = match self.local_addr()? {
            SocketAddr::V4(_) => true,
            SocketAddr::V6(local) => local.ip().to_ipv4_mapped().is_some(),
        };
        internet(&if v4 { socket.original_dst_v4()? } else { socket.original_dst_v6()? })
    }

    /// Stops receiving and gives the descriptor away with the bytes that were read but not received, for another
    /// shard's [`Stream::from_parts`]. An end of the stream is not among them: the socket tells it again.
    ///
    /// # Errors
    /// The stream was reset or has failed.
    pub async fn into_parts(mut self) -> io::Result<(OwnedFd, Vec<u8>)> {
        if self.reset.get() {
            return Err(failure(libc::ECONNRESET));
        }
        let mut bytes = Vec::new();
        let Receiving { early, operation, end } = self.receiving.take();
        early.iter().for_each(|early| bytes.extend_from_slice(early));
        if let Some(End::Failed(number)) = end {
            return Err(failure(number));
        }
        if let Some((operation, _)) = operation {
            operation.cancel();
            while !operation.is_starved() {
                let completion = poll_fn(|cx| operation.poll(cx)).await;
                match completion.outcome {
                    Outcome::Data(buffer) => bytes.extend_from_slice(&buffer),
                    Outcome::Failed(libc::ECANCELED) | Outcome::Done | Outcome::Descriptor(_) => {}
                    Outcome::Failed(number) => return Err(failure(number)),
                }
                if completion.last {
                    break;
                }
            }
        }
        // The other shard may close the descriptor at once, so the kernel must have let go of it here.
        if let Some(operation) = self.writable.take() {
            operation.cancel();
            while !poll_fn(|cx| operation.poll(cx)).await.last {}
        }
        let socket = self.socket.take().ok_or_else(|| failure(libc::EBADF))?;
        Ok((socket, bytes))
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Drop for Stream {
    /// Operations go first, by their names. Then both halves end, which lets go a receive that the kernel still
    /// holds: `close` alone would leave the peer without an end of stream. The descriptor is closed last.
    fn drop(&mut self) {
        self.receiving.get_mut().operation = None;
        self.writable.replace(None);
        if !self.socket.is_taken() && !self.reset.get() {
            // Fails when the peer has ended the connection already.
            let _ = rustix::net::shutdown(&self.socket, Shutdown::Both);
        }
    }
}
