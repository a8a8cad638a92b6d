//! Names that a listener answers for its sandbox.

use super::*;

#[test]
fn names_are_not_answered_for_many() {
    let place = Place::new(1);
    let socket = bind_datagram(([127, 0, 0, 1], 0).into()).unwrap();
    let listeners = vec![ListenerSpec { kind: ListenerKind::DnsUdp }];
    let share = Request::Share(Share { name: "host".into(), listeners });
    let refused = call(&mut place.client(), &share, &[socket.as_fd()]).unwrap_err();
    assert_eq!(refused.code, "listener");
}

/// A query for the address of a name, with identifier 7.
fn query(name: &str) -> Vec<u8> {
    let mut message = vec![0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        message.push(u8::try_from(label.len()).unwrap());
        message.extend_from_slice(label.as_bytes());
    }
    message.extend_from_slice(&[0, 0, 1, 0, 1]);
    message
}

/// The address at the end of an answer with one record.
fn address(answer: &[u8]) -> Ipv4Addr {
    assert_eq!((answer[1], answer[3] & 15, answer[7]), (7, 0, 1), "{answer:?}");
    Ipv4Addr::from(<[u8; 4]>::try_from(&answer[answer.len() - 4..]).unwrap())
}

/// A sandbox that asks for names over UDP and TCP.
fn with_names(shards: usize) -> (Place, SocketAddr, SocketAddr) {
    let place = Place::new(shards);
    let datagrams = bind_datagram(([127, 0, 0, 1], 0).into()).unwrap();
    let udp = UdpSocket::from(datagrams.try_clone().unwrap()).local_addr().unwrap();
    let queries = TcpListener::bind("127.0.0.1:0").unwrap();
    let listeners = [
        (ListenerKind::Transparent, place.captured()),
        (ListenerKind::DnsUdp, datagrams.as_fd()),
        (ListenerKind::DnsTcp, queries.as_fd()),
    ];
    place.attach("box", &listeners).unwrap();
    (place, udp, queries.local_addr().unwrap())
}

fn ask_udp(server: SocketAddr, message: &[u8]) -> Vec<u8> {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket.connect(server).unwrap();
    socket.send(message).unwrap();
    let mut answer = [0; 512];
    let count = socket.recv(&mut answer).unwrap();
    answer[..count].to_vec()
}

#[test]
fn names_lead_to_stand_ins_over_udp_and_tcp_pipelined_and_in_pieces() {
    both_ways(|shards| {
        let (place, udp, tcp) = with_names(shards);
        let first = address(&ask_udp(udp, &query("origin.test")));
        assert!(is_synthetic(first.into()));
        // What is malformed is told so, what is no query gets no answer, and the next query does.
        assert_eq!(ask_udp(udp, &query("origin.test")[..14])[3] & 15, 1);

        let mut stream = TcpStream::connect(tcp).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut both = Vec::new();
        for name in ["origin.test", "other.test"] {
            let message = query(name);
            both.extend_from_slice(&u16::try_from(message.len()).unwrap().to_be_bytes());
            both.extend_from_slice(&message);
        }
        let (begin, rest) = both.split_at(40);
        stream.write_all(begin).unwrap();
        let same = address(&read_framed(&mut stream));
        stream.write_all(rest).unwrap();
        let other = address(&read_framed(&mut stream));
        assert_eq!(same, first, "one map for both transports");
        assert_ne!(other, first);
        stream.write_all(&[0, 0]).unwrap();
        assert!(matches!(stream.read(&mut [0]), Ok(0) | Err(_)), "a query of no bytes ends the connection");
        place.detach("box").unwrap();
    });
}

fn read_framed(stream: &mut TcpStream) -> Vec<u8> {
    let mut length = [0; 2];
    stream.read_exact(&mut length).unwrap();
    let mut answer = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut answer).unwrap();
    answer
}

#[test]
fn queries_of_a_sandbox_that_left_control_are_refused() {
    let (mut place, udp, tcp) = with_names(4);
    place.gateway.apply(vec![control_wire::row::Op::RemoveSandbox("box".into())]);
    assert_eq!(ask_udp(udp, &query("origin.test"))[3] & 15, 5);
    let mut stream = TcpStream::connect(tcp).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    assert!(matches!(stream.read(&mut [0]), Ok(0) | Err(_)));
}
