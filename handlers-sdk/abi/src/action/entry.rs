//! One entry of an action list: its bytes, and what they mean.

use super::{Action, ActionFault, ENTRY_HEAD_BYTES, op};
use crate::bytes::{span, u16_at, u32_at};
use crate::code::{BodyUse, Level};
use crate::field;
use crate::limits::{BODY_CHUNK_BYTES_MAX, LOG_BYTES_MAX, PATH_BYTES_MAX, REASON_BYTES_MAX};
use crate::names::is_name;
use crate::operation::Operation;

/// One entry whose spans lie inside the list; its content is not judged yet.
#[derive(Clone, Copy)]
pub(super) struct Entry<'a> {
    pub(super) op: u8,
    arg: u8,
    name: &'a [u8],
    value: &'a [u8],
}

impl<'a> Entry<'a> {
    pub(super) fn read(bytes: &'a [u8], at: usize) -> Option<(Self, usize)> {
        let head = span(bytes, at, ENTRY_HEAD_BYTES)?;
        let (name_len, value_len) = (u16_at(head, 2)? as usize, u32_at(head, 4)? as usize);
        let name_at = at + ENTRY_HEAD_BYTES;
        let name = span(bytes, name_at, name_len)?;
        let value_at = name_at + name_len;
        let value = span(bytes, value_at, value_len)?;
        Some((Self { op: head[0], arg: head[1], name, value }, value_at + value_len))
    }

    pub(super) fn parse(self) -> Result<Action<'a>, ActionFault> {
        let Self { op, arg, name, value } = self;
        if arg != 0
            && (op < op::LOG
                || matches!(op, op::DENY | op::RESPOND | op::ERROR | op::EMIT | op::METRIC | op::STATUS))
        {
            return Err(ActionFault::Argument(arg));
        }
        Ok(match op {
            op::SET => Action::Set { name: header(name)?, value: header_value(value)? },
            op::SET_SECRET => parse_secret(header(name)?, value)?,
            op::REMOVE => Action::Remove { name: bare(header(name)?, value)? },
            op::APPEND => Action::Append { name: header(name)?, value: header_value(value)? },
            op::PATH => Action::Path(parse_path(bare(value, name)?)?),
            op::HOST => parse_host(bare(value, name)?)?,
            op::LOG => {
                let level = Level::from_code(arg).ok_or(ActionFault::Argument(arg))?;
                Action::Log { level, text: text(bare(value, name)?, LOG_BYTES_MAX)? }
            }
            op::DENY => parse_denial(name, value)?,
            op::RESPOND => Action::Respond { status: final_status(name)?, body: value },
            op::ERROR => Action::Error { message: text(bare(value, name)?, REASON_BYTES_MAX)? },
            op::BODY => {
                bare(name, value)?;
                bare(value, name)?;
                Action::Body(BodyUse::from_code(arg).ok_or(ActionFault::Argument(arg))?)
            }
            op::EMIT => match bare(value, name)? {
                bytes if bytes.len() > BODY_CHUNK_BYTES_MAX => return Err(ActionFault::Size),
                bytes => Action::Emit(bytes),
            },
            op::METRIC => {
                let value = i64::from_le_bytes(value.try_into().map_err(|_| ActionFault::Form)?);
                Action::Metric { name: named(name)?, value }
            }
            op::STATUS => Action::Status(final_status(bare(name, value)?)?),
            op => Action::Start { slot: arg, operation: Operation::parse(op, name, value)? },
        })
    }
}

/// The first argument, where the second is empty.
fn bare<'a>(wanted: &'a [u8], empty: &[u8]) -> Result<&'a [u8], ActionFault> {
    if empty.is_empty() { Ok(wanted) } else { Err(ActionFault::Form) }
}

pub(crate) fn text(bytes: &[u8], max: usize) -> Result<&str, ActionFault> {
    if bytes.len() > max {
        return Err(ActionFault::Size);
    }
    core::str::from_utf8(bytes).map_err(|_| ActionFault::NotText)
}

pub(crate) fn named(bytes: &[u8]) -> Result<&str, ActionFault> {
    if is_name(bytes) {
        core::str::from_utf8(bytes).map_err(|_| ActionFault::Name)
    } else {
        Err(ActionFault::Name)
    }
}

fn header(name: &[u8]) -> Result<&[u8], ActionFault> {
    if !field::is_name(name) {
        return Err(ActionFault::FieldName);
    }
    if field::is_reserved(name) { Err(ActionFault::ReservedField) } else { Ok(name) }
}

fn header_value(value: &[u8]) -> Result<&[u8], ActionFault> {
    if field::is_value(value) { Ok(value) } else { Err(ActionFault::FieldValue) }
}

fn parse_secret<'a>(name: &'a [u8], value: &'a [u8]) -> Result<Action<'a>, ActionFault> {
    let zero = value.iter().position(|b| *b == 0).ok_or(ActionFault::Form)?;
    let (prefix, secret) = (&value[..zero], &value[zero + 1..]);
    // The prefix may end in a space ("Bearer "): the secret follows it.
    if prefix.len() > REASON_BYTES_MAX || !prefix.iter().all(|b| field::is_value_byte(*b)) {
        return Err(ActionFault::FieldValue);
    }
    Ok(Action::SetSecret { name, prefix, secret: named(secret)? })
}

fn parse_path(value: &[u8]) -> Result<&str, ActionFault> {
    // RFC 9112 §3.2.1: absolute path and query; no space, no control byte, and a fragment is never sent.
    let plain = value.iter().all(|b| b.is_ascii_graphic() && *b != b'#');
    if !plain || value.first() != Some(&b'/') || value.len() > PATH_BYTES_MAX {
        return Err(ActionFault::Path);
    }
    core::str::from_utf8(value).map_err(|_| ActionFault::Path)
}

fn parse_host(value: &[u8]) -> Result<Action<'_>, ActionFault> {
    let value = core::str::from_utf8(value).map_err(|_| ActionFault::Host)?;
    let (host, port) = match value.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        _ => (value, None),
    };
    let port = match port {
        // Digits only: `parse` alone would let a sign pass.
        Some(port) if port.bytes().all(|b| b.is_ascii_digit()) => {
            Some(port.parse().ok().filter(|port| *port != 0).ok_or(ActionFault::Host)?)
        }
        Some(_) => return Err(ActionFault::Host),
        None => None,
    };
    let literal = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let valid = match literal {
        Some(address) => address.parse::<core::net::Ipv6Addr>().is_ok(),
        None => host.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_')),
    };
    if valid && !host.is_empty() && host.len() <= 255 {
        Ok(Action::Host { host, port })
    } else {
        Err(ActionFault::Host)
    }
}

fn status_of(name: &[u8]) -> Result<u16, ActionFault> {
    Ok(u16::from_le_bytes(name.try_into().map_err(|_| ActionFault::Form)?))
}

/// A handler cannot switch protocols or speak for the connection (RFC 9110 §15.2).
fn final_status(name: &[u8]) -> Result<u16, ActionFault> {
    match status_of(name)? {
        status @ 200..=599 => Ok(status),
        status => Err(ActionFault::Status(status)),
    }
}

fn parse_denial<'a>(name: &[u8], value: &'a [u8]) -> Result<Action<'a>, ActionFault> {
    let status = if name.is_empty() { None } else { Some(status_of(name)?) };
    match status {
        Some(status) if !(400..=599).contains(&status) => Err(ActionFault::Status(status)),
        status => Ok(Action::Deny { status, reason: text(value, REASON_BYTES_MAX)? }),
    }
}
