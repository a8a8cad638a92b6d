//! The other end: a TLS server on loopback that plays the hosts of the demo, and remembers all that it saw.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustix::time::{ClockId, clock_gettime};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use rustls_pki_types::PrivateKeyDer;

use crate::serve::Fault;

/// Bytes of a line of a stream.
const LINE_BYTES: usize = 256;
/// Pause between two lines of a stream.
const LINE_PAUSE: Duration = Duration::from_millis(10);
/// A request's head and body are small here.
const REQUEST_BYTES_MAX: u64 = 64 << 10;

/// A request as it arrived.
#[derive(Clone, Debug)]
pub struct Seen {
    /// Method and path.
    pub line: String,
    /// Value of `Host`.
    pub host: String,
    /// Value of `Authorization`.
    pub authorization: Option<String>,
}

/// A server that runs until the demo ends.
pub struct Origin {
    /// Where it listens.
    pub address: SocketAddr,
    /// The root by which its certificate is verified.
    pub root_pem: String,
    log: Arc<Mutex<Log>>,
}

#[derive(Default)]
struct Log {
    connections: usize,
    seen: Vec<Seen>,
}

impl Origin {
    /// Starts a server with a certificate for these names.
    pub fn start(names: &[&str]) -> Result<Self, Fault> {
        let (config, root_pem) = credentials(names)?;
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let address = listener.local_addr()?;
        let log = Arc::new(Mutex::new(Log::default()));
        let shared = Arc::clone(&log);
        std::thread::spawn(move || {
            while let Ok((socket, _)) = listener.accept() {
                locked(&shared).connections += 1;
                let (config, log) = (Arc::clone(&config), Arc::clone(&shared));
                // A connection that breaks off is the plane's to tell.
                std::thread::spawn(move || serve(socket, config, &log).unwrap_or_default());
            }
        });
        Ok(Self { address, root_pem, log })
    }

    /// Connections so far.
    pub fn connections(&self) -> usize {
        locked(&self.log).connections
    }

    /// Requests so far, the oldest first.
    pub fn seen(&self) -> Vec<Seen> {
        locked(&self.log).seen.clone()
    }
}

/// Nanoseconds of the clock that all processes of a machine share.
pub fn monotonic_nanos() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    u64::try_from(now.tv_sec * 1_000_000_000 + now.tv_nsec).unwrap_or_default()
}

/// A thread that panicked left a log that is whole.
fn locked(log: &Mutex<Log>) -> MutexGuard<'_, Log> {
    log.lock().unwrap_or_else(PoisonError::into_inner)
}

fn serve(socket: TcpStream, config: Arc<ServerConfig>, log: &Mutex<Log>) -> io::Result<()> {
    socket.set_nodelay(true)?;
    let connection = ServerConnection::new(config).map_err(io::Error::other)?;
    let mut reader = BufReader::new(StreamOwned::new(connection, socket));
    while let Some((seen, body)) = read_request(&mut reader)? {
        let streams = seen.line.ends_with(" /stream");
        let answer = if seen.line.ends_with(" /echo") { body } else { b"{\"login\":\"octocat\"}\n".to_vec() };
        locked(log).seen.push(seen);
        let out = reader.get_mut();
        if streams {
            return stream(out);
        }
        write!(out, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", answer.len())?;
        out.write_all(&answer)?;
        out.flush()?;
    }
    Ok(())
}

/// Lines that begin with the time, until the other side is gone.
fn stream(out: &mut impl Write) -> io::Result<()> {
    write!(out, "HTTP/1.1 200 OK\r\nContent-Length: 1000000000000\r\n\r\n")?;
    loop {
        let mut line = format!("{:016x}", monotonic_nanos()).into_bytes();
        line.resize(LINE_BYTES - 1, b'.');
        line.push(b'\n');
        out.write_all(&line)?;
        out.flush()?;
        std::thread::sleep(LINE_PAUSE);
    }
}

fn read_request(reader: &mut impl BufRead) -> io::Result<Option<(Seen, Vec<u8>)>> {
    let mut reader = reader.take(REQUEST_BYTES_MAX);
    let mut line = String::new();
    if reader.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    let line = line.trim_end().trim_end_matches(" HTTP/1.1").to_owned();
    let mut seen = Seen { line, host: String::new(), authorization: None };
    let mut length = 0;
    loop {
        let mut field = String::new();
        reader.read_line(&mut field)?;
        let Some((name, value)) = field.trim_end().split_once(':') else { break };
        match name.to_ascii_lowercase().as_str() {
            "host" => seen.host = value.trim().to_owned(),
            "authorization" => seen.authorization = Some(value.trim().to_owned()),
            "content-length" => length = value.trim().parse().map_err(io::Error::other)?,
            _ => {}
        }
    }
    let mut body = Vec::new();
    reader.take(length).read_to_end(&mut body)?;
    Ok(Some((seen, body)))
}

fn credentials(names: &[&str]) -> Result<(Arc<ServerConfig>, String), Fault> {
    let mut root = CertificateParams::default();
    // A leaf of the same name would be self-signed in the eyes of OpenSSL.
    root.distinguished_name.push(DnType::CommonName, "Origin test authority");
    root.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    let issuer = CertifiedIssuer::self_signed(root, KeyPair::generate()?)?;
    let key = KeyPair::generate()?;
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let leaf = CertificateParams::new(names)?.signed_by(&key, &issuer)?;
    let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(vec![leaf.der().clone()], PrivateKeyDer::Pkcs8(key.serialize_der().into()))?;
    Ok((Arc::new(config), issuer.pem()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_read_with_its_credential_and_body_and_no_further() {
        let text = b"POST /echo HTTP/1.1\r\nHost: a.example\r\nAUTHORIZATION: Bearer x\r\nContent-Length: 2\r\n\r\nhiGET";
        let mut reader = &text[..];
        let (seen, body) = read_request(&mut reader).unwrap().unwrap();
        assert_eq!((seen.line.as_str(), seen.host.as_str()), ("POST /echo", "a.example"));
        assert_eq!(
            (seen.authorization.as_deref(), &body[..], reader),
            (Some("Bearer x"), &b"hi"[..], &b"GET"[..])
        );
        assert!(read_request(&mut &b""[..]).unwrap().is_none());
    }
}
