//! Ten thousand connections that mean no good: nothing panics, nothing stays, each leaves one record.

use std::{
    collections::BTreeMap,
    fs,
    io::{Read, Write},
    net::{Shutdown, SocketAddr, TcpStream},
    sync::atomic::{AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use data_encoding::BASE64;
use tests::{
    client::socket,
    counting::Counting,
    gateway::{Gateway, PATIENCE, ask},
    origin::{Origin, respond},
};

#[global_allocator]
static ALLOCATOR: Counting = Counting::new();

/// Connections of the test proper; as many as a tenth of it fill caches before.
const CONNECTIONS: usize = 10_000;
/// Clients that misbehave at once; they divide the numbers of connections.
const WORKERS: usize = 8;
/// What may stay alive of them all.
const LEFT_BYTES_MAX: usize = 1 << 20;
const SEED: u64 = 0x6f75_7467_6174_6521;

/// A small generator whose seed says all (xorshift64*).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % bound as u64).expect("small")
    }

    fn bytes(&mut self, count: usize) -> Vec<u8> {
        (0..count).map(|_| self.next().to_be_bytes()[0]).collect()
    }
}

/// A ClientHello as a client sends it.
fn hello(gateway: &Gateway) -> Vec<u8> {
    let mut client = gateway.client("box", "origin.test", &[b"http/1.1"]);
    let mut bytes = Vec::new();
    client.write_tls(&mut bytes).expect("a hello");
    bytes
}

/// Breaks the connection with a reset instead of an end.
fn reset(socket: TcpStream) {
    socket2::SockRef::from(&socket).set_linger(Some(Duration::ZERO)).expect("an option");
}

/// One bad connection of a kind that the generator chooses.
fn misbehave(proxy: SocketAddr, port: u16, hello: &[u8], random: &mut Random) {
    let credentials = BASE64.encode(b"box:word");
    let connect = format!(
        "CONNECT origin.test:{port} HTTP/1.1\r\nHost: origin.test:{port}\r\nProxy-Authorization: Basic {credentials}\r\n\r\n"
    );
    let request = format!(
        "GET http://origin.test/ HTTP/1.1\r\nHost: origin.test\r\nProxy-Authorization: Basic {credentials}\r\nA: b\r\n\r\n"
    );
    let cut = |bytes: &[u8], random: &mut Random| bytes[..random.below(bytes.len())].to_vec();
    let bytes = match random.below(8) {
        0 => {
            let count = random.below(2_000);
            random.bytes(count)
        }
        1 => [connect.into_bytes(), random.bytes(300)].concat(),
        2 => [connect.into_bytes(), cut(hello, random)].concat(),
        3 => cut(connect.as_bytes(), random),
        4 => cut(request.as_bytes(), random),
        5 => {
            let (name, count) = (random.below(1_000), 70_000 + random.below(100_000));
            [&request.as_bytes()[..request.len() - 2], format!("X{name}: ").as_bytes(), &vec![b'a'; count]]
                .concat()
        }
        6 => {
            let mut broken = hello.to_vec();
            for _ in 0..4 {
                let at = random.below(broken.len());
                broken[at] ^= 1 << random.below(8);
            }
            [connect.into_bytes(), broken].concat()
        }
        _ => [connect.into_bytes(), hello.to_vec(), random.bytes(100)].concat(),
    };
    let mut socket = socket(proxy);
    // The gateway may have refused and gone before all of it was sent.
    let sent = socket.write_all(&bytes);
    match random.below(4) {
        0 => reset(socket),
        1 => drop(socket),
        _ => {
            let _gone = sent.and_then(|()| socket.shutdown(Shutdown::Write));
            let mut answer = [0; 4_096];
            while matches!(socket.read(&mut answer), Ok(1..)) {}
        }
    }
}

fn descriptors() -> usize {
    fs::read_dir("/proc/self/fd").expect("proc").count()
}

