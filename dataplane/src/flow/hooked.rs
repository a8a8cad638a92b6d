//! A handler's part in an exchange after its request's head: what it is shown of bodies and answer, and what it makes of
//! them.
//!
//! A handler that fails ends the exchange. Where the operator has said `onError: next`, a failure at the answer's head,
//! of which nothing was told yet, lets the answer pass as the upstream sent it; a body that the handler was to see never
//! passes unseen.

use std::{cell::RefCell, rc::Rc, sync::Arc, time::Duration};

use control_wire::policy::{Labels, OnError};
use handlers_sdk_abi::{
    Action, Chunk, Field, RequestView, code::BodyUse, limits::BODY_CHUNK_BYTES_MAX, manifest::Hook,
};

use super::{
    core::Core,
    edits::{AnswerEdit, BodyEdit, Edits, Instead, Interest, Passing},
    guest::{GuestError, Line, Shown, failed, labels, refused_by, view},
    resident::Resident,
};
use crate::{
    audit::{LogLine, Record},
    causes::chain,
    handler::{Actions, Kept, Next},
    http::{AnswerParts, Authority, FieldName, FieldValue, Framing, Version},
    limits::HANDLER_LOG_LINES_MAX,
    policy::HandlerUse,
    ring::Ring,
};

/// What a handler is shown of its request again, beside the answer.
pub struct Seen {
    /// Who asks.
    pub sandbox: Box<str>,
    /// The template of who asks.
    pub template: Box<str>,
    /// The labels of who asks.
    pub labels: Labels,
    /// Where the request went.
    pub authority: Authority,
    /// Version in which it came.
    pub version: Version,
    /// Revision of the tables that decided.
    pub revision: u64,
    /// Its method.
    pub method: Box<str>,
    /// Its path as it was sent on.
    pub path: Box<str>,
    /// Its query as it was sent on, without parameters that hold credentials.
    pub query: Option<Box<str>>,
    /// Whose exchange it is.
    pub resident: Rc<Resident>,
}

/// A handler that goes on after the request's head.
pub struct Hooked {
    core: Rc<Core>,
    /// Gone when it failed, decided, or is asked nothing more.
    kept: Option<Kept>,
    used: Arc<HandlerUse>,
    deny_status: u16,
    seen: Seen,
    /// What it wants of the request's body that has not ended.
    up: Option<BodyUse>,
    /// It is shown the answer's head, which has not come.
    head: bool,
    /// What it wants of the answer's body that has not ended.
    down: Option<BodyUse>,
    log: Vec<LogLine>,
    /// The status that it gave the answer.
    status: Option<u16>,
    /// Why it did not decide about an answer that passed all the same.
    error: Option<String>,
}

/// Why an event has no ordinary end.
enum End {
    Failed(GuestError),
    Decided(Box<Instead>),
}

impl<E: Into<GuestError>> From<E> for End {
    fn from(error: E) -> Self {
        Self::Failed(error.into())
    }
}

impl Hooked {
    /// A handler that was shown the request's head, by whose use it was called and with which status policy denies.
    pub fn new(
        core: &Rc<Core>,
        kept: Kept,
        (used, deny_status): (Arc<HandlerUse>, u16),
        seen: Seen,
        up: Option<BodyUse>,
    ) -> Self {
        let head = kept.wants(Hook::Response) || kept.wants(Hook::ResponseBody);
        let (core, kept, log) = (Rc::clone(core), Some(kept), Vec::new());
        Self { core, kept, used, deny_status, seen, up, head, down: None, log, status: None, error: None }
    }

    /// Whether it is to be shown anything more.
    pub fn waits(&self) -> bool {
        self.up.is_some() || self.head || self.down.is_some()
    }

    /// Adds it to the edits of its exchange.
    pub fn join(self, edits: &Edits) {
        let (up, head) = (self.up, self.head);
        let shared = Rc::new(RefCell::new(self));
        if let Some(used) = up {
            edits.add_up(Box::new(Upward { hooked: Rc::clone(&shared), used }));
        }
        if head {
            edits.add_down(Box::new(Downward { hooked: shared }));
        }
    }

    /// For how long nothing more is to be shown to it.
    fn debt(&self) -> Option<Duration> {
        self.seen.resident.handler_time.debt(Ring::current().now())
    }

    fn resume(&mut self, next: &Next<'_>) -> Result<Actions, GuestError> {
        let kept = self.kept.as_mut().ok_or(GuestError::Over)?;
        resume(&self.core, &self.seen.resident, kept, next)
    }

