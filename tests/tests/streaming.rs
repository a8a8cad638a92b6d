//! Bodies both ways: order, framing, early answers, back-pressure, and who is told when somebody leaves.

use std::{
    io::{self, Read, Write},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, AtomicUsize, Ordering},
        mpsc,
    },
    time::Duration,
};

use tests::{
    gateway::{Gateway, PATIENCE, Tls, ask, both_ways, policy, read_answer, read_head},
    origin::{Duplex, Origin, respond},
};

/// Origin, gateway and the `Host` of requests.
fn setup(shards: usize, origin: Origin) -> (Origin, Gateway, String) {
    let gateway = Gateway::start(shards, &origin);
    let host = format!("origin.test:{}", origin.address.port());
    (origin, gateway, host)
}

fn open(gateway: &Gateway, origin: &Origin) -> Tls {
    gateway.tls("origin.test", origin.address.port())
}

/// Bytes that differ from place to place.
fn pattern(bytes: usize) -> Vec<u8> {
    let block: Vec<u8> =
        (0..65_537u64).map(|at| at.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes()[0]).collect();
    let mut whole = block.repeat(bytes.div_ceil(block.len()));
    whole.truncate(bytes);
    whole
}

/// Reads a head from an origin's side.
fn head_of(stream: &mut dyn Duplex) -> String {
    read_head(&mut &mut *stream)
}

/// Reads an answer in chunks to its end.
fn read_chunks(stream: &mut impl Read) -> Vec<u8> {
    let mut line = || {
        let mut line = Vec::new();
        while !line.ends_with(b"\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).expect("a chunk line");
            line.push(byte[0]);
        }
        line
    };
    let size = String::from_utf8(line()).expect("hexadecimal");
    let size = usize::from_str_radix(size.trim(), 16).expect("hexadecimal");
    let mut chunk = vec![0; size + 2];
    stream.read_exact(&mut chunk).expect("a whole chunk");
    chunk.truncate(size);
    if size > 0 {
        chunk.extend(read_chunks(stream));
    }
    chunk
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    both_ways(|shards| {
        let (origin, gateway, host) =
            setup(shards, Origin::tls(&["origin.test"], |seen, out| respond(out, seen.line().as_bytes())));
        let mut stream = open(&gateway, &origin);
        let mut all = Vec::new();
        for n in 0..20 {
            let body = "x".repeat(n * 500);
            write!(all, "POST /{n} HTTP/1.1\r\nHost: {host}\r\nContent-Length: {}\r\n\r\n{body}", body.len())
                .unwrap();
            write!(all, "POST /c{n} HTTP/1.1\r\nHost: {host}\r\nTransfer-Encoding: chunked\r\n\r\n").unwrap();
            all.extend_from_slice(b"3\r\nabc\r\n1;e=1\r\nd\r\n0\r\n\r\n");
        }
        stream.write_all(&all).unwrap();
        stream.flush().unwrap();
        for n in 0..20 {
            assert_eq!(read_answer(&mut stream, false).1, format!("POST /{n} HTTP/1.1").as_bytes());
            assert_eq!(read_answer(&mut stream, false).1, format!("POST /c{n} HTTP/1.1").as_bytes());
        }
        let seen = origin.seen();
        assert_eq!((seen.len(), seen[39].body.as_slice(), seen[38].body.len()), (40, &b"abcd"[..], 9_500));
        assert_eq!(origin.connections(), 1, "one connection carried all of them");
        let records = gateway.records(40);
        assert_eq!((&records[39]["bytesUp"], &records[39]["bytesDown"]), (&4.into(), &18.into()));
    });
}

