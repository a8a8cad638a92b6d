//! Requests and answers of one connection, by HTTP/1.1 or HTTP/2; every byte of an answer is checked.

use std::{collections::BTreeMap, io, time::Instant};

use crate::{
    http1::{Piece, Reader, fields, status},
    http2::{self, Said},
    limits::REFUSAL_BYTES_MAX,
    names::{Asked, TAG_DIGITS, put_tag},
    pattern,
    plan::{Load, Scheme},
    target::{Greeting, Seat},
    transport::Transport,
};

/// A request that is due.
#[derive(Clone, Copy, Debug)]
pub struct Job {
    /// When it was due.
    pub due: Instant,
    /// Tag of its bodies.
    pub tag: u32,
}

/// A request that is over.
#[derive(Debug)]
pub struct Done {
    /// The request.
    pub job: Job,
    /// What came of it.
    pub verdict: Verdict,
    /// The connection is of no more use.
    pub closes: bool,
}

/// What came of a request.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Status 200 and every byte that was asked for.
    Good,
    /// Another status, and what was said with it.
    Status(u16, String),
    /// Status 200 and other bytes.
    Corrupted(&'static str),
}

/// What the requests of one connection have in common.
pub struct Request {
    head: Vec<u8>,
    tag_at: usize,
    path: String,
    authority: String,
    scheme: &'static str,
    down: u64,
    up: u64,
}

impl Request {
    /// Requests of a sandbox to a host.
    pub fn new(load: &Load, seat: &Seat, host: &str, port: u16) -> Self {
        let path = Asked { sandbox: seat.sandbox, down: load.down, tag: 0 }.path();
        let authority = format!("{host}:{port}");
        let (before, credentials) = match (&seat.greeting, load.scheme) {
            (Greeting::Proxy(value), Scheme::Http) => {
                let line = value.as_ref().map(|value| format!("Proxy-Authorization: {value}\r\n"));
                (format!("http://{authority}"), line.unwrap_or_default())
            }
            _ => (String::new(), String::new()),
        };
        let (method, length) = match load.up {
            0 => ("GET", String::new()),
            up => ("POST", format!("Content-Length: {up}\r\n")),
        };
        let line = format!("{method} {before}{path}");
        let head = format!(
            "{line} HTTP/1.1\r\nHost: {authority}\r\nUser-Agent: outgate-loadtest\r\nAccept: */*\r\n{length}{credentials}\r\n"
        );
        let scheme = if load.scheme == Scheme::Https { "https" } else { "http" };
        let tag_at = line.len() - TAG_DIGITS;
        Self { head: head.into_bytes(), tag_at, path, authority, scheme, down: load.down, up: load.up }
    }

    /// The head with this tag.
    fn tagged(&mut self, tag: u32) -> &[u8] {
        put_tag(tag, &mut self.head[self.tag_at..self.tag_at + TAG_DIGITS]);
        &self.head
    }
}

/// The exchange of one connection.
pub enum Exchange {
    /// One request at a time.
    Http1(Http1),
    /// Several.
    Http2(Box<Http2>),
}

/// An answer as far as it came.
#[derive(Debug, Default)]
struct Answer {
    status: u16,
    place: u64,
    is_wrong: bool,
    text: Vec<u8>,
    closes: bool,
}

impl Answer {
    fn body(&mut self, tag: u32, bytes: &[u8]) {
        if self.status == 200 {
            self.is_wrong |= !pattern::matches(tag, self.place, bytes);
        } else {
            let room = REFUSAL_BYTES_MAX.saturating_sub(self.text.len());
            self.text.extend_from_slice(&bytes[..bytes.len().min(room)]);
        }
        self.place += bytes.len() as u64;
    }

    fn verdict(&self, down: u64) -> Verdict {
        match self.status {
            200 if self.is_wrong => {
                Verdict::Corrupted("an answer with bytes that nobody sent, or another request's")
            }
            200 if self.place != down => {
                Verdict::Corrupted("an answer that is shorter or longer than what was sent")
            }
            200 => Verdict::Good,
            status => Verdict::Status(status, String::from_utf8_lossy(&self.text).trim().to_owned()),
        }
    }
}

/// One request at a time.
#[derive(Default)]
pub struct Http1 {
    reader: Reader,
    job: Option<Job>,
    answer: Answer,
    /// Bytes of the body that have been queued.
    sent: u64,
}

/// Several requests at a time.
pub struct Http2 {
    connection: http2::Connection,
    streams: BTreeMap<u32, (Job, Answer)>,
    next: u32,
    max: usize,
}

impl Exchange {
    /// A new one; what HTTP/2 says first is queued.
    ///
    /// # Errors
    /// Those of TLS.
    pub fn new(streams: Option<usize>, transport: &mut Transport) -> io::Result<Self> {
        let Some(max) = streams else { return Ok(Self::Http1(Http1::default())) };
        let mut out = Vec::new();
        let connection = http2::Connection::client(&mut out);
        transport.queue(&out)?;
        Ok(Self::Http2(Box::new(Http2 { connection, streams: BTreeMap::new(), next: 1, max })))
    }

    /// Requests that it can take now.
    pub fn room(&self) -> usize {
        match self {
            Self::Http1(one) => usize::from(one.job.is_none()),
            // Numbers of streams are never used again (RFC 9113 §5.1.1); nobody asks a billion times here.
            Self::Http2(many) => many.max - many.streams.len(),
        }
    }

