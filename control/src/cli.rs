//! The command line: `serve`, and calls of the API, each one request.

mod attach;
mod secret;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use serde_json::{Value, json};

use crate::causes::chain;
use crate::client::{Client, segment};
use crate::serve::{Fault, PlaneSettings, Settings, run};

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
    Serve(ServeArgs),
    /// Shows on this machine, in half a minute, what the gateway does; leaves nothing behind.
    Demo,
    /// Sandboxes.
    #[command(subcommand)]
    Sandbox(Sandbox),
    /// Templates: the policies that sandboxes share.
    #[command(subcommand)]
    Template(Template),
    /// Handlers.
    #[command(subcommand)]
    Handler(Handler),
    /// Secrets. A value never stands on the command line.
    #[command(subcommand)]
    Secret(secret::Secret),
    /// Planes.
    #[command(subcommand)]
    Plane(Plane),
    /// Attaches a sandbox to the plane on this machine, by proxy password or by its addresses
    Attach(attach::Place),
    /// Detaches a sandbox from the plane on this machine and ends its connections
    Detach {
        id: String,
        #[command(flatten)]
        plane: attach::PlaneSocket,
    },
}

#[derive(Args)]
struct ServeArgs {
    /// UDP address on which planes connect.
    #[arg(long, default_value = "127.0.0.1:7443")]
    listen: SocketAddr,
    /// Settings of the plane (TOML): shards, proxy, dns, upstream, records. What it needs to find control is added.
    #[arg(long, conflicts_with = "no_plane")]
    plane_config: Option<PathBuf>,
    /// Start no plane here.
    #[arg(long)]
    no_plane: bool,
    /// The plane's program.
    #[arg(long, env = "OUTGATE_DATAPLANE")]
    dataplane: Option<PathBuf>,
}

#[derive(Subcommand)]
enum Sandbox {
    /// Makes or replaces one.
    Put {
        id: String,
        #[arg(long)]
        template: String,
        /// Its own list of allowed hosts, in place of the template's.
        #[arg(long, num_args = 1..)]
        allow: Vec<String>,
    },
    Get {
        id: String,
    },
    Rm {
        id: String,
    },
    List,
    /// Replaces the list of allowed hosts.
    SetAllowedHosts {
        id: String,
        hosts: Vec<String>,
    },
    /// Replaces the list of denied hosts, which wins over everything else.
    SetDeniedHosts {
        id: String,
        hosts: Vec<String>,
    },
    /// Sets the handler of every request that no host names.
    SetOutbound {
        id: String,
        handler: String,
        /// What it is told, as JSON.
        #[arg(long)]
        params: Option<String>,
    },
    /// Sets the handler of requests to hosts of a pattern.
    SetOutboundByHost {
        id: String,
        host: String,
        handler: String,
        /// What it is told, as JSON.
        #[arg(long)]
        params: Option<String>,
    },
    /// Removes the handler that `set-outbound` has set.
    RmOutbound {
        id: String,
    },
    /// Removes the handler that `set-outbound-by-host` has set for this pattern.
    RmOutboundByHost {
        id: String,
        host: String,
    },
    /// Denies everything for these, and waits until that is enforced.
    Lockdown {
        #[arg(required = true)]
        ids: Vec<String>,
    },
    /// Prints the certificate of its authority.
    Ca {
        id: String,
    },
}

#[derive(Subcommand)]
enum Template {
    Put {
        name: String,
        #[arg(short, long)]
        file: PathBuf,
    },
    Get {
        name: String,
    },
    Rm {
        name: String,
    },
    List,
}

#[derive(Subcommand)]
enum Handler {
    /// Publishes a module.
    Put {
        name: String,
        file: PathBuf,
    },
    /// Builds a handler's crate and prints where its module is.
    Build {
        dir: PathBuf,
    },
    Rm {
        name: String,
    },
    List,
}

#[derive(Subcommand)]
enum Plane {
    List,
    Rm {
        name: String,
    },
    /// Makes a token with which one plane may join, once.
    Token,
}

/// The whole command; a fault is printed with its causes and its remedy.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    if matches!(cli.command, Command::Demo) {
        return crate::demo::main();
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let done = runtime.map_err(Fault::from).and_then(|runtime| runtime.block_on(obey(cli)));
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("outgate: {}", chain(&*error));
            ExitCode::FAILURE
        }
    }
}

async fn obey(cli: Cli) -> Result<(), Fault> {
    let socket = cli.socket.unwrap_or_else(|| cli.state.join("api.sock"));
    let api = Api { client: Client::new(&socket), wait: cli.wait };
    match cli.command {
        Command::Serve(args) => {
            let plane = PlaneSettings { config: args.plane_config, program: args.dataplane };
            let plane = (!args.no_plane).then_some(plane);
            run(Settings { state: std::path::absolute(&cli.state)?, socket, listen: args.listen, plane })
                .await
        }
        // Not a call, and without a runtime of its own.
        Command::Demo => Ok(()),
        Command::Sandbox(command) => sandbox(&api, command).await,
        Command::Template(command) => template(&api, command).await,
        Command::Handler(command) => handler(&api, command).await,
        Command::Secret(command) => secret::obey(&api, command).await,
        Command::Plane(command) => plane(&api, command).await,
        Command::Attach(place) => attach::attach(&cli.state, place),
        Command::Detach { id, plane } => attach::detach(&cli.state, id, &plane),
    }
}

struct Api {
    client: Client,
    wait: bool,
}

