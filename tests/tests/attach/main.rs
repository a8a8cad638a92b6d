//! Sandboxes that are attached by passed listeners: what the local socket promises, and what their connections get.

mod keeper;
mod names;

use std::{
    io::{self, Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::{fs::PermissionsExt, net::UnixStream},
    },
    path::PathBuf,
    sync::Arc,
};

use control::compile::sha256;
use control_wire::attach::{
    Attach, Client, ClientError, Detach, Done, Kept, KeptPlaces, List, ListenerKind, ListenerSpec, Password,
    Problem, Request, Share, Unshare, pair, receive, send,
};
use dataplane::{
    attach::{AttachError, Keeper, Server, start},
    listen::{
        socket::{bind_datagram, bind_listener},
        synthetic::is_synthetic,
    },
};
use rustls::StreamOwned;
use socket2::{Domain, Socket, Type};
use tests::{
    gateway::{Gateway, PATIENCE, SECRET, Tls, ask, both_ways, read_head, template},
    origin::{Origin, Seen, respond},
};

/// A plane with its local socket, an origin, and a listener that takes connections to any other loopback address on
/// the origin's port, as one in a sandbox's namespace would.
struct Place {
    gateway: Gateway,
    server: Option<Server>,
    origin: Origin,
    captured: Option<TcpListener>,
    socket: PathBuf,
    _folder: tempfile::TempDir,
}

impl Place {
    fn new(shards: usize) -> Self {
        Self::with(shards, |seen, out| respond(out, &seen.body))
    }

    fn with(
        shards: usize,
        script: impl Fn(&Seen, &mut dyn Write) -> io::Result<()> + Send + Sync + 'static,
    ) -> Self {
        let captured = TcpListener::from(bind_listener(([0, 0, 0, 0], 0).into()).unwrap());
        let port = captured.local_addr().unwrap().port();
        // The more specific of two sockets on one port gets the connection.
        let listener = TcpListener::from(bind_listener(([127, 0, 0, 1], port).into()).unwrap());
        listener.set_nonblocking(false).unwrap();
        let origin = Origin::tls_on(listener, &["origin.test"], script);
        let gateway = Gateway::start(shards, &origin);
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("attach.sock");
        let server = Some(start(&socket, Arc::clone(&gateway.shards), None).unwrap());
        Self { gateway, server, origin, captured: Some(captured), socket, _folder: folder }
    }

    fn port(&self) -> u16 {
        self.origin.address.port()
    }

    fn client(&self) -> Client {
        Client::connect(&self.socket, PATIENCE).unwrap()
    }

