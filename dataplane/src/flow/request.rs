//! One request: everything that is decided about it before a byte is sent anywhere, in the order of the stages.
//!
//! Nothing here waits. What comes out holds no borrow of the receive buffer, and all of it was judged under one
//! revision of the tables.

use std::{ops::Deref, rc::Rc, sync::Arc};

use zeroize::Zeroizing;

use super::{
    arrived::Arrived,
    ask::Asking,
    edits::Edits,
    fence::Credentials,
    guest::{self, Consulted, GuestError, Shown, Verdict, Wanted, failed, refused_by},
    hooked::{Hooked, Seen},
    open::{Judged, judge},
    outbound::{Outbound, Speaks},
    pace::Pace,
    redaction::Redaction,
};
use crate::{
    admin,
    approval::About,
    audit::Record,
    causes::chain,
    http::{
        Authority, FieldName, FieldValue, Framing, OutgoingRequest, RequestHead, Scheme, TargetForm, Version,
        authority_of, kept_method,
    },
    inject,
    policy::{Decision, HandlerUse, Injection, Permit, Place, Rules},
    respond::{Blame, Refusal},
    snapshot::{Sandbox, Tables},
};
use control_wire::policy::OnError;
use handlers_sdk_abi::code::BodyUse;

/// What is to be done with a request.
pub enum Step {
    /// Send it.
    Send(Box<Outbound>),
    /// Ask a person, and decide again by the answer.
    Ask(Box<Asking>),
    /// Wait until a handler may be called, and decide again.
    Pace(Box<Pace>),
    /// Decide again: what was decided has aged before any of it left.
    Again,
    /// Answer it here.
    Answer {
        /// Status.
        status: u16,
        /// Fields beside the framing.
        fields: Vec<(FieldName, FieldValue)>,
        /// Body.
        body: Vec<u8>,
    },
}

/// Why nothing more is decided now.
enum Stop {
    Refused(Refusal),
    Waits(Step),
}

impl From<Refusal> for Stop {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

/// Decides everything about a request. What a person has allowed it is in `approved`. What is learnt on the way goes
/// into the record, also when it is refused.
///
/// # Errors
/// The refusal that the sandbox is told.
pub fn prepare<B: Deref<Target = [u8]>>(
    arrived: &Arrived<'_>,
    head: &RequestHead<B>,
    approved: &[About],
    record: &mut Record,
) -> Result<Step, Refusal> {
    record.method = Some(kept_method(head.method()));
    record.path = Some(head.path().to_owned());
    arrived.check_speaker(head)?;
    if head.form() == TargetForm::Authority {
        let remedy = "ask the proxy for a tunnel on a connection of its own";
        let detail = "a tunnel is asked for where requests are served";
        return Err(Refusal::new(501, "connect_nested", Blame::Sandbox, detail, remedy));
    }
    let authority = authority_of(head, arrived.facts).map_err(|error| Refusal::from(&error))?;
    record.scheme = Some(authority.scheme.as_str());
    record.host = Some(authority.host.name().map_or_else(|| authority.host.to_string(), str::to_owned));
    record.port = Some(authority.port);
    arrived.core.common.audit.check()?;
    let tables = arrived.core.tables();
    record.revision = tables.revision;
    let id = &arrived.resident.id;
    let rules = arrived.core.rules(arrived.resident);
    let (Some(sandbox), Some(rules)) = (tables.sandboxes.get(id.as_str()), rules) else {
        return Err(super::core::unknown(&tables, id));
    };
    if authority.scheme == Scheme::Http && authority.host.name() == Some(admin::HOST) {
        return own_page(arrived, head, sandbox);
    }
    if authority.scheme == Scheme::Https
        && let Some(rule) = rules.leaves_closed(&authority.host, authority.port)
    {
        return Err(unread(rule));
    }
    arrived.core.check_lease(&rules)?;
    let judge = Judge { arrived, tables: &tables, rules: &rules, sandbox, approved };
    match judge.request(head, authority, record) {
        Ok(step) | Err(Stop::Waits(step)) => Ok(step),
        Err(Stop::Refused(refusal)) => Err(refusal),
    }
}

/// What a request is judged by.
struct Judge<'a> {
    arrived: &'a Arrived<'a>,
    tables: &'a Tables,
    rules: &'a Rules,
    sandbox: &'a Sandbox,
    approved: &'a [About],
}

