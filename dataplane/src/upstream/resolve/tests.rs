//! The resolver against scripted name servers on the loopback.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;

use futures_lite::future::{block_on, yield_now, zip};
use hickory_proto::op::{Message, MessageType, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, SOA};
use hickory_proto::rr::{Name, RData, Record, RecordType};

use super::*;

/// Blocking sockets behind the seam; each wait lets other tasks run once.
struct Blocking;

impl Transport for Blocking {
    type Datagram = UdpSocket;

    fn datagram(&self, server: SocketAddr) -> io::Result<UdpSocket> {
        let socket = UdpSocket::bind("127.0.0.1:0")?;
        socket.connect(server)?;
        socket.set_read_timeout(Some(Duration::from_millis(300)))?;
        Ok(socket)
    }

    async fn exchange(&self, server: SocketAddr, query: &[u8]) -> io::Result<Vec<u8>> {
        let mut stream = TcpStream::connect(server)?;
        stream.write_all(&(query.len() as u16).to_be_bytes())?;
        stream.write_all(query)?;
        let mut length = [0; 2];
        stream.read_exact(&mut length)?;
        let mut answer = vec![0; u16::from_be_bytes(length).into()];
        stream.read_exact(&mut answer)?;
        Ok(answer)
    }

    async fn within<F: Future>(&self, _: Duration, future: F) -> Option<F::Output> {
        Some(future.await)
    }

    fn now(&self) -> Instant {
        Instant::now()
    }
}

impl Datagram for UdpSocket {
    async fn send(&self, bytes: &[u8]) -> io::Result<()> {
        yield_now().await;
        UdpSocket::send(self, bytes).map(drop)
    }

    async fn receive(&self) -> io::Result<Vec<u8>> {
        yield_now().await;
        let mut bytes = vec![0; 4_096];
        let count = self.recv(&mut bytes)?;
        bytes.truncate(count);
        Ok(bytes)
    }
}

/// A name server whose answers a script makes from each query; it ends with the test's process.
struct Server {
    address: SocketAddr,
    asked: Arc<AtomicUsize>,
    sources: mpsc::Receiver<(u16, SocketAddr)>,
}

fn serve(script: impl Fn(&UdpSocket, SocketAddr, Message) + Send + 'static) -> Server {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    let asked = Arc::new(AtomicUsize::new(0));
    let (told, sources) = mpsc::channel();
    let count = asked.clone();
    thread::spawn(move || {
        let mut bytes = [0; 4_096];
        while let Ok((length, from)) = socket.recv_from(&mut bytes) {
            let query = Message::from_vec(&bytes[..length]).unwrap();
            count.fetch_add(1, Ordering::SeqCst);
            let _ = told.send((query.metadata.id, from));
            script(&socket, from, query);
        }
    });
    Server { address, asked, sources }
}

fn good(query: &Message) -> Message {
    let mut answer = query.clone();
    answer.metadata.message_type = MessageType::Response;
    let name = query.queries[0].name.clone();
    let data = match query.queries[0].query_type {
        RecordType::A => RData::A(A([93, 184, 216, 34].into())),
        _ => RData::AAAA(AAAA("2606:2800::1".parse().unwrap())),
    };
    answer.add_answer(Record::from_rdata(name, 60, data));
    answer
}

fn bytes(message: &Message) -> Vec<u8> {
    message.to_vec().unwrap()
}

fn resolver(servers: &[SocketAddr]) -> Resolver<Blocking> {
    let settings = Settings { name_servers: servers.to_vec(), hosts_file: "/nonexistent/hosts".into() };
    Resolver::new(&settings, Blocking).unwrap()
}

fn both() -> Vec<IpAddr> {
    vec!["93.184.216.34".parse().unwrap(), "2606:2800::1".parse().unwrap()]
}

#[test]
fn both_families_are_asked_once_and_remembered() {
    let server = serve(|socket, from, query| drop(socket.send_to(&bytes(&good(&query)), from)));
    let resolver = resolver(&[server.address]);
    for _ in 0..3 {
        assert_eq!(&*block_on(resolver.resolve("example.com")).unwrap(), both());
    }
    assert_eq!(server.asked.load(Ordering::SeqCst), 2);
}

