//! HTTP/1.1 as it is received: head after head, body after body. Generic over the transport, so it serves plain
//! sockets, TLS and scripted tests alike.

use std::{
    io,
    ops::{Deref, Range},
    rc::Rc,
};

use bytes::Bytes;

use super::{
    body::{BodyDecoder, BodyError, Piece},
    exchange::{BodyPiece, Leg},
    fault::HeadError,
    head::{RequestHead, ResponseHead},
    reader::{Found, HeadReader, WholeHead},
};
use crate::tls::{Chunk, Wire};

/// A connection that receives chunks and sends bytes. A dropped `receive` loses nothing.
#[allow(async_fn_in_trait, reason = "a shard is single-threaded, so futures need not be Send")]
pub trait Transport {
    /// Received bytes, for example a buffer of the pool.
    type Chunk: Deref<Target = [u8]>;

    /// The next bytes of a head, or of an idle connection; nothing at the end.
    async fn receive(&self) -> io::Result<Option<Self::Chunk>>;
    /// The next bytes of a body, only as many as one large buffer holds.
    async fn receive_body(&self) -> io::Result<Option<Self::Chunk>>;
    /// Sends all of it.
    async fn send(&self, bytes: &[u8]) -> io::Result<()>;
    /// Sends both, in one write where it can.
    async fn send2(&self, first: &[u8], second: &[u8]) -> io::Result<()>;
    /// Says that nothing more is sent; the other direction may go on.
    async fn close(&self) -> io::Result<()>;
}

impl Transport for Wire {
    type Chunk = Chunk;

    async fn receive(&self) -> io::Result<Option<Chunk>> {
        self.receive().await
    }

    async fn receive_body(&self) -> io::Result<Option<Chunk>> {
        self.receive_body().await
    }

    async fn send(&self, bytes: &[u8]) -> io::Result<()> {
        self.send(bytes).await
    }

    async fn send2(&self, first: &[u8], second: &[u8]) -> io::Result<()> {
        self.send2(first, second).await
    }

    async fn close(&self) -> io::Result<()> {
        self.close().await
    }
}

impl Leg for Wire {
    fn reset(&self) {
        self.reset();
    }

    fn is_left(&self) -> bool {
        self.is_left()
    }
}

/// Why a connection cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum H1Error {
    /// A head is refused.
    #[error("the head is refused")]
    Head(#[from] HeadError),
    /// A body is cut off.
    #[error("the body is cut off")]
    Body(#[from] BodyError),
    /// The transport failed.
    #[error("the connection failed")]
    Io(#[from] io::Error),
    /// The peer closed in the middle of a head.
    #[error("the connection ended within a head")]
    Cut,
}

/// Received bytes as heads and bodies hold them: never copied, except a head that spans several chunks.
pub enum Block<C> {
    /// A chunk with one holder.
    Sole(C),
    /// A chunk in which something else lies as well, for example the body behind its head.
    Shared(Rc<C>),
    /// Bytes of our own: a head from several chunks, or what sniffing gathered.
    Gathered(Rc<Vec<u8>>),
    /// Payload of a frame of HTTP/2.
    Framed(Bytes),
}

impl<C: Deref<Target = [u8]>> Deref for Block<C> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Block::Sole(chunk) => chunk,
            Block::Shared(chunk) => chunk,
            Block::Gathered(bytes) => bytes,
            Block::Framed(bytes) => bytes,
        }
    }
}

impl<C> Block<C> {
    /// Two holders of the same bytes.
    fn split(self) -> (Self, Self) {
        let shared = match self {
            Block::Sole(chunk) => Rc::new(chunk),
            Block::Shared(chunk) => chunk,
            Block::Gathered(bytes) => return (Block::Gathered(Rc::clone(&bytes)), Block::Gathered(bytes)),
            Block::Framed(bytes) => return (Block::Framed(bytes.clone()), Block::Framed(bytes)),
        };
        (Block::Shared(Rc::clone(&shared)), Block::Shared(shared))
    }
}

/// A piece of payload where it was received.
pub struct Slice<C> {
    block: Block<C>,
    range: Range<usize>,
}

impl<C: Deref<Target = [u8]>> Slice<C> {
    /// Forgets the first `count` bytes; all of them where there are fewer.
    pub fn advance(&mut self, count: usize) {
        self.range.start = self.range.end.min(self.range.start.saturating_add(count));
    }

