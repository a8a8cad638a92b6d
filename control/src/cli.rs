//! The command line: `serve`, and calls of the API, each one request.

mod api;
mod apply;
mod attach;
mod examples;
mod handler;
mod plane;
mod question;
mod sandbox;
mod secret;
mod serve;
mod template;

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::causes::chain;
use crate::client::Client;
use crate::config::STATE_DEFAULT;
use crate::serve::Fault;
use api::Api;

/// Options that each command has stand behind its own.
const EVERYWHERE: &str = "Options of every command";

#[derive(Parser)]
#[command(
    name = "outgate",
    version,
    about = "Egress gateway for sandboxes: who may send what where, with which credential, and a record of it"
)]
struct Cli {
    /// Folder of everything that control keeps [default: outgate-state].
    #[arg(long, global = true, env = "OUTGATE_STATE", value_name = "FOLDER", help_heading = EVERYWHERE)]
    state: Option<PathBuf>,
    /// Socket of the API; `api.sock` in the state folder unless given.
    #[arg(long, global = true, env = "OUTGATE_SOCKET", value_name = "PATH", help_heading = EVERYWHERE)]
    socket: Option<PathBuf>,
    /// Writes answer when every plane enforces them.
    #[arg(long, global = true, help_heading = EVERYWHERE)]
    wait: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Runs a program in a sandbox whose every request passes the gateway
    Run(crate::run::RunArgs),
    /// Shows what was refused last, why, and what would allow it
    Why(crate::run::why::WhyArgs),
    /// Runs control, and a plane on this machine
    Serve(serve::ServeArgs),
    /// Prints and checks the file of settings of `serve`
    #[command(subcommand)]
    Config(serve::ConfigCommand),
    /// Says whether this machine will do, and what to type where it will not
    Preflight {
        /// The plane's program.
        #[arg(long, env = "OUTGATE_DATAPLANE")]
        dataplane: Option<PathBuf>,
    },
    /// Shows on this machine, in half a minute, what the gateway does; leaves nothing behind
    Demo,
    /// Makes control's policies what files say: all of them, or nothing where anything is wrong
    Apply(apply::Files),
    /// Says what `apply` would change; status 1 when it would change something
    Diff(apply::Files),
    /// Prints what control has, as `apply` takes it
    Get(apply::Shown),
    /// Makes, changes, locks and removes sandboxes
    #[command(subcommand)]
    Sandbox(sandbox::Sandbox),
    /// Writes templates: the policies that sandboxes share
    #[command(subcommand)]
    Template(template::Template),
    /// Makes, builds, tries and publishes handlers
    #[command(subcommand)]
    Handler(handler::Handler),
    /// Writes secrets; a value never stands on the command line
    #[command(subcommand)]
    Secret(secret::Secret),
    /// Lists what waits for a person, and answers it
    #[command(subcommand)]
    Question(question::Question),
    /// Lists planes, lets them join, removes them
    #[command(subcommand)]
    Plane(plane::Plane),
    /// Attaches a sandbox to the plane on this machine, by proxy password or by its addresses
    Attach(attach::Place),
    /// Detaches a sandbox from the plane on this machine and ends its connections
    Detach {
        /// Id of the sandbox.
        id: String,
        #[command(flatten)]
        plane: attach::PlaneSocket,
    },
    /// Prints what makes a shell complete these commands
    Completions {
        /// The shell.
        #[arg(value_enum)]
        shell: clap_complete::Shell,
    },
}

/// The whole command; a fault is printed with its causes and its remedy.
pub fn main() -> ExitCode {
    let matches = examples::with_examples(Cli::command()).get_matches();
    let cli = Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    // Each of these has threads and runtimes of its own, or none.
    match cli.command {
        Command::Demo => return crate::demo::main(),
        Command::Run(args) => {
            let state = cli.state.unwrap_or_else(|| STATE_DEFAULT.into());
            let socket = cli.socket.unwrap_or_else(|| state.join("api.sock"));
            return crate::run::main(&args, &crate::run::Places { state, socket });
        }
        Command::Preflight { dataplane } => return crate::preflight::main(dataplane),
        _ => {}
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    // Status 1 of `diff` is an answer.
    let failure = if matches!(cli.command, Command::Diff(_)) { ExitCode::from(2) } else { ExitCode::FAILURE };
    let done = runtime.map_err(Fault::from).and_then(|runtime| runtime.block_on(obey(cli)));
    done.unwrap_or_else(|error| {
        eprintln!("outgate: {}", chain(&*error));
        failure
    })
}

async fn obey(cli: Cli) -> Result<ExitCode, Fault> {
    let state = cli.state.clone().unwrap_or_else(|| STATE_DEFAULT.into());
    let socket = cli.socket.clone().unwrap_or_else(|| state.join("api.sock"));
    let api = Api { client: Client::new(&socket), wait: cli.wait };
    let done = match cli.command {
        Command::Apply(files) => return apply::apply(&api, &files).await,
        Command::Diff(files) => return apply::diff(&api, &files).await,
        Command::Get(shown) => return apply::get(&api, &shown).await,
        Command::Serve(args) => serve::serve(cli.state, cli.socket, args).await,
        Command::Config(command) => serve::config(&command),
        Command::Completions { shell } => complete(shell),
        // Not calls; `main` has done them.
        Command::Run(_) | Command::Demo | Command::Preflight { .. } => Ok(()),
        Command::Why(args) => crate::run::why::why(&args),
        Command::Sandbox(command) => sandbox::obey(&api, command).await,
        Command::Template(command) => template::obey(&api, command).await,
        Command::Handler(command) => handler::obey(&api, command).await,
        Command::Secret(command) => secret::obey(&api, command).await,
        Command::Question(command) => question::obey(&api, command).await,
        Command::Plane(command) => plane::obey(&api, command).await,
        Command::Attach(place) => attach::attach(&state, place),
        Command::Detach { id, plane } => attach::detach(&state, id, &plane),
    };
    done.map(|()| ExitCode::SUCCESS)
}

fn complete(shell: clap_complete::Shell) -> Result<(), Fault> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "outgate", &mut script);
    Ok(std::io::stdout().write_all(&script)?)
}
