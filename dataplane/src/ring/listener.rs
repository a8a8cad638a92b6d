//! A listening socket: multishot accept with a bound, and a pause when descriptors run out.

use std::{
    cell::RefCell,
    future::poll_fn,
    io,
    net::SocketAddr,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
};

use socket2::SockRef;

use super::{
    Ring,
    core::{count, failure},
    descriptor::Descriptor,
    operation::Operation,
    options::{internet, prepare},
    slab::Outcome,
    stream::Stream,
    sys::{Kept, Request},
    timer::Sleep,
};
use crate::limits::ACCEPT_PAUSE;

enum Accepting {
    No,
    Armed(Operation),
    Paused(Sleep),
}

/// A listening TCP or Unix socket. One task accepts.
pub struct Listener {
    accepting: RefCell<Accepting>,
    socket: Descriptor,
}

impl Listener {
    /// Takes a socket that listens already. TCP options set here are inherited by what it accepts.
    ///
    /// # Errors
    /// The descriptor is no socket.
    pub fn from_fd(socket: OwnedFd) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&socket, true)?;
        prepare(&SockRef::from(&socket))?;
        let socket = Descriptor::new(Ring::current().0, socket);
        Ok(Self { accepting: RefCell::new(Accepting::No), socket })
    }

    /// The next connection. Dropping the await loses none. When descriptors run out it pauses and goes on by itself;
    /// [`Stats::accept_pauses`](super::Stats) counts that.
    ///
    /// # Errors
    /// The listener itself is of no use any more.
    pub async fn accept(&self) -> io::Result<Stream> {
        poll_fn(|cx| self.poll_accept(cx)).await
    }

    fn poll_accept(&self, cx: &mut Context<'_>) -> Poll<io::Result<Stream>> {
        let mut accepting = self.accepting.borrow_mut();
        loop {
            let operation = match &mut *accepting {
                Accepting::No => {
                    let request = Request::Accept { fd: self.socket.number() };
                    *accepting = Accepting::Armed(self.socket.core().begin(request, Kept::Nothing));
                    continue;
                }
                Accepting::Paused(sleep) => {
                    if Pin::new(sleep).poll(cx).is_pending() {
                        return Poll::Pending;
                    }
                    *accepting = Accepting::No;
                    continue;
                }
                Accepting::Armed(operation) => operation,
            };
            let Poll::Ready(completion) = operation.poll(cx) else { return Poll::Pending };
            if completion.last {
                *accepting = Accepting::No;
            }
            match completion.outcome {
                Outcome::Descriptor(socket) => {
                    return Poll::Ready(Ok(Stream::adopt(Rc::clone(self.socket.core()), socket)));
                }
                Outcome::Failed(libc::ECANCELED | libc::EINTR | libc::EAGAIN | libc::ECONNABORTED) => {}
                Outcome::Failed(number) if is_passing(number) => {
                    count(&self.socket.core().counters.accept_pauses);
                    // Arming at once would spin. What waits in the backlog is not lost.
                    *accepting = Accepting::Paused(Sleep::new(ACCEPT_PAUSE));
                }
                Outcome::Failed(number) => return Poll::Ready(Err(failure(number))),
                Outcome::Done | Outcome::Data(_) => {}
            }
        }
    }

    /// Takes no more: asks the kernel to end accepting, and gives what it had accepted; `None` when it has ended.
    ///
    /// To be awaited before another accepts from the same socket. The kernel wakes one of those who wait, and a wake
    /// that goes to one who is leaving is lost: the connection would stay in the backlog until the next one comes.
    pub async fn drain(&self) -> Option<Stream> {
        poll_fn(|cx| self.poll_drain(cx)).await
    }

    fn poll_drain(&self, cx: &mut Context<'_>) -> Poll<Option<Stream>> {
        let mut accepting = self.accepting.borrow_mut();
        loop {
            let Accepting::Armed(operation) = &*accepting else { return Poll::Ready(None) };
            operation.cancel();
            let Poll::Ready(completion) = operation.poll(cx) else { return Poll::Pending };
            if completion.last {
                *accepting = Accepting::No;
            }
            if let Outcome::Descriptor(socket) = completion.outcome {
                return Poll::Ready(Some(Stream::adopt(Rc::clone(self.socket.core()), socket)));
            }
        }
    }

    /// The address on which it listens.
    ///
    /// # Errors
    /// Not an internet socket.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        internet(&SockRef::from(&self.socket).local_addr()?)
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Errors that pass: no descriptor or memory is left, or the connection that was about to be accepted has failed
/// (accept(2), "Error handling").
fn is_passing(number: i32) -> bool {
    matches!(
        number,
        libc::EMFILE
            | libc::ENFILE
            | libc::ENOBUFS
            | libc::ENOMEM
            | libc::EPERM
            | libc::ENETDOWN
            | libc::EPROTO
            | libc::ENOPROTOOPT
            | libc::EHOSTDOWN
            | libc::ENONET
            | libc::EHOSTUNREACH
            | libc::ENETUNREACH
    )
}
