//! What can be asked of `outgate-loadtest`.

mod measure;
mod peers;

use std::{fs, io, net::SocketAddr, path::PathBuf, process::ExitCode};

use clap::{Args, Parser, Subcommand};
use loadtest::{
    authority::Authority,
    gateway::{Gateway, Programs, Start, direct, hosts_file},
    origin::{Leg, Origin},
    pin,
    plan::{BUILT_IN, Plan, Reading},
    report::{Machine, Report, Row},
    session::{Session, Subject},
    target::Target,
    usage::Pid,
};

const EXAMPLES: &str = "Examples:
  outgate-loadtest run keepalive                     a gateway of its own, each row of the plan, a table
  outgate-loadtest run keepalive --row 64 --json now.json
  outgate-loadtest run --smoke                       every plan in seconds; counts are asserted, times are not
  outgate-loadtest run bulk --set connections=4 --set seconds=10
  outgate-loadtest run my-plan.toml                  `outgate-loadtest plans keepalive` shows how one is written
  outgate-loadtest compare before.json now.json
  outgate-loadtest peers keepalive --rounds 5 --pin  beside nginx and HAProxy, in turns; prints ratios

Beside a gateway that runs already:
  outgate-loadtest origin --keep lab                 writes lab/root.pem, lab/hosts; its plane must read both
  outgate-loadtest run fleet --keep lab --state outgate-state --proxy 127.0.0.1:3128";

/// A fleet of simulated sandboxes, an origin that checks what reaches it, and what a gateway between them costs.
#[derive(Parser)]
#[command(name = "outgate-loadtest", version, after_help = EXAMPLES)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Runs plans against a gateway
    Run(RunArgs),
    /// Lists the plans that are built in, or prints one
    Plans {
        /// The one to print
        name: Option<String>,
    },
    /// Runs plans against the gateway and nginx, HAProxy and others in turns
    Peers(peers::PeersArgs),
    /// Measures all that backs the figures in the documents; `measure profile` says where time goes
    Measure(measure::MeasureArgs),
    /// Says what changed between two runs
    Compare {
        /// JSON of the run before
        before: PathBuf,
        /// JSON of the run after
        after: PathBuf,
    },
    /// Serves as the origin of plans, until it is ended
    Origin(OriginArgs),
}

/// Which plans, and how.
#[derive(Args)]
struct PlanArgs {
    /// Plans by name or file; all that are built in and fit, but `soak`, unless given
    plans: Vec<String>,
    /// Only rows whose name has this in it
    #[arg(long)]
    row: Option<String>,
    /// A setting that wins over the plan's; may stand several times
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Small and short; the status says whether all counts are right
    #[arg(long)]
    smoke: bool,
    /// Write what was found to this file too
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// Where the gateway's programs are.
#[derive(Args)]
struct ProgramArgs {
    /// `outgate`; beside this program unless given
    #[arg(long, env = "OUTGATE", value_name = "PROGRAM")]
    outgate: Option<PathBuf>,
    /// `outgate-dataplane`; beside `outgate` or in target/plane unless given
    #[arg(long, env = "OUTGATE_DATAPLANE", value_name = "PROGRAM")]
    dataplane: Option<PathBuf>,
    /// Shards of its plane
    #[arg(long, default_value_t = 1)]
    shards: usize,
    /// Put who is measured on the first core, and the load on the others
    #[arg(long)]
    pin: bool,
}

#[derive(Args)]
struct RunArgs {
    #[command(flatten)]
    plans: PlanArgs,
    #[command(flatten)]
    programs: ProgramArgs,
    /// State folder of a gateway that runs already
    #[arg(long, requires_all = ["proxy", "keep"], value_name = "FOLDER")]
    state: Option<PathBuf>,
    /// Its explicit proxy
    #[arg(long, value_name = "ADDRESS")]
    proxy: Option<SocketAddr>,
    /// No gateway: this reverse proxy, or `origin` for none at all
    #[arg(long, conflicts_with = "state", value_name = "ADDRESS")]
    direct: Option<String>,
    /// Process that is measured where it was not started here; may stand several times
    #[arg(long = "pid")]
    pids: Vec<u32>,
    /// Folder in which the origin's authority is kept, for gateways that were told to trust it
    #[arg(long, value_name = "FOLDER")]
    keep: Option<PathBuf>,
    /// Load other machines too
    #[arg(long)]
    allow_remote: bool,
}

#[derive(Args)]
struct OriginArgs {
    /// Where to listen
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// Write the certificate of its authority to this file, and print the address of TLS instead of plain HTTP's
    #[arg(long, value_name = "FILE")]
    root_out: Option<PathBuf>,
    /// More names in its certificate
    #[arg(long = "name")]
    names: Vec<String>,
    /// Folder in which its authority is kept, with files for a plane's settings
    #[arg(long, value_name = "FOLDER")]
    keep: Option<PathBuf>,
}

impl Cli {
    /// Does what was asked.
    ///
    /// # Errors
    /// In words for whoever asked.
    pub fn run(self) -> io::Result<ExitCode> {
        match self.command {
            Command::Run(args) => run(&args),
            Command::Peers(args) => peers::peers(&args),
            Command::Measure(args) => args.run(),
            Command::Plans { name } => plans(name.as_deref()),
            Command::Compare { before, after } => {
                print!("{}", read(&before)?.compared(&read(&after)?));
                Ok(ExitCode::SUCCESS)
            }
            Command::Origin(args) => origin(&args),
        }
    }
}

impl ProgramArgs {
    fn find(&self) -> io::Result<Programs> {
        Programs::find(self.outgate.clone(), self.dataplane.clone())
    }
}

impl PlanArgs {
    /// Those that were asked for, else these.
    fn read(&self, usual: &[&str]) -> io::Result<Vec<Plan>> {
        let how = Reading { smoke: self.smoke, set: self.set.clone(), row: self.row.clone() };
        let usual = usual.iter().map(|name| (*name).to_owned());
        let names: Vec<String> = if self.plans.is_empty() { usual.collect() } else { self.plans.clone() };
        names.iter().map(|name| Plan::find(name, &how).map_err(io::Error::other)).collect()
    }

