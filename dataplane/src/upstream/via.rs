//! What is said to a proxy before it relays: `CONNECT`, or SOCKS 5.

use std::io;
use std::net::SocketAddr;

use control_wire::policy::ProxyKind;
use zeroize::Zeroizing;

use crate::http::{Host, Parsed, parse_response};
use crate::inject::Login;
use crate::limits::PROXY_ANSWER_BYTES_MAX;
use crate::ring::Stream;

/// Whither a proxy is to connect.
pub(super) enum Whither<'a> {
    /// A checked address.
    Address(SocketAddr),
    /// A name, which the proxy resolves.
    Host(&'a Host, u16),
}

/// Why a proxy did not connect.
#[derive(Debug, thiserror::Error)]
pub enum ProxyError {
    /// Its connection failed.
    #[error("the connection to it failed")]
    Io(#[from] io::Error),
    /// It ended the connection.
    #[error("it ended the connection")]
    Ended,
    /// It said nothing in time.
    #[error("it does not answer")]
    TimedOut,
    /// It wants credentials, or others.
    #[error("it does not accept the credentials, or that there are none")]
    Credentials,
    /// It will not connect to the host.
    #[error("it refuses: {0}")]
    Refused(String),
    /// It could not connect to the host.
    #[error("it cannot reach the host: {0}")]
    Unreached(String),
    /// What it says is not what such a proxy says.
    #[error("it does not speak as such a proxy does: {0}")]
    Protocol(&'static str),
}

/// Has a proxy connect; what the stream carries from then on is the host's. The caller bounds the time.
///
/// # Errors
/// [`ProxyError`]; the stream is of no further use then.
pub(super) async fn open(
    stream: &Stream,
    kind: ProxyKind,
    whither: &Whither<'_>,
    login: Option<&Login>,
) -> Result<(), ProxyError> {
    let mut answer = Answer { stream, bytes: Vec::new() };
    match kind {
        ProxyKind::Http => connect(&mut answer, whither, login).await?,
        ProxyKind::Socks5 => socks5(&mut answer, whither, login).await?,
    }
    // What came behind its answer is the host's.
    stream.unread(answer.bytes);
    Ok(())
}

/// What a proxy says.
struct Answer<'a> {
    stream: &'a Stream,
    bytes: Vec<u8>,
}

impl Answer<'_> {
    async fn more(&mut self) -> Result<(), ProxyError> {
        if self.bytes.len() >= PROXY_ANSWER_BYTES_MAX {
            return Err(ProxyError::Protocol("its answer is too long"));
        }
        let bytes = self.stream.receive().await?.ok_or(ProxyError::Ended)?;
        self.bytes.extend_from_slice(&bytes);
        Ok(())
    }

    async fn take<const N: usize>(&mut self) -> Result<[u8; N], ProxyError> {
        while self.bytes.len() < N {
            self.more().await?;
        }
        let mut taken = [0; N];
        taken.copy_from_slice(&self.bytes[..N]);
        self.bytes.drain(..N);
        Ok(taken)
    }
}

/// RFC 9110 §9.3.6.
async fn connect(
    answer: &mut Answer<'_>,
    whither: &Whither<'_>,
    login: Option<&Login>,
) -> Result<(), ProxyError> {
    let authority = match whither {
        Whither::Address(address) => address.to_string(),
        Whither::Host(host, port) => match host.ip() {
            Some(address) => SocketAddr::new(address, *port).to_string(),
            None => format!("{host}:{port}"),
        },
    };
    let asked = format!("CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n");
    let login = login.map(Login::basic);
    let field = login.as_ref().map_or([&b""[..]; 3], |value| [b"Proxy-Authorization: ", value, b"\r\n"]);
    let parts = [asked.as_bytes(), field[0], field[1], field[2], b"\r\n"];
    // Sized once: a growing buffer would leave copies of the credentials behind unwiped.
    let mut head = Zeroizing::new(Vec::with_capacity(parts.iter().map(|part| part.len()).sum()));
    parts.iter().for_each(|part| head.extend_from_slice(part));
    answer.stream.send(&head).await?;
    loop {
        let parsed = parse_response(&answer.bytes, "CONNECT");
        match parsed.map_err(|_| ProxyError::Protocol("its answer to CONNECT is malformed"))? {
            Parsed::Partial => {}
            Parsed::Complete { head, consumed } if head.is_interim() => {
                answer.bytes.drain(..consumed);
                continue;
            }
            Parsed::Complete { head, consumed } => {
                let status = head.status();
                answer.bytes.drain(..consumed);
                return match status {
                    200..=299 => Ok(()),
                    407 => Err(ProxyError::Credentials),
                    500.. => Err(ProxyError::Unreached(format!("status {status}"))),
                    status => Err(ProxyError::Refused(format!("status {status}"))),
                };
            }
        }
        answer.more().await?;
    }
}