#[test]
fn answers_without_a_body_keep_the_connection() {
    both_ways(|shards| {
        let (origin, gateway, host) = setup(
            shards,
            Origin::tls(&["origin.test"], |seen, out| match seen.line().split(' ').nth(1) {
                Some("/204") => write!(out, "HTTP/1.1 204 No Content\r\n\r\n"),
                Some("/304") => write!(out, "HTTP/1.1 304 Not Modified\r\nContent-Length: 7\r\n\r\n"),
                Some("/head") => write!(out, "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n"),
                _ => respond(out, b"body"),
            }),
        );
        let mut stream = open(&gateway, &origin);
        for (method, path, status) in
            [("GET", "/204", 204), ("GET", "/304", 304), ("HEAD", "/head", 200), ("GET", "/", 200)]
        {
            write!(stream, "{method} {path} HTTP/1.1\r\nHost: {host}\r\n\r\n").unwrap();
            let (head, body) = read_answer(&mut stream, path != "/");
            assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{head}");
            assert_eq!(path == "/head", head.contains("Content-Length: 1000\r\n"), "{head}");
            assert_eq!(body.len(), if path == "/" { 4 } else { 0 });
        }
        assert_eq!(origin.connections(), 1);
        gateway.records(4);
    });
}

#[test]
fn every_framing_passes_both_ways_whole() {
    both_ways(|shards| {
        let body = Arc::new(pattern(700_000));
        let sent = Arc::clone(&body);
        let (origin, gateway, host) = setup(
            shards,
            Origin::tls(&["origin.test"], move |seen, out| {
                assert!(seen.body.is_empty() || seen.body == *sent, "the upload arrived as it was sent");
                match seen.line().split(' ').nth(1) {
                    Some("/chunked") => {
                        write!(out, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")?;
                        for chunk in sent.chunks(9_973) {
                            write!(out, "{:x}\r\n", chunk.len())?;
                            out.write_all(chunk)?;
                            out.write_all(b"\r\n")?;
                        }
                        out.write_all(b"0\r\n\r\n")
                    }
                    Some("/close") => {
                        write!(out, "HTTP/1.1 200 OK\r\n\r\n")?;
                        out.write_all(&sent)?;
                        Err(io::ErrorKind::ConnectionAborted.into())
                    }
                    _ => respond(out, &sent),
                }
            }),
        );
        let mut stream = open(&gateway, &origin);
        let length =
            format!("POST /length HTTP/1.1\r\nHost: {host}\r\nContent-Length: {}\r\n\r\n", body.len());
        assert!(ask(&mut stream, &length, &body).1 == *body);
        write!(stream, "POST /chunked HTTP/1.1\r\nHost: {host}\r\nTransfer-Encoding: chunked\r\n\r\n")
            .unwrap();
        for chunk in body.chunks(17_011) {
            write!(stream, "{:x};ext=\"1\"\r\n", chunk.len()).unwrap();
            stream.write_all(chunk).unwrap();
            stream.write_all(b"\r\n").unwrap();
        }
        stream.write_all(b"0\r\nX-Trailer: 1\r\n\r\n").unwrap();
        assert!(read_head(&mut stream).contains("Transfer-Encoding: chunked\r\n"));
        assert!(read_chunks(&mut stream) == *body);
        // An answer that ends with its connection reaches an HTTP/1.1 client in chunks, so that its end can be seen. The
        // origin closes TCP without the end of TLS: that is a cut, and must look like one.
        write!(stream, "GET /close HTTP/1.1\r\nHost: {host}\r\n\r\n").unwrap();
        assert!(read_head(&mut stream).contains("Transfer-Encoding: chunked\r\n"));
        let ended = stream.read_to_end(&mut Vec::new());
        assert!(ended.is_err(), "a cut answer never looks whole: {ended:?}");
        let records = gateway.records(3);
        assert_eq!(records[0]["bytesUp"], 700_000);
        assert_eq!(records[1]["bytesDown"], 700_000);
        assert_eq!((&records[2]["code"], &records[2]["status"]), (&"answer_broken".into(), &200.into()));
    });
}

#[test]
fn client_that_waits_for_100_continue_is_told_by_the_upstream() {
    both_ways(|shards| {
        let origin = Origin::wire(&["origin.test"], |stream| {
            let head = head_of(stream);
            if head.contains("/refuse") {
                return respond(stream, b"no");
            }
            write!(stream, "HTTP/1.1 100 Continue\r\n\r\n")?;
            stream.flush()?;
            let mut body = [0; 5];
            stream.read_exact(&mut body)?;
            // The script ends here, and with it the connection: without a word of it the next POST could meet the end.
            write!(stream, "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 5\r\n\r\n")?;
            stream.write_all(&body)?;
            stream.flush()
        });
        let (origin, gateway, host) = setup(shards, origin);
        let mut stream = open(&gateway, &origin);
        let head = |path| {
            format!(
                "POST {path} HTTP/1.1\r\nHost: {host}\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n"
            )
        };
        stream.write_all(head("/").as_bytes()).unwrap();
        assert!(read_head(&mut stream).starts_with("HTTP/1.1 100 "), "the head alone was sent on");
        stream.write_all(b"hello").unwrap();
        assert_eq!(read_answer(&mut stream, false).1, b"hello");
        // A final answer instead: the body is never sent, and the connection cannot go on.
        let mut stream = open(&gateway, &origin);
        stream.write_all(head("/refuse").as_bytes()).unwrap();
        let (head, body) = read_answer(&mut stream, false);
        assert!(head.contains("\r\nConnection: close\r\n") && body == b"no", "{head}");
        assert_eq!(stream.read(&mut [0; 1]).unwrap_or(0), 0);
        gateway.records(2);
    });
}

#[test]
fn early_answer_reaches_a_client_that_is_still_sending() {
    both_ways(|shards| {
        let (done, gone) = mpsc::channel::<()>();
        let gone = Mutex::new(gone);
        let origin = Origin::wire(&["origin.test"], move |stream| {
            head_of(stream);
            write!(
                stream,
                "HTTP/1.1 413 Content Too Large\r\nContent-Length: 3\r\nConnection: close\r\n\r\nbig"
            )?;
            stream.flush()?;
            // Reads nothing of the upload, and stays until the gateway has gone.
            let _gone = gone.lock().unwrap().recv();
            Ok(())
        });
        let (origin, gateway, host) = setup(shards, origin);
        let mut stream = open(&gateway, &origin);
        write!(stream, "POST / HTTP/1.1\r\nHost: {host}\r\nContent-Length: 1000000000\r\n\r\n").unwrap();
        stream.write_all(&pattern(50_000)).unwrap();
        let (head, body) = read_answer(&mut stream, false);
        assert!(
            head.starts_with("HTTP/1.1 413 ") && body == b"big",
            "{head}{}",
            String::from_utf8_lossy(&body)
        );
        drop(done);
        let record = gateway.records(1).remove(0);
        assert_eq!((&record["status"], &record["verdict"]), (&413.into(), &"allowed".into()));
    });
}

#[test]
fn upstream_is_cancelled_when_the_client_leaves() {
    both_ways(|shards| {
        for started in [false, true] {
            let (gone, left) = mpsc::channel();
            let origin = Origin::wire(&["origin.test"], move |stream| {
                head_of(stream);
                if started {
                    write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\npart")?;
                    stream.flush()?;
                }
                gone.send("asked").unwrap();
                let ended = stream.read(&mut [0; 16]);
                gone.send(if matches!(ended, Ok(0) | Err(_)) { "cancelled" } else { "still there" }).unwrap();
                Ok(())
            });
            let (origin, gateway, host) = setup(shards, origin);
            let mut stream = open(&gateway, &origin);
            write!(stream, "GET / HTTP/1.1\r\nHost: {host}\r\n\r\n").unwrap();
            if started {
                read_head(&mut stream);
            }
            assert_eq!(left.recv_timeout(PATIENCE), Ok("asked"));
            drop(stream);
            assert_eq!(left.recv_timeout(PATIENCE), Ok("cancelled"), "started: {started}");
            let record = gateway.records(1).remove(0);
            assert_eq!(record["code"], "client_gone", "{record}");
            let status = if started { 200.into() } else { serde_json::Value::Null };
            assert_eq!(record["status"], status, "{record}");
        }
    });
}

#[test]
fn what_was_sent_on_before_an_exchange_failed_is_in_its_record() {
    const PART: usize = 50_000;
    both_ways(|shards| {
        for (end, code) in [("client", "client_gone"), ("upstream", "upstream_closed"), ("policy", "revoked")]
        {
            let (read, has_read) = mpsc::channel();
            let (go, gone) = mpsc::channel::<()>();
            let gone = Mutex::new(gone);
            let origin = Origin::wire(&["origin.test"], move |stream| {
                head_of(stream);
                stream.read_exact(&mut [0; PART])?;
                read.send(()).unwrap();
                // Until the test says so.
                let _gone = gone.lock().unwrap().recv();
                Ok(())
            });
            let (origin, mut gateway, host) = setup(shards, origin);
            let mut stream = open(&gateway, &origin);
            write!(stream, "POST / HTTP/1.1\r\nHost: {host}\r\nContent-Length: 1000000\r\n\r\n").unwrap();
            stream.write_all(&pattern(PART)).unwrap();
            assert_eq!(has_read.recv_timeout(PATIENCE), Ok(()));
            match end {
                "client" => drop(stream),
                "upstream" => {
                    drop(go);
                    assert!(read_answer(&mut stream, false).0.starts_with("HTTP/1.1 502 "));
                }
                _ => gateway.apply(vec![policy("[]")]),
            }
            let record = gateway.records(1).remove(0);
            assert_eq!((&record["code"], &record["bytesUp"]), (&code.into(), &PART.into()), "{record}");
        }
    });
}

/// What kernel buffers on both legs and the gateway's pieces hold together, with room to spare.
const HELD_BYTES_MAX: u64 = 24 << 20;
const BULK: usize = 40 << 20;

#[test]
fn slow_reader_holds_back_the_upstream() {
    both_ways(|shards| {
        let pushed = Arc::new(AtomicU64::new(0));
        let (counted, (stuck, waits)) = (Arc::clone(&pushed), mpsc::channel());
        let body = Arc::new(pattern(BULK));
        let sent = Arc::clone(&body);
        let stuck = Mutex::new(Some(stuck));
        let origin = Origin::wire(&["origin.test"], move |stream| {
            head_of(stream);
            write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {BULK}\r\n\r\n")?;
            for piece in sent.chunks(64 << 10) {
                stream.write_all(piece)?;
                counted.fetch_add(piece.len() as u64, Ordering::SeqCst);
                if let Some(stuck) = &*stuck.lock().unwrap() {
                    let _progress = stuck.send(());
                }
            }
            stream.flush()
        });
        let (origin, gateway, host) = setup(shards, origin);
        let mut stream = open(&gateway, &origin);
        write!(stream, "GET / HTTP/1.1\r\nHost: {host}\r\n\r\n").unwrap();
        read_head(&mut stream);
        // The event is that the origin makes no progress any more.
        while waits.recv_timeout(Duration::from_secs(1)).is_ok() {}
        let held = pushed.load(Ordering::SeqCst);
        assert!(held < HELD_BYTES_MAX, "{held} bytes were taken although nobody reads");
        let mut whole = vec![0; BULK];
        stream.read_exact(&mut whole).unwrap();
        assert!(whole == *body);
        gateway.records(1);
    });
}

#[test]
fn slow_upstream_holds_back_the_client() {
    both_ways(|shards| {
        let (read_on, may_read) = mpsc::channel::<()>();
        let may_read = Mutex::new(may_read);
        let body = Arc::new(pattern(BULK));
        let expected = Arc::clone(&body);
        let origin = Origin::wire(&["origin.test"], move |stream| {
            head_of(stream);
            may_read.lock().unwrap().recv().map_err(io::Error::other)?;
            let mut whole = vec![0; BULK];
            stream.read_exact(&mut whole)?;
            respond(stream, if whole == *expected { b"same" } else { b"else" })
        });
        let (origin, gateway, host) = setup(shards, origin);
        let mut stream = open(&gateway, &origin);
        write!(stream, "POST / HTTP/1.1\r\nHost: {host}\r\nContent-Length: {BULK}\r\n\r\n").unwrap();
        stream.flush().unwrap();
        // A client that cannot write looks whether it can read, so both have that patience.
        stream.sock.set_write_timeout(Some(Duration::from_secs(1))).unwrap();
        stream.sock.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
        // The event is that the gateway takes nothing for a whole second.
        let mut sent = 0;
        while sent < BULK {
            match stream.write(&body[sent..(sent + (64 << 10)).min(BULK)]) {
                Ok(count) => sent += count,
                Err(error) => {
                    assert!(
                        matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut),
                        "{error}"
                    );
                    break;
                }
            }
        }
        assert!((sent as u64) < HELD_BYTES_MAX, "{sent} bytes were taken although nobody reads");
        read_on.send(()).unwrap();
        stream.sock.set_write_timeout(Some(PATIENCE)).unwrap();
        stream.sock.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(&body[sent..]).unwrap();
        assert_eq!(read_answer(&mut stream, false).1, b"same");
        gateway.records(1);
    });
}

