//! Many clients in a process of their own, so that their descriptors are not the gateway's: each opens a connection,
//! is refused once, and is idle until standard input ends.
//!
//! `idle-clients PROXY COUNT AUTHORITY.der...`: the sandboxes are `box-0` and so on, one for each authority.

use std::{
    io::{self, Read},
    net::SocketAddr,
    thread,
};

use rustls::StreamOwned;
use tests::{
    client, descriptors,
    gateway::{Tls, ask},
};

/// Threads that open them.
const WORKERS: usize = 4;

fn open(proxy: SocketAddr, (index, authority): (usize, &[u8])) -> Tls {
    let tunnel = client::tunnel(proxy, &format!("box-{index}:word"), "denied.test", 443);
    let mut stream = StreamOwned::new(client::trusting(authority, "denied.test", &[]), tunnel);
    let answer = ask(&mut stream, "GET / HTTP/1.1\r\nHost: denied.test\r\n\r\n", b"");
    assert!(answer.0.starts_with("HTTP/1.1 403 "), "{}", answer.0);
    stream
}

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let (proxy, count) =
        (words[0].parse().expect("an address"), words[1].parse::<usize>().expect("a number"));
    let authorities: Vec<Vec<u8>> =
        words[2..].iter().map(|file| std::fs::read(file).expect("a certificate")).collect();
    descriptors::raise(count as u64 + 100);
    let (tell, open_ones) = std::sync::mpsc::channel();
    thread::scope(|scope| {
        for worker in 0..WORKERS {
            let (tell, authorities) = (tell.clone(), &authorities);
            scope.spawn(move || {
                for index in (worker..count).step_by(WORKERS) {
                    let sandbox = index % authorities.len();
                    tell.send(open(proxy, (sandbox, &authorities[sandbox]))).expect("they are kept");
                }
            });
        }
    });
    drop(tell);
    let open_ones: Vec<Tls> = open_ones.iter().collect();
    println!("open {}", open_ones.len());
    io::stdin().read_to_end(&mut Vec::new()).expect("standard input ends");
}
