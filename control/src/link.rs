//! Control's side of the link: planes join and say what they hold, and are sent what changed.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::{SystemTime, UNIX_EPOCH};

use control_wire::codec::WireError;
use control_wire::limits::PLANE_FRAME_BYTES_MAX;
use control_wire::message::{CLOSE_FAULT, CLOSE_REMOVED, FRAME_HEADER_BYTES, ToControl, frame_header};
use data_encoding::HEXLOWER;
use quinn::{ApplicationClose, Connection, ConnectionError, Endpoint, RecvStream, SendStream};
use rustls_pki_types::CertificateDer;
use zeroize::Zeroizing;

use crate::here::Here;
use crate::limits::{HELLO_TIME, PLANES_MAX};
use crate::pki::{Authority, sha256};
use crate::planes::Planes;
use crate::questions::Questions;
use crate::seal::Sealer;
use crate::store::{Store, StoreError};
use crate::tell::tell;

mod certificates;
mod handover;
mod join;
mod news;
mod pool;
mod rows;
mod session;

pub use handover::Handover;
use join::join;
pub use join::{PLANE_KEYS, forget, make_join_token};
use session::Session;

/// Everything that control's parts share.
pub struct Core {
    /// The rows.
    pub store: Store,
    /// The planes.
    pub planes: Planes,
    /// What planes ask.
    pub questions: Questions,
    /// Brings the pool's master to planes that join.
    pub handover: Handover,
    /// Control's authority.
    pub authority: Authority,
    /// Opens and seals secrets.
    pub sealer: Sealer,
    /// Folder of envelopes, each under its hash in hex.
    pub artefacts: PathBuf,
    /// Public half of the key that signs handlers.
    pub handler_key: [u8; 32],
    /// Makes envelopes of modules.
    pub publisher: Publisher,
    /// For commands on this machine.
    pub here: OnceLock<Here>,
}

/// From a module to its signed envelope, or the reason why not. Blocks.
pub type Publisher = Arc<dyn Fn(&[u8]) -> Result<Vec<u8>, String> + Send + Sync>;