impl Api {
    async fn show(&self, method: &str, path: &str, body: Vec<u8>) -> Result<(), Fault> {
        let path =
            if self.wait && method != "GET" { format!("{path}?wait=applied") } else { path.to_owned() };
        let reply = self.client.call(method, &path, body).await?;
        let Ok(value) = serde_json::from_slice::<Value>(&reply.body) else {
            print!("{}", String::from_utf8_lossy(&reply.body));
            return Ok(());
        };
        println!("{}", serde_json::to_string_pretty(&value)?);
        // A script that asked to wait must not go on as if it were so.
        if value["applied"] == false {
            return Err(
                "it is written, but not every plane enforces it; look at `outgate plane list`, and repeat \
                        the command to wait again"
                    .into(),
            );
        }
        Ok(())
    }

    async fn get(&self, path: &str) -> Result<(), Fault> {
        self.show("GET", path, Vec::new()).await
    }

    async fn put(&self, path: &str, value: Value) -> Result<(), Fault> {
        self.show("PUT", path, value.to_string().into_bytes()).await
    }

    async fn remove(&self, path: &str) -> Result<(), Fault> {
        self.show("DELETE", path, Vec::new()).await
    }
}

fn at(kind: &str, name: &str) -> String {
    format!("/v1/{kind}/{}", segment(name))
}

fn read(path: &Path) -> Result<Vec<u8>, Fault> {
    std::fs::read(path).map_err(|error| format!("cannot read {}: {error}", path.display()).into())
}

async fn sandbox(api: &Api, command: Sandbox) -> Result<(), Fault> {
    let of = |id: &str| at("sandboxes", id);
    match command {
        Sandbox::Put { id, template, allow } => {
            let overrides = if allow.is_empty() { json!({}) } else { json!({ "allowedHosts": allow }) };
            api.put(&of(&id), json!({ "template": template, "overrides": overrides })).await
        }
        Sandbox::Get { id } => api.get(&of(&id)).await,
        Sandbox::Rm { id } => api.remove(&of(&id)).await,
        Sandbox::List => api.get("/v1/sandboxes").await,
        Sandbox::SetAllowedHosts { id, hosts } => {
            api.put(&format!("{}/allowedHosts", of(&id)), json!(hosts)).await
        }
        Sandbox::SetDeniedHosts { id, hosts } => {
            api.put(&format!("{}/deniedHosts", of(&id)), json!(hosts)).await
        }
        Sandbox::SetOutbound { id, handler, params } => {
            api.put(&format!("{}/outbound", of(&id)), outbound(&handler, params)?).await
        }
        Sandbox::SetOutboundByHost { id, host, handler, params } => {
            api.put(&by_host(&of(&id), &host), outbound(&handler, params)?).await
        }
        Sandbox::RmOutbound { id } => api.remove(&format!("{}/outbound", of(&id))).await,
        Sandbox::RmOutboundByHost { id, host } => api.remove(&by_host(&of(&id), &host)).await,
        Sandbox::Lockdown { ids } => {
            api.show("POST", "/v1/lockdown", json!({ "ids": ids }).to_string().into_bytes()).await
        }
        Sandbox::Ca { id } => api.get(&format!("{}/ca.pem", of(&id))).await,
    }
}

fn by_host(sandbox: &str, host: &str) -> String {
    format!("{sandbox}/outboundByHost/{}", segment(host))
}

fn outbound(handler: &str, params: Option<String>) -> Result<Value, Fault> {
    let read = |text: String| {
        serde_json::from_str(&text).map_err(|error| format!("--params takes JSON, not `{text}`: {error}"))
    };
    let params: Value = params.map(read).transpose()?.unwrap_or_default();
    Ok(json!({ "handler": handler, "params": params }))
}

async fn template(api: &Api, command: Template) -> Result<(), Fault> {
    match command {
        Template::Put { name, file } => api.show("PUT", &at("templates", &name), read(&file)?).await,
        Template::Get { name } => api.get(&at("templates", &name)).await,
        Template::Rm { name } => api.remove(&at("templates", &name)).await,
        Template::List => api.get("/v1/templates").await,
    }
}

async fn handler(api: &Api, command: Handler) -> Result<(), Fault> {
    match command {
        Handler::Put { name, file } => api.show("PUT", &at("handlers", &name), read(&file)?).await,
        Handler::Build { dir } => {
            if !dir.join("Cargo.toml").is_file() {
                let dir = dir.display();
                return Err(format!("{dir} holds no Cargo.toml; give the folder of a handler's crate").into());
            }
            let target_dir = dir.join("target/outgate");
            let build = handlers_sdk_guests::GuestBuild { manifest_dir: dir, target_dir };
            println!("{}", handlers_sdk_guests::build(&build)?.display());
            Ok(())
        }
        Handler::Rm { name } => api.remove(&at("handlers", &name)).await,
        Handler::List => api.get("/v1/handlers").await,
    }
}

async fn plane(api: &Api, command: Plane) -> Result<(), Fault> {
    match command {
        Plane::List => api.get("/v1/planes").await,
        Plane::Rm { name } => api.remove(&at("planes", &name)).await,
        Plane::Token => {
            let reply = api.client.call("POST", "/v1/join-tokens", Vec::new()).await?;
            let made: Value = serde_json::from_slice(&reply.body)?;
            // Alone on its line, as the plane's file takes it.
            println!("{}", made["token"].as_str().unwrap_or_default());
            eprintln!(
                "one plane may join with it, once, within an hour; control.joinTokenFile names its file"
            );
            Ok(())
        }
    }
}
