//! Control's side of the link: planes join and say what they hold, and are sent what changed.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use control_wire::codec::WireError;
use control_wire::limits::ENVELOPE_INLINE_BYTES_MAX;
use control_wire::message::{FRAME_HEADER_BYTES, StoreId, ToControl, ToPlane, frame_header};
use control_wire::row::Op;
use data_encoding::HEXLOWER;
use quinn::{Connection, Endpoint, RecvStream, SendStream};
use tokio::sync::mpsc;
use zeroize::Zeroizing;

use crate::limits::{HELLO_TIME, OUTGOING_MAX, PLANES_MAX, RENEW_EVERY, SNAPSHOT_ROWS_PER_FRAME};
use crate::pki::{Authority, sha256};
use crate::planes::{Planes, Rejection};
use crate::seal::Sealer;
use crate::store::{Store, StoreError};
use crate::tables::{Change, Key, Kind};

mod join;
mod rows;

use join::join;
pub use join::make_join_token;
use rows::{is_upsert, op, read_artefact};

/// Everything that control's parts share.
pub struct Core {
    /// The rows.
    pub store: Store,
    /// The planes.
    pub planes: Planes,
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
}

/// From a module to its signed envelope, or the reason why not. Blocks.
pub type Publisher = Arc<dyn Fn(&[u8]) -> Result<Vec<u8>, String> + Send + Sync>;

