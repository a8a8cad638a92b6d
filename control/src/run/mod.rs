//! `outgate run -- CMD`: a program in a sandbox of its own, behind a gateway of its own, by one command.

mod options;
mod policy;
mod ask;
mod tally;
mod summary;
mod via;
mod gate;
mod trail;
mod weak;
pub mod why;

use std::ffi::OsString;
use std::fs;
use std::net::SocketAddr;
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
use crate::tell::tell;
use crate::{documents, local_plane};
use gate::Gate;
use options::Source;
use trail::{Records, Trail};
use via::Running;

/// Status of a command that did not come to run the program; as `env`, `timeout` and container engines have it.
const FAILED: u8 = 125;
/// Time for the plane to have made the sandbox's authority.
const AUTHORITY_TIME: Duration = Duration::from_secs(10);
/// Pause between two looks whether it is there.
const LOOK_PAUSE: Duration = Duration::from_millis(1);
/// How the plane says where its proxy listens.
const PROXY_MARK: &str = "explicit proxy on ";

/// Where a gateway of `outgate serve` is, unless the caller says otherwise.
pub struct Places {
    /// Its state.
    pub state: PathBuf,
    /// The socket of its API.
    pub socket: PathBuf,
}

/// Runs a program to its end and exits as it did.
pub fn main(args: &RunArgs, places: &Places) -> ExitCode {
    match run(args, places) {
        Ok(end) => ExitCode::from(end.status()),
        Err(error) => {
            tell(format_args!("outgate run: {}", chain(&*error)));
            let status = error.downcast_ref::<SandboxError>().map_or(FAILED, SandboxError::status);
            ExitCode::from(status)
        }
    }
}

fn run(args: &RunArgs, places: &Places) -> Result<End, Fault> {
    let begun = Instant::now();
    let file = args.policy.as_deref().map(documents::read_one).transpose()?.unwrap_or(Value::Null);
    let policy = policy::document(args, file);
    let secrets = Secrets::read(args)?;
    let records = Records::open(args)?;
    let (mut gate, room) = match &args.via {
        None => begin(args, &records)?,
        Some(given) => via(given.as_deref().unwrap_or(&places.socket))?,
    };
    configure(&mut gate, args, &secrets, policy)?;
    let trail = Trail::begin(&gate, records);
    // Everything from here on is told at the end, also where the program cannot be started.
    let ended = match room {
        Room::Apart(sandbox) => apart(args, &mut gate, *sandbox, secrets, &trail, &places.state),
        Room::Together => together(args, &mut gate, &secrets),
    };
    trail.look_at_disk();
    gate.end();
    let told = trail.tell(args, begun.elapsed());
    let end = ended?;
    told?;
    Ok(end)
}

/// A gateway of its own, and the sandbox, which is made meanwhile.
fn begin(args: &RunArgs, records: &Records) -> Result<(Gate, Room), Fault> {
    let program = local_plane::find(args.dataplane.clone())?;
    let mut gateway = Gateway::start(&program, |folder| plane_settings(args, folder, records))?;
    let room = Room::make(args)?;
    if let Room::Together = room {
        gateway = Gateway::start(&program, |folder| {
            let mut settings = plane_settings(args, folder, records)?;
            settings.insert("proxy".into(), toml::Value::Array(vec!["127.0.0.1:0".into()]));
            Ok(settings)
        })?;
    }
    Ok((Gate::Own(Box::new(gateway)), room))
}

