//! Proxies on the way to origins, which log what they were told and relay to one address whatever they were asked for.

use std::{
    io::{self, Read, Write},
    net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Mutex},
    thread,
};

use data_encoding::BASE64;

/// What a proxy was told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// Host and port, as they were written.
    pub whither: String,
    /// Credentials, as `user:password`.
    pub login: Option<String>,
    /// Where the connection came from.
    pub from: IpAddr,
}

/// What a proxy does once it knows whither.
#[derive(Clone, Copy, Debug)]
pub enum Then {
    /// Relays.
    Relays,
    /// Says these bytes, and ends.
    Says(&'static [u8]),
}

/// A proxy that runs until the test process ends.
pub struct UpstreamProxy {
    /// Where it listens.
    pub address: SocketAddr,
    told: Arc<Mutex<Vec<Told>>>,
}

impl UpstreamProxy {
    /// One that takes `CONNECT`, and relays to `origin`.
    ///
    /// # Panics
    /// When loopback cannot be bound.
    pub fn http(origin: SocketAddr, then: Then) -> Self {
        Self::start(move |client, told| {
            let asked = connect(client)?;
            told(asked);
            finish(client, origin, (then, b"HTTP/1.1 200 OK\r\n\r\n"))
        })
    }

    /// One that speaks SOCKS 5 and wants credentials where they are offered, and relays to `origin`.
    ///
    /// # Panics
    /// When loopback cannot be bound.
    pub fn socks5(origin: SocketAddr, then: Then) -> Self {
        Self::start(move |client, told| {
            let asked = socks5(client)?;
            told(asked);
            finish(client, origin, (then, &[5, 0, 0, 1, 127, 0, 0, 1, 0, 1]))
        })
    }

    fn start(
        serve: impl Fn(&mut TcpStream, &dyn Fn(Told)) -> io::Result<()> + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback can be bound");
        let address = listener.local_addr().expect("a bound socket has an address");
        let told = Arc::new(Mutex::new(Vec::new()));
        let (log, serve) = (Arc::clone(&told), Arc::new(serve));
        thread::spawn(move || {
            while let Ok((mut client, _)) = listener.accept() {
                let (log, serve) = (Arc::clone(&log), Arc::clone(&serve));
                thread::spawn(move || {
                    let note = |told| log.lock().expect("no thread panicked holding it").push(told);
                    // A connection that breaks is what many tests are about.
                    let _ = serve(&mut client, &note);
                });
            }
        });
        Self { address, told }
    }

    /// What it was told so far.
    ///
    /// # Panics
    /// When a thread of it panicked.
    pub fn told(&self) -> Vec<Told> {
        self.told.lock().expect("no thread panicked holding it").clone()
    }
}

fn connect(client: &mut TcpStream) -> io::Result<Told> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.extend_from_slice(&take::<1>(client)?);
    }
    let head = String::from_utf8(head).map_err(io::Error::other)?;
    let whither = head.split(' ').nth(1).unwrap_or_default().to_owned();
    let login = head.lines().find_map(|line| line.strip_prefix("Proxy-Authorization: Basic "));
    let decoded = |text: &str| String::from_utf8(BASE64.decode(text.as_bytes()).ok()?).ok();
    Ok(Told { whither, login: login.and_then(decoded), from: client.peer_addr()?.ip() })
}

/// RFC 1928, RFC 1929.
fn socks5(client: &mut TcpStream) -> io::Result<Told> {
    let [_, count] = take(client)?;
    let methods: Vec<u8> =
        (0..count).map(|_| take::<1>(client).map(|[byte]| byte)).collect::<Result<_, _>>()?;
    let login = match methods.contains(&2) {
        true => {
            client.write_all(&[5, 2])?;
            let [_] = take(client)?;
            let (user, password) = (text(client)?, text(client)?);
            client.write_all(&[1, 0])?;
            Some(format!("{user}:{password}"))
        }
        false => {
            client.write_all(&[5, 0])?;
            None
        }
    };
    let [_, _, _, kind] = take(client)?;
    let host = match kind {
        1 => IpAddr::from(take::<4>(client)?).to_string(),
        4 => format!("[{}]", IpAddr::from(take::<16>(client)?)),
        _ => text(client)?,
    };
    let port = u16::from_be_bytes(take(client)?);
    Ok(Told { whither: format!("{host}:{port}"), login, from: client.peer_addr()?.ip() })
}

fn text(client: &mut TcpStream) -> io::Result<String> {
    let [length] = take(client)?;
    let bytes: Vec<u8> =
        (0..length).map(|_| take::<1>(client).map(|[byte]| byte)).collect::<Result<_, _>>()?;
    String::from_utf8(bytes).map_err(io::Error::other)
}

fn take<const N: usize>(client: &mut TcpStream) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    client.read_exact(&mut bytes)?;
    Ok(bytes)
}

fn finish(client: &mut TcpStream, origin: SocketAddr, (then, agrees): (Then, &[u8])) -> io::Result<()> {
    if let Then::Says(words) = then {
        client.write_all(words)?;
        return client.shutdown(Shutdown::Both);
    }
    let mut upstream = TcpStream::connect(origin)?;
    client.write_all(agrees)?;
    let (mut to_client, mut from_upstream) = (client.try_clone()?, upstream.try_clone()?);
    let down = thread::spawn(move || {
        let _ended = io::copy(&mut from_upstream, &mut to_client);
        to_client.shutdown(Shutdown::Write)
    });
    let _ended = io::copy(client, &mut upstream);
    let _told = upstream.shutdown(Shutdown::Write);
    let _joined = down.join();
    Ok(())
}