/// Closes each connection behind its first `whole` answers, without a word about it.
fn forgetful(whole: usize) -> (Origin, Arc<AtomicUsize>) {
    let heads = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&heads);
    let origin = Origin::wire(&["origin.test"], move |stream| {
        for answered in 0..=whole {
            let head = head_of(stream);
            counted.fetch_add(1, Ordering::SeqCst);
            if head.starts_with("POST") {
                stream.read_exact(&mut [0; 4])?;
            }
            if answered == whole {
                return Ok(());
            }
            respond(stream, b"ok")?;
        }
        Ok(())
    });
    (origin, heads)
}

#[test]
fn request_that_may_be_repeated_is_repeated_once_on_a_fresh_connection() {
    let (origin, heads) = forgetful(1);
    let (origin, gateway, host) = setup(4, origin);
    let mut stream = open(&gateway, &origin);
    let get = format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n");
    for _ in 0..3 {
        assert!(ask(&mut stream, &get, b"").0.starts_with("HTTP/1.1 200 "));
    }
    // The second and third met a connection that closed without an answer.
    assert_eq!((heads.load(Ordering::SeqCst), origin.connections()), (5, 3));
    gateway.records(3);
}

#[test]
fn post_is_never_sent_twice() {
    let (origin, heads) = forgetful(1);
    let (origin, gateway, host) = setup(4, origin);
    let mut stream = open(&gateway, &origin);
    let post = format!("POST / HTTP/1.1\r\nHost: {host}\r\nContent-Length: 4\r\n\r\n");
    assert!(ask(&mut stream, &post, b"body").0.starts_with("HTTP/1.1 200 "));
    let (head, _) = ask(&mut stream, &post, b"body");
    assert!(head.starts_with("HTTP/1.1 502 "), "{head}");
    assert_eq!((heads.load(Ordering::SeqCst), origin.connections()), (2, 1));
    let records = gateway.records(2);
    assert_eq!(records[1]["code"], "upstream_closed");
}

#[test]
fn request_that_a_fresh_connection_did_not_answer_is_not_repeated() {
    let (origin, heads) = forgetful(0);
    let (origin, gateway, host) = setup(1, origin);
    let mut stream = open(&gateway, &origin);
    let (head, _) = ask(&mut stream, &format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n"), b"");
    assert!(head.starts_with("HTTP/1.1 502 "), "{head}");
    assert_eq!((heads.load(Ordering::SeqCst), origin.connections()), (1, 1));
    gateway.records(1);
}
