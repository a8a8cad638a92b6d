//! A page of many parts in Chromium: what it is made of comes through the gateway in HTTP/2, with server-sent events and
//! a WebSocket beside it.

use std::{
    collections::BTreeMap,
    fs,
    io::{self, Read},
    sync::{Arc, Condvar, Mutex},
};

use tests::{
    gateway::{PATIENCE, read_head},
    origin::{Duplex, Origin, respond},
    websocket::{Kind, Messages, agree, put},
    yard::Yard,
};

use crate::trial::{assert_installed, told};

/// What the page is.
const PAGE: &str = include_str!("scripts/page.html");
/// Events and words of one page.
const WORDS: usize = 5;

/// How often each path was asked for, and by what.
#[derive(Clone, Default)]
struct Asked(Arc<(Mutex<BTreeMap<String, usize>>, Condvar)>);

impl Asked {
    fn add(&self, line: &str) {
        *self.0.0.lock().expect("no thread panicked holding it").entry(line.to_owned()).or_default() += 1;
        self.0.1.notify_all();
    }

    fn count(&self, line: &str) -> usize {
        self.0.0.lock().expect("no thread panicked holding it").get(line).copied().unwrap_or_default()
    }

    /// Waits until it was asked for.
    fn wait(&self, line: &str) -> io::Result<()> {
        let asked = self.0.0.lock().expect("no thread panicked holding it");
        let (_asked, waited) = self
            .0
            .1
            .wait_timeout_while(asked, PATIENCE, |asked| !asked.contains_key(line))
            .expect("no thread panicked holding it");
        if waited.timed_out() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(()) }
    }
}

fn answer(wire: &mut dyn Duplex, kind: &str, body: &str) -> io::Result<()> {
    let length = body.len();
    write!(wire, "HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n\r\n{body}")?;
    wire.flush()
}

fn tile(colour: usize) -> String {
    format!(
        "<svg xmlns='http://www.w3.org/2000/svg' width='32' height='32'>\
         <rect width='32' height='32' rx='6' fill='hsl({colour} 80% 50%)'/></svg>"
    )
}

/// Each event goes when the one before has been acknowledged by another request.
fn events(wire: &mut dyn Duplex, asked: &Asked) -> io::Result<()> {
    write!(wire, "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n")?;
    for word in 0..WORDS {
        write!(wire, "data: {word}\n\n")?;
        wire.flush()?;
        asked.wait(&format!("POST /acknowledge/{word}"))?;
    }
    // Who has heard enough leaves; otherwise it would ask again.
    wire.read_exact(&mut [0])
}

fn socket(wire: &mut dyn Duplex, head: &str) -> io::Result<()> {
    agree(wire, head)?;
    let mut messages = Messages::default();
    loop {
        match messages.take(wire)? {
            (Kind::Close, payload) => {
                put(wire, Kind::Close, &payload)?;
                return wire.end();
            }
            (kind, payload) => put(wire, kind, &payload)?,
        }
    }
}

fn serve(wire: &mut dyn Duplex, asked: &Asked) -> io::Result<()> {
    loop {
        let mut first = [0];
        if wire.read(&mut first)? == 0 {
            return Ok(());
        }
        let head = read_head(&mut (&first[..]).chain(&mut *wire));
        let line = head.split(" HTTP/").next().unwrap_or_default();
        asked.add(line);
        match line.split(' ').nth(1).unwrap_or_default() {
            "/page" => answer(wire, "text/html", PAGE)?,
            "/events" => return events(wire, asked),
            "/socket" => return socket(wire, &head),
            "/loaded.svg" => {
                asked.wait("POST /told")?;
                answer(wire, "image/svg+xml", &tile(120))?;
            }
            path => match path.strip_prefix("/tile/").and_then(|path| path.strip_suffix(".svg")) {
                Some(index) => answer(wire, "image/svg+xml", &tile(index.parse().unwrap_or(0) * 7))?,
                None => respond(wire, b"")?,
            },
        }
    }
}

/// Chromium with these options at the page; gives what it said.
fn shown(options: &[&str]) -> (Yard, Asked, String) {
    assert_installed("chromium");
    let asked = Asked::default();
    let served = asked.clone();
    let yard = Yard::of(Origin::wire(&["origin.test"], move |wire| serve(wire, &served)));
    let url = format!("https://origin.test:{}/page", yard.origin.address.port());
    let (out, err) = told(&yard, &[&["chromium", "--headless"], options, &[&url]].concat());
    (yard, asked, format!("{out}{err}"))
}

#[test]
fn chromium_shows_a_page_of_fifty_parts_with_events_and_a_websocket() {
    let (yard, asked, out) = shown(&["--dump-dom"]);
    for line in [
        "<li>tiles: 50</li>",
        "<li>events: 0,1,2,3,4</li>",
        "<li>socket: word 0,word 1,word 2,word 3,word 4,4000</li>",
        "<li>protocols: h2</li>",
    ] {
        assert!(out.contains(line), "{line}:\n{out}");
    }
    for index in 0..50 {
        assert_eq!(asked.count(&format!("GET /tile/{index}.svg")), 1, "tile {index}");
    }
    for line in ["GET /page", "GET /events", "GET /socket", "POST /told"] {
        assert_eq!(asked.count(line), 1, "{line}");
    }
    assert!((0..WORDS).all(|word| asked.count(&format!("POST /acknowledge/{word}")) == 1));
    drop(yard);
}

#[test]
fn chromium_draws_a_page_of_fifty_parts() {
    let (yard, asked, out) = shown(&["--window-size=500,560", "--screenshot=page.png"]);
    let drawn = fs::read(yard.ground.path("page.png")).unwrap_or_default();
    assert!(drawn.starts_with(b"\x89PNG"), "{out}");
    // Width and height (PNG, 11.2.2).
    assert_eq!(drawn[16..24], [0, 0, 1, 244, 0, 0, 2, 48]);
    assert_eq!((0..50).filter(|index| asked.count(&format!("GET /tile/{index}.svg")) == 1).count(), 50);
    if let Some(kept) = std::env::var_os("OUTGATE_KEEP_PAGE") {
        fs::write(kept, drawn).expect("a place for the picture");
    }
}
