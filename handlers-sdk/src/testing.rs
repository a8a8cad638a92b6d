//! Native tests of handlers: no WebAssembly, no gateway, the same executor and the same validation.
//!
//! ```
//! use handlers_sdk::prelude::*;
//! use handlers_sdk::testing::{Host, Verdict};
//!
//! #[handler]
//! async fn no_http(_: Request, _: Context) -> Outcome {
//!     Outcome::refuse(403, "locked")
//! }
//!
//! let ran = Host::new().get::<no_http>("https://example.com/");
//! assert_eq!(ran.verdict, Verdict::Refused { status: Some(403), reason: "locked".into() });
//! ```
//!
//! [`Host::exchange`] goes on to the answer and the bodies, for handlers that name those hooks.

use std::collections::BTreeMap;

use handlers_sdk_abi::code::{BodyUse, Level, Status};
use handlers_sdk_abi::field::same_name;
use handlers_sdk_abi::limits::SUSPENSIONS_MAX;
use handlers_sdk_abi::view::flags;
use handlers_sdk_abi::{
    Action, ActionContext, ActionList, Completion, EventKind, Field, Label, Operation, RequestView, Slots,
};
use serde::Serialize;

use crate::runtime::{self, Handler, Reply};

mod exchange;
mod request;
mod url;

pub use exchange::{Exchanged, Response};
pub use request::Request;
use url::Url;

/// A host for one handler: who the sandbox is, what the operator set, what stores hold.
#[derive(Clone, Debug)]
pub struct Host {
    container_id: String,
    class_name: String,
    handler: Option<String>,
    revision: u64,
    now_ms: u64,
    labels: Vec<(String, String)>,
    params: String,
    kv: BTreeMap<(String, String), Vec<u8>>,
}

/// How a handler ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The request goes on.
    Forwarded,
    /// It is refused; without a status it is the policy's.
    Refused {
        /// The handler's status.
        status: Option<u16>,
        /// The handler's reason.
        reason: String,
    },
    /// The handler answered.
    Responded {
        /// Its status.
        status: u16,
        /// Its body.
        body: Vec<u8>,
    },
    /// The handler failed.
    Failed(String),
}

/// What a handler did.
#[derive(Clone, Debug)]
pub struct Ran {
    /// How it ended.
    pub verdict: Verdict,
    /// Its log.
    pub logs: Vec<(Level, String)>,
    /// Path and query, where it set them.
    pub path: Option<String>,
    /// Host, where it set one, and the port.
    pub host: Option<(String, Option<u16>)>,
    /// How often it waited.
    pub suspensions: u32,
    /// The status that it gave an answer.
    status: Option<u16>,
    /// What it wants of the body that comes next.
    wants: Option<BodyUse>,
    /// What it gave for a piece of a body.
    given: Vec<u8>,
    fields: Vec<(String, Sent)>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Sent {
    Text(String),
    Secret { prefix: String, name: String },
}

impl Ran {
    fn new(fields: &[(String, String)]) -> Self {
        let fields = fields.iter().map(|(name, value)| (name.clone(), Sent::Text(value.clone())));
        Self {
            verdict: Verdict::Forwarded,
            logs: Vec::new(),
            path: None,
            host: None,
            suspensions: 0,
            status: None,
            wants: None,
            given: Vec::new(),
            fields: fields.collect(),
        }
    }

