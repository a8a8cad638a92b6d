//! A POST is delivered once or said to be in doubt, also where the upstream ends its idle connections whenever it likes.
//!
//! `OUTGATE_POSTS=100000 cargo test -p tests --test stale_connections -- --nocapture` sends as many and prints what came
//! of them.

use std::{
    collections::HashMap,
    io::{self, BufRead, BufReader, ErrorKind, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    thread,
    time::Duration,
};

use tests::{
    client,
    gateway::{Gateway, ask, template},
    origin::{Origin, respond},
};

const POLICY: &str = r#"{"allowedHosts":["origin.test"],
    "allowedAddresses":[{"host":"origin.test","cidrs":["127.0.0.0/8"]}]}"#;

/// Requests that are sent at once.
const CLIENTS: usize = 12;
/// What begins every row of random numbers; a failure can be repeated as far as threads can.
const SEED: u64 = 0x5eed;

/// Marsaglia's xorshift.
struct Random(u64);

impl Random {
    fn new(of: usize) -> Self {
        Self(SEED ^ (of as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}

/// What an origin counted.
#[derive(Default)]
struct Counted {
    delivered: Mutex<HashMap<String, u32>>,
    connections: AtomicUsize,
    ended_idle: AtomicUsize,
}

/// A plain origin that counts each request by its path, and ends a connection that was idle for a random time below four
/// milliseconds.
fn impatient() -> (SocketAddr, Arc<Counted>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback can be bound");
    let address = listener.local_addr().expect("a bound socket has an address");
    let counted = Arc::new(Counted::default());
    let counts = Arc::clone(&counted);
    thread::spawn(move || {
        while let Ok((socket, _)) = listener.accept() {
            let number = counts.connections.fetch_add(1, Ordering::SeqCst);
            let counts = Arc::clone(&counts);
            thread::spawn(move || serve(socket, Random::new(number), &counts));
        }
    });
    (address, counted)
}

fn serve(socket: TcpStream, mut random: Random, counts: &Counted) -> io::Result<()> {
    socket.set_nodelay(true)?;
    let mut reader = BufReader::new(socket);
    loop {
        let patience = Duration::from_micros(1 + random.below(4_000));
        reader.get_ref().set_read_timeout(Some(patience))?;
        match reader.fill_buf() {
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                counts.ended_idle.fetch_add(1, Ordering::SeqCst);
                return Ok(());
            }
            Ok([]) | Err(_) => return Ok(()),
            Ok(_) => {}
        }
        reader.get_ref().set_read_timeout(Some(Duration::from_secs(20)))?;
        let (mut line, mut length) = (String::new(), 0);
        reader.read_line(&mut line)?;
        let path = line.split(' ').nth(1).unwrap_or_default().to_owned();
        while line != "\r\n" {
            line.clear();
            reader.read_line(&mut line)?;
            if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().map_err(io::Error::other)?;
            }
        }
        reader.by_ref().take(length).read_to_end(&mut Vec::new())?;
        *counts.delivered.lock().expect("no thread panicked holding it").entry(path).or_default() += 1;
        respond(reader.get_mut(), b"done")?;
    }
}

/// What clients were told of their requests.
#[derive(Default)]
struct Told {
    answered: Vec<String>,
    in_doubt: Vec<String>,
}

/// Sends so many requests over one connection to the gateway, a random moment after one another.
fn send(gateway: SocketAddr, origin: SocketAddr, sender: usize, requests: usize) -> Told {
    let (mut told, mut random) = (Told::default(), Random::new(usize::MAX - 1 - sender));
    let mut socket = client::socket(gateway);
    let host = format!("origin.test:{}", origin.port());
    for number in 0..requests {
        // Connections have to be idle for now less, now more than the origin bears.
        thread::sleep(Duration::from_micros(random.below(3_000)));
        let (path, body) = (format!("/{sender}/{number}"), vec![b'x'; 1 + random.below(64) as usize]);
        let head = format!(
            "POST http://{host}{path} HTTP/1.1\r\nHost: {host}\r\nProxy-Authorization: Basic Ym94OndvcmQ=\r\n\
             Content-Length: {}\r\n\r\n",
            body.len()
        );
        let (head, body) = ask(&mut socket, &head, &body);
        let body = String::from_utf8_lossy(&body);
        if head.starts_with("HTTP/1.1 200 ") {
            assert_eq!(body, "done");
            told.answered.push(path);
        } else {
            assert!(head.starts_with("HTTP/1.1 502 ") && body.contains("upstream_closed"), "{head}{body}");
            assert!(body.contains("may have been carried out"), "{body}");
            told.in_doubt.push(path);
        }
    }
    told
}

#[test]
fn no_post_is_delivered_twice_or_lost_unsaid_while_idle_connections_end_at_random() {
    let posts = std::env::var("OUTGATE_POSTS").map_or(12_000, |posts| posts.parse().expect("a number"));
    println!("seed {SEED:#x}");
    let (address, counted) = impatient();
    let origin = Origin::plain(|_, out| respond(out, b""));
    let mut gateway = Gateway::start(2, &origin);
    gateway.apply(vec![template("t", POLICY)]);
    let told: Vec<Told> = thread::scope(|scope| {
        let each = posts / CLIENTS;
        let begin = |client| {
            let gateway = gateway.proxy;
            scope.spawn(move || send(gateway, address, client, each))
        };
        let clients: Vec<_> = (0..CLIENTS).map(begin).collect();
        clients.into_iter().map(|client| client.join().expect("it was told everything")).collect()
    });
    let delivered = counted.delivered.lock().unwrap();
    let twice: Vec<_> = delivered.iter().filter(|(_, count)| **count != 1).collect();
    let answered: Vec<_> = told.iter().flat_map(|told| &told.answered).collect();
    let in_doubt: Vec<_> = told.iter().flat_map(|told| &told.in_doubt).collect();
    let carried_out = in_doubt.iter().filter(|path| delivered.contains_key(**path)).count();
    println!(
        "{} sent, {} answered, {} in doubt of which {carried_out} were carried out; {} connections to the origin, {} of \
         which it ended while they were idle",
        answered.len() + in_doubt.len(),
        answered.len(),
        in_doubt.len(),
        counted.connections.load(Ordering::SeqCst),
        counted.ended_idle.load(Ordering::SeqCst),
    );
    assert!(twice.is_empty(), "delivered more than once: {twice:?}");
    let lost: Vec<_> = answered.iter().filter(|path| !delivered.contains_key(**path)).collect();
    assert!(lost.is_empty(), "answered and never delivered: {lost:?}");
    assert_eq!(delivered.len(), answered.len() + carried_out, "nothing else was delivered");
    // Otherwise nothing was tried.
    assert!(counted.ended_idle.load(Ordering::SeqCst) > posts / 100);
    assert!(in_doubt.len() <= counted.ended_idle.load(Ordering::SeqCst), "each met an end of its own");
}

#[test]
fn a_connection_that_ended_before_a_post_is_never_chosen_for_it() {
    for names in [&[][..], &["origin.test"]] {
        let (said, ended) = mpsc::channel();
        let said = Mutex::new(said);
        let origin = Origin::wire(names, move |stream| {
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\nx") {
                let mut byte = [0];
                stream.read_exact(&mut byte)?;
                request.push(byte[0]);
            }
            respond(stream, b"done")?;
            // Without having said so.
            stream.end()?;
            said.lock().expect("no thread panicked holding it").send(()).map_err(io::Error::other)
        });
        let mut gateway = Gateway::start(1, &origin);
        gateway.apply(vec![template("t", POLICY)]);
        let port = origin.address.port();
        let mut stream: Box<dyn Duplex> = match names {
            [] => Box::new(gateway.socket()),
            _ => Box::new(gateway.tls("origin.test", port)),
        };
        let (target, login) = match names {
            [] => (format!("http://origin.test:{port}/"), "Proxy-Authorization: Basic Ym94OndvcmQ=\r\n"),
            _ => ("/".into(), ""),
        };
        for round in 0..200 {
            let head = format!(
                "POST {target} HTTP/1.1\r\nHost: origin.test:{port}\r\n{login}Content-Length: 1\r\n\r\n"
            );
            let (head, body) = ask(&mut stream, &head, b"x");
            let body = String::from_utf8_lossy(&body);
            assert!(head.starts_with("HTTP/1.1 200 "), "{round}: {head}{body}");
            ended.recv().expect("it says when it has ended");
        }
        assert_eq!(origin.connections(), 200);
    }
}

/// A connection of a client, plain or TLS.
trait Duplex: Read + Write {}

impl<T: Read + Write> Duplex for T {}
