//! One open connection: frames become revisions, and beside that the plane acknowledges, offers and renews.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use control_wire::message::{FRAME_HEADER_BYTES, StoreId, ToControl, ToPlane, frame_header};
use control_wire::pool::SealRequest;
use control_wire::row::{Envelope, Op};
use quinn::{Connection, RecvStream, SendStream};
use tokio::sync::{mpsc, watch};
use tokio::time::MissedTickBehavior;
use zeroize::Zeroizing;

use super::held::Held;
use super::questions::Asked;
use super::{LinkError, LinkEvent, ended};
use crate::clock::{BootTime, Lease};
use crate::limits::{LINK_ARTEFACT_TIME, LINK_REJECTIONS_MAX, LINK_RENEWALS_MAX, LINK_ROWS_MAX};
use crate::snapshot::ApplyError;
use crate::tls::PoolMaster;

/// Versions of handlers that the plane does not take, by name, to be told to each control that it meets.
pub(super) type Rejections = BTreeMap<String, (u64, String)>;

/// What belongs to one connection, and what its halves share.
pub(super) struct Session<'a> {
    pub(super) connection: &'a Connection,
    /// Control's, as it said.
    pub(super) store: StoreId,
    pub(super) lease: &'a Lease,
    pub(super) held: &'a Cell<Held>,
    pub(super) rejected: &'a RefCell<Rejections>,
    pub(super) renewals: RefCell<Renewals>,
    /// The pool's, to be sealed for planes that join.
    pub(super) master: &'a PoolMaster,
}