/// RFC 1928, with the credentials of RFC 1929.
async fn socks5(
    answer: &mut Answer<'_>,
    whither: &Whither<'_>,
    login: Option<&Login>,
) -> Result<(), ProxyError> {
    let methods: &[u8] = if login.is_some() { &[5, 2, 0, 2] } else { &[5, 1, 0] };
    answer.stream.send(methods).await?;
    match (answer.take().await?, login) {
        ([5, 0], _) => {}
        ([5, 2], Some(login)) => {
            answer.stream.send(&login.socks5()).await?;
            if answer.take().await? != [1, 0] {
                return Err(ProxyError::Credentials);
            }
        }
        ([5, 0xff], _) => return Err(ProxyError::Credentials),
        _ => return Err(ProxyError::Protocol("its answer to the greeting is malformed")),
    }
    answer.stream.send(&socks5_request(whither)?).await?;
    let [version, reply, _, kind] = answer.take().await?;
    if version != 5 {
        return Err(ProxyError::Protocol("its reply is not of version 5"));
    }
    let said = |what: &str| format!("reply {reply}, {what}");
    match reply {
        0 => {}
        1 => return Err(ProxyError::Unreached(said("general failure"))),
        2 => return Err(ProxyError::Refused(said("not allowed by its rules"))),
        3..=6 => return Err(ProxyError::Unreached(said("network, host or port out of reach"))),
        _ => return Err(ProxyError::Refused(said("not served"))),
    }
    // The address from which it speaks, which nobody needs.
    match kind {
        1 => answer.take::<6>().await.map(drop),
        4 => answer.take::<18>().await.map(drop),
        3 => {
            let [length] = answer.take().await?;
            for _ in 0..usize::from(length) + 2 {
                answer.take::<1>().await?;
            }
            Ok(())
        }
        _ => Err(ProxyError::Protocol("its reply names an unknown kind of address")),
    }
}

