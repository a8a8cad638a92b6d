//! One request and its answer, cut loose from the connection: what `flow` works on, whichever version carries it.
//!
//! An [`Exchange`] owns its head and talks with the connection's task through single places: a piece is handed over
//! only when the other side asked for it, so each exchange holds at most one piece per direction, and asking is the
//! credit that HTTP/2 gives back to its peer. Nothing borrows the connection; any number of exchanges of one
//! connection can run at once.

use std::{
    cell::{Cell, RefCell},
    future::poll_fn,
    ops::Deref,
    rc::Rc,
    task::{Context, Poll, Waker},
};

use super::{
    body::{BodyError, Trailers},
    head::{RequestHead, ResponseHead},
};

/// A piece of a body on its way.
#[derive(Debug, PartialEq, Eq)]
pub enum BodyPiece<D> {
    /// Payload, never empty.
    Data(D),
    /// The body is whole.
    End(Option<Trailers>),
}

/// A piece of an answer on its way, in this order: any number of interim heads, one head, payload, the end.
#[derive(Debug)]
pub enum ReplyPiece<D, R = ResponseHead> {
    /// A head with a status below 200.
    Interim(R),
    /// The head of the answer.
    Head(R),
    /// Payload, never empty.
    Data(D),
    /// The answer is whole.
    End(Option<Trailers>),
}

/// A head of an answer, whoever made it.
pub trait AnyHead {
    /// Its status.
    fn status(&self) -> u16;
}

impl<B: Deref<Target = [u8]>> AnyHead for ResponseHead<B> {
    fn status(&self) -> u16 {
        Self::status(self)
    }
}

/// Asked in the turn in which bytes of an exchange are handed to the kernel.
pub trait Gate {
    /// Whether the exchange may still forward.
    fn is_open(&self) -> bool;
}

/// The client's leg of an exchange, to be broken at once: a connection in HTTP/1.1, a stream in HTTP/2.
pub trait Leg {
    /// Breaks it. What was not handed to the kernel before is never sent.
    fn reset(&self);

    /// Whether the client says nothing more, as far as that can be seen without reading what it said.
    fn is_left(&self) -> bool;
}

/// The place for one item between two tasks of a shard.
struct Place<T> {
    item: RefCell<Option<T>>,
    /// The reader waits for an item.
    asked: Cell<bool>,
    /// Bytes of items that the reader has done with since the writer looked last.
    released: Cell<usize>,
    /// One side is gone, or cut the body off.
    closed: Cell<bool>,
    /// The client says nothing more, though it may still listen.
    hung_up: Cell<bool>,
    /// Why the writer cut it off, where that is to be told.
    fault: Cell<Option<BodyError>>,
    /// Asked before an item goes on to the kernel.
    gate: RefCell<Option<Rc<dyn Gate>>>,
    reader: RefCell<Option<Waker>>,
    writer: RefCell<Option<Waker>>,
}

impl<T> Place<T> {
    fn new() -> Rc<Self> {
        Rc::new(Place {
            item: RefCell::new(None),
            asked: Cell::new(false),
            released: Cell::new(0),
            closed: Cell::new(false),
            hung_up: Cell::new(false),
            fault: Cell::new(None),
            gate: RefCell::new(None),
            reader: RefCell::new(None),
            writer: RefCell::new(None),
        })
    }

    fn close(&self) {
        self.closed.set(true);
        wake(&self.reader);
        wake(&self.writer);
    }

    fn poll_take(&self, cx: &Context<'_>) -> Poll<Option<T>> {
        if let Some(item) = self.item.borrow_mut().take() {
            self.asked.set(false);
            return Poll::Ready(Some(item));
        }
        if self.closed.get() {
            return Poll::Ready(None);
        }
        keep(&self.reader, cx);
        if !self.asked.replace(true) {
            wake(&self.writer);
        }
        Poll::Pending
    }

