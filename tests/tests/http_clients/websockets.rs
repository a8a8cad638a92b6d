//! WebSockets by the libraries that people use: messages of every size, pings, and closing from either side.

use std::{
    io,
    sync::{Mutex, mpsc},
};

use tests::{
    gateway::{PATIENCE, read_head},
    origin::{Duplex, Origin, respond},
    websocket::{Kind, Messages, agree, close, field, put},
    yard::{Yard, said},
};

use crate::{
    node,
    python::bring,
    trial::{Way, assert_not_held, assert_summary_tells, laid_open, told},
};

/// Says everything back, but for words that are wishes; tells with what the client closed. `/private` wants the
/// credential.
fn talk(wire: &mut dyn Duplex, closed: &mpsc::Sender<String>) -> io::Result<()> {
    let head = read_head(&mut &mut *wire);
    if head.starts_with("GET /private ") && field(&head, "authorization") != Way::Bearer.shown() {
        let body = "who are you?";
        return write!(wire, "HTTP/1.1 401 Unauthorized\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    }
    if field(&head, "sec-websocket-key").is_empty() {
        return respond(wire, b"a page");
    }
    agree(wire, &head)?;
    let mut messages = Messages::default();
    loop {
        let (kind, payload) = messages.take(wire)?;
        match (kind, &payload[..]) {
            (Kind::Text, b"ping") => {
                put(wire, Kind::Ping, b"to the client")?;
                let answered = messages.take(wire)? == (Kind::Pong, b"to the client".to_vec());
                put(wire, Kind::Text, if answered { b"pong" } else { b"none" })?;
            }
            (Kind::Text, b"close") => close(wire, 4001, "as the origin wants")?,
            (Kind::Text, b"half") => {
                close(wire, 4002, "goes on reading")?;
                wire.end()?;
            }
            (Kind::Text, b"cut") => return Err(io::ErrorKind::ConnectionAborted.into()),
            (Kind::Ping, _) => put(wire, Kind::Pong, &payload)?,
            (Kind::Close, _) => {
                let (code, reason) = payload.split_first_chunk().ok_or(io::ErrorKind::InvalidData)?;
                let (code, reason) = (u16::from_be_bytes(*code), String::from_utf8_lossy(reason));
                closed.send(format!("{code} {reason}")).map_err(io::Error::other)?;
                // The answer to who closed first; nobody hears it behind our own.
                let _heard = put(wire, Kind::Close, &payload);
                return wire.end();
            }
            _ => put(wire, kind, &payload)?,
        }
    }
}

fn yard() -> (Yard, mpsc::Receiver<String>) {
    let (tell, closed) = mpsc::channel();
    let tell = Mutex::new(tell);
    let yard = Yard::of(Origin::wire(&["origin.test"], move |wire| {
        let tell = tell.lock().expect("no thread panicked holding it").clone();
        talk(wire, &tell)
    }));
    (yard, closed)
}

fn url(yard: &Yard, host: &str) -> String {
    format!("wss://{host}:{}", yard.origin.address.port())
}

/// What the origin heard, but for the connection that it cut.
fn assert_closed(closed: &mpsc::Receiver<String>) {
    for code in ["4321 as the client wants", "4001 ", "4002 "] {
        let heard = closed.recv_timeout(PATIENCE).expect("the client says with what it closes");
        assert!(heard.starts_with(code), "{heard}");
    }
}

#[test]
fn websockets_of_python_carry_everything_and_close_from_both_sides() {
    let (yard, closed) = yard();
    bring(&yard);
    yard.ground.write("talk.py", include_str!("scripts/websockets.py"));
    let words = |host: &str| ["python-clients/bin/python3".into(), "talk.py".into(), url(&yard, host)];
    let (out, err) = told(&yard, &words("origin.test").each_ref().map(String::as_str));
    let carried = ["text ☃", "True", "True", "0", "125", "126", "65535", "65536", "True", "pong"];
    let ended = ["(4001, 'as the origin wants')", "(4002, 'goes on reading')", "None", "401 who are you?"];
    assert_eq!(out.lines().collect::<Vec<_>>(), [&carried[..], &ended].concat(), "{out}{err}");
    assert_closed(&closed);

    let connections = yard.origin.connections();
    let (out, err) = told(&yard, &words("denied.test").each_ref().map(String::as_str));
    assert!(format!("{out}{err}").contains("HTTP 403"), "{out}{err}");
    assert_summary_tells(&yard, &err);
    assert_eq!(yard.origin.connections(), connections);

    let words = words("origin.test");
    let words = words.each_ref().map(String::as_str);
    let (out, err) = said(&laid_open(&yard, Way::Bearer, &words).output().expect("outgate starts"));
    assert!(out.contains("\nopened\n"), "{out}{err}");
    assert_not_held(Way::Bearer, &format!("{out}{err}"));
}

fn node_carries_everything(client: &str) {
    let (yard, closed) = yard();
    node::bring(&yard);
    yard.ground.write("talk.cjs", include_str!("scripts/websockets.cjs"));
    let (out, err) = told(&yard, &["node", "talk.cjs", &url(&yard, "origin.test"), client]);
    let lines = ["text ☃", "true", "pong", "4321 as the client wants", "4001 as the origin wants"];
    let ended = ["4002 goes on reading", "1006 "];
    assert_eq!(out.lines().collect::<Vec<_>>(), [&lines[..], &ended].concat(), "{out}{err}");
    assert_closed(&closed);
}

#[test]
fn ws_of_node_carries_everything_and_closes_from_both_sides() {
    node_carries_everything("ws");
}

#[test]
fn undici_of_node_carries_everything_and_closes_from_both_sides() {
    node_carries_everything("undici");
}