#[test]
fn whoever_asks_for_a_name_under_way_waits_for_it() {
    let server = serve(|socket, from, query| drop(socket.send_to(&bytes(&good(&query)), from)));
    let resolver = resolver(&[server.address]);
    let (one, two) = block_on(zip(resolver.resolve("example.com"), resolver.resolve("example.com")));
    assert_eq!(one.unwrap(), two.unwrap());
    assert_eq!(server.asked.load(Ordering::SeqCst), 2, "one query per family");
    assert!(resolver.flights.borrow().is_empty());
}

#[test]
fn a_dropped_look_up_is_taken_over_by_one_that_waits() {
    let server = serve(|socket, from, query| drop(socket.send_to(&bytes(&good(&query)), from)));
    let resolver = resolver(&[server.address]);
    let mut first = Box::pin(resolver.resolve("example.com"));
    let mut second = Box::pin(resolver.resolve("example.com"));
    block_on(async {
        assert!(futures_lite::future::poll_once(&mut first).await.is_none());
        assert!(futures_lite::future::poll_once(&mut second).await.is_none());
        drop(first);
        assert_eq!(&*second.await.unwrap(), both());
    });
}

#[test]
fn forged_answers_are_passed_over() {
    let server = serve(|socket, from, query| {
        let mut evil = good(&query);
        evil.answers[0].data = RData::A(A([6, 6, 6, 6].into()));
        let stranger = UdpSocket::bind("127.0.0.1:0").unwrap();
        stranger.send_to(&bytes(&evil), from).unwrap();
        let mut wrong_id = evil.clone();
        wrong_id.metadata.id = wrong_id.metadata.id.wrapping_add(1);
        let mut wrong_question = evil.clone();
        wrong_question.queries[0].name = Name::from_ascii("evil.example.").unwrap();
        for forged in [wrong_id, wrong_question] {
            socket.send_to(&bytes(&forged), from).unwrap();
        }
        socket.send_to(b"noise", from).unwrap();
        socket.send_to(&bytes(&good(&query)), from).unwrap();
    });
    assert_eq!(&*block_on(resolver(&[server.address]).resolve("example.com")).unwrap(), both());
}

#[test]
fn a_flood_of_forgeries_ends_the_try() {
    let server = serve(|socket, from, query| {
        for number in 1..=WRONG_ANSWERS_MAX as u16 + 4 {
            let mut forged = good(&query);
            forged.metadata.id = forged.metadata.id.wrapping_add(number);
            let _ = socket.send_to(&bytes(&forged), from);
        }
    });
    let refused = block_on(resolver(&[server.address]).resolve("example.com")).unwrap_err();
    assert_eq!(refused, ResolveError::Unanswered { host: "example.com".into(), last: Failure::Forged });
}

#[test]
fn every_query_has_an_identifier_and_a_port_of_its_own() {
    let server = serve(|socket, from, query| drop(socket.send_to(&bytes(&good(&query)), from)));
    let resolver = resolver(&[server.address]);
    for number in 0..8 {
        block_on(resolver.resolve(&format!("n{number}.example"))).unwrap();
    }
    let seen: Vec<(u16, SocketAddr)> = server.sources.try_iter().collect();
    let ids: std::collections::HashSet<u16> = seen.iter().map(|(id, _)| *id).collect();
    let ports: std::collections::HashSet<u16> = seen.iter().map(|(_, from)| from.port()).collect();
    assert_eq!(seen.len(), 16);
    assert!(ids.len() >= 15 && ports.len() >= 8, "{seen:?}");
}

#[test]
fn a_cut_answer_is_asked_for_again_over_tcp() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let socket = UdpSocket::bind(address).unwrap();
    thread::spawn(move || {
        let mut bytes = [0; 4_096];
        while let Ok((length, from)) = socket.recv_from(&mut bytes) {
            let mut cut = Message::from_vec(&bytes[..length]).unwrap();
            cut.metadata.message_type = MessageType::Response;
            cut.metadata.truncation = true;
            socket.send_to(&cut.to_vec().unwrap(), from).unwrap();
        }
    });
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut length = [0; 2];
            stream.read_exact(&mut length).unwrap();
            let mut query = vec![0; u16::from_be_bytes(length).into()];
            stream.read_exact(&mut query).unwrap();
            let answer = bytes(&good(&Message::from_vec(&query).unwrap()));
            stream.write_all(&(answer.len() as u16).to_be_bytes()).unwrap();
            stream.write_all(&answer).unwrap();
        }
    });
    assert_eq!(&*block_on(resolver(&[address]).resolve("example.com")).unwrap(), both());
}