    /// Ready with the released bytes when the reader waits for an item.
    fn poll_asked(&self, cx: &Context<'_>) -> Poll<Option<usize>> {
        if self.closed.get() {
            return Poll::Ready(None);
        }
        if self.asked.get() && self.item.borrow().is_none() {
            return Poll::Ready(Some(self.released.take()));
        }
        keep(&self.writer, cx);
        Poll::Pending
    }

    fn put(&self, item: T) -> Result<(), BodyError> {
        if self.closed.get() {
            return Err(BodyError::Cancelled);
        }
        let before = self.item.borrow_mut().replace(item);
        assert!(before.is_none(), "an item is put only after the reader asked for it");
        wake(&self.reader);
        Ok(())
    }

    /// Waits until the other side is gone.
    fn poll_closed(&self, cx: &Context<'_>, waker: &RefCell<Option<Waker>>) -> Poll<()> {
        if self.closed.get() || self.hung_up.get() {
            return Poll::Ready(());
        }
        keep(waker, cx);
        Poll::Pending
    }
}

fn wake(place: &RefCell<Option<Waker>>) {
    // Taken out first: a waker may poll at once, and no borrow may be held then.
    let waker = place.borrow_mut().take();
    if let Some(waker) = waker {
        waker.wake();
    }
}

fn keep(place: &RefCell<Option<Waker>>, cx: &Context<'_>) {
    let mut kept = place.borrow_mut();
    if !kept.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
        *kept = Some(cx.waker().clone());
    }
}

/// The request's body as `flow` sees it. Dropping it before the end tells the connection to read no more.
pub struct BodyReader<D> {
    place: Rc<Place<BodyPiece<D>>>,
    last: usize,
    ended: bool,
}

impl<D: Deref<Target = [u8]>> BodyReader<D> {
    /// The next piece. Asking gives the bytes of the piece before back as credit, so it is asked for only when that
    /// was sent on. After the end, only `End(None)` comes. Dropping the future loses nothing.
    ///
    /// # Errors
    /// [`BodyError::Cancelled`] when the client is gone, else how its body was malformed.
    pub async fn next(&mut self) -> Result<BodyPiece<D>, BodyError> {
        if self.ended {
            return Ok(BodyPiece::End(None));
        }
        self.place.released.set(self.place.released.get() + std::mem::take(&mut self.last));
        match poll_fn(|cx| self.place.poll_take(cx)).await {
            Some(BodyPiece::Data(data)) => {
                self.last = data.len();
                Ok(BodyPiece::Data(data))
            }
            Some(end) => {
                self.ended = true;
                Ok(end)
            }
            None => Err(self.place.fault.get().unwrap_or(BodyError::Cancelled)),
        }
    }
}

impl<D> Drop for BodyReader<D> {
    fn drop(&mut self) {
        self.place.close();
    }
}

/// The request's body as the connection's task feeds it. Dropping it before the end cuts the body off.
pub struct BodyWriter<D> {
    place: Rc<Place<BodyPiece<D>>>,
}

impl<D> BodyWriter<D> {
    /// Waits until a piece is wanted; gives the bytes that were sent on since (HTTP/2 releases as many).
    ///
    /// # Errors
    /// [`BodyError::Cancelled`] when nobody wants the rest of the body.
    pub async fn ready(&self) -> Result<usize, BodyError> {
        poll_fn(|cx| self.place.poll_asked(cx)).await.ok_or(BodyError::Cancelled)
    }

    /// Hands a piece over, after [`BodyWriter::ready`].
    ///
    /// # Errors
    /// [`BodyError::Cancelled`] when nobody wants it.
    ///
    /// # Panics
    /// When nobody asked for it: our own mistake, it would be a queue without a bound.
    pub fn put(&self, piece: BodyPiece<D>) -> Result<(), BodyError> {
        self.place.put(piece)
    }

