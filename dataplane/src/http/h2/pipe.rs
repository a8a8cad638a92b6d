//! A wire as the crate h2 wants it, and the pump that hands to the kernel what h2 wrote.
//!
//! h2 flushes after each large frame. Here its flushes do nothing: what it writes in one turn is gathered, and the pump
//! sends all of it at once.

use std::{
    cell::{Cell, RefCell},
    future::{Future, poll_fn},
    io,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, Waker, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::meter::{Meter, Role, Turned};
use crate::{
    http::exchange::Gate,
    limits::H2_GATHERED_BYTES,
    tls::{Chunk, Wire},
};

type Waiting<T> = RefCell<Option<Pin<Box<dyn Future<Output = T>>>>>;

/// What pipe and pump share.
struct Ends {
    wire: Rc<Wire>,
    receiving: Waiting<io::Result<Option<Chunk>>>,
    /// Received and not read yet.
    received: RefCell<Option<Chunk>>,
    /// The last piece was that of a busy sender, for whom larger buffers are worth it.
    busy: Cell<bool>,
    /// Written and not being sent yet.
    gathered: RefCell<Vec<u8>>,
    sending: Waiting<(io::Result<()>, Vec<u8>)>,
    writer: RefCell<Option<Waker>>,
    /// h2 was not taken all from at its last write: it holds the rest of a frame.
    held_back: Cell<bool>,
    /// Gates of what is gathered, and of what is being sent.
    gates: RefCell<Vec<Rc<dyn Gate>>>,
    leaving: RefCell<Vec<Rc<dyn Gate>>>,
    /// Gates of streams whose end h2 was given and has not written.
    ending: RefCell<Vec<(u32, Rc<dyn Gate>)>>,
    meter: Meter,
    /// Pieces that were received.
    heard: Cell<u64>,
}

impl Ends {
    /// The end of a stream lies among what is gathered, or will never be: then its gate goes with what is sent next.
    /// Not dropped here: h2 may hold its lock.
    fn ended(&self, stream: u32) {
        let mut ending = self.ending.borrow_mut();
        let mut gates = self.gates.borrow_mut();
        while let Some(place) = ending.iter().position(|(of, _)| *of == stream) {
            gates.push(ending.swap_remove(place).1);
        }
    }
}

/// The side of h2.
pub struct Pipe(Rc<Ends>);

/// The side of who drives the connection.
#[derive(Clone)]
pub struct Pump(Rc<Ends>);

impl Pipe {
    /// Both sides of a wire, on which we have this role.
    pub fn new(wire: Rc<Wire>, role: Role) -> (Self, Pump) {
        let ends = Rc::new(Ends {
            wire,
            receiving: RefCell::default(),
            received: RefCell::default(),
            busy: Cell::new(false),
            gathered: RefCell::default(),
            sending: RefCell::default(),
            writer: RefCell::default(),
            held_back: Cell::new(false),
            gates: RefCell::default(),
            leaving: RefCell::default(),
            ending: RefCell::default(),
            meter: Meter::new(role),
            heard: Cell::new(0),
        });
        (Self(Rc::clone(&ends)), Pump(ends))
    }
}

impl Pump {
    /// Sends what is gathered, for as long as it is awaited. To be polled after h2 in each turn. Ends only by an error.
    pub async fn run(&self) -> io::Error {
        let sent = poll_fn(|cx| match self.poll_send(cx) {
            Poll::Ready(Err(error)) => Poll::Ready(error),
            Poll::Ready(Ok(())) | Poll::Pending => Poll::Pending,
        });
        sent.await
    }

    /// Sends all that is gathered.
    ///
    /// # Errors
    /// Those of the wire.
    pub async fn flush(&self) -> io::Result<()> {
        poll_fn(|cx| self.poll_send(cx)).await
    }

    /// Whether the wire takes nothing more at the moment: what h2 wrote, of whichever stream, is not with the kernel.
    pub fn is_blocked(&self) -> bool {
        self.0.held_back.get() || self.0.sending.borrow().is_some() || !self.0.gathered.borrow().is_empty()
    }

    /// Holds the gate of what was gathered until that was sent.
    pub(super) fn hold(&self, gate: Rc<dyn Gate>) {
        self.0.gates.borrow_mut().push(gate);
    }

    /// Holds the gate of a stream whose end h2 was given, until that was sent or the stream is broken.
    pub(super) fn hold_to_end(&self, stream: u32, gate: Rc<dyn Gate>) {
        self.0.ending.borrow_mut().push((stream, gate));
    }

    /// No end of this stream is written any more.
    pub(super) fn forget(&self, stream: u32) {
        self.0.ended(stream);
    }

    /// Lets all gates go: the connection has ended.
    pub fn release(&self) {
        let ends = &self.0;
        // Taken out first: what they hold may lead back here.
        let gone = (ends.gates.take(), ends.leaving.take(), ends.ending.take());
        drop(gone);
    }

    /// Whether the head of this stream, and so of all before it, was written.
    pub(super) fn has_opened(&self, stream: u32) -> bool {
        self.0.meter.opened() >= stream
    }

    /// Which frames the peer sends too many of, where it does. Then nothing more is read from it.
    pub fn flood(&self) -> Option<&'static str> {
        self.0.meter.fault()
    }

    /// Whether the peer has begun a head that is not whole.
    pub fn is_head_open(&self) -> bool {
        self.0.meter.is_head_open()
    }

    /// Somebody has taken the request of this stream.
    pub fn accepted(&self, stream: u32) {
        self.0.meter.accepted(stream);
    }

    /// Requests that h2 has refused by itself since the last call.
    pub fn turned(&self) -> Vec<Turned> {
        self.0.meter.turned()
    }

    /// How many requests have come that nobody has seen, because the connection ended.
    pub fn unseen(&self) -> usize {
        self.0.meter.unseen()
    }

    /// Pieces received so far. While it does not change, the peer is silent.
    pub fn heard(&self) -> u64 {
        self.0.heard.get()
    }

    /// The wire below.
    pub fn wire(&self) -> &Rc<Wire> {
        &self.0.wire
    }

    fn poll_send(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let ends = &self.0;
        loop {
            let mut sending = ends.sending.borrow_mut();
            if let Some(future) = &mut *sending {
                let (sent, mut buffer) = ready!(future.as_mut().poll(cx));
                *sending = None;
                drop(sending);
                // Taken out first: what they hold may lead back here.
                let gone = ends.leaving.take();
                drop(gone);
                sent?;
                buffer.clear();
                let mut gathered = ends.gathered.borrow_mut();
                if gathered.is_empty() && buffer.capacity() <= H2_GATHERED_BYTES * 2 {
                    *gathered = buffer;
                }
                drop(gathered);
                // Taken out first: a waker may poll at once.
                let writer = ends.writer.borrow_mut().take();
                if let Some(writer) = writer {
                    writer.wake();
                }
                continue;
            }
            if ends.gathered.borrow().is_empty() {
                // An idle connection holds no buffer.
                ends.gathered.take();
                drop(sending);
                let gone = ends.gates.take();
                drop(gone);
                return Poll::Ready(Ok(()));
            }
            ends.leaving.replace(ends.gates.take());
            let (wire, bytes) = (Rc::clone(&ends.wire), ends.gathered.take());
            *sending = Some(Box::pin(async move { (wire.send(&bytes).await, bytes) }));
        }
    }
}

