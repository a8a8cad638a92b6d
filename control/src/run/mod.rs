//! `outgate run -- CMD`: a program in a sandbox of its own, behind a gateway of its own, by one command.

mod options;
mod policy;
mod ask;
mod tally;
mod summary;
mod weak;
pub mod why;

use std::ffi::OsString;
use std::fs;
use std::io::{self, Read, Seek, SeekFrom};
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

pub use options::RunArgs;

use crate::causes::chain;
use crate::client::segment;
use crate::gateway::Gateway;
use crate::sandbox::{self, End, Environment, Hidden, Sandbox, SandboxError, Trust, World};
use crate::serve::Fault;
use crate::{documents, files, local_plane};
use options::Source;
use tally::Tally;

/// The only sandbox of the gateway, and its template.
const NAME: &str = "run";
/// Status of a command that did not come to run the program; as `env`, `timeout` and container engines have it.
const FAILED: u8 = 125;
/// Time for the plane to have made the sandbox's authority.
const AUTHORITY_TIME: Duration = Duration::from_secs(10);
/// Pause between two looks whether it is there.
const LOOK_PAUSE: Duration = Duration::from_millis(1);
/// How the plane says where its proxy listens.
const PROXY_MARK: &str = "explicit proxy on ";

/// Runs a program to its end and exits as it did. `state` is where a gateway of `outgate serve` would keep its own.
pub fn main(args: &RunArgs, state: &Path) -> ExitCode {
    match run(args, state) {
        Ok(end) => ExitCode::from(end.status()),
        Err(error) => {
            eprintln!("outgate run: {}", chain(&*error));
            let status = error.downcast_ref::<SandboxError>().map_or(FAILED, SandboxError::status);
            ExitCode::from(status)
        }
    }
}

fn run(args: &RunArgs, state: &Path) -> Result<End, Fault> {
    let begun = Instant::now();
    let program = local_plane::find(args.dataplane.clone())?;
    let file = args.policy.as_deref().map(documents::read_one).transpose()?.unwrap_or(Value::Null);
    let policy = policy::document(args, file);
    let secrets = Secrets::read(args)?;
    let records = Records::open(args)?;
    let mut gateway = Gateway::start(&program, |folder| plane_settings(args, folder, &records))?;
    // Made while control and plane start.
    let room = Room::make(args)?;
    if let Room::Together = room {
        gateway = Gateway::start(&program, |folder| {
            let mut settings = plane_settings(args, folder, &records)?;
            settings.insert("proxy".into(), toml::Value::Array(vec!["127.0.0.1:0".into()]));
            Ok(settings)
        })?;
    }
    configure(&mut gateway, args, &secrets, &policy)?;
    let trail = Trail::begin(&gateway, records);
    // Everything from here on is told at the end, also where the program cannot be started.
    let ended = match room {
        Room::Apart(sandbox) => apart(args, &mut gateway, *sandbox, secrets, &trail, state),
        Room::Together => together(args, &mut gateway, &secrets),
    };
    trail.look_at_disk();
    drop(gateway);
    let told = trail.tell(args, begun.elapsed());
    let end = ended?;
    told?;
    Ok(end)
}

/// Where the program will run.
enum Room {
    /// In a sandbox.
    Apart(Box<Sandbox>),
    /// Beside everything else, by its own good will.
    Together,
}

impl Room {
    /// A sandbox; where the machine allows none, said plainly.
    fn make(args: &RunArgs) -> Result<Self, Fault> {
        let refusal = match Sandbox::make() {
            Ok(sandbox) => return Ok(Self::Apart(Box::new(sandbox))),
            Err(SandboxError::Refused(refusal)) => refusal,
            Err(error) => return Err(error.into()),
        };
        if !args.secret.is_empty() && !args.weak {
            let why = "without a sandbox the program could read the secrets where they lie; --weak says that this is \
                       all the same to you";
            return Err(format!("{refusal}; {why}").into());
        }
        eprintln!(
            "outgate run: NO SANDBOX: {refusal}\n\
             outgate run: the program is told to use the gateway as a proxy; nothing makes it do so"
        );
        Ok(Self::Together)
    }
}

/// Values of the secrets, by name.
struct Secrets(Vec<(String, zeroize::Zeroizing<String>)>);

impl Secrets {
    fn read(args: &RunArgs) -> Result<Self, Fault> {
        let one = |wish: &options::SecretWish| {
            let value = wish.value().map_err(|problem| format!("--secret {}: {problem}", wish.name))?;
            Ok((wish.name.clone(), value))
        };
        args.secret.iter().map(one).collect::<Result<_, String>>().map(Self).map_err(Into::into)
    }
}

/// The settings of the plane: the caller's, and ours where they say nothing.
fn plane_settings(args: &RunArgs, folder: &Path, records: &Records) -> Result<toml::Table, Fault> {
    let mut settings = match &args.plane_config {
        None => toml::Table::new(),
        Some(path) => {
            let text = fs::read_to_string(path)
                .map_err(|error| format!("cannot read {}: {error}", path.display()))?;
            text.parse().map_err(|error| format!("{}: {error}", path.display()))?
        }
    };
    let path = records.path.clone().unwrap_or_else(|| folder.join(Records::NAME));
    settings.insert("records".into(), path.to_string_lossy().into_owned().into());
    // One program does not need a core of its own for each of the machine's.
    settings.entry("shards").or_insert(1.into());
    Ok(settings)
}

