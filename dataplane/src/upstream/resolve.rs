//! The plane's own stub resolver: a name in, checked addresses out, nothing believed that was not asked for.

use std::cell::RefCell;
use std::collections::HashMap;
use std::future::{Future, poll_fn};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};
use std::{fmt, io};

use super::cache::{Cache, Known};
use super::hosts::Hosts;
use super::query::{Family, Question, Said};
use crate::limits::{
    ADDRESSES_MAX, LOOKUP_TIME, LOOKUPS_MAX, NAME_SERVER_TIME, NAME_SERVERS_MAX, SECOND_FAMILY_TIME,
    WRONG_ANSWERS_MAX,
};

/// Where names are asked.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Servers, asked in order; beyond `NAME_SERVERS_MAX` they are passed over.
    pub name_servers: Vec<SocketAddr>,
    /// Names that are known without asking.
    pub hosts_file: PathBuf,
}

/// How a resolver reaches name servers: the shard's ring, or a script.
pub trait Transport {
    /// A datagram socket that hears one server only.
    type Datagram: Datagram;

    /// Opens a socket on a source port of its own that hears `server` only.
    ///
    /// # Errors
    /// What the system says.
    fn datagram(&self, server: SocketAddr) -> io::Result<Self::Datagram>;

    /// Sends one query over a connection of its own and receives one answer, both without their length.
    fn exchange(&self, server: SocketAddr, query: &[u8]) -> impl Future<Output = io::Result<Vec<u8>>>;

    /// Waits for a future no longer than a time.
    fn within<F: Future>(&self, time: Duration, future: F) -> impl Future<Output = Option<F::Output>>;

    /// The time, for the cache.
    fn now(&self) -> Instant;
}

/// A datagram socket that hears one server only.
pub trait Datagram {
    /// Sends one datagram.
    fn send(&self, bytes: &[u8]) -> impl Future<Output = io::Result<()>>;

    /// Receives one datagram.
    fn receive(&self) -> impl Future<Output = io::Result<Vec<u8>>>;
}

/// Why a name has no address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ResolveError {
    /// The servers say that there is no such name.
    #[error("there is no host {host}")]
    NoSuchName {
        /// The name.
        host: Rc<str>,
    },
    /// The name exists and has no address.
    #[error("{host} has no address")]
    NoAddress {
        /// The name.
        host: Rc<str>,
    },
    /// No server gave a usable answer.
    #[error("no name server could say the address of {host}; the last: {last}")]
    Unanswered {
        /// The name.
        host: Rc<str>,
        /// What the last try ended with.
        last: Failure,
    },
    /// Neither the settings nor the system name a server, and the hosts file does not know the name.
    #[error(
        "{host} is not in the hosts file, and neither `dns.nameServers` nor the system name a name server"
    )]
    NoServers {
        /// The name.
        host: Rc<str>,
    },
    /// More names are being asked for than this shard may ask at once.
    #[error("too many names are being looked up to ask for {host}")]
    Busy {
        /// The name.
        host: Rc<str>,
    },
}

/// How a try with one server ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// Nothing usable came in time.
    TimedOut,
    /// Only answers came that were not ours.
    Forged,
    /// The server said so.
    Code(String),
    /// The system said so.
    System(io::ErrorKind),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TimedOut => f.write_str("no answer in time"),
            Self::Forged => f.write_str("only answers to other questions"),
            Self::Code(code) => f.write_str(code),
            Self::System(kind) => kind.fmt(f),
        }
    }
}

impl From<io::Error> for Failure {
    fn from(fault: io::Error) -> Self {
        Self::System(fault.kind())
    }
}

/// A resolver of one shard.
#[derive(Debug)]
pub struct Resolver<T> {
    transport: T,
    servers: Vec<SocketAddr>,
    hosts: Hosts,
    cache: RefCell<Cache>,
    flights: RefCell<HashMap<Rc<str>, Rc<Flight>>>,
}

type Outcome = Result<Rc<[IpAddr]>, ResolveError>;

impl Known {
    /// What it means to whoever asks for the name.
    fn of(self, host: &str) -> Outcome {
        match self {
            Self::Addresses(addresses) => Ok(addresses),
            Self::NoSuchName => Err(ResolveError::NoSuchName { host: host.into() }),
            Self::NoAddress => Err(ResolveError::NoAddress { host: host.into() }),
            Self::Unanswered(last) => Err(ResolveError::Unanswered { host: host.into(), last }),
        }
    }
}

/// A look-up under way: whoever asks for the same name waits for its outcome.
#[derive(Debug, Default)]
struct Flight {
    landed: RefCell<Option<Option<Outcome>>>,
    waiting: RefCell<Vec<Waker>>,
}