impl AsyncRead for Pipe {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let ends = &self.0;
        let mut received = ends.received.borrow_mut();
        if received.is_none() {
            let mut receiving = ends.receiving.borrow_mut();
            let future = receiving.get_or_insert_with(|| {
                let (wire, busy) = (Rc::clone(&ends.wire), ends.busy.get());
                Box::pin(async move { if busy { wire.receive_body().await } else { wire.receive().await } })
            });
            let found = ready!(future.as_mut().poll(cx));
            *receiving = None;
            let Some(chunk) = found? else { return Poll::Ready(Ok(())) };
            ends.busy.set(chunk.len() >= BUSY_BYTES);
            ends.heard.set(ends.heard.get() + 1);
            *received = Some(chunk);
        }
        if let Some(chunk) = &mut *received {
            let count = chunk.len().min(into.remaining());
            ends.meter.received(&chunk[..count], |stream| ends.ended(stream));
            if ends.meter.fault().is_some() {
                return Poll::Pending;
            }
            into.put_slice(&chunk[..count]);
            chunk.advance(count);
            if chunk.is_empty() {
                *received = None;
            }
        }
        Poll::Ready(Ok(()))
    }
}

/// Bytes of a piece behind which more is expected at once.
const BUSY_BYTES: usize = 2 << 10;

impl AsyncWrite for Pipe {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let mut gathered = self.0.gathered.borrow_mut();
        let room = H2_GATHERED_BYTES.saturating_sub(gathered.len());
        if room == 0 {
            *self.0.writer.borrow_mut() = Some(cx.waker().clone());
            self.0.held_back.set(true);
            return Poll::Pending;
        }
        let count = bytes.len().min(room);
        gathered.extend_from_slice(&bytes[..count]);
        self.0.meter.written(&bytes[..count], |stream| self.0.ended(stream));
        self.0.held_back.set(count < bytes.len());
        Poll::Ready(Ok(count))
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    /// Who drives the connection ends the wire when all is sent.
    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
