//! One connection after the other: join once, then hello, revisions, acknowledgements, renewals.

use std::collections::{HashMap, VecDeque};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use control_wire::message::{CONTROL_NAME, FRAME_HEADER_BYTES, StoreId, ToControl, ToPlane, frame_header};
use control_wire::row::{Envelope, Op};
use quinn::{Connection, Endpoint, RecvStream, SendStream};
use tokio::sync::mpsc;
use zeroize::Zeroizing;

use super::identity::{Identity, Request, Token, join_config};
use super::{LinkError, LinkEvent, Worker};
use crate::clock::BootTime;
use crate::limits::{
    LINK_ARTEFACT_TIME, LINK_CONNECT_TIME, LINK_PAUSE, LINK_PAUSE_MAX, LINK_RENEWALS_MAX, LINK_ROWS_MAX,
};
use crate::snapshot::ApplyError;

type Hash = [u8; 32];
type Artefact = Result<(Hash, Vec<u8>), LinkError>;

fn ended(source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> LinkError {
    LinkError::Ended { source: source.into() }
}

impl<S: FnMut(LinkEvent) -> Result<(), ApplyError>> Worker<S> {
    /// Runs until every handle is dropped.
    pub(super) async fn run(mut self) {
        let mut pause = LINK_PAUSE;
        let mut known = None;
        loop {
            let before = self.delivered;
            let result = self.attempt(&mut known).await;
            if let Err(error) = result {
                // Nothing is applied by this event, so nothing can fail.
                let _told = (self.sink)(LinkEvent::Lost(error));
            }
            if self.outgoing.is_closed() && self.outgoing.is_empty() {
                return;
            }
            if before != self.delivered {
                pause = LINK_PAUSE;
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LINK_PAUSE_MAX);
        }
    }

    async fn attempt(&mut self, known: &mut Option<Identity>) -> Result<(), LinkError> {
        if known.is_none() {
            let identity = self.identity().await?;
            (self.sink)(LinkEvent::Joined { handler_key: identity.handler_key })?;
            *known = Some(identity);
        }
        let Some(identity) = known else { return Ok(()) };
        let config = identity.client_config().map_err(|source| self.refused(source))?;
        let (_endpoint, connection) = self.connect(config).await?;
        let result = self.converse(&connection).await;
        connection.close(0u8.into(), b"");
        result
    }

    fn refused(&self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> LinkError {
        LinkError::Connect { address: self.config.control, source: source.into() }
    }

    async fn connect(&self, config: quinn::ClientConfig) -> Result<(Endpoint, Connection), LinkError> {
        let local = match self.config.control {
            SocketAddr::V4(_) => SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
            SocketAddr::V6(_) => SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)),
        };
        let endpoint = Endpoint::client(local).map_err(|source| self.refused(source))?;
        let connecting = endpoint
            .connect_with(config, self.config.control, CONTROL_NAME)
            .map_err(|source| self.refused(source))?;
        let connection = tokio::time::timeout(LINK_CONNECT_TIME, connecting)
            .await
            .map_err(|source| self.refused(source))?
            .map_err(|source| self.refused(source))?;
        Ok((endpoint, connection))
    }

    /// The identity on disk, or one that control gives for the token.
    async fn identity(&self) -> Result<Identity, LinkError> {
        let folder = &self.config.identity;
        let fault = |source| LinkError::Identity { path: folder.clone(), source };
        if let Some(identity) = Identity::load(folder).map_err(fault)? {
            return Ok(identity);
        }
        let token = Token::parse(self.config.join_token.as_deref().ok_or(LinkError::NoToken)?)?;
        let request = Request::make().map_err(|source| self.refused(source))?;
        let config = join_config(&token).map_err(|source| self.refused(source))?;
        let (_endpoint, connection) = self.connect(config).await?;
        let (mut send, mut receive) = connection.open_bi().await.map_err(ended)?;
        let plane = self.config.plane.clone();
        let join = ToControl::Join { secret: *token.secret, plane, csr: request.csr.clone() };
        send.write_all(&join.encode()).await.map_err(ended)?;
        let answer = tokio::time::timeout(LINK_CONNECT_TIME, read(&mut receive)).await.map_err(ended)??;
        connection.close(0u8.into(), b"");
        match answer {
            Some(ToPlane::Joined { certificate, authority, handler_key }) => {
                let identity = request.complete(certificate, authority, handler_key);
                identity.store(folder).map_err(fault)?;
                Ok(identity)
            }
            Some(ToPlane::JoinRefused { reason }) => Err(LinkError::Refused { reason }),
            _ => Err(LinkError::Protocol("control answered the join with something else")),
        }
    }

    async fn converse(&mut self, connection: &Connection) -> Result<(), LinkError> {
        let (mut send, receive) = connection.open_bi().await.map_err(ended)?;
        let (store, revision) = self.delivered;
        let hello = ToControl::Hello {
            plane: self.config.plane.clone(),
            store,
            revision,
            triple: self.config.triple.clone(),
            cpu_features: self.config.cpu_features.clone(),
            wasmer: self.config.wasmer.clone(),
        };
        send.write_all(&hello.encode()).await.map_err(ended)?;
        let (frames, mut frame) = mpsc::channel(4);
        let reader = tokio::spawn(read_all(receive, frames));
        let (found, artefacts) = mpsc::channel(4);
        let finder = tokio::spawn(find_artefacts(connection.clone(), found));
        let mut session =
            Session { store: None, building: None, renewals: VecDeque::new(), number: 0, artefacts };
        let result = self.exchange(&mut session, &mut send, &mut frame).await;
        reader.abort();
        finder.abort();
        result
    }

    async fn exchange(
        &mut self,
        session: &mut Session,
        send: &mut SendStream,
        frames: &mut mpsc::Receiver<Result<Option<ToPlane>, LinkError>>,
    ) -> Result<(), LinkError> {
        let mut renewals = tokio::time::interval(Duration::from_millis(500));
        // What was acknowledged before the loss is said again: control may have been restarted meanwhile.
        self.acknowledged.mark_changed();
        let mut welcome = false;
        loop {
            tokio::select! {
                frame = frames.recv() => {
                    let Some(frame) = frame else { return Err(LinkError::Protocol("control closed the stream")) };
                    let Some(frame) = frame? else { continue };
                    if let ToPlane::Welcome { renew_ms, .. } = frame {
                        let every = Duration::from_millis(renew_ms.clamp(50, 10_000));
                        renewals = tokio::time::interval(every);
                        renewals.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
                        welcome = true;
                    }
                    self.hear(session, frame).await?;
                }
                message = self.outgoing.recv() => {
                    let Some(message) = message else { return Ok(()) };
                    send.write_all(&message.encode()).await.map_err(ended)?;
                }
                changed = self.acknowledged.changed(), if welcome => {
                    if changed.is_err() { return Ok(()) }
                    let revision = *self.acknowledged.borrow_and_update();
                    // A revision of another store means nothing to this one.
                    if revision > 0 && session.store == Some(self.delivered.0) {
                        send.write_all(&ToControl::Ack { revision }.encode()).await.map_err(ended)?;
                    }
                }
                _ = renewals.tick(), if welcome => {
                    let message = session.renewal();
                    send.write_all(&message.encode()).await.map_err(ended)?;
                }
            }
        }
    }

    async fn hear(&mut self, session: &mut Session, message: ToPlane) -> Result<(), LinkError> {
        match message {
            ToPlane::Welcome { store, .. } if session.store.is_none() => {
                session.store = Some(store);
                (self.sink)(LinkEvent::Connected)?;
            }
            ToPlane::SnapshotBegin { revision } if session.building.is_none() => {
                session.building = Some((revision, Vec::new()));
            }
            ToPlane::SnapshotRows { ops } => {
                let ops = session.with_envelopes(ops).await?;
                let Some((_, rows)) = &mut session.building else {
                    return Err(LinkError::Protocol("rows came without the beginning of a snapshot"));
                };
                rows.extend(ops);
                if rows.len() > LINK_ROWS_MAX {
                    return Err(LinkError::Protocol("the snapshot has more rows than a plane takes"));
                }
            }
            ToPlane::SnapshotEnd { revision, rows } => match session.building.take() {
                Some((begun, ops)) if begun == revision && ops.len() as u64 == rows => {
                    self.deliver(session, revision, |ops| LinkEvent::Snapshot { revision, ops }, ops)?;
                }
                _ => return Err(LinkError::Protocol("the snapshot ended with other rows than it announced")),
            },
            ToPlane::Delta { revision, ops } if session.building.is_none() => {
                if session.store != Some(self.delivered.0) || revision <= self.delivered.1 {
                    return Err(LinkError::Protocol(
                        "a change came that does not follow what the plane holds",
                    ));
                }
                let ops = session.with_envelopes(ops).await?;
                self.deliver(session, revision, |ops| LinkEvent::Delta { revision, ops }, ops)?;
            }
            ToPlane::Renewed { number } => {
                let sent =
                    session.renewed(number).ok_or(LinkError::Protocol("a renewal was never asked for"))?;
                self.config.lease.renew(sent);
            }
            _ => return Err(LinkError::Protocol("control said something out of turn")),
        }
        Ok(())
    }

    fn deliver(
        &mut self,
        session: &Session,
        revision: u64,
        event: impl FnOnce(Vec<Op>) -> LinkEvent,
        ops: Vec<Op>,
    ) -> Result<(), LinkError> {
        let store = session.store.ok_or(LinkError::Protocol("rows came before the welcome"))?;
        // Where it does not hold, the next connection asks for everything.
        self.delivered = (StoreId::default(), 0);
        (self.sink)(event(ops))?;
        self.delivered = (store, revision);
        Ok(())
    }
}

