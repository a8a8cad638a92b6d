//! Processes that die, stop or come back: what goes on, what is refused, and what nobody may miss.

use std::{
    io::{Read, Write},
    net::TcpListener,
    os::fd::AsFd,
    sync::{Mutex, mpsc},
    time::{Duration, Instant},
};

use control_wire::attach::{Attach, ListenerKind, ListenerSpec, Request};
use rustix::process::Signal;
use serde_json::{Value, json};
use tests::{
    gateway::{ask, read_head},
    origin::{Duplex, Origin, respond},
    process::{Control, child_of, local},
    stage::{SANDBOX, Stage, policy},
};

const LEASE: Duration = Duration::from_secs(2);

fn deny_on_loss() -> Value {
    let mut policy = policy(&["origin.test"]);
    policy["onControlLoss"] = json!("deny");
    policy["leaseMs"] = json!(LEASE.as_millis());
    policy
}

#[test]
fn with_keep_nothing_is_lost_while_control_is_dead() {
    let origin = Origin::tls(&["origin.test"], |seen, out| respond(out, &seen.body));
    let mut stage = Stage::set(&origin, 4);
    let port = origin.address.port();
    let mut stream = stage.tls("origin.test", port);
    let head = format!("POST / HTTP/1.1\r\nHost: origin.test:{port}\r\nContent-Length: 5\r\n\r\n");
    assert!(ask(&mut stream, &head, b"hello").0.starts_with("HTTP/1.1 200 "));
    stage.control.process.kill();
    for _ in 0..500 {
        let (answer, body) = ask(&mut stream, &head, b"hello");
        assert!(answer.starts_with("HTTP/1.1 200 ") && body == b"hello", "{answer}");
    }
    assert_eq!(origin.seen().len(), 501);
}

/// Whether a request was answered by the origin, which says `ok`.
fn was_answered(stream: &mut (impl Read + Write), request: &str) -> bool {
    let mut answer = Vec::new();
    let asked = stream.write_all(request.as_bytes());
    while asked.is_ok() && !answer.ends_with(b"\r\n\r\nok") {
        let mut piece = [0; 1024];
        match stream.read(&mut piece) {
            Ok(count @ 1..) => answer.extend_from_slice(&piece[..count]),
            _ => return false,
        }
        if !answer.starts_with(b"HTTP/1.1 200 ") {
            return false;
        }
    }
    asked.is_ok()
}

#[test]
fn with_deny_the_lease_ends_what_is_open_and_refuses_what_is_new() {
    let origin = Origin::tls(&["origin.test"], |_, out| respond(out, b"ok"));
    let mut stage = Stage::set(&origin, 4);
    stage.control.put("templates/t", &deny_on_loss());
    let port = origin.address.port();
    let mut stream = stage.tls("origin.test", port);
    let request = format!("GET / HTTP/1.1\r\nHost: origin.test:{port}\r\n\r\n");
    assert!(ask(&mut stream, &request, b"").0.starts_with("HTTP/1.1 200 "));
    stage.control.process.kill();
    let killed = Instant::now();
    // Until the lease ends requests are answered; the one that it ends may be reset or refused.
    while was_answered(&mut stream, &request) {
        assert!(killed.elapsed() < LEASE * 4, "the lease never ended");
    }
    let mut stream = stage.tls("origin.test", port);
    let (head, body) = ask(&mut stream, &request, b"");
    let body = String::from_utf8(body).unwrap();
    assert!(head.starts_with("HTTP/1.1 503 ") && body.contains("lease_ended"), "{head} {body}");
    let seen = origin.seen().len();
    assert!(ask(&mut stream, &request, b"").0.starts_with("HTTP/1.1 503 "));
    assert_eq!(origin.seen().len(), seen, "what was refused did not reach the upstream");
    stage.control.restart();
    let back = Instant::now();
    while !ask(&mut stream, &request, b"").0.starts_with("HTTP/1.1 200 ") {
        assert!(back.elapsed() < LEASE * 10, "control came back, and nothing else did");
    }
}

#[test]
fn a_plane_that_was_stopped_past_its_lease_forwards_nothing_more() {
    let (more, wanted) = mpsc::channel::<()>();
    let wanted = Mutex::new(wanted);
    let origin = Origin::wire(&["origin.test"], move |stream: &mut dyn Duplex| {
        read_head(&mut &mut *stream);
        write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\nfirst")?;
        stream.flush()?;
        while wanted.lock().unwrap().recv().is_ok() {
            stream.write_all(b"second")?;
            stream.flush()?;
        }
        Ok(())
    });
    let mut stage = Stage::set(&origin, 2);
    stage.control.put("templates/t", &deny_on_loss());
    let port = origin.address.port();
    let mut stream = stage.tls("origin.test", port);
    write!(stream, "GET / HTTP/1.1\r\nHost: origin.test:{port}\r\n\r\n").unwrap();
    assert!(read_head(&mut stream).starts_with("HTTP/1.1 200 "));
    let mut first = [0; 5];
    stream.read_exact(&mut first).unwrap();
    stage.plane.process.signal(Signal::STOP);
    stage.control.process.kill();
    more.send(()).unwrap();
    let stopped = Instant::now();
    while stopped.elapsed() <= LEASE {
        std::thread::park_timeout(LEASE.saturating_sub(stopped.elapsed()));
    }
    stage.plane.process.signal(Signal::CONT);
    let mut rest = Vec::new();
    let end = stream.read_to_end(&mut rest);
    assert!(rest.is_empty(), "{:?} came after the lease", String::from_utf8_lossy(&rest));
    assert!(end.is_err(), "the stream was reset, not ended");
}

#[test]
fn killed_plane_is_started_again_and_serves_the_listeners_that_were_passed_to_it() {
    let folder = tempfile::tempdir().unwrap();
    let control = Control::with_plane(&folder.path().join("state"), "shards = 2\n");
    control.process.told("connected to control");
    control.put("templates/t", &json!({}));
    control.put("sandboxes/box", &json!({ "template": "t" }));
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let attach = Attach {
        sandbox: SANDBOX.into(),
        listeners: vec![ListenerSpec { kind: ListenerKind::Proxy }],
        ..Attach::default()
    };
    local(&control.plane_folder(), &Request::Attach(attach), &[listener.as_fd()]);
    drop(listener);
    let whoami = "GET http://outgate.internal/whoami HTTP/1.1\r\nHost: outgate.internal\r\n\r\n";
    let who = || {
        let mut socket = tests::client::socket(address);
        ask(&mut socket, whoami, b"")
    };
    assert!(String::from_utf8(who().1).unwrap().contains(SANDBOX));
    let before = child_of(control.process.pid()).unwrap();
    let pid = rustix::process::Pid::from_raw(before.cast_signed()).unwrap();
    rustix::process::kill_process(pid, Signal::KILL).unwrap();
    control.process.told("starting it again");
    // The kernel keeps the connection for whoever takes the listener over; until the policy is there, it refuses.
    let start = Instant::now();
    let after = loop {
        let (head, body) = who();
        let body = String::from_utf8(body).unwrap();
        if head.starts_with("HTTP/1.1 200 ") {
            break body;
        }
        assert!(body.contains("no_snapshot"), "{head} {body}");
        assert!(start.elapsed() < Duration::from_secs(20), "the plane did not come back");
    };
    assert!(after.contains(SANDBOX), "{after}");
    assert_ne!(child_of(control.process.pid()).unwrap(), before);
}