impl<T: Transport> Resolver<T> {
    /// A resolver with its hosts file read.
    ///
    /// # Errors
    /// What the system says of the hosts file; a missing one is empty.
    pub fn new(settings: &Settings, transport: T) -> io::Result<Self> {
        Ok(Self {
            transport,
            servers: settings.name_servers.iter().copied().take(NAME_SERVERS_MAX).collect(),
            hosts: Hosts::read(&settings.hosts_file)?,
            cache: RefCell::default(),
            flights: RefCell::default(),
        })
    }

    /// The addresses of a host (lower case, A-labels, no final dot; or an address), IPv4 and IPv6 in turn.
    ///
    /// The hosts file is asked first, then the cache, then the servers, `A` and `AAAA` at once. Whether an address
    /// may be dialled is the guard's business.
    ///
    /// # Errors
    /// [`ResolveError`] with the name. What does not exist is remembered too, and for a moment what nobody could say.
    pub async fn resolve(&self, host: &str) -> Outcome {
        loop {
            if let Some(known) = self.known(host) {
                return known;
            }
            let under_way = self.flights.borrow().get(host).cloned();
            let Some(flight) = under_way else { break };
            // The task that asked may have been dropped; then the first of those that waited asks again.
            if let Some(outcome) = flight.landing().await {
                return outcome;
            }
        }
        let host: Rc<str> = host.into();
        if self.servers.is_empty() {
            return Err(ResolveError::NoServers { host });
        }
        if self.flights.borrow().len() >= LOOKUPS_MAX {
            return Err(ResolveError::Busy { host });
        }
        let flight = Rc::new(Flight::default());
        self.flights.borrow_mut().insert(host.clone(), flight.clone());
        let pilot = Pilot { flights: &self.flights, host: &host, flight };
        let unanswered = (Known::Unanswered(Failure::TimedOut), Duration::ZERO);
        let (known, ttl) =
            self.transport.within(LOOKUP_TIME, self.look_up(&host)).await.unwrap_or(unanswered);
        self.cache.borrow_mut().remember(&host, known.clone(), ttl, self.transport.now());
        let outcome = known.of(&host);
        *pilot.flight.landed.borrow_mut() = Some(Some(outcome.clone()));
        drop(pilot);
        outcome
    }

    /// What can be said of a host without asking anybody.
    pub fn known(&self, host: &str) -> Option<Outcome> {
        let cached = || Some(self.cache.borrow().find(host, self.transport.now())?.of(host));
        self.known_without_asking(host).or_else(cached)
    }

    /// Names with a fixed meaning (RFC 6761 §6, RFC 7686 §2, our own), addresses, and the hosts file.
    fn known_without_asking(&self, host: &str) -> Option<Outcome> {
        if let Ok(address) = host.parse::<IpAddr>() {
            return Some(Ok(Rc::from([address.to_canonical()])));
        }
        if let Some(addresses) = self.hosts.find(host) {
            return Some(Ok(addresses));
        }
        match host.rsplit('.').next().unwrap_or(host) {
            "localhost" => Some(Ok(Rc::from([Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()]))),
            "invalid" | "onion" => Some(Err(ResolveError::NoSuchName { host: host.into() })),
            _ if host == crate::listen::synthetic::SELF_NAME => {
                Some(Err(ResolveError::NoSuchName { host: host.into() }))
            }
            _ => None,
        }
    }

    /// What the servers say, and for how long it holds.
    async fn look_up(&self, host: &str) -> (Known, Duration) {
        match self.both(host).await {
            (Ok(Said::Addresses(v4, one)), Ok(Said::Addresses(v6, other))) => {
                (Known::Addresses(in_turn(&v4, &v6)), one.min(other))
            }
            // The other family may have failed for the moment only: a second of cache would not be wrong, but a
            // full time to live would hide it.
            (Ok(Said::Addresses(found, _)), Err(_)) | (Err(_), Ok(Said::Addresses(found, _))) => {
                (Known::Addresses(in_turn(&found, &[])), Duration::ZERO)
            }
            (Ok(Said::Addresses(found, ttl)), Ok(_)) | (Ok(_), Ok(Said::Addresses(found, ttl))) => {
                (Known::Addresses(in_turn(&found, &[])), ttl)
            }
            (Ok(Said::NoSuchName(ttl)), _) | (_, Ok(Said::NoSuchName(ttl))) => (Known::NoSuchName, ttl),
            (Err(last), _) | (_, Err(last)) => (Known::Unanswered(last), Duration::ZERO),
            (Ok(Said::NoAddress(one)), Ok(Said::NoAddress(other))) => (Known::NoAddress, one.min(other)),
            // `ask` gives nothing else.
            (Ok(_), Ok(_)) => (Known::NoAddress, Duration::ZERO),
        }
    }

