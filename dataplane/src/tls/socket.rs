//! What TLS needs from a socket, and a socket of two byte queues for tests and demonstrations without a network.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::ops::DerefMut;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use crate::ring::{Buf, Stream};

/// A byte stream of one shard. All methods take `&self`: one task may await receiving and sending at once.
#[allow(async_fn_in_trait, reason = "its futures stay on their shard and need not be Send")]
pub trait Socket {
    /// What arrived.
    type Buf: DerefMut<Target = [u8]>;
    /// The next bytes; `None` at the end. Dropping the future loses nothing.
    async fn receive(&self) -> io::Result<Option<Self::Buf>>;
    /// The next bytes of a body, in larger buffers.
    async fn receive_body(&self) -> io::Result<Option<Self::Buf>>;
    /// What arrived already, as [`Socket::receive`] gives it; `None` when it would wait: then it listens. Only while
    /// nobody receives.
    fn receive_now(&self) -> Option<io::Result<Option<Self::Buf>>>;
    /// Sends all bytes; [`Socket::bytes_sent`] counts also those of a dropped future.
    async fn send(&self, bytes: &[u8]) -> io::Result<()>;
    /// Bytes that the socket took so far.
    fn bytes_sent(&self) -> u64;
    /// Ends our direction.
    fn shutdown_write(&self) -> io::Result<()>;
    /// Breaks the connection in both directions at once.
    fn reset(&self);
    /// Starts receiving without awaiting, so that [`Socket::is_quiet`] can tell.
    fn arm(&self);
    /// Nothing arrived and the end was not seen. Of use only after [`Socket::arm`] or a receive.
    fn is_quiet(&self) -> bool;
}

impl Socket for Stream {
    type Buf = Buf;

    async fn receive(&self) -> io::Result<Option<Buf>> {
        Stream::receive(self).await
    }

    async fn receive_body(&self) -> io::Result<Option<Buf>> {
        Stream::receive_body(self).await
    }

    fn receive_now(&self) -> Option<io::Result<Option<Buf>>> {
        ready(self.poll_receive(&mut Context::from_waker(Waker::noop())))
    }

    async fn send(&self, bytes: &[u8]) -> io::Result<()> {
        Stream::send(self, bytes).await
    }

    fn bytes_sent(&self) -> u64 {
        Stream::bytes_sent(self)
    }

    fn shutdown_write(&self) -> io::Result<()> {
        Stream::shutdown_write(self)
    }

    fn reset(&self) {
        Stream::reset(self);
    }

    fn arm(&self) {
        Stream::arm(self);
    }

    fn is_quiet(&self) -> bool {
        Stream::is_quiet(self)
    }
}

fn ready<T>(polled: Poll<T>) -> Option<T> {
    match polled {
        Poll::Ready(value) => Some(value),
        Poll::Pending => None,
    }
}

/// Bytes on their way in one direction.
struct Pipe {
    segments: VecDeque<Vec<u8>>,
    held: usize,
    accepts: usize,
    segment_bytes: usize,
    ended: bool,
    reset: bool,
    wakers: Vec<Waker>,
}

impl Pipe {
    fn new() -> Rc<RefCell<Self>> {
        Rc::new(RefCell::new(Self {
            segments: VecDeque::new(),
            held: 0,
            accepts: 1 << 20,
            segment_bytes: usize::MAX,
            ended: false,
            reset: false,
            wakers: Vec::new(),
        }))
    }

    fn wake(&mut self) {
        self.wakers.drain(..).for_each(Waker::wake);
    }

    fn wait<T>(&mut self, context: &Context<'_>) -> Poll<T> {
        self.wakers.push(context.waker().clone());
        Poll::Pending
    }
}

/// One end of a connection that exists in memory only. What one end sends the other receives, with back-pressure.
pub struct Script {
    inward: Rc<RefCell<Pipe>>,
    outward: Rc<RefCell<Pipe>>,
    sent: Cell<u64>,
}

impl Script {
    /// Both ends of a new connection.
    pub fn pair() -> (Self, Self) {
        let (one, two) = (Pipe::new(), Pipe::new());
        let end = |inward: &Rc<_>, outward: &Rc<_>| Self {
            inward: Rc::clone(inward),
            outward: Rc::clone(outward),
            sent: Cell::new(0),
        };
        (end(&one, &two), end(&two, &one))
    }

    /// Bytes that may wait unread at this end; the other end's sending waits beyond it.
    pub fn accept_at_most(&self, bytes: usize) {
        let mut pipe = self.inward.borrow_mut();
        pipe.accepts = bytes;
        pipe.wake();
    }

    /// Cuts what is sent from this end into segments of at most so many bytes.
    pub fn segment(&self, bytes: usize) {
        self.outward.borrow_mut().segment_bytes = bytes.max(1);
    }

    /// Whether the other end broke the connection.
    pub fn was_reset(&self) -> bool {
        self.inward.borrow().reset
    }

    fn poll_send(&self, bytes: &mut &[u8], context: &Context<'_>) -> Poll<io::Result<()>> {
        let mut pipe = self.outward.borrow_mut();
        while !bytes.is_empty() {
            if pipe.reset || pipe.ended {
                return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
            }
            let count = bytes.len().min(pipe.segment_bytes).min(pipe.accepts.saturating_sub(pipe.held));
            if count == 0 {
                return pipe.wait(context);
            }
            let (segment, rest) = bytes.split_at(count);
            pipe.segments.push_back(segment.to_vec());
            pipe.held += count;
            self.sent.set(self.sent.get() + count as u64);
            *bytes = rest;
            pipe.wake();
        }
        Poll::Ready(Ok(()))
    }

    fn poll_receive(&self, context: &Context<'_>) -> Poll<io::Result<Option<Vec<u8>>>> {
        let mut pipe = self.inward.borrow_mut();
        if pipe.reset {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        match pipe.segments.pop_front() {
            Some(segment) => {
                pipe.held -= segment.len();
                pipe.wake();
                Poll::Ready(Ok(Some(segment)))
            }
            None if pipe.ended => Poll::Ready(Ok(None)),
            None => pipe.wait(context),
        }
    }
}

impl Socket for Script {
    type Buf = Vec<u8>;

    async fn receive(&self) -> io::Result<Option<Vec<u8>>> {
        poll_fn(|context| self.poll_receive(context)).await
    }

    async fn receive_body(&self) -> io::Result<Option<Vec<u8>>> {
        self.receive().await
    }

    fn receive_now(&self) -> Option<io::Result<Option<Vec<u8>>>> {
        ready(self.poll_receive(&Context::from_waker(Waker::noop())))
    }

    async fn send(&self, mut bytes: &[u8]) -> io::Result<()> {
        poll_fn(|context| self.poll_send(&mut bytes, context)).await
    }

    fn bytes_sent(&self) -> u64 {
        self.sent.get()
    }

    fn shutdown_write(&self) -> io::Result<()> {
        let mut pipe = self.outward.borrow_mut();
        pipe.ended = true;
        pipe.wake();
        Ok(())
    }

    fn reset(&self) {
        for pipe in [&self.inward, &self.outward] {
            let mut pipe = pipe.borrow_mut();
            pipe.reset = true;
            pipe.wake();
        }
    }

    fn arm(&self) {}

    fn is_quiet(&self) -> bool {
        let pipe = self.inward.borrow();
        pipe.segments.is_empty() && !pipe.ended && !pipe.reset
    }
}

impl Drop for Script {
    fn drop(&mut self) {
        let mut pipe = self.outward.borrow_mut();
        pipe.ended = true;
        pipe.wake();
    }
}
