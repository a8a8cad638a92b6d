//! A plane that stops leaves nothing behind: each request and connection has its record, and every descriptor is closed.

use std::{
    io::{Read, Write},
    net::TcpStream,
    sync::mpsc,
    time::Instant,
};

use tests::{
    gateway::{Gateway, PATIENCE, Tls, ask},
    origin::Origin,
};

const EACH: usize = 3;

/// Connections in every state in which a stop can find them.
struct Clients {
    streaming: Vec<Tls>,
    idle: Vec<Tls>,
    silent: Vec<TcpStream>,
    half: Vec<TcpStream>,
    tunnels: Vec<TcpStream>,
}

fn open(gateway: &Gateway, port: u16) -> Clients {
    let each = |open: &dyn Fn() -> Tls| (0..EACH).map(|_| open()).collect();
    let request = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: origin.test:{port}\r\n\r\n");
    let streaming = each(&|| {
        let mut stream = gateway.tls("origin.test", port);
        stream.write_all(request("/endless").as_bytes()).unwrap();
        let mut seen = Vec::new();
        while !seen.ends_with(b"first part") {
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            seen.push(byte[0]);
        }
        stream
    });
    let idle = each(&|| {
        let mut stream = gateway.tls("origin.test", port);
        assert!(ask(&mut stream, &request("/whole"), b"").0.starts_with("HTTP/1.1 200 "));
        stream
    });
    let half = |bytes: &[u8]| {
        let mut socket = gateway.socket();
        socket.write_all(bytes).unwrap();
        socket
    };
    let before = descriptors().0;
    let silent: Vec<_> = (0..EACH).map(|_| half(b"")).collect();
    let half: Vec<_> = (0..EACH).map(|_| half(b"CONNECT origin.test:443 HTT")).collect();
    // Both ends of each are in this process.
    let end = Instant::now() + PATIENCE;
    while descriptors().0 < before + 4 * EACH {
        assert!(Instant::now() < end, "{:?} are open, {before} before", descriptors());
        std::thread::yield_now();
    }
    let tunnels = (0..EACH).map(|_| gateway.tunnel("origin.test", port)).collect();
    Clients { streaming, idle, silent, half, tunnels }
}

/// The process's descriptors, and how many of them are eventfds. The folder that is read is one, each time.
fn descriptors() -> (usize, usize) {
    let found = std::fs::read_dir("/proc/self/fd").unwrap();
    let name = |entry: std::fs::DirEntry| std::fs::read_link(entry.path()).unwrap_or_default();
    let names: Vec<_> = found.map(|entry| name(entry.unwrap()).display().to_string()).collect();
    (names.len(), names.iter().filter(|name| name.contains("eventfd")).count())
}

#[test]
fn a_stop_ends_every_connection_with_its_record_and_closes_every_descriptor() {
    let (release, held) = mpsc::channel::<()>();
    let held = std::sync::Mutex::new(held);
    let origin = Origin::tls(&["origin.test"], move |seen, out| {
        if seen.line().contains("/whole") {
            return tests::origin::respond(out, b"whole");
        }
        out.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\na\r\nfirst part\r\n")?;
        out.flush()?;
        // Until the test is over.
        let _over = held.lock().map(|held| held.recv());
        Ok(())
    });
    let port = origin.address.port();
    // What is opened once in a process is not counted.
    drop(Gateway::start(1, &origin).stop());
    let (mut all, mut eventfds) = descriptors();
    for shards in [1, 4] {
        let gateway = Gateway::start(shards, &origin);
        let clients = open(&gateway, port);
        gateway.recorded(EACH);
        let records = gateway.stop();
        let count = |field: &str, value: &str| records.iter().filter(|record| record[field] == value).count();
        assert_eq!(count("verdict", "allowed"), EACH, "{records:#?}");
        assert_eq!(count("verdict", "cut"), EACH, "{records:#?}");
        assert_eq!(count("code", "detached"), EACH, "{records:#?}");
        // One that the shard had not seen yet has none: nothing tells a client that it was accepted.
        let unknown = count("code", "client_gone");
        assert!((1..=2 * EACH).contains(&unknown), "{records:#?}");
        assert_eq!(records.len(), 3 * EACH + unknown, "{records:#?}");
        let Clients { streaming, idle, silent, half, tunnels } = clients;
        for mut stream in streaming {
            let ended = stream.read_to_end(&mut Vec::new());
            assert!(ended.is_err(), "a part of an answer looks whole: {ended:?}");
        }
        drop((idle, silent, half, tunnels));
        // glommio 0.9 frees a task without dropping its header, which holds the executor's eventfd: one for each
        // executor stays open.
        eventfds += shards;
        // The origin's threads close theirs when they see the end; those that stream, when they are let go.
        all += shards + EACH;
        let end = Instant::now() + PATIENCE;
        while descriptors() != (all, eventfds) {
            assert!(Instant::now() < end, "{:?} are open, not {:?}", descriptors(), (all, eventfds));
            std::thread::yield_now();
        }
    }
    drop(release);
}
