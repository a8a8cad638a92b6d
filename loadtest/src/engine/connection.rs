//! One connection of a load: how it is made, and what a readiness of it brings.

use std::{
    io,
    net::{IpAddr, Ipv4Addr},
    time::Instant,
};

use mio::{Interest, Token};
use rustls::pki_types::ServerName;

use super::{
    Engine, Part,
    exchange::{Done, Exchange, Job, Request},
};
use crate::{
    authority::ALPN_HTTP2,
    http1::{Piece, Reader, status},
    limits::READ_BYTES,
    plan::{Connect, Scheme},
    sockets,
    target::Greeting,
    transport::{Got, Transport},
};

/// Addresses from which connections that are made anew take turns: each has 28,000 ports, which rest for a minute.
const SOURCES: u32 = 48;

/// A place for a connection.
pub struct Connection {
    /// Which sandbox's it is.
    pub seat: usize,
    /// Which it will be, once what is under way has its answer.
    pub moves_to: Option<usize>,
    /// It stands among those that wait for a request.
    pub is_ready: bool,
    open: Option<Open>,
}

struct Open {
    transport: Transport,
    stage: Stage,
    request: Request,
    host: usize,
    /// The request for which it is made.
    first: Option<Job>,
    /// It has had no answer yet.
    is_opening: bool,
}

enum Stage {
    /// The kernel connects.
    Connecting,
    /// The proxy was asked for a tunnel.
    Tunnel(Reader),
    /// Requests may be sent.
    Talking(Exchange),
}

impl Connection {
    /// None yet.
    pub fn closed(seat: usize) -> Self {
        Self { seat, moves_to: None, is_ready: false, open: None }
    }

    /// Requests that it can take; nothing where it is not there.
    pub fn room(&self) -> Option<usize> {
        match &self.open.as_ref()?.stage {
            Stage::Talking(exchange) => Some(exchange.room()),
            _ => Some(0),
        }
    }

    /// Requests under way.
    pub fn jobs(&self) -> Vec<Job> {
        match &self.open {
            Some(Open { stage: Stage::Talking(exchange), .. }) => exchange.jobs(),
            Some(open) => open.first.into_iter().collect(),
            None => Vec::new(),
        }
    }

    /// Whether it is there and has had no answer.
    pub fn is_opening(&self) -> bool {
        self.open.as_ref().is_some_and(|open| open.is_opening)
    }

    /// Notes an answer; says whether it was the first. Counts an abbreviated handshake.
    pub fn first_answer(&mut self, resumed: &mut u64) -> bool {
        let Some(open) = self.open.as_mut().filter(|open| open.is_opening) else { return false };
        open.is_opening = false;
        *resumed += u64::from(open.transport.is_resumed());
        true
    }

    /// Closes it.
    pub fn close(&mut self) {
        if let Some(open) = self.open.take() {
            open.transport.close();
        }
    }

    /// Sends one more byte of a body.
    ///
    /// # Errors
    /// Those of the connection.
    pub fn drip(&mut self) -> io::Result<()> {
        let Some(Open { stage: Stage::Talking(exchange), transport, request, .. }) = &mut self.open else {
            return Ok(());
        };
        exchange.pump(request, 1, transport)?;
        transport.flush()?;
        Ok(())
    }
}