    /// Ends the handler's part where it failed or decided.
    fn conclude<T>(&mut self, outcome: Result<T, End>) -> Result<T, Box<Instead>> {
        outcome.map_err(|end| {
            self.kept = None;
            match end {
                End::Decided(instead) => instead,
                End::Failed(error) => failed(&self.used, &error).into(),
            }
        })
    }

    /// Lets go of what is remembered as soon as nobody asks for it.
    fn settle(&mut self) {
        if !self.waits() {
            self.kept = None;
        }
    }

    /// What is the same for every event: lines, refusals, answers, failures.
    fn common(&mut self, action: &Action<'_>, fields: &mut Vec<(FieldName, FieldValue)>) -> Result<(), End> {
        match action {
            Action::Log { level, text } if self.log.len() < HANDLER_LOG_LINES_MAX => {
                self.log.push(LogLine { level: level.as_str(), text: (*text).to_owned() });
            }
            Action::Log { .. } | Action::Metric { .. } => {}
            Action::Deny { status, reason } => {
                let by = (&*self.used, self.deny_status);
                return Err(End::Decided(refused_by(by, *status, std::mem::take(fields), reason).into()));
            }
            Action::Respond { status, body } => {
                let (status, fields, body) = (*status, std::mem::take(fields), body.to_vec());
                return Err(End::Decided(Box::new(Instead::Answer { status, fields, body })));
            }
            Action::Error { message } => return Err(GuestError::GaveUp((*message).to_owned()).into()),
            _ => return Err(GuestError::NotServed("pending operations").into()),
        }
        Ok(())
    }

    /// Shows it a piece of a body, in chunks as the contract bounds them, or the end.
    fn piece(
        &mut self,
        (hook, used): (Hook, BodyUse),
        chunk: Chunk<'_>,
        out: &mut Vec<u8>,
    ) -> Result<(), End> {
        let next = match hook {
            Hook::RequestBody => Next::RequestChunk(chunk),
            _ => Next::ResponseChunk(chunk),
        };
        for action in self.resume(&next)?.iter() {
            match action {
                Action::Emit(bytes) if used == BodyUse::Change => out.extend_from_slice(bytes),
                Action::Emit(_) => return Err(GuestError::OnlyLooks.into()),
                action => self.common(&action, &mut Vec::new())?,
            }
        }
        Ok(())
    }