    /// Cuts the body off and tells why.
    pub fn fail(&self, fault: BodyError) {
        self.place.fault.set(Some(fault));
        self.place.close();
    }
}

impl<D> Drop for BodyWriter<D> {
    fn drop(&mut self) {
        // A piece that lies in the place is still taken; only what would follow is cut off.
        self.place.close();
    }
}

/// Where the answer goes. Dropping it before the end resets the stream or connection: a shortened answer must never
/// look whole.
pub struct Reply<D, R = ResponseHead> {
    place: Rc<Place<ReplyPiece<D, R>>>,
    /// The status of the head that was handed over.
    status: Cell<Option<u16>>,
    grpc: bool,
}

impl<D, R: AnyHead> Reply<D, R> {
    /// The answer is to a call of gRPC, whose refusals have a form of their own.
    pub fn is_grpc(&self) -> bool {
        self.grpc
    }

    /// Hands the next piece over when the connection can take it.
    ///
    /// # Errors
    /// [`BodyError::Cancelled`] when the client is gone.
    ///
    /// # Panics
    /// When the pieces come in another order than [`ReplyPiece`] says: our own mistake.
    pub async fn send(&self, piece: ReplyPiece<D, R>) -> Result<(), BodyError> {
        match &piece {
            ReplyPiece::Interim(_) | ReplyPiece::Head(_) => {
                assert!(!self.is_started(), "no head follows the head of the answer");
            }
            ReplyPiece::Data(_) | ReplyPiece::End(_) => {
                assert!(self.is_started(), "the head of the answer comes before its body");
            }
        }
        poll_fn(|cx| self.place.poll_asked(cx)).await.ok_or(BodyError::Cancelled)?;
        if let ReplyPiece::Head(head) = &piece {
            self.status.set(Some(head.status()));
        }
        self.place.put(piece)
    }

    /// Waits until the last piece was sent on, and the next is asked for.
    ///
    /// # Errors
    /// [`BodyError::Cancelled`] when the client is gone.
    pub async fn taken(&self) -> Result<(), BodyError> {
        poll_fn(|cx| self.place.poll_asked(cx)).await.map(drop).ok_or(BodyError::Cancelled)
    }

    /// Sets what is asked in the turn in which each later piece is handed to the kernel.
    pub fn guard(&self, gate: Rc<dyn Gate>) {
        *self.place.gate.borrow_mut() = Some(gate);
    }

    /// Lifts the guard, for an answer that is made here.
    pub fn unguard(&self) {
        self.place.gate.borrow_mut().take();
    }

    /// Whether the head of the answer was handed over, so that a refusal can no longer be given.
    pub fn is_started(&self) -> bool {
        self.status.get().is_some()
    }

    /// The status of the answer, once its head was handed over.
    pub fn status(&self) -> Option<u16> {
        self.status.get()
    }

    /// Waits until the client is gone or the connection cancels the exchange; the upstream is cancelled then.
    /// Not to be awaited while [`Reply::send`] waits: they share one waker, and `send` reports it itself.
    pub async fn cancelled(&self) {
        poll_fn(|cx| self.place.poll_closed(cx, &self.place.writer)).await;
    }
}

impl<D, R> Drop for Reply<D, R> {
    fn drop(&mut self) {
        self.place.close();
    }
}

/// The answer as the connection's task takes it. Dropping it cancels the exchange.
pub struct ReplyReader<D, R = ResponseHead> {
    place: Rc<Place<ReplyPiece<D, R>>>,
}

impl<D, R> ReplyReader<D, R> {
    /// The next piece; asked for only when the one before was sent. Dropping the future loses nothing.
    ///
    /// # Errors
    /// [`BodyError::Cancelled`] when the answer was cut off: the stream or connection must be reset.
    pub async fn next(&self) -> Result<ReplyPiece<D, R>, BodyError> {
        poll_fn(|cx| self.place.poll_take(cx)).await.ok_or(BodyError::Cancelled)
    }

