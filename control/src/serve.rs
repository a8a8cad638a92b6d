//! `outgate serve`: everything that control is, from its state folder to its sockets, until a signal ends it.

use std::collections::HashSet;
use std::error::Error;
use std::io::Write;
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use control_wire::message::CLOSE_DONE;
use control_wire::row::SecretValue;
use data_encoding::BASE64;
use tokio::net::UnixListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;

use crate::causes::chain;
use crate::compile::{Signer, publish, this_machine};
use crate::here::Here;
use crate::keeper::Keeper;
use crate::limits::FAREWELL_TIME;
use crate::link::{Core, Handover, PLANE_KEYS, Publisher};
use crate::local_plane::{Given, LocalPlane, PlaneError, find};
use crate::pki::Authority;
use crate::planes::Planes;
use crate::questions::Questions;
use crate::seal::{KEY_FILE, Sealer};
use crate::store::Store;
use crate::{answers, api, files, leases, link};

/// Start-up may fail in any part; the command prints the whole chain.
pub type Fault = Box<dyn Error + Send + Sync>;

/// The key under which the signing key is kept, and the name that it is sealed for.
const SIGNER_KEY: &str = "signer/handlers";

/// Told to an [`Owner`]: calls of the API are taken.
pub const API_SERVES: u8 = b'a';
/// Told to an [`Owner`]: sandboxes can be attached to the plane.
pub const PLANE_SERVES: u8 = b'p';

/// The process that runs all this for itself alone.
pub struct Owner {
    /// On which it is told what serves, a byte each.
    pub line: Arc<UnixStream>,
    /// Sent when it is gone: then everything ends.
    pub gone: oneshot::Receiver<()>,
}

impl Owner {
    fn tell(&self, what: u8) {
        // One that is gone needs no word.
        let _gone = (&*self.line).write_all(&[what]);
    }
}

/// What `serve` is told.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Folder of everything that control keeps.
    pub state: PathBuf,
    /// Socket of the API.
    pub socket: PathBuf,
    /// UDP address of the link.
    pub listen: SocketAddr,
    /// Start a plane here.
    pub plane: Option<PlaneSettings>,
}

/// What is told of the plane on this machine.
#[derive(Clone, Debug, Default)]
pub struct PlaneSettings {
    /// An operator's settings; ours fill in what they leave out.
    pub config: Given,
    /// The program.
    pub program: Option<PathBuf>,
}

/// Opens what a state folder holds, and makes what it lacks.
///
/// # Errors
/// With the part that cannot be opened.
pub async fn open(state: &Path) -> Result<Arc<Core>, Fault> {
    files::make_folder(state)?;
    let store = Store::open(&state.join("store.sqlite"))?;
    let sealer = Sealer::open_or_create(&state.join(KEY_FILE))?;
    let authority = Authority::open_or_create(&state.join("pki"))?;
    let artefacts = state.join("artefacts");
    files::make_folder(&artefacts)?;
    let signer = open_signer(&store, &sealer).await?;
    let planes = Planes::default();
    let revision = store.tables().revision;
    for (key, _) in store.list_local(PLANE_KEYS).await? {
        planes.add(&key[PLANE_KEYS.len()..], revision);
    }
    sweep(&artefacts, &store)?;
    let handler_key = signer.public_key();
    let publisher = publisher(signer, std::env::current_exe()?);
    let (handover, questions) = (Handover::default(), Questions::default());
    let core = Arc::new(Core {
        store,
        planes,
        questions,
        handover,
        authority,
        sealer,
        artefacts,
        handler_key,
        publisher,
        here: OnceLock::new(),
    });
    leases::sweep(&core).await?;
    Ok(core)
}

