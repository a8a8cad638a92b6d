//! The origin: answers what a path asks for, and judges and counts what reaches it. One thread, plain HTTP, TLS with
//! HTTP/1.1 and TLS with HTTP/2 on a port each.

mod http1;
mod http2;
pub mod judge;

use std::{
    collections::{HashMap, VecDeque},
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use mio::{
    Events, Interest, Poll, Token,
    net::{TcpListener, TcpStream},
};
use rustls::ServerConfig;

use crate::{
    authority::{self, ALPN_HTTP1, ALPN_HTTP2, Authority},
    limits::{EVENTS, READ_BYTES, TICK},
    names::{BARE, ZONE},
    sockets,
    transport::{Got, Transport},
};
use judge::{Bench, Judge};

/// What is spoken on one port of the origin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Leg {
    /// HTTP/1.1 without TLS.
    Plain,
    /// HTTP/1.1 in TLS.
    Tls,
    /// HTTP/2 in TLS.
    Http2,
}

/// All of them, in the order of [`Origin::ports`].
pub const LEGS: [Leg; 3] = [Leg::Plain, Leg::Tls, Leg::Http2];

/// An origin that serves.
pub struct Origin {
    /// Its judge.
    pub judge: Arc<Judge>,
    /// Ports on 127.0.0.1, by leg.
    pub ports: [u16; 3],
    /// The certificate of its authority, as PEM.
    pub roots: String,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<io::Result<()>>>,
}

impl Origin {
    /// Where it takes connections, by leg.
    pub fn doors(&self) -> [SocketAddr; 3] {
        self.ports.map(|port| SocketAddr::from(([127, 0, 0, 1], port)))
    }

    /// Serves on three free ports, with a leaf of this authority for every host of a plan.
    ///
    /// # Errors
    /// When no port is free or no leaf can be made.
    pub fn start(authority: &Authority, credentials: bool) -> io::Result<Self> {
        Self::start_on(authority, credentials, "127.0.0.1:0".parse().map_err(io::Error::other)?, &[])
    }

    /// The same with the first port and more names given.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn start_on(
        authority: &Authority,
        credentials: bool,
        first: SocketAddr,
        names: &[String],
    ) -> io::Result<Self> {
        let mut all = vec![ZONE.to_owned(), format!("*.{ZONE}"), BARE.to_owned()];
        all.extend_from_slice(names);
        let leaf = authority.leaf(&all)?;
        let mut listeners = Vec::new();
        for leg in LEGS {
            let address = if listeners.is_empty() { first } else { SocketAddr::new(first.ip(), 0) };
            let config = match leg {
                Leg::Plain => None,
                Leg::Tls => Some(authority::server(&leaf, &[ALPN_HTTP1])?),
                Leg::Http2 => Some(authority::server(&leaf, &[ALPN_HTTP2, ALPN_HTTP1])?),
            };
            listeners.push((sockets::listen(address)?, config));
        }
        let mut ports = [0; 3];
        for (port, (listener, _)) in ports.iter_mut().zip(&listeners) {
            *port = listener.local_addr()?.port();
        }
        let judge = Arc::new(Judge::new(credentials));
        let stop = Arc::new(AtomicBool::new(false));
        let mut serving = Serving {
            poll: Poll::new()?,
            listeners,
            open: HashMap::new(),
            far: VecDeque::new(),
            next: LEGS.len(),
            judge: judge.clone(),
            bench: Bench::default(),
        };
        let stopped = stop.clone();
        let thread = thread::Builder::new().name("origin".into()).spawn(move || serving.run(&stopped))?;
        Ok(Self { judge, ports, roots: authority.pem().to_owned(), stop, thread: Some(thread) })
    }

    /// The port of a leg.
    pub fn port(&self, leg: Leg) -> u16 {
        self.ports[leg as usize]
    }

    /// Serves until the process ends.
    ///
    /// # Errors
    /// When the kernel gives no readiness.
    pub fn join(mut self) -> io::Result<()> {
        self.thread
            .take()
            .map_or(Ok(()), |thread| thread.join().map_err(|_| io::Error::other("the origin ended"))?)
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ended = thread.join();
        }
    }
}

struct Serving {
    poll: Poll,
    listeners: Vec<(TcpListener, Option<Arc<ServerConfig>>)>,
    open: HashMap<Token, Client>,
    /// Connections whose handshake does not begin before its time.
    far: VecDeque<(Instant, TcpStream, usize)>,
    next: usize,
    judge: Arc<Judge>,
    bench: Bench,
}

