//! A connection as `http` and `flow` see it, plain or TLS, and the bytes that come from it.

use std::io;
use std::ops::{Deref, DerefMut, Range};

use super::socket::{Script, Socket};
use super::stream::TlsStream;
use crate::limits::TLS_JOINED_BYTES_MAX;
use crate::ring::{Buf, Stream, is_left};

/// Received bytes: a part of a buffer of the pool, or of one on the heap.
pub enum Chunk {
    /// Lent by the shard's pool; goes back when dropped.
    Pool(Buf, Range<usize>),
    /// Decrypted, or kept.
    Heap(Vec<u8>, Range<usize>),
}

impl Chunk {
    /// Forgets the first `count` bytes; all of them where there are fewer.
    pub fn advance(&mut self, count: usize) {
        let (Self::Pool(_, range) | Self::Heap(_, range)) = self;
        range.start = range.end.min(range.start.saturating_add(count));
    }

    /// Forgets all but the first `count` bytes.
    pub fn truncate(&mut self, count: usize) {
        let (Self::Pool(_, range) | Self::Heap(_, range)) = self;
        range.end = range.end.min(range.start.saturating_add(count));
    }
}

impl From<Buf> for Chunk {
    fn from(bytes: Buf) -> Self {
        let range = 0..bytes.len();
        Self::Pool(bytes, range)
    }
}

impl From<Vec<u8>> for Chunk {
    fn from(bytes: Vec<u8>) -> Self {
        let range = 0..bytes.len();
        Self::Heap(bytes, range)
    }
}

impl Deref for Chunk {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Pool(bytes, range) => &bytes[range.clone()],
            Self::Heap(bytes, range) => &bytes[range.clone()],
        }
    }
}

impl DerefMut for Chunk {
    fn deref_mut(&mut self) -> &mut [u8] {
        match self {
            Self::Pool(bytes, range) => &mut bytes[range.clone()],
            Self::Heap(bytes, range) => &mut bytes[range.clone()],
        }
    }
}

/// One connection of either leg. All methods take `&self`: one task may await receiving and sending at once.
pub enum Wire {
    /// Bytes as they are.
    Plain(Stream),
    /// TLS whose handshake is done; boxed, since it is large.
    Tls(Box<TlsStream>),
    /// One end of a connection in memory.
    Scripted(Script),
}

impl Wire {
    /// The next bytes, in a head-size buffer; `None` at the end.
    ///
    /// # Errors
    /// What the socket says; with TLS `UnexpectedEof` for a cut and `InvalidData` for a broken protocol.
    pub async fn receive(&self) -> io::Result<Option<Chunk>> {
        Ok(match self {
            Self::Plain(stream) => stream.receive().await?.map(Chunk::from),
            Self::Tls(stream) => stream.receive().await?.map(Chunk::from),
            Self::Scripted(script) => script.receive().await?.map(Chunk::from),
        })
    }

    /// The next bytes of a body, in larger buffers; the sender is slowed down to the pace of the calls.
    ///
    /// # Errors
    /// As [`Wire::receive`].
    pub async fn receive_body(&self) -> io::Result<Option<Chunk>> {
        Ok(match self {
            Self::Plain(stream) => stream.receive_body().await?.map(Chunk::from),
            Self::Tls(stream) => stream.receive_body().await?.map(Chunk::from),
            Self::Scripted(script) => script.receive_body().await?.map(Chunk::from),
        })
    }

    /// Sends all bytes.
    ///
    /// # Errors
    /// What the socket says.
    pub async fn send(&self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Plain(stream) => stream.send(bytes).await,
            Self::Tls(stream) => stream.send(bytes).await,
            Self::Scripted(script) => script.send(bytes).await,
        }
    }

    /// Sends a head and the first bytes of its body; small ones with one write.
    ///
    /// # Errors
    /// As [`Wire::send`].
    pub async fn send2(&self, head: &[u8], body: &[u8]) -> io::Result<()> {
        if let Self::Tls(stream) = self {
            return stream.send2(head, body).await;
        }
        if body.is_empty() || head.len() + body.len() > TLS_JOINED_BYTES_MAX {
            self.send(head).await?;
            return self.send(body).await;
        }
        self.send(&[head, body].concat()).await
    }

    /// Says that we are done (`close_notify` with TLS, then FIN). The other direction may go on.
    ///
    /// # Errors
    /// As [`Wire::send`].
    pub async fn close(&self) -> io::Result<()> {
        match self {
            Self::Plain(stream) => stream.shutdown_write(),
            Self::Tls(stream) => stream.close().await,
            Self::Scripted(script) => script.shutdown_write(),
        }
    }

    /// Breaks the connection in both directions at once.
    pub fn reset(&self) {
        match self {
            Self::Plain(stream) => stream.reset(),
            Self::Tls(stream) => stream.reset(),
            Self::Scripted(script) => script.reset(),
        }
    }

    /// Whether the other end says nothing more, seen without reading what it said.
    pub fn is_left(&self) -> bool {
        match self {
            Self::Plain(stream) => is_left(stream),
            Self::Tls(stream) => is_left(stream.socket()),
            Self::Scripted(_) => false,
        }
    }

    /// Starts receiving without awaiting, so that [`Wire::is_quiet`] can tell.
    pub fn arm(&self) {
        match self {
            Self::Plain(stream) => stream.arm(),
            Self::Tls(stream) => stream.arm(),
            Self::Scripted(script) => script.arm(),
        }
    }

    /// Nothing arrived since and the end was not seen: a pooled connection that can be used again. Of use only after
    /// [`Wire::arm`].
    pub fn is_quiet(&self) -> bool {
        match self {
            Self::Plain(stream) => stream.is_quiet(),
            Self::Tls(stream) => stream.is_quiet(),
            Self::Scripted(script) => script.is_quiet(),
        }
    }

    /// The same, and nothing waits in the kernel: a system call more.
    pub fn is_quiet_now(&self) -> bool {
        let socket_is_quiet = match self {
            Self::Plain(stream) => stream.is_quiet_now(),
            Self::Tls(stream) => stream.socket().is_quiet_now(),
            Self::Scripted(_) => true,
        };
        socket_is_quiet && self.is_quiet()
    }

    /// Whether both sides chose HTTP/2.
    pub fn speaks_http2(&self) -> bool {
        matches!(self, Self::Tls(stream) if stream.speaks_http2())
    }

    /// Bytes that the socket took so far, records' overhead included.
    pub fn bytes_sent(&self) -> u64 {
        match self {
            Self::Plain(stream) => stream.bytes_sent(),
            Self::Tls(stream) => stream.bytes_sent(),
            Self::Scripted(script) => script.bytes_sent(),
        }
    }
}
