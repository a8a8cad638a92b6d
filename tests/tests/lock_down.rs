//! A lock-down of many streaming sandboxes: what the API called *applied* holds for every byte.

use std::{
    io::{self, Read, Write},
    net::TcpStream,
};

use rustls::{
    StreamOwned,
    pki_types::{CertificateDer, pem::PemObject},
};
use serde_json::json;
use tests::{
    client,
    gateway::read_head,
    origin::{Duplex, Origin},
    process::attach_proxy,
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

#[test]
fn a_hundred_streams_are_reset_and_nobody_reads_past_what_lay_in_the_socket_at_applied() {
    let origin = Origin::wire(&["origin.test"], |stream: &mut dyn Duplex| {
        read_head(&mut &mut *stream);
        write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: 1000000000000\r\n\r\n")?;
        loop {
            stream.write_all(&[b'x'; 16 << 10])?;
        }
    });
    let stage = Stage::set(&origin, 4);
    let port = origin.address.port();
    let open: Vec<TcpStream> =
        (0..SANDBOXES).flat_map(|index| streams(&stage, &format!("s{index}"), port)).collect();
    stage.control.put("templates/t", &policy(&[]));
    let there: Vec<u64> = open.iter().map(|socket| rustix::io::ioctl_fionread(socket).unwrap()).collect();
    let (mut read, mut reset) = (Vec::new(), 0);
    for mut socket in &open {
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
    assert_eq!(reset, SANDBOXES * STREAMS_EACH, "every stream was reset");
    for (read, there) in read.iter().zip(&there) {
        assert!(read <= there, "{read} bytes were read, {there} lay in the socket at applied");
    }
}