/// How sockets are named among the descriptors.
const SOCKETS: &str = "socket:";

/// How many descriptors of each kind there are.
fn kinds() -> BTreeMap<String, usize> {
    let mut kinds = BTreeMap::new();
    for entry in fs::read_dir("/proc/self/fd").expect("proc").flatten() {
        let target = fs::read_link(entry.path()).unwrap_or_default().to_string_lossy().into_owned();
        *kinds.entry(target.split('[').next().unwrap_or_default().to_owned()).or_default() += 1;
    }
    kinds
}

/// Waits until a number is at most what it should be; gives what it came to.
fn settled(wanted: usize, number: impl Fn() -> usize) -> usize {
    let deadline = Instant::now() + PATIENCE;
    while number() > wanted && Instant::now() < deadline {
        std::thread::yield_now();
    }
    number()
}

/// Panics of any thread: a connection that ends by one is caught, so it would not be seen otherwise.
static PANICS: AtomicUsize = AtomicUsize::new(0);

fn run(shards: usize) {
    std::panic::set_hook(Box::new(|info| {
        PANICS.fetch_add(1, Ordering::SeqCst);
        eprintln!("{info}");
    }));
    PANICS.store(0, Ordering::SeqCst);
    println!("seed {SEED:#x}, {shards} shards");
    let origin = Origin::tls(&["origin.test"], |_, out| respond(out, b"ok"));
    let gateway = Gateway::start(shards, &origin);
    let port = origin.address.port();
    let hello = hello(&gateway);
    let good = || {
        let mut stream = gateway.tls("origin.test", port);
        let request = format!("GET / HTTP/1.1\r\nHost: origin.test:{port}\r\nConnection: close\r\n\r\n");
        assert!(ask(&mut stream, &request, b"").0.starts_with("HTTP/1.1 200 "));
    };
    let round = |count: usize, seed: u64| {
        std::thread::scope(|scope| {
            for worker in 0..WORKERS as u64 {
                let (proxy, hello) = (gateway.proxy, &hello);
                scope.spawn(move || {
                    let mut random = Random(seed ^ (worker + 1));
                    for _ in 0..count / 8 {
                        misbehave(proxy, port, hello, &mut random);
                    }
                });
            }
        });
    };
    let start = kinds()[SOCKETS];
    good();
    round(CONNECTIONS / 10, !SEED);
    let warm = CONNECTIONS / 10 + 1;
    gateway.recorded(warm);
    // Both ends of the one connection that the pool keeps are in this process.
    assert!(settled(start + 2, || kinds()[SOCKETS]) <= start + 2, "{:?}", kinds());
    let (idle, first) = (descriptors(), kinds());
    let (before, kept) = (ALLOCATOR.live(), gateway.records_bytes());

    round(CONNECTIONS, SEED);
    good();
    let all = warm + CONNECTIONS + 1;
    assert_eq!(gateway.recorded(all).len(), all, "one record each");
    assert!(settled(idle, descriptors) <= idle, "{first:?} became {:?}", kinds());
    // The harness itself keeps the lines of all records.
    let bound = before + LEFT_BYTES_MAX + gateway.records_bytes() - kept;
    let live = settled(bound, || ALLOCATOR.live());
    assert!(live <= bound, "{live} bytes are alive of {bound} that may be");
    println!("{before} bytes before, {live} after, of which {} are records", gateway.records_bytes() - kept);
    assert_eq!(PANICS.load(Ordering::SeqCst), 0, "panics");
    let records = gateway.records(all);
    for record in &records {
        assert!(record["verdict"] == "refused" || record["verdict"] == "allowed", "{record}");
    }
    assert_eq!(records.iter().filter(|record| record["verdict"] == "allowed").count(), 2);
}

#[test]
fn ten_thousand_bad_connections_leave_nothing_but_their_records() {
    for shards in [4, 1] {
        run(shards);
    }
}
