//! `outgate-loadtest peers`: plans on the gateway and on peers in turns.

use std::{io, process::ExitCode};

use clap::Args;
use loadtest::{
    authority::Authority,
    gateway::{Gateway, Start},
    origin::Origin,
    peers::{BUILT_IN, Peer, PeerError, Running},
    pin,
    plan::{Load, Plan},
    report::{Machine, Report, Row},
    session::{Session, Subject},
};

use super::{PlanArgs, ProgramArgs};

/// Plans that peers can do.
pub const USUAL: [&str; 5] = ["keepalive", "connect-rate", "bulk", "http2", "open-loop"];

#[derive(Args)]
pub struct PeersArgs {
    #[command(flatten)]
    pub plans: PlanArgs,
    #[command(flatten)]
    pub programs: ProgramArgs,
    /// Peer by name or file; may stand several times. Those that are built in and installed unless given
    #[arg(long = "peer", value_name = "NAME|FILE")]
    pub peers: Vec<String>,
    /// Times that each row is measured on each, in turns
    #[arg(long, default_value_t = 3)]
    pub rounds: usize,
}

/// Measures, prints the table and the ratios.
///
/// # Errors
/// When something cannot be started or loaded.
pub fn peers(args: &PeersArgs) -> io::Result<ExitCode> {
    let report = compare(args)?;
    let code = args.plans.finish(&report)?;
    println!("\nOutgate's cost beside each peer's:\n{}", report.ratios("outgate"));
    Ok(code)
}

/// Measures.
///
/// # Errors
/// As [`peers`].
pub fn compare(args: &PeersArgs) -> io::Result<Report> {
    if args.programs.pin {
        pin::ourselves()?;
    }
    let plans = args.plans.read(&USUAL)?;
    let chosen: Vec<String> = match args.peers.is_empty() {
        true => BUILT_IN.iter().map(|(name, _)| (*name).to_owned()).collect(),
        false => args.peers.clone(),
    };
    let peers: Vec<Peer> =
        chosen.iter().map(|name| Peer::find(name)).collect::<Result<_, _>>().map_err(io::Error::other)?;
    let authority = Authority::make()?;
    let mut report = Report { machine: Machine::here(), rows: Vec::new() };
    for plan in &plans {
        let origin = Origin::start(&authority, true)?;
        let (shards, programs) = (args.programs.shards, args.programs.find()?);
        let mut gateway =
            Gateway::start(&Start { programs: &programs, authority: &authority, hosts: 1, shards })?;
        let mut running = Vec::new();
        for peer in &peers {
            match peer.start(&origin, &authority) {
                Ok(started) => running.push((peer, started)),
                // Whoever named it wants it.
                Err(error @ PeerError::Missing { .. }) if args.peers.is_empty() => {
                    eprintln!("{error}; left out")
                }
                Err(error) => return Err(io::Error::other(error)),
            }
        }
        if args.programs.pin {
            pin::measured(&[gateway.plane])?;
            running.iter().try_for_each(|(_, running)| pin::measured(&running.target.pids))?;
        }
        let session = Session { origin: &origin, allow_remote: false };
        for load in &plan.rows {
            report.rows.extend(row(&session, plan, load, args.rounds.max(1), &mut gateway, &running)?);
        }
    }
    Ok(report)
}

/// One row on all, in turns.
fn row(
    session: &Session<'_>,
    plan: &Plan,
    load: &Load,
    rounds: usize,
    gateway: &mut Gateway,
    peers: &[(&Peer, Running)],
) -> io::Result<Vec<Row>> {
    // A reverse proxy knows one sandbox and one host.
    let alone = Load { sandboxes: 1, active: None, hosts: 1, ..load.clone() };
    let able: Vec<&Running> =
        peers.iter().filter(|(peer, _)| peer.can(load)).map(|(_, running)| running).collect();
    let mut ours = Vec::new();
    let mut theirs = vec![Vec::new(); able.len()];
    for _ in 0..rounds {
        ours.push(session.row(&mut Subject::Gateway(gateway), plan, &alone)?);
        for (running, found) in able.iter().zip(&mut theirs) {
            found.push(session.row(&mut Subject::Other(&running.target), plan, &alone)?);
        }
    }
    Ok(std::iter::once(&ours).chain(&theirs).map(|rounds| Row::of_rounds(rounds)).collect())
}
