//! Tries one thing that a program may want, and says in one line what came of it.

use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, ToSocketAddrs, UdpSocket};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr as UnixAddr, UnixStream};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::getpgrp;
use rustix::termios::tcgetpgrp;
use socket2::{Domain, Protocol, Socket, Type};

/// What should fail at once fails within this; a time-out would be far longer.
const AT_ONCE: Duration = Duration::from_secs(2);

/// Tries it.
pub fn tried(words: &[String]) -> String {
    let words: Vec<_> = words.iter().map(String::as_str).collect();
    let done = match words[..] {
        ["connect", host, port] => connect(host, port),
        ["udp", address, port] => datagram(address, port),
        ["lookup", name] => lookup(name),
        ["own-server", address] => own_server(address),
        ["unix", path] => UnixStream::connect(path).map(|_| "connected".into()),
        ["abstract", name] => UnixAddr::from_abstract_name(name)
            .and_then(|name| UnixStream::connect_addr(&name))
            .map(|_| "connected".into()),
        ["socket", "vsock"] => Socket::new(Domain::VSOCK, Type::STREAM, None).map(|_| "made".into()),
        ["socket", "raw"] => {
            Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::ICMPV4)).map(|_| "made".into())
        }
        ["terminal"] => tcgetpgrp(io::stdin())
            .map(|group| if group == getpgrp() { "foreground".into() } else { "background".into() })
            .map_err(io::Error::from),
        _ => Err(io::Error::other("an unknown probe")),
    };
    done.unwrap_or_else(|error| format!("error: {error}"))
}

fn connect(host: &str, port: &str) -> io::Result<String> {
    let address: IpAddr = host.parse().map_err(io::Error::other)?;
    let port = port.parse().map_err(io::Error::other)?;
    let mut stream = TcpStream::connect((address, port))?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer.trim_end().into())
}

fn datagram(address: &str, port: &str) -> io::Result<String> {
    let address =
        SocketAddr::new(address.parse().map_err(io::Error::other)?, port.parse().map_err(io::Error::other)?);
    let any: IpAddr = if address.is_ipv4() { [0, 0, 0, 0].into() } else { [0_u16; 8].into() };
    let socket = UdpSocket::bind((any, 0))?;
    socket.connect(address)?;
    socket.set_read_timeout(Some(AT_ONCE))?;
    let started = Instant::now();
    let refused = socket.send(b"x").and_then(|_| socket.recv(&mut [0; 64]).map(drop));
    match refused {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused && started.elapsed() < AT_ONCE => {
            Ok("refused at once".into())
        }
        Err(error) => Err(error),
        Ok(()) => Ok("answered".into()),
    }
}

fn lookup(name: &str) -> io::Result<String> {
    let mut found: Vec<_> = (name, 0).to_socket_addrs()?.map(|found| found.ip().to_string()).collect();
    found.sort();
    found.dedup();
    Ok(found.join(" "))
}

/// A server of the program's own, on any port of an address, and a client.
fn own_server(address: &str) -> io::Result<String> {
    let address: IpAddr = address.parse().map_err(io::Error::other)?;
    let listener = TcpListener::bind((address, 0))?;
    let place = listener.local_addr()?;
    let server =
        thread::spawn(move || listener.accept().and_then(|(mut stream, _)| stream.write_all(b"hello")));
    let mut answer = String::new();
    TcpStream::connect(place)?.read_to_string(&mut answer)?;
    server.join().map_err(|_| io::Error::other("the server panicked"))??;
    Ok(answer)
}