/// What belongs to one connection.
struct Session {
    store: Option<StoreId>,
    building: Option<(u64, Vec<Op>)>,
    /// Renewals asked for, oldest first, with the moment of sending.
    renewals: VecDeque<(u64, BootTime)>,
    number: u64,
    artefacts: mpsc::Receiver<Artefact>,
}

impl Session {
    /// The moment is taken before the message exists, so the lease is never longer than control believes.
    fn renewal(&mut self) -> ToControl {
        self.number += 1;
        self.renewals.push_back((self.number, BootTime::now()));
        if self.renewals.len() > LINK_RENEWALS_MAX {
            self.renewals.pop_front();
        }
        ToControl::Renew { number: self.number }
    }

    fn renewed(&mut self, number: u64) -> Option<BootTime> {
        let at = self.renewals.iter().position(|(asked, _)| *asked == number)?;
        self.renewals.drain(..=at).next_back().map(|(_, sent)| sent)
    }

    /// Puts the envelopes that travelled apart into their operations; waits for those still on the way.
    async fn with_envelopes(&mut self, mut ops: Vec<Op>) -> Result<Vec<Op>, LinkError> {
        let mut found: HashMap<Hash, Vec<u8>> = HashMap::new();
        for op in &mut ops {
            let Op::UpsertHandler(row) = op else { continue };
            match row.envelope {
                Envelope::Here(ref bytes) if digest(&SHA256, bytes).as_ref() == row.hash => {}
                Envelope::Here(_) => {
                    return Err(LinkError::Protocol("an envelope has another hash than its row"));
                }
                Envelope::Apart { bytes } => {
                    while !found.contains_key(&row.hash) {
                        let next = tokio::time::timeout(LINK_ARTEFACT_TIME, self.artefacts.recv()).await;
                        let artefact =
                            next.map_err(ended)?.ok_or(LinkError::Protocol("an envelope is missing"))?;
                        let (hash, envelope) = artefact?;
                        found.insert(hash, envelope);
                    }
                    let Some(envelope) = found.get(&row.hash).filter(|envelope| envelope.len() == bytes)
                    else {
                        return Err(LinkError::Protocol("an envelope has another length than its row"));
                    };
                    row.envelope = Envelope::Here(envelope.as_slice().into());
                }
            }
        }
        Ok(ops)
    }
}

