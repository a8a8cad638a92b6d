//! A lock-down of many streaming sandboxes: what the API called *applied* holds for every byte.

use std::{
    io::{self, Read, Write},
    net::TcpStream,
    sync::{Arc, Mutex, mpsc},
};

use http::Response;
use rustls::{
    StreamOwned,
    pki_types::{CertificateDer, pem::PemObject},
    version::TLS13,
};
use serde_json::json;
use tests::{
    client,
    gateway::{PATIENCE, read_head},
    http2,
    origin::{Duplex, Origin},
    process::attach_proxy,
    secured::{Authority, settings},
    stage::{Stage, authority_pem, policy},
};

const SANDBOXES: usize = 20;
const STREAMS_EACH: usize = 5;

/// Streams of one sandbox, each under way, and held back because nobody reads.
fn streams(stage: &Stage, sandbox: &str, port: u16) -> Vec<TcpStream> {
    stage.control.put(&format!("sandboxes/{sandbox}"), &json!({ "template": "t" }));
    let password = attach_proxy(&stage.plane.folder, sandbox);
    let pem = authority_pem(&stage.control, sandbox);
    let authority = CertificateDer::from_pem_slice(pem.as_bytes()).unwrap();
    let open = |_| {
        let socket = client::tunnel(stage.plane.proxy, &format!("{sandbox}:{password}"), "origin.test", port);
        let raw = socket.try_clone().unwrap();
        let mut stream = StreamOwned::new(client::trusting(&authority, "origin.test", &[]), socket);
        write!(stream, "GET / HTTP/1.1\r\nHost: origin.test:{port}\r\n\r\n").unwrap();
        assert!(read_head(&mut stream).starts_with("HTTP/1.1 200 "));
        raw
    };
    (0..STREAMS_EACH).map(open).collect()
}

/// Takes the permission away, and reads what is left of the streams: each was reset, and nobody reads past what lay in
/// its socket when that was applied.
fn cut(stage: &Stage, open: &[TcpStream]) {
    stage.control.put("templates/t", &policy(&[]));
    let there: Vec<u64> = open.iter().map(|socket| rustix::io::ioctl_fionread(socket).unwrap()).collect();
    let (mut read, mut reset) = (Vec::new(), 0);
    for mut socket in open {
        let mut count = 0;
        let mut piece = [0; 64 << 10];
        let end = loop {
            match socket.read(&mut piece) {
                Ok(0) => break None,
                Ok(more) => count += more as u64,
                Err(error) => break Some(error.kind()),
            }
        };
        reset += usize::from(end == Some(io::ErrorKind::ConnectionReset));
        read.push(count);
    }
    assert_eq!(reset, open.len(), "every stream was reset");
    for (read, there) in read.iter().zip(&there) {
        assert!(read <= there, "{read} bytes were read, {there} lay in the socket at applied");
    }
}

/// Answers without an end.
fn pour(stream: &mut dyn Duplex) -> io::Result<()> {
    read_head(&mut &mut *stream);
    write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: 1000000000000\r\n\r\n")?;
    loop {
        stream.write_all(&[b'x'; 16 << 10])?;
    }
}

#[test]
fn a_hundred_streams_are_reset_and_nobody_reads_past_what_lay_in_the_socket_at_applied() {
    let origin = Origin::wire(&["origin.test"], pour);
    let stage = Stage::set(&origin, 4);
    let port = origin.address.port();
    let open: Vec<TcpStream> =
        (0..SANDBOXES).flat_map(|index| streams(&stage, &format!("s{index}"), port)).collect();
    cut(&stage, &open);
}

/// The same over HTTP/2.
async fn pour_stream(mut answer: http2::Answer) -> Result<(), h2::Error> {
    let mut stream = answer.send_response(Response::new(()), false)?;
    loop {
        stream.reserve_capacity(16 << 10);
        let Some(room) = std::future::poll_fn(|cx| stream.poll_capacity(cx)).await else { return Ok(()) };
        stream.send_data(vec![b'x'; room?].into(), false)?;
    }
}

#[test]
fn streams_that_a_client_certificate_opened_are_cut_over_both_versions_and_their_upstream_is_told() {
    let authority = Authority::new("known");
    let own = authority.server(&["origin.test"], |_| {});
    for over_http2 in [false, true] {
        let config = settings(&own, &[&TLS13], Some(&authority));
        let (tell, ended) = mpsc::channel();
        let tell = Mutex::new(tell);
        let over = move || tell.lock().unwrap().send(()).unwrap_or_default();
        let origin = match over_http2 {
            false => Origin::wire_of(config, authority.pem(), move |stream| {
                let cut = pour(stream);
                over();
                cut
            }),
            true => {
                let over = Arc::new(over);
                http2::origin_of(config, authority.pem(), move |_, answer| {
                    let over = Arc::clone(&over);
                    async move {
                        let cut = pour_stream(answer).await;
                        over();
                        cut.ok()
                    }
                })
            }
        };
        let stage = Stage::set(&origin, 4);
        let value = authority.client("agent").pem();
        stage.control.put("secrets/own", &json!({ "value": value, "hosts": ["origin.test"] }));
        let mut shown = policy(&["origin.test"]);
        shown["rules"] =
            json!([{ "host": "origin.test", "actions": [{ "clientCertificate": { "secret": "own" } }] }]);
        stage.control.put("templates/t", &shown);
        let open = streams(&stage, "s", origin.address.port());
        assert_eq!(origin.connections(), if over_http2 { 1 } else { STREAMS_EACH });
        cut(&stage, &open);
        for _ in &open {
            ended.recv_timeout(PATIENCE).expect("the upstream's part ends too");
        }
    }
}
