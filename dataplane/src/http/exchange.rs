//! One request and its answer, cut loose from the connection: what `flow` works on, whichever version carries it.
//!
//! An [`Exchange`] owns its head and talks with its connection through places for single pieces: payload is handed over
//! only when that before was sent on, so each exchange holds at most one piece per direction, and asking is the credit
//! that HTTP/2 gives back to its peer. Nothing borrows the connection; any number of exchanges of one connection can run
//! at once, each with both its sides in one task, in [`Turns`].

use std::{cell::Cell, future::poll_fn, ops::Deref, rc::Rc, task::Poll};

pub use super::between::Turns;
use super::{
    between::{Between, CONNECTION, PATH},
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

/// The request's body as `flow` sees it. Dropping it before the end tells the connection to read no more.
pub struct BodyReader<D, R = ResponseHead> {
    between: Rc<Between<D, R>>,
    last: usize,
    ended: bool,
}

impl<D: Deref<Target = [u8]>, R> BodyReader<D, R> {
    /// The next piece. Asking gives the bytes of the piece before back as credit, so it is asked for only when that
    /// was sent on. After the end, only `End(None)` comes. Dropping the future loses nothing.
    ///
    /// # Errors
    /// [`BodyError::Cancelled`] when the client is gone, else how its body was malformed.
    pub async fn next(&mut self) -> Result<BodyPiece<D>, BodyError> {
        if self.ended {
            return Ok(BodyPiece::End(None));
        }
        let released = &self.between.up.released;
        released.set(released.get() + std::mem::take(&mut self.last));
        let piece = poll_fn(|_| self.between.poll_body()).await?;
        match &piece {
            BodyPiece::Data(data) => self.last = data.len(),
            BodyPiece::End(_) => self.ended = true,
        }
        Ok(piece)
    }
}

impl<D, R> Drop for BodyReader<D, R> {
    fn drop(&mut self) {
        self.between.close_up(CONNECTION);
    }
}

/// The request's body as the connection feeds it. Dropping it before the end cuts the body off.
pub struct BodyWriter<D, R = ResponseHead> {
    between: Rc<Between<D, R>>,
}

impl<D, R> BodyWriter<D, R> {
    /// Waits until a piece is wanted; gives the bytes that were sent on since (HTTP/2 releases as many).
    ///
    /// # Errors
    /// [`BodyError::Cancelled`] when nobody wants the rest of the body.
    pub async fn ready(&self) -> Result<usize, BodyError> {
        poll_fn(|_| self.between.poll_wanted()).await
    }

    /// Hands a piece over, after [`BodyWriter::ready`].
    ///
    /// # Errors
    /// [`BodyError::Cancelled`] when nobody wants it.
    ///
    /// # Panics
    /// When nobody asked for it: our own mistake, it would be a queue without a bound.
    pub fn put(&self, piece: BodyPiece<D>) -> Result<(), BodyError> {
        if self.between.up.closed.get() {
            return Err(BodyError::Cancelled);
        }
        let before = self.between.up.piece.replace(Some(piece));
        assert!(before.is_none(), "a piece is put only after the path asked for it");
        self.between.stir(PATH);
        Ok(())
    }

    /// Cuts the body off and tells why.
    pub fn fail(&self, fault: BodyError) {
        self.between.up.fault.set(Some(fault));
        self.between.close_up(PATH);
    }
}

impl<D, R> Drop for BodyWriter<D, R> {
    fn drop(&mut self) {
        // A piece that lies there is still taken; only what would follow is cut off.
        self.between.close_up(PATH);
    }
}

/// Where the answer goes. Dropping it before the end resets the stream or connection: a shortened answer must never
/// look whole.
pub struct Reply<D, R = ResponseHead> {
    between: Rc<Between<D, R>>,
    /// The status of the head that was handed over.
    status: Cell<Option<u16>>,
    grpc: bool,
}

impl<D, R: AnyHead> Reply<D, R> {
    /// The answer is to a call of gRPC, whose refusals have a form of their own.
    pub fn is_grpc(&self) -> bool {
        self.grpc
    }

    /// Hands the next piece over when there is room: payload waits until that before was sent.
    ///
    /// # Errors
    /// [`BodyError::Cancelled`] when the client is gone.
    ///
    /// # Panics
    /// When the pieces come in another order than [`ReplyPiece`] says: our own mistake.
    pub fn send(&self, piece: ReplyPiece<D, R>) -> impl Future<Output = Result<(), BodyError>> {
        match &piece {
            ReplyPiece::Interim(_) | ReplyPiece::Head(_) => {
                assert!(!self.is_started(), "no head follows the head of the answer");
            }
            ReplyPiece::Data(_) | ReplyPiece::End(_) => {
                assert!(self.is_started(), "the head of the answer comes before its body");
            }
        }
        // Held once: an `async` block would hold it as what it was given and as what it works on.
        let mut piece = Some(piece);
        poll_fn(move |_| {
            if let Some(waiting) = &piece {
                std::task::ready!(self.between.poll_room(waiting))?;
            }
            if let Some(piece) = piece.take() {
                if let ReplyPiece::Head(head) = &piece {
                    self.status.set(Some(head.status()));
                }
                self.between.put(piece);
            }
            Poll::Ready(Ok(()))
        })
    }

    /// Cuts the answer off and tells why.
    pub fn fail(&self, fault: BodyError) {
        self.between.down.fault.set(Some(fault));
        self.between.close_down(CONNECTION);
    }

    /// Waits until the last piece was sent on, and the next is asked for.
    ///
    /// # Errors
    /// [`BodyError::Cancelled`] when the client is gone.
    pub async fn taken(&self) -> Result<(), BodyError> {
        poll_fn(|_| self.between.poll_sent()).await
    }

    /// Lets the connection go on before: what it has at hand is there afterwards.
    pub async fn pass(&self) {
        self.between.pass().await;
    }

    /// Sets what is asked in the turn in which each later piece is handed to the kernel.
    pub fn guard(&self, gate: Rc<dyn Gate>) {
        *self.between.down.gate.borrow_mut() = Some(gate);
    }

    /// Lifts the guard, for an answer that is made here. An interim head of the upstream's that has not left does not.
    pub fn unguard(&self) {
        let down = &self.between.down;
        let interim = down.head.borrow_mut().take_if(|head| matches!(head, ReplyPiece::Interim(_)));
        drop((down.gate.take(), interim));
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
    pub async fn cancelled(&self) {
        let down = &self.between.down;
        poll_fn(|_| if down.closed.get() || down.hung_up.get() { Poll::Ready(()) } else { Poll::Pending })
            .await;
    }
}

impl<D, R> Drop for Reply<D, R> {
    fn drop(&mut self) {
        self.between.close_down(CONNECTION);
    }
}

/// The answer as the connection takes it. Dropping it cancels the exchange.
pub struct ReplyReader<D, R = ResponseHead> {
    between: Rc<Between<D, R>>,
}

impl<D, R> ReplyReader<D, R> {
    /// The next piece; asked for only when the one before was sent. Dropping the future loses nothing.
    ///
    /// # Errors
    /// Why the answer was cut off, [`BodyError::Cancelled`] where that was not told: the stream or connection must be
    /// reset.
    pub async fn next(&self) -> Result<ReplyPiece<D, R>, BodyError> {
        poll_fn(|_| self.between.poll_reply()).await
    }

    /// Lets the path go on before: what it has at hand is there afterwards.
    pub async fn pass(&self) {
        self.between.pass().await;
    }

    /// Tells that the client has ended its side: who waits for an upstream gives up, and an answer that is at hand is
    /// still taken.
    pub fn hang_up(&self) {
        self.between.down.hung_up.set(true);
        self.between.stir(PATH);
    }

    /// The guard of what is taken, to be held by who queues it.
    pub fn gate(&self) -> Option<Rc<dyn Gate>> {
        self.between.down.gate.borrow().clone()
    }

    /// Whether what was taken may go on. To be asked in the turn in which it does.
    pub fn is_open(&self) -> bool {
        self.between.down.gate.borrow().as_ref().is_none_or(|gate| gate.is_open())
    }
}

impl<D, R> Drop for ReplyReader<D, R> {
    fn drop(&mut self) {
        self.between.close_down(PATH);
    }
}

/// A request with everything that is needed to answer it.
pub struct Exchange<D, R = ResponseHead, B = Vec<u8>> {
    /// What was asked; it holds its bytes itself.
    pub head: RequestHead<B>,
    /// What comes with it.
    pub body: BodyReader<D, R>,
    /// Where the answer goes.
    pub reply: Reply<D, R>,
    /// Ends it at once.
    pub leg: Rc<dyn Leg>,
}

/// The connection's side of an [`Exchange`].
pub struct Driver<D, R = ResponseHead> {
    /// Where the request's body goes.
    pub body: BodyWriter<D, R>,
    /// Where the answer comes from.
    pub reply: ReplyReader<D, R>,
}

impl<D, R> Driver<D, R> {
    /// What runs this side and the other.
    pub fn turns(&self) -> Turns<D, R> {
        Turns(Rc::clone(&self.reply.between))
    }
}

impl<D, R, B: Deref<Target = [u8]>> Exchange<D, R, B> {
    /// An exchange for this head and the connection's side of it.
    pub fn new(head: RequestHead<B>, leg: Rc<dyn Leg>) -> (Self, Driver<D, R>) {
        let between = Between::new();
        let driver = Driver {
            body: BodyWriter { between: Rc::clone(&between) },
            reply: ReplyReader { between: Rc::clone(&between) },
        };
        let body = BodyReader { between: Rc::clone(&between), last: 0, ended: false };
        let reply = Reply { between, status: Cell::new(None), grpc: head.is_grpc() };
        (Exchange { head, body, reply, leg }, driver)
    }
}

#[cfg(test)]
mod tests {
    use std::{future::Future, pin::pin, task::Context};

    use futures_lite::future::{block_on, or, poll_once, yield_now, zip};

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

    /// Polls until it is ready, as [`Turns`] does.
    fn turn<F: Future>(future: F) -> F::Output {
        let mut future = pin!(future);
        let mut cx = Context::from_waker(std::task::Waker::noop());
        let mut ends = (0..1000).filter_map(|_| match future.as_mut().poll(&mut cx) {
            Poll::Ready(output) => Some(output),
            Poll::Pending => None,
        });
        ends.next().expect("an end")
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
        let (ends, ()) = turn(zip(zip(echo(one), echo(two)), connection));
        assert_eq!(ends, (Ok(()), Ok(())));
    }

    #[test]
    fn no_more_is_taken_from_the_client_than_the_answer_is_taken() {
        let (one, driver) = exchange("/");
        turn(async {
            let mut flow = pin!(echo(one));
            let step = async {
                assert_eq!(told(&driver).await, "200");
                feed(&driver, "a").await;
                // The echo of the first piece lies there; that of the second waits until it was sent.
                feed(&driver, "b").await;
                yield_now().await;
            };
            or(async { flow.as_mut().await.unwrap_or_default() }, step).await;
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
        let (ends, ()) = turn(zip(zip(echo(one), echo(two)), connection));
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
        assert_eq!(turn(zip(flow, connection)).1, Err(BodyError::Cancelled));
        assert_eq!(block_on(driver.body.ready()), Err(BodyError::Cancelled));
    }

    #[test]
    fn a_short_answer_is_handed_over_in_one_turn() {
        let (one, driver) = exchange("/");
        let turns = driver.turns();
        let (mut polls, mut told) = ((0, 0), Vec::new());
        {
            let mut answering = pin!(async {
                one.reply.send(ReplyPiece::Head(answer())).await.expect("room");
                one.reply.send(ReplyPiece::Data(b"all".to_vec())).await.expect("room");
                one.reply.send(ReplyPiece::End(None)).await.expect("room");
            });
            let mut taking = pin!(async {
                while !matches!(told.last(), Some(ReplyPiece::End(_))) {
                    told.push(driver.reply.next().await.expect("a piece"));
                }
            });
            let path = poll_fn(|cx| {
                polls.0 += 1;
                answering.as_mut().poll(cx)
            });
            let connection = poll_fn(|cx| {
                polls.1 += 1;
                taking.as_mut().poll(cx)
            });
            block_on(turns.take(path, connection));
        }
        assert_eq!((polls, told.len()), ((1, 1), 3));
    }

    #[test]
    fn payload_waits_until_that_before_was_sent() {
        let (one, driver) = exchange("/");
        block_on(async {
            one.reply.send(ReplyPiece::Head(answer())).await.expect("room");
            one.reply.send(ReplyPiece::Data(b"one".to_vec())).await.expect("room");
            let mut second = pin!(one.reply.send(ReplyPiece::Data(b"two".to_vec())));
            assert!(poll_once(second.as_mut()).await.is_none());
            assert!(matches!(driver.reply.next().await, Ok(ReplyPiece::Head(_))));
            assert!(matches!(driver.reply.next().await, Ok(ReplyPiece::Data(_))));
            assert!(poll_once(second.as_mut()).await.is_none(), "the first is being sent");
            assert!(poll_once(driver.reply.next()).await.is_none());
            assert_eq!(second.await, Ok(()));
        });
    }
}
