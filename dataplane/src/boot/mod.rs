//! From settings to running shards, and the order in which everything ends.

mod copies;
mod follow;
mod harden;
mod wakes;

use std::{
    fs, io,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
    time::Instant,
};

use control_wire::envelope::CompileTarget;
use rustls::RootCertStore;
use rustls_pki_types::{CertificateDer, pem::PemObject};
use zeroize::Zeroizing;

use crate::{
    admin::to_pem,
    attach::{self, AttachError, Keeper},
    audit::{Audit, Sink},
    causes::tell,
    clock::Lease,
    config::{Config, ConfigError},
    handler,
    limits::{JOIN_TOKEN_BYTES_MAX, STATE_FOLDER_PAUSE, STATE_FOLDER_TIME, UPSTREAM_ROOTS_BYTES_MAX},
    link::{self, LinkConfig, LinkError, LinkHandle},
    ring::{self, RingConfig, RingError},
    shard::{PlaceError, Settings, Shards, StartError},
    tls::{RootsError, UpstreamTls},
    upstream,
};
pub use copies::settle as settle_copies;
use follow::Follower;
use wakes::Wakes;

/// Where the system names its servers.
const RESOLV_CONF: &str = "/etc/resolv.conf";

/// Why the plane did not start.
#[derive(Debug, thiserror::Error)]
pub enum BootError {
    /// The settings.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The machine gives no ring.
    #[error(transparent)]
    Ring(#[from] RingError),
    /// The process could not be set up.
    #[error("the kernel refuses what the process needs: {what}")]
    Process {
        /// What was asked.
        what: &'static str,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// A file or folder that the settings name.
    #[error("`{setting}`: cannot use {path}")]
    File {
        /// Name of the setting.
        setting: &'static str,
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// Identity and pool.
    #[error("the plane cannot join")]
    Join(#[from] LinkError),
    /// The roots of upstreams.
    #[error("upstreams cannot be verified; install ca-certificates or set upstream.rootsFile")]
    Roots(#[from] RootsError),
    /// A shard.
    #[error(transparent)]
    Shards(#[from] StartError),
    /// An address of the explicit proxy.
    #[error("`proxy`: cannot listen on {address}")]
    Proxy {
        /// The address.
        address: std::net::SocketAddr,
        /// Why not.
        #[source]
        source: PlaceError,
    },
    /// The local socket.
    #[error("`attachSocket`")]
    Attach(#[from] AttachError),
    /// Another plane keeps its state there.
    #[error("`stateDir`: another plane runs in {}; stop it or set another folder", path.display())]
    Occupied {
        /// The folder.
        path: PathBuf,
    },
    /// A thread could not be started.
    #[error("cannot start a thread")]
    Thread(#[source] io::Error),
}

/// Looks whether a plane could run here with these settings, and starts none.
///
/// # Errors
/// What would keep it from running.
pub fn check(config: &Config) -> Result<(), BootError> {
    ring::preflight()?;
    roots(config).map(drop)
}

/// Runs a plane until a signal ends it.
///
/// # Errors
/// What kept it from starting. Once it runs, nothing that control or a sandbox does ends it.
pub fn run(config: &Config) -> Result<(), BootError> {
    let process = |what| move |source| BootError::Process { what, source };
    harden::hide_memory().map_err(process("hiding its memory"))?;
    harden::raise_descriptors().map_err(process("raising the number of descriptors"))?;
    let small_pages = harden::SmallPages::ask().map_err(process("asking for small pages"))?;
    // Before any thread is there that could be ended by one.
    let mut wakes = Wakes::of_signals().map_err(process("handling signals"))?;
    let keeper = Keeper::from_environment()?;
    if let Some(keeper) = &keeper {
        let following = keeper.watched().and_then(|keeper| wakes.end_with(keeper));
        following.map_err(process("following its keeper"))?;
    }
    ring::preflight()?;

    let Some(_occupied) = occupy(&config.state_dir, &mut wakes)? else { return Ok(()) };
    let (roots, roots_pem) = roots(config)?;
    let names = names(config)?;
    let target = handler::target();
    let lease = Arc::new(Lease::default());
    let settings = link_config(config, &target, &lease)?;
    // Before anything listens: without identity and master nobody could be answered.
    let Some((settings, member)) = wakes.entered(settings)? else { return Ok(()) };

    let (audit, writer) = records(config)?;
    // The shards speak through the link and the link through the shards; who comes first waits for the other.
    let link = Arc::new(OnceLock::<LinkHandle>::new());
    let (acknowledging, offering, asking) = (Arc::clone(&link), Arc::clone(&link), Arc::clone(&link));
    let shards = Arc::new(Shards::start(Settings {
        shards: config.shard_count(),
        pin: config.pin,
        ring: RingConfig::default(),
        names,
        roots,
        roots_pem,
        master: Arc::clone(member.master()),
        lease,
        audit,
        offer_certificate: Box::new(move |sandbox, der| {
            offering.wait().offer_certificate(sandbox.to_owned(), der)
        }),
        ask: Box::new(move |question| asking.wait().ask(question)),
        enforced: Box::new(move |revision| acknowledging.wait().acknowledge(revision)),
    })?);
    drop(small_pages);
    let mut follower = Follower::new(Arc::clone(&shards), Arc::clone(&link), target);
    let started =
        link::start(settings, member, move |event| follower.hear(event)).map_err(BootError::Thread)?;
    let _first = link.set(started);

    for &address in &config.proxy {
        let bound = shards.listen_proxy(address).map_err(|source| BootError::Proxy { address, source })?;
        tell(format_args!("explicit proxy on {bound}"));
    }
    let attach = &config.attach_socket;
    let attach = attach.as_ref().map(|path| attach::start(path, Arc::clone(&shards), keeper)).transpose()?;
    tell(format_args!("{} with {} shards serves", config.name, config.shard_count()));
    wakes.until_end();
    drop(attach);
    shards.stop();
    // Ends when all that the shards recorded is written.
    let _ended = writer.join();
    Ok(())
}

/// Makes the folder of the plane's state, and is the only plane in it for as long as the answer lives: the plane before
/// may still be on its way out, with the sockets that this one needs. `None` when this one is to end meanwhile.
fn occupy(folder: &Path, wakes: &mut Wakes) -> Result<Option<fs::File>, BootError> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(file("stateDir", folder))?;
    let path = folder.join("occupied");
    let opened = fs::File::options().create(true).write(true).truncate(false).mode(0o600).open(&path);
    let occupied = opened.map_err(file("stateDir", &path))?;
    let end = Instant::now() + STATE_FOLDER_TIME;
    let mut told = false;
    loop {
        match occupied.try_lock() {
            Ok(()) => return Ok(Some(occupied)),
            Err(fs::TryLockError::Error(error)) => return Err(file("stateDir", &path)(error)),
            Err(fs::TryLockError::WouldBlock) if Instant::now() >= end => {
                return Err(BootError::Occupied { path: folder.to_owned() });
            }
            Err(fs::TryLockError::WouldBlock) => {}
        }
        if !std::mem::replace(&mut told, true) {
            tell(format_args!("waiting for the plane before this one to leave {}", folder.display()));
        }
        if wakes.end_within(STATE_FOLDER_PAUSE) {
            return Ok(None);
        }
    }
}

fn link_config(config: &Config, target: &CompileTarget, lease: &Arc<Lease>) -> Result<LinkConfig, BootError> {
    Ok(LinkConfig {
        control: config.control.address,
        plane: config.name.clone(),
        identity: config.state_dir.clone(),
        join_token: join_token(config)?,
        triple: target.triple.clone(),
        cpu_features: target.cpu_features.clone(),
        wasmer: control_wire::envelope::WASMER_VERSION.to_owned(),
        lease: Arc::clone(lease),
    })
}

fn file(setting: &'static str, path: &Path) -> impl FnOnce(io::Error) -> BootError {
    let path = path.to_owned();
    move |source| BootError::File { setting, path, source }
}

fn records(config: &Config) -> Result<(Audit, std::thread::JoinHandle<()>), BootError> {
    let path = config.records_path();
    let sink = if path == Path::new("-") { Sink::Stdout } else { Sink::File(path.clone()) };
    let opened = sink.open().map_err(file("records", &path))?;
    Audit::start(opened).map_err(BootError::Thread)
}

/// Whom upstreams are verified by, and the same in PEM form.
fn roots(config: &Config) -> Result<(RootCertStore, String), BootError> {
    let mut certificates =
        if config.upstream.system_roots { UpstreamTls::system_certificates()? } else { Vec::new() };
    let own = match &config.upstream.roots_file {
        Some(path) => {
            read_bounded(path, UPSTREAM_ROOTS_BYTES_MAX).map_err(file("upstream.rootsFile", path))?
        }
        None => Zeroizing::default(),
    };
    let mut roots = RootCertStore::empty();
    // Machines carry odd certificates; those that cannot be read are not trusted, the others are.
    let (_taken, _odd) = roots.add_parsable_certificates(certificates.iter().cloned());
    for certificate in CertificateDer::pem_slice_iter(own.as_bytes()) {
        let certificate = certificate.map_err(|error| RootsError::NotPem(error.to_string()))?;
        roots.add(certificate.clone()).map_err(RootsError::Certificate)?;
        certificates.push(certificate);
    }
    if roots.is_empty() {
        return Err(RootsError::Empty.into());
    }
    let pem = certificates.iter().map(|certificate| to_pem(certificate)).collect();
    Ok((roots, pem))
}

fn names(config: &Config) -> Result<upstream::Settings, BootError> {
    let settings = upstream::Settings {
        name_servers: config.dns.name_servers.clone(),
        hosts_file: config.dns.hosts_file.clone(),
    };
    let resolv_conf = Path::new(RESOLV_CONF);
    settings.or_system(resolv_conf).map_err(file("dns.nameServers", resolv_conf))
}

/// The token, where there is one: a plane that has joined needs none, and its file may be gone.
fn join_token(config: &Config) -> Result<Option<Zeroizing<String>>, BootError> {
    let Some(path) = &config.control.join_token_file else { return Ok(None) };
    match read_bounded(path, JOIN_TOKEN_BYTES_MAX) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(file("control.joinTokenFile", path)(error)),
    }
}

/// Reads a text that may not be longer than `bytes_max`.
fn read_bounded(path: &Path, bytes_max: usize) -> io::Result<Zeroizing<String>> {
    use io::Read as _;
    let mut text = Zeroizing::new(String::new());
    let bound = u64::try_from(bytes_max).unwrap_or(u64::MAX).saturating_add(1);
    fs::File::open(path)?.take(bound).read_to_string(&mut text)?;
    if text.len() > bytes_max {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("longer than {bytes_max} bytes")));
    }
    Ok(text)
}
