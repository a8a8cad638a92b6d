//! Actions: what a guest asks the host to do, as one list that is validated whole before any of it is applied.
//!
//! Entry: `op u8, arg u8, name_len u16, value_len u32`, name, value, back to back.
//!
//! | op | arg | name | value | |
//! |---|---|---|---|---|
//! | 1 set header | – | name | value | replaces all of that name |
//! | 2 set header from a secret | – | name | `prefix\0secret` | the host fills in the value |
//! | 3 remove header | – | name | – | |
//! | 4 append header | – | name | value | |
//! | 5 set path and query | – | – | path | same host |
//! | 6 set host | – | – | `host` or `host:port` | needs a new permit |
//! | 7 log | level | – | text | |
//! | 8 deny | – | empty or status u16 | reason | final; its headers by 1 and 4 before it |
//! | 9 respond | – | status u16 | body | final; its headers by 1 and 4 before it |
//! | 10 error | – | – | message | final |
//! | 11 ask for the body | 1 look, 2 change | – | – | |
//! | 12 emit a chunk | – | – | bytes | answers events 3 and 4 only |
//! | 13 metric | – | name | i64 | |
//! | 14 set status | – | status u16 | – | answers event 2 only |
//! | 16–28 operations | slot | see [`crate::operation`] | | end in a completion |
//!
//! A final action is the last of its list. A list without one, not pending, forwards.

use alloc::vec::Vec;

use crate::code::{BodyUse, Level};
use crate::event::EventKind;
use crate::limits::{ACTION_LIST_BYTES_MAX, ACTIONS_MAX, LOG_BYTES_MAX, LOG_LINES_MAX};
use crate::operation::{Operation, Slots};

/// Bytes of an entry before its name.
pub const ENTRY_HEAD_BYTES: usize = 8;

/// Numbers of the actions. Frozen; new ones are appended.
pub mod op {
    #![allow(missing_docs, reason = "the module's table says what each number means")]
    pub const SET: u8 = 1;
    pub const SET_SECRET: u8 = 2;
    pub const REMOVE: u8 = 3;
    pub const APPEND: u8 = 4;
    pub const PATH: u8 = 5;
    pub const HOST: u8 = 6;
    pub const LOG: u8 = 7;
    pub const DENY: u8 = 8;
    pub const RESPOND: u8 = 9;
    pub const ERROR: u8 = 10;
    pub const BODY: u8 = 11;
    pub const EMIT: u8 = 12;
    pub const METRIC: u8 = 13;
    pub const STATUS: u8 = 14;
    pub const KV_GET: u8 = 16;
    pub const KV_PUT: u8 = 17;
    pub const KV_DELETE: u8 = 18;
    pub const KV_LIST: u8 = 19;
    pub const KV_SWAP: u8 = 20;
    pub const FETCH: u8 = 21;
    pub const OBJECT_GET: u8 = 22;
    pub const OBJECT_PUT: u8 = 23;
    pub const OBJECT_LIST: u8 = 24;
    pub const OBJECT_DELETE: u8 = 25;
    pub const ASK: u8 = 26;
    pub const TIMER: u8 = 27;
    pub const MINT: u8 = 28;
}

