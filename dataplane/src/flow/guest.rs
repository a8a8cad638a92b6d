//! Shows a request to its handler, and applies what the handler asked for.

use std::{rc::Rc, sync::Arc};

use control_wire::policy::Labels;
use handlers_sdk_abi::{Action, Field, Label, RequestView, code::BodyUse, manifest::Hook, view::flags};

use crate::{
    audit::LogLine,
    clock,
    handler::{Actions, Budget, HandlerError, Host as Guests, Kept, Loaded, Room},
    http::{
        Authority, EditError, FieldName, FieldValue, Framing, Host, HostError, OutgoingRequest, Scheme,
        Version,
    },
    policy::HandlerUse,
    respond::{Blame, Refusal},
};

/// What is shown besides the request itself.
pub struct Shown<'a> {
    /// Who asks.
    pub sandbox: &'a str,
    /// The template of who asks.
    pub template: &'a str,
    /// The labels of who asks.
    pub labels: &'a Labels,
    /// The decided authority.
    pub authority: &'a Authority,
    /// Version in which the request came.
    pub version: Version,
    /// Name of the handler.
    pub handler: &'a str,
    /// Revision of the tables that decided.
    pub revision: u64,
    /// Room for what handlers remember of the sandbox's exchanges.
    pub room: &'a Rc<Room>,
    /// What its calls are charged to.
    pub budget: &'a Budget,
}

/// What a handler made of a request.
#[derive(Debug)]
pub enum Verdict {
    /// Send it on, with these secrets put in.
    Forward(Vec<Wanted>),
    /// Refuse it.
    Refuse {
        /// Status, or the policy's.
        status: Option<u16>,
        /// Fields of the refusal.
        fields: Vec<(FieldName, FieldValue)>,
        /// Told to the sandbox.
        reason: String,
    },
    /// Answer in the upstream's place.
    Respond {
        /// Status.
        status: u16,
        /// Fields of the answer.
        fields: Vec<(FieldName, FieldValue)>,
        /// Body.
        body: Vec<u8>,
    },
}

/// A secret that a handler wants in a field.
#[derive(Debug)]
pub struct Wanted {
    /// Name of the field.
    pub field: String,
    /// Put before the value.
    pub prefix: String,
    /// Name of the secret.
    pub secret: String,
}

