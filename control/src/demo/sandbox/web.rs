//! The program in the sandbox: an HTTP client that knows nothing of a gateway unless it must use a proxy.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use data_encoding::BASE64;
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use rustls_pki_types::{CertificateDer, ServerName, pem::PemObject};

use super::names;
use crate::demo::word::{Got, Road, Wanted};

/// A gateway that says nothing for so long has failed.
pub const PATIENCE: Duration = Duration::from_secs(15);
/// Bytes of an answer that the demo takes.
const ANSWER_BYTES_MAX: usize = 1 << 20;

trait Duplex: Read + Write {}
impl<T: Read + Write> Duplex for T {}

/// Connections and trust of one room, and all that was ever heard in it.
#[derive(Default)]
pub struct Web {
    /// What is trusted; nothing before [`Web::trust`].
    pub trusted: Option<Arc<ClientConfig>>,
    /// Answers, with their heads, one behind the other.
    pub heard: Vec<u8>,
    open: HashMap<(bool, String, u16), Box<dyn Duplex>>,
}

impl Web {
    /// Fetches the certificate of this room's authority and trusts it from now on.
    pub fn trust(&mut self, road: &Road, room: usize) -> io::Result<()> {
        let (method, path, body) = ("GET".into(), "/ca.pem".into(), String::new());
        let wanted = Wanted { method, tls: false, host: "outgate.internal".into(), port: 80, path, body };
        let got = self.send(road, room, &wanted)?;
        if got.status != 200 {
            return Err(io::Error::other(format!("outgate.internal answered {}: {}", got.status, got.body)));
        }
        self.trusted = Some(trusting(got.body.as_bytes())?);
        Ok(())
    }

    /// Sends one request, over the connection that an earlier one has left where there is one.
    pub fn send(&mut self, road: &Road, room: usize, wanted: &Wanted) -> io::Result<Got> {
        let key = (wanted.tls, wanted.host.clone(), wanted.port);
        let mut opened_micros = None;
        if !self.open.contains_key(&key) {
            let started = Instant::now();
            let connection = self.connect(road, room, wanted)?;
            opened_micros = Some(micros(started));
            self.open.insert(key.clone(), connection);
        }
        let head = head(wanted, forwarded(road, room, wanted).as_ref());
        let started = Instant::now();
        // Not put back where it fails.
        let mut connection = self.open.remove(&key).ok_or(io::ErrorKind::NotConnected)?;
        connection.write_all(&[head.as_bytes(), wanted.body.as_bytes()].concat())?;
        connection.flush()?;
        let (head, body) = read_answer(&mut connection)?;
        let micros = micros(started);
        self.heard.extend_from_slice(head.as_bytes());
        self.heard.extend_from_slice(&body);
        if !closes(&head) {
            self.open.insert(key, connection);
        }
        Ok(Got { status: status(&head)?, body: String::from_utf8_lossy(&body).into(), opened_micros, micros })
    }

    fn connect(&self, road: &Road, room: usize, wanted: &Wanted) -> io::Result<Box<dyn Duplex>> {
        let socket = dial(road, room, wanted)?;
        if !wanted.tls {
            return Ok(Box::new(socket));
        }
        let mut stream = StreamOwned::new(self.client(&wanted.host)?, socket);
        while stream.conn.is_handshaking() {
            stream.conn.complete_io(&mut stream.sock)?;
        }
        Ok(Box::new(stream))
    }

    /// A TLS client for a name, by what is trusted.
    pub fn client(&self, host: &str) -> io::Result<ClientConnection> {
        let config = self.trusted.clone().ok_or_else(|| io::Error::other("nothing is trusted yet"))?;
        let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
        ClientConnection::new(config, name).map_err(io::Error::other)
    }
}

/// A client's settings that trust one certificate in PEM form, and nothing else.
pub fn trusting(pem: &[u8]) -> io::Result<Arc<ClientConfig>> {
    let mut roots = RootCertStore::empty();
    let certificate = CertificateDer::from_pem_slice(pem).map_err(io::Error::other)?;
    roots.add(certificate).map_err(io::Error::other)?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let config = config.map_err(io::Error::other)?.with_root_certificates(roots).with_no_client_auth();
    Ok(Arc::new(config))
}

/// Whether the proxy is asked to forward the request itself, and the credentials for that.
fn forwarded(road: &Road, room: usize, wanted: &Wanted) -> Option<String> {
    match road {
        Road::Proxy { credentials, .. } if !wanted.tls => credentials.get(room).map(authorization),
        _ => None,
    }
}

fn authorization((user, password): &(String, String)) -> String {
    format!("Proxy-Authorization: Basic {}\r\n", BASE64.encode(format!("{user}:{password}").as_bytes()))
}

