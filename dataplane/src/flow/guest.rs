//! Shows a request to its handler, and applies what the handler asked for.

use std::sync::Arc;

use control_wire::policy::Labels;
use handlers_sdk_abi::{Action, Field, Label, RequestView, view::flags};

use crate::{
    audit::LogLine,
    clock,
    handler::{Actions, HandlerError, Host as Guests, Loaded},
    http::{
        Authority, EditError, FieldName, FieldValue, Framing, Host, HostError, OutgoingRequest, Scheme,
        Version,
    },
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
    let actions = call(guests, loaded, params, shown, request)?;
    apply(&actions, shown.authority, request, log)
}

fn call(
    guests: &mut Guests,
    loaded: &Arc<Loaded>,
    params: &[u8],
    shown: &Shown<'_>,
    request: &OutgoingRequest<'_>,
) -> Result<Actions, HandlerError> {
    let fields: Vec<Field<'_>> =
        request.fields().map(|field| Field { name: field.name, value: field.value }).collect();
    let labels: Vec<Label<'_>> = shown.labels.iter().map(|(name, value)| Label { name, value }).collect();
    let traceparent = fields
        .iter()
        .find(|field| field.name.eq_ignore_ascii_case(b"traceparent"))
        .and_then(|field| std::str::from_utf8(field.value).ok())
        .unwrap_or_default();
    let host = shown.authority.host.text();
    let has_body = !matches!(request.framing(), Framing::None | Framing::Tunnel);
    let view = RequestView {
        flags: if shown.authority.scheme == Scheme::Https { flags::TLS } else { 0 }
            | if has_body { flags::BODY } else { 0 },
        port: shown.authority.port,
        http_version: match shown.version {
            Version::Http10 => 10,
            Version::Http11 => 11,
            Version::Http2 => 20,
        },
        status: 0,
        body_bytes: match request.framing() {
            Framing::None | Framing::Tunnel => Some(0),
            Framing::Length(bytes) => Some(bytes),
            Framing::Chunked | Framing::UntilClose => None,
        },
        now_ms: clock::unix_millis(),
        random: random(),
        method: request.method(),
        host: &host,
        path: request.path(),
        query: request.query(),
        container_id: shown.sandbox,
        class_name: shown.template,
        request_id: "",
        traceparent,
        handler: shown.handler,
        revision: shown.revision,
        suspensions_left: 0,
        labels: &labels,
        fields: &fields,
    };
    guests.call(loaded, params, &view)
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
            Action::Body(_) => return Err(GuestError::NotServed("body")),
            Action::Emit(_) => return Err(GuestError::NotServed("emit")),
            Action::Start { .. } => return Err(GuestError::NotServed("pending operations")),
        }
    }
    done.verdict = Verdict::Forward(wanted);
    Ok(done)
}