/// One action, valid by construction when it comes out of an [`ActionList`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "each variant's sentence and the module's table say what its fields are")]
pub enum Action<'a> {
    /// Replace every field of a name.
    Set { name: &'a [u8], value: &'a [u8] },
    /// Replace every field of a name by a prefix and the value of a named secret.
    SetSecret { name: &'a [u8], prefix: &'a [u8], secret: &'a str },
    /// Remove every field of a name.
    Remove { name: &'a [u8] },
    /// Add a field.
    Append { name: &'a [u8], value: &'a [u8] },
    /// Replace path and query; the value begins with `/`.
    Path(&'a str),
    /// Replace the host, and the port where one is given.
    Host { host: &'a str, port: Option<u16> },
    /// Write a line to the handler's log.
    Log { level: Level, text: &'a str },
    /// Refuse; without a status it is the policy's.
    Deny { status: Option<u16>, reason: &'a str },
    /// Answer in the upstream's place.
    Respond { status: u16, body: &'a [u8] },
    /// The handler failed.
    Error { message: &'a str },
    /// Ask for the body.
    Body(BodyUse),
    /// Emit bytes in the place of a chunk.
    Emit(&'a [u8]),
    /// Add to a counter.
    Metric { name: &'a str, value: i64 },
    /// Give a response another status.
    Status(u16),
    /// Start an operation in a slot.
    Start { slot: u8, operation: Operation<'a> },
}

impl Action<'_> {
    /// Whether nothing may follow it.
    pub fn is_final(&self) -> bool {
        matches!(self, Self::Deny { .. } | Self::Respond { .. } | Self::Error { .. })
    }
}

/// What the host knows when it reads a list.
#[derive(Clone, Copy, Debug)]
pub struct Context {
    /// The event that the list answers.
    pub event: EventKind,
    /// Slots whose operations have not ended.
    pub busy: Slots,
    /// The pending bit of the answer.
    pub pending: bool,
}

/// Why a list is refused: which entry, and what is wrong with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ActionError {
    /// Index of the entry, from 0.
    pub entry: usize,
    /// What is wrong.
    pub fault: ActionFault,
}

/// What is wrong with a list of actions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ActionFault {
    /// The list ends within the entry.
    Truncated,
    /// The list is longer than its bound.
    TooLong,
    /// More entries than allowed.
    TooMany,
    /// The operation has an unknown number.
    UnknownOperation(u8),
    /// `arg` has no such value.
    Argument(u8),
    /// The action has no name, or a form that it may not have.
    Form,
    /// Not a header name.
    FieldName,
    /// A header that belongs to the connection or frames the message.
    ReservedField,
    /// Not a header value: control bytes, or white space at an end.
    FieldValue,
    /// Not the name of a secret, store, key or metric.
    Name,
    /// Not a path with query.
    Path,
    /// Not a host, or not a port.
    Host,
    /// Text that is not UTF-8.
    NotText,
    /// Text or bytes beyond their bound.
    Size,
    /// A status that no handler may give.
    Status(u16),
    /// Something follows a final action.
    AfterFinal,
    /// The action does not answer this event.
    WrongEvent(u8),
    /// The slot does not exist or is busy.
    Slot(u8),
    /// Too many log lines, or too much text in them.
    Log,
    /// Pending, but nothing is outstanding.
    PendingWithoutOperation,
    /// Pending, and a final action as well.
    PendingAndFinal,
    /// Not pending, but the list starts an operation.
    OperationWithoutPending,
}

/// A list of actions, validated whole. `B` is a slice, or a `Vec` that outlives the guest's memory.
#[derive(Clone, Debug)]
pub struct ActionList<B> {
    bytes: B,
    len: usize,
    busy: Slots,
}

impl<B: AsRef<[u8]>> ActionList<B> {
    /// Validates a list.
    ///
    /// # Errors
    /// With the first entry that breaks a rule; then no action of the list may be applied.
    pub fn decode(bytes: B, context: Context) -> Result<Self, ActionError> {
        let (len, busy) = Check::new(context).run(bytes.as_ref())?;
        Ok(Self { bytes, len, busy })
    }

    /// Its actions in order.
    pub fn iter(&self) -> impl Iterator<Item = Action<'_>> {
        actions_in(self.bytes.as_ref())
    }

    /// Number of actions.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether the list holds nothing.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Slots that are busy once the list is applied.
    pub fn busy(&self) -> Slots {
        self.busy
    }

    /// The final action, if the list has one.
    pub fn outcome(&self) -> Option<Action<'_>> {
        self.iter().last().filter(Action::is_final)
    }
}

impl<'a> ActionList<&'a [u8]> {
    /// Its actions in order, for as long as the bytes live.
    pub fn into_actions(self) -> impl Iterator<Item = Action<'a>> {
        actions_in(self.bytes)
    }
}

/// Entries of a validated list. One that does not parse cannot be here, and would end the list.
fn actions_in(bytes: &[u8]) -> impl Iterator<Item = Action<'_>> {
    let mut at = 0;
    core::iter::from_fn(move || {
        let (entry, next) = Entry::read(bytes, at)?;
        at = next;
        entry.parse().ok()
    })
}

struct Check {
    context: Context,
    busy: Slots,
    ended: bool,
    started: bool,
    log_lines: usize,
    log_bytes: usize,
}

impl Check {
    fn new(context: Context) -> Self {
        Self { context, busy: context.busy, ended: false, started: false, log_lines: 0, log_bytes: 0 }
    }

    fn run(mut self, bytes: &[u8]) -> Result<(usize, Slots), ActionError> {
        let (mut at, mut entry) = (0, 0);
        let fail = |entry, fault| Err(ActionError { entry, fault });
        if bytes.len() > ACTION_LIST_BYTES_MAX {
            return fail(0, ActionFault::TooLong);
        }
        while at < bytes.len() {
            if entry == ACTIONS_MAX {
                return fail(entry, ActionFault::TooMany);
            }
            let Some((raw, next)) = Entry::read(bytes, at) else {
                return fail(entry, ActionFault::Truncated);
            };
            if let Err(fault) = raw.parse().and_then(|action| self.admit(raw.op, action)) {
                return fail(entry, fault);
            }
            (at, entry) = (next, entry + 1);
        }
        match self.finish() {
            Ok(()) => Ok((entry, self.busy)),
            Err(fault) => fail(entry.saturating_sub(1), fault),
        }
    }

    /// Rules that one entry alone cannot show.
    fn admit(&mut self, op: u8, action: Action<'_>) -> Result<(), ActionFault> {
        if self.ended {
            return Err(ActionFault::AfterFinal);
        }
        self.ended = action.is_final();
        let event = self.context.event;
        let chunk = matches!(event, EventKind::RequestChunk | EventKind::ResponseChunk);
        let head = matches!(event, EventKind::Request | EventKind::Response | EventKind::Completion);
        match action {
            Action::Emit(_) if !chunk => return Err(ActionFault::WrongEvent(op)),
            Action::Status(_) if event != EventKind::Response => return Err(ActionFault::WrongEvent(op)),
            Action::Set { .. }
            | Action::SetSecret { .. }
            | Action::Remove { .. }
            | Action::Append { .. }
            | Action::Body(_)
                if !head =>
            {
                return Err(ActionFault::WrongEvent(op));
            }
            // Where the request goes, and with whose credential, is settled before it is sent.
            Action::Path(_) | Action::Host { .. } | Action::SetSecret { .. }
                if !matches!(event, EventKind::Request | EventKind::Completion) =>
            {
                return Err(ActionFault::WrongEvent(op));
            }
            Action::Log { text, .. } => {
                self.log_lines += 1;
                self.log_bytes += text.len();
                if self.log_lines > LOG_LINES_MAX || self.log_bytes > LOG_BYTES_MAX {
                    return Err(ActionFault::Log);
                }
            }
            Action::Start { slot, .. } => {
                self.busy = self.busy.take(slot).ok_or(ActionFault::Slot(slot))?;
                self.started = true;
            }
            _ => {}
        }
        Ok(())
    }

    fn finish(&self) -> Result<(), ActionFault> {
        match (self.context.pending, self.ended) {
            (true, true) => Err(ActionFault::PendingAndFinal),
            (true, false) if self.busy.is_empty() => Err(ActionFault::PendingWithoutOperation),
            (false, _) if self.started => Err(ActionFault::OperationWithoutPending),
            _ => Ok(()),
        }
    }
}

mod entry;
mod fault;
mod writer;

use entry::Entry;
pub(crate) use entry::{named, text};
pub use writer::ActionWriter;

/// An entry's head and content, appended.
pub(crate) fn put_entry(out: &mut Vec<u8>, op: u8, arg: u8, name: &[u8], value: &[&[u8]]) {
    let len: usize = value.iter().map(|part| part.len()).sum();
    out.extend_from_slice(&[op, arg]);
    out.extend_from_slice(&(name.len() as u16).to_le_bytes());
    out.extend_from_slice(&(len as u32).to_le_bytes());
    out.extend_from_slice(name);
    value.iter().for_each(|part| out.extend_from_slice(part));
}

#[cfg(test)]
#[path = "action_tests.rs"]
mod tests;
