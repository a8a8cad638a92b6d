//! TLS that the policy leaves closed: judged by what the connection says, then relayed unread.
//!
//! What the hello names is what is resolved and dialled. A client that hides another name from us in an encrypted hello
//! still reaches only the hosts whose addresses the named one has. Where a rule leaves a single host closed, and others
//! are opened, that is not enough: who serves the host often serves others too, so there the hello has to show its name.

use std::{cell::Cell, rc::Rc, sync::Arc};

use futures_lite::future::try_zip;

use super::{
    connection::Opened,
    core::Core,
    fence::{Credentials, Fence, rewritten},
    lookup::lookup,
    open::Judged,
    requests::begin,
    resident::Admission,
    tell::note,
};
use crate::{
    audit::Record,
    http::{Authority, ConnectionFacts, Gate, Host, Leg, Scheme, authority_unread},
    inject::{self, Means},
    limits::{BODY_SILENCE, LINGER_TIME},
    policy::{Permit, Rules, decide_opaque},
    respond::{Blame, Refusal},
    ring::timeout,
    tls::{Wire, hides_a_name},
    upstream::dial_any,
};

/// Judges a connection by its hello and relays it to its end. It leaves one record.
pub(super) async fn relay(core: &Rc<Core>, opened: Box<Opened>, hello: Vec<u8>) {
    let Opened { admission, wire, facts, .. } = &*opened;
    let mut record = begin(Some(&admission.resident().id));
    record.scheme = Some("tls");
    record.going(facts.whither());
    let outcome = match judge(core, admission, (facts, &hello), &mut record) {
        Ok((permit, judged)) => carry(core, admission, (wire, &hello), (&permit, judged), &mut record).await,
        Err(refusal) => Err(refusal),
    };
    if let Err(refusal) = outcome {
        note(&refusal, &mut record);
        refuse(wire).await;
    }
    // The audit counts what it cannot take; the connection has ended either way.
    let _counted = core.common.audit.record(&record);
}

fn judge(
    core: &Core,
    admission: &Admission,
    (facts, hello): (&ConnectionFacts, &[u8]),
    record: &mut Record,
) -> Result<(Permit, Judged), Refusal> {
    let authority = authority_unread(facts).map_err(|error| Refusal::from(&error))?;
    core.common.audit.check()?;
    let (tables, id) = (core.tables(), &admission.resident().id);
    record.revision = tables.revision;
    let rules = core.rules(admission.resident()).ok_or_else(|| super::core::unknown(&tables, id))?;
    core.check_lease(&rules)?;
    if rules.intercepts() {
        shows_its_name(&rules, &authority, (facts, hello))?;
    }
    let mut judged = Judged {
        searched: true,
        method: "".into(),
        scheme: Scheme::Https,
        host: authority.host,
        port: authority.port,
        path: [].into(),
        upgrade: None,
        name_proven: facts.names_a_host(),
        approved: false,
        opaque: true,
        route: None,
        before: None,
    };
    let decided = decide_opaque(&rules, id, &judged.host, judged.port, judged.name_proven);
    let permit = decided.map_err(|denial| Refusal::denied(&denial, &judged.host.to_string()))?;
    record.rule = Some(permit.rule().to_string());
    judged.going_as(&permit);
    Ok((permit, judged))
}

/// Whether a connection that a rule leaves closed shows the name by which the rule knows it. Of an address there is none
/// to show (RFC 6066 §3).
fn shows_its_name(
    rules: &Rules,
    authority: &Authority,
    (facts, hello): (&ConnectionFacts, &[u8]),
) -> Result<(), Refusal> {
    let Some(rule) = rules.leaves_closed(&authority.host, authority.port) else {
        // Another of the names that it gives is left closed, and `authority_unread` has refused that; the tables may
        // also be others than those by which it was left closed.
        let detail = "the policy has changed while the connection was made";
        return Err(Refusal::new(421, "tls_not_closed", Blame::Policy, detail, "connect again"));
    };
    let (code, detail, remedy) = match (&facts.sni, &authority.host) {
        (None, Host::Name(_)) => (
            "passthrough_without_name",
            "TLS that is relayed unread has to say whom it is for, and says nothing",
            "send a server name (SNI), or ask the operator to have it opened",
        ),
        _ if hides_a_name(hello) => (
            "passthrough_hidden_name",
            "TLS that is relayed unread may hide another name in its encrypted hello",
            "switch the encrypted hello (ECH) off in the client, or ask the operator to have it opened",
        ),
        _ => return Ok(()),
    };
    Err(Refusal::new(403, code, Blame::Sandbox, detail, remedy).by_rule(rule))
}

