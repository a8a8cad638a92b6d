//! The checks catch what they are for: gateways that do each thing wrong are told apart from one that does none.

use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    thread,
};

use loadtest::{
    authority::Authority,
    gateway::direct,
    names::credential,
    origin::Origin,
    plan::{Load, Plan, Scheme},
    report::Row,
    session::{Session, Subject},
};

/// What a gateway does wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    None,
    NoCredential,
    WrongField,
    AnothersCredential,
    ProxyCredentialsPassedOn,
    OtherPath,
    FlippedDown,
    FlippedUp,
    CutShort,
    AnothersAnswer,
    Refuses,
    RefusesSome,
    ClosesEarly,
}

/// One message: its head and its body.
fn read_message(stream: &mut TcpStream) -> io::Result<(String, Vec<u8>)> {
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte)?;
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).map_err(io::Error::other)?;
    let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: "));
    let mut body = vec![0; length.map_or(0, |length| length.parse().expect("a number"))];
    stream.read_exact(&mut body)?;
    Ok((head, body))
}

fn serve(mut client: TcpStream, origin: SocketAddr, fault: Fault) -> io::Result<()> {
    let mut upstream = TcpStream::connect(origin)?;
    upstream.set_nodelay(true)?;
    client.set_nodelay(true)?;
    let mut last = Vec::new();
    for number in 0.. {
        let (head, mut body) = read_message(&mut client)?;
        match fault {
            Fault::Refuses | Fault::RefusesSome if fault == Fault::Refuses || number % 3 == 2 => {
                client.write_all(b"HTTP/1.1 403 No\r\nContent-Length: 8\r\n\r\nnot here")?;
                continue;
            }
            Fault::ClosesEarly => return Ok(()),
            _ => {}
        }
        let line = match fault {
            Fault::NoCredential => String::new(),
            Fault::WrongField => format!("X-Token: {}\r\n", credential(0, 0)),
            Fault::AnothersCredential => format!("Authorization: Bearer {}\r\n", credential(1, 0)),
            Fault::ProxyCredentialsPassedOn => {
                format!("Authorization: Bearer {}\r\nProxy-Authorization: Basic eDp5\r\n", credential(0, 0))
            }
            _ => format!("Authorization: Bearer {}\r\n", credential(0, 0)),
        };
        let mut head = head.replace("Accept: */*\r\n", &line);
        if fault == Fault::OtherPath {
            head = head.replace("/l/", "/m/");
        }
        if fault == Fault::FlippedUp {
            body[77] ^= 1;
        }
        upstream.write_all(head.as_bytes())?;
        upstream.write_all(&body)?;
        let (mut head, mut body) = read_message(&mut upstream)?;
        match fault {
            Fault::FlippedDown => body[500] ^= 1,
            Fault::CutShort => {
                head = head.replace("Content-Length: 1024", "Content-Length: 1000");
                body.truncate(1000);
            }
            Fault::AnothersAnswer if !last.is_empty() => std::mem::swap(&mut body, &mut last),
            Fault::AnothersAnswer => last.clone_from(&body),
            _ => {}
        }
        client.write_all(head.as_bytes())?;
        client.write_all(&body)?;
    }
    Ok(())
}

/// Loads a gateway with this fault.
fn row(fault: Fault, up: u64) -> io::Result<Row> {
    let authority = Authority::make()?;
    let origin = Origin::start(&authority, true)?;
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let (door, upstream) = (listener.local_addr()?, SocketAddr::from(([127, 0, 0, 1], origin.ports[0])));
    thread::spawn(move || {
        for client in listener.incoming().map_while(Result::ok) {
            thread::spawn(move || serve(client, upstream, fault));
        }
    });
    let target = direct([door; 3], origin.ports, Vec::new(), authority.pem());
    let load = Load {
        scheme: Scheme::Http,
        connections: 2,
        up,
        warm_up: 0.0,
        seconds: 30.0,
        counted: 0.0,
        requests: Some(50),
        ..Load::default()
    };
    let plan = Plan { name: "checks".into(), about: String::new(), rounds: 1, rows: Vec::new() };
    let session = Session { origin: &origin, allow_remote: false };
    session.row(&mut Subject::Other(&target), &plan, &load)
}

fn faults(fault: Fault, up: u64) -> Vec<String> {
    let row = row(fault, up).unwrap();
    assert!(row.figures["answers"] >= 50.0);
    row.faults.into_iter().filter(|(_, count)| *count > 0).map(|(name, _)| name).collect()
}

#[test]
fn a_gateway_that_does_all_right_is_not_blamed() {
    assert_eq!(faults(Fault::None, 0), Vec::<String>::new());
    assert_eq!(faults(Fault::None, 100_000), Vec::<String>::new());
}

#[test]
fn every_misbehaviour_has_its_fault() {
    assert_eq!(faults(Fault::NoCredential, 0), ["missing"]);
    assert_eq!(faults(Fault::WrongField, 0), ["misplaced", "missing"]);
    assert_eq!(faults(Fault::AnothersCredential, 0), ["foreign"]);
    assert_eq!(faults(Fault::ProxyCredentialsPassedOn, 0), ["misplaced"]);
    assert_eq!(faults(Fault::FlippedDown, 0), ["corruptedAnswers"]);
    assert_eq!(faults(Fault::CutShort, 0), ["corruptedAnswers"]);
    assert_eq!(faults(Fault::AnothersAnswer, 0), ["corruptedAnswers"]);
    assert_eq!(faults(Fault::FlippedUp, 2_000), ["corrupted"]);
    assert!(faults(Fault::OtherPath, 0).contains(&"strange".to_owned()));
}

#[test]
fn refusals_and_broken_connections_are_told_in_words() {
    let refused = row(Fault::Refuses, 0).unwrap_err().to_string();
    assert!(refused.ends_with("nothing but errors: 403 answered: not here"), "{refused}");
    let some = row(Fault::RefusesSome, 0).unwrap();
    assert!(some.faults["errors"] >= 10, "{:?}", some.faults);
    assert!(some.words.keys().any(|word| word == "403 answered: not here"), "{:?}", some.words);
    let closed = row(Fault::ClosesEarly, 0).unwrap_err().to_string();
    assert!(closed.contains("closed before its answer"), "{closed}");
}
