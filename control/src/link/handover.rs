//! Carries the pool's master, sealed, from planes that hold it to one that joins. Control cannot open what it carries.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use control_wire::message::ToPlane;
use control_wire::pool::{MasterId, Recipient, SealRequest, SealedMaster};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use crate::limits::{HOLDERS_ASKED_MAX, SEAL_TIME};

/// Planes that are connected, and what they were asked to seal. A plane has its identity only together with the
/// master, so each that is connected holds it.
#[derive(Default)]
pub struct Handover(Mutex<Desk>);

#[derive(Default)]
struct Desk {
    /// The way to each plane, with the number of its link.
    ways: BTreeMap<String, (u64, mpsc::Sender<ToPlane>)>,
    asked: BTreeMap<u64, Asked>,
    number: u64,
}

struct Asked {
    holder: String,
    answer: oneshot::Sender<SealedMaster>,
}

impl Handover {
    fn lock(&self) -> MutexGuard<'_, Desk> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A link has opened on which a plane can be asked, until what is returned is dropped.
    pub(super) fn open(&self, plane: &str, link: u64, way: mpsc::Sender<ToPlane>) -> Way<'_> {
        self.lock().ways.insert(plane.to_owned(), (link, way));
        Way { handover: self, plane: plane.to_owned(), link }
    }

    /// A plane has sealed. An answer that comes too late, or from whom nobody asked, is dropped.
    pub(super) fn answered(&self, plane: &str, number: u64, sealed: SealedMaster) {
        let mut desk = self.lock();
        if desk.asked.get(&number).is_some_and(|asked| asked.holder == plane)
            && let Some(asked) = desk.asked.remove(&number)
        {
            // Whoever asked may have given up meanwhile.
            let _ = asked.answer.send(sealed);
        }
    }

    /// Asks connected planes, one after the other, to seal this master. `None` where none of them does in time.
    pub(super) async fn ask(&self, master: MasterId, recipient: &Recipient) -> Option<SealedMaster> {
        let holders: Vec<String> = self.lock().ways.keys().take(HOLDERS_ASKED_MAX).cloned().collect();
        for holder in holders {
            let sealed = self.ask_one(&holder, master, recipient.clone(), SEAL_TIME).await;
            if sealed.is_some() {
                return sealed;
            }
        }
        None
    }

    async fn ask_one(
        &self,
        holder: &str,
        master: MasterId,
        recipient: Recipient,
        within: Duration,
    ) -> Option<SealedMaster> {
        let (answer, answered) = oneshot::channel();
        let (way, number) = {
            let mut desk = self.lock();
            let way = desk.ways.get(holder)?.1.clone();
            desk.number += 1;
            let number = desk.number;
            desk.asked.insert(number, Asked { holder: holder.to_owned(), answer });
            (way, number)
        };
        let asking = async {
            way.send(ToPlane::SealMaster(SealRequest { number, master, recipient })).await.ok()?;
            answered.await.ok()
        };
        let sealed = timeout(within, asking).await.ok().flatten();
        self.lock().asked.remove(&number);
        sealed
    }
}

/// While it lives, a plane can be asked.
pub(super) struct Way<'a> {
    handover: &'a Handover,
    plane: String,
    link: u64,
}

impl Drop for Way<'_> {
    fn drop(&mut self) {
        let mut desk = self.handover.lock();
        // A newer link of the same plane may have taken the place.
        if desk.ways.get(&self.plane).is_some_and(|(link, _)| *link == self.link) {
            desk.ways.remove(&self.plane);
            // Nobody waits for an answer that cannot come.
            desk.asked.retain(|_, asked| asked.holder != self.plane);
        }
    }
}
