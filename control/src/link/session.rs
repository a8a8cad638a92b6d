//! One open link: what its plane says is taken in, beside what it is sent.

use std::time::Instant;

use control_wire::message::{StoreId, ToControl, ToPlane};
use quinn::{Connection, RecvStream, SendStream};
use tokio::sync::mpsc;

use super::certificates::Offer;
use super::{Core, LinkError, read};
use crate::limits::{CERTIFICATES_PER_COMMIT, OUTGOING_MAX, RENEW_EVERY, RENEWALS_AHEAD_MAX};
use crate::planes::Rejection;
use crate::questions::Asking;
use crate::tell::tell;

/// The link of a plane that is known.
pub(super) struct Session<'a> {
    pub(super) core: &'a Core,
    pub(super) name: &'a str,
    /// Its number, by which a newer one of the same plane is told apart.
    pub(super) link: u64,
    pub(super) connection: &'a Connection,
}

impl Session<'_> {
    /// Runs until the link ends, for the first reason that there is.
    pub(super) async fn run(
        &self,
        send: SendStream,
        receive: RecvStream,
        (store, revision): (StoreId, u64),
    ) -> Result<(), LinkError> {
        let (outgoing, queue) = mpsc::channel(OUTGOING_MAX);
        let (offers, offered) = mpsc::channel(CERTIFICATES_PER_COMMIT);
        let held = {
            let tables = self.core.store.tables();
            // A revision that this store never had: it was put back to an earlier day since.
            (store == tables.store && 0 < revision && revision <= tables.revision).then_some(revision)
        };
        if let Some(revision) = held {
            // Before anything is read: the plane acknowledges again what it holds.
            self.core.planes.resumed(self.name, revision);
        }
        let _way = self.core.handover.open(self.name, self.link, outgoing.clone());
        let asking = self.core.questions.open(self.name, self.link, outgoing.clone());
        tokio::select! {
            ended = self.write(send, queue, held) => ended,
            ended = self.listen(receive, &outgoing, &offers, &asking) => ended,
            ended = self.keep_certificates(offered) => ended,
            ended = self.superseded() => Err(ended),
        }
    }

    async fn superseded(&self) -> LinkError {
        let mut changes = self.core.planes.changes();
        // The sender lives as long as the planes do.
        while self.core.planes.is_current(self.name, self.link) && changes.changed().await.is_ok() {}
        if self.core.planes.knows(self.name) {
            LinkError::Superseded
        } else {
            LinkError::Removed(self.name.to_owned())
        }
    }

    async fn listen(
        &self,
        mut receive: RecvStream,
        outgoing: &mpsc::Sender<ToPlane>,
        offers: &mpsc::Sender<Offer>,
        asking: &Asking<'_>,
    ) -> Result<(), LinkError> {
        let opened = Instant::now();
        let mut renewals = 0;
        loop {
            match read(&mut receive).await? {
                Some(ToControl::Ack { revision }) => self.acknowledged(revision)?,
                Some(ToControl::Renew { number }) => {
                    renewals += 1;
                    check_pace(renewals, opened)?;
                    self.renew(number, outgoing).await;
                }
                // The receivers of both queues end only with the session.
                Some(ToControl::CaCertificate { sandbox, der }) => drop(offers.send((sandbox, der)).await),
                Some(ToControl::HandlerRejected { name, version, reason }) => {
                    self.rejected(Rejection { handler: name, version, reason });
                }
                Some(ToControl::MasterSealed { request, sealed }) => {
                    self.core.handover.answered(self.name, request, sealed);
                }
                Some(ToControl::Question(question)) => {
                    let many = |_| LinkError::Protocol("the plane asks more questions than it may");
                    asking.asked(question).map_err(many)?;
                }
                Some(ToControl::Withdrawn(id)) => asking.withdrawn(id),
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

    /// Only what concerns the version in force is noted, and once: a plane cannot fill the log.
    fn rejected(&self, rejection: Rejection) {
        let handler = self.core.store.tables().handlers.get(&rejection.handler).map(|row| row.value.version);
        if handler == Some(rejection.version) && self.core.planes.rejected(self.name, &rejection) {
            let Rejection { handler, version, reason } = rejection;
            tell(format_args!(
                "plane {} does not take handler {handler} version {version}: {reason}",
                self.name
            ));
        }
    }
}

/// A plane renews as often as it was told to, but for what was held up on the way.
fn check_pace(renewals: u64, opened: Instant) -> Result<(), LinkError> {
    let due = opened.elapsed().as_millis() / RENEW_EVERY.as_millis();
    if renewals <= RENEWALS_AHEAD_MAX.saturating_add(u64::try_from(due).unwrap_or(u64::MAX).saturating_mul(2))
    {
        return Ok(());
    }
    Err(LinkError::Protocol("the plane renews its lease far more often than it was told to"))
}