struct Client {
    transport: Transport,
    speaks: Speaks,
}

enum Speaks {
    /// The handshake has not told yet.
    Unknown,
    Http1(http1::Server),
    Http2(Box<http2::Server>),
}

impl Serving {
    fn run(&mut self, stop: &AtomicBool) -> io::Result<()> {
        for (index, (listener, _)) in self.listeners.iter_mut().enumerate() {
            self.poll.registry().register(listener, Token(index), Interest::READABLE)?;
        }
        let (mut events, mut scratch) = (Events::with_capacity(EVENTS), vec![0; READ_BYTES]);
        while !stop.load(Ordering::Relaxed) {
            self.judge.turn_begins(&mut self.bench);
            match self.poll.poll(&mut events, Some(TICK)) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                other => other?,
            }
            while self.far.front().is_some_and(|(due, ..)| *due <= Instant::now())
                && let Some((_, socket, index)) = self.far.pop_front()
            {
                self.take(socket, index)?;
            }
            let mut ready = 0;
            for event in &events {
                ready += 1;
                if event.token().0 < self.listeners.len() {
                    self.accept_all(event.token().0)?;
                } else if let Some(client) = self.open.get_mut(&event.token())
                    && !client.turn(&self.judge, &self.bench, &mut scratch).unwrap_or(false)
                {
                    self.open.remove(&event.token());
                }
            }
            // Where there may be more, what is ready was not all read.
            if ready < EVENTS {
                self.judge.turn_ends(&mut self.bench);
            }
        }
        Ok(())
    }

    fn accept_all(&mut self, index: usize) -> io::Result<()> {
        loop {
            let socket = match self.listeners[index].0.accept() {
                Ok((socket, _)) => socket,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            };
            self.judge.counts.connections.fetch_add(1, Ordering::Relaxed);
            let wait = Duration::from_millis(self.judge.handshake_millis.load(Ordering::Relaxed));
            // Requests that came without a handshake must not lie unread: they would be judged too late.
            match wait.is_zero() || self.listeners[index].1.is_none() {
                true => self.take(socket, index)?,
                false => self.far.push_back((Instant::now() + wait, socket, index)),
            }
        }
    }

    fn take(&mut self, socket: TcpStream, index: usize) -> io::Result<()> {
        socket.set_nodelay(true)?;
        let (mut transport, speaks) = match &self.listeners[index].1 {
            Some(config) => (Transport::server(socket, config)?, Speaks::Unknown),
            None => (Transport::plain(socket), Speaks::Http1(http1::Server::default())),
        };
        let token = Token(self.next);
        self.next += 1;
        let interest = Interest::READABLE | Interest::WRITABLE;
        self.poll.registry().register(transport.socket(), token, interest)?;
        self.open.insert(token, Client { transport, speaks });
        Ok(())
    }
}

impl Client {
    /// One readiness. Answers whether the connection goes on.
    fn turn(&mut self, judge: &Judge, bench: &Bench, scratch: &mut [u8]) -> io::Result<bool> {
        let goes_on = loop {
            match self.transport.read(scratch)? {
                Got::Blocked => break true,
                Got::Ended => break false,
                Got::Bytes(n) => {
                    if matches!(self.speaks, Speaks::Unknown) {
                        self.speaks = match self.transport.alpn() {
                            Some(ALPN_HTTP2) => {
                                Speaks::Http2(Box::new(http2::Server::new(&mut self.transport)?))
                            }
                            _ => Speaks::Http1(http1::Server::default()),
                        };
                    }
                    match &mut self.speaks {
                        Speaks::Unknown => {}
                        Speaks::Http1(server) => {
                            server.received(&scratch[..n], judge, bench, &mut self.transport)?;
                        }
                        Speaks::Http2(server) => {
                            server.received(&scratch[..n], judge, bench, &mut self.transport)?;
                        }
                    }
                }
            }
        };
        // What is to be sent is made as the socket takes it.
        loop {
            let all_went = self.transport.flush()?;
            let more = match &mut self.speaks {
                Speaks::Unknown => false,
                Speaks::Http1(server) => server.pump(&mut self.transport)?,
                Speaks::Http2(server) => server.pump(&mut self.transport)?,
            };
            if !all_went || !more {
                break;
            }
        }
        Ok(goes_on)
    }
}