    fn attach(&self, sandbox: &str, listeners: &[(ListenerKind, BorrowedFd<'_>)]) -> Result<Done, Problem> {
        let specs = listeners.iter().map(|(kind, _)| ListenerSpec { kind: *kind }).collect();
        let descriptors: Vec<_> = listeners.iter().map(|(_, descriptor)| *descriptor).collect();
        let request = Attach { sandbox: sandbox.into(), listeners: specs, ..Attach::default() };
        call(&mut self.client(), &Request::Attach(request), &descriptors)
    }

    fn attach_captured(&self, sandbox: &str) -> Result<Done, Problem> {
        self.attach(sandbox, &[(ListenerKind::Transparent, self.captured())])
    }

    fn captured(&self) -> BorrowedFd<'_> {
        self.captured.as_ref().unwrap().as_fd()
    }

    fn detach(&self, sandbox: &str) -> Result<Done, Problem> {
        call(&mut self.client(), &Request::Detach(Detach { sandbox: sandbox.into() }), &[])
    }

    fn attached(&self) -> Vec<String> {
        let listed = call(&mut self.client(), &Request::List(List::default()), &[]).unwrap();
        listed.attached.unwrap().into_iter().map(|attached| attached.sandbox).collect()
    }

    /// A connection that is captured on its way to an address.
    fn dial(&self, to: Ipv4Addr) -> TcpStream {
        let socket = TcpStream::connect(SocketAddr::from((to, self.port()))).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket
    }

    fn tls(&self, to: Ipv4Addr, name: &str) -> Tls {
        StreamOwned::new(self.gateway.client("box", name, &[]), self.dial(to))
    }

    fn get(&self, host: &str) -> String {
        format!("GET / HTTP/1.1\r\nHost: {host}:{}\r\n\r\n", self.port())
    }
}

/// Asks for a transparent listener alone.
fn captured_as(sandbox: &str) -> Request {
    let listeners = vec![ListenerSpec { kind: ListenerKind::Transparent }];
    Request::Attach(Attach { sandbox: sandbox.into(), listeners, ..Attach::default() })
}

fn call(client: &mut Client, request: &Request, descriptors: &[BorrowedFd<'_>]) -> Result<Done, Problem> {
    client.call(request, descriptors).map_err(|error| match error {
        ClientError::Refused(problem) => problem,
        other => panic!("{other}: {:?}", std::error::Error::source(&other)),
    })
}

const ELSEWHERE: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);

#[test]
fn captured_connections_are_the_sandbox_s_of_the_listener() {
    both_ways(|shards| {
        let place = Place::new(shards);
        let done = place.attach_captured("box").unwrap();
        assert!(done.revision.is_some_and(|revision| revision > 0));
        let mut stream = place.tls(ELSEWHERE, "origin.test");
        let (head, _) = ask(&mut stream, &place.get("origin.test"), b"");
        assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
        let seen = place.origin.wait_for(1);
        assert_eq!(seen[0].fields("authorization").collect::<Vec<_>>(), [format!("Bearer {SECRET}")]);
        let mut refused = place.tls(ELSEWHERE, "other.test");
        let (head, _) = ask(&mut refused, &place.get("other.test"), b"");
        assert!(head.starts_with("HTTP/1.1 403 "), "{head}");
        assert_eq!(place.origin.seen().len(), 1);
        drop((stream, refused));
        let records = place.gateway.records(2);
        assert!(records.iter().all(|record| record["sandbox"] == "box"), "{records:#?}");
    });
}

#[test]
fn detaching_ends_idle_and_running_connections_and_takes_no_more() {
    both_ways(|shards| {
        let mut place = Place::new(shards);
        place.attach_captured("box").unwrap();
        let mut idle = place.tls(ELSEWHERE, "origin.test");
        assert!(ask(&mut idle, &place.get("origin.test"), b"").0.starts_with("HTTP/1.1 200 "));
        let mut silent = place.dial(ELSEWHERE);
        // Behind this answer the silent connection, accepted before it, is being served.
        let mut later = place.tls(ELSEWHERE, "origin.test");
        assert!(ask(&mut later, &place.get("origin.test"), b"").0.starts_with("HTTP/1.1 200 "));

        assert_eq!(place.detach("box").unwrap().ended, Some(3));
        assert!(idle.sock.read(&mut [0; 64]).is_err(), "reset");
        assert!(later.sock.read(&mut [0; 64]).is_err(), "reset");
        assert!(silent.read(&mut [0; 64]).is_err(), "reset");
        assert!(place.attached().is_empty());
        // The kernel still takes connections for the test, which holds the listener too; its end is theirs.
        let mut after = place.dial(ELSEWHERE);
        drop(place.captured.take());
        let ended = after.read(&mut [0; 64]);
        let waited = ended.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock);
        assert!(!waited && !matches!(ended, Ok(1..)), "nobody serves it: {ended:?}");
        assert_eq!(place.origin.seen().len(), 2);
        assert_eq!(place.detach("box").unwrap().ended, Some(0), "again is no fault");
    });
}

#[test]
fn detaching_cuts_a_stream_that_is_under_way() {
    both_ways(|shards| {
        let place = Place::with(shards, |_, out| {
            write!(out, "HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\nfirst")?;
            out.flush()
        });
        place.attach_captured("box").unwrap();
        let mut stream = place.tls(ELSEWHERE, "origin.test");
        stream.write_all(place.get("origin.test").as_bytes()).unwrap();
        assert!(read_head(&mut stream).starts_with("HTTP/1.1 200 "));
        let mut first = [0; 5];
        stream.read_exact(&mut first).unwrap();
        place.detach("box").unwrap();
        let after = stream.sock.read(&mut [0; 64]);
        assert!(after.is_err(), "the stream was reset, not ended: {after:?}");
        drop(stream);
        let records = place.gateway.records(1);
        assert!(records[0]["verdict"] == "cut" || records[0]["verdict"] == "broken", "{records:#?}");
    });
}

#[test]
fn attaching_again_replaces_and_keeps_what_runs() {
    both_ways(|shards| {
        let place = Place::new(shards);
        place.attach_captured("box").unwrap();
        let mut before = place.tls(ELSEWHERE, "origin.test");
        assert!(ask(&mut before, &place.get("origin.test"), b"").0.starts_with("HTTP/1.1 200 "));
        place.attach_captured("box").unwrap();
        let mut after = place.tls(ELSEWHERE, "origin.test");
        assert!(ask(&mut after, &place.get("origin.test"), b"").0.starts_with("HTTP/1.1 200 "));
        assert!(ask(&mut before, &place.get("origin.test"), b"").0.starts_with("HTTP/1.1 200 "));
        assert_eq!(place.attached(), ["box"]);
        drop((before, after));
        place.gateway.records(3);
    });
}