    /// Takes the first `count` bytes off; all of them where there are fewer.
    pub fn split_to(&mut self, count: usize) -> Self {
        let Slice { block, range } = std::mem::take(self);
        if count >= range.len() {
            return Slice { block, range };
        }
        let (one, other) = block.split();
        let middle = range.start + count;
        *self = Slice { block: other, range: middle..range.end };
        Slice { block: one, range: range.start..middle }
    }
}

impl<C> Default for Slice<C> {
    fn default() -> Self {
        Bytes::new().into()
    }
}

impl<C> From<Bytes> for Slice<C> {
    /// Payload of a frame.
    fn from(bytes: Bytes) -> Self {
        let range = 0..bytes.len();
        Slice { block: Block::Framed(bytes), range }
    }
}

impl<C: Deref<Target = [u8]>> Deref for Slice<C> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.block[self.range.clone()]
    }
}

impl<C> From<Vec<u8>> for Slice<C> {
    /// Bytes of our own.
    fn from(bytes: Vec<u8>) -> Self {
        let range = 0..bytes.len();
        Slice { block: Block::Gathered(Rc::new(bytes)), range }
    }
}

/// The receiving half of a connection's HTTP/1.1: head after head, body after body.
pub struct Inbound<C> {
    reader: HeadReader,
    /// Received and not used yet: the start of a body, or the next pipelined head.
    surplus: Option<(Block<C>, usize)>,
}

impl<C: Deref<Target = [u8]>> Default for Inbound<C> {
    fn default() -> Self {
        Inbound { reader: HeadReader::new(), surplus: None }
    }
}

impl<C: Deref<Target = [u8]>> Inbound<C> {
    /// A connection that begins with bytes which were received already, for example while sniffing.
    pub fn starting_with(bytes: Block<C>) -> Self {
        let surplus = (!bytes.is_empty()).then_some((bytes, 0));
        Inbound { reader: HeadReader::new(), surplus }
    }

    /// Whether bytes are here that nobody used: of a client the start of its next request; of a pooled upstream
    /// connection a reason not to use it again.
    pub fn has_surplus(&self) -> bool {
        self.surplus.is_some() || self.reader.is_started()
    }

    /// Lets go of the receive buffer in which unused bytes lie: they are copied, since nobody asks for them now and a
    /// buffer of the pool is every connection's.
    pub fn release(&mut self) {
        if let Some((Block::Sole(_) | Block::Shared(_), _)) = &self.surplus
            && let Some((block, at)) = self.surplus.take()
        {
            self.surplus = Some((Block::Gathered(Rc::new(block[at..].to_vec())), 0));
        }
    }

    /// Waits until bytes are here; false where the other side closed instead. The bytes stay for who reads next.
    ///
    /// # Errors
    /// Those of the transport.
    pub async fn wait<T: Transport<Chunk = C>>(&mut self, from: &T) -> io::Result<bool> {
        if !self.has_surplus() {
            self.surplus = from.receive().await?.map(|chunk| (Block::Sole(chunk), 0));
        }
        Ok(self.has_surplus())
    }

    /// The next request; nothing where the client closed between requests. The caller bounds the time.
    ///
    /// # Errors
    /// [`H1Error`]; a [`H1Error::Head`] is answered with its status and the connection closed.
    pub async fn read_request<T: Transport<Chunk = C>>(
        &mut self,
        from: &T,
    ) -> Result<Option<RequestHead<Block<C>>>, H1Error> {
        let found = self.read_head(from, |head| head.request().map(RequestHead::detach)).await?;
        Ok(found.map(|(layout, block)| layout.attach(block)))
    }

    /// The next head of the answer to a request with this method, interim ones included.
    ///
    /// # Errors
    /// [`H1Error`]; each means 502, or a second try where nothing was processed.
    pub async fn read_response<T: Transport<Chunk = C>>(
        &mut self,
        from: &T,
        method: &str,
    ) -> Result<ResponseHead<Block<C>>, H1Error> {
        let found = self.read_head(from, |head| head.response(method).map(ResponseHead::detach)).await?;
        found.map(|(layout, block)| layout.attach(block)).ok_or(H1Error::Cut)
    }