impl Judge<'_> {
    fn request<B: Deref<Target = [u8]>>(
        &self,
        head: &RequestHead<B>,
        authority: Authority,
        record: &mut Record,
    ) -> Result<Step, Stop> {
        let mut outgoing = OutgoingRequest::new(head, &authority);
        let mut judged = self.judged(&authority, &outgoing, self.name_proven());
        let mut permit = self.decide(&mut judged)?;
        record.rule = Some(str::to_owned(permit.rule()));
        let (mut wanted, mut hooked) = (Vec::new(), None);
        if let Some(used) = permit.handler().cloned() {
            record.handler = Some(str::to_owned(&used.name));
            if let Some(pace) = Pace::of(self.arrived.resident, &used)? {
                return Err(Stop::Waits(Step::Pace(pace)));
            }
            match self.consult(&used, &authority, head.version(), &mut outgoing, record) {
                Ok(Consulted { verdict: Verdict::Respond { status, fields, body }, .. }) => {
                    return Ok(Step::Answer { status, fields, body });
                }
                Ok(Consulted { verdict: Verdict::Refuse { status, fields, reason }, .. }) => {
                    let by = (&*used, self.rules.deny_status());
                    return Err(refused_by(by, status, fields, &reason).into());
                }
                Ok(Consulted {
                    verdict: Verdict::Forward(secrets),
                    authority,
                    judged_changed,
                    host_changed,
                    body,
                    kept,
                }) => {
                    wanted = secrets.into_iter().map(|wanted| by_handler(&used, wanted)).collect();
                    if judged_changed {
                        record.sent_to =
                            Some(format!("{}://{authority}{}", authority.scheme, outgoing.path()));
                        let mut again =
                            self.judged(&authority, &outgoing, host_changed || self.name_proven());
                        permit = self.decide(&mut again)?;
                        record.rule = Some(str::to_owned(permit.rule()));
                        judged = again.instead_of(judged);
                    }
                    if body == Some(BodyUse::Change) {
                        outgoing.change_body();
                    }
                    hooked = kept.map(|kept| {
                        let seen = self.seen(&authority, head.version(), &outgoing);
                        let by = (Arc::clone(&used), self.rules.deny_status());
                        Box::new(Hooked::new(&self.arrived.core.guests, kept, by, seen, body))
                    });
                }
                // A name that stands for nothing is a mistake of the operator's, not a failure of a handler.
                Err(error) if used.on_error == OnError::Next && !matches!(error, GuestError::Missing) => {
                    record.handler_error = Some(chain(&error));
                    // The edits of a handler that failed half-way must not be sent.
                    outgoing = OutgoingRequest::new(head, &authority);
                }
                Err(error) => return Err(failed(&used, &error).into()),
            }
        }
        let mut secrets = self.inject(&permit, &wanted, &mut outgoing)?;
        let redaction = Redaction::of(&permit, &wanted, self.tables, &mut outgoing)?;
        judged.searched = redaction.is_some() || secrets.is_empty();
        let means = inject::means(&permit, |name| self.tables.secret(name))
            .map_err(|(error, rule)| Refusal::from(&error).by_rule(&rule))?;
        secrets.extend(means.secrets().cloned());
        let credentials = Credentials::of(self.arrived.core, secrets.iter());
        let mut bytes = Zeroizing::new(Vec::new());
        outgoing.write_to(&mut bytes).map_err(|error| Refusal::from(&error))?;
        let framing = outgoing.framing();
        let speaks = match framing {
            Framing::Tunnel => Speaks::Http11,
            _ if head.is_grpc() => Speaks::Http2,
            _ => Speaks::Either,
        };
        let edits = edits(redaction, hooked);
        let judged = Rc::new(judged);
        let head = bytes;
        let outbound = Outbound { permit, head, secrets, credentials, framing, speaks, means, judged, edits };
        Ok(Step::Send(Box::new(outbound)))
    }

    /// What a handler that goes on is shown of the request again.
    fn seen(&self, authority: &Authority, version: Version, outgoing: &OutgoingRequest<'_>) -> Seen {
        Seen {
            sandbox: self.sandbox.id.as_str().into(),
            template: self.sandbox.row.template.as_str().into(),
            labels: self.sandbox.row.labels.clone(),
            authority: authority.clone(),
            version,
            revision: self.tables.revision,
            method: outgoing.method().into(),
            path: outgoing.path().into(),
            query: outgoing.query().map(Into::into),
            room: Rc::clone(&self.arrived.resident.kept),
            budget: Rc::clone(&self.arrived.resident.handler_time),
        }
    }

    fn judged(&self, authority: &Authority, outgoing: &OutgoingRequest<'_>, name_proven: bool) -> Judged {
        Judged {
            method: kept_method(outgoing.method()),
            scheme: authority.scheme,
            host: authority.host.clone(),
            port: authority.port,
            path: outgoing.path().as_bytes().into(),
            upgrade: outgoing.upgrade().map(Into::into),
            name_proven,
            approved: false,
            opaque: false,
            route: None,
            searched: false,
            before: None,
        }
    }

    fn decide(&self, judged: &mut Judged) -> Result<Permit, Stop> {
        match judge(self.rules, self.sandbox, &judged.asked()) {
            Decision::Allow(permit) => {
                judged.going_as(&permit);
                Ok(permit)
            }
            Decision::Ask(question) if self.approved.contains(&judged.about()) => {
                judged.approved = true;
                let permit = question.allow();
                judged.going_as(&permit);
                Ok(permit)
            }
            Decision::Ask(question) => {
                let asking = Asking { judged: judged.clone(), question: *question };
                Err(Stop::Waits(Step::Ask(Box::new(asking))))
            }
            Decision::Deny(denial) => Err(Refusal::denied(&denial, &judged.host.to_string()).into()),
        }
    }

    /// TLS to a bare address proves no name; everything else names its host.
    fn name_proven(&self) -> bool {
        self.arrived.facts.scheme == Scheme::Http || self.arrived.facts.names_a_host()
    }

    fn consult(
        &self,
        used: &HandlerUse,
        authority: &Authority,
        version: Version,
        outgoing: &mut OutgoingRequest<'_>,
        record: &mut Record,
    ) -> Result<Consulted, GuestError> {
        let handler = self.tables.handler(&used.name).ok_or(GuestError::Missing)?;
        record.handler_version = Some(handler.row.version);
        let shown = Shown {
            sandbox: self.sandbox.id.as_str(),
            template: &self.sandbox.row.template,
            labels: &self.sandbox.row.labels,
            authority,
            version,
            handler: &used.name,
            revision: self.tables.revision,
            room: &self.arrived.resident.kept,
            budget: &self.arrived.resident.handler_time,
        };
        let mut guests = self.arrived.core.guests.borrow_mut();
        guest::consult(&mut guests, &handler.loaded, &used.params, &shown, outgoing, &mut record.log)
    }

    /// Puts credentials on, those of rules first, so that a handler's may replace them. Gives their secrets' names.
    fn inject(
        &self,
        permit: &Permit,
        wanted: &[Injection],
        outgoing: &mut OutgoingRequest<'_>,
    ) -> Result<Vec<Arc<str>>, Refusal> {
        let all = permit.injections().iter().map(Arc::as_ref).chain(wanted);
        for injection in all.clone() {
            inject::put(permit, injection, self.tables.secret(&injection.secret), outgoing)
                .map_err(|error| Refusal::from(&error).by_rule(&injection.rule))?;
        }
        Ok(inject::carried(all))
    }
}

