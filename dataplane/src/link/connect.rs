//! One connection after the other: a hello, what follows, and the pause after a loss.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use control_wire::message::{CLOSE_DONE, CLOSE_FAULT, CLOSE_REMOVED, CONTROL_NAME, ToControl, ToPlane};
use quinn::{Connection, ConnectionError, Endpoint, TransportErrorCode};
use tokio::sync::mpsc;

use super::identity::Token;
use super::join::join;
use super::session::{Session, read};
use super::{LinkError, LinkEvent, Worker, ended};
use crate::causes::chain;
use crate::limits::{
    LINK_ANSWERS_MAX, LINK_CLOSE_TIME, LINK_CONNECT_TIME, LINK_FRAMES_MAX, LINK_PAUSE, LINK_PAUSE_MAX,
    LINK_RENEW_MAX, LINK_RENEW_MIN,
};
use crate::snapshot::ApplyError;

/// Alerts of TLS about a certificate, from `bad_certificate` to `decrypt_error` (RFC 8446 §6).
const CERTIFICATE_ALERTS: std::ops::RangeInclusive<u8> = 42..=51;

impl<S: FnMut(LinkEvent) -> Result<(), ApplyError>> Worker<S> {
    /// Runs until every handle is dropped.
    pub(super) async fn run(&mut self) {
        let mut pause = LINK_PAUSE;
        self.introduce();
        while !(self.outgoing.is_closed() && self.outgoing.is_empty()) {
            let (before, started) = (self.held.get(), Instant::now());
            if let Err(error) = self.attempt().await {
                if matches!(error, LinkError::Removed) {
                    self.empty();
                }
                // Nothing is applied by this event, so nothing can fail.
                let _told = (self.sink)(LinkEvent::Lost(error));
            }
            // A link that brought something, or held, was a good one. One that ends as soon as it opens is not.
            if before.claim() != self.held.get().claim() || started.elapsed() > 2 * LINK_PAUSE_MAX {
                pause = LINK_PAUSE;
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LINK_PAUSE_MAX);
        }
    }

    /// A plane that control has removed refuses everything: nobody waits for what it enforces any more.
    fn empty(&mut self) {
        self.removed = true;
        if let Some(emptied) = self.held.get().emptied() {
            self.held.set(emptied);
            let event = LinkEvent::Snapshot { revision: emptied.number(), ops: Vec::new() };
            // No row, no row that does not hold.
            let _applied = (self.sink)(event);
        }
    }

    async fn attempt(&mut self) -> Result<(), LinkError> {
        self.identify().await?;
        let address = self.config.control;
        let config = self.member.identity.client_config().map_err(|source| refused(address, source))?;
        let (endpoint, connection) = connect(address, config).await?;
        let result = self.converse(&connection).await;
        let result = match (result, connection.close_reason()) {
            // What control said at its end tells more than that a stream broke.
            (Err(_), Some(ConnectionError::ApplicationClosed(close))) => {
                let reason = String::from_utf8_lossy(&close.reason).into_owned();
                let removed = close.error_code == CLOSE_REMOVED.into();
                Err(if removed { LinkError::Removed } else { LinkError::Closed { reason } })
            }
            (result, _) => result,
        };
        match &result {
            Ok(()) => connection.close(CLOSE_DONE.into(), b""),
            Err(error) => connection.close(CLOSE_FAULT.into(), chain(error).as_bytes()),
        }
        let _ = tokio::time::timeout(LINK_CLOSE_TIME, endpoint.wait_idle()).await;
        result
    }

    /// Joins again where control has removed the plane and the token is one that it has not used yet.
    async fn identify(&mut self) -> Result<(), LinkError> {
        if self.outdated {
            return Err(LinkError::OtherMaster);
        }
        if !self.removed {
            return Ok(());
        }
        let Some(Ok(token)) = self.config.join_token.as_deref().map(|text| Token::parse(text)) else {
            return Ok(());
        };
        let joined = join(&self.config, &token, Arc::clone(&self.member.master)).await?;
        if joined.master.id()? != self.member.master.id()? {
            // It lies on disk now, but every shard holds the former one.
            self.outdated = true;
            return Err(LinkError::OtherMaster);
        }
        self.member = joined;
        self.removed = false;
        self.introduce();
        Ok(())
    }

    fn introduce(&mut self) {
        // Nothing is applied by this event, so nothing can fail.
        let _told = (self.sink)(LinkEvent::Joined { handler_key: self.member.identity.handler_key });
    }

    async fn converse(&mut self, connection: &Connection) -> Result<(), LinkError> {
        let (mut send, mut receive) = connection.open_bi().await.map_err(ended)?;
        let (store, revision) = self.held.get().claim();
        let hello = ToControl::Hello {
            plane: self.config.plane.clone(),
            store,
            revision,
            triple: self.config.triple.clone(),
            cpu_features: self.config.cpu_features.clone(),
            wasmer: self.config.wasmer.clone(),
        };
        send.write_all(&hello.encode()).await.map_err(ended)?;
        let welcome = tokio::time::timeout(LINK_CONNECT_TIME, read(&mut receive)).await.map_err(ended)??;
        let Some(ToPlane::Welcome { store, renew_ms, .. }) = welcome else {
            return Err(LinkError::Protocol("control did not welcome the plane"));
        };
        let mut asked = self.questions.open();
        (self.sink)(LinkEvent::Connected)?;
        let every = Duration::from_millis(renew_ms).clamp(LINK_RENEW_MIN, LINK_RENEW_MAX);
        let session = Session {
            connection,
            store,
            lease: &self.config.lease,
            held: &self.held,
            rejected: &self.rejected,
            renewals: Default::default(),
            master: &self.member.master,
        };
        let (frames, heard) = mpsc::channel(LINK_FRAMES_MAX);
        let (answers, mut answered) = mpsc::channel(LINK_ANSWERS_MAX);
        // Whichever ends first ends the connection.
        tokio::select! {
            ended = session.listen(receive, frames, answers) => ended,
            ended = session.build(heard, &mut self.sink) => ended,
            ended = session.speak(
                send,
                (&mut answered, &mut asked),
                &mut self.outgoing,
                &mut self.acknowledged,
                every,
            ) => ended,
        }
    }
}

/// Opens a connection to control.
pub(super) async fn connect(
    address: SocketAddr,
    config: quinn::ClientConfig,
) -> Result<(Endpoint, Connection), LinkError> {
    let local = match address {
        SocketAddr::V4(_) => SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
        SocketAddr::V6(_) => SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)),
    };
    let endpoint = Endpoint::client(local).map_err(|source| refused(address, source))?;
    let connecting =
        endpoint.connect_with(config, address, CONTROL_NAME).map_err(|source| refused(address, source))?;
    let connected = tokio::time::timeout(LINK_CONNECT_TIME, connecting)
        .await
        .map_err(|_| refused(address, "nobody answers; is `outgate serve` running there?"))?;
    match connected {
        Ok(connection) => Ok((endpoint, connection)),
        Err(ConnectionError::TransportError(error)) if is_about_certificates(error.code) => {
            Err(LinkError::Stranger { address, source: error.into() })
        }
        Err(source) => Err(refused(address, source)),
    }
}

pub(super) fn refused(
    address: SocketAddr,
    source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
) -> LinkError {
    LinkError::Connect { address, source: source.into() }
}

fn is_about_certificates(code: TransportErrorCode) -> bool {
    CERTIFICATE_ALERTS.map(TransportErrorCode::crypto).any(|alert| alert == code)
}