    /// Tells that the client has ended its side: who waits for an upstream gives up, and an answer that is at hand is
    /// still taken.
    pub fn hang_up(&self) {
        self.place.hung_up.set(true);
        wake(&self.place.writer);
    }

    /// The guard of what is taken, to be held by who queues it.
    pub fn gate(&self) -> Option<Rc<dyn Gate>> {
        self.place.gate.borrow().clone()
    }

    /// Whether what was taken may go on. To be asked in the turn in which it does.
    pub fn is_open(&self) -> bool {
        self.place.gate.borrow().as_ref().is_none_or(|gate| gate.is_open())
    }
}

impl<D, R> Drop for ReplyReader<D, R> {
    fn drop(&mut self) {
        self.place.close();
    }
}

/// A request with everything that is needed to answer it.
pub struct Exchange<D, R = ResponseHead, B = Vec<u8>> {
    /// What was asked; it holds its bytes itself.
    pub head: RequestHead<B>,
    /// What comes with it.
    pub body: BodyReader<D>,
    /// Where the answer goes.
    pub reply: Reply<D, R>,
    /// Ends it at once.
    pub leg: Rc<dyn Leg>,
}

/// The connection's side of an [`Exchange`].
pub struct Driver<D, R = ResponseHead> {
    /// Where the request's body goes.
    pub body: BodyWriter<D>,
    /// Where the answer comes from.
    pub reply: ReplyReader<D, R>,
}

