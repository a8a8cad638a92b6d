//! The resolver's way to name servers: sockets of the shard's ring, and the servers that the system names.

use std::fs::File;
use std::future::Future;
use std::io::{self, Read};
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::{Duration, Instant};

use super::resolve::{Datagram, Settings, Transport};
use crate::limits::{NAME_ANSWER_BYTES_MAX, NAME_SERVERS_MAX, RESOLV_CONF_BYTES_MAX};
use crate::ring::{self, Buf, Ring, Stream};

/// The port of name servers (RFC 1035 §4.2).
const NAME_SERVER_PORT: u16 = 53;
/// The header of a message (RFC 1035 §4.1.1); nothing shorter is an answer.
const HEADER_BYTES: usize = 12;

/// Name servers through the ring of the calling shard.
#[derive(Clone, Copy, Debug, Default)]
pub struct RingTransport;

impl Transport for RingTransport {
    type Datagram = ring::Datagram;

    fn datagram(&self, server: SocketAddr) -> io::Result<ring::Datagram> {
        ring::Datagram::connect(server)
    }

    async fn exchange(&self, server: SocketAddr, query: &[u8]) -> io::Result<Vec<u8>> {
        let length = u16::try_from(query.len()).map_err(|_| invalid("the query is too long"))?;
        let stream = Stream::connect(server).await?;
        // Length and message in one write: some servers take what the first segment holds (RFC 7766 §8).
        stream.send(&[&length.to_be_bytes(), query].concat()).await?;
        let mut answer = Answer::default();
        loop {
            let Some(bytes) = stream.receive().await? else {
                return Err(io::ErrorKind::UnexpectedEof.into());
            };
            if let Some(message) = answer.take(&bytes)? {
                return Ok(message);
            }
        }
    }

    async fn within<F: Future>(&self, time: Duration, future: F) -> Option<F::Output> {
        ring::timeout(time, future).await.ok()
    }

    fn now(&self) -> Instant {
        Ring::current().now()
    }
}

impl Datagram for ring::Datagram {
    async fn send(&self, bytes: &[u8]) -> io::Result<()> {
        ring::Datagram::send(self, bytes).await
    }

    async fn receive(&self) -> io::Result<Vec<u8>> {
        self.recv().await.map(|bytes: Buf| bytes.to_vec())
    }
}

/// One message behind its length (RFC 1035 §4.2.2), as it comes in.
#[derive(Default)]
struct Answer(Vec<u8>);

impl Answer {
    /// Takes what came; gives the message when it is whole. What follows it belongs to no query and is left.
    fn take(&mut self, bytes: &[u8]) -> io::Result<Option<Vec<u8>>> {
        let bytes_max = size_of::<u16>() + NAME_ANSWER_BYTES_MAX;
        self.0.extend_from_slice(&bytes[..bytes.len().min(bytes_max - self.0.len())]);
        let Some((length, message)) = self.0.split_first_chunk() else { return Ok(None) };
        let length = usize::from(u16::from_be_bytes(*length));
        if length < HEADER_BYTES {
            return Err(invalid("the answer is shorter than its header"));
        }
        if length > NAME_ANSWER_BYTES_MAX {
            return Err(invalid("the answer is too long"));
        }
        Ok(message.get(..length).map(<[u8]>::to_vec))
    }
}