/// Two accepts on one socket took each other's wake-ups: the kernel woke the one that was leaving, and a connection
/// that came at that moment stayed in the backlog until the next one came. Now the one before has left before the next
/// begins.
#[test]
fn no_connection_is_forgotten_while_a_listener_is_replaced() {
    both_ways(|shards| {
        let place = Place::new(shards);
        place.attach_captured("box").unwrap();
        let (socket, captured) = (place.socket.clone(), place.captured().try_clone_to_owned().unwrap());
        let replacing = std::thread::spawn(move || {
            let mut client = Client::connect(&socket, PATIENCE).unwrap();
            for _ in 0..40 {
                call(&mut client, &captured_as("box"), &[captured.as_fd()]).unwrap();
            }
        });
        while !replacing.is_finished() {
            let mut socket = place.dial(ELSEWHERE);
            let (head, _) = ask(&mut socket, &place.get("other.test"), b"");
            assert!(head.starts_with("HTTP/1.1 403 "), "{head}");
        }
        replacing.join().unwrap();
    });
}

#[test]
fn attachment_waits_for_the_policy_and_leaves_nothing_when_it_does_not_come() {
    let place = Place::new(4);
    let refused = place.attach_captured("stranger").unwrap_err();
    assert_eq!(refused.code, "policy_missing");
    assert!(
        refused.detail.contains("stranger") && refused.remedy.contains("create the sandbox"),
        "{refused}"
    );
    assert!(place.attached().is_empty());
    assert_eq!(place.origin.connections(), 0);
}

#[test]
fn attachment_is_answered_when_the_policy_arrives() {
    let mut place = Place::new(4);
    let (socket, captured) = (place.socket.clone(), place.captured().try_clone_to_owned().unwrap());
    let waiting = std::thread::spawn(move || {
        let mut client = Client::connect(&socket, PATIENCE).unwrap();
        call(&mut client, &captured_as("late"), &[captured.as_fd()]).unwrap().revision
    });
    place.gateway.add_sandbox("late", "password", "t");
    let revision = waiting.join().unwrap();
    assert_eq!(place.attached(), ["late"]);
    assert!(revision.is_some_and(|revision| revision >= 3), "{revision:?}");
}

#[test]
fn descriptors_that_are_no_listeners_are_refused_by_name_and_nothing_is_attached() {
    let place = Place::new(2);
    let connected = TcpStream::connect(place.origin.address).unwrap();
    let cases = [
        (ListenerKind::Transparent, connected.as_fd(), "listen()"),
        (ListenerKind::DnsUdp, place.captured(), "UDP"),
    ];
    for (kind, descriptor, needed) in cases {
        let good = (ListenerKind::Transparent, place.captured());
        let refused = place.attach("box", &[good, (kind, descriptor)]).unwrap_err();
        assert_eq!(refused.code, "listener");
        assert!(refused.detail.contains("listener 1") && refused.detail.contains(needed), "{refused}");
    }
    let attach = Attach {
        sandbox: "box".into(),
        listeners: vec![ListenerSpec { kind: ListenerKind::Transparent }],
        ..Attach::default()
    };
    let refused = call(&mut place.client(), &Request::Attach(attach), &[]).unwrap_err();
    assert_eq!(refused.code, "descriptors");
    assert!(place.attached().is_empty());
}

#[test]
fn lines_that_are_no_requests_are_told_why() {
    let place = Place::new(1);
    for (line, hint) in [
        ("{\"op\":\"attach\",\"sandbox\":\"box\",\"listener\":[]}\n", "listener"),
        ("not json\n", "expected"),
        ("{\"op\":\"list\"}\n{\"op\":\"list\"}\n", "wait for the answer"),
    ] {
        let mut socket = UnixStream::connect(&place.socket).unwrap();
        socket.write_all(line.as_bytes()).unwrap();
        let mut answer = String::new();
        while !answer.ends_with('\n') {
            let mut piece = [0; 1024];
            let count = socket.read(&mut piece).unwrap();
            assert!(count > 0, "{answer}");
            answer.push_str(std::str::from_utf8(&piece[..count]).unwrap());
        }
        let problem: Problem = serde_json::from_str(&answer).unwrap();
        assert_eq!(problem.code, "malformed", "{answer}");
        assert!(answer.contains(hint), "{answer}");
    }
}

