//! `attach` and `detach`: calls of the plane's own local socket, on the plane's machine.

use std::path::{Path, PathBuf};

use clap::Args;
use control_wire::attach::{Attach, Client, Detach, Request};
use ipnet::IpNet;

use crate::limits::ATTACH_PATIENCE;
use crate::serve::Fault;

/// Which plane.
#[derive(Args)]
pub(super) struct PlaneSocket {
    /// Socket of the plane; the one that `outgate serve` starts unless given.
    #[arg(long)]
    plane_socket: Option<PathBuf>,
}

impl PlaneSocket {
    fn call(&self, state: &Path, request: &Request) -> Result<(), Fault> {
        let usual = || state.join("plane/attach.sock");
        let path = self.plane_socket.clone().unwrap_or_else(usual);
        let done = Client::connect(&path, ATTACH_PATIENCE)
            .and_then(|mut client| client.call(request, &[]))
            .map_err(|error| format!("{}: {}", path.display(), crate::causes::chain(&error)))?;
        println!("{}", serde_json::to_string_pretty(&done)?);
        Ok(())
    }
}

/// Where a sandbox is.
#[derive(Args)]
pub(super) struct Place {
    /// Id of the sandbox.
    id: String,
    /// Addresses that only this sandbox can speak from; without any it gets a password for the explicit proxy.
    #[arg(long)]
    source: Vec<IpNet>,
    #[command(flatten)]
    plane: PlaneSocket,
}

/// Attaches a sandbox and prints what the plane answered: the password is told this once.
pub(super) fn attach(state: &Path, place: Place) -> Result<(), Fault> {
    let proxy = place.source.is_empty();
    let attach = Attach { sandbox: place.id, sources: place.source, proxy, ..Attach::default() };
    place.plane.call(state, &Request::Attach(attach))
}

/// Forgets every place of a sandbox and ends its connections.
pub(super) fn detach(state: &Path, id: String, plane: &PlaneSocket) -> Result<(), Fault> {
    plane.call(state, &Request::Detach(Detach { sandbox: id }))
}
