//! Scripted origins: a thread for each connection, a closure for each request, and a log of everything that came.

use std::{
    io::{self, BufRead, BufReader, Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Condvar, Mutex},
    thread,
    time::Duration,
};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustls::{ServerConfig, ServerConnection, StreamOwned, pki_types::PrivateKeyDer};

/// A peer that says nothing for this long has failed the test.
const PATIENCE: Duration = Duration::from_secs(20);

/// A request as an origin saw it.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// Request line and fields, byte for byte, without the empty line.
    pub head: String,
    /// The decoded body.
    pub body: Vec<u8>,
}

impl Seen {
    /// Values of a field, in order.
    pub fn fields<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.head
            .lines()
            .skip(1)
            .filter_map(|line| line.split_once(':'))
            .filter(move |(found, _)| found.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.trim())
    }

    /// Method and target.
    pub fn line(&self) -> &str {
        self.head.lines().next().unwrap_or_default()
    }
}

/// Both directions of a connection, plain or TLS.
pub trait Duplex: Read + Write + Send {
    /// Says that nothing more is sent. Without it, TLS looks cut.
    ///
    /// # Errors
    /// What the socket says.
    fn end(&mut self) -> io::Result<()>;
}

impl Duplex for TcpStream {
    fn end(&mut self) -> io::Result<()> {
        self.shutdown(Shutdown::Write)
    }
}

impl Duplex for StreamOwned<ServerConnection, TcpStream> {
    fn end(&mut self) -> io::Result<()> {
        self.conn.send_close_notify();
        self.flush()?;
        self.sock.end()
    }
}

type Script = dyn Fn(&Seen, &mut dyn Write) -> io::Result<()> + Send + Sync;
type Wire = dyn Fn(&mut dyn Duplex) -> io::Result<()> + Send + Sync;

/// What a connection of an origin does.
#[derive(Clone)]
enum Part {
    /// Answers each whole request.
    Requests(Arc<Script>),
    /// Plays the bytes itself.
    Bytes(Arc<Wire>),
}

#[derive(Default)]
struct Log {
    seen: Mutex<Vec<Seen>>,
    connections: Mutex<usize>,
    ended: (Mutex<usize>, Condvar),
    changed: Condvar,
}

/// An origin that runs until the test process ends.
pub struct Origin {
    /// Where it listens.
    pub address: SocketAddr,
    /// The root that its certificate is signed by; one that signed nothing without TLS.
    pub root_pem: String,
    log: Arc<Log>,
}

impl Origin {
    /// A plain origin; the script writes whole answers.
    ///
    /// # Panics
    /// When loopback cannot be bound.
    pub fn plain(script: impl Fn(&Seen, &mut dyn Write) -> io::Result<()> + Send + Sync + 'static) -> Self {
        Self::start(free_port(), None, credentials(&[]).1, Part::Requests(Arc::new(script)))
    }

    /// A TLS origin with a certificate for these names.
    ///
    /// # Panics
    /// When loopback cannot be bound or a name is not one.
    pub fn tls(
        names: &[&str],
        script: impl Fn(&Seen, &mut dyn Write) -> io::Result<()> + Send + Sync + 'static,
    ) -> Self {
        Self::tls_on(free_port(), names, script)
    }

    /// The same on a socket that the test has bound.
    ///
    /// # Panics
    /// When a name is not one.
    pub fn tls_on(
        listener: TcpListener,
        names: &[&str],
        script: impl Fn(&Seen, &mut dyn Write) -> io::Result<()> + Send + Sync + 'static,
    ) -> Self {
        let (config, root_pem) = credentials(names);
        Self::start(listener, Some(config), root_pem, Part::Requests(Arc::new(script)))
    }

