//! Nothing waits for more: who sends one byte hears beside the gateway that it came before the next is sent, in both
//! directions.

use std::{
    io::{self, Read, Write},
    sync::{Arc, Condvar, Mutex},
};

use bytes::Bytes;
use h2::{RecvStream, ext::Protocol};
use http::{HeaderMap, Request, Response};
use tests::{
    gateway::{Gateway, PATIENCE, read_head},
    http2::{Answer, Client, next, origin, run},
    origin::Origin,
    websocket::{agree, field},
};
use tokio::sync::Notify;

/// Pieces of each body.
const PIECES: usize = 20;

/// Counts what has come, and tells it to threads and to tasks, past the gateway.
#[derive(Clone, Default)]
struct Aside(Arc<(Mutex<usize>, Condvar, Notify)>);

impl Aside {
    fn tell(&self) {
        *self.0.0.lock().expect("no thread panicked holding it") += 1;
        self.0.1.notify_all();
        self.0.2.notify_waiters();
    }

    /// On a thread.
    fn wait(&self, count: usize) -> io::Result<()> {
        let told = self.0.0.lock().expect("no thread panicked holding it");
        let (_told, waited) = self
            .0
            .1
            .wait_timeout_while(told, PATIENCE, |told| *told < count)
            .expect("no thread panicked holding it");
        if waited.timed_out() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(()) }
    }

    /// In a task.
    async fn waited(&self, count: usize) {
        loop {
            // Made first, so that nothing is told between the look and the wait.
            let told = self.0.2.notified();
            if *self.0.0.lock().expect("no thread panicked holding it") >= count {
                return;
            }
            told.await;
        }
    }
}

/// How a body travels, by the path that asks for it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Body {
    /// From the origin, of unknown length.
    Down,
    /// From the origin, of known length.
    DownOfLength,
    /// From the origin, as server-sent events.
    Events,
    /// To the origin, of unknown length.
    Up,
    /// To the origin, of known length.
    UpOfLength,
    /// To the origin, which sends back each piece.
    Both,
}

impl Body {
    const ALL: [Self; 6] =
        [Self::Down, Self::DownOfLength, Self::Events, Self::Up, Self::UpOfLength, Self::Both];

    fn path(self) -> String {
        format!("/{self:?}")
    }

    fn of(path: &str) -> Self {
        let all = Self::ALL.into_iter();
        all.into_iter().find(|body| body.path() == path).expect("a path of this test")
    }

    fn piece(self) -> &'static str {
        if self == Self::Events { "data: x\n\n" } else { "x" }
    }

    fn goes_up(self) -> bool {
        matches!(self, Self::Up | Self::UpOfLength | Self::Both)
    }

    /// Fields of the head that it follows, on the side that sends it.
    fn fields(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::Events => &[("content-type", "text/event-stream")],
            Self::DownOfLength | Self::UpOfLength => &[("content-length", "20")],
            _ => &[],
        }
    }

    /// The same as HTTP/1.1 wants it.
    fn lines(self) -> String {
        let fields = self.fields().iter().map(|(name, value)| format!("{name}: {value}\r\n"));
        let fields: String = fields.collect();
        if self.is_bare() { fields } else { fields + "Transfer-Encoding: chunked\r\n" }
    }

    /// Whether HTTP/1.1 sends it without chunks around its pieces.
    fn is_bare(self) -> bool {
        matches!(self, Self::DownOfLength | Self::UpOfLength)
    }
}

/// The next chunk, empty at the end; or the next byte of a body of known length.
fn take(stream: &mut dyn Read, body: Body) -> io::Result<Vec<u8>> {
    if body.is_bare() {
        let mut byte = vec![0];
        stream.read_exact(&mut byte)?;
        return Ok(byte);
    }
    let mut line = Vec::new();
    while !line.ends_with(b"\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        line.extend(byte);
    }
    let line = String::from_utf8(line).map_err(io::Error::other)?;
    let size = usize::from_str_radix(line.trim(), 16).map_err(io::Error::other)?;
    let mut chunk = vec![0; size + 2];
    stream.read_exact(&mut chunk)?;
    chunk.truncate(size);
    Ok(chunk)
}

fn put(stream: &mut dyn Write, body: Body, piece: &str) -> io::Result<()> {
    match (body.is_bare(), piece.len()) {
        (true, _) => stream.write_all(piece.as_bytes())?,
        (false, length) => stream.write_all(format!("{length:x}\r\n{piece}\r\n").as_bytes())?,
    }
    stream.flush()
}

