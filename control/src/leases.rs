//! Leases: what one run puts into a gateway that others use too is removed when the run ends, however it ends.
//!
//! A lease is a name, and a connection that stays open. The rows of that name, and those that have it and a dot before
//! their own, go with the connection. The store notes the lease, so what a control process that was killed has left is
//! removed at its next start.

use std::sync::Arc;

use control_wire::attach::{Client, ClientError, Detach, Request};

use crate::causes::chain;
use crate::limits::{ATTACH_PATIENCE, LEASES_MAX};
use crate::link::Core;
use crate::store::{Local, Plan, StoreError};
use crate::tables::{Change, Kind, Tables};
use crate::tell::tell;

/// Under which the store notes them.
const KEYS: &str = "lease/";

/// Why there is no lease.
#[derive(Debug, thiserror::Error)]
pub enum LeaseError {
    /// Something has the name.
    #[error("the name {0} is taken; take another one")]
    Taken(String),
    /// Each lease holds a connection.
    #[error("{LEASES_MAX} leases are held already; end some of those runs, or use another gateway")]
    Full,
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A lease that is held. Dropped, its rows are removed.
pub struct Lease {
    core: Arc<Core>,
    name: String,
}

impl Lease {
    /// Takes a name that nothing has.
    ///
    /// # Errors
    /// When something has it, when there are too many, and the store's faults.
    pub async fn take(core: &Arc<Core>, name: &str) -> Result<Self, LeaseError> {
        let (key, wanted) = (format!("{KEYS}{name}"), name.to_owned());
        let decide = move |tables: &Tables, local: &Local<'_>| {
            let refused = if !removals(tables, &wanted).is_empty() || local.value(&key)?.is_some() {
                Some(LeaseError::Taken(wanted))
            } else {
                (local.under(KEYS)?.len() >= LEASES_MAX).then_some(LeaseError::Full)
            };
            let local = if refused.is_none() { vec![(key, String::new())] } else { Vec::new() };
            Ok(Plan { changes: Vec::new(), local, answer: refused })
        };
        match core.store.carry_out(decide).await? {
            (_, None) => Ok(Self { core: Arc::clone(core), name: name.to_owned() }),
            (_, Some(refused)) => Err(refused),
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        // Where control itself ends, its next start does this.
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        let (core, name) = (Arc::clone(&self.core), std::mem::take(&mut self.name));
        runtime.spawn(async move {
            if let Err(error) = release(&core, &name).await {
                tell(format_args!("the rows of {name} are not removed: {}", chain(&error)));
            }
        });
    }
}

/// Ends a lease: detaches its sandbox, which ends all connections, and removes its rows. Answers whether there was one.
///
/// # Errors
/// The store's faults.
pub async fn release(core: &Core, name: &str) -> Result<bool, StoreError> {
    if core.store.local(format!("{KEYS}{name}")).await?.is_none() {
        return Ok(false);
    }
    detach(core, name).await;
    remove(core, name).await?;
    // Who was killed while it attached may be attached since.
    detach(core, name).await;
    Ok(true)
}

async fn detach(core: &Core, name: &str) {
    let Some(plane) = core.here.get().and_then(|here| here.plane.as_ref()) else { return };
    let (socket, sandbox) = (plane.attach_socket.clone(), name.to_owned());
    let detach = move || -> Result<_, ClientError> {
        Client::connect(&socket, ATTACH_PATIENCE)?.call(&Request::Detach(Detach { sandbox }), &[])
    };
    if let Ok(Err(error)) = tokio::task::spawn_blocking(detach).await {
        // Without its row nothing of it is let through.
        tell(format_args!("sandbox {name} is not detached: {}", chain(&error)));
    }
}

/// Ends the leases of an earlier life of this process, whose connections ended with it.
///
/// # Errors
/// The store's faults.
pub async fn sweep(core: &Core) -> Result<(), StoreError> {
    for (key, _) in core.store.list_local(KEYS).await? {
        remove(core, &key[KEYS.len()..]).await?;
    }
    Ok(())
}

async fn remove(core: &Core, name: &str) -> Result<(), StoreError> {
    let wanted = name.to_owned();
    let decide = move |tables: &Tables, _: &Local<'_>| {
        Ok(Plan { changes: removals(tables, &wanted), local: Vec::new(), answer: () })
    };
    core.store.carry_out(decide).await?;
    // Last: should this process be killed before, the next one does it all again.
    core.store.take_local(format!("{KEYS}{name}")).await.map(drop)
}

/// What removes all rows of a lease, those first that name others.
fn removals(tables: &Tables, lease: &str) -> Vec<Change> {
    let is_of =
        |name: &str| name.strip_prefix(lease).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'));
    let keys: Vec<_> = tables.keys().into_iter().filter(|key| is_of(&key.name)).collect();
    let of_kind = |kind: Kind| keys.iter().filter(move |key| key.kind == kind);
    let gone = |kind: Kind, name: String| match kind {
        Kind::Template => Change::Template(name, None),
        Kind::Sandbox => Change::Sandbox(name, None),
        Kind::Handler => Change::Handler(name, None),
        Kind::Secret => Change::Secret(name, None),
    };
    Kind::ALL.into_iter().rev().flat_map(of_kind).map(|key| gone(key.kind, key.name.clone())).collect()
}
