//! The `outgate-loadtest` command.

use std::{io, net::SocketAddr, path::PathBuf, process::ExitCode, sync::atomic::AtomicBool, time::Duration};

use clap::{Args, Parser, Subcommand};
use data_encoding::BASE64;
use loadtest::{
    client,
    origin::{Credentials, Origin},
    plan::{Plan, Way},
    usage::Pid,
};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Counts and times what passes through a gateway.
#[derive(Parser)]
#[command(name = "outgate-loadtest", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Keeps connections busy and reports counts, latencies and the CPU time of named processes.
    Run(RunArgs),
    /// An origin that answers every request with the same body.
    Origin(OriginArgs),
}

#[derive(Args)]
struct RunArgs {
    /// Address of an explicit proxy.
    #[arg(long, conflicts_with = "direct", required_unless_present = "direct")]
    proxy: Option<SocketAddr>,
    /// User and password for the proxy, as `user:password`.
    #[arg(long, requires = "proxy")]
    proxy_user: Option<String>,
    /// Address of an origin or a reverse proxy.
    #[arg(long)]
    direct: Option<SocketAddr>,
    /// Host that is asked for.
    #[arg(long, default_value = "localhost")]
    host: String,
    /// Port that is asked for.
    #[arg(long, default_value_t = 443)]
    port: u16,
    /// PEM file with trusted roots; without it the run is plain HTTP.
    #[arg(long)]
    roots: Option<PathBuf>,
    /// Connections held at once.
    #[arg(long, default_value_t = 64)]
    connections: usize,
    /// A new connection for each request.
    #[arg(long)]
    reconnect: bool,
    /// Path that is asked for.
    #[arg(long, default_value = "/")]
    path: String,
    /// Seconds after which the run ends.
    #[arg(long, default_value_t = 5)]
    seconds: u64,
    /// Answers after which the run ends.
    #[arg(long, default_value_t = u64::MAX)]
    requests: u64,
    /// Process whose use of the machine is reported; may be given several times.
    #[arg(long = "pid")]
    pids: Vec<u32>,
    /// Print JSON instead of a table.
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
struct OriginArgs {
    /// Where to listen.
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// Speak TLS, and write the certificate of the authority made for it to this file.
    #[arg(long)]
    root_out: Option<PathBuf>,
    /// Names in the certificate.
    #[arg(long = "name", default_value = "localhost")]
    names: Vec<String>,
    /// Bytes of each answer's body.
    #[arg(long, default_value_t = 1024)]
    body_bytes: usize,
}

fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Run(args) => run(args),
        Command::Origin(args) => origin(&args),
    };
    match outcome {
        Ok(code) => code,
        Err(error) => {
            eprintln!("outgate-loadtest: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: RunArgs) -> io::Result<ExitCode> {
    let way = match (args.proxy, args.direct) {
        (Some(address), _) => Way::Proxy {
            address,
            authorization: args.proxy_user.map(|user| format!("Basic {}", BASE64.encode(user.as_bytes()))),
        },
        (None, Some(address)) => Way::Direct(address),
        (None, None) => return Err(io::Error::other("give --proxy or --direct")),
    };
    let plan = Plan {
        way,
        host: args.host,
        port: args.port,
        roots: args.roots,
        connections: args.connections,
        reconnect: args.reconnect,
        path: args.path,
        time: Duration::from_secs(args.seconds),
        requests_max: args.requests,
        pids: args.pids.into_iter().map(Pid).collect(),
    };
    let report = client::run(&plan)?;
    if args.json {
        println!("{:#}", report.to_json());
    } else {
        print!("{report}");
    }
    let all_good = report.errors == 0 && report.statuses.keys().all(|status| *status == 200);
    Ok(if all_good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn origin(args: &OriginArgs) -> io::Result<ExitCode> {
    let credentials = match &args.root_out {
        Some(path) => {
            let made = Credentials::make(&args.names)?;
            made.write_root(path)?;
            Some(made)
        }
        None => None,
    };
    let origin = Origin::bind(args.listen, credentials, args.body_bytes)?;
    println!("{}", origin.address()?);
    origin.serve(&AtomicBool::new(false))?;
    Ok(ExitCode::SUCCESS)
}