impl<D, R, B: Deref<Target = [u8]>> Exchange<D, R, B> {
    /// An exchange for this head and the connection's side of it.
    pub fn new(head: RequestHead<B>, leg: Rc<dyn Leg>) -> (Self, Driver<D, R>) {
        let (body, reply) = (Place::new(), Place::new());
        let driver = Driver {
            body: BodyWriter { place: Rc::clone(&body) },
            reply: ReplyReader { place: Rc::clone(&reply) },
        };
        let body = BodyReader { place: body, last: 0, ended: false };
        let reply = Reply { place: reply, status: Cell::new(None), grpc: head.is_grpc() };
        (Exchange { head, body, reply, leg }, driver)
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use futures_lite::future::{block_on, or, poll_once, zip};

    use super::*;
    use crate::http::{Parsed, parse_request, parse_response};

    type Bytes = Vec<u8>;

    /// A leg that is never broken here.
    struct Nothing;

    impl Leg for Nothing {
        fn reset(&self) {}

        fn is_left(&self) -> bool {
            false
        }
    }

    fn exchange(path: &str) -> (Exchange<Bytes>, Driver<Bytes>) {
        let text = format!("POST {path} HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n");
        let Ok(Parsed::Complete { head, .. }) = parse_request(text.as_bytes()) else { panic!("head") };
        Exchange::new(head.to_owned(), Rc::new(Nothing))
    }

    fn answer() -> ResponseHead {
        let bytes = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
        let Ok(Parsed::Complete { head, .. }) = parse_response(bytes, "POST") else { panic!("head") };
        head.to_owned()
    }

    /// What `flow` does: sends each piece back behind the path.
    async fn echo(mut exchange: Exchange<Bytes>) -> Result<(), BodyError> {
        exchange.reply.send(ReplyPiece::Head(answer())).await?;
        loop {
            match exchange.body.next().await? {
                BodyPiece::Data(data) => {
                    let text = [exchange.head.path().as_bytes(), b" ", &data].concat();
                    exchange.reply.send(ReplyPiece::Data(text)).await?;
                }
                BodyPiece::End(trailers) => return exchange.reply.send(ReplyPiece::End(trailers)).await,
            }
        }
    }

    async fn feed(driver: &Driver<Bytes>, text: &str) -> usize {
        let released = driver.body.ready().await.expect("wanted");
        driver.body.put(BodyPiece::Data(text.into())).expect("taken");
        released
    }

    async fn told(driver: &Driver<Bytes>) -> String {
        match driver.reply.next().await.expect("answer") {
            ReplyPiece::Interim(head) | ReplyPiece::Head(head) => head.status().to_string(),
            ReplyPiece::Data(data) => String::from_utf8(data).expect("text"),
            ReplyPiece::End(_) => "end".into(),
        }
    }

    #[test]
    fn two_exchanges_of_one_connection_run_interleaved() {
        let ((one, one_driver), (two, two_driver)) = (exchange("/one"), exchange("/two"));
        let connection = async {
            assert_eq!(told(&two_driver).await, "200");
            assert_eq!(feed(&two_driver, "a").await, 0);
            assert_eq!(told(&one_driver).await, "200");
            assert_eq!(feed(&one_driver, "bcd").await, 0);
            // The first answer is not taken; the second exchange goes on and ends all the same.
            assert_eq!(told(&two_driver).await, "/two a");
            two_driver.body.ready().await.expect("wanted");
            two_driver.body.put(BodyPiece::End(None)).expect("taken");
            assert_eq!(told(&two_driver).await, "end");
            assert_eq!(told(&one_driver).await, "/one bcd");
            assert_eq!(feed(&one_driver, "e").await, 3, "credit comes back when a piece was sent on");
            assert_eq!(told(&one_driver).await, "/one e");
            one_driver.body.ready().await.expect("wanted");
            one_driver.body.put(BodyPiece::End(None)).expect("taken");
            assert_eq!(told(&one_driver).await, "end");
        };
        let (ends, ()) = block_on(zip(zip(echo(one), echo(two)), connection));
        assert_eq!(ends, (Ok(()), Ok(())));
    }

    #[test]
    fn nothing_is_taken_from_the_client_before_the_answer_is_taken() {
        let (one, driver) = exchange("/");
        block_on(async {
            let mut flow = pin!(echo(one));
            let step = async {
                assert_eq!(told(&driver).await, "200");
                feed(&driver, "a").await;
            };
            or(async { flow.as_mut().await.unwrap_or_default() }, step).await;
            // The echo of the first piece waits for its reader, so no second piece is wanted.
            assert!(poll_once(flow.as_mut()).await.is_none());
            let mut wanted = pin!(driver.body.ready());
            assert!(poll_once(wanted.as_mut()).await.is_none());
            assert!(poll_once(flow.as_mut()).await.is_none());
            assert!(poll_once(wanted.as_mut()).await.is_none());
        });
    }

    #[test]
    fn client_that_is_gone_cancels_its_exchange_alone() {
        let ((one, one_driver), (two, two_driver)) = (exchange("/one"), exchange("/two"));
        let connection = async {
            assert_eq!(told(&one_driver).await, "200");
            drop(one_driver);
            assert_eq!(told(&two_driver).await, "200");
            two_driver.body.ready().await.expect("wanted");
            two_driver.body.put(BodyPiece::End(None)).expect("taken");
            assert_eq!(told(&two_driver).await, "end");
        };
        let (ends, ()) = block_on(zip(zip(echo(one), echo(two)), connection));
        assert_eq!(ends, (Err(BodyError::Cancelled), Ok(())));
    }

    #[test]
    fn answer_that_is_dropped_never_looks_whole() {
        let (one, driver) = exchange("/");
        let flow = async {
            one.reply.send(ReplyPiece::Head(answer())).await.expect("taken");
            one.reply.send(ReplyPiece::Data(b"half".to_vec())).await.expect("taken");
            drop(one);
        };
        let connection = async {
            assert_eq!(told(&driver).await, "200");
            assert_eq!(told(&driver).await, "half");
            driver.reply.next().await.map(|_| ())
        };
        assert_eq!(block_on(zip(flow, connection)).1, Err(BodyError::Cancelled));
        assert_eq!(block_on(driver.body.ready()), Err(BodyError::Cancelled));
    }
}