    /// Requests under way.
    pub fn jobs(&self) -> Vec<Job> {
        match self {
            Self::Http1(one) => one.job.into_iter().collect(),
            Self::Http2(many) => many.streams.values().map(|(job, _)| *job).collect(),
        }
    }

    /// Sends a request.
    ///
    /// # Errors
    /// Those of TLS.
    pub fn ask(&mut self, job: Job, request: &mut Request, transport: &mut Transport) -> io::Result<()> {
        match self {
            Self::Http1(one) => {
                (one.job, one.sent, one.answer) = (Some(job), 0, Answer::default());
                transport.queue(request.tagged(job.tag))
            }
            Self::Http2(many) => {
                let mut path = std::mem::take(&mut request.path).into_bytes();
                let at = path.len() - TAG_DIGITS;
                put_tag(job.tag, &mut path[at..]);
                let mut out = Vec::new();
                let fields: [(&[u8], &[u8]); 5] = [
                    (b":method", b"GET"),
                    (b":scheme", request.scheme.as_bytes()),
                    (b":authority", request.authority.as_bytes()),
                    (b":path", &path),
                    (b"user-agent", b"outgate-loadtest"),
                ];
                http2::head(&mut out, many.next, true, fields);
                request.path = String::from_utf8(path).unwrap_or_default();
                many.streams.insert(many.next, (job, Answer::default()));
                many.next += 2;
                transport.queue(&out)
            }
        }
    }

    /// Queues more of a body that goes up, at most so much. Answers how many bytes were queued.
    ///
    /// # Errors
    /// Those of TLS.
    pub fn pump(&mut self, request: &Request, most: usize, transport: &mut Transport) -> io::Result<u64> {
        let Self::Http1(Http1 { job: Some(job), sent, .. }) = self else { return Ok(0) };
        let piece = pattern::at(job.tag, *sent);
        let n = (request.up - *sent).min(piece.len().min(transport.room()).min(most) as u64);
        transport.queue(&piece[..n as usize])?;
        *sent += n;
        Ok(n)
    }

    /// Takes bytes from the peer; requests that are over go to `done`. Answers how many bytes were of bodies.
    ///
    /// # Errors
    /// When they are no answers.
    pub fn received(
        &mut self,
        input: &[u8],
        request: &Request,
        transport: &mut Transport,
        done: &mut Vec<Done>,
    ) -> io::Result<u64> {
        match self {
            Self::Http1(one) => one.received(input, request, done),
            Self::Http2(many) => {
                let mut out = Vec::new();
                let came = many.received(input, request, &mut out, done)?;
                transport.queue(&out)?;
                Ok(came)
            }
        }
    }
}

impl Http1 {
    fn received(&mut self, mut input: &[u8], request: &Request, done: &mut Vec<Done>) -> io::Result<u64> {
        let mut came = 0;
        while let Some(piece) = self.reader.next(&mut input).map_err(io::Error::other)? {
            let Some(job) = self.job else { return Err(io::Error::other("an answer that nobody asked for")) };
            match piece {
                Piece::Head(head) => {
                    self.answer = Answer { status: status(head), ..Answer::default() };
                    self.answer.closes = fields(head).any(|(name, value)| {
                        name.eq_ignore_ascii_case(b"connection") && value.eq_ignore_ascii_case(b"close")
                    });
                }
                Piece::Body(bytes) => {
                    came += bytes.len() as u64;
                    self.answer.body(job.tag, bytes);
                }
                // An interim answer: the one that counts follows (RFC 9110 §15.2).
                Piece::End if self.answer.status < 200 => {}
                Piece::End => {
                    let closes = self.answer.closes || self.sent < request.up;
                    done.push(Done { job, verdict: self.answer.verdict(request.down), closes });
                    self.job = None;
                }
            }
        }
        Ok(came)
    }
}

impl Http2 {
    fn received(
        &mut self,
        input: &[u8],
        request: &Request,
        out: &mut Vec<u8>,
        done: &mut Vec<Done>,
    ) -> io::Result<u64> {
        let (mut said, mut came) = (Vec::new(), 0);
        self.connection.receive(input, out, &mut said).map_err(io::Error::other)?;
        for said in said {
            let (stream, ends) = match said {
                Said::Head { stream, fields, ends } => {
                    if let Some((_, answer)) = self.streams.get_mut(&stream)
                        && let Some((_, value)) = fields.iter().find(|(name, _)| name == b":status")
                    {
                        answer.status =
                            std::str::from_utf8(value).ok().and_then(|text| text.parse().ok()).unwrap_or(0);
                    }
                    (stream, ends)
                }
                Said::Body { stream, bytes, ends } => {
                    if let Some((job, answer)) = self.streams.get_mut(&stream) {
                        came += bytes.len() as u64;
                        answer.body(job.tag, &bytes);
                    }
                    (stream, ends)
                }
                Said::Broken { stream, code } => {
                    if let Some((_, answer)) = self.streams.get_mut(&stream) {
                        answer.status = 0;
                        answer.text = format!("the stream was broken off with code {code}").into_bytes();
                    }
                    (stream, true)
                }
                Said::Window { .. } => continue,
            };
            if ends && let Some((job, answer)) = self.streams.remove(&stream) {
                done.push(Done { job, verdict: answer.verdict(request.down), closes: false });
            }
        }
        Ok(came)
    }
}