    /// The first value of a header as it would be sent. Nothing where a secret stands there.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.find(name).and_then(|sent| match sent {
            Sent::Text(text) => Some(text.as_str()),
            Sent::Secret { .. } => None,
        })
    }

    /// Prefix and name of the secret that a header would carry.
    pub fn secret(&self, name: &str) -> Option<(&str, &str)> {
        self.find(name).and_then(|sent| match sent {
            Sent::Text(_) => None,
            Sent::Secret { prefix, name } => Some((prefix.as_str(), name.as_str())),
        })
    }

    fn find(&self, name: &str) -> Option<&Sent> {
        let found = self.fields.iter().find(|field| same_name(field.0.as_bytes(), name.as_bytes()));
        found.map(|field| &field.1)
    }

    fn apply(&mut self, action: &Action<'_>) {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        match *action {
            Action::Set { name, value } => self.replace(name, Some(Sent::Text(text(value)))),
            Action::SetSecret { name, prefix, secret } => {
                self.replace(name, Some(Sent::Secret { prefix: text(prefix), name: secret.to_owned() }));
            }
            Action::Remove { name } => self.replace(name, None),
            Action::Append { name, value } => self.fields.push((text(name), Sent::Text(text(value)))),
            Action::Path(path) => self.path = Some(path.to_owned()),
            Action::Host { host, port } => self.host = Some((host.to_owned(), port)),
            Action::Log { level, text } => self.logs.push((level, text.to_owned())),
            Action::Deny { status, reason } => {
                self.verdict = Verdict::Refused { status, reason: reason.to_owned() };
            }
            Action::Respond { status, body } => {
                self.verdict = Verdict::Responded { status, body: body.to_vec() }
            }
            Action::Error { message } => self.verdict = Verdict::Failed(message.to_owned()),
            Action::Status(status) => self.status = Some(status),
            Action::Body(wanted) => self.wants = Some(wanted),
            Action::Emit(bytes) => self.given.extend_from_slice(bytes),
            Action::Metric { .. } | Action::Start { .. } => {}
        }
    }

    fn replace(&mut self, name: &[u8], sent: Option<Sent>) {
        self.fields.retain(|field| !same_name(field.0.as_bytes(), name));
        if let Some(sent) = sent {
            self.fields.push((String::from_utf8_lossy(name).into_owned(), sent));
        }
    }
}

impl Default for Host {
    fn default() -> Self {
        Self::new()
    }
}

impl Host {
    /// A host with a sandbox `sandbox-1` of template `default`, without labels and parameters.
    pub fn new() -> Self {
        Self {
            container_id: "sandbox-1".to_owned(),
            class_name: "default".to_owned(),
            handler: None,
            revision: 1,
            now_ms: 1_700_000_000_000,
            labels: Vec::new(),
            params: String::new(),
            kv: BTreeMap::new(),
        }
    }

    /// The sandbox's id.
    pub fn container_id(mut self, id: &str) -> Self {
        self.container_id = id.to_owned();
        self
    }

    /// The sandbox's template.
    pub fn class_name(mut self, name: &str) -> Self {
        self.class_name = name.to_owned();
        self
    }

    /// A label of the sandbox.
    pub fn label(mut self, name: &str, value: &str) -> Self {
        self.labels.push((name.to_owned(), value.to_owned()));
        self
    }

    /// The name under which the handler is published; its own by default.
    pub fn handler(mut self, name: &str) -> Self {
        self.handler = Some(name.to_owned());
        self
    }

    /// Revision of the configuration.
    pub fn revision(mut self, revision: u64) -> Self {
        self.revision = revision;
        self
    }

    /// The time at which the request arrives, in Unix milliseconds.
    pub fn now_ms(mut self, now_ms: u64) -> Self {
        self.now_ms = now_ms;
        self
    }

    /// The handler's parameters.
    ///
    /// # Panics
    /// Where they cannot be written as JSON.
    pub fn params(mut self, params: impl Serialize) -> Self {
        self.params = serde_json::to_string(&params).expect("parameters are JSON");
        self
    }

    /// A value in a store.
    pub fn kv(mut self, store: &str, key: &str, value: impl Into<Vec<u8>>) -> Self {
        self.kv.insert((store.to_owned(), key.to_owned()), value.into());
        self
    }

    /// Runs a handler on a GET.
    ///
    /// # Panics
    /// As [`run`](Self::run).
    #[track_caller]
    pub fn get<H: Handler>(&self, url: &str) -> Ran {
        self.run::<H>(&Request::get(url))
    }

    /// Runs a handler on a request.
    ///
    /// # Panics
    /// Where the handler panics, its parameters do not fit, or the gateway would refuse what it answered.
    #[track_caller]
    pub fn run<H: Handler>(&self, request: &Request) -> Ran {
        match self.try_run::<H>(request) {
            Ok(ran) => ran,
            Err(error) => panic!("{error}"),
        }
    }

