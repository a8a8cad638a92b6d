//! Asks for the address of a name as a program's resolver does (RFC 1035), over UDP.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::time::Duration;

/// Any address would do: all are the sandbox's own.
const SERVER: (Ipv4Addr, u16) = (Ipv4Addr::LOCALHOST, 53);
/// Attempts; datagrams may be lost.
const ATTEMPTS: u32 = 3;
const PATIENCE: Duration = Duration::from_secs(2);
/// Header of a message: identifier, flags, four counts.
const HEADER_BYTES: usize = 12;
const TYPE_A: [u8; 2] = [0, 1];
const CLASS_IN: [u8; 2] = [0, 1];

/// The address of a name.
///
/// # Errors
/// When nobody answers or the name has none.
pub fn lookup(name: &str) -> io::Result<Ipv4Addr> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    socket.connect(SocketAddr::from(SERVER))?;
    socket.set_read_timeout(Some(PATIENCE))?;
    let query = query(name).ok_or(io::ErrorKind::InvalidInput)?;
    let mut answer = [0; 512];
    let mut last = io::Error::from(io::ErrorKind::TimedOut);
    for _ in 0..ATTEMPTS {
        socket.send(&query)?;
        match socket.recv(&mut answer) {
            Ok(count) => {
                let none = || io::Error::other(format!("the name {name} has no address"));
                return address(&query, &answer[..count]).ok_or_else(none);
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// A query for the addresses of a name; `None` where it is none.
fn query(name: &str) -> Option<Vec<u8>> {
    // Identifier, "recursion desired", one question.
    let mut message = vec![0x6f, 0x67, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        let length = u8::try_from(label.len()).ok().filter(|length| (1..64).contains(length))?;
        message.push(length);
        message.extend_from_slice(label.as_bytes());
    }
    message.push(0);
    message.extend_from_slice(&TYPE_A);
    message.extend_from_slice(&CLASS_IN);
    Some(message)
}

/// The first address of an answer to `query`.
fn address(query: &[u8], answer: &[u8]) -> Option<Ipv4Addr> {
    // The same identifier, a response without error, the question repeated.
    let fits = answer.get(..2)? == &query[..2] && answer.get(2)? & 0x80 != 0 && answer.get(3)? & 0x0f == 0;
    let count = u16::from_be_bytes(answer.get(6..8)?.try_into().ok()?);
    if !fits || count == 0 || answer.get(HEADER_BYTES..query.len())? != &query[HEADER_BYTES..] {
        return None;
    }
    let mut rest = answer.get(query.len()..)?;
    for _ in 0..count {
        // The name: labels up to a zero or a pointer of two bytes.
        loop {
            match *rest.first()? {
                0 => break rest = &rest[1..],
                length if length >= 0xc0 => break rest = rest.get(2..)?,
                length => rest = rest.get(1 + usize::from(length)..)?,
            }
        }
        // Type, class, time to live, length.
        let length = usize::from(u16::from_be_bytes(rest.get(8..10)?.try_into().ok()?));
        let data = rest.get(10..10 + length)?;
        if rest[..2] == TYPE_A && length == 4 {
            return Some(Ipv4Addr::from(<[u8; 4]>::try_from(data).ok()?));
        }
        rest = &rest[10 + length..];
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(records: &[&[u8]]) -> Vec<u8> {
        let mut message = query("api.example").unwrap();
        message[2] = 0x81;
        message[7] = u8::try_from(records.len()).unwrap();
        records.iter().for_each(|record| message.extend_from_slice(record));
        message
    }

    const ALIAS: &[u8] = &[0xc0, 12, 0, 5, 0, 1, 0, 0, 0, 1, 0, 2, 0xc0, 12];
    const ADDRESS: &[u8] = &[1, b'a', 0, 0, 1, 0, 1, 0, 0, 0, 1, 0, 4, 198, 18, 0, 7];

    #[test]
    fn the_first_address_is_taken_behind_an_alias() {
        let query = query("api.example").unwrap();
        assert_eq!(address(&query, &answer(&[ALIAS, ADDRESS])), Some(Ipv4Addr::new(198, 18, 0, 7)));
        assert_eq!(address(&query, &answer(&[ALIAS])), None);
    }

    #[test]
    fn an_answer_to_another_question_or_with_an_error_or_cut_off_is_none() {
        let query = query("api.example").unwrap();
        let whole = answer(&[ADDRESS]);
        for (at, value) in [(0, 1), (2, 1), (3, 3), (13, b'x')] {
            let mut other = whole.clone();
            other[at] = value;
            assert_eq!(address(&query, &other), None, "byte {at}");
        }
        for end in 0..whole.len() {
            assert_eq!(address(&query, &whole[..end]), None, "cut at {end}");
        }
    }

    #[test]
    fn a_name_with_an_empty_or_long_label_is_not_asked_for() {
        assert_eq!(query("a..b"), None);
        assert_eq!(query(&"a".repeat(64)), None);
    }
}
