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
    edits::{AnswerEdit, BodyEdit, Edits, Instead, Interest, Passing},
    guest::{GuestError, Line, Shown, failed, labels, refused_by, view},
};
use crate::{
    audit::{LogLine, Record},
    causes::chain,
    handler::{Actions, Budget, Host as Guests, Kept, Next, Room},
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
    /// Room for what handlers remember of the sandbox's exchanges.
    pub room: Rc<Room>,
    /// What its calls are charged to.
    pub budget: Rc<Budget>,
}

/// A handler that goes on after the request's head.
pub struct Hooked {
    guests: Rc<RefCell<Guests>>,
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
        guests: &Rc<RefCell<Guests>>,
        kept: Kept,
        (used, deny_status): (Arc<HandlerUse>, u16),
        seen: Seen,
        up: Option<BodyUse>,
    ) -> Self {
        let head = kept.wants(Hook::Response) || kept.wants(Hook::ResponseBody);
        let (guests, kept, log) = (Rc::clone(guests), Some(kept), Vec::new());
        Self { guests, kept, used, deny_status, seen, up, head, down: None, log, error: None }
    }

    /// Whether it is to be shown anything more.
    pub fn waits(&self) -> bool {
        self.up.is_some() || self.head || self.down.is_some()
    }

    /// Adds it to the edits of its exchange.
    pub fn join(self, edits: &Edits) {
        let (up, head) = (self.up.is_some(), self.head);
        let shared = Rc::new(RefCell::new(self));
        if up {
            edits.add_up(Box::new(Upward(Rc::clone(&shared))));
        }
        if head {
            edits.add_down(Box::new(Downward(shared)));
        }
    }

    /// Whether it is to be shown the answer's head, which has not come.
    pub fn awaits_answer(&self) -> bool {
        self.head
    }

    /// What it wants of a body that has not ended.
    pub fn wanted(&self, way: Way) -> Option<BodyUse> {
        match way {
            Way::Up => self.up,
            Way::Down => self.down,
        }
    }

    /// What it wrote after the request's head.
    pub fn log(&self) -> &[LogLine] {
        &self.log
    }

    /// Shows it a piece of a body, where it wants that, and appends to `out` what it gives in its place.
    ///
    /// # Errors
    /// What ends the exchange.
    pub fn piece(&mut self, way: Way, bytes: &[u8], out: &mut Vec<u8>) -> Result<Passing, Box<Instead>> {
        let Some(used) = self.wanted(way) else { return Ok(Passing::AsItIs) };
        let mut chunks = bytes.chunks(BODY_CHUNK_BYTES_MAX);
        let shown = chunks.try_for_each(|bytes| self.chunk((way, used), Chunk { last: false, bytes }, out));
        self.conclude(shown)?;
        Ok(if used == BodyUse::Change { Passing::Changed } else { Passing::AsItIs })
    }

    /// Shows it the end of a body, where it wants that, and appends to `out` what it held back.
    ///
    /// # Errors
    /// What ends the exchange.
    pub fn end(&mut self, way: Way, out: &mut Vec<u8>) -> Result<(), Box<Instead>> {
        let Some(used) = self.wanted(way) else { return Ok(()) };
        let shown = self.chunk((way, used), Chunk { last: true, bytes: &[] }, out);
        match way {
            Way::Up => self.up = None,
            Way::Down => self.down = None,
        }
        self.conclude(shown)?;
        if !self.waits() {
            // What is remembered is let go of as soon as nobody asks for it.
            self.kept = None;
        }
        Ok(())
    }

    /// Shows it the answer's head, which it may edit, and says what it wants of the body.
    ///
    /// # Errors
    /// What is said in the answer's place.
    pub fn head(&mut self, parts: &mut AnswerParts) -> Result<Interest, Box<Instead>> {
        self.head = false;
        let before = (self.used.on_error == OnError::Next).then(|| parts.clone());
        match (self.answer(parts), before) {
            (Err(End::Failed(error)), Some(before)) => {
                *parts = before;
                self.error = Some(chain(&error));
                (self.kept, self.down) = (None, None);
            }
            (outcome, _) => self.conclude(outcome)?,
        }
        if !self.waits() {
            self.kept = None;
        }
        Ok(match self.down {
            None => Interest::Nothing,
            Some(BodyUse::Look) => Interest::Look,
            Some(BodyUse::Change) => Interest::Change,
        })
    }

    /// For how long nothing more is to be shown to it.
    fn debt(&self) -> Option<Duration> {
        self.seen.budget.debt(Ring::current().now())
    }

    fn resume(&mut self, next: &Next<'_>) -> Result<Actions, GuestError> {
        let kept = self.kept.as_mut().ok_or(GuestError::Over)?;
        resume(&self.guests, &self.seen.budget, kept, next)
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

    /// Shows it a chunk of a body, as the contract bounds them, or the end.
    fn chunk(&mut self, (way, used): (Way, BodyUse), chunk: Chunk<'_>, out: &mut Vec<u8>) -> Result<(), End> {
        let next = match way {
            Way::Up => Next::RequestChunk(chunk),
            Way::Down => Next::ResponseChunk(chunk),
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
                Action::Status(status) => parts.set_status(status)?,
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
            room: &seen.room,
            budget: &seen.budget,
        };
        let line = Line { method: &seen.method, path: &seen.path, query: seen.query.as_deref() };
        let (host, labels) = (seen.authority.host.text(), labels(&seen.labels));
        let view = view(&shown, &line, parts.framing());
        let status = parts.status();
        let view = RequestView { status, host: &host, labels: &labels, fields: &fields, ..view };
        let kept = self.kept.as_mut().ok_or(GuestError::Over)?;
        resume(&self.guests, &seen.budget, kept, &Next::Response(&view))
    }

    /// Tells the record what it wrote, and a handler whose exchange broke off that it did.
    fn report(&mut self, record: &mut Record) {
        record.log.append(&mut self.log);
        record.handler_error = self.error.take().or(record.handler_error.take());
        if record.verdict != "allowed" && self.kept.is_some() {
            // Nobody reads what it answers.
            let _unread = self.resume(&Next::Cancelled);
        }
        self.kept = None;
    }
}