#[test]
fn sandboxes_do_not_share_an_address_and_the_plane_makes_passwords() {
    let mut place = Place::new(2);
    place.gateway.add_sandbox("other", "password", "t");
    let mut client = place.client();
    let ask_for = |sandbox: &str| {
        let sources = vec!["10.9.8.7/32".parse().unwrap()];
        Request::Attach(Attach { sandbox: sandbox.into(), sources, proxy: true, ..Attach::default() })
    };
    let done = call(&mut client, &ask_for("box"), &[]).unwrap();
    let password = done.proxy_password.unwrap();
    assert!(password.expose().len() >= 40);
    let refused = call(&mut client, &ask_for("other"), &[]).unwrap_err();
    assert_eq!(refused.code, "taken");
    assert_eq!(place.attached(), ["box"]);
    let credentials = format!("box:{}", password.expose());
    drop(place.gateway.tunnel_as(&credentials, "origin.test", place.port()));
    place.detach("box").unwrap();
    call(&mut client, &ask_for("other"), &[]).unwrap();
    assert_eq!(place.attached(), ["other"]);
}

#[test]
fn socket_is_the_owner_s_and_a_living_plane_keeps_it() {
    let mut place = Place::new(1);
    let mode = std::fs::metadata(&place.socket).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let again = start(&place.socket, Arc::clone(&place.gateway.shards), None);
    assert!(matches!(again, Err(AttachError::InUse { .. })));
    // A plane that was killed leaves its file behind.
    let left = place.socket.with_file_name("left.sock");
    drop(std::os::unix::net::UnixListener::bind(&left).unwrap());
    drop(start(&left, Arc::clone(&place.gateway.shards), None).unwrap());
    assert!(!left.exists());
    std::fs::write(&left, "a file").unwrap();
    let refused = start(&left, Arc::clone(&place.gateway.shards), None);
    assert!(matches!(refused, Err(AttachError::NoSocket { .. })));
    place.server = None;
    assert!(!place.socket.exists());
}

/// The head of the answer that a client at this source address gets over TLS, captured; `None` where it is cut.
fn ask_from(place: &Place, source: [u8; 4], sandbox: &str, host: &str) -> Option<String> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket.bind(&SocketAddr::from((source, 0)).into()).unwrap();
    socket.connect(&SocketAddr::from((ELSEWHERE, place.port())).into()).unwrap();
    let mut stream = StreamOwned::new(place.gateway.client(sandbox, host, &[]), TcpStream::from(socket));
    stream.write_all(place.get(host).as_bytes()).ok()?;
    Some(read_head(&mut stream))
}

#[test]
fn listener_of_many_tells_sandboxes_apart_by_where_they_come_from() {
    both_ways(|shards| {
        let mut place = Place::new(shards);
        place.gateway.apply(vec![template("closed", r#"{"enableInternet":false}"#)]);
        for (number, name) in (11..).zip(["one", "two", "three"]) {
            place.gateway.add_sandbox(name, "password", if name == "two" { "closed" } else { "t" });
            let sources = vec![format!("127.0.0.{number}/32").parse().unwrap()];
            let attach = Attach { sandbox: name.into(), sources, ..Attach::default() };
            call(&mut place.client(), &Request::Attach(attach), &[]).unwrap();
        }
        let listeners = vec![ListenerSpec { kind: ListenerKind::Transparent }];
        let share = Request::Share(Share { name: "host".into(), listeners });
        for _ in 0..2 {
            call(&mut place.client(), &share, &[place.captured()]).unwrap();
        }
        for (number, name, status) in [(11, "one", "200"), (12, "two", "403"), (13, "three", "200")] {
            let head = ask_from(&place, [127, 0, 0, number], name, "origin.test").expect("an answer");
            assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{name}: {head}");
        }
        assert_eq!(place.origin.wait_for(2).len(), 2);
        assert_eq!(ask_from(&place, [127, 0, 0, 14], "one", "origin.test"), None, "a stranger is cut");
        assert_eq!(place.origin.connections(), place.origin.seen().len());

        let records = place.gateway.recorded(4);
        let mut whose: Vec<_> = records.iter().map(|record| record["sandbox"].as_str()).collect();
        whose.sort_unstable();
        assert_eq!(whose, [None, Some("one"), Some("three"), Some("two")]);
        let unshare = Request::Unshare(Unshare { name: "host".into() });
        call(&mut place.client(), &unshare, &[]).unwrap();
        let listed = call(&mut place.client(), &Request::List(List::default()), &[]).unwrap();
        assert_eq!(listed.shared, Some(Vec::new()));
    });
}
