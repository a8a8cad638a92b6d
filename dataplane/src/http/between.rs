//! What the two sides of an exchange hand each other, and how they take turns.

use std::{
    cell::{Cell, RefCell},
    future::{Future, poll_fn},
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
};

use super::{
    body::{BodyError, Trailers},
    exchange::{BodyPiece, Gate, ReplyPiece},
};

/// What the two sides of an exchange hand each other. Both run in one task, in turns: see [`Turns`].
pub(super) struct Between<D, R> {
    /// Which sides have something to find, as bits of [`PATH`] and [`CONNECTION`].
    due: Cell<u8>,
    pub up: Up<D>,
    pub down: Down<D, R>,
}

/// The side that takes the request along its path.
pub(super) const PATH: u8 = 1;
/// The side that reads from the client and writes to it.
pub(super) const CONNECTION: u8 = 2;

/// The place of a body's pieces, from the connection to the path.
pub(super) struct Up<D> {
    pub piece: RefCell<Option<BodyPiece<D>>>,
    /// A piece is waited for.
    pub asked: Cell<bool>,
    /// Bytes of pieces that were sent on since the connection looked last.
    pub released: Cell<usize>,
    pub closed: Cell<bool>,
    /// Why the connection cut it off, where that is to be told.
    pub fault: Cell<Option<BodyError>>,
}

/// The place of an answer's pieces, from the path to the connection: at most one of each kind.
pub(super) struct Down<D, R> {
    pub head: RefCell<Option<ReplyPiece<D, R>>>,
    pub data: RefCell<Option<D>>,
    pub end: RefCell<Option<Option<Trailers>>>,
    /// A piece is waited for: all before were sent.
    pub asked: Cell<bool>,
    /// Payload was taken and may not be sent yet.
    pub sending: Cell<bool>,
    pub closed: Cell<bool>,
    /// The client says nothing more, though it may still listen.
    pub hung_up: Cell<bool>,
    /// Why the path cut it off, where that is to be told.
    pub fault: Cell<Option<BodyError>>,
    /// Asked before a piece goes on to the kernel.
    pub gate: RefCell<Option<Rc<dyn Gate>>>,
}

impl<D, R> Between<D, R> {
    pub fn new() -> Rc<Self> {
        let up = Up {
            piece: RefCell::default(),
            asked: Cell::default(),
            released: Cell::default(),
            closed: Cell::default(),
            fault: Cell::default(),
        };
        let down = Down {
            head: RefCell::default(),
            data: RefCell::default(),
            end: RefCell::default(),
            asked: Cell::default(),
            sending: Cell::default(),
            closed: Cell::default(),
            hung_up: Cell::default(),
            fault: Cell::default(),
            gate: RefCell::default(),
        };
        Rc::new(Self { due: Cell::new(0), up, down })
    }

    pub fn stir(&self, sides: u8) {
        self.due.set(self.due.get() | sides);
    }

    pub fn close_up(&self, other: u8) {
        self.up.closed.set(true);
        self.stir(other);
    }

    pub fn close_down(&self, other: u8) {
        self.down.closed.set(true);
        self.stir(other);
    }

    pub fn poll_body(&self) -> Poll<Result<BodyPiece<D>, BodyError>> {
        if let Some(piece) = self.up.piece.borrow_mut().take() {
            self.up.asked.set(false);
            return Poll::Ready(Ok(piece));
        }
        if self.up.closed.get() {
            return Poll::Ready(Err(self.up.fault.get().unwrap_or(BodyError::Cancelled)));
        }
        if !self.up.asked.replace(true) {
            self.stir(CONNECTION);
        }
        Poll::Pending
    }

    /// Ready with the released bytes when a piece is waited for.
    pub fn poll_wanted(&self) -> Poll<Result<usize, BodyError>> {
        if self.up.closed.get() {
            return Poll::Ready(Err(BodyError::Cancelled));
        }
        match self.up.asked.get() && self.up.piece.borrow().is_none() {
            true => Poll::Ready(Ok(self.up.released.take())),
            false => Poll::Pending,
        }
    }

    pub fn poll_reply(&self) -> Poll<Result<ReplyPiece<D, R>, BodyError>> {
        let Down { head, data, end, asked, sending, closed, fault, .. } = &self.down;
        sending.set(false);
        let piece = head.borrow_mut().take();
        let piece = piece.or_else(|| data.borrow_mut().take().map(ReplyPiece::Data));
        let piece = piece.or_else(|| end.borrow_mut().take().map(ReplyPiece::End));
        if let Some(piece) = piece {
            asked.set(false);
            sending.set(matches!(piece, ReplyPiece::Data(_)));
            return Poll::Ready(Ok(piece));
        }
        if closed.get() {
            return Poll::Ready(Err(fault.get().unwrap_or(BodyError::Cancelled)));
        }
        if !asked.replace(true) {
            self.stir(PATH);
        }
        Poll::Pending
    }