    async fn read_head<T: Transport<Chunk = C>, L>(
        &mut self,
        from: &T,
        parse: impl Fn(WholeHead<'_>) -> Result<L, HeadError>,
    ) -> Result<Option<(L, Block<C>)>, H1Error> {
        loop {
            let (block, at) = match self.surplus.take() {
                Some(surplus) => surplus,
                None => match from.receive().await? {
                    Some(chunk) => (Block::Sole(chunk), 0),
                    None if self.reader.is_started() => return Err(H1Error::Cut),
                    None => return Ok(None),
                },
            };
            // A head must start its block for its spans to fit; one behind another is gathered, which copies it.
            let (layout, taken, gathered) = match self.reader.push(&block[at..])? {
                Found::Partial => continue,
                Found::Complete { head, taken, gathered } => {
                    let copied = (at > 0 && !gathered).then(|| head.bytes().to_vec());
                    (parse(head)?, taken, (gathered, copied))
                }
            };
            let rest = at + taken;
            let goes_on = rest < block.len();
            let held = match gathered {
                (true, _) => Some(self.reader.take()),
                (false, copied) => copied,
            };
            let block = match (held, goes_on) {
                (Some(bytes), true) => {
                    self.surplus = Some((block, rest));
                    Block::Gathered(Rc::new(bytes))
                }
                (Some(bytes), false) => Block::Gathered(Rc::new(bytes)),
                (None, true) => {
                    let (one, other) = block.split();
                    self.surplus = Some((other, rest));
                    one
                }
                (None, false) => block,
            };
            return Ok(Some((layout, block)));
        }
    }

    /// The next piece of the body whose decoder this is. After `End`, the next head may be read.
    ///
    /// # Errors
    /// [`H1Error`]; the connection cannot be used further.
    pub async fn next_piece<T: Transport<Chunk = C>>(
        &mut self,
        from: &T,
        decoder: &mut BodyDecoder,
    ) -> Result<BodyPiece<Slice<C>>, H1Error> {
        loop {
            if decoder.is_ended() {
                return Ok(BodyPiece::End(None));
            }
            let (block, at) = match self.surplus.take() {
                Some(surplus) => surplus,
                None => match from.receive_body().await? {
                    Some(chunk) => (Block::Sole(chunk), 0),
                    None => {
                        decoder.close()?;
                        continue;
                    }
                },
            };
            let (consumed, piece) = decoder.decode(&block[at..])?;
            let rest = at + consumed;
            let goes_on = rest < block.len();
            match piece {
                Piece::Data(range) => {
                    let range = at + range.start..at + range.end;
                    let block = if goes_on {
                        let (one, other) = block.split();
                        self.surplus = Some((other, rest));
                        one
                    } else {
                        block
                    };
                    return Ok(BodyPiece::Data(Slice { block, range }));
                }
                Piece::End(trailers) => {
                    self.surplus = goes_on.then_some((block, rest));
                    return Ok(BodyPiece::End(trailers));
                }
                Piece::More => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        cell::{Cell, RefCell},
        collections::VecDeque,
    };

    use futures_lite::future::block_on;

    use super::*;
    use crate::http::{BodyEncoder, Framing};

    /// Gives scripted chunks, one per receive, and keeps what is sent.
    #[derive(Default)]
    struct Script {
        chunks: RefCell<VecDeque<Vec<u8>>>,
        sent: RefCell<Vec<u8>>,
        writes: Cell<usize>,
    }

    impl Script {
        fn of(bytes: &[u8], step: usize) -> Self {
            Script {
                chunks: RefCell::new(bytes.chunks(step).map(<[u8]>::to_vec).collect()),
                ..Script::default()
            }
        }
    }

    impl Transport for Script {
        type Chunk = Vec<u8>;

        async fn receive(&self) -> io::Result<Option<Vec<u8>>> {
            Ok(self.chunks.borrow_mut().pop_front())
        }
        async fn receive_body(&self) -> io::Result<Option<Vec<u8>>> {
            self.receive().await
        }
        async fn send(&self, bytes: &[u8]) -> io::Result<()> {
            self.send2(bytes, b"").await
        }
        async fn send2(&self, first: &[u8], second: &[u8]) -> io::Result<()> {
            self.sent.borrow_mut().extend([first, second].concat());
            self.writes.set(self.writes.get() + 1);
            Ok(())
        }
        async fn close(&self) -> io::Result<()> {
            Ok(())
        }
    }

    /// Sends a whole body on; gives its bytes.
    async fn relay(
        inbound: &mut Inbound<Vec<u8>>,
        from: &Script,
        to: &Script,
        (arriving, leaving): (Framing, Framing),
    ) -> Result<u64, H1Error> {
        let (mut decoder, mut encoder) = (BodyDecoder::new(arriving), BodyEncoder::new(leaving));
        let mut frame = Vec::new();
        loop {
            match inbound.next_piece(from, &mut decoder).await? {
                BodyPiece::Data(data) => {
                    encoder.before(data.len(), &mut frame)?;
                    frame.extend_from_slice(&data);
                    encoder.after(&mut frame);
                }
                BodyPiece::End(trailers) => {
                    encoder.finish(trailers.as_ref(), &mut frame)?;
                    to.send(&frame).await?;
                    return Ok(decoder.payload_bytes());
                }
            }
        }
    }

    #[test]
    fn unused_bytes_are_the_same_when_their_buffer_was_let_go() {
        let script = Script::of(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhelloGET", 1_000);
        let mut inbound = Inbound::default();
        let head = block_on(inbound.read_request(&script)).unwrap().unwrap();
        let Some((Block::Shared(chunk), _)) = &inbound.surplus else {
            panic!("the body lies behind the head")
        };
        let chunk = Rc::downgrade(chunk);
        let mut decoder = BodyDecoder::new(head.framing());
        drop(head);
        inbound.release();
        assert!(chunk.upgrade().is_none(), "nothing holds the buffer");
        let Ok(BodyPiece::Data(data)) = block_on(inbound.next_piece(&script, &mut decoder)) else {
            panic!("the body comes")
        };
        assert_eq!(&*data, b"hello");
        inbound.release();
        assert!(inbound.has_surplus());
    }

    #[test]
    fn pipelined_requests_cut_anywhere_are_read_in_order() {
        let bytes = b"POST /1 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n\
                      PUT /2 HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nfghiGET /3 HTTP/1.1\r\nHost: a\r\n\r\n";
        for step in 1..=bytes.len() {
            let (from, to, mut inbound) = (Script::of(bytes, step), Script::default(), Inbound::default());
            block_on(async {
                for path in ["/1", "/2", "/3"] {
                    let head = inbound.read_request(&from).await.expect("sound").expect("there");
                    assert_eq!(head.path(), path, "{step}");
                    let framing = (head.framing(), head.framing());
                    relay(&mut inbound, &from, &to, framing).await.expect("sound");
                }
                assert!(inbound.read_request(&from).await.expect("sound").is_none());
            });
            let sent = to.sent.borrow();
            let mut decoder = BodyDecoder::new(Framing::Chunked);
            let (mut payload, mut at) = (Vec::new(), 0);
            while let Ok((consumed, Piece::Data(range))) = decoder.decode(&sent[at..]) {
                payload.extend_from_slice(&sent[at..][range]);
                at += consumed;
            }
            assert_eq!(payload, b"abcde", "{step}");
            assert!(sent.ends_with(b"0\r\n\r\nfghi"), "{step}");
        }
    }

    #[test]
    fn head_and_body_in_one_chunk_share_it() {
        let from = Script::of(b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nab", 999);
        block_on(async {
            let mut inbound = Inbound::default();
            let head = inbound.read_request(&from).await.expect("sound").expect("there");
            let mut decoder = BodyDecoder::new(head.framing());
            let Ok(BodyPiece::Data(data)) = inbound.next_piece(&from, &mut decoder).await else {
                panic!("data")
            };
            assert!(matches!((&*data, &data.block), (b"ab", Block::Shared(_))));
            assert!(!inbound.has_surplus());
        });
    }

    #[test]
    fn bytes_that_sniffing_gathered_come_first() {
        let sniffed =
            Block::Gathered(Rc::new(b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\na".to_vec()));
        let (from, to) = (Script::of(b"b", 1), Script::default());
        block_on(async {
            let mut inbound = Inbound::starting_with(sniffed);
            let head = inbound.read_request(&from).await.expect("sound").expect("there");
            let relayed = relay(&mut inbound, &from, &to, (head.framing(), head.framing())).await;
            assert_eq!((relayed.expect("sound"), &to.sent.borrow()[..]), (2, &b"ab"[..]));
        });
    }

    #[test]
    fn cut_messages_are_told_from_closed_connections() {
        block_on(async {
            let cut = Inbound::default().read_request(&Script::of(b"GET / HT", 3)).await;
            assert!(matches!(cut, Err(H1Error::Cut)));
            let none = Inbound::default().read_response(&Script::default(), "GET").await;
            assert!(matches!(none, Err(H1Error::Cut)));
            let (from, to) = (Script::of(b"abc", 2), Script::default());
            let framing = (Framing::Length(4), Framing::Chunked);
            let relayed = relay(&mut Inbound::default(), &from, &to, framing).await;
            assert!(matches!(relayed, Err(H1Error::Body(BodyError::Truncated))));
            assert!(!to.sent.borrow().ends_with(b"0\r\n\r\n"));
        });
    }
}