    /// Prints what was found; the status says whether it was all right.
    fn finish(&self, report: &Report) -> io::Result<ExitCode> {
        print!("{}", report.table());
        if let Some(path) = &self.json {
            fs::write(path, serde_json::to_string_pretty(report).map_err(io::Error::other)?)?;
        }
        Ok(if report.is_clean() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}

fn run(args: &RunArgs) -> io::Result<ExitCode> {
    args.plans.finish(&run_plans(args)?)
}

impl RunArgs {
    /// These plans on a gateway of their own.
    fn of(plans: PlanArgs, programs: ProgramArgs) -> Self {
        let (state, proxy, direct, pids, keep) = (None, None, None, Vec::new(), None);
        Self { plans, programs, state, proxy, direct, pids, keep, allow_remote: false }
    }
}

/// Runs plans, each with an origin and a gateway of its own.
fn run_plans(args: &RunArgs) -> io::Result<Report> {
    if args.programs.pin {
        pin::ourselves()?;
    }
    // An hour is only for whoever asks for it.
    let usual = BUILT_IN.iter().map(|(name, _)| *name).filter(|name| args.plans.smoke || *name != "soak");
    let plans = args.plans.read(&usual.collect::<Vec<_>>())?;
    let authority = args.keep.as_deref().map_or_else(Authority::make, Authority::kept)?;
    let mut report = Report { machine: Machine::here(), rows: Vec::new() };
    for plan in &plans {
        // An origin and a gateway of its own for each plan: nothing that one leaves is in the figures of another.
        let origin = Origin::start(&authority, args.direct.is_none())?;
        let session = Session { origin: &origin, allow_remote: args.allow_remote };
        let other =
            args.direct.as_deref().map(|door| reverse_proxy(door, args, &origin, &authority)).transpose()?;
        let mut gateway = match &other {
            Some(_) => None,
            None => Some(gateway(args, plan, &authority)?),
        };
        let mut subject = match (&mut gateway, &other) {
            (Some(gateway), _) => Subject::Gateway(gateway),
            (None, Some(target)) => Subject::Other(target),
            (None, None) => return Err(io::Error::other("there is nothing to load")),
        };
        let mut rounds: Vec<Vec<Row>> = vec![Vec::new(); plan.rows.len()];
        for _ in 0..plan.rounds {
            for (load, found) in plan.rows.iter().zip(&mut rounds) {
                found.push(session.row(&mut subject, plan, load)?);
            }
        }
        report.rows.extend(rounds.iter().map(|rounds| Row::of_rounds(rounds)));
    }
    Ok(report)
}

fn gateway(args: &RunArgs, plan: &Plan, authority: &Authority) -> io::Result<Gateway> {
    if let (Some(state), Some(proxy)) = (&args.state, args.proxy) {
        return Gateway::running(state, proxy, args.pids.first().copied());
    }
    let programs = args.programs.find()?;
    let hosts = plan.rows.iter().map(|row| row.hosts).max().unwrap_or(1);
    let gateway =
        Gateway::start(&Start { programs: &programs, authority, hosts, shards: args.programs.shards })?;
    if args.programs.pin {
        pin::measured(&[gateway.plane])?;
    }
    Ok(gateway)
}

fn reverse_proxy(door: &str, args: &RunArgs, origin: &Origin, authority: &Authority) -> io::Result<Target> {
    let pids = args.pids.iter().copied().map(Pid).collect();
    let doors = match door {
        "origin" => origin.doors(),
        address => {
            let wrong = |_| {
                io::Error::other(format!("--direct {address}: write an address with a port, or `origin`"))
            };
            [address.parse().map_err(wrong)?; 3]
        }
    };
    Ok(direct(doors, origin.ports, pids, authority.pem()))
}

fn plans(name: Option<&str>) -> io::Result<ExitCode> {
    match name {
        None => {
            for (name, _) in BUILT_IN {
                let plan = Plan::find(name, &Reading::default()).map_err(io::Error::other)?;
                println!("{name:<14} {}", plan.about);
            }
        }
        Some(wanted) => match BUILT_IN.iter().find(|(name, _)| *name == wanted) {
            Some((_, text)) => print!("{text}"),
            None => return Err(io::Error::other(format!("there is no plan `{wanted}`"))),
        },
    }
    Ok(ExitCode::SUCCESS)
}

fn origin(args: &OriginArgs) -> io::Result<ExitCode> {
    let authority = args.keep.as_deref().map_or_else(Authority::make, Authority::kept)?;
    if let Some(folder) = &args.keep {
        fs::write(folder.join("hosts"), hosts_file(1000))?;
    }
    if let Some(path) = &args.root_out {
        fs::write(path, authority.pem())?;
    }
    let origin = Origin::start_on(&authority, false, args.listen, &args.names)?;
    let leg = if args.root_out.is_some() { Leg::Tls } else { Leg::Plain };
    println!("127.0.0.1:{}", origin.port(leg));
    origin.join()?;
    Ok(ExitCode::SUCCESS)
}

fn read(path: &PathBuf) -> io::Result<Report> {
    let text =
        fs::read_to_string(path).map_err(|error| io::Error::other(format!("{}: {error}", path.display())))?;
    serde_json::from_str(&text)
        .map_err(|error| io::Error::other(format!("{}: {error}; is it what --json wrote?", path.display())))
}
