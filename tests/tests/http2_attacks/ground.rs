//! What every attack goes through: the same attack before, for caches, then again and again, then a look at what stayed.

use std::{
    fs,
    io::Write,
    net::TcpStream,
    sync::{PoisonError, RwLock, RwLockReadGuard},
    time::Instant,
};

use tests::{
    counting::Counting,
    frames::{self, END, HEADERS, Peer},
    gateway::{Gateway, PATIENCE, template},
    origin::{Origin, Seen, respond},
};

#[global_allocator]
static ALLOCATOR: Counting = Counting::new();

/// What may stay alive of attacks: caches of names, buffers that are used again.
const LEFT_BYTES_MAX: usize = 512 << 10;
/// How often each attack is done.
const TIMES: usize = 4;

/// What stays of most attacks is counted in the whole process: while one of these runs, nothing else does.
static ALONE: RwLock<()> = RwLock::new(());

/// For attacks of which nothing is counted: they may run beside each other.
pub fn uncounted() -> RwLockReadGuard<'static, ()> {
    ALONE.read().unwrap_or_else(PoisonError::into_inner)
}

fn descriptors() -> usize {
    fs::read_dir("/proc/self/fd").expect("proc").count()
}

fn settled(wanted: usize, number: impl Fn() -> usize) -> usize {
    let deadline = Instant::now() + PATIENCE;
    while number() > wanted && Instant::now() < deadline {
        std::thread::yield_now();
    }
    number()
}

/// A gateway that lets `second.test` be reached without TLS.
pub fn gateway(origin: &Origin) -> Gateway {
    let mut gateway = Gateway::start(1, origin);
    let rules = r#"{"allowedHosts":["second.test","origin.test"],
                    "allowedAddresses":[{"host":"*","cidrs":["127.0.0.0/8"]}]}"#;
    gateway.apply(vec![template("t", rules)]);
    gateway
}

/// An attack from within the sandbox on `second.test`, whose origin answers by the script. Each must leave so many
/// records, one of them with this code.
pub fn from_within(
    script: impl Fn(&Seen, &mut dyn Write) -> std::io::Result<()> + Send + Sync + 'static,
    (records, code): (usize, &str),
    attack: impl Fn(&mut Peer<TcpStream>),
) {
    let _alone = ALONE.write().unwrap_or_else(PoisonError::into_inner);
    let origin = Origin::plain(move |seen, out| match seen.line().contains("/good") {
        true => respond(out, b"good"),
        false => script(seen, out),
    });
    let gateway = gateway(&origin);
    let port = origin.address.port();
    let once = || {
        let mut peer = Peer::client(&gateway, "second.test", port, &[]);
        attack(&mut peer);
    };
    all(&gateway, port, "second.test", records, code, &once);
    gateway.stop();
}

/// An attack by the upstream `origin.test` on the answer to one request, whose record must have this code.
pub fn from_without(
    origin: impl FnOnce() -> Origin,
    (records, code): (usize, &str),
    ask: impl Fn(&Gateway, u16),
) {
    let _alone = ALONE.write().unwrap_or_else(PoisonError::into_inner);
    let origin = origin();
    let gateway = gateway(&origin);
    let port = origin.address.port();
    all(&gateway, port, "origin.test", records, code, &|| ask(&gateway, port));
    gateway.stop();
}

fn all(gateway: &Gateway, port: u16, host: &str, records: usize, code: &str, once: &dyn Fn()) {
    let mut left = 0;
    let mut again = |times: usize| {
        for _ in 0..times {
            once();
            left += records;
            let lines = gateway.recorded(left);
            assert_eq!(lines.len(), left, "{lines:#?}");
            let own = &lines[left - records..];
            assert!(own.iter().any(|record| record["code"] == code), "{own:#?}");
            if host == "second.test" {
                assert_eq!(good(gateway, port), 200);
                left += 1;
                gateway.recorded(left);
            }
        }
    };
    // Twice, since some caches come with the second connection.
    again(2);
    let (before, kept) = (ALLOCATOR.live(), gateway.records_bytes());
    let idle = descriptors();
    again(TIMES);
    let bound = before + LEFT_BYTES_MAX + gateway.records_bytes() - kept;
    let live = settled(bound, || ALLOCATOR.live());
    assert!(live <= bound, "{live} bytes are alive of {bound} that may be");
    // The pool may have come to keep another connection, both ends of which are in this process.
    let idle = idle + 2;
    assert!(settled(idle, descriptors) <= idle, "{} descriptors of {idle}", descriptors());
}

/// The status that a harmless client gets for a request.
fn good(gateway: &Gateway, port: u16) -> u32 {
    let mut peer = Peer::client(gateway, "second.test", port, &[]);
    let path =
        [(":method", "GET"), (":scheme", "http"), (":authority", &*peer.authority), (":path", "/good")];
    let head: Vec<u8> = path.iter().flat_map(|(name, value)| frames::field(name, value)).collect();
    assert!(peer.send(&frames::frame(HEADERS, frames::WHOLE | END, 1, &head)));
    let answer = peer.until(HEADERS).expect("an answer");
    // `:status: 200` is in the static table (RFC 7541, appendix A).
    if answer.payload.first() == Some(&0x88) { 200 } else { 0 }
}