/// A connection that leads to the host, by name and address or through the proxy.
pub fn dial(road: &Road, room: usize, wanted: &Wanted) -> io::Result<TcpStream> {
    let patient = |socket: TcpStream| {
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.set_write_timeout(Some(PATIENCE))?;
        Ok::<_, io::Error>(socket)
    };
    let Wanted { host, port, tls, .. } = wanted;
    match road {
        Road::Captured => patient(TcpStream::connect((names::lookup(host)?, *port))?),
        Road::Proxy { address, credentials } => {
            let mut socket = patient(TcpStream::connect(address)?)?;
            if !tls {
                return Ok(socket);
            }
            let credentials = credentials.get(room).map(authorization).unwrap_or_default();
            write!(socket, "CONNECT {host}:{port} HTTP/1.1\r\nHost: {host}:{port}\r\n{credentials}\r\n")?;
            let head = read_head(&mut socket)?;
            match status(&head)? {
                200 => Ok(socket),
                refused => Err(io::Error::other(format!("the proxy answered {refused} to CONNECT"))),
            }
        }
    }
}

fn head(wanted: &Wanted, forwarded: Option<&String>) -> String {
    let Wanted { method, host, port, path, body, .. } = wanted;
    let authority = if *port == 80 { host.clone() } else { format!("{host}:{port}") };
    let (origin, credentials) =
        forwarded.map_or((String::new(), ""), |credentials| (format!("http://{authority}"), &**credentials));
    let length = if body.is_empty() { String::new() } else { format!("Content-Length: {}\r\n", body.len()) };
    format!(
        "{method} {origin}{path} HTTP/1.1\r\nHost: {authority}\r\nUser-Agent: demo\r\n{credentials}{length}\r\n"
    )
}

/// Byte by byte, so that nothing behind the head is taken.
fn read_head(stream: &mut impl Read) -> io::Result<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut one = [0];
        stream.read_exact(&mut one)?;
        head.push(one[0]);
        if head.len() > ANSWER_BYTES_MAX {
            return Err(io::ErrorKind::InvalidData.into());
        }
    }
    String::from_utf8(head).map_err(io::Error::other)
}

fn read_answer(stream: &mut impl Read) -> io::Result<(String, Vec<u8>)> {
    let head = read_head(stream)?;
    let length = field(&head, "content-length").and_then(|text| text.parse().ok());
    let length = length.ok_or_else(|| io::Error::other(format!("an answer without a length: {head}")))?;
    if length > ANSWER_BYTES_MAX {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body)?;
    Ok((head, body))
}

fn field<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    let mut fields = head.lines().skip(1).filter_map(|line| line.split_once(':'));
    fields.find(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
}

fn closes(head: &str) -> bool {
    field(head, "connection").is_some_and(|value| value.eq_ignore_ascii_case("close"))
}

fn status(head: &str) -> io::Result<u16> {
    let status = head.split(' ').nth(1).and_then(|text| text.parse().ok());
    status.ok_or_else(|| io::Error::other(format!("no status in {head:?}")))
}

fn micros(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(tls: bool) -> Wanted {
        let (method, path, body) = ("POST".into(), "/p".into(), "x=1".into());
        Wanted { method, tls, host: "a.example".into(), port: 8443, path, body }
    }

    #[test]
    fn only_a_plain_request_through_the_proxy_carries_the_proxys_credentials() {
        let proxy = Road::Proxy {
            address: "127.0.0.1:1".parse().unwrap(),
            credentials: vec![("box".into(), "word".into())],
        };
        let text = |road, tls| head(&wanted(tls), forwarded(road, 0, &wanted(tls)).as_ref());
        let plain = text(&proxy, false);
        assert!(
            plain.starts_with("POST http://a.example:8443/p HTTP/1.1\r\nHost: a.example:8443\r\n"),
            "{plain}"
        );
        assert!(plain.contains("Proxy-Authorization: Basic Ym94OndvcmQ=\r\n"), "{plain}");
        for head in [text(&proxy, true), text(&Road::Captured, false), text(&Road::Captured, true)] {
            assert!(head.starts_with("POST /p HTTP/1.1\r\n") && !head.contains("Proxy-"), "{head}");
            assert!(head.contains("Content-Length: 3\r\n") && head.ends_with("\r\n\r\n"), "{head}");
        }
    }

    #[test]
    fn an_answer_is_read_to_its_length_and_no_further() {
        let mut bytes =
            &b"HTTP/1.1 403 Forbidden\r\ncontent-length: 2\r\nConnection: Close\r\n\r\nnoHTTP"[..];
        let (head, body) = read_answer(&mut bytes).unwrap();
        assert_eq!((status(&head).unwrap(), &body[..], bytes), (403, &b"no"[..], &b"HTTP"[..]));
        assert!(closes(&head));
        assert!(read_answer(&mut &b"HTTP/1.1 200 OK\r\n\r\n"[..]).is_err());
    }
}
