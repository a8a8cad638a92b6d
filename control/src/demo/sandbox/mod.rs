//! The program that the demo runs inside the sandbox. It does what it is asked over its standard input, a Unix socket.
//!
//! Two processes: the first leaves the machine's namespaces and starts the second, which is then the first process of
//! its own process namespace. When the demo dies, the socket ends, and with it both.

mod namespace;
mod names;
mod search;
mod streams;
mod web;

use std::fs::File;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, TcpListener, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use control_wire::attach::{LineReader, ListenerKind, send};
use rustix::process::{Signal, set_parent_process_death_signal};

use crate::sandbox::namespace::{Shown, enter_network, new_network, separate, this_network};
use crate::sandbox::netlink;

use super::word::{Answer, Apart, Ask, Road, Wanted};
use streams::Streams;
use web::Web;

/// First argument of the process that leaves the machine's namespaces.
pub const SANDBOX_COMMAND: &str = "demo-sandbox";
/// First argument of the process inside.
pub const INSIDE_COMMAND: &str = "demo-inside";

/// Argument by which the program is told to stay in the machine's namespaces.
pub const TOGETHER: &str = "together";

/// Leaves the machine's namespaces, starts the program inside, and ends with it. Where the kernel refuses that, it says
/// so, and can be started anew to stay where it is.
pub fn main(arguments: &[String]) -> ExitCode {
    let started = Instant::now();
    let refused = |why: &str| serve(Apart { micros: 0, refused: Some(why.to_owned()) });
    if arguments.first().is_some_and(|first| first == TOGETHER) {
        return ended(bind_to_parent().and_then(|()| refused(TOGETHER)));
    }
    ended(bind_to_parent().and_then(|()| match separate(Shown::Root) {
        Err(why) => refused(&why.to_string()),
        Ok(()) => {
            let mut inside = Command::new(std::env::current_exe()?);
            let micros = started.elapsed().as_micros().to_string();
            inside.args([INSIDE_COMMAND, &micros]).args(arguments).status().map(drop)
        }
    }))
}

/// The first process of the new process namespace.
pub fn inside_main(arguments: &[String]) -> ExitCode {
    let before: u64 = arguments.first().and_then(|text| text.parse().ok()).unwrap_or_default();
    let started = Instant::now();
    let refused = bind_to_parent().and_then(|()| namespace::furnish()).err().map(|why| why.to_string());
    let micros = before + u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX);
    ended(serve(Apart { micros, refused }))
}

fn bind_to_parent() -> io::Result<()> {
    Ok(set_parent_process_death_signal(Some(Signal::KILL))?)
}

fn ended(result: io::Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("outgate demo, in the sandbox: {error}");
            ExitCode::FAILURE
        }
    }
}

struct Inside {
    socket: UnixStream,
    /// It stands apart from the machine.
    apart: bool,
    road: Road,
    /// A network namespace for each room; none where it does not stand apart.
    networks: Vec<File>,
    rooms: Vec<Web>,
    streams: Streams,
    planted: Vec<String>,
}

/// Answers until the demo goes away.
fn serve(apart: Apart) -> io::Result<()> {
    let mut inside = Inside {
        socket: UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?),
        apart: apart.refused.is_none(),
        road: Road::Captured,
        networks: Vec::new(),
        rooms: Vec::new(),
        streams: Streams::default(),
        planted: Vec::new(),
    };
    inside.say(&Answer::Apart(apart), &[])?;
    let mut lines = LineReader::default();
    loop {
        inside.streams.pump(inside.socket.as_fd(), None)?;
        let line = match lines.read(&inside.socket) {
            Ok(Some((line, _))) => line,
            Ok(None) => continue,
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
            Err(error) => return Err(error),
        };
        let ask = serde_json::from_slice(&line).map_err(io::Error::other)?;
        let answer = inside.obey(ask).unwrap_or_else(|error| Answer::Failed { why: error.to_string() });
        inside.say(&answer, &[])?;
    }
}

impl Inside {
    fn say(&self, answer: &Answer, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        let mut line = serde_json::to_vec(answer)?;
        line.push(b'\n');
        let mut sent = send(&self.socket, &line, descriptors)?;
        while sent < line.len() {
            sent += send(&self.socket, &line[sent..], &[])?;
        }
        Ok(())
    }