/// Why a link was closed, or never opened. The plane is told the text.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// The peer was not understood.
    #[error("the plane was not understood: {0}")]
    Wire(#[from] WireError),
    /// The connection broke.
    #[error("the connection ended")]
    Connection(#[from] ConnectionError),
    /// Reading failed.
    #[error("the connection ended while reading")]
    Read(#[from] quinn::ReadExactError),
    /// Writing failed.
    #[error("the connection ended while writing")]
    Write(#[from] quinn::WriteError),
    /// The store failed.
    #[error("the store failed")]
    Store(#[from] StoreError),
    /// A row cannot be sent.
    #[error("{what} cannot be read")]
    Row {
        /// Which.
        what: String,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The plane's certificate is not the one of its name.
    #[error("plane {0} was removed, or has joined anew elsewhere")]
    Removed(String),
    /// Another link of the plane came.
    #[error("a newer link of the same plane has opened; two processes with one identity?")]
    Superseded,
    /// The peer did what the protocol does not allow.
    #[error("{0}")]
    Protocol(&'static str),
}

/// Takes planes until the endpoint closes.
pub async fn serve(core: Arc<Core>, endpoint: Endpoint) {
    let places = Arc::new(tokio::sync::Semaphore::new(PLANES_MAX));
    while let Some(incoming) = endpoint.accept().await {
        let Ok(place) = places.clone().try_acquire_owned() else {
            incoming.refuse();
            continue;
        };
        let core = core.clone();
        tokio::spawn(async move {
            let from = incoming.remote_address();
            if let Err(error) = speak(&core, incoming).await {
                log(from, &error);
            }
            drop(place);
        });
    }
}

/// A plane that goes away, or comes back before it was missed, is no fault, and the API shows who is connected; one
/// that says why it goes is heard.
fn log(from: SocketAddr, error: &LinkError) {
    if let LinkError::Connection(ConnectionError::ApplicationClosed(ApplicationClose {
        error_code,
        reason,
    })) = error
    {
        if *error_code == CLOSE_FAULT.into() {
            tell(format_args!("the plane at {from} closed the link: {}", String::from_utf8_lossy(reason)));
        }
    } else if !matches!(
        error,
        LinkError::Connection(_) | LinkError::Read(_) | LinkError::Write(_) | LinkError::Superseded
    ) {
        let cause = std::error::Error::source(error).map(|cause| format!(": {cause}")).unwrap_or_default();
        tell(format_args!("the link from {from} was closed: {error}{cause}"));
    }
}

async fn speak(core: &Arc<Core>, incoming: quinn::Incoming) -> Result<(), LinkError> {
    let handshake = async { incoming.accept()?.await };
    let silent = |_| LinkError::Protocol("the plane said nothing");
    let connection = tokio::time::timeout(HELLO_TIME, handshake).await.map_err(silent)??;
    let ended = converse(core, &connection).await;
    if let Err(error) = &ended {
        let code = if matches!(error, LinkError::Removed(_)) { CLOSE_REMOVED } else { CLOSE_FAULT };
        connection.close(code.into(), error.to_string().as_bytes());
    }
    // What the plane said at its end tells more than that a stream broke.
    match (ended, connection.close_reason()) {
        (Err(LinkError::Read(_) | LinkError::Write(_)), Some(reason)) => Err(reason.into()),
        (ended, _) => ended,
    }
}

async fn converse(core: &Arc<Core>, connection: &Connection) -> Result<(), LinkError> {
    let silent = |_| LinkError::Protocol("the plane said nothing");
    let (mut send, receive, first) =
        tokio::time::timeout(HELLO_TIME, introduction(connection)).await.map_err(silent)??;
    match first {
        Some(ToControl::Join { secret, recipient, csr, master }) if connection.peer_identity().is_none() => {
            let answer = join(core, &secret, &recipient, &csr, master).await?;
            send.write_all(&answer.encode()).await?;
            // The plane closes when it has read the answer.
            let _ = send.finish();
            let _ = tokio::time::timeout(HELLO_TIME, connection.closed()).await;
            Ok(())
        }
        Some(ToControl::Hello { plane, store, revision, triple, .. }) => {
            check_certificate(core, connection, &plane).await?;
            let link = core.planes.opened(&plane, triple).ok_or_else(|| LinkError::Removed(plane.clone()))?;
            let session = Session { core, name: &plane, link, connection };
            let ended = session.run(send, receive, (store, revision)).await;
            core.planes.closed(&plane, link);
            ended
        }
        _ => Err(LinkError::Protocol("the first message does not fit the certificate")),
    }
}

async fn introduction(
    connection: &Connection,
) -> Result<(SendStream, RecvStream, Option<ToControl>), LinkError> {
    let (send, mut receive) = connection.accept_bi().await?;
    let first = read(&mut receive).await?;
    Ok((send, receive, first))
}

/// Whether the connection has shown the certificate that this plane was given last. The authority's signature was
/// checked by TLS.
async fn check_certificate(core: &Core, connection: &Connection, plane: &str) -> Result<(), LinkError> {
    let unknown = LinkError::Protocol("the first message does not fit the certificate");
    let Some(identity) = connection.peer_identity() else { return Err(unknown) };
    let Ok(chain) = identity.downcast::<Vec<CertificateDer<'static>>>() else { return Err(unknown) };
    let Some(leaf) = chain.first() else { return Err(unknown) };
    let known = core.store.local(format!("{PLANE_KEYS}{plane}")).await?;
    if known.is_some_and(|known| known == HEXLOWER.encode(&sha256(leaf))) {
        return Ok(());
    }
    Err(LinkError::Removed(plane.to_owned()))
}

fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

async fn read(stream: &mut RecvStream) -> Result<Option<ToControl>, LinkError> {
    let mut header = [0; FRAME_HEADER_BYTES];
    stream.read_exact(&mut header).await?;
    let (tag, length) = frame_header(header)?;
    if length > PLANE_FRAME_BYTES_MAX {
        return Err(WireError::TooLong { field: "frame", length, max: PLANE_FRAME_BYTES_MAX }.into());
    }
    let mut body = Zeroizing::new(vec![0; length]);
    stream.read_exact(&mut body).await?;
    Ok(ToControl::decode(tag, &body)?)
}