fn invalid(why: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

impl Settings {
    /// The same settings; where they name no server, those of the file are asked.
    ///
    /// # Errors
    /// As [`system_name_servers`].
    pub fn or_system(mut self, resolv_conf: &Path) -> io::Result<Self> {
        if self.name_servers.is_empty() {
            self.name_servers = system_name_servers(resolv_conf)?;
        }
        Ok(self)
    }
}

/// The name servers of a file in the form of `resolv.conf(5)`. Blocks: for the start only.
///
/// A missing file names none. Unlike libc, none does not mean this machine: whoever listens there was not chosen.
///
/// # Errors
/// What the system says; `InvalidData` for a file beyond [`RESOLV_CONF_BYTES_MAX`].
pub fn system_name_servers(resolv_conf: &Path) -> io::Result<Vec<SocketAddr>> {
    let file = match File::open(resolv_conf) {
        Err(fault) if fault.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        file => file?,
    };
    let mut bytes = Vec::new();
    file.take(RESOLV_CONF_BYTES_MAX + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > RESOLV_CONF_BYTES_MAX {
        return Err(invalid("the list of name servers is too large"));
    }
    Ok(parse_name_servers(&String::from_utf8_lossy(&bytes)))
}

/// Lines that name no server are passed over; so are addresses with a zone (`fe80::1%eth0`), which hold on one link
/// only.
fn parse_name_servers(text: &str) -> Vec<SocketAddr> {
    let server = |line: &str| {
        let mut words = line.split_ascii_whitespace();
        let keyword = words.next()?;
        let address = words.next().filter(|_| keyword == "nameserver")?;
        Some(SocketAddr::new(address.parse::<IpAddr>().ok()?, NAME_SERVER_PORT))
    };
    text.lines().filter_map(server).take(NAME_SERVERS_MAX).collect()
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::limits::NAME_SERVER_TIME;
    use crate::ring::testing::{listener, on_shard};

    #[test]
    fn the_systems_servers_are_read_in_order_and_no_more_than_the_bound() {
        let text = "# nameserver 9.9.9.9\n; x\nsearch example\nnameserver 127.0.0.53\n  nameserver\t2001:db8::1 # x\n\
                    nameserver fe80::1%eth0\nnameserver nonsense\nnameserver\nnameservers 1.1.1.1\n";
        assert_eq!(
            parse_name_servers(text),
            ["127.0.0.53:53", "[2001:db8::1]:53"].map(|server| server.parse::<SocketAddr>().unwrap())
        );
        let many = "nameserver 1.1.1.1\n".repeat(NAME_SERVERS_MAX + 3);
        assert_eq!(parse_name_servers(&many).len(), NAME_SERVERS_MAX);
    }

    #[test]
    fn the_systems_servers_are_asked_only_where_the_settings_name_none() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("resolv.conf");
        std::fs::write(&file, "nameserver 192.0.2.1\n").unwrap();
        let settings =
            |name_servers: Vec<SocketAddr>| Settings { name_servers, hosts_file: PathBuf::from("/none") };
        let own: SocketAddr = "192.0.2.2:5353".parse().unwrap();
        assert_eq!(settings(vec![own]).or_system(&file).unwrap().name_servers, [own]);
        let found = settings(Vec::new()).or_system(&file).unwrap().name_servers;
        assert_eq!(found, ["192.0.2.1:53".parse::<SocketAddr>().unwrap()]);
        assert!(system_name_servers(&folder.path().join("none")).unwrap().is_empty());
        std::fs::write(&file, vec![b'#'; RESOLV_CONF_BYTES_MAX as usize + 1]).unwrap();
        assert!(system_name_servers(&file).is_err());
    }

    #[test]
    fn an_answer_is_whole_only_after_all_its_bytes_in_whatever_pieces() {
        let message: Vec<u8> = (0..40).collect();
        let wire = [&[0, 40], &message[..], b"more"].concat();
        for piece in 1..wire.len() {
            let mut answer = Answer::default();
            let whole = wire.chunks(piece).find_map(|bytes| answer.take(bytes).unwrap());
            assert_eq!(whole.as_ref(), Some(&message), "pieces of {piece}");
        }
        assert_eq!(Answer::default().take(&wire[..41]).unwrap(), None);
    }

    #[test]
    fn lengths_that_no_answer_has_are_refused_before_the_bytes_come() {
        let too_long = u16::try_from(NAME_ANSWER_BYTES_MAX + 1).unwrap();
        for length in [0, 11, too_long, u16::MAX] {
            assert!(Answer::default().take(&length.to_be_bytes()).is_err(), "{length}");
        }
    }

    #[test]
    fn one_query_over_tcp_is_framed_and_its_answer_unframed() {
        on_shard(|| async {
            let (listener, address) = listener();
            let server = async {
                let stream = listener.accept().await.unwrap();
                let mut query = Vec::new();
                while query.len() < 5 {
                    query.extend_from_slice(&stream.receive().await.unwrap().expect("a query"));
                }
                assert_eq!(query, b"\0\x03ask");
                stream.send(b"\0").await.unwrap();
                stream.send(b"\x0dthirteen byte").await.unwrap();
                stream
            };
            let (answer, _stream) =
                futures_lite::future::zip(RingTransport.exchange(address, b"ask"), server).await;
            assert_eq!(answer.unwrap(), b"thirteen byte");
        });
    }

    #[test]
    fn a_connection_that_ends_within_the_answer_is_a_fault() {
        on_shard(|| async {
            let (listener, address) = listener();
            let server = async {
                let stream = listener.accept().await.unwrap();
                stream.receive().await.unwrap().expect("a query");
                stream.send(b"\0\x20half").await.unwrap();
                stream.shutdown_write().unwrap();
                stream
            };
            let (answer, _stream) =
                futures_lite::future::zip(RingTransport.exchange(address, b"ask"), server).await;
            assert_eq!(answer.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        });
    }

    #[test]
    fn a_datagram_hears_its_server_and_a_closed_port_is_told() {
        on_shard(|| async {
            let (server, stranger) = (
                std::net::UdpSocket::bind("127.0.0.1:0").unwrap(),
                std::net::UdpSocket::bind("127.0.0.1:0").unwrap(),
            );
            let to = server.local_addr().unwrap();
            let socket = RingTransport.datagram(to).unwrap();
            Datagram::send(&socket, b"ask").await.unwrap();
            let mut bytes = [0; 16];
            let (count, from) = server.recv_from(&mut bytes).unwrap();
            assert_eq!(&bytes[..count], b"ask");
            assert_eq!(from, socket.local_addr().unwrap());
            stranger.send_to(b"forged", from).unwrap();
            server.send_to(b"answer", from).unwrap();
            let heard = RingTransport.within(NAME_SERVER_TIME, socket.receive()).await;
            assert_eq!(heard.unwrap().unwrap(), b"answer");
            drop(server);
            Datagram::send(&socket, b"ask").await.unwrap();
            let told = RingTransport.within(NAME_SERVER_TIME, socket.receive()).await;
            assert_eq!(told.unwrap().unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
        });
    }

    #[test]
    fn a_wait_through_the_ring_ends() {
        on_shard(|| async {
            let never = std::future::pending::<()>();
            assert_eq!(RingTransport.within(Duration::from_millis(1), never).await, None);
            assert_eq!(RingTransport.within(NAME_SERVER_TIME, async { 7 }).await, Some(7));
        });
    }
}