/// What edits the exchange on its way, in this order; nothing for most. A handler sees no credential that came back.
fn edits(redaction: Option<Redaction>, hooked: Option<Box<Hooked>>) -> Option<Box<Edits>> {
    let hooked = hooked.filter(|hooked| hooked.waits());
    if redaction.is_none() && hooked.is_none() {
        return None;
    }
    let edits = Edits::default();
    if let Some(redaction) = redaction {
        edits.add_down(Box::new(redaction));
    }
    if let Some(hooked) = hooked {
        hooked.join(&edits);
    }
    Some(Box::new(edits))
}

/// A credential that a handler wants in a field.
fn by_handler(used: &HandlerUse, wanted: Wanted) -> Injection {
    let Wanted { field, prefix, secret } = wanted;
    let place = Place::Field { name: field.into(), prefix: prefix.into() };
    Injection { place, secret: secret.into(), rule: Arc::clone(&used.rule) }
}

/// The operator wants TLS to pass unread. To go on in a connection that was opened before would be against the policy.
fn unread(rule: &str) -> Refusal {
    let detail = "the policy says that TLS to this host is not opened";
    let remedy = "connect to it anew and speak TLS to it: that is relayed unread";
    Refusal::new(421, "tls_not_opened", Blame::Policy, detail, remedy).by_rule(rule)
}

fn own_page<B: Deref<Target = [u8]>>(
    arrived: &Arrived<'_>,
    head: &RequestHead<B>,
    sandbox: &Sandbox,
) -> Result<Step, Refusal> {
    let authority = sandbox.row.ca_certificate.as_deref().ok_or_else(super::core::authority_pending)?;
    let caller = admin::Caller {
        sandbox: sandbox.id.as_str(),
        class_name: &sandbox.row.template,
        authority,
        system_roots: &arrived.core.common.system_roots,
    };
    let answer = admin::answer(head.method(), head.path(), &caller);
    let fields = [("Content-Type", answer.content_type), ("Cache-Control", "no-store")]
        .into_iter()
        .filter_map(|(name, value)| {
            Some((FieldName::new(name.as_bytes()).ok()?, FieldValue::new(value.as_bytes()).ok()?))
        })
        .collect();
    Ok(Step::Answer { status: answer.status, fields, body: answer.body.into_bytes() })
}
