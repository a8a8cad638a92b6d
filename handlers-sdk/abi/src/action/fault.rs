//! What is wrong with a list of actions, in words for the handler's author.

use core::fmt::{Display, Formatter, Result};

use super::{ActionError, ActionFault};
use crate::limits::{ACTIONS_MAX, LOG_BYTES_MAX, LOG_LINES_MAX, SLOTS_MAX};

impl Display for ActionError {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        write!(f, "action {}: {}", self.entry, self.fault)
    }
}

impl core::error::Error for ActionError {}

impl Display for ActionFault {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        match self {
            Self::Truncated => f.write_str("the list ends within it"),
            Self::TooLong => f.write_str("the list is too long"),
            Self::TooMany => write!(f, "more than {ACTIONS_MAX} actions"),
            Self::UnknownOperation(op) => write!(f, "operation {op} is unknown"),
            Self::Argument(arg) => write!(f, "argument {arg} has no meaning"),
            Self::Form => f.write_str("it carries what it may not carry, or lacks what it needs"),
            Self::FieldName => f.write_str("not a header name"),
            Self::ReservedField => f.write_str("this header belongs to the gateway"),
            Self::FieldValue => f.write_str("a header value holds a control byte, or white space at an end"),
            Self::Name => f.write_str("not a name of a secret, store, key or metric"),
            Self::Path => f.write_str("not a path with query"),
            Self::Host => f.write_str("not a host with port"),
            Self::NotText => f.write_str("the text is not UTF-8"),
            Self::Size => f.write_str("it is larger than its bound"),
            Self::Status(status) => write!(f, "a handler may not answer {status}"),
            Self::AfterFinal => f.write_str("it follows the action that ended the request"),
            Self::WrongEvent(op) => write!(f, "operation {op} does not answer this event"),
            Self::Slot(slot) => write!(f, "slot {slot} is busy or not below {SLOTS_MAX}"),
            Self::Log => write!(f, "more than {LOG_LINES_MAX} log lines or {LOG_BYTES_MAX} bytes of log"),
            Self::PendingWithoutOperation => f.write_str("the handler waits, but for nothing"),
            Self::PendingAndFinal => f.write_str("the handler waits, but ended the request"),
            Self::OperationWithoutPending => f.write_str("the handler started an operation and did not wait"),
        }
    }
}