impl Session<'_> {
    /// Takes frames from the stream. Renewals and planes that join do not wait behind revisions.
    pub(super) async fn listen(
        &self,
        mut receive: RecvStream,
        frames: mpsc::Sender<ToPlane>,
        answers: mpsc::Sender<ToControl>,
    ) -> Result<(), LinkError> {
        loop {
            match read(&mut receive).await? {
                Some(ToPlane::Renewed { number }) => {
                    let sent = self.renewals.borrow_mut().answered(number);
                    self.lease.renew(sent.ok_or(LinkError::Protocol("a renewal was never asked for"))?);
                }
                Some(ToPlane::SealMaster(request)) => {
                    if let Some(answer) = self.seal(&request) {
                        // Its receiver ends only with the session.
                        let _ = answers.send(answer).await;
                    }
                }
                // Its receiver ends only with the session.
                Some(frame) => drop(frames.send(frame).await),
                None => {}
            }
        }
    }

    /// Who asks for another master, or for a key that is none, gets no answer; control asks the next plane.
    fn seal(&self, request: &SealRequest) -> Option<ToControl> {
        self.master.id().ok().filter(|id| *id == request.master)?;
        let sealed = self.master.seal_for(&request.recipient).ok()?;
        Some(ToControl::MasterSealed { request: request.number, sealed })
    }

    /// Makes revisions of frames and hands them to the sink.
    pub(super) async fn build(
        &self,
        mut frames: mpsc::Receiver<ToPlane>,
        mut sink: impl FnMut(LinkEvent) -> Result<(), ApplyError>,
    ) -> Result<(), LinkError> {
        let (mut snapshot, mut ops) = (None, Vec::new());
        while let Some(frame) = frames.recv().await {
            match frame {
                ToPlane::SnapshotBegin { revision } if snapshot.is_none() && ops.is_empty() => {
                    snapshot = Some(revision);
                }
                ToPlane::SnapshotRows { ops: rows } if snapshot.is_some() => {
                    self.add(&mut ops, rows).await?;
                }
                ToPlane::SnapshotEnd { revision, rows }
                    if snapshot.take() == Some(revision) && rows == ops.len() as u64 =>
                {
                    self.rejected.borrow_mut().clear();
                    let ops = std::mem::take(&mut ops);
                    self.deliver(revision, |revision| sink(LinkEvent::Snapshot { revision, ops }))?;
                }
                ToPlane::Answer(answer) => sink(LinkEvent::Answer(answer))?,
                ToPlane::DeltaRows { ops: rows } if snapshot.is_none() => self.add(&mut ops, rows).await?,
                ToPlane::Delta { revision, ops: rows }
                    if snapshot.is_none() && self.held.get().leads_to(self.store, revision) =>
                {
                    self.add(&mut ops, rows).await?;
                    let ops = std::mem::take(&mut ops);
                    self.forget_rejections(&ops);
                    self.deliver(revision, |revision| sink(LinkEvent::Delta { revision, ops }))?;
                }
                _ => return Err(LinkError::Protocol("control said something out of turn")),
            }
        }
        Ok(())
    }

    fn deliver(
        &self,
        revision: u64,
        sink: impl FnOnce(u64) -> Result<(), ApplyError>,
    ) -> Result<(), LinkError> {
        let next = self.held.get().with(self.store, revision);
        // Where it does not hold, the next connection asks for everything.
        self.held.set(self.held.get().broken());
        sink(next.number())?;
        self.held.set(next);
        Ok(())
    }

    /// A newer version, or none, stands where the rejected one stood.
    fn forget_rejections(&self, ops: &[Op]) {
        let mut rejected = self.rejected.borrow_mut();
        for op in ops {
            if let Op::UpsertHandler(row) = op {
                rejected.remove(&row.name);
            } else if let Op::RemoveHandler(name) = op {
                rejected.remove(name);
            }
        }
    }

    /// Adds rows whose envelopes are all here and have the hashes that the rows name.
    async fn add(&self, ops: &mut Vec<Op>, rows: Vec<Op>) -> Result<(), LinkError> {
        if ops.len() + rows.len() > LINK_ROWS_MAX {
            return Err(LinkError::Protocol("control sends more rows than a plane takes"));
        }
        for mut op in rows {
            if let Op::UpsertHandler(row) = &mut op {
                match &row.envelope {
                    Envelope::Here(bytes) if digest(&SHA256, bytes).as_ref() == row.hash => {}
                    Envelope::Here(_) => {
                        return Err(LinkError::Protocol("an envelope has another hash than its row"));
                    }
                    Envelope::Apart { bytes } => {
                        let artefact = self.artefact(&row.hash, *bytes);
                        let late = |_| LinkError::Protocol("an envelope did not come in time");
                        let envelope = tokio::time::timeout(LINK_ARTEFACT_TIME, artefact).await;
                        row.envelope = Envelope::Here(envelope.map_err(late)??.into());
                    }
                }
            }
            ops.push(op);
        }
        Ok(())
    }

    /// The envelope that travels apart: the next stream is the one, because both sides keep the order.
    async fn artefact(&self, hash: &[u8; 32], bytes: usize) -> Result<Vec<u8>, LinkError> {
        let mut stream = self.connection.accept_uni().await.map_err(ended)?;
        match read(&mut stream).await? {
            Some(ToPlane::Artefact { hash: announced, bytes: length })
                if announced == *hash && length == bytes => {}
            _ => return Err(LinkError::Protocol("a stream began with something else than the envelope")),
        }
        let mut envelope = vec![0; bytes];
        stream.read_exact(&mut envelope).await.map_err(ended)?;
        if digest(&SHA256, &envelope).as_ref() != hash {
            return Err(LinkError::Protocol("an envelope arrived with another hash than announced"));
        }
        Ok(envelope)
    }

    /// Says what there is to say until every handle is dropped.
    pub(super) async fn speak(
        &self,
        mut send: SendStream,
        (answers, asked): (&mut mpsc::Receiver<ToControl>, &mut Asked),
        outgoing: &mut mpsc::Receiver<ToControl>,
        acknowledged: &mut watch::Receiver<u64>,
        every: Duration,
    ) -> Result<(), LinkError> {
        let mut renewals = tokio::time::interval(every);
        renewals.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // Said again: control may be another process than the one that heard it.
        let known: Vec<_> = self.rejected.borrow().iter().map(rejection).collect();
        for message in known {
            send.write_all(&message.encode()).await.map_err(ended)?;
        }
        acknowledged.mark_changed();
        loop {
            tokio::select! {
                Some(answer) = answers.recv() => send.write_all(&answer.encode()).await.map_err(ended)?,
                Some(asked) = asked.next() => send.write_all(&asked.encode()).await.map_err(ended)?,
                message = outgoing.recv() => {
                    let Some(message) = message else { return Ok(()) };
                    self.say(&mut send, message).await?;
                }
                changed = acknowledged.changed() => {
                    if changed.is_err() { return Ok(()) }
                    let number = *acknowledged.borrow_and_update();
                    // What was said before the acknowledgement goes before it: who waits for a handler to be in
                    // force must know that it was rejected.
                    while let Ok(message) = outgoing.try_recv() {
                        self.say(&mut send, message).await?;
                    }
                    if let Some(revision) = self.held.get().acknowledged(self.store, number) {
                        send.write_all(&ToControl::Ack { revision }.encode()).await.map_err(ended)?;
                    }
                }
                _ = renewals.tick() => {
                    let number = self.renewals.borrow_mut().ask(BootTime::now());
                    send.write_all(&ToControl::Renew { number }.encode()).await.map_err(ended)?;
                }
            }
        }
    }

    async fn say(&self, send: &mut SendStream, message: ToControl) -> Result<(), LinkError> {
        if let ToControl::HandlerRejected { name, version, reason } = &message {
            let mut rejected = self.rejected.borrow_mut();
            if rejected.len() < LINK_REJECTIONS_MAX {
                rejected.insert(name.clone(), (*version, reason.clone()));
            }
        }
        send.write_all(&message.encode()).await.map_err(ended)
    }
}