    /// Ready when all before was sent.
    pub fn poll_sent(&self) -> Poll<Result<(), BodyError>> {
        let Down { head, data, end, asked, closed, .. } = &self.down;
        if closed.get() {
            return Poll::Ready(Err(BodyError::Cancelled));
        }
        let waits = head.borrow().is_some() || data.borrow().is_some() || end.borrow().is_some();
        if asked.get() && !waits { Poll::Ready(Ok(())) } else { Poll::Pending }
    }

    /// Ready when this piece may be put: payload when that before was sent, so that one piece is held; the head and the
    /// end behind whatever there is, so that a short answer is handed over in one turn.
    pub fn poll_room(&self, piece: &ReplyPiece<D, R>) -> Poll<Result<(), BodyError>> {
        let Down { head, data, sending, closed, .. } = &self.down;
        if closed.get() {
            return Poll::Ready(Err(BodyError::Cancelled));
        }
        let free = match piece {
            ReplyPiece::Interim(_) => return self.poll_sent(),
            ReplyPiece::Head(_) => head.borrow().is_none(),
            ReplyPiece::Data(_) => data.borrow().is_none() && !sending.get(),
            ReplyPiece::End(_) => true,
        };
        if free { Poll::Ready(Ok(())) } else { Poll::Pending }
    }

    pub fn put(&self, piece: ReplyPiece<D, R>) {
        let Down { head, data, end, .. } = &self.down;
        let unsent = match piece {
            piece @ (ReplyPiece::Interim(_) | ReplyPiece::Head(_)) => head.replace(Some(piece)).is_some(),
            ReplyPiece::Data(piece) => data.replace(Some(piece)).is_some(),
            ReplyPiece::End(trailers) => end.replace(Some(trailers)).is_some(),
        };
        assert!(!unsent, "a piece is put only where there is room");
        self.stir(CONNECTION);
    }

    /// Lets the other side go on before.
    pub async fn pass(&self) {
        let mut passed = false;
        poll_fn(|_| {
            if std::mem::replace(&mut passed, true) {
                return Poll::Ready(());
            }
            self.stir(PATH | CONNECTION);
            Poll::Pending
        })
        .await;
    }
}

/// Runs the two sides of an exchange in one task. What a side hands over, or asks for, the other finds in the same turn
/// of the executor: neither wakes its own task for that.
pub struct Turns<D, R>(pub(super) Rc<Between<D, R>>);

/// Turns of both sides before other tasks have theirs; a short answer needs three. Larger: an exchange whose peers are
/// never slow holds the shard for longer, a piece of a body each turn. Smaller: more ways through the executor.
const TURNS_MAX: usize = 4;

impl<D, R> Turns<D, R> {
    /// Gives what both sides give. The path goes first.
    pub fn take<P: Future, C: Future>(self, path: P, connection: C) -> Taking<P, C, D, R> {
        Taking { between: self.0, path, connection, ends: (None, None) }
    }
}

pin_project_lite::pin_project! {
    /// Both sides of an exchange under way. Made by [`Turns::take`].
    pub struct Taking<P: Future, C: Future, D, R> {
        between: Rc<Between<D, R>>,
        #[pin]
        path: P,
        #[pin]
        connection: C,
        ends: (Option<P::Output>, Option<C::Output>),
    }
}

impl<P: Future, C: Future, D, R> Future for Taking<P, C, D, R> {
    type Output = (P::Output, C::Output);

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        let (due, ends) = (&this.between.due, this.ends);
        // Nobody says which of them was woken.
        due.set(PATH | CONNECTION);
        for _ in 0..TURNS_MAX {
            if due.get() & PATH != 0 {
                due.set(due.get() & !PATH);
                poll_side(this.path.as_mut(), &mut ends.0, cx);
            }
            if due.get() & CONNECTION != 0 {
                due.set(due.get() & !CONNECTION);
                poll_side(this.connection.as_mut(), &mut ends.1, cx);
            }
            match std::mem::take(ends) {
                (Some(path), Some(connection)) => return Poll::Ready((path, connection)),
                unfinished => *ends = unfinished,
            }
            if due.get() == 0 {
                return Poll::Pending;
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

/// Polls a side that has not ended.
fn poll_side<F: Future>(side: Pin<&mut F>, ended: &mut Option<F::Output>, cx: &mut Context<'_>) {
    if ended.is_none()
        && let Poll::Ready(output) = side.poll(cx)
    {
        *ended = Some(output);
    }
}