    /// Runs a handler on a request.
    ///
    /// # Errors
    /// With a sentence, where its parameters do not fit or the gateway would refuse what it answered.
    ///
    /// # Panics
    /// Where the handler panics.
    pub fn try_run<H: Handler>(&self, request: &Request) -> Result<Ran, String> {
        runtime::init::<H>(self.params.as_bytes())?;
        let mut ran = Ran::new(&request.fields);
        let payload = self.view::<H>(request, None)?;
        self.tell::<H>(&mut ran, EventKind::Request, payload)?;
        Ok(ran)
    }

    /// Tells a handler of one event, and does what it asks for until it waits for nothing but the next.
    fn tell<H: Handler>(
        &self,
        ran: &mut Ran,
        mut kind: EventKind,
        mut payload: Vec<u8>,
    ) -> Result<(), String> {
        let (mut busy, mut kv) = (Slots::NONE, self.kv.clone());
        let mut queue: Vec<(u8, Status, Vec<u8>)> = Vec::new();
        loop {
            let Reply::List(list, pending) = runtime::event::<H>(kind.code(), &payload) else {
                return Err("the handler does not know this event".to_owned());
            };
            let context = ActionContext { event: kind, busy, pending };
            let list = ActionList::decode(list, context).map_err(|error| error.to_string())?;
            busy = list.busy();
            for action in list.iter() {
                ran.apply(&action);
                if let Action::Start { slot, operation } = action {
                    let (status, bytes) = perform(&mut kv, &operation);
                    queue.push((slot, status, bytes));
                }
            }
            if !pending {
                return Ok(());
            }
            ran.suspensions += 1;
            if ran.suspensions > SUSPENSIONS_MAX {
                return Err(format!("the handler waited more than {SUSPENSIONS_MAX} times"));
            }
            let (slot, status, bytes) = queue.remove(0);
            busy = busy.release(slot);
            payload.clear();
            Completion { slot, status, bytes: &bytes }.encode(&mut payload);
            kind = EventKind::Completion;
        }
    }

    /// The view of a request, or of the answer to it.
    fn view<H: Handler>(&self, request: &Request, answer: Option<&Response>) -> Result<Vec<u8>, String> {
        let url =
            Url::parse(&request.url).ok_or_else(|| format!("{:?} is not an absolute URL", request.url))?;
        let (fields, pieces) = match answer {
            Some(answer) => (&answer.fields, &answer.body),
            None => (&request.fields, &request.body),
        };
        let fields: Vec<Field<'_>> = fields
            .iter()
            .map(|(name, value)| Field { name: name.as_bytes(), value: value.as_bytes() })
            .collect();
        let labels: Vec<Label<'_>> = self.labels.iter().map(|(name, value)| Label { name, value }).collect();
        let view = RequestView {
            flags: if url.tls { flags::TLS } else { 0 } | if pieces.is_empty() { 0 } else { flags::BODY },
            port: url.port,
            http_version: 11,
            status: answer.map_or(0, |answer| answer.status),
            body_bytes: Some(pieces.iter().map(|piece| piece.len() as u64).sum()),
            now_ms: self.now_ms,
            random: [0; 16],
            method: &request.method,
            host: url.host,
            path: url.path,
            query: url.query,
            container_id: &self.container_id,
            class_name: &self.class_name,
            request_id: "request-1",
            traceparent: "",
            handler: self.handler.as_deref().unwrap_or(H::NAME),
            revision: self.revision,
            suspensions_left: SUSPENSIONS_MAX,
            labels: &labels,
            fields: &fields,
        };
        let mut out = Vec::new();
        view.encode(&mut out).map_err(|error| error.to_string())?;
        Ok(out)
    }
}

fn perform(kv: &mut BTreeMap<(String, String), Vec<u8>>, operation: &Operation<'_>) -> (Status, Vec<u8>) {
    let at = |store: &str, key: &str| (store.to_owned(), key.to_owned());
    match *operation {
        Operation::KvGet { store, key } => match kv.get(&at(store, key)) {
            Some(value) => (Status::Value, value.clone()),
            None => (Status::None, Vec::new()),
        },
        Operation::KvPut { store, key, value, .. } => {
            kv.insert(at(store, key), value.to_vec());
            (Status::None, Vec::new())
        }
        Operation::KvDelete { store, key } => {
            kv.remove(&at(store, key));
            (Status::None, Vec::new())
        }
        Operation::Timer { .. } => (Status::None, Vec::new()),
        _ => (Status::Unavailable, Vec::new()),
    }
}