/// Why what a handler asked for is not done.
#[derive(Debug, thiserror::Error)]
pub enum GuestError {
    /// Policy names a handler that the tables do not hold.
    #[error("no handler of that name is published")]
    Missing,
    /// It failed while it ran.
    #[error("the handler failed")]
    Failed(#[from] HandlerError),
    /// It said that it failed.
    #[error("the handler gave up: {0}")]
    GaveUp(String),
    /// It edited what it may not edit.
    #[error("the handler's edit is refused")]
    Edit(#[from] EditError),
    /// It named no host.
    #[error("the handler named no host")]
    Host(#[from] HostError),
    /// It used what this plane does not serve yet.
    #[error("the handler used `{0}`, which this plane does not serve")]
    NotServed(&'static str),
    /// It asked for what its manifest does not name.
    #[error("the handler asked for a body without the hook {:?} in its manifest", .0.name())]
    Hook(Hook),
    /// It wants to see a body that is bytes of another protocol.
    #[error("the handler asked for the body of a WebSocket, which it cannot see")]
    Unseen,
    /// It gave a body that it only asked to look at.
    #[error("the handler gave a piece of a body that it asked only to look at")]
    OnlyLooks,
    /// It failed at an event before, and cannot be asked any more.
    #[error("the handler had failed before the exchange was over")]
    Over,
}

/// A handler's verdict, and the authority that it chose, if it chose one.
pub struct Consulted {
    /// What is to be done.
    pub verdict: Verdict,
    /// Whether anything changed that policy judges; then policy is asked again.
    pub judged_changed: bool,
    /// Whether it named the host.
    pub host_changed: bool,
    /// Where the request goes now.
    pub authority: Authority,
    /// What it wants of the request's body.
    pub body: Option<BodyUse>,
    /// The handler, where it is called again for this exchange.
    pub kept: Option<Kept>,
}

/// Runs the handler on one request, and edits the request as it asks. What it wrote goes into `log`, whatever it
/// decided.
///
/// # Errors
/// Every failure of the handler by its own name; the request must not be forwarded then unless policy says so.
pub fn consult(
    guests: &mut Guests,
    loaded: &Arc<Loaded>,
    params: &[u8],
    shown: &Shown<'_>,
    request: &mut OutgoingRequest<'_>,
    log: &mut Vec<LogLine>,
) -> Result<Consulted, GuestError> {
    let (actions, kept) = call(guests, loaded, params, shown, request)?;
    let mut consulted = apply(&actions, shown.authority, request, log)?;
    if consulted.body.is_some() && !loaded.wants(Hook::RequestBody) {
        return Err(GuestError::Hook(Hook::RequestBody));
    }
    consulted.kept = kept;
    Ok(consulted)
}

fn call(
    guests: &mut Guests,
    loaded: &Arc<Loaded>,
    params: &[u8],
    shown: &Shown<'_>,
    request: &OutgoingRequest<'_>,
) -> Result<(Actions, Option<Kept>), HandlerError> {
    let fields: Vec<Field<'_>> =
        request.fields().map(|field| Field { name: field.name, value: field.value }).collect();
    let labels = labels(shown.labels);
    let traceparent = fields
        .iter()
        .find(|field| field.name.eq_ignore_ascii_case(b"traceparent"))
        .and_then(|field| std::str::from_utf8(field.value).ok())
        .unwrap_or_default();
    let line = Line { method: request.method(), path: request.path(), query: request.query() };
    let host = shown.authority.host.text();
    let view = view(shown, &line, request.framing());
    let view = RequestView { host: &host, traceparent, labels: &labels, fields: &fields, ..view };
    if loaded.goes_on() {
        let begin = |guests: &mut Guests| guests.begin(loaded, params, &view, shown.room);
        return guests.metered(shown.budget, begin).map(|(actions, kept)| (actions, Some(kept)));
    }
    Ok((guests.metered(shown.budget, |guests| guests.call(loaded, params, &view))?, None))
}

/// Labels as a view has them.
pub(super) fn labels(labels: &Labels) -> Vec<Label<'_>> {
    labels.iter().map(|(name, value)| Label { name, value }).collect()
}

/// What a request is for.
pub(super) struct Line<'a> {
    /// Its method.
    pub(super) method: &'a str,
    /// Its path.
    pub(super) path: &'a str,
    /// Its query.
    pub(super) query: Option<&'a str>,
}

/// A view without its host, labels and fields, of a message with this framing.
pub(super) fn view<'a>(shown: &Shown<'a>, line: &Line<'a>, framing: Framing) -> RequestView<'a> {
    let has_body = !matches!(framing, Framing::None | Framing::Tunnel);
    RequestView {
        flags: if shown.authority.scheme == Scheme::Https { flags::TLS } else { 0 }
            | if has_body { flags::BODY } else { 0 }
            | if framing == Framing::Tunnel { flags::UPGRADE } else { 0 },
        port: shown.authority.port,
        http_version: match shown.version {
            Version::Http10 => 10,
            Version::Http11 => 11,
            Version::Http2 => 20,
        },
        status: 0,
        body_bytes: match framing {
            Framing::None | Framing::Tunnel => Some(0),
            Framing::Length(bytes) => Some(bytes),
            Framing::Chunked | Framing::UntilClose => None,
        },
        now_ms: clock::unix_millis(),
        random: random(),
        method: line.method,
        host: "",
        path: line.path,
        query: line.query,
        container_id: shown.sandbox,
        class_name: shown.template,
        request_id: "",
        traceparent: "",
        handler: shown.handler,
        revision: shown.revision,
        suspensions_left: 0,
        labels: &[],
        fields: &[],
    }
}

fn text(bytes: &[u8]) -> Result<String, EditError> {
    String::from_utf8(bytes.to_vec()).map_err(|_| EditError::Value)
}

/// Sixteen fresh random bytes; zeroes where the machine gives none, which no handler may take for an identity anyway.
fn random() -> [u8; 16] {
    let mut bytes = [0; 16];
    let _ = aws_lc_rs::rand::fill(&mut bytes);
    bytes
}

fn apply(
    actions: &Actions,
    authority: &Authority,
    request: &mut OutgoingRequest<'_>,
    log: &mut Vec<LogLine>,
) -> Result<Consulted, GuestError> {
    let mut done = Consulted {
        verdict: Verdict::Forward(Vec::new()),
        judged_changed: false,
        host_changed: false,
        authority: authority.clone(),
        body: None,
        kept: None,
    };
    let answers = matches!(actions.outcome(), Some(Action::Respond { .. } | Action::Deny { .. }));
    let (mut wanted, mut fields) = (Vec::new(), Vec::new());
    for action in actions.iter() {
        match action {
            // Before an answer or a refusal, `set` and `append` speak of the answer's fields.
            Action::Set { name, value } | Action::Append { name, value } if answers => {
                fields.push((FieldName::new(name)?, FieldValue::new(value)?));
            }
            Action::Set { name, value } => request.set(FieldName::new(name)?, FieldValue::new(value)?),
            Action::Append { name, value } => request.append(FieldName::new(name)?, FieldValue::new(value)?),
            Action::Remove { name } => request.remove(&FieldName::new(name)?),
            Action::SetSecret { name, prefix, secret } => {
                wanted.push(Wanted { field: text(name)?, prefix: text(prefix)?, secret: secret.to_owned() })
            }
            Action::Path(target) => {
                let (path, query) =
                    target.split_once('?').map_or((target, None), |(path, query)| (path, Some(query)));
                request.set_target(path, query)?;
                done.judged_changed = true;
            }
            Action::Host { host, port } => {
                done.authority.host = Host::parse(host)?;
                done.authority.port = port.unwrap_or(done.authority.port);
                request.set_authority(&done.authority);
                (done.judged_changed, done.host_changed) = (true, true);
            }
            Action::Log { level, text } => log.push(LogLine { level: level.as_str(), text: text.to_owned() }),
            // Counters are read where metrics are served; a handler's own are dropped until then.
            Action::Metric { .. } => {}
            Action::Deny { status, reason } => {
                done.verdict = Verdict::Refuse { status, fields, reason: reason.to_owned() };
                return Ok(done);
            }
            Action::Respond { status, body } => {
                done.verdict = Verdict::Respond { status, fields, body: body.to_vec() };
                return Ok(done);
            }
            Action::Error { message } => return Err(GuestError::GaveUp(message.to_owned())),
            Action::Body(_) if request.framing() == Framing::Tunnel => return Err(GuestError::Unseen),
            // Of no body there is nothing to see.
            Action::Body(_) if matches!(request.framing(), Framing::None | Framing::Length(0)) => {}
            Action::Body(wanted) => done.body = Some(wanted),
            // Both answer later events only, which the reading of the list has checked.
            Action::Emit(_) | Action::Status(_) => return Err(GuestError::NotServed("emit")),
            Action::Start { .. } => return Err(GuestError::NotServed("pending operations")),
        }
    }
    done.verdict = Verdict::Forward(wanted);
    Ok(done)
}

/// What the sandbox is told of a handler's failure: which handler and what kind of failure. The words of the guest are
/// for the record.
pub(super) fn failed(used: &HandlerUse, error: &GuestError) -> Refusal {
    let code = match error {
        GuestError::Failed(error) => Refusal::from(error).code,
        GuestError::Edit(error) => Refusal::from(error).code,
        GuestError::Missing => "handler_missing",
        GuestError::GaveUp(_) => "handler_gave_up",
        GuestError::Host(_) => "handler_host",
        GuestError::NotServed(_) => "handler_not_served",
        GuestError::Hook(_) => "handler_hook",
        GuestError::Unseen => "handler_unseen",
        GuestError::OnlyLooks => "handler_only_looks",
        GuestError::Over => "handler_over",
    };
    let detail = format!("the handler `{}` did not decide", used.name);
    let remedy = "ask the operator to look at the handler's records";
    let refusal = match error {
        GuestError::Failed(HandlerError::TooMuchKept { .. }) => {
            let detail = "handlers remember as much of the sandbox's open exchanges as they may";
            Refusal::new(503, code, Blame::Sandbox, detail, "let open streams end first")
        }
        _ => Refusal::new(502, code, Blame::Gateway, &detail, remedy),
    };
    refusal.by_rule(&used.rule).because(error)
}

/// What the sandbox is told where a handler refuses.
pub(super) fn refused_by(
    (used, deny_status): (&HandlerUse, u16),
    status: Option<u16>,
    fields: Vec<(FieldName, FieldValue)>,
    reason: &str,
) -> Refusal {
    let remedy = "ask the operator about this handler";
    let status = status.unwrap_or(deny_status);
    let mut refusal = Refusal::new(status, "handler_refused", Blame::Policy, reason, remedy);
    refusal.fields = fields.into();
    refusal.by_rule(&used.rule)
}