/// The origin in HTTP/1.1, over TLS.
fn origin_1(aside: &Aside) -> Origin {
    let aside = aside.clone();
    Origin::wire(&["origin.test"], move |wire| {
        let head = read_head(&mut &mut *wire);
        let body = Body::of(head.split(' ').nth(1).unwrap_or_default());
        if body.goes_up() && body != Body::Both {
            aside.tell();
            for _ in 0..PIECES {
                assert_eq!(take(&mut &mut *wire, body)?, b"x");
                aside.tell();
            }
            return tests::origin::respond(wire, b"whole");
        }
        wire.write_all(format!("HTTP/1.1 200 OK\r\n{}\r\n", body.lines()).as_bytes())?;
        wire.flush()?;
        for count in 0..PIECES {
            match body {
                Body::Both => drop(take(&mut &mut *wire, body)?),
                _ => aside.wait(count + 1)?,
            }
            put(&mut &mut *wire, body, body.piece())?;
        }
        if body == Body::Both {
            assert_eq!(take(&mut &mut *wire, body)?, b"");
        }
        if !body.is_bare() { put(&mut &mut *wire, body, "") } else { Ok(()) }
    })
}

/// The same in HTTP/2.
async fn serve_2(aside: Aside, request: Request<RecvStream>, mut answer: Answer) -> Option<()> {
    let body = Body::of(request.uri().path());
    let mut up = request.into_body();
    if body.goes_up() && body != Body::Both {
        aside.tell();
        while let Some(data) = next(&mut up).await {
            data.ok()?.iter().for_each(|_| aside.tell());
        }
        return tests::http2::respond(&mut answer, "whole", None);
    }
    let mut head = Response::new(());
    for (name, value) in body.fields() {
        head.headers_mut().insert(*name, value.parse().ok()?);
    }
    let mut down = answer.send_response(head, false).ok()?;
    for count in 0..PIECES {
        match body {
            Body::Both => drop(next(&mut up).await?.ok()?),
            _ => aside.waited(count + 1).await,
        }
        down.send_data(body.piece().into(), false).ok()?;
    }
    if body == Body::Both {
        assert!(next(&mut up).await.is_none());
    }
    down.send_data(Bytes::new(), true).ok()
}

/// The client in HTTP/1.1.
fn client_1(gateway: &Gateway, port: u16, body: Body, aside: &Aside) {
    let mut stream = gateway.tls("origin.test", port);
    let (method, lines) = if body.goes_up() { ("POST", body.lines()) } else { ("GET", String::new()) };
    let head = format!("{method} {} HTTP/1.1\r\nHost: origin.test:{port}\r\n{lines}\r\n", body.path());
    stream.write_all(head.as_bytes()).unwrap();
    stream.flush().unwrap();
    if body.goes_up() && body != Body::Both {
        for count in 0..PIECES {
            aside.wait(count + 1).expect("what was sent has come");
            put(&mut stream, body, "x").unwrap();
        }
        if !body.is_bare() {
            put(&mut stream, body, "").unwrap();
        }
        assert_eq!(tests::gateway::read_answer(&mut stream, false).1, b"whole");
        return;
    }
    let head = read_head(&mut stream);
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    for _ in 0..PIECES {
        match body {
            Body::Both => put(&mut stream, body, "x").unwrap(),
            _ => aside.tell(),
        }
        assert_eq!(take(&mut stream, body).unwrap(), body.piece().as_bytes());
    }
    if body == Body::Both {
        put(&mut stream, body, "").unwrap();
    }
    if !body.is_bare() {
        assert_eq!(take(&mut stream, body).unwrap(), b"");
    }
}

/// The client in HTTP/2.
async fn client_2(gateway: &Gateway, port: u16, body: Body, aside: &Aside) {
    let mut client = Client::connect(gateway, "origin.test", port).await;
    let mut request = client.request(if body.goes_up() { "POST" } else { "GET" }, &body.path());
    if body.goes_up() {
        for (name, value) in body.fields() {
            request.headers_mut().insert(*name, value.parse().unwrap());
        }
    }
    let (answer, mut up) = client.send(request, !body.goes_up()).await;
    if body.goes_up() && body != Body::Both {
        for count in 0..PIECES {
            aside.waited(count + 1).await;
            up.send_data(Bytes::from_static(b"x"), count + 1 == PIECES).unwrap();
        }
        assert_eq!(tests::http2::whole(answer).await.unwrap().text(), "whole");
        return;
    }
    let mut down = answer.await.unwrap().into_body();
    for _ in 0..PIECES {
        match body {
            Body::Both => up.send_data(Bytes::from_static(b"x"), false).unwrap(),
            _ => aside.tell(),
        }
        assert_eq!(next(&mut down).await.unwrap().unwrap(), body.piece());
    }
    if body == Body::Both {
        up.send_data(Bytes::new(), true).unwrap();
    }
    assert!(next(&mut down).await.is_none());
}

/// One body through each pair of versions.
fn passes_at_once(body: Body) {
    for (client, upstream) in [(1, 1), (1, 2), (2, 1), (2, 2)] {
        println!("{body:?}: HTTP/{client} from the client, HTTP/{upstream} to the origin");
        let aside = Aside::default();
        let served = aside.clone();
        let origin = match upstream {
            1 => origin_1(&aside),
            _ => origin(&["origin.test"], move |request, answer| serve_2(served.clone(), request, answer)),
        };
        let gateway = Gateway::start(1, &origin);
        let port = origin.address.port();
        match client {
            1 => client_1(&gateway, port, body, &aside),
            _ => run(client_2(&gateway, port, body, &aside)),
        }
        let record = &gateway.records(1)[0];
        assert_eq!(record["verdict"], "allowed", "{record}");
    }
}