    fn pieces(
        &mut self,
        wanted: (Hook, BodyUse),
        bytes: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<Passing, Box<Instead>> {
        let mut chunks = bytes.chunks(BODY_CHUNK_BYTES_MAX);
        let shown = chunks.try_for_each(|bytes| self.piece(wanted, Chunk { last: false, bytes }, out));
        self.conclude(shown)?;
        Ok(if wanted.1 == BodyUse::Change { Passing::Changed } else { Passing::AsItIs })
    }

    fn end(&mut self, wanted: (Hook, BodyUse), out: &mut Vec<u8>) -> Result<(), Box<Instead>> {
        let shown = self.piece(wanted, Chunk { last: true, bytes: &[] }, out);
        match wanted.0 {
            Hook::RequestBody => self.up = None,
            _ => self.down = None,
        }
        self.conclude(shown)?;
        self.settle();
        Ok(())
    }

    /// Shows it the answer's head, and edits that as it asks.
    fn answer(&mut self, parts: &mut AnswerParts) -> Result<(), End> {
        let actions = self.show(parts)?;
        let answers = matches!(actions.outcome(), Some(Action::Respond { .. } | Action::Deny { .. }));
        let mut fields = Vec::new();
        for action in actions.iter() {
            match action {
                Action::Set { name, value } | Action::Append { name, value } if answers => {
                    fields.push((FieldName::new(name)?, FieldValue::new(value)?));
                }
                Action::Set { name, value } => parts.set(FieldName::new(name)?, FieldValue::new(value)?),
                Action::Append { name, value } => {
                    parts.append(FieldName::new(name)?, FieldValue::new(value)?)
                }
                Action::Remove { name } => parts.remove(&FieldName::new(name)?),
                Action::Status(status) => {
                    parts.set_status(status)?;
                    self.status = Some(status);
                }
                Action::Body(_) if parts.framing() == Framing::Tunnel => {
                    return Err(GuestError::Unseen.into());
                }
                Action::Body(wanted) => self.down = Some(wanted),
                action => self.common(&action, &mut fields)?,
            }
        }
        let named = self.kept.as_ref().is_some_and(|kept| kept.wants(Hook::ResponseBody));
        if self.down.is_some() && !named {
            return Err(GuestError::Hook(Hook::ResponseBody).into());
        }
        Ok(())
    }

    fn show(&mut self, parts: &AnswerParts) -> Result<Actions, GuestError> {
        let fields: Vec<Field<'_>> =
            parts.fields().map(|field| Field { name: field.name, value: field.value }).collect();
        let seen = &self.seen;
        let shown = Shown {
            sandbox: &seen.sandbox,
            template: &seen.template,
            labels: &seen.labels,
            authority: &seen.authority,
            version: seen.version,
            handler: &self.used.name,
            revision: seen.revision,
            room: &seen.resident.kept,
            budget: &seen.resident.handler_time,
        };
        let line = Line { method: &seen.method, path: &seen.path, query: seen.query.as_deref() };
        let (host, labels) = (seen.authority.host.text(), labels(&seen.labels));
        let view = view(&shown, &line, parts.framing());
        let status = parts.status();
        let view = RequestView { status, host: &host, labels: &labels, fields: &fields, ..view };
        let kept = self.kept.as_mut().ok_or(GuestError::Over)?;
        resume(&self.core, &seen.resident, kept, &Next::Response(&view))
    }

    /// Tells the record what it wrote, and a handler whose exchange broke off that it did.
    fn report(&mut self, record: &mut Record) {
        record.log.append(&mut self.log);
        record.handler_error = self.error.take().or(record.handler_error.take());
        if record.verdict == "allowed" {
            // What the sandbox was told.
            record.status = self.status.take().or(record.status);
        }
        if record.verdict != "allowed" && self.kept.is_some() {
            // Nobody reads what it answers.
            let _unread = self.resume(&Next::Cancelled);
        }
        self.kept = None;
    }
}

fn resume(core: &Core, resident: &Resident, kept: &mut Kept, next: &Next<'_>) -> Result<Actions, GuestError> {
    let mut guests = core.guests.borrow_mut();
    Ok(guests.metered(&resident.handler_time, |guests| guests.resume(kept, next))?)
}

/// Its part on the way up.
struct Upward {
    hooked: Rc<RefCell<Hooked>>,
    used: BodyUse,
}

impl BodyEdit for Upward {
    fn piece(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> Result<Passing, Box<Instead>> {
        self.hooked.borrow_mut().pieces((Hook::RequestBody, self.used), bytes, out)
    }

    fn end(&mut self, out: &mut Vec<u8>) -> Result<(), Box<Instead>> {
        self.hooked.borrow_mut().end((Hook::RequestBody, self.used), out)
    }

    fn debt(&self) -> Option<Duration> {
        self.hooked.borrow().debt()
    }

    fn report(&mut self, record: &mut Record) {
        self.hooked.borrow_mut().report(record);
    }
}

/// Its part on the way down.
struct Downward {
    hooked: Rc<RefCell<Hooked>>,
}

impl BodyEdit for Downward {
    fn piece(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> Result<Passing, Box<Instead>> {
        let mut hooked = self.hooked.borrow_mut();
        match hooked.down {
            Some(used) => hooked.pieces((Hook::ResponseBody, used), bytes, out),
            None => Ok(Passing::AsItIs),
        }
    }

    fn end(&mut self, out: &mut Vec<u8>) -> Result<(), Box<Instead>> {
        let mut hooked = self.hooked.borrow_mut();
        match hooked.down {
            Some(used) => hooked.end((Hook::ResponseBody, used), out),
            None => Ok(()),
        }
    }

    fn debt(&self) -> Option<Duration> {
        let hooked = self.hooked.borrow();
        hooked.down.and_then(|_| hooked.debt())
    }

    fn report(&mut self, record: &mut Record) {
        self.hooked.borrow_mut().report(record);
    }
}

impl AnswerEdit for Downward {
    fn head(&mut self, parts: &mut AnswerParts) -> Result<Interest, Box<Instead>> {
        let mut hooked = self.hooked.borrow_mut();
        hooked.head = false;
        let before = (hooked.used.on_error == OnError::Next).then(|| parts.clone());
        match (hooked.answer(parts), before) {
            (Err(End::Failed(error)), Some(before)) => {
                *parts = before;
                hooked.error = Some(chain(&error));
                (hooked.kept, hooked.down, hooked.status) = (None, None, None);
            }
            (outcome, _) => hooked.conclude(outcome)?,
        }
        hooked.settle();
        Ok(match hooked.down {
            None => Interest::Nothing,
            Some(BodyUse::Look) => Interest::Look,
            Some(BodyUse::Change) => Interest::Change,
        })
    }
}
