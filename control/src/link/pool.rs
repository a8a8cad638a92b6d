//! Who belongs to the pool, and with which master: decided and recorded in one commit, before a plane is answered.

use control_wire::pool::{Grant, MasterId, Recipient};
use data_encoding::HEXLOWER;

use super::join::PLANE_KEYS;
use super::{Core, LinkError};
use crate::limits::HOLDERS_NAMED_MAX;
use crate::store::{Local, Plan, StoreError};
use crate::tables::{Change, Tables};

/// Key of the id of the pool's master, in hex.
const MASTER_KEY: &str = "pool/master";

/// What becomes of a plane that wants to join with a master.
enum Place {
    /// It belongs to the pool now.
    Member,
    /// Its name is another plane's.
    Taken,
    /// The pool's master is another, which these planes hold.
    Lacks(MasterId, Vec<String>),
}

/// Lets a plane in: with the master that it has, where that is the pool's or nobody holds the pool's; else with the
/// pool's, sealed by a plane that holds it. `Err` is the reason for the operator.
pub(super) async fn admit(
    core: &Core,
    recipient: &Recipient,
    fingerprint: &str,
    own: MasterId,
) -> Result<Result<Grant, String>, LinkError> {
    let plane = &recipient.plane;
    let taken = format!(
        "there is a plane named {plane}; give this one another name, or remove that one: outgate plane rm {plane}"
    );
    let (id, holders) = match take_place(core, plane, fingerprint, own).await? {
        Place::Member => return Ok(Ok(Grant::Own)),
        Place::Taken => return Ok(Err(taken)),
        Place::Lacks(id, holders) => (id, holders),
    };
    let Some(sealed) = core.handover.ask(id, recipient).await else {
        return Ok(Err(format!(
            "no plane that holds the pool's master is connected; start one of {}, or remove those that are gone for \
             good: outgate plane rm NAME",
            holders.join(", ")
        )));
    };
    Ok(match take_place(core, plane, fingerprint, id).await? {
        Place::Member => Ok(Grant::Pool { id, sealed }),
        Place::Taken => Err(taken),
        Place::Lacks(..) => Err("the pool has got another master meanwhile; try again".to_owned()),
    })
}

async fn take_place(
    core: &Core,
    plane: &str,
    fingerprint: &str,
    with: MasterId,
) -> Result<Place, StoreError> {
    let (plane_key, fingerprint) = (format!("{PLANE_KEYS}{plane}"), fingerprint.to_owned());
    let decide =
        move |tables: &Tables, local: &Local<'_>| decide(tables, local, plane_key, fingerprint, with);
    let (_, place) = core.store.carry_out(decide).await?;
    if matches!(place, Place::Member) {
        // It holds no revision yet, so there is nothing that it must enforce before it is renewed.
        core.planes.add(plane, 0);
    }
    Ok(place)
}

fn decide(
    tables: &Tables,
    local: &Local<'_>,
    plane_key: String,
    fingerprint: String,
    with: MasterId,
) -> Result<Plan<Place>, StoreError> {
    let no = |answer| Ok(Plan { changes: Vec::new(), local: Vec::new(), answer });
    let planes = local.under(PLANE_KEYS)?;
    if planes.iter().any(|(key, _)| *key == plane_key) {
        // A plane that was silently replaced would go on by old policy while nobody waits for it.
        return no(Place::Taken);
    }
    let id = HEXLOWER.encode(&with.0);
    let pool = local.value(MASTER_KEY)?;
    let mut sets = vec![(plane_key, fingerprint)];
    let mut changes = Vec::new();
    if pool.as_ref() != Some(&id) {
        if let Some(pool) = pool.as_deref().and_then(parse).filter(|_| !planes.is_empty()) {
            let names = planes.iter().map(|(key, _)| key[PLANE_KEYS.len()..].to_owned());
            return no(Place::Lacks(pool, names.take(HOLDERS_NAMED_MAX).collect()));
        }
        // The first plane, or the first after the last was removed. With its master every authority has another key.
        sets.push((MASTER_KEY.to_owned(), id));
        changes = without_certificates(tables);
    }
    Ok(Plan { changes, local: sets, answer: Place::Member })
}

fn parse(id: &str) -> Option<MasterId> {
    HEXLOWER.decode(id.as_bytes()).ok()?.try_into().ok().map(MasterId)
}

/// Takes away the certificates that were made with the keys of another master.
fn without_certificates(tables: &Tables) -> Vec<Change> {
    let made = tables.sandboxes.iter().filter(|(_, row)| row.value.ca_certificate.is_some());
    made.map(|(id, row)| {
        let mut row = (*row.value).clone();
        row.ca_certificate = None;
        Change::Sandbox(id.clone(), Some(row))
    })
    .collect()
}