/// What the connection shows. The tables are let go again: they must not live for as long as the connection.
fn means_of(core: &Core, permit: &Permit) -> Result<Means, Refusal> {
    let tables = core.tables();
    let found = inject::means(permit, |name| tables.secret(name));
    found.map_err(|(error, rule)| Refusal::from(&error).by_rule(&rule))
}

async fn carry(
    core: &Rc<Core>,
    admission: &Admission,
    (wire, hello): (&Rc<Wire>, &[u8]),
    (permit, judged): (&Permit, Judged),
    record: &mut Record,
) -> Result<(), Refusal> {
    let hold = admission.resident().open.enter(Rc::new(judged), Rc::clone(wire) as Rc<dyn Leg>);
    record.via = permit.way().map(|way| Arc::clone(way.route()));
    let means = means_of(core, permit)?;
    let credentials = Credentials::of(core, means.secrets());
    let fence = Fence::new(core, admission.resident(), hold, credentials);
    let found = lookup(core, permit).await?;
    let dialled = dial_any(permit, &means, &found, &core.upstream_tls, None).await;
    let (upstream, address) = dialled.map_err(|error| {
        record.address = error.address().or(record.address);
        Refusal::from(&error)
    })?;
    if fence.is_stale() {
        return Err(rewritten());
    }
    record.address = Some(address);
    record.secrets.extend(means.secrets().cloned());
    let upstream = Rc::new(upstream);
    let (up, down) = (Way::default(), Way { down: true, ..Way::default() });
    let relayed =
        match fence.hold.join(Rc::clone(&upstream) as Rc<dyn Leg>) && upstream.send(hello).await.is_ok() {
            true => {
                up.bytes.set(hello.len() as u64);
                let ways = try_zip(
                    one_way((wire, &upstream), &fence, (&up, &down)),
                    one_way((&upstream, wire), &fence, (&down, &up)),
                );
                ways.await.is_ok()
            }
            false => false,
        };
    (record.bytes_up, record.bytes_down) = (up.bytes.get(), down.bytes.get());
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

/// One direction.
#[derive(Default)]
struct Way {
    /// It goes to the client: when that has said all and reads no more, nobody is left.
    down: bool,
    /// What was handed to the other side.
    bytes: Cell<u64>,
    /// Its end was handed over.
    ended: Cell<bool>,
}

/// Relays one direction to its end, of which the other side is told. It may be silent for as long as the other is not.
/// Who reads no more may have said something before, which is handed over all the same; what is for them is thrown
/// away.
async fn one_way(
    (from, to): (&Wire, &Wire),
    gate: &dyn Gate,
    (own, other): (&Way, &Way),
) -> Result<(), Ended> {
    let mut is_read = true;
    loop {
        let before = other.bytes.get();
        let chunk = match timeout(BODY_SILENCE, from.receive_body()).await {
            Ok(Ok(Some(chunk))) => chunk,
            Ok(Ok(None)) => {
                own.ended.set(true);
                // Who has gone needs not be told.
                let _gone = to.close().await;
                return Ok(());
            }
            Err(_) if other.bytes.get() > before => continue,
            Ok(Err(_)) | Err(_) => return Err(Ended),
        };
        if !gate.is_open() {
            return Err(Ended);
        }
        is_read = is_read && to.send(&chunk).await.is_ok();
        match is_read {
            true => own.bytes.set(own.bytes.get() + chunk.len() as u64),
            false if own.down && other.ended.get() => return Err(Ended),
            false => {}
        }
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