    /// An origin that plays each connection byte by byte; with names it opens TLS first. Nothing of it is logged but
    /// that it came.
    ///
    /// # Panics
    /// When loopback cannot be bound or a name is not one.
    pub fn wire(
        names: &[&str],
        script: impl Fn(&mut dyn Duplex) -> io::Result<()> + Send + Sync + 'static,
    ) -> Self {
        let (config, root_pem) = credentials(names);
        let tls = (!names.is_empty()).then_some(config);
        Self::start(free_port(), tls, root_pem, Part::Bytes(Arc::new(script)))
    }

    /// The same with TLS of the test's own, for clients that trust this root.
    ///
    /// # Panics
    /// When loopback cannot be bound.
    pub fn wire_of(
        config: ServerConfig,
        root_pem: String,
        script: impl Fn(&mut dyn Duplex) -> io::Result<()> + Send + Sync + 'static,
    ) -> Self {
        Self::start(free_port(), Some(Arc::new(config)), root_pem, Part::Bytes(Arc::new(script)))
    }

    /// What an origin over TLS needs whose connections somebody else serves: itself, its listener, its settings, and
    /// what counts a connection.
    pub(crate) fn apart(names: &[&str]) -> (Self, TcpListener, ServerConfig, impl Fn() + Send + 'static) {
        let (config, root_pem) = credentials(names);
        let (listener, log) = (free_port(), Arc::new(Log::default()));
        let address = listener.local_addr().expect("a bound socket has an address");
        let shared = Arc::clone(&log);
        let count = move || {
            *shared.connections.lock().expect("no thread panicked holding it") += 1;
            shared.changed.notify_all();
        };
        (Self { address, root_pem, log }, listener, ServerConfig::clone(&config), count)
    }

    /// What counts an end of a connection that somebody else serves.
    pub(crate) fn ends(&self) -> Arc<impl Fn() + Send + Sync + 'static> {
        let log = Arc::clone(&self.log);
        Arc::new(move || {
            *log.ended.0.lock().expect("no thread panicked holding it") += 1;
            log.ended.1.notify_all();
        })
    }

    /// Waits until so many connections have ended, of those that somebody else serves.
    ///
    /// # Panics
    /// When they do not end within twenty seconds.
    pub fn wait_for_ends(&self, count: usize) {
        let (ended, changed) = &self.log.ended;
        let ended = ended.lock().expect("no thread panicked holding it");
        let few = |ended: &mut usize| *ended < count;
        let waited = changed.wait_timeout_while(ended, PATIENCE, few).expect("no thread panicked").1;
        assert!(!waited.timed_out(), "{count} connections have not ended");
    }

    fn start(listener: TcpListener, tls: Option<Arc<ServerConfig>>, root_pem: String, part: Part) -> Self {
        let address = listener.local_addr().expect("a bound socket has an address");
        let log = Arc::new(Log::default());
        let shared = Arc::clone(&log);
        thread::spawn(move || {
            while let Ok((socket, _)) = listener.accept() {
                *shared.connections.lock().expect("no thread panicked holding it") += 1;
                shared.changed.notify_all();
                let (tls, log, part) = (tls.clone(), Arc::clone(&shared), part.clone());
                thread::spawn(move || {
                    // A connection that breaks is what many tests are about; the log says what came before.
                    let _ = serve(socket, tls, &log, &part);
                });
            }
        });
        Self { address, root_pem, log }
    }

    /// Everything that came so far.
    ///
    /// # Panics
    /// When a thread of the origin panicked.
    pub fn seen(&self) -> Vec<Seen> {
        self.log.seen.lock().expect("no thread panicked holding it").clone()
    }

    /// Connections that were opened so far.
    ///
    /// # Panics
    /// When a thread of the origin panicked.
    pub fn connections(&self) -> usize {
        *self.log.connections.lock().expect("no thread panicked holding it")
    }

    /// Waits until so many requests have come.
    ///
    /// # Panics
    /// When they do not come within twenty seconds.
    pub fn wait_for(&self, requests: usize) -> Vec<Seen> {
        let seen = self.log.seen.lock().expect("no thread panicked holding it");
        let (seen, waited) = self
            .log
            .changed
            .wait_timeout_while(seen, PATIENCE, |seen| seen.len() < requests)
            .expect("no thread panicked holding it");
        assert!(!waited.timed_out(), "{} of {requests} requests came", seen.len());
        seen.clone()
    }
}