#[test]
fn a_download_passes_piece_by_piece() {
    passes_at_once(Body::Down);
    passes_at_once(Body::DownOfLength);
}

#[test]
fn server_sent_events_pass_one_by_one() {
    passes_at_once(Body::Events);
}

#[test]
fn an_upload_passes_piece_by_piece() {
    passes_at_once(Body::Up);
    passes_at_once(Body::UpOfLength);
}

#[test]
fn an_upload_and_its_answer_pass_at_the_same_time() {
    passes_at_once(Body::Both);
}

#[test]
fn messages_of_grpc_pass_byte_by_byte_both_ways() {
    let origin = origin(&["origin.test"], |request, mut answer| async move {
        let mut up = request.into_body();
        let mut head = Response::new(());
        head.headers_mut().insert("content-type", "application/grpc".parse().ok()?);
        let mut down = answer.send_response(head, false).ok()?;
        while let Some(data) = next(&mut up).await {
            down.send_data(data.ok()?, false).ok()?;
        }
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", "0".parse().ok()?);
        down.send_trailers(trailers).ok()
    });
    let gateway = Gateway::start(1, &origin);
    run(async {
        let mut client = Client::connect(&gateway, "origin.test", origin.address.port()).await;
        let mut call = client.request("POST", "/package.Service/Method");
        call.headers_mut().insert("content-type", "application/grpc".parse().unwrap());
        call.headers_mut().insert("te", "trailers".parse().unwrap());
        let (answer, mut up) = client.send(call, false).await;
        // The head of the answer does not wait for a message.
        let mut down = answer.await.unwrap().into_body();
        // A message, with its length before it.
        for byte in [&[0, 0, 0, 0, 4][..], b"text"].concat().repeat(4) {
            up.send_data(vec![byte].into(), false).unwrap();
            assert_eq!(next(&mut down).await.unwrap().unwrap(), vec![byte]);
        }
        up.send_data(Bytes::new(), true).unwrap();
        assert!(next(&mut down).await.is_none());
        assert_eq!(down.trailers().await.unwrap().unwrap()["grpc-status"], "0");
    });
    gateway.records(1);
}

/// Agrees to a WebSocket, sends bytes that are acknowledged aside, and then sends back each that comes.
fn socket(aside: &Aside) -> Origin {
    let aside = aside.clone();
    Origin::wire(&["origin.test"], move |wire| {
        let head = read_head(&mut &mut *wire);
        if !field(&head, "upgrade").eq_ignore_ascii_case("websocket") {
            return tests::origin::respond(wire, b"none");
        }
        agree(wire, &head)?;
        for count in 0..PIECES {
            aside.wait(count + 1)?;
            wire.write_all(b"x")?;
            wire.flush()?;
        }
        let mut byte = [0];
        while wire.read(&mut byte)? == 1 {
            wire.write_all(&byte)?;
            wire.flush()?;
        }
        wire.end()
    })
}

#[test]
fn a_websocket_passes_byte_by_byte_both_ways() {
    let aside = Aside::default();
    let origin = socket(&aside);
    let gateway = Gateway::start(1, &origin);
    let port = origin.address.port();
    let mut stream = gateway.tls("origin.test", port);
    let handshake = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                     Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    let head = format!("GET / HTTP/1.1\r\nHost: origin.test:{port}\r\n{handshake}\r\n");
    stream.write_all(head.as_bytes()).unwrap();
    let head = read_head(&mut stream);
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    for piece in 0..2 * PIECES {
        match piece < PIECES {
            true => aside.tell(),
            false => stream.write_all(b"x").unwrap(),
        }
        stream.read_exact(&mut [0]).expect("the byte alone");
    }
    drop(stream);
    gateway.records(1);
}

#[test]
fn a_websocket_in_a_stream_passes_byte_by_byte_both_ways() {
    let aside = Aside::default();
    let origin = socket(&aside);
    let gateway = Gateway::start(1, &origin);
    run(async {
        let mut client = Client::connect(&gateway, "origin.test", origin.address.port()).await;
        client.get("/").await;
        let mut request = client.request("CONNECT", "/");
        request.extensions_mut().insert(Protocol::from_static("websocket"));
        request.headers_mut().insert("sec-websocket-version", "13".parse().unwrap());
        let (answer, mut up) = client.send(request, false).await;
        let mut down = answer.await.unwrap().into_body();
        for piece in 0..2 * PIECES {
            match piece < PIECES {
                true => aside.tell(),
                false => up.send_data(Bytes::from_static(b"x"), false).unwrap(),
            }
            assert_eq!(next(&mut down).await.unwrap().unwrap(), "x");
        }
        up.send_data(Bytes::new(), true).unwrap();
        assert!(next(&mut down).await.is_none());
    });
    gateway.records(2);
}
