//! `serve`: control, and a plane on this machine.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use clap::Args;

use crate::serve::{Fault, PlaneSettings, Settings, run};

/// What `serve` is told.
#[derive(Args)]
pub(super) struct ServeArgs {
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

/// Serves until a signal ends it.
pub(super) async fn serve(state: &Path, socket: PathBuf, args: ServeArgs) -> Result<(), Fault> {
    let plane = PlaneSettings { config: args.plane_config, program: args.dataplane };
    let plane = (!args.no_plane).then_some(plane);
    run(Settings { state: std::path::absolute(state)?, socket, listen: args.listen, plane }).await
}
