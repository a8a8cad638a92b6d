//! Large bodies through the shipped plane: every byte arrives, and a slow reader costs the sender, not the plane.

use std::{
    fs,
    io::{self, Read, Write},
    sync::{Arc, Condvar, Mutex, mpsc},
    time::Duration,
};

use aws_lc_rs::digest::{Context, Digest, SHA256};
use tests::{
    gateway::{PATIENCE, read_head},
    origin::{Duplex, Origin},
    stage::Stage,
};

const BODY_BYTES: u64 = 256 << 20;
/// What the plane may grow by while it relays.
const GROWTH_BYTES_MAX: u64 = 16 << 20;
/// A sender that gets nothing through for this long is held back.
const HELD_BACK: Duration = Duration::from_millis(300);

/// Bytes that nobody can guess the next of, the same in every run (xorshift64).
struct Noise(u64);

impl Noise {
    fn fill(&mut self, piece: &mut [u8]) {
        for eight in piece.chunks_mut(8) {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            eight.copy_from_slice(&self.0.to_le_bytes()[..eight.len()]);
        }
    }
}

/// How far a sender has come, for those who wait until it is held back.
#[derive(Clone, Default)]
struct Progress(Arc<(Mutex<u64>, Condvar)>);

impl Progress {
    fn add(&self, bytes: u64) {
        *self.0.0.lock().unwrap() += bytes;
        self.0.1.notify_all();
    }

    /// Waits until the sender has begun, and then gets nothing through for a while.
    fn wait_until_held_back(&self) -> u64 {
        let (sent, changed) = &*self.0;
        let begun = changed.wait_timeout_while(sent.lock().unwrap(), PATIENCE, |sent| *sent == 0).unwrap();
        assert!(!begun.1.timed_out(), "the sender never began");
        let mut sent = begun.0;
        loop {
            let before = *sent;
            let (now, waited) = changed.wait_timeout_while(sent, HELD_BACK, |sent| *sent == before).unwrap();
            sent = now;
            if waited.timed_out() {
                return *sent;
            }
        }
    }
}

fn send(stream: &mut (impl Write + ?Sized), progress: &Progress) -> io::Result<Digest> {
    let (mut noise, mut context, mut piece) = (Noise(7), Context::new(&SHA256), vec![0; 64 << 10]);
    for _ in 0..BODY_BYTES / piece.len() as u64 {
        noise.fill(&mut piece);
        context.update(&piece);
        stream.write_all(&piece)?;
        progress.add(piece.len() as u64);
    }
    stream.flush()?;
    Ok(context.finish())
}

fn receive(stream: &mut (impl Read + ?Sized)) -> io::Result<Digest> {
    let (mut context, mut piece, mut left) = (Context::new(&SHA256), vec![0; 64 << 10], BODY_BYTES);
    while left > 0 {
        let count = stream.read(&mut piece)?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        context.update(&piece[..count]);
        left -= count as u64;
    }
    Ok(context.finish())
}

/// The most memory that the plane ever held, in bytes.
fn peak(stage: &Stage) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", stage.plane.process.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
}

/// Sees to it that the plane has its code, its handshakes and its buffers in memory before it is measured.
fn warm_up(stage: &Stage, port: u16) {
    let mut stream = stage.tls("origin.test", port);
    write!(stream, "GET /warm HTTP/1.1\r\nHost: origin.test:{port}\r\n\r\n").unwrap();
    assert!(read_head(&mut stream).starts_with("HTTP/1.1 200 "));
}

#[test]
fn download_arrives_whole_and_a_slow_reader_holds_the_origin_back() {
    let progress = Progress::default();
    let (finished, sent) = mpsc::channel();
    let (pushing, finished) = (progress.clone(), Mutex::new(finished));
    let origin = Origin::wire(&["origin.test"], move |stream: &mut dyn Duplex| {
        let warm = read_head(&mut &mut *stream).starts_with("GET /warm");
        let length = if warm { 0 } else { BODY_BYTES };
        write!(stream, "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n")?;
        if !warm {
            finished.lock().unwrap().send(send(stream, &pushing)?).unwrap();
        }
        stream.flush()
    });
    let stage = Stage::set(&origin, 1);
    let port = origin.address.port();
    warm_up(&stage, port);
    let before = peak(&stage);
    let mut stream = stage.tls("origin.test", port);
    write!(stream, "GET / HTTP/1.1\r\nHost: origin.test:{port}\r\n\r\n").unwrap();
    assert!(read_head(&mut stream).starts_with("HTTP/1.1 200 "));
    let ahead = progress.wait_until_held_back();
    assert!(ahead < BODY_BYTES / 2, "the origin was not held back: {ahead} bytes went into nowhere");
    let received = receive(&mut stream).unwrap();
    assert_eq!(received.as_ref(), sent.recv().unwrap().as_ref());
    let growth = peak(&stage) - before;
    assert!(growth <= GROWTH_BYTES_MAX, "the plane grew by {growth} bytes");
}

#[test]
fn upload_arrives_whole_and_a_slow_origin_holds_the_sandbox_back() {
    let gate = Arc::new((Mutex::new(false), Condvar::new()));
    let opened = Arc::clone(&gate);
    let (finished, taken) = mpsc::channel();
    let finished = Mutex::new(finished);
    let origin = Origin::wire(&["origin.test"], move |stream: &mut dyn Duplex| {
        if !read_head(&mut &mut *stream).starts_with("GET /warm") {
            drop(opened.1.wait_while(opened.0.lock().unwrap(), |open| !*open).unwrap());
            finished.lock().unwrap().send(receive(stream)?).unwrap();
        }
        write!(stream, "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")?;
        stream.flush()
    });
    let stage = Stage::set(&origin, 1);
    let port = origin.address.port();
    warm_up(&stage, port);
    let before = peak(&stage);
    let progress = Progress::default();
    let mut stream = stage.tls("origin.test", port);
    let pushing = progress.clone();
    let sender = std::thread::spawn(move || {
        let head =
            format!("POST / HTTP/1.1\r\nHost: origin.test:{port}\r\nContent-Length: {BODY_BYTES}\r\n\r\n");
        stream.write_all(head.as_bytes()).unwrap();
        let sent = send(&mut stream, &pushing).unwrap();
        assert!(read_head(&mut stream).starts_with("HTTP/1.1 200 "));
        sent
    });
    let ahead = progress.wait_until_held_back();
    assert!(ahead < BODY_BYTES / 2, "the sandbox was not held back: {ahead} bytes went into nowhere");
    *gate.0.lock().unwrap() = true;
    gate.1.notify_all();
    let sent = sender.join().unwrap();
    assert_eq!(taken.recv().unwrap().as_ref(), sent.as_ref());
    let growth = peak(&stage) - before;
    assert!(growth <= GROWTH_BYTES_MAX, "the plane grew by {growth} bytes");
}