/// Writes the secrets, handlers and policy of the run. The plane enforces them when the sandbox is attached, which waits
/// for the last of them.
fn configure(gateway: &mut Gateway, args: &RunArgs, secrets: &Secrets, policy: &Value) -> Result<(), Fault> {
    for (wish, (name, value)) in args.secret.iter().zip(&secrets.0) {
        let body =
            zeroize::Zeroizing::new(json!({ "value": value.as_str(), "hosts": [wish.host] }).to_string());
        gateway.call("PUT", &format!("/v1/secrets/{}", segment(name)), body.as_bytes())?;
    }
    for wish in &args.handler {
        let module =
            fs::read(&wish.file).map_err(|error| format!("cannot read {}: {error}", wish.file.display()))?;
        gateway.call("PUT", &format!("/v1/handlers/{}", segment(&wish.name())), module)?;
    }
    gateway.call("PUT", &format!("/v1/templates/{NAME}"), policy.to_string())?;
    let sandbox = json!({ "template": NAME }).to_string();
    gateway.call("PUT", &format!("/v1/sandboxes/{NAME}"), sandbox)?;
    Ok(())
}

/// The certificate of the sandbox's authority, which the plane makes when the sandbox is attached.
fn authority(gateway: &Gateway) -> Result<String, Fault> {
    let begun = Instant::now();
    loop {
        let reply = gateway.ask("GET", &format!("/v1/sandboxes/{NAME}/ca.pem"))?;
        if reply.status.is_success() {
            return Ok(String::from_utf8(reply.body.to_vec())?);
        }
        if begun.elapsed() > AUTHORITY_TIME {
            return Err("the plane made no certificate authority for the sandbox".into());
        }
        std::thread::sleep(LOOK_PAUSE);
    }
}

/// The program in its sandbox.
fn apart(
    args: &RunArgs,
    gateway: &mut Gateway,
    mut sandbox: Sandbox,
    secrets: Secrets,
    trail: &Trail,
    state: &Path,
) -> Result<End, Fault> {
    let listeners = sandbox.take_listeners();
    gateway.attach(NAME, &listeners)?;
    drop(listeners);
    let trust = Trust::new(&authority(gateway)?, &sandbox::folder()?, std::env::home_dir().as_deref())?;
    let (variables, mut hidden) = hidden(args, secrets);
    let environment = sandbox::environment(std::env::vars_os(), &variables, &trust);
    drop(variables);
    tell_of_credentials(&hidden);
    hidden.extend(trail.places().map(Path::to_owned));
    // That of a gateway which the caller runs otherwise.
    hidden.extend(state.is_dir().then(|| state.to_owned()));
    let (program, arguments) = args.command.split_first().ok_or("there is no program to run")?;
    let world = World {
        program: program.clone(),
        arguments: arguments.to_vec(),
        directory: std::env::current_dir()
            .map_err(|error| format!("the current folder is gone: {error}; cd to another"))?,
        environment: environment.variables,
        trust,
        hidden,
        kept: Some(gateway.shared_folder().to_owned()),
    };
    sandbox::close_to_others()?;
    let running = sandbox.start(world)?;
    if args.ask {
        ask::start(gateway.client(), running.lender());
    }
    Ok(running.wait()?)
}

/// The program beside everything else, with the proxy in its variables.
fn together(args: &RunArgs, gateway: &mut Gateway, secrets: &Secrets) -> Result<End, Fault> {
    let none: [(control_wire::attach::ListenerKind, std::os::fd::OwnedFd); 0] = [];
    let attached = gateway.attach(NAME, &none)?;
    let password = attached.proxy_password.ok_or("the plane gave no password for its proxy")?;
    let log = gateway.log()?;
    let proxy = log.lines().find_map(|line| line.split_once(PROXY_MARK)).ok_or("the plane has no proxy")?.1;
    let proxy: SocketAddr = proxy.parse()?;
    let folder = gateway.folder().join("trust");
    let trust = Trust::new(&authority(gateway)?, &folder, None)?;
    weak::write(&trust, &folder)?;
    let hidden = Hidden { variables: named(args), values: values(args, secrets) };
    let mut environment: Environment = sandbox::environment(std::env::vars_os(), &hidden, &trust);
    weak::point(&mut environment, proxy, NAME, &password);
    let name = PathBuf::from(args.command.first().cloned().unwrap_or_default());
    weak::run(&args.command, &environment)
        .map_err(|source| SandboxError::Program { program: name, source }.into())
}

/// Variables that the caller named as the places of secrets.
fn named(args: &RunArgs) -> Vec<OsString> {
    let variable = |wish: &options::SecretWish| match &wish.source {
        Source::Variable(name) => Some(OsString::from(name)),
        Source::File(_) => None,
    };
    args.secret.iter().filter_map(variable).collect()
}