fn free_port() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").expect("loopback can be bound")
}

/// Answers with status 200 and this body.
///
/// # Errors
/// Those of the connection.
pub fn respond(out: &mut dyn Write, body: &[u8]) -> io::Result<()> {
    write!(out, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len())?;
    out.write_all(body)?;
    out.flush()
}

fn serve(socket: TcpStream, tls: Option<Arc<ServerConfig>>, log: &Log, part: &Part) -> io::Result<()> {
    socket.set_nodelay(true)?;
    socket.set_read_timeout(Some(PATIENCE * 3))?;
    let mut stream: Box<dyn Duplex> = match tls {
        Some(config) => {
            let connection = ServerConnection::new(config).map_err(io::Error::other)?;
            Box::new(StreamOwned::new(connection, socket))
        }
        None => Box::new(socket),
    };
    let script = match part {
        Part::Requests(script) => script,
        Part::Bytes(wire) => return wire(&mut *stream),
    };
    let mut reader = BufReader::new(stream);
    while let Some(seen) = read_request(&mut reader)? {
        log.seen.lock().expect("no thread panicked holding it").push(seen.clone());
        log.changed.notify_all();
        script(&seen, reader.get_mut())?;
    }
    Ok(())
}

fn read_request(reader: &mut BufReader<Box<dyn Duplex>>) -> io::Result<Option<Seen>> {
    let mut head = String::new();
    loop {
        let before = head.len();
        if reader.read_line(&mut head)? == 0 {
            return Ok(None);
        }
        if head[before..] == *"\r\n" {
            head.truncate(before);
            break;
        }
    }
    let mut seen = Seen { head, body: Vec::new() };
    if seen.fields("expect").any(|value| value.eq_ignore_ascii_case("100-continue")) {
        write!(reader.get_mut(), "HTTP/1.1 100 Continue\r\n\r\n")?;
        reader.get_mut().flush()?;
    }
    if seen.fields("transfer-encoding").any(|value| value.eq_ignore_ascii_case("chunked")) {
        seen.body = read_chunks(reader)?;
        return Ok(Some(seen));
    }
    let length = seen.fields("content-length").next().map(str::parse::<u64>).transpose();
    if let Some(length) = length.map_err(io::Error::other)? {
        reader.take(length).read_to_end(&mut seen.body)?;
        if seen.body.len() as u64 != length {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(Some(seen))
}

fn read_chunks(reader: &mut impl BufRead) -> io::Result<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let size = u64::from_str_radix(line.trim(), 16).map_err(io::Error::other)?;
        if size == 0 {
            // Trailers, then the empty line.
            while reader.read_line(&mut line)? > 2 {
                line.clear();
            }
            return Ok(body);
        }
        reader.by_ref().take(size).read_to_end(&mut body)?;
        reader.read_line(&mut line)?;
    }
}

fn credentials(names: &[&str]) -> (Arc<ServerConfig>, String) {
    let key = || KeyPair::generate().expect("a key can be made");
    let mut root = CertificateParams::default();
    // A leaf of the same name would be self-signed in the eyes of OpenSSL.
    root.distinguished_name.push(DnType::CommonName, "Origin test authority");
    root.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    let issuer = CertifiedIssuer::self_signed(root, key()).expect("a root can be signed");
    let leaf_key = key();
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let leaf = CertificateParams::new(names)
        .expect("names are names")
        .signed_by(&leaf_key, &issuer)
        .expect("signed");
    let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![leaf.der().clone()], PrivateKeyDer::Pkcs8(leaf_key.serialize_der().into()))
        .expect("key and certificate belong together");
    (Arc::new(config), issuer.pem())
}