/// Removes envelopes of versions that were replaced, which no plane is sent any more.
fn sweep(artefacts: &Path, store: &Store) -> std::io::Result<()> {
    let tables = store.tables();
    let used: HashSet<&str> = tables.handlers.values().map(|row| &*row.value.hash).collect();
    for entry in std::fs::read_dir(artefacts)? {
        let entry = entry?;
        if !entry.file_name().to_str().is_some_and(|name| used.contains(name)) {
            std::fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

async fn open_signer(store: &Store, sealer: &Sealer) -> Result<Signer, Fault> {
    if let Some(stored) = store.local(SIGNER_KEY.to_owned()).await? {
        let sealed = BASE64.decode(stored.as_bytes())?;
        return Ok(Signer::from_stored(sealer.open(SIGNER_KEY, 1, &sealed)?.expose())?);
    }
    let (signer, stored) = Signer::generate()?;
    let sealed = sealer.seal(SIGNER_KEY, 1, &SecretValue::new(&stored))?;
    store.put_local(SIGNER_KEY.to_owned(), BASE64.encode(&sealed)).await?;
    Ok(signer)
}

fn publisher(signer: Signer, executable: PathBuf) -> Publisher {
    let target = this_machine();
    Arc::new(move |module| match publish(&executable, module, &target, &signer) {
        Ok(published) => Ok(published.envelope),
        Err(error) => Err(chain(&error)),
    })
}

/// Takes the socket's place from a control process that died, never from one that lives.
fn bind(socket: &Path) -> Result<UnixListener, Fault> {
    if std::fs::symlink_metadata(socket).is_ok_and(|found| found.file_type().is_socket()) {
        if std::os::unix::net::UnixStream::connect(socket).is_ok() {
            return Err(format!("{} is in use; stop that process or use --socket", socket.display()).into());
        }
        std::fs::remove_file(socket)?;
    }
    let listener = UnixListener::bind(socket)
        .map_err(|error| format!("cannot listen on {}: {error}", socket.display()))?;
    std::fs::set_permissions(socket, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Waits until the plane is run no longer; for ever where there is none.
async fn plane_ended(plane: &mut Option<JoinHandle<Result<(), PlaneError>>>) -> Result<(), Fault> {
    let Some(running) = plane else { return std::future::pending().await };
    let ended = running.await;
    *plane = None;
    Ok(ended??)
}

/// Waits until the owner is gone; for ever where there is none.
async fn forsaken(owner: &mut Option<Owner>) {
    match owner {
        None => std::future::pending().await,
        Some(owner) => drop((&mut owner.gone).await),
    }
}

/// Serves until SIGINT or SIGTERM, or until an owner is gone.
///
/// # Errors
/// With the part that cannot be opened, bound or started, the plane included.
pub async fn run(settings: Settings, mut owner: Option<Owner>) -> Result<(), Fault> {
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    // Before anything is bound: what is missing is said at once.
    let program = settings.plane.as_ref().map(|plane| find(plane.program.clone())).transpose()?;
    let core = open(&settings.state).await?;
    let endpoint = core
        .authority
        .listen(settings.listen)
        .map_err(|error| format!("cannot listen on UDP {}: {}", settings.listen, chain(&error)))?;
    let address = endpoint.local_addr()?;
    let listener = api::OwnUserListener::new(bind(&settings.socket)?);
    println!(
        "state  {}\napi    {}\nlink   udp {address}",
        settings.state.display(),
        settings.socket.display()
    );

    let (stop, stopped) = watch::channel(false);
    let (mut plane, keeper, mut here) = (None, Keeper::default(), None);
    let mut serving = keeper.serving();
    if let (Some(program), Some(told)) = (program, settings.plane) {
        let local =
            LocalPlane { program, folder: settings.state.join("plane"), config: told.config, link: address };
        // What keeps its settings from being read is told when it is run.
        if let Ok(places) = local.places() {
            println!("{places}");
        }
        here = local.here().ok();
        let core = core.clone();
        plane = Some(tokio::spawn(async move { local.run(&core, keeper, stopped).await }));
    }
    let own = here.as_ref().map(|here| here.name.clone());
    let version = env!("CARGO_PKG_VERSION").to_owned();
    let _first = core.here.set(Here { version, state: settings.state, plane: here });
    tokio::spawn(link::serve(core.clone(), endpoint.clone()));
    tokio::spawn(answers::forget_ended(core.clone()));
    let planes = core.clone();
    let mut calls = std::pin::pin!(async { axum::serve(listener, api::router(core)).await });
    if let Some(owner) = &owner {
        owner.tell(API_SERVES);
    }
    let served = loop {
        tokio::select! {
            ended = &mut calls => break ended.map_err(Fault::from),
            _ = interrupt.recv() => break Ok(()),
            _ = terminate.recv() => break Ok(()),
            () = forsaken(&mut owner) => break Ok(()),
            ended = plane_ended(&mut plane) => break ended,
            Ok(()) = serving.changed() => if let Some(owner) = &owner { owner.tell(PLANE_SERVES) },
        }
    };
    stop.send_replace(true);
    let served = if plane.is_some() { served.and(plane_ended(&mut plane).await) } else { served };
    endpoint.close(CLOSE_DONE.into(), b"control ends");
    // Planes elsewhere that are told so come back at once; they would wait out the silence.
    if planes.planes.has_link_beside(own.as_deref()) {
        let _ = tokio::time::timeout(FAREWELL_TIME, endpoint.wait_idle()).await;
    }
    let _ = std::fs::remove_file(&settings.socket);
    served
}
