//! The command line: `serve`, and calls of the API, each one request.

mod api;
mod apply;
mod attach;
mod handler;
mod plane;
mod sandbox;
mod secret;
mod serve;
mod template;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::causes::chain;
use crate::client::Client;
use crate::serve::Fault;
use api::Api;

#[derive(Parser)]
#[command(name = "outgate", version, about = "Control of the egress gateway")]
struct Cli {
    /// Folder of everything that control keeps.
    #[arg(long, global = true, env = "OUTGATE_STATE", default_value = "outgate-state")]
    state: PathBuf,
    /// Socket of the API; `api.sock` in the state folder unless given.
    #[arg(long, global = true, env = "OUTGATE_SOCKET")]
    socket: Option<PathBuf>,
    /// Writes answer when every plane enforces them.
    #[arg(long, global = true)]
    wait: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Runs control, and a plane on this machine.
    Serve(serve::ServeArgs),
    /// Says whether this machine will do, and what to type where it will not.
    Preflight {
        /// The plane's program.
        #[arg(long, env = "OUTGATE_DATAPLANE")]
        dataplane: Option<PathBuf>,
    },
    /// Shows on this machine, in half a minute, what the gateway does; leaves nothing behind.
    Demo,
    /// Makes control's policies what files say: all of them, or nothing where anything is wrong
    Apply(apply::Files),
    /// Says what `apply` would change; status 1 when it would change something
    Diff(apply::Files),
    /// Prints what control has, as `apply` takes it
    Get(apply::Shown),
    /// Sandboxes.
    #[command(subcommand)]
    Sandbox(sandbox::Sandbox),
    /// Templates: the policies that sandboxes share.
    #[command(subcommand)]
    Template(template::Template),
    /// Handlers.
    #[command(subcommand)]
    Handler(handler::Handler),
    /// Secrets. A value never stands on the command line.
    #[command(subcommand)]
    Secret(secret::Secret),
    /// Planes.
    #[command(subcommand)]
    Plane(plane::Plane),
    /// Attaches a sandbox to the plane on this machine, by proxy password or by its addresses
    Attach(attach::Place),
    /// Detaches a sandbox from the plane on this machine and ends its connections
    Detach {
        id: String,
        #[command(flatten)]
        plane: attach::PlaneSocket,
    },
}

/// The whole command; a fault is printed with its causes and its remedy.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    // Each of these has threads and runtimes of its own, or none.
    match cli.command {
        Command::Demo => return crate::demo::main(),
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
    let socket = cli.socket.unwrap_or_else(|| cli.state.join("api.sock"));
    let api = Api { client: Client::new(&socket), wait: cli.wait };
    let done = match cli.command {
        Command::Apply(files) => return apply::apply(&api, &files).await,
        Command::Diff(files) => return apply::diff(&api, &files).await,
        Command::Get(shown) => return apply::get(&api, &shown).await,
        Command::Serve(args) => serve::serve(&cli.state, socket, args).await,
        // Not calls; `main` has done them.
        Command::Demo | Command::Preflight { .. } => Ok(()),
        Command::Sandbox(command) => sandbox::obey(&api, command).await,
        Command::Template(command) => template::obey(&api, command).await,
        Command::Handler(command) => handler::obey(&api, command).await,
        Command::Secret(command) => secret::obey(&api, command).await,
        Command::Plane(command) => plane::obey(&api, command).await,
        Command::Attach(place) => attach::attach(&cli.state, place),
        Command::Detach { id, plane } => attach::detach(&cli.state, id, &plane),
    };
    done.map(|()| ExitCode::SUCCESS)
}