/// RFC 1928 §4.
fn socks5_request(whither: &Whither<'_>) -> Result<Vec<u8>, ProxyError> {
    let mut request = vec![5, 1, 0];
    let address = |request: &mut Vec<u8>, address| match address {
        std::net::IpAddr::V4(v4) => {
            request.push(1);
            request.extend_from_slice(&v4.octets());
        }
        std::net::IpAddr::V6(v6) => {
            request.push(4);
            request.extend_from_slice(&v6.octets());
        }
    };
    let port = match whither {
        Whither::Address(to) => {
            address(&mut request, to.ip());
            to.port()
        }
        Whither::Host(Host::Ip(ip), port) => {
            address(&mut request, *ip);
            *port
        }
        Whither::Host(Host::Name(name), port) => {
            let name = name.as_str().as_bytes();
            let length =
                u8::try_from(name.len()).map_err(|_| ProxyError::Refused("the name is too long".into()))?;
            request.extend_from_slice(&[3, length]);
            request.extend_from_slice(name);
            *port
        }
    };
    request.extend_from_slice(&port.to_be_bytes());
    Ok(request)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ring::testing::{on_shard, pair};

    /// Plays a proxy that is told and answers so, in pieces of these bytes; gives what came of it, and what of its bytes
    /// was left to the host.
    async fn played(
        kind: ProxyKind,
        whither: Whither<'_>,
        turns: &[(&[u8], &[u8])],
        piece: usize,
    ) -> (Result<(), ProxyError>, Vec<u8>) {
        let (client, server) = pair().await;
        let proxy = async {
            for (told, answer) in turns {
                let mut heard = Vec::new();
                while heard.len() < told.len() {
                    heard.extend_from_slice(&server.receive().await.unwrap().expect("it speaks"));
                }
                assert_eq!(heard, *told);
                for bytes in answer.chunks(piece) {
                    server.send(bytes).await.unwrap();
                    crate::ring::yield_now().await;
                }
            }
            server.shutdown_write().unwrap();
        };
        let (opened, ()) = futures_lite::future::zip(open(&client, kind, &whither, None), proxy).await;
        let mut left = Vec::new();
        while let Ok(Some(bytes)) = client.receive().await {
            left.extend_from_slice(&bytes);
        }
        (opened, left)
    }

    #[test]
    fn both_kinds_are_told_an_address_or_a_name_and_what_follows_their_answer_is_the_hosts() {
        on_shard(|| async {
            let host = Host::parse("a.test").unwrap();
            let address = || Whither::Address("192.0.2.1:443".parse().unwrap());
            let v6 = Whither::Address("[2001:db8::1]:443".parse().unwrap());
            for piece in [1, 1_000] {
                let asked = b"CONNECT 192.0.2.1:443 HTTP/1.1\r\nHost: 192.0.2.1:443\r\n\r\n";
                let turns: &[(&[u8], &[u8])] = &[(asked, b"HTTP/1.0 200 OK\r\nX: y\r\n\r\nhello")];
                let (opened, left) = played(ProxyKind::Http, address(), turns, piece).await;
                assert!(opened.is_ok() && left == b"hello", "{opened:?}");
                let asked = b"\x05\x01\0\x03\x06a.test\x01\xbb";
                let turns: &[(&[u8], &[u8])] =
                    &[(b"\x05\x01\0", b"\x05\0"), (asked, b"\x05\0\0\x03\x01pxxhello")];
                let (opened, left) = played(ProxyKind::Socks5, Whither::Host(&host, 443), turns, piece).await;
                assert!(opened.is_ok() && left == b"hello", "{opened:?}");
            }
            let asked = b"CONNECT [2001:db8::1]:443 HTTP/1.1\r\nHost: [2001:db8::1]:443\r\n\r\n";
            let turns: &[(&[u8], &[u8])] = &[(asked, b"HTTP/1.1 200\r\n\r\n")];
            assert!(played(ProxyKind::Http, v6, turns, 9).await.0.is_ok());
        });
    }

    #[test]
    fn refusals_of_a_proxy_are_told_apart() {
        on_shard(|| async {
            let address = || Whither::Address("192.0.2.1:443".parse().unwrap());
            let asked = b"CONNECT 192.0.2.1:443 HTTP/1.1\r\nHost: 192.0.2.1:443\r\n\r\n";
            let http = async |answer: &[u8]| {
                played(ProxyKind::Http, address(), &[(asked, answer)], 1_000).await.0.unwrap_err()
            };
            assert!(matches!(http(b"HTTP/1.1 407 No\r\n\r\n").await, ProxyError::Credentials));
            assert!(matches!(http(b"HTTP/1.1 403 No\r\n\r\n").await, ProxyError::Refused(_)));
            assert!(matches!(http(b"HTTP/1.1 504 No\r\n\r\n").await, ProxyError::Unreached(_)));
            assert!(matches!(http(b"SSH-2.0\r\n\r\n").await, ProxyError::Protocol(_)));
            assert!(matches!(http(b"HTTP/1.1 2").await, ProxyError::Ended));
            let request = b"\x05\x01\0\x01\xc0\0\x02\x01\x01\xbb";
            let socks = async |answer: &[u8]| {
                let turns: &[(&[u8], &[u8])] = &[(b"\x05\x01\0", b"\x05\0"), (request, answer)];
                played(ProxyKind::Socks5, address(), turns, 1_000).await.0.unwrap_err()
            };
            assert!(matches!(socks(b"\x05\x05\0\x01\0\0\0\0\0\0").await, ProxyError::Unreached(_)));
            assert!(matches!(socks(b"\x05\x02\0\x01\0\0\0\0\0\0").await, ProxyError::Refused(_)));
            assert!(matches!(socks(b"\x04\0\0\x01").await, ProxyError::Protocol(_)));
            let none: &[(&[u8], &[u8])] = &[(b"\x05\x01\0", b"\x05\xff")];
            let refused = played(ProxyKind::Socks5, address(), none, 1).await.0.unwrap_err();
            assert!(matches!(refused, ProxyError::Credentials));
        });
    }
}
