//! Which of a host's addresses a request goes to: the first that connects, whatever the others do.

use std::{
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    time::{Duration, Instant},
};

use socket2::{Domain, Socket, Type};
use tests::{
    gateway::{Gateway, ask, template},
    origin::{Origin, respond},
};

const POLICY: &str = r#"{"allowedHosts":["origin.test"],
    "allowedAddresses":[{"host":"origin.test","cidrs":["127.0.0.0/8","::1/128"]}]}"#;

/// An origin at this address.
fn origin_at(address: &str) -> Origin {
    let address: IpAddr = address.parse().expect("an address");
    let listener = TcpListener::bind((address, 0)).expect("loopback can be bound");
    Origin::tls_on(listener, &["origin.test"], |_, out| respond(out, b"page"))
}

/// Asks for a page of a host that has these addresses, and gives the address that the record tells.
fn reached(origin: &Origin, addresses: &[&str]) -> SocketAddr {
    let hosts: String = addresses.iter().map(|address| format!("{address} origin.test\n")).collect();
    let mut gateway = Gateway::start_where(1, origin, &hosts);
    gateway.apply(vec![template("t", POLICY)]);
    let port = origin.address.port();
    let mut stream = gateway.tls("origin.test", port);
    let (head, body) = ask(&mut stream, &format!("GET / HTTP/1.1\r\nHost: origin.test:{port}\r\n\r\n"), b"");
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}{}", String::from_utf8_lossy(&body));
    drop(stream);
    gateway.records(1)[0]["address"].as_str().expect("where it went").parse().expect("an address")
}

/// A port that answers nobody: its queue is full. It stays so for as long as what is given lives.
fn silent_at(address: SocketAddr) -> (Socket, Vec<Socket>) {
    let listener = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    listener.bind(&address.into()).expect("loopback can be bound");
    listener.listen(0).expect("a bound socket listens");
    let fill = || {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        socket.set_nonblocking(true).expect("an option");
        let _under_way = socket.connect(&address.into());
        socket
    };
    let filling = (0..4).map(|_| fill()).collect();
    let nobody = TcpStream::connect_timeout(&address, Duration::from_millis(100));
    assert!(nobody.is_err(), "it answers");
    (listener, filling)
}

#[test]
fn an_address_that_refuses_is_passed_over_in_both_families() {
    for (own, order) in [
        ("127.0.0.1", ["127.0.0.2", "127.0.0.1"].as_slice()),
        ("::1", &["127.0.0.2", "127.0.0.3", "::1"]),
        ("127.0.0.1", &["::1", "127.0.0.1"]),
    ] {
        let origin = origin_at(own);
        assert_eq!(reached(&origin, order), origin.address, "{order:?}");
        assert_eq!(origin.connections(), 1);
    }
}

#[test]
fn addresses_that_are_silent_do_not_hold_back_the_one_that_answers() {
    let origin = origin_at("127.0.0.1");
    let port = origin.address.port();
    let _silent = ["127.0.0.2", "127.0.0.3"]
        .map(|address| silent_at(SocketAddr::new(address.parse().expect("an address"), port)));
    let begun = Instant::now();
    assert_eq!(reached(&origin, &["127.0.0.2", "127.0.0.3", "127.0.0.1"]), origin.address);
    // One after the other, each would have been waited for 5 seconds.
    assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
}

#[test]
fn an_address_whose_tls_is_cut_off_is_passed_over() {
    let origin = origin_at("127.0.0.1");
    let port = origin.address.port();
    let cutting = TcpListener::bind(("127.0.0.2", port)).expect("loopback can be bound");
    std::thread::spawn(move || while cutting.accept().is_ok() {});
    assert_eq!(reached(&origin, &["127.0.0.2", "127.0.0.1"]), origin.address);
}
