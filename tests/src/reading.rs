//! Reads answers byte by byte, so that nothing beyond them is taken.

use std::io::{Read, Write};

/// Reads a head to its empty line, and nothing beyond it.
///
/// # Panics
/// When the connection ends before.
pub fn read_head(stream: &mut impl Read) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        let seen = || String::from_utf8_lossy(&head).into_owned();
        let count = stream.read(&mut byte).unwrap_or_else(|error| panic!("{error} after {:?}", seen()));
        assert_eq!(count, 1, "the connection ended after {:?}", seen());
        head.push(byte[0]);
    }
    String::from_utf8(head).expect("heads of tests are text")
}

/// Reads an answer whose length is given; `bodiless` for the one to HEAD and the like.
///
/// # Panics
/// When it is not whole.
pub fn read_answer(stream: &mut impl Read, bodiless: bool) -> (String, Vec<u8>) {
    let head = read_head(stream);
    let length = head
        .lines()
        .find_map(|line| {
            line.to_ascii_lowercase().strip_prefix("content-length:").map(str::trim).map(str::to_owned)
        })
        .map_or(0, |length| length.parse().expect("a length"));
    let mut body = vec![0; if bodiless { 0 } else { length }];
    stream.read_exact(&mut body).expect("the body is whole");
    (head, body)
}

/// One request over a connection, and the whole answer, whose length must be known.
///
/// # Panics
/// When the answer does not come whole.
pub fn ask(stream: &mut (impl Read + Write), head: &str, body: &[u8]) -> (String, Vec<u8>) {
    stream.write_all(&[head.as_bytes(), body].concat()).expect("the gateway reads");
    stream.flush().expect("the gateway reads");
    read_answer(stream, false)
}
