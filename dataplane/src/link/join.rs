//! Joining: the moment at which a plane gets its identity and the pool's master, both or none.

use std::ops::ControlFlow;
use std::sync::Arc;

use control_wire::message::{CLOSE_DONE, ToControl, ToPlane};
use control_wire::pool::Grant;

use super::connect::{connect, refused};
use super::identity::{Identity, Request, Token, join_config};
use super::session::read;
use super::{LinkConfig, LinkError, ended};
use crate::limits::{LINK_JOIN_TIME, LINK_PAUSE, LINK_PAUSE_MAX};
use crate::tls::{MasterError, PoolMaster, Receiver};

/// A plane that has joined: whom control knows it as, and the master of its pool.
pub struct Member {
    pub(super) identity: Identity,
    pub(super) master: Arc<PoolMaster>,
}

impl std::fmt::Debug for Member {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Member").finish_non_exhaustive()
    }
}

impl Member {
    /// The pool's master.
    pub fn master(&self) -> &Arc<PoolMaster> {
        &self.master
    }
}

/// Reads identity and master from disk, or joins for the token: where there is no identity, or where the token is of
/// another control than the identity. Blocks until control lets the plane in; `told` hears why it did not yet, and
/// may break off. `None` where it did.
///
/// # Errors
/// What only an operator can mend: no token or a damaged one, files that cannot be used, a master that is gone or
/// was damaged.
pub fn enter(
    config: &LinkConfig,
    told: impl FnMut(LinkError) -> ControlFlow<()>,
) -> Result<Option<Member>, LinkError> {
    let known = Identity::load(&config.identity).map_err(|source| at_identity(config, source))?;
    let token = config.join_token.as_deref().map(|text| Token::parse(text));
    let (token, own) = match (known, token) {
        (None, None) => return Err(LinkError::NoToken),
        // It may have lost its identity alone; the sandboxes' authorities are then as they were.
        (None, Some(token)) => (token?, stored(config)?),
        // A pool's master does not go along to another pool.
        (Some(known), Some(Ok(token))) if !token.is_of(&known) => (token, None),
        // What is left of a token means nothing to a plane that has joined.
        (Some(identity), _) => {
            let gone = || LinkError::MasterGone {
                sealed: config.identity.join(SEALED),
                plane: config.plane.clone(),
                key: config.identity.join("plane.key"),
            };
            let master = Arc::new(stored(config)?.ok_or_else(gone)?);
            return Ok(Some(Member { identity, master }));
        }
    };
    let own = Arc::new(own.map_or_else(PoolMaster::ephemeral, Ok)?);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|source| at_identity(config, source))?;
    runtime.block_on(join_until_let_in(config, &token, own, told))
}

async fn join_until_let_in(
    config: &LinkConfig,
    token: &Token,
    own: Arc<PoolMaster>,
    mut told: impl FnMut(LinkError) -> ControlFlow<()>,
) -> Result<Option<Member>, LinkError> {
    let mut pause = LINK_PAUSE;
    loop {
        match join(config, token, Arc::clone(&own)).await {
            Err(error) if comes_from_control(&error) => {
                if told(error).is_break() {
                    return Ok(None);
                }
            }
            ended => return ended.map(Some),
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LINK_PAUSE_MAX);
    }
}

/// Whether the next attempt may go better without an operator's hand on this machine.
fn comes_from_control(error: &LinkError) -> bool {
    !matches!(error, LinkError::Identity { .. } | LinkError::Master(_) | LinkError::Handover(_))
}

const SEALED: &str = "master.sealed";
const SEALING_KEY: &str = "master.key";

fn stored(config: &LinkConfig) -> Result<Option<PoolMaster>, MasterError> {
    PoolMaster::open(&config.identity.join(SEALED), &config.identity.join(SEALING_KEY))
}

fn at_identity(config: &LinkConfig, source: std::io::Error) -> LinkError {
    LinkError::Identity { path: config.identity.clone(), source }
}

/// Joins once. `own` becomes the pool's master where it has none.
pub(super) async fn join(
    config: &LinkConfig,
    token: &Token,
    own: Arc<PoolMaster>,
) -> Result<Member, LinkError> {
    let address = config.control;
    let request = Request::make().map_err(|source| refused(address, source))?;
    let receiver = Receiver::generate(&config.plane)?;
    let client = join_config(token).map_err(|source| refused(address, source))?;
    let (_endpoint, connection) = connect(address, client).await?;
    let (mut send, mut receive) = connection.open_bi().await.map_err(ended)?;
    let join = ToControl::Join {
        secret: *token.secret,
        recipient: receiver.recipient().clone(),
        csr: request.csr.clone(),
        master: own.id()?,
    };
    send.write_all(&join.encode()).await.map_err(ended)?;
    let answer = tokio::time::timeout(LINK_JOIN_TIME, read(&mut receive)).await.map_err(ended)??;
    connection.close(CLOSE_DONE.into(), b"");
    match answer {
        Some(ToPlane::Joined { certificate, authority, handler_key, master }) => {
            let master = match master {
                Grant::Own => own,
                Grant::Pool { id, sealed } => Arc::new(receiver.open(&id, &sealed)?),
            };
            let identity = request.complete(certificate, authority, handler_key);
            keep(config, &identity, &master)?;
            Ok(Member { identity, master })
        }
        Some(ToPlane::JoinRefused { reason }) => Err(LinkError::Refused { reason }),
        _ => Err(LinkError::Protocol("control answered the join with something else")),
    }
}

/// Whoever finds an identity finds the master that belongs to it.
fn keep(config: &LinkConfig, identity: &Identity, master: &PoolMaster) -> Result<(), LinkError> {
    Identity::make_room(&config.identity).map_err(|source| at_identity(config, source))?;
    master.store(&config.identity.join(SEALED), &config.identity.join(SEALING_KEY))?;
    identity.store(&config.identity).map_err(|source| at_identity(config, source))
}