fn rejection((name, (version, reason)): (&String, &(u64, String))) -> ToControl {
    ToControl::HandlerRejected { name: name.clone(), version: *version, reason: reason.clone() }
}

/// Renewals asked for and not answered, oldest first, each with the moment of sending.
#[derive(Default)]
pub(super) struct Renewals {
    asked: VecDeque<(u64, BootTime)>,
    number: u64,
}

impl Renewals {
    /// The moment is taken before the message exists, so the lease is never longer than control believes.
    fn ask(&mut self, now: BootTime) -> u64 {
        self.number += 1;
        self.asked.push_back((self.number, now));
        if self.asked.len() > LINK_RENEWALS_MAX {
            self.asked.pop_front();
        }
        self.number
    }

    /// When the answered one was sent.
    fn answered(&mut self, number: u64) -> Option<BootTime> {
        let at = self.asked.iter().position(|(asked, _)| *asked == number)?;
        self.asked.drain(..=at).next_back().map(|(_, sent)| sent)
    }
}

/// Reads one frame. `None`: unknown, and marked so that it may be skipped.
pub(super) async fn read(stream: &mut RecvStream) -> Result<Option<ToPlane>, LinkError> {
    let mut header = [0; FRAME_HEADER_BYTES];
    stream.read_exact(&mut header).await.map_err(ended)?;
    let (tag, length) = frame_header(header)?;
    let mut body = Zeroizing::new(vec![0; length]);
    stream.read_exact(&mut body).await.map_err(ended)?;
    Ok(ToPlane::decode(tag, &body)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_runs_from_the_sending_of_the_renewal_that_was_answered() {
        let (lease, mut renewals) = (Lease::default(), Renewals::default());
        assert_eq!(renewals.ask(BootTime::from_millis(1_000)), 1);
        assert_eq!(renewals.ask(BootTime::from_millis(1_400)), 2);
        assert_eq!(renewals.ask(BootTime::from_millis(1_800)), 3);
        // However late the answer to the second comes, it reaches no further than its sending allows.
        lease.renew(renewals.answered(2).unwrap());
        assert!(lease.runs(Duration::from_millis(500), BootTime::from_millis(1_899)));
        assert!(!lease.runs(Duration::from_millis(500), BootTime::from_millis(1_900)));
        assert_eq!(renewals.answered(1), None, "an earlier one is answered with the later");
        assert_eq!(renewals.answered(2), None, "none is answered twice");
        assert_eq!(renewals.answered(9), None, "none is answered that was not asked");
    }

    #[test]
    fn renewals_that_nobody_answers_are_bounded() {
        let mut renewals = Renewals::default();
        for millis in 0..(LINK_RENEWALS_MAX as u64 + 5) {
            renewals.ask(BootTime::from_millis(millis));
        }
        assert_eq!(renewals.asked.len(), LINK_RENEWALS_MAX);
        assert_eq!(renewals.answered(1), None);
    }
}