    /// Asks for both families at once. Where the first has addresses, the second may only be a little later: some
    /// servers never answer for `AAAA`.
    async fn both(&self, host: &str) -> (Result<Said, Failure>, Result<Said, Failure>) {
        let mut v4 = pin!(self.ask(host, Family::V4));
        let mut v6 = pin!(self.ask(host, Family::V6));
        let (mut first, mut second) = (None, None);
        poll_fn(|cx| {
            if let Poll::Ready(said) = v4.as_mut().poll(cx) {
                first = Some(said);
                return Poll::Ready(());
            }
            v6.as_mut().poll(cx).map(|said| second = Some(said))
        })
        .await;
        let late = Err(Failure::TimedOut);
        match (first, second) {
            (Some(said), _) if matches!(said, Ok(Said::Addresses(..))) => {
                let other = self.transport.within(SECOND_FAMILY_TIME, v6).await;
                (said, other.unwrap_or(late))
            }
            (Some(said), _) => (said, v6.await),
            (None, Some(said)) if matches!(said, Ok(Said::Addresses(..))) => {
                let other = self.transport.within(SECOND_FAMILY_TIME, v4).await;
                (other.unwrap_or(late), said)
            }
            (None, Some(said)) => (v4.await, said),
            (None, None) => (late.clone(), late),
        }
    }

    /// Asks the servers in order, twice round, until one says something final.
    async fn ask(&self, host: &str, family: Family) -> Result<Said, Failure> {
        let mut last = Failure::TimedOut;
        for server in self.servers.iter().chain(&self.servers) {
            match self.transport.within(NAME_SERVER_TIME, self.ask_one(*server, host, family)).await {
                Some(Ok(Said::Failed(code))) => last = Failure::Code(code.to_string()),
                Some(Ok(said)) => return Ok(said),
                Some(Err(failure)) => last = failure,
                None => last = Failure::TimedOut,
            }
        }
        Err(last)
    }

    /// One try: an identifier and a source port drawn for it alone (RFC 5452 §9.2), and TCP where the answer was cut.
    async fn ask_one(&self, server: SocketAddr, host: &str, family: Family) -> Result<Said, Failure> {
        let question = Question::new(host, family, random_id()?).ok_or(Failure::Forged)?;
        let query = question.bytes();
        let socket = self.transport.datagram(server)?;
        socket.send(&query).await?;
        for _ in 0..WRONG_ANSWERS_MAX {
            match question.read(&socket.receive().await?) {
                Ok(Said::Truncated) => {
                    drop(socket);
                    let whole = self.transport.exchange(server, &query).await?;
                    return match question.read(&whole) {
                        Ok(Said::Truncated) | Err(_) => Err(Failure::Forged),
                        Ok(said) => Ok(said),
                    };
                }
                Ok(said) => return Ok(said),
                Err(_) => continue,
            }
        }
        Err(Failure::Forged)
    }
}

/// IPv4 and IPv6 in turn, IPv4 first: a node without IPv6 is common, and the reverse is rare.
fn in_turn(v4: &[IpAddr], v6: &[IpAddr]) -> Rc<[IpAddr]> {
    let longest = v4.len().max(v6.len());
    (0..longest).flat_map(|at| [v4.get(at), v6.get(at)]).flatten().copied().take(ADDRESSES_MAX).collect()
}

fn random_id() -> Result<u16, Failure> {
    let mut bytes = [0; 2];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| Failure::System(io::ErrorKind::Other))?;
    Ok(u16::from_be_bytes(bytes))
}

impl Flight {
    /// The outcome; `None` where the task that asked was dropped.
    async fn landing(&self) -> Option<Outcome> {
        poll_fn(|cx| match &*self.landed.borrow() {
            Some(outcome) => Poll::Ready(outcome.clone()),
            None => {
                let mut waiting = self.waiting.borrow_mut();
                if !waiting.iter().any(|waker| waker.will_wake(cx.waker())) {
                    waiting.push(cx.waker().clone());
                }
                Poll::Pending
            }
        })
        .await
    }
}

/// Ends a flight when the task that asked ends, finished or dropped.
struct Pilot<'a> {
    flights: &'a RefCell<HashMap<Rc<str>, Rc<Flight>>>,
    host: &'a Rc<str>,
    flight: Rc<Flight>,
}

impl Drop for Pilot<'_> {
    fn drop(&mut self) {
        self.flights.borrow_mut().remove(self.host);
        self.flight.landed.borrow_mut().get_or_insert(None);
        for waker in self.flight.waiting.take() {
            waker.wake();
        }
    }
}

#[cfg(test)]
mod tests;