async fn read(stream: &mut RecvStream) -> Result<Option<ToPlane>, LinkError> {
    let mut header = [0; FRAME_HEADER_BYTES];
    stream.read_exact(&mut header).await.map_err(ended)?;
    let (tag, length) = frame_header(header)?;
    let mut body = Zeroizing::new(vec![0; length]);
    stream.read_exact(&mut body).await.map_err(ended)?;
    Ok(ToPlane::decode(tag, &body)?)
}

/// Reads in a task of its own, because a half-read frame must not be dropped by a `select`.
async fn read_all(mut stream: RecvStream, frames: mpsc::Sender<Result<Option<ToPlane>, LinkError>>) {
    loop {
        let frame = read(&mut stream).await;
        let failed = frame.is_err();
        if frames.send(frame).await.is_err() || failed {
            return;
        }
    }
}

/// Takes envelopes one after the other, in the order in which they were sent.
async fn find_artefacts(connection: Connection, found: mpsc::Sender<Artefact>) {
    while let Ok(stream) = connection.accept_uni().await {
        let artefact = read_artefact(stream).await;
        let failed = artefact.is_err();
        if found.send(artefact).await.is_err() || failed {
            return;
        }
    }
}

async fn read_artefact(mut stream: RecvStream) -> Artefact {
    let Some(ToPlane::Artefact { hash, bytes }) = read(&mut stream).await? else {
        return Err(LinkError::Protocol("a stream began with something else than an envelope"));
    };
    let mut envelope = vec![0; bytes];
    stream.read_exact(&mut envelope).await.map_err(ended)?;
    if digest(&SHA256, &envelope).as_ref() != hash {
        return Err(LinkError::Protocol("an envelope arrived with another hash than announced"));
    }
    Ok((hash, envelope))
}