fn resume(
    guests: &RefCell<Guests>,
    budget: &Budget,
    kept: &mut Kept,
    next: &Next<'_>,
) -> Result<Actions, GuestError> {
    Ok(guests.borrow_mut().metered(budget, |guests| guests.resume(kept, next))?)
}

/// Which way a body goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// The request's, to the upstream.
    Up,
    /// The answer's, to the client.
    Down,
}

/// Its part on the way up.
struct Upward(Rc<RefCell<Hooked>>);

impl BodyEdit for Upward {
    fn piece(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> Result<Passing, Box<Instead>> {
        self.0.borrow_mut().piece(Way::Up, bytes, out)
    }

    fn end(&mut self, out: &mut Vec<u8>) -> Result<(), Box<Instead>> {
        self.0.borrow_mut().end(Way::Up, out)
    }

    fn debt(&self) -> Option<Duration> {
        self.0.borrow().debt()
    }

    fn report(&mut self, record: &mut Record) {
        self.0.borrow_mut().report(record);
    }
}

/// Its part on the way down.
struct Downward(Rc<RefCell<Hooked>>);

impl BodyEdit for Downward {
    fn piece(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> Result<Passing, Box<Instead>> {
        self.0.borrow_mut().piece(Way::Down, bytes, out)
    }

    fn end(&mut self, out: &mut Vec<u8>) -> Result<(), Box<Instead>> {
        self.0.borrow_mut().end(Way::Down, out)
    }

    fn debt(&self) -> Option<Duration> {
        let hooked = self.0.borrow();
        hooked.down.and_then(|_| hooked.debt())
    }

    fn report(&mut self, record: &mut Record) {
        self.0.borrow_mut().report(record);
    }
}

impl AnswerEdit for Downward {
    fn head(&mut self, parts: &mut AnswerParts) -> Result<Interest, Box<Instead>> {
        self.0.borrow_mut().head(parts)
    }
}