/// Why a link was closed, or never opened.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// The peer was not understood.
    #[error("the plane was not understood")]
    Wire(#[from] WireError),
    /// The connection broke.
    #[error("the connection ended")]
    Connection(#[from] quinn::ConnectionError),
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

fn log(from: SocketAddr, error: &LinkError) {
    // A plane that goes away is no fault; the API shows who is connected.
    if !matches!(error, LinkError::Connection(_) | LinkError::Read(_) | LinkError::Write(_)) {
        let cause = std::error::Error::source(error).map(|cause| format!(": {cause}")).unwrap_or_default();
        eprintln!("link from {from} closed: {error}{cause}");
    }
}

async fn speak(core: &Arc<Core>, incoming: quinn::Incoming) -> Result<(), LinkError> {
    let connection = incoming.await?;
    let result = tokio::time::timeout(HELLO_TIME, async {
        let (send, mut receive) = connection.accept_bi().await?;
        let first = read(&mut receive).await?;
        Ok::<_, LinkError>((send, receive, first))
    })
    .await
    .map_err(|_| LinkError::Protocol("the plane said nothing"))?;
    let (mut send, receive, first) = result?;
    let ended = match (plane_of(core, &connection).await?, first) {
        (None, Some(ToControl::Join { secret, plane, csr })) => {
            let answer = join(core, &secret, &plane, &csr).await?;
            send.write_all(&answer.encode()).await?;
            // The plane closes when it has read the answer.
            let _ = send.finish();
            let _ = tokio::time::timeout(HELLO_TIME, connection.closed()).await;
            Ok(())
        }
        (Some(name), Some(ToControl::Hello { plane, store, revision, triple, .. })) if name == plane => {
            let Some(link) = core.planes.opened(&name, triple) else {
                return Err(LinkError::Protocol("the plane was removed"));
            };
            let ended = Session { core, name: &name, link, connection: &connection }
                .run(send, receive, store, revision)
                .await;
            core.planes.closed(&name, link);
            ended
        }
        _ => Err(LinkError::Protocol("the first message does not fit the certificate")),
    };
    connection.close(1u8.into(), b"");
    ended
}

/// The plane whose certificate this connection has shown; the authority's signature was checked by TLS.
async fn plane_of(core: &Core, connection: &Connection) -> Result<Option<String>, LinkError> {
    let Some(identity) = connection.peer_identity() else { return Ok(None) };
    let chain = identity
        .downcast::<Vec<rustls_pki_types::CertificateDer<'static>>>()
        .map_err(|_| LinkError::Protocol("the certificate has an unknown form"))?;
    let leaf = chain.first().ok_or(LinkError::Protocol("the certificate is missing"))?;
    let fingerprint = HEXLOWER.encode(&sha256(leaf));
    let known = core.store.list_local("plane/").await?;
    let name = known.into_iter().find(|(_, value)| *value == fingerprint).map(|(key, _)| key);
    let name = name
        .ok_or(LinkError::Protocol("the certificate belongs to no plane: it was removed or joined anew"))?;
    Ok(Some(name["plane/".len()..].to_owned()))
}

fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

async fn read(stream: &mut RecvStream) -> Result<Option<ToControl>, LinkError> {
    let mut header = [0; FRAME_HEADER_BYTES];
    stream.read_exact(&mut header).await?;
    let (tag, length) = frame_header(header)?;
    let mut body = Zeroizing::new(vec![0; length]);
    stream.read_exact(&mut body).await?;
    Ok(ToControl::decode(tag, &body)?)
}

struct Session<'a> {
    core: &'a Core,
    name: &'a str,
    link: u64,
    connection: &'a Connection,
}

impl Session<'_> {
    async fn run(
        &self,
        send: SendStream,
        receive: RecvStream,
        store: StoreId,
        revision: u64,
    ) -> Result<(), LinkError> {
        let (outgoing, queue) = mpsc::channel(OUTGOING_MAX);
        let held = (store == self.core.store.tables().store && revision > 0).then_some(revision);
        if let Some(revision) = held {
            // Before anything is read: the plane acknowledges again what it holds.
            self.core.planes.resumed(self.name, revision);
        }
        // Whichever ends first ends the link.
        tokio::select! {
            ended = self.write(send, queue, held) => ended,
            ended = self.listen(receive, outgoing) => ended,
            () = self.superseded() => Err(LinkError::Protocol("a newer link of the same plane has opened")),
        }
    }

    async fn superseded(&self) {
        let mut changes = self.core.planes.changes();
        while self.core.planes.is_current(self.name, self.link) {
            if changes.changed().await.is_err() {
                return;
            }
        }
    }

    async fn listen(
        &self,
        mut receive: RecvStream,
        outgoing: mpsc::Sender<ToPlane>,
    ) -> Result<(), LinkError> {
        loop {
            match read(&mut receive).await? {
                Some(ToControl::Ack { revision }) => self.acknowledged(revision)?,
                Some(ToControl::Renew { number }) => self.renew(number, &outgoing).await,
                Some(ToControl::CaCertificate { sandbox, der }) => {
                    self.keep_certificate(sandbox, der).await?
                }
                Some(ToControl::HandlerRejected { name, version, reason }) => {
                    eprintln!("plane {} does not take handler {name} version {version}: {reason}", self.name);
                    self.core.planes.rejected(self.name, Rejection { handler: name, version, reason });
                }
                Some(ToControl::Join { .. } | ToControl::Hello { .. }) => {
                    return Err(LinkError::Protocol("the plane introduced itself twice"));
                }
                None => {}
            }
        }
    }

    fn acknowledged(&self, revision: u64) -> Result<(), LinkError> {
        if self.core.planes.acknowledged(self.name, revision) {
            return Ok(());
        }
        Err(LinkError::Protocol("the plane acknowledged what it was never sent"))
    }

    /// Only the plane's latest link renews its lease.
    async fn renew(&self, number: u64, outgoing: &mpsc::Sender<ToPlane>) {
        if self.core.planes.renew(self.name, self.link) {
            // The writer is gone only when the session ends.
            let _ = outgoing.send(ToPlane::Renewed { number }).await;
        }
    }

    /// The first certificate of a sandbox's authority stays; the row tells every plane which one it is.
    async fn keep_certificate(&self, sandbox: String, der: Vec<u8>) -> Result<(), LinkError> {
        let decide = move |tables: &crate::tables::Tables| {
            let Some(entry) = tables.sandboxes.get(&sandbox) else { return Ok(Vec::new()) };
            if entry.value.ca_certificate.is_some() || der.is_empty() {
                return Ok(Vec::new());
            }
            let mut row = (*entry.value).clone();
            row.ca_certificate = Some(der);
            Ok::<_, std::convert::Infallible>(vec![Change::Sandbox(sandbox, Some(row))])
        };
        match self.core.store.change(decide).await {
            Ok(_) => Ok(()),
            Err(crate::store::ChangeError::Store(error)) => Err(error.into()),
            Err(crate::store::ChangeError::Refused(never)) => match never {},
        }
    }

    async fn write(
        &self,
        mut send: SendStream,
        mut queue: mpsc::Receiver<ToPlane>,
        mut held: Option<u64>,
    ) -> Result<(), LinkError> {
        let mut revisions = self.core.store.revisions();
        let (own, newest) = {
            let tables = self.core.store.tables();
            (tables.store, tables.revision)
        };
        let renew_ms = u64::try_from(RENEW_EVERY.as_millis()).unwrap_or(u64::MAX);
        send.write_all(&ToPlane::Welcome { store: own, revision: newest, renew_ms }.encode()).await?;
        loop {
            revisions.mark_unchanged();
            held = Some(self.send_news(&mut send, held).await?);
            tokio::select! {
                changed = revisions.changed() => {
                    changed.map_err(|_| LinkError::Protocol("the store has stopped"))?;
                }
                Some(message) = queue.recv() => send.write_all(&message.encode()).await?,
            }
        }
    }

    /// Sends what a plane that holds `held` lacks; answers what it holds then.
    async fn send_news(&self, send: &mut SendStream, held: Option<u64>) -> Result<u64, LinkError> {
        let (revision, changed, all) = {
            let tables = self.core.store.tables();
            let changed = held.and_then(|held| tables.changed_since(held));
            let all = if changed.is_none() { tables.keys() } else { Vec::new() };
            (tables.revision, changed, all)
        };
        if held == Some(revision) {
            return Ok(revision);
        }
        if let Some(changed) = changed
            && changed.len() <= SNAPSHOT_ROWS_PER_FRAME
        {
            let changed: Vec<Key> = changed.into_iter().collect();
            let (revision, ops) = self.rows(&changed).await?;
            self.core.planes.sending(self.name, revision);
            send.write_all(&ToPlane::Delta { revision, ops }.encode()).await?;
            return Ok(revision);
        }
        let all = if all.is_empty() { self.core.store.tables().keys() } else { all };
        self.send_snapshot(send, revision, &all).await
    }

    async fn send_snapshot(
        &self,
        send: &mut SendStream,
        revision: u64,
        keys: &[Key],
    ) -> Result<u64, LinkError> {
        self.core.planes.sending(self.name, revision);
        send.write_all(&ToPlane::SnapshotBegin { revision }.encode()).await?;
        let mut count = 0;
        for keys in keys.chunks(SNAPSHOT_ROWS_PER_FRAME) {
            // A row that changes meanwhile may be newer than the snapshot: the delta that follows carries it again.
            let (_, mut ops) = self.rows(keys).await?;
            ops.retain(is_upsert);
            count += ops.len() as u64;
            send.write_all(&ToPlane::SnapshotRows { ops }.encode()).await?;
        }
        send.write_all(&ToPlane::SnapshotEnd { revision, rows: count }.encode()).await?;
        Ok(revision)
    }

    /// The operations that bring rows to what they are now, and the revision of that; envelopes that are too large
    /// for them have been sent.
    async fn rows(&self, keys: &[Key]) -> Result<(u64, Vec<Op>), LinkError> {
        // Envelopes go first, because sending waits and tables may not be held meanwhile.
        let handlers: Vec<_> = {
            let tables = self.core.store.tables();
            let named = keys.iter().filter(|key| key.kind == Kind::Handler);
            named.filter_map(|key| tables.handlers.get(&key.name).map(|entry| entry.value.clone())).collect()
        };
        for handler in handlers {
            if handler.bytes > ENVELOPE_INLINE_BYTES_MAX {
                self.send_artefact(&handler.hash).await?;
            }
        }
        let tables = self.core.store.tables();
        let ops = keys.iter().map(|key| op(self.core, &tables, key)).collect::<Result<_, _>>()?;
        Ok((tables.revision, ops))
    }

    async fn send_artefact(&self, hash: &str) -> Result<(), LinkError> {
        let bytes = read_artefact(self.core, hash)?;
        let mut stream = self.connection.open_uni().await?;
        let head = ToPlane::Artefact { hash: sha256(&bytes), bytes: bytes.len() };
        stream.write_all(&head.encode()).await?;
        stream.write_all(&bytes).await?;
        let _ = stream.finish();
        Ok(())
    }
}
