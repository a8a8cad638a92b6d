//! Processes that die, stop or come back: what goes on, what is refused, and what nobody may miss.

use std::{
    collections::HashSet,
    io::{Read, Write},
    net::TcpListener,
    os::fd::AsFd,
    sync::{Mutex, mpsc},
    thread,
    time::{Duration, Instant},
};

use control_wire::attach::{Attach, ListenerKind, ListenerSpec, Request};
use rustix::process::Signal;
use serde_json::{Value, json};
use tests::{
    gateway::{Tls, ask, read_head},
    origin::{Duplex, Origin, respond},
    process::{Control, child_of, local},
    stage::{SANDBOX, Stage, policy},
};

const LEASE: Duration = Duration::from_secs(2);
/// How long the load goes on.
const LOAD: Duration = Duration::from_secs(60);
/// What the origin takes for an answer. This sets the pace of the load, so that tests beside it have their cores.
const PACE: Duration = Duration::from_millis(100);
/// Clients that keep their connection.
const KEPT_CONNECTIONS: usize = 16;
/// Clients that open one for each request.
const ANEW: usize = 4;

fn deny_on_loss() -> Value {
    let mut policy = policy(&["origin.test"]);
    policy["onControlLoss"] = json!("deny");
    policy["leaseMs"] = json!(LEASE.as_millis());
    policy
}

/// Asks one client's requests, each with a word of its own, until the load ends; how many it asked.
fn load(client: usize, begun: Instant, mut ask: impl FnMut(&str) -> (String, Vec<u8>)) -> usize {
    let mut asked = 0;
    while begun.elapsed() < LOAD {
        let word = format!("{client}-{asked}");
        let (answer, body) = ask(&word);
        let answered = answer.starts_with("HTTP/1.1 200 ") && body == word.as_bytes();
        assert!(answered, "{word} after {:?}: {answer}", begun.elapsed());
        asked += 1;
    }
    asked
}

#[test]
fn with_keep_a_minute_of_load_loses_nothing_while_control_is_killed_in_its_middle() {
    let origin = Origin::tls(&["origin.test"], |seen, out| {
        thread::sleep(PACE);
        respond(out, &seen.body)
    });
    let mut stage = Stage::set(&origin, 4);
    let port = origin.address.port();
    let request = |stream: &mut Tls, word: &str| {
        let length = word.len();
        let head =
            format!("POST /{word} HTTP/1.1\r\nHost: origin.test:{port}\r\nContent-Length: {length}\r\n\r\n");
        ask(stream, &head, word.as_bytes())
    };
    let begun = Instant::now();
    let (asked, before) = thread::scope(|scope| {
        let (stage, request) = (&stage, &request);
        let open = move || stage.tls("origin.test", port);
        let kept = (0..KEPT_CONNECTIONS).map(|client| {
            scope.spawn(move || {
                let mut stream = open();
                load(client, begun, |word| request(&mut stream, word))
            })
        });
        let anew = (KEPT_CONNECTIONS..KEPT_CONNECTIONS + ANEW)
            .map(|client| scope.spawn(move || load(client, begun, |word| request(&mut open(), word))));
        let clients: Vec<_> = kept.chain(anew).collect();
        while begun.elapsed() < LOAD / 2 {
            thread::park_timeout((LOAD / 2).saturating_sub(begun.elapsed()));
        }
        stage.control.process.signal(Signal::KILL);
        let before = origin.seen().len();
        let asked = clients.into_iter().map(|client| client.join().expect("a client lost nothing"));
        (asked.sum::<usize>(), before)
    });
    assert!(!stage.control.process.ended(), "control was killed");
    let seen: Vec<_> = origin.seen().into_iter().map(|seen| seen.body).collect();
    let different: HashSet<_> = seen.iter().collect();
    assert_eq!((seen.len(), different.len()), (asked, asked), "each came to the origin, and came once");
    // With time for the machine to be slow: a load that stood still would prove nothing.
    let least = KEPT_CONNECTIONS * 60;
    assert!(before > least && asked - before > least, "{before} of {asked} before control was killed");
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
        thread::park_timeout(LEASE.saturating_sub(stopped.elapsed()));
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