impl Engine<'_> {
    /// Makes a connection, for a request where one is due.
    pub(super) fn open(&mut self, index: usize, due: Option<Instant>) -> io::Result<()> {
        let host = self.next_host % self.hosts.len();
        self.next_host += 1;
        // A host name that is asked for again is asked for by the same sandbox, so that what was made for it is found.
        if self.hosts.len() > 1 && self.load.connect != Connect::Keep {
            self.connections[index].seat = host % self.load.active();
        }
        let seat = &self.target.seats[self.connections[index].seat];
        let (leg, first) = (self.load.leg(), due.map(|due| self.job(due)));
        let turns = self.load.connect != Connect::Keep && seat.doors[leg as usize].ip().is_loopback();
        let turn = IpAddr::V4(Ipv4Addr::from(0x7f00_0002 + self.next_host as u32 % SOURCES));
        let request = Request::new(self.load, seat, &self.hosts[host], self.target.ports[leg as usize]);
        self.outcome.connected += 1;
        let door = seat.doors[leg as usize];
        let connected = sockets::connect(door, seat.source.or(turns.then_some(turn)));
        let socket = connected
            .map_err(|error| io::Error::new(error.kind(), format!("cannot connect to {door}: {error}")))?;
        let mut transport = Transport::plain(socket);
        self.poll.registry().register(
            transport.socket(),
            Token(index),
            Interest::READABLE | Interest::WRITABLE,
        )?;
        let stage = Stage::Connecting;
        self.connections[index].open =
            Some(Open { transport, stage, request, host, first, is_opening: true });
        self.opening += 1;
        Ok(())
    }

    /// Sends a request on a connection that has room.
    pub(super) fn ask(&mut self, index: usize, due: Instant) -> io::Result<()> {
        let job = self.job(due);
        let Some(Open { stage: Stage::Talking(exchange), transport, request, .. }) =
            &mut self.connections[index].open
        else {
            return Ok(());
        };
        let asked = exchange.ask(job, request, transport).and_then(|()| transport.flush());
        let has_room = exchange.room() > 0;
        if let Err(error) = asked {
            return self.fail(index, &error);
        }
        if self.schedule.is_some() && has_room {
            self.make_ready(index);
        }
        if self.load.up > 0 {
            self.pump(index)?;
        }
        Ok(())
    }

    /// One readiness of one connection.
    pub(super) fn turn(&mut self, index: usize, is_writable: bool, scratch: &mut [u8]) -> io::Result<()> {
        let mut done = Vec::new();
        match self.read(index, is_writable, scratch, &mut done) {
            Ok(goes_on) => {
                let now = Instant::now();
                for (place, one) in done.iter().enumerate() {
                    let closes = one.closes || (!goes_on && place + 1 == done.len());
                    self.finish(index, one, closes, now)?;
                }
                if !goes_on && self.connections[index].open.is_some() && done.is_empty() {
                    return self.fail(index, &io::ErrorKind::UnexpectedEof.into());
                }
                self.pump(index)
            }
            Err(error) => {
                let refused = matches!(error.kind(), io::ErrorKind::ConnectionRefused);
                if refused && self.outcome.all_answers == 0 && !self.is_attack {
                    let door =
                        self.target.seats[self.connections[index].seat].doors[self.load.leg() as usize];
                    return Err(io::Error::other(format!(
                        "{door} refuses connections; does {} run?",
                        self.target.name
                    )));
                }
                self.fail(index, &error)
            }
        }
    }

    /// Reads what is there. Answers whether the connection goes on.
    fn read(
        &mut self,
        index: usize,
        is_writable: bool,
        scratch: &mut [u8],
        done: &mut Vec<Done>,
    ) -> io::Result<bool> {
        if matches!(&self.connections[index].open, Some(Open { stage: Stage::Connecting, .. })) {
            if !is_writable {
                return Ok(true);
            }
            self.connected(index)?;
        }
        loop {
            let Some(open) = &mut self.connections[index].open else { return Ok(true) };
            let n = match open.transport.read(scratch)? {
                Got::Blocked => return Ok(true),
                Got::Ended => return Ok(false),
                Got::Bytes(n) => n,
            };
            match &mut open.stage {
                Stage::Connecting => return Err(io::Error::other("bytes before anything was asked")),
                Stage::Talking(exchange) => {
                    let is_http2 = matches!(exchange, Exchange::Http2(_));
                    if is_http2 && open.transport.alpn() != Some(ALPN_HTTP2) {
                        return Err(io::Error::other("the target does not speak HTTP/2"));
                    }
                    let came = exchange.received(&scratch[..n], &open.request, &mut open.transport, done)?;
                    self.outcome.body_bytes += if self.part == Part::Measured { came } else { 0 };
                }
                Stage::Tunnel(reader) => {
                    let mut input = &scratch[..n];
                    let mut refusal = None;
                    while let Some(piece) = reader.next(&mut input).map_err(io::Error::other)? {
                        match (piece, refusal.take()) {
                            (Piece::Head(head), _) => refusal = Some((status(head), String::new())),
                            (Piece::Body(text), Some((status, _))) => {
                                refusal = Some((status, String::from_utf8_lossy(text).trim().to_owned()));
                            }
                            (Piece::Body(_) | Piece::End, None) => {}
                            (Piece::End, Some((200, _))) => {
                                self.talk(index)?;
                                break;
                            }
                            (Piece::End, Some((status, text))) => {
                                return Err(io::Error::other(format!(
                                    "CONNECT was answered {status}: {text}"
                                )));
                            }
                        }
                    }
                }
            }
        }
    }

    /// The kernel has connected, or says why not.
    fn connected(&mut self, index: usize) -> io::Result<()> {
        let connection = &mut self.connections[index];
        let (seat, Some(open)) = (connection.seat, &mut connection.open) else { return Ok(()) };
        if let Some(error) = open.transport.socket().take_error()? {
            return Err(error);
        }
        match (&self.target.seats[seat].greeting, self.load.scheme) {
            (Greeting::Proxy(value), Scheme::Https) => {
                let line = value.as_ref().map(|value| format!("Proxy-Authorization: {value}\r\n"));
                let authority =
                    format!("{}:{}", self.hosts[open.host], self.target.ports[self.load.leg() as usize]);
                let credentials = line.unwrap_or_default();
                open.transport.queue(
                    format!("CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n{credentials}\r\n")
                        .as_bytes(),
                )?;
                open.stage = Stage::Tunnel(Reader::default());
                open.transport.flush()?;
                Ok(())
            }
            _ => self.talk(index),
        }
    }

    /// The way to the origin is open: TLS begins, and the request for which it was made is sent.
    fn talk(&mut self, index: usize) -> io::Result<()> {
        let seat = self.connections[index].seat;
        if !self.configs.contains_key(&seat) {
            let config = self.load.tls(&self.target.seats[seat])?;
            self.configs.insert(seat, config);
        }
        let Some(open) = &mut self.connections[index].open else { return Ok(()) };
        if let Some(Some(config)) = self.configs.get(&seat) {
            let name = ServerName::try_from(self.hosts[open.host].clone()).map_err(io::Error::other)?;
            open.transport.start_tls(config, name)?;
        }
        let mut exchange = Exchange::new(self.load.streams, &mut open.transport)?;
        if let Some(job) = open.first.take() {
            exchange.ask(job, &mut open.request, &mut open.transport)?;
        } else {
            // It counts as open although nothing was answered yet: in an open loop a request may be long in coming.
            open.is_opening = false;
            self.opening -= 1;
        }
        let room = exchange.room();
        open.stage = Stage::Talking(exchange);
        open.transport.flush()?;
        if self.schedule.is_some() {
            if room > 0 {
                self.make_ready(index);
            }
        } else if !self.load.idle {
            // A closed loop fills every stream.
            for _ in 0..room {
                self.ask(index, Instant::now())?;
            }
        }
        Ok(())
    }

    /// Sends what is queued, and more of a body as the socket takes it.
    fn pump(&mut self, index: usize) -> io::Result<()> {
        let most = if self.load.drips { 0 } else { READ_BYTES };
        let mut went = 0;
        let Some(Open { stage, transport, request, .. }) = &mut self.connections[index].open else {
            return Ok(());
        };
        let mut sent = || -> io::Result<()> {
            loop {
                let all_went = transport.flush()?;
                let more = match stage {
                    Stage::Talking(exchange) => exchange.pump(request, most, transport)?,
                    _ => 0,
                };
                went += more;
                if !all_went || more == 0 {
                    return Ok(());
                }
            }
        };
        let sent = sent();
        self.outcome.body_bytes += if self.part == Part::Measured { went } else { 0 };
        match sent {
            Ok(()) => Ok(()),
            // What the peer said last may tell why; the next reading brings it.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotConnected => Ok(()),
            Err(error) => self.fail(index, &error),
        }
    }
}

/// What went wrong with a connection, and what may mend it.
pub fn in_words(error: &io::Error) -> String {
    let tls = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    match (tls, error.kind()) {
        (Some(rustls::Error::InvalidCertificate(why)), _) => format!(
            "the sandbox does not trust the certificate that it was shown ({why:?}); is it the sandbox's own authority that is trusted?"
        ),
        (Some(rustls::Error::AlertReceived(alert)), _) => {
            format!("the handshake was refused with the alert {alert:?}")
        }
        (_, io::ErrorKind::UnexpectedEof) => "the connection was closed before its answer".into(),
        (_, io::ErrorKind::ConnectionReset) => "the connection was reset".into(),
        _ => error.to_string(),
    }
}