#[test]
fn the_next_server_is_asked_where_one_fails_or_is_gone() {
    let gone = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let failing = serve(|socket, from, mut query| {
        query.metadata.message_type = MessageType::Response;
        query.metadata.response_code = ResponseCode::ServFail;
        let _ = socket.send_to(&bytes(&query), from);
    });
    let server = serve(|socket, from, query| drop(socket.send_to(&bytes(&good(&query)), from)));
    let resolver = resolver(&[gone, failing.address, server.address]);
    assert_eq!(&*block_on(resolver.resolve("example.com")).unwrap(), both());
    assert_eq!(failing.asked.load(Ordering::SeqCst), 2);
}

#[test]
fn a_missing_name_is_remembered() {
    let missing = serve(|socket, from, mut query| {
        query.metadata.message_type = MessageType::Response;
        query.metadata.response_code = ResponseCode::NXDomain;
        let soa = SOA::new(Name::root(), Name::root(), 1, 1, 1, 1, 60);
        query.add_authority(Record::from_rdata(Name::root(), 60, RData::SOA(soa)));
        let _ = socket.send_to(&bytes(&query), from);
    });
    let resolver = resolver(&[missing.address]);
    for _ in 0..3 {
        let refused = block_on(resolver.resolve("none.example")).unwrap_err();
        assert_eq!(refused, ResolveError::NoSuchName { host: "none.example".into() });
    }
    assert_eq!(missing.asked.load(Ordering::SeqCst), 2);
    assert_eq!(resolver.cache.borrow().len(), 1);
}

#[test]
fn a_name_without_addresses_is_remembered_as_such() {
    let bare = serve(|socket, from, mut query| {
        query.metadata.message_type = MessageType::Response;
        let soa = SOA::new(Name::root(), Name::root(), 1, 1, 1, 1, 60);
        query.add_authority(Record::from_rdata(Name::root(), 60, RData::SOA(soa)));
        let _ = socket.send_to(&bytes(&query), from);
    });
    let resolver = resolver(&[bare.address]);
    for _ in 0..3 {
        let refused = block_on(resolver.resolve("bare.example")).unwrap_err();
        assert_eq!(refused, ResolveError::NoAddress { host: "bare.example".into() });
    }
    assert_eq!(bare.asked.load(Ordering::SeqCst), 2, "once for each family");
}

#[test]
fn a_failure_is_remembered_for_a_moment_so_that_a_flood_asks_once() {
    let failing = serve(|socket, from, mut query| {
        query.metadata.message_type = MessageType::Response;
        query.metadata.response_code = ResponseCode::ServFail;
        let _ = socket.send_to(&bytes(&query), from);
    });
    let resolver = resolver(&[failing.address]);
    for _ in 0..50 {
        let refused = block_on(resolver.resolve("broken.example")).unwrap_err();
        assert!(matches!(refused, ResolveError::Unanswered { last: Failure::Code(_), .. }), "{refused}");
    }
    assert_eq!(failing.asked.load(Ordering::SeqCst), 4, "twice for each family");
}

#[test]
fn addresses_special_names_and_the_hosts_file_need_no_server() {
    let folder = tempfile::tempdir().unwrap();
    let hosts_file = folder.path().join("hosts");
    std::fs::write(&hosts_file, "127.0.0.9 origin.test\n").unwrap();
    let resolver = Resolver::new(&Settings { name_servers: Vec::new(), hosts_file }, Blocking).unwrap();
    let find = |host: &str| block_on(resolver.resolve(host)).map(|found| found[0].to_string());
    assert_eq!(find("origin.test").unwrap(), "127.0.0.9");
    assert_eq!(find("1.2.3.4").unwrap(), "1.2.3.4");
    assert_eq!(find("a.localhost").unwrap(), "127.0.0.1");
    assert!(matches!(find("x.onion"), Err(ResolveError::NoSuchName { .. })));
    assert!(matches!(find("outgate.internal"), Err(ResolveError::NoSuchName { .. })));
    assert!(matches!(find("example.com"), Err(ResolveError::NoServers { .. })));
}