/// A gateway that runs, and the sandbox, which is made meanwhile.
fn via(socket: &Path) -> Result<(Gate, Room), Fault> {
    let (found, made) = std::thread::scope(|scope| {
        let making = scope.spawn(Sandbox::make);
        (Running::find(socket), making.join())
    });
    let running = found?;
    let sandbox = made.unwrap_or(Err(SandboxError::Lost)).map_err(|error| match error {
        SandboxError::Refused(refusal) => Fault::from(format!("{refusal}; --via needs a sandbox")),
        error => error.into(),
    })?;
    Ok((Gate::Running(Box::new(running)), Room::Apart(Box::new(sandbox))))
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
        tell(format_args!(
            "outgate run: NO SANDBOX: {refusal}\n\
             outgate run: the program is told to use the gateway as a proxy; nothing makes it do so"
        ));
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
fn configure(gate: &mut Gate, args: &RunArgs, secrets: &Secrets, mut policy: Value) -> Result<(), Fault> {
    let naming = gate.naming().clone();
    for (wish, (name, value)) in args.secret.iter().zip(&secrets.0) {
        let body =
            zeroize::Zeroizing::new(json!({ "value": value.as_str(), "hosts": [wish.host] }).to_string());
        gate.call("PUT", &format!("/v1/secrets/{}", segment(&naming.row(name))), body.as_bytes())?;
    }
    for wish in &args.handler {
        let module =
            fs::read(&wish.file).map_err(|error| format!("cannot read {}: {error}", wish.file.display()))?;
        gate.call("PUT", &format!("/v1/handlers/{}", segment(&naming.row(&wish.name()))), module)?;
    }
    let brought = args.secret.iter().map(|wish| wish.name.clone());
    let brought: Vec<_> = brought.chain(args.handler.iter().map(options::HandlerWish::name)).collect();
    naming.rename(&mut policy, &brought);
    let sandbox = naming.sandbox();
    gate.call("PUT", &format!("/v1/templates/{sandbox}"), policy.to_string())?;
    let row = json!({ "template": sandbox }).to_string();
    gate.call("PUT", &format!("/v1/sandboxes/{sandbox}"), row)?;
    Ok(())
}

/// The certificate of the sandbox's authority, which the plane makes when the sandbox is attached.
fn authority(gate: &Gate) -> Result<String, Fault> {
    let begun = Instant::now();
    loop {
        let reply = gate.ask("GET", &format!("/v1/sandboxes/{}/ca.pem", gate.naming().sandbox()))?;
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
    gate: &mut Gate,
    mut sandbox: Sandbox,
    secrets: Secrets,
    trail: &Trail,
    state: &Path,
) -> Result<End, Fault> {
    let listeners = sandbox.take_listeners();
    gate.attach(&listeners)?;
    drop(listeners);
    let home = std::env::home_dir();
    if let (Some(home), Some(path)) = (&home, std::env::var_os("PATH")) {
        sandbox::make_room_for_chromium(home, &path);
    }
    let trust = Trust::new(&authority(gate)?, &sandbox::folder()?, home.as_deref())?;
    let (variables, mut hidden) = hidden(args, secrets);
    let environment = sandbox::environment(std::env::vars_os(), &variables, &trust);
    drop(variables);
    tell_of_credentials(&hidden);
    hidden.extend(trail.places().map(Path::to_owned));
    hidden.extend(gate.hidden());
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
        kept: Some(gate.kept().to_owned()),
    };
    sandbox::close_to_others()?;
    let running = sandbox.start(world)?;
    if args.ask {
        ask::start(gate.client(), gate.naming().sandbox().to_owned(), running.lender());
    }
    Ok(running.wait()?)
}

/// The program beside everything else, with the proxy in its variables.
fn together(args: &RunArgs, gate: &mut Gate, secrets: &Secrets) -> Result<End, Fault> {
    let none: [(control_wire::attach::ListenerKind, std::os::fd::OwnedFd); 0] = [];
    let attached = gate.attach(&none)?;
    let password = attached.proxy_password.ok_or("the plane gave no password for its proxy")?;
    let Gate::Own(gateway) = gate else { return Err("there is no proxy".into()) };
    let log = gateway.log()?;
    let proxy = log.lines().find_map(|line| line.split_once(PROXY_MARK)).ok_or("the plane has no proxy")?.1;
    let proxy: SocketAddr = proxy.parse()?;
    let folder = gateway.folder().join("trust");
    let trust = Trust::new(&authority(gate)?, &folder, None)?;
    weak::write(&trust, &folder)?;
    let hidden = Hidden { variables: named(args), values: values(args, secrets) };
    let mut environment: Environment = sandbox::environment(std::env::vars_os(), &hidden, &trust);
    weak::point(&mut environment, proxy, gate.naming().sandbox(), &password);
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
    tell(format_args!("outgate run: the program can read these credentials of yours: {}", names.join(", ")));
}
