//! TLS that the policy leaves closed: judged by what the connection says, then relayed unread.
//!
//! What the hello names is what is resolved and dialled. A client that hides another name from us in an encrypted hello
//! still reaches only the hosts whose addresses the named one has.

use std::{cell::Cell, rc::Rc};

use futures_lite::future::try_zip;

use super::{
    core::Core,
    open::Judged,
    requests::begin,
    resident::Admission,
    send::{Fence, lookup, note},
};
use crate::{
    audit::Record,
    http::{ConnectionFacts, Gate, Leg, Scheme, authority_unread},
    limits::{BODY_SILENCE, LINGER_TIME},
    policy::{Permit, decide_opaque},
    respond::Refusal,
    ring::timeout,
    tls::Wire,
    upstream::dial_any,
};

/// Judges a connection by its hello and relays it to its end. It leaves one record.
pub(super) async fn relay(
    core: &Rc<Core>,
    admission: &Admission,
    (wire, hello): (Rc<Wire>, &[u8]),
    facts: &ConnectionFacts,
) {
    let mut record = begin(Some(&admission.resident().id));
    record.scheme = Some("tls");
    record.going(facts.whither());
    let outcome = match judge(core, admission, facts, &mut record) {
        Ok((permit, judged)) => carry(core, admission, (&wire, hello), (&permit, judged), &mut record).await,
        Err(refusal) => Err(refusal),
    };
    if let Err(refusal) = outcome {
        note(&refusal, &mut record);
        refuse(&wire).await;
    }
    // The audit counts what it cannot take; the connection has ended either way.
    let _counted = core.common.audit.record(&record);
}

fn judge(
    core: &Core,
    admission: &Admission,
    facts: &ConnectionFacts,
    record: &mut Record,
) -> Result<(Permit, Judged), Refusal> {
    let authority = authority_unread(facts).map_err(|error| Refusal::from(&error))?;
    core.common.audit.check()?;
    let (tables, id) = (core.tables(), &admission.resident().id);
    record.revision = tables.revision;
    let rules = core.rules(admission.resident()).ok_or_else(|| super::core::unknown(&tables, id))?;
    core.check_lease(&rules)?;
    let judged = Judged {
        method: "".into(),
        scheme: Scheme::Https,
        host: authority.host,
        port: authority.port,
        path: [].into(),
        name_proven: facts.names_a_host(),
        approved: false,
        opaque: true,
        before: None,
    };
    let decided = decide_opaque(&rules, id, &judged.host, judged.port, judged.name_proven);
    let permit = decided.map_err(|denial| Refusal::denied(&denial, &judged.host.to_string()))?;
    record.rule = Some(permit.rule().to_string());
    Ok((permit, judged))
}

async fn carry(
    core: &Rc<Core>,
    admission: &Admission,
    (wire, hello): (&Rc<Wire>, &[u8]),
    (permit, judged): (&Permit, Judged),
    record: &mut Record,
) -> Result<(), Refusal> {
    let hold = admission.resident().open.enter(judged, Rc::clone(wire) as Rc<dyn Leg>);
    let fence = Fence { core: Rc::clone(core), resident: Rc::clone(admission.resident()), hold };
    let addresses = lookup(core, permit).await?;
    let dialled = dial_any(permit, &addresses, &core.upstream_tls, None).await;
    let (upstream, address) = dialled.map_err(|error| {
        record.address = error.address().or(record.address);
        Refusal::from(&error)
    })?;
    record.address = Some(address);
    let upstream = Rc::new(upstream);
    let (up, down) = (Cell::new(0), Cell::new(0));
    let relayed =
        match fence.hold.join(Rc::clone(&upstream) as Rc<dyn Leg>) && upstream.send(hello).await.is_ok() {
            true => {
                up.set(hello.len() as u64);
                let ways = try_zip(
                    one_way((wire, &upstream), &fence, (&up, &down)),
                    one_way((&upstream, wire), &fence, (&down, &up)),
                );
                ways.await.is_ok()
            }
            false => false,
        };
    (record.bytes_up, record.bytes_down) = (up.get(), down.get());
    (record.verdict, record.code) = match (fence.is_open(), relayed) {
        (false, _) => ("cut", Some("revoked")),
        (true, true) => ("allowed", None),
        (true, false) => ("broken", Some("connection_broken")),
    };
    if !relayed {
        wire.reset();
        upstream.reset();
    }
    Ok(())
}

/// Ended for a reason that the record knows already.
struct Ended;

/// Relays one direction to its end, of which the other side is told. It may be silent for as long as the other is not.
async fn one_way(
    (from, to): (&Wire, &Wire),
    gate: &dyn Gate,
    (count, other): (&Cell<u64>, &Cell<u64>),
) -> Result<(), Ended> {
    loop {
        let before = other.get();
        let chunk = match timeout(BODY_SILENCE, from.receive_body()).await {
            Ok(Ok(Some(chunk))) => chunk,
            Ok(Ok(None)) => return to.close().await.map_err(|_| Ended),
            Err(_) if other.get() > before => continue,
            Ok(Err(_)) | Err(_) => return Err(Ended),
        };
        if !gate.is_open() {
            return Err(Ended);
        }
        to.send(&chunk).await.map_err(|_| Ended)?;
        count.set(count.get() + chunk.len() as u64);
    }
}

/// A fatal `access_denied` (RFC 8446 §6.2): all that can be told to a client whose TLS is not opened.
const ACCESS_DENIED: &[u8] = &[21, 3, 3, 0, 2, 2, 49];

async fn refuse(wire: &Wire) {
    // The client may be gone; the record says why.
    let told = async {
        let _sent = wire.send(ACCESS_DENIED).await;
        let _ended = wire.close().await;
        while let Ok(Some(_)) = wire.receive_body().await {}
    };
    let _in_time = timeout(LINGER_TIME, told).await;
}
