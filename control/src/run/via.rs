//! `--via`: a gateway that runs already, and that others use too.
//!
//! What this run puts there is held by a lease, a connection that stays open: whatever ends this process ends that too,
//! and the gateway removes it all.

use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;

use control_wire::attach::{Attach, Client as AttachClient, Done, ListenerKind, ListenerSpec, Request};
use hyper::StatusCode;
use serde_json::Value;

use super::gate::Naming;
use crate::causes::chain;
use crate::client::{Client, ClientError, Reply};
use crate::here::{Here, PlaneHere};
use crate::limits::ATTACH_PATIENCE;
use crate::serve::Fault;
use crate::tell::tell;

/// Bytes of chance in a sandbox's name.
const NAME_BYTES: usize = 5;

/// A gateway that runs, and what this run has there. Should this process be killed, the gateway removes that.
pub(super) struct Running {
    socket: PathBuf,
    client: Client,
    runtime: tokio::runtime::Runtime,
    state: PathBuf,
    plane: PlaneHere,
    attach: AttachClient,
    naming: Naming,
    /// Nobody needs to be told that it has ended.
    ended: Arc<AtomicBool>,
}

impl Running {
    /// Finds the gateway whose API has this socket, and takes a name there.
    ///
    /// # Errors
    /// When there is none, or one of another version, or its plane cannot be used.
    pub fn find(socket: &Path) -> Result<Self, Fault> {
        let at = socket.display();
        let client = Client::new(socket);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let reply = runtime.block_on(client.send("GET", "/v1/here", &[], "")).map_err(|error| match error {
            ClientError::Connect { source, .. } => Fault::from(format!(
                "no gateway answers at {at} ({source}); start one with `outgate serve`, or name the socket that it prints \
                 as `api`: --via SOCKET"
            )),
            error => error.into(),
        })?;
        let here = serde_json::from_slice::<Here>(&reply.body).ok().filter(|_| reply.status.is_success());
        let own = env!("CARGO_PKG_VERSION");
        let here = here.filter(|here| here.version == own).ok_or_else(|| {
            format!("the gateway at {at} is of another version than this command ({own}); start it anew with this one")
        })?;
        let plane = here.plane.ok_or_else(|| {
            format!("the gateway at {at} has no plane on this machine; start it without --no-plane")
        })?;
        let reply = runtime.block_on(client.call("GET", "/v1/planes", ""))?;
        let planes: Value = serde_json::from_slice(&reply.body)?;
        let is_linked = |row: &Value| row["name"] == *plane.name && row["connected"] == true;
        if !planes["planes"].as_array().is_some_and(|planes| planes.iter().any(is_linked)) {
            return Err(format!(
                "the plane of the gateway at {at} is not connected to it; see what `outgate serve` says there"
            )
            .into());
        }
        let attach = AttachClient::connect(&plane.attach_socket, ATTACH_PATIENCE)
            .map_err(|error| format!("{}: {}", plane.attach_socket.display(), chain(&error)))?;
        let (naming, ended) = (Naming::among_others(name()?), Arc::default());
        hold(&client, naming.sandbox(), &ended)?;
        let socket = std::path::absolute(socket)?;
        Ok(Self { socket, client, runtime, state: here.state, plane, attach, naming, ended })
    }

    /// How the rows of this run are called.
    pub fn naming(&self) -> &Naming {
        &self.naming
    }

    /// What speaks to its API, for another thread.
    pub fn client(&self) -> Client {
        self.client.clone()
    }

    /// The file of its records, among which are this run's.
    pub fn records(&self) -> &Path {
        &self.plane.records
    }

    /// Folder of everything that control keeps.
    pub fn state(&self) -> &Path {
        &self.state
    }

    /// What lies outside of that folder.
    pub fn hidden(&self) -> Vec<PathBuf> {
        let places = [&self.socket, &self.plane.attach_socket, &self.plane.records];
        let outside = places
            .into_iter()
            .filter(|path| !path.starts_with(&self.state) && path.is_absolute() && path.exists());
        outside.cloned().collect()
    }

    /// As the gate's.
    pub fn call(&self, method: &str, path: &str, body: Vec<u8>) -> Result<Reply, Fault> {
        Ok(self.runtime.block_on(self.client.call(method, path, body))?)
    }

    /// As the gate's.
    pub fn ask(&self, method: &str, path: &str) -> Result<Reply, ClientError> {
        self.runtime.block_on(self.client.send(method, path, &[], ""))
    }

    /// As the gate's.
    pub fn attach<D: AsFd>(&mut self, sandbox: &str, listeners: &[(ListenerKind, D)]) -> Result<Done, Fault> {
        let specs = listeners.iter().map(|(kind, _)| ListenerSpec { kind: *kind }).collect();
        let attach = Attach { sandbox: sandbox.to_owned(), listeners: specs, ..Attach::default() };
        let descriptors: Vec<_> = listeners.iter().map(|(_, socket)| socket.as_fd()).collect();
        Ok(self.attach.call(&Request::Attach(attach), &descriptors)?)
    }

    /// Ends all connections and removes everything of this run.
    pub fn end(self) {
        if self.ended.swap(true, Ordering::Relaxed) {
            return;
        }
        let path = format!("/v1/leases/{}", self.naming.sandbox());
        // Where it does not answer, the end of the lease's connection does the same.
        let removed =
            async { tokio::time::timeout(ATTACH_PATIENCE, self.client.call("DELETE", &path, "")).await };
        match self.runtime.block_on(removed) {
            Ok(Ok(_) | Err(ClientError::Refused { status: StatusCode::NOT_FOUND, .. })) => {}
            Ok(Err(error)) => tell(format_args!("outgate run: not removed yet: {}", chain(&error))),
            Err(_) => tell("outgate run: not removed yet: the gateway does not answer"),
        }
    }
}

/// A name that nobody has guessed.
fn name() -> Result<String, Fault> {
    let mut chance = [0; NAME_BYTES];
    aws_lc_rs::rand::fill(&mut chance).map_err(|_| "the system gave no random bytes")?;
    Ok(format!("run-{}", data_encoding::HEXLOWER.encode(&chance)))
}

/// Takes the lease, and holds it in a thread of its own until this process ends.
fn hold(client: &Client, name: &str, ended: &Arc<AtomicBool>) -> Result<(), Fault> {
    let (client, path, ended) = (client.clone(), format!("/v1/leases/{name}"), Arc::clone(ended));
    let (answer, told) = mpsc::sync_channel::<Result<(), Fault>>(1);
    std::thread::spawn(move || {
        let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => runtime,
            Err(error) => return drop(answer.send(Err(error.into()))),
        };
        runtime.block_on(async {
            match client.hold("POST", &path).await {
                Err(error) => drop(answer.send(Err(error.into()))),
                Ok(held) => {
                    let _waited_for = answer.send(Ok(()));
                    held.ended().await;
                    // Its next start removes what this run has there.
                    if !ended.swap(true, Ordering::Relaxed) {
                        tell(format_args!(
                            "outgate run: the gateway has ended; nothing is let through any more"
                        ));
                    }
                }
            }
        });
    });
    told.recv().map_err(|_| "the gateway gave no name")?
}
