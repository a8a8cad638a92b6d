//! Handlers on answers and on bodies by chunk: what they change while it streams, in every pair of versions, and what
//! becomes of an exchange whose handler fails, refuses or waits.

mod failing;
mod passing;
mod streaming;

use std::io::{self, Read};

use tests::{
    gateway::{Gateway, Tls, read_head, template},
    guests::built,
    origin::{Duplex, Origin},
};

/// Does with an exchange what its path says.
const BODIES: &str = r#"
use handlers_sdk::prelude::*;

#[handler(hooks = ["requestBody", "response", "responseBody"])]
async fn bodies(mut request: Request, _: Context) -> Outcome {
    let path = request.path();
    let does = move |word: &str| path.contains(word);
    if does("shout-up") {
        request.change_body(|chunk, out| {
            if chunk.last { out.extend_from_slice(b"!"); }
            out.extend(chunk.bytes.iter().map(u8::to_ascii_uppercase));
            Ok(())
        });
    }
    if does("judge-up") {
        request.look_at_body(|chunk| match chunk.bytes.contains(&b'#') {
            true => Err(Outcome::refuse(451, "no hashes")),
            false => Ok(()),
        });
    }
    if does("early") { return request.forward(); }
    let mut response = request.send().await;
    if does("panic-head") { panic!("inner words") }
    if does("half-head") {
        response.headers_mut().set("x-half", "1");
        return Outcome::error("no idea");
    }
    if does("deny-head") { return Outcome::refuse(451, "no answers"); }
    if does("answer-head") { return Outcome::respond(201, "made here").header("x-made", "here"); }
    if does("head") {
        let status = response.status();
        response.headers_mut().remove("x-inner");
        response.headers_mut().set("x-status", status.to_string());
        response.set_status(203);
    }
    if does("shout-down") {
        let mut pieces = 0;
        response.change_body(move |chunk, out| {
            pieces += 1;
            if chunk.bytes.contains(&b'#') { panic!("inner words after {pieces}") }
            if chunk.last { out.extend_from_slice(b"!"); }
            out.extend(chunk.bytes.iter().map(u8::to_ascii_uppercase));
            Ok(())
        });
    }
    if does("tell-down") {
        info!("{}", response.header("x-echo").unwrap_or_default());
        response.look_at_body(|chunk| Ok(info!("{}", String::from_utf8_lossy(chunk.bytes))));
    }
    if does("judge-down") {
        response.look_at_body(|chunk| {
            if chunk.last { info!("seen to its end"); }
            match chunk.bytes.contains(&b'#') {
                true => Err(Outcome::refuse(451, "no hashes")),
                false => Ok(()),
            }
        });
    }
    response.forward()
}
"#;

fn bodies() -> Vec<u8> {
    built("bodies", BODIES)
}

/// A plane where every request of `box` goes through this handler, with what else its use says as JSON members.
fn gateway(origin: &Origin, wasm: &[u8], more: &str) -> (Gateway, u16) {
    let mut gateway = Gateway::start(1, origin);
    let publish = gateway.handler("h", 7, wasm);
    gateway.apply(vec![publish, policy("origin.test", more)]);
    (gateway, origin.address.port())
}

/// The template `t`, which allows a host by way of the handler.
fn policy(host: &str, more: &str) -> control_wire::row::Op {
    template(
        "t",
        &format!(
            r#"{{"allowedHosts":["{host}"],"allowedAddresses":[{{"host":"*.test","cidrs":["127.0.0.0/8"]}}],
            "outbound":{{"handler":"h"{more}}}}}"#
        ),
    )
}

fn head(method: &str, path: &str, port: u16, fields: &str) -> String {
    format!("{method} {path} HTTP/1.1\r\nHost: origin.test:{port}\r\n{fields}\r\n")
}

/// Reads an answer in chunks to its end: payload and trailers.
fn read_chunks(stream: &mut impl Read) -> (Vec<u8>, String) {
    let mut body = Vec::new();
    loop {
        let size = usize::from_str_radix(&line(stream), 16).expect("hexadecimal");
        if size == 0 {
            break;
        }
        let start = body.len();
        body.resize(start + size, 0);
        stream.read_exact(&mut body[start..]).expect("a whole chunk");
        assert_eq!(line(stream), "");
    }
    let mut trailers = String::new();
    loop {
        match line(stream) {
            end if end.is_empty() => return (body, trailers),
            field => trailers += &field,
        }
    }
}

fn line(stream: &mut impl Read) -> String {
    let mut line = Vec::new();
    while !line.ends_with(b"\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).expect("a line");
        line.push(byte[0]);
    }
    String::from_utf8(line).expect("text").trim_end().to_owned()
}

/// What still comes until the connection breaks, which it must do without an end.
fn until_cut(stream: &mut Tls) -> Vec<u8> {
    let (mut rest, mut piece) = (Vec::new(), [0; 4096]);
    loop {
        match stream.read(&mut piece) {
            Ok(0) => panic!("it looks whole: {}", String::from_utf8_lossy(&rest)),
            Ok(count) => rest.extend_from_slice(&piece[..count]),
            Err(error) => {
                let broken = matches!(
                    error.kind(),
                    io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe
                );
                assert!(broken, "{error} after {}", String::from_utf8_lossy(&rest));
                return rest;
            }
        }
    }
}

/// Reads until so many bytes of a body have come.
fn read(stream: &mut impl Read, bytes: usize) -> String {
    let mut body = vec![0; bytes];
    stream.read_exact(&mut body).expect("as many bytes");
    String::from_utf8(body).expect("text")
}

/// The head that an origin is sent.
fn asked(wire: &mut dyn Duplex) -> String {
    read_head(&mut &mut *wire)
}

/// Writes a chunk.
fn chunk(wire: &mut dyn Duplex, text: &str) -> io::Result<()> {
    write!(wire, "{:x}\r\n{text}\r\n", text.len())?;
    wire.flush()
}

/// The head of an answer in chunks.
const CHUNKED: &str = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