/// Values that no variable may hold: those of the secrets, and the password alone of one that names a user.
fn values(args: &RunArgs, secrets: &Secrets) -> Vec<zeroize::Zeroizing<Vec<u8>>> {
    let each = args.secret.iter().zip(&secrets.0).flat_map(|(wish, (_, value))| {
        let password = value.split_once(':').filter(|_| wish.kind == options::Kind::Basic);
        [Some(value.as_str()), password.map(|(_, password)| password)]
    });
    each.flatten().map(|value| value.as_bytes().to_vec().into()).collect()
}

/// What the program must not see: variables and values, and files.
fn hidden(args: &RunArgs, secrets: Secrets) -> (Hidden, Vec<PathBuf>) {
    let files = args.secret.iter().filter_map(|wish| match &wish.source {
        Source::File(path) => Some(path.clone()),
        Source::Variable(_) => None,
    });
    let files = files.collect();
    (Hidden { variables: named(args), values: values(args, &secrets) }, files)
}

/// Names credentials of the caller that the program can read, so that nobody is surprised.
fn tell_of_credentials(hidden: &[PathBuf]) {
    let Some(home) = std::env::home_dir() else { return };
    let others = sandbox::credentials::others(&home, hidden);
    if others.is_empty() {
        return;
    }
    let names: Vec<String> = others
        .iter()
        .map(|path| {
            path.strip_prefix(&home)
                .map_or(path.display().to_string(), |rest| format!("~/{}", rest.display()))
        })
        .collect();
    eprintln!("outgate run: the program can read these credentials of yours: {}", names.join(", "));
}

/// Where the records of the run go.
struct Records {
    /// The caller's file; the gateway's own where there is none.
    path: Option<PathBuf>,
    /// How much the caller's file held before.
    before: u64,
}

impl Records {
    /// Their file's name in the gateway's folder.
    const NAME: &str = "records.jsonl";

    /// Opens the caller's file, so that it can be hidden.
    fn open(args: &RunArgs) -> Result<Self, Fault> {
        let Some(path) = &args.record else { return Ok(Self { path: None, before: 0 }) };
        let path = std::path::absolute(path)?;
        let mut options = fs::OpenOptions::new();
        // A pipe that nobody reads is not waited for.
        options.append(true).create(true).mode(0o600).custom_flags(libc::O_NONBLOCK);
        let found = options.open(&path).and_then(|file| file.metadata());
        let told =
            |why: &dyn std::fmt::Display| format!("cannot write the records to {}: {why}", path.display());
        let found = found.map_err(|error| told(&error))?;
        // They are read at the end.
        if !found.is_file() {
            return Err(told(&"it is no file; name one with --record").into());
        }
        Ok(Self { before: found.len(), path: Some(path) })
    }
}

/// What is told of a run when it has ended.
struct Trail {
    records: Records,
    /// Read while the gateway's folder is there, since it goes with the gateway.
    own: io::Result<fs::File>,
    /// For `outgate why`, or why it cannot be kept.
    refusals: Result<(PathBuf, fs::File), String>,
}

impl Trail {
    fn begin(gateway: &Gateway, records: Records) -> Self {
        let path = records.path.clone().unwrap_or_else(|| gateway.folder().join(Records::NAME));
        // Open before the folder goes: the plane's last words are written when it ends. Its first ones come later.
        let own = fs::OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(path);
        // Where it cannot be written there is no `why`; the run is not worse for it.
        let refusals = why::open();
        Self { records, own, refusals }
    }

    /// Files that the program must not see.
    fn places(&self) -> impl Iterator<Item = &Path> {
        let refusals = self.refusals.iter().map(|(path, _)| path);
        self.records.path.iter().chain(refusals).map(PathBuf::as_path)
    }

    /// Tells of a full disk, while the gateway's folder is there: much is free again when that is gone.
    fn look_at_disk(&self) {
        if self.own.as_ref().is_ok_and(|file| files::is_full(rustix::fs::fstatvfs(file))) {
            eprintln!(
                "outgate run: the disk of the records is full, so nothing more was let through, and the table may \
                 lack what was let through last: make room, or set TMPDIR or --record to another place"
            );
        }
    }

    /// Prints the summary, after the gateway has ended and all records are written.
    fn tell(self, args: &RunArgs, took: Duration) -> Result<(), Fault> {
        let mut text = String::new();
        let mut file = self.own?;
        file.seek(SeekFrom::Start(self.records.before))?;
        file.read_to_string(&mut text)?;
        let tally = Tally::of(&text);
        let kept = self.refusals.and_then(|(path, file)| why::keep(&path, file, &text));
        if let Some(problem) = kept.err().filter(|_| !tally.refusals.is_empty()) {
            eprintln!("outgate run: `outgate why` will not know of this run: {problem}");
        }
        if args.no_tty_summary {
            return Ok(());
        }
        eprint!("\n{}{}", summary::table(&tally, took), summary::remedies(&tally));
        if args.observe {
            eprint!("{}", summary::least(&tally));
        }
        Ok(())
    }
}