    fn obey(&mut self, ask: Ask) -> io::Result<Answer> {
        match ask {
            Ask::Open { rooms, port } => self.open(rooms, port)?,
            Ask::Take(road) => self.road = road,
            Ask::Trust => {
                for room in 0..self.rooms.len() {
                    self.enter(room)?;
                    self.rooms[room].trust(&self.road, room)?;
                }
            }
            Ask::Send(wanted) => {
                self.enter(0)?;
                let room = self.rooms.first_mut().ok_or_else(no_room)?;
                return room.send(&self.road, 0, &wanted).map(Answer::Got);
            }
            Ask::Plant { text } => {
                std::fs::write("planted", &text)?;
                self.planted.push(text);
            }
            Ask::Search { needles } => {
                let heard = self.rooms.iter().flat_map(|room| &room.heard).copied().collect::<Vec<u8>>();
                return Ok(Answer::Found(search::search(&needles, &heard, !self.apart)));
            }
            Ask::Stream { host, port } => return self.stream(&host, port),
            Ask::Mark => return self.streams.mark().map(Answer::Streams),
            Ask::Settle { millis } => {
                let until = Instant::now() + Duration::from_millis(millis);
                self.streams.pump(self.socket.as_fd(), Some(until))?;
                return self.streams.told().map(Answer::Streams);
            }
        }
        Ok(Answer::Done)
    }

    /// Opens rooms, and passes the listeners of each. Without namespaces there is nothing to pass.
    fn open(&mut self, rooms: usize, port: u16) -> io::Result<()> {
        self.rooms.resize_with(rooms, Web::default);
        if !self.apart {
            return Ok(());
        }
        for room in 0..rooms {
            // The first is the one that came with the other namespaces.
            if room > 0 {
                new_network()?;
            }
            let both = netlink::own_all_addresses()?;
            self.networks.push(this_network()?);
            let (kinds, descriptors): (Vec<_>, Vec<_>) = listeners(port, both)?.into_iter().unzip();
            let borrowed: Vec<_> = descriptors.iter().map(AsFd::as_fd).collect();
            self.say(&Answer::Room { kinds }, &borrowed)?;
            // The reader of lines takes one at a time.
            self.wait_for_nod()?;
        }
        Ok(())
    }

    fn wait_for_nod(&self) -> io::Result<()> {
        let (count, _) = control_wire::attach::receive(&self.socket, &mut [0; 1])?;
        if count == 1 { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
    }

    /// From here on, sockets are made in this room.
    fn enter(&self, room: usize) -> io::Result<()> {
        self.networks.get(room).map_or(Ok(()), enter_network)
    }

    fn stream(&mut self, host: &str, port: u16) -> io::Result<Answer> {
        let (method, path, body) = ("GET".into(), "/stream".into(), String::new());
        let wanted = Wanted { method, tls: true, host: host.to_owned(), port, path, body };
        let request = format!("GET /stream HTTP/1.1\r\nHost: {host}:{port}\r\n\r\n");
        for room in 0..self.rooms.len() {
            self.enter(room)?;
            let tls = self.rooms[room].client(host)?;
            self.streams.begin(web::dial(&self.road, room, &wanted)?, tls, &request)?;
        }
        self.streams.told().map(Answer::Streams)
    }
}

fn no_room() -> io::Error {
    io::Error::other("no room is open")
}

/// What catches a room's traffic: every address is its own, so ordinary listeners take what is meant for others. A
/// port without one is refused by the kernel at once.
fn listeners(port: u16, both: bool) -> io::Result<Vec<(ListenerKind, OwnedFd)>> {
    let tcp = |port| {
        if both {
            TcpListener::bind((Ipv6Addr::UNSPECIFIED, port))
        } else {
            TcpListener::bind((Ipv4Addr::UNSPECIFIED, port))
        }
    };
    let mut found = Vec::new();
    for port in [80, 443, port] {
        found.push((ListenerKind::Transparent, tcp(port)?.into()));
    }
    found.push((ListenerKind::DnsTcp, tcp(53)?.into()));
    found.push((ListenerKind::DnsUdp, UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 53))?.into()));
    Ok(found)
}
