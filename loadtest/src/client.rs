//! The clients: each keeps one request under way, checks its answer, and asks again.

use std::{
    fs, io,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use hdrhistogram::Histogram;
use mio::{Events, Interest, Poll, Token, net::TcpStream};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};

use crate::{
    answer,
    plan::{Plan, Way},
    report::Report,
    transport::Transport,
    usage::Usage,
};

/// A connection that made no progress for this long ends the run with an error.
const STALL: Duration = Duration::from_secs(10);

enum Phase {
    Tunnel,
    Asking { since: Instant },
}

struct Client {
    transport: Transport,
    phase: Phase,
    input: Vec<u8>,
    began: Instant,
}

/// What all clients share.
struct Load<'p> {
    plan: &'p Plan,
    tls: Option<(Arc<ClientConfig>, ServerName<'static>)>,
    request: Vec<u8>,
    report: Report,
    poll: Poll,
}

/// Runs a plan to its end.
///
/// # Errors
/// When the roots cannot be read, the target cannot be reached, or nothing is answered for ten seconds.
pub fn run(plan: &Plan) -> io::Result<Report> {
    plan.check().map_err(io::Error::other)?;
    let tls = plan.roots.as_deref().map(|roots| client_config(roots, &plan.host)).transpose()?;
    let mut load =
        Load { plan, tls, request: request_bytes(plan), report: Report::new(plan), poll: Poll::new()? };
    let mut clients: Vec<Client> = Vec::with_capacity(plan.connections);
    for index in 0..plan.connections {
        clients.push(load.open(index)?);
    }
    let (began, before) = (Instant::now(), Usage::of_all(&plan.pids)?);
    let mut events = Events::with_capacity(1024);
    let mut last_progress = began;
    while began.elapsed() < plan.time && load.report.answers < plan.requests_max {
        load.poll.poll(&mut events, Some(Duration::from_millis(100)))?;
        let answers = load.report.answers;
        for event in &events {
            let Token(index) = event.token();
            if let Err(error) = load.turn(&mut clients[index], index) {
                load.report.error(&error);
                clients[index] = load.open(index)?;
            }
        }
        if load.report.answers > answers {
            last_progress = Instant::now();
        } else if last_progress.elapsed() > STALL {
            let first = load.report.first_error.as_deref().unwrap_or("the target is silent");
            return Err(io::Error::other(format!("no answer for {STALL:?}: {first}")));
        }
    }
    load.report.finish(began.elapsed(), before, Usage::of_all(&plan.pids)?);
    Ok(load.report)
}

impl Load<'_> {
    fn open(&self, index: usize) -> io::Result<Client> {
        let began = Instant::now();
        let address = self.plan.way.address();
        // A blocking connect on loopback is answered by the kernel at once, so that a refused target is one clear error.
        let socket = std::net::TcpStream::connect(address)
            .map_err(|error| io::Error::other(format!("cannot connect to {address}: {error}")))?;
        socket.set_nodelay(true)?;
        socket.set_nonblocking(true)?;
        let mut transport = Transport::plain(TcpStream::from_std(socket));
        let phase = match (&self.plan.way, &self.tls) {
            (Way::Proxy { authorization, .. }, Some(_)) => {
                let credentials = authorization
                    .as_ref()
                    .map_or(String::new(), |value| format!("Proxy-Authorization: {value}\r\n"));
                let (host, port) = (&self.plan.host, self.plan.port);
                transport.queue(
                    format!("CONNECT {host}:{port} HTTP/1.1\r\nHost: {host}:{port}\r\n{credentials}\r\n")
                        .as_bytes(),
                )?;
                Phase::Tunnel
            }
            _ => {
                self.start_tls(&mut transport)?;
                transport.queue(&self.request)?;
                Phase::Asking { since: began }
            }
        };
        transport.flush()?;
        let interest = Interest::READABLE | Interest::WRITABLE;
        self.poll.registry().register(transport.socket(), Token(index), interest)?;
        Ok(Client { transport, phase, input: Vec::new(), began })
    }

    fn start_tls(&self, transport: &mut Transport) -> io::Result<()> {
        match &self.tls {
            Some((config, name)) => transport.start_tls(config, name.clone()),
            None => Ok(()),
        }
    }

    /// One readiness of one connection.
    fn turn(&mut self, client: &mut Client, index: usize) -> io::Result<()> {
        let open = client.transport.read(&mut client.input)?;
        while let Some(message) = answer::complete(&client.input).map_err(io::Error::other)? {
            let status = answer::status(&client.input);
            client.input.drain(..message.total);
            match client.phase {
                Phase::Tunnel if status != 200 => {
                    return Err(io::Error::other(format!("CONNECT was answered {status}")));
                }
                Phase::Tunnel => {
                    self.start_tls(&mut client.transport)?;
                    client.transport.queue(&self.request)?;
                    client.phase = Phase::Asking { since: client.began };
                }
                Phase::Asking { since } => {
                    self.report.answer(status, message.total - message.head, since.elapsed());
                    if self.plan.reconnect {
                        *client = self.open(index)?;
                        return Ok(());
                    }
                    client.transport.queue(&self.request)?;
                    client.phase = Phase::Asking { since: Instant::now() };
                }
            }
        }
        client.transport.flush()?;
        if open { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
    }
}

fn request_bytes(plan: &Plan) -> Vec<u8> {
    let Plan { host, port, path, .. } = plan;
    let default_port = if plan.roots.is_some() { 443 } else { 80 };
    let authority = if *port == default_port { host.clone() } else { format!("{host}:{port}") };
    let (target, credentials) = match &plan.way {
        Way::Proxy { authorization, .. } if plan.roots.is_none() => (
            format!("http://{authority}{path}"),
            authorization.as_ref().map_or(String::new(), |value| format!("Proxy-Authorization: {value}\r\n")),
        ),
        _ => (path.clone(), String::new()),
    };
    format!(
        "GET {target} HTTP/1.1\r\nHost: {authority}\r\nUser-Agent: outgate-loadtest\r\nAccept: */*\r\n{credentials}\r\n"
    )
    .into_bytes()
}

fn client_config(roots: &Path, host: &str) -> io::Result<(Arc<ClientConfig>, ServerName<'static>)> {
    let pem = fs::read(roots)
        .map_err(|error| io::Error::other(format!("cannot read the roots {}: {error}", roots.display())))?;
    let mut store = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        store.add(certificate.map_err(io::Error::other)?).map_err(io::Error::other)?;
    }
    let provider = rustls::crypto::CryptoProvider {
        cipher_suites: vec![
            rustls::crypto::aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256,
            rustls::crypto::aws_lc_rs::cipher_suite::TLS13_AES_256_GCM_SHA384,
        ],
        kx_groups: vec![rustls::crypto::aws_lc_rs::kx_group::X25519],
        ..rustls::crypto::aws_lc_rs::default_provider()
    };
    let mut config = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .with_root_certificates(store)
        .with_no_client_auth();
    config.resumption = rustls::client::Resumption::disabled();
    let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
    Ok((Arc::new(config), name))
}

/// An empty histogram of microseconds, up to one minute, three digits.
pub(crate) fn micros() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 60_000_000, 3).expect("the bounds are constants that the library accepts")
}
