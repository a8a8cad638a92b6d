//! Operations: what a handler can wait for. Each takes a slot and ends in one completion.
//!
//! | op | name | value |
//! |---|---|---|
//! | 16 kv get, 18 kv delete | store | key |
//! | 17 kv put | store | `ttl_ms u64` (0 = for ever), `key_len u16`, key, bytes |
//! | 19 kv list | store | `limit u16`, prefix |
//! | 20 kv compare and set | store | `ttl_ms u64`, `key_len u16`, `old_len u32` (all ones = absent), key, old, new |
//! | 21 fetch | method | `timeout_ms u32`, `url_len u32`, `fields_len u32`, URL, actions 1, 2, 4, body |
//! | 22 object get, 25 object delete | store | key |
//! | 23 object put | store | `key_len u16`, key, bytes |
//! | 24 object list | store | `limit u16`, prefix |
//! | 26 ask | – | `timeout_ms u32`, text |
//! | 27 timer | – | `ms u32` |
//! | 28 mint a token | key's name | claims as JSON text |

use alloc::vec::Vec;

use crate::action::{Action, ActionFault, ActionList, Context, named, op, put_entry, text};
use crate::bytes::{span, u16_at, u32_at, u64_at};
use crate::event::EventKind;
use crate::field::is_token_byte;
use crate::limits::{NAME_BYTES_MAX, PATH_BYTES_MAX, SLOTS_MAX};

/// Slots that are busy, as a set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Slots(u8);

impl Slots {
    /// No slot is busy.
    pub const NONE: Self = Self(0);

    /// The set with one more slot, or nothing where it does not exist or is busy.
    pub fn take(self, slot: u8) -> Option<Self> {
        if slot >= SLOTS_MAX || self.0 & (1 << slot) != 0 { None } else { Some(Self(self.0 | 1 << slot)) }
    }

    /// The set without a slot.
    pub fn release(self, slot: u8) -> Self {
        if slot >= SLOTS_MAX { self } else { Self(self.0 & !(1 << slot)) }
    }

    /// A slot that is not busy.
    pub fn free(self) -> Option<u8> {
        (0..SLOTS_MAX).find(|slot| self.0 & (1 << slot) == 0)
    }

    /// Whether none is busy.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }
}

/// An operation, valid by construction when it comes out of an action list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "each variant's sentence and the module's table say what its fields are")]
pub enum Operation<'a> {
    /// Read a key.
    KvGet { store: &'a str, key: &'a str },
    /// Write a key; 0 ms = for ever.
    KvPut { store: &'a str, ttl_ms: u64, key: &'a str, value: &'a [u8] },
    /// Forget a key.
    KvDelete { store: &'a str, key: &'a str },
    /// List keys of a prefix.
    KvList { store: &'a str, limit: u16, prefix: &'a str },
    /// Write a key where its value is the old one; no old one = where it has none.
    KvSwap { store: &'a str, ttl_ms: u64, key: &'a str, old: Option<&'a [u8]>, new: &'a [u8] },
    /// A request of the handler's own, under its own permits.
    Fetch { method: &'a str, timeout_ms: u32, url: &'a str, fields: &'a [u8], body: &'a [u8] },
    /// Read an object.
    ObjectGet { store: &'a str, key: &'a str },
    /// Write an object.
    ObjectPut { store: &'a str, key: &'a str, value: &'a [u8] },
    /// List objects of a prefix.
    ObjectList { store: &'a str, limit: u16, prefix: &'a str },
    /// Delete an object.
    ObjectDelete { store: &'a str, key: &'a str },
    /// Ask a person.
    Ask { timeout_ms: u32, text: &'a str },
    /// Wait.
    Timer { ms: u32 },
    /// Mint a token from claims; the key stays in the host.
    Mint { key: &'a str, claims: &'a str },
}

const ABSENT: u32 = u32::MAX;

impl<'a> Operation<'a> {
    /// Reads an operation from the parts of its entry.
    pub(crate) fn parse(op: u8, name: &'a [u8], value: &'a [u8]) -> Result<Self, ActionFault> {
        match op {
            op::KV_GET => Ok(Self::KvGet { store: named(name)?, key: key(value)? }),
            op::KV_DELETE => Ok(Self::KvDelete { store: named(name)?, key: key(value)? }),
            op::OBJECT_GET => Ok(Self::ObjectGet { store: named(name)?, key: key(value)? }),
            op::OBJECT_DELETE => Ok(Self::ObjectDelete { store: named(name)?, key: key(value)? }),
            op::KV_LIST | op::OBJECT_LIST => parse_list(op, named(name)?, value),
            op::KV_PUT => {
                let ttl_ms = form(u64_at(value, 0))?;
                let (key, value) = keyed(value, 8)?;
                Ok(Self::KvPut { store: named(name)?, ttl_ms, key, value })
            }
            op::OBJECT_PUT => {
                let (key, value) = keyed(value, 0)?;
                Ok(Self::ObjectPut { store: named(name)?, key, value })
            }
            op::KV_SWAP => parse_swap(named(name)?, value),
            op::FETCH => parse_fetch(name, value),
            op::ASK if name.is_empty() => {
                let timeout_ms = form(u32_at(value, 0))?;
                Ok(Self::Ask { timeout_ms, text: text(&value[4..], PATH_BYTES_MAX)? })
            }
            op::TIMER if name.is_empty() => {
                let ms = value.try_into().map_err(|_| ActionFault::Form)?;
                Ok(Self::Timer { ms: u32::from_le_bytes(ms) })
            }
            op::MINT => Ok(Self::Mint { key: named(name)?, claims: text(value, PATH_BYTES_MAX)? }),
            op::ASK | op::TIMER => Err(ActionFault::Form),
            op => Err(ActionFault::UnknownOperation(op)),
        }
    }

    /// Appends the entry that starts the operation in a slot.
    pub fn encode(&self, slot: u8, out: &mut Vec<u8>) {
        let len16 = |key: &str| (key.len() as u16).to_le_bytes();
        let mut put = |op, name: &str, value: &[&[u8]]| put_entry(out, op, slot, name.as_bytes(), value);
        match *self {
            Self::KvGet { store, key } => put(op::KV_GET, store, &[key.as_bytes()]),
            Self::KvDelete { store, key } => put(op::KV_DELETE, store, &[key.as_bytes()]),
            Self::ObjectGet { store, key } => put(op::OBJECT_GET, store, &[key.as_bytes()]),
            Self::ObjectDelete { store, key } => put(op::OBJECT_DELETE, store, &[key.as_bytes()]),
            Self::KvList { store, limit, prefix } => {
                put(op::KV_LIST, store, &[&limit.to_le_bytes(), prefix.as_bytes()]);
            }
            Self::ObjectList { store, limit, prefix } => {
                put(op::OBJECT_LIST, store, &[&limit.to_le_bytes(), prefix.as_bytes()]);
            }
            Self::KvPut { store, ttl_ms, key, value } => {
                put(op::KV_PUT, store, &[&ttl_ms.to_le_bytes(), &len16(key), key.as_bytes(), value]);
            }
            Self::ObjectPut { store, key, value } => {
                put(op::OBJECT_PUT, store, &[&len16(key), key.as_bytes(), value]);
            }
            Self::KvSwap { store, ttl_ms, key, old, new } => {
                let old_len = old.map_or(ABSENT, |old| old.len() as u32).to_le_bytes();
                let old = old.unwrap_or_default();
                put(
                    op::KV_SWAP,
                    store,
                    &[&ttl_ms.to_le_bytes(), &len16(key), &old_len, key.as_bytes(), old, new],
                );
            }
            Self::Fetch { method, timeout_ms, url, fields, body } => {
                let (url_len, fields_len) = (url.len() as u32, fields.len() as u32);
                let lens = [timeout_ms.to_le_bytes(), url_len.to_le_bytes(), fields_len.to_le_bytes()];
                put(op::FETCH, method, &[lens.as_flattened(), url.as_bytes(), fields, body]);
            }
            Self::Ask { timeout_ms, text } => put(op::ASK, "", &[&timeout_ms.to_le_bytes(), text.as_bytes()]),
            Self::Timer { ms } => put(op::TIMER, "", &[&ms.to_le_bytes()]),
            Self::Mint { key, claims } => put(op::MINT, key, &[claims.as_bytes()]),
        }
    }
}

fn form<T>(part: Option<T>) -> Result<T, ActionFault> {
    part.ok_or(ActionFault::Form)
}

fn key(bytes: &[u8]) -> Result<&str, ActionFault> {
    if bytes.is_empty() { Err(ActionFault::Name) } else { text(bytes, NAME_BYTES_MAX * 4) }
}

/// `key_len u16`, key, rest.
fn keyed(value: &[u8], at: usize) -> Result<(&str, &[u8]), ActionFault> {
    let len = usize::from(form(u16_at(value, at))?);
    let name = key(form(span(value, at + 2, len))?)?;
    Ok((name, &value[at + 2 + len..]))
}

fn parse_list<'a>(op: u8, store: &'a str, value: &'a [u8]) -> Result<Operation<'a>, ActionFault> {
    let limit = form(u16_at(value, 0))?;
    let prefix = text(&value[2..], NAME_BYTES_MAX * 4)?;
    Ok(match op {
        op::KV_LIST => Operation::KvList { store, limit, prefix },
        _ => Operation::ObjectList { store, limit, prefix },
    })
}

fn parse_swap<'a>(store: &'a str, value: &'a [u8]) -> Result<Operation<'a>, ActionFault> {
    let ttl_ms = form(u64_at(value, 0))?;
    let key_len = usize::from(form(u16_at(value, 8))?);
    let old_len = form(u32_at(value, 10))?;
    let key = key(form(span(value, 14, key_len))?)?;
    let rest = &value[14 + key_len..];
    let (old, new) = match old_len {
        ABSENT => (None, rest),
        len => {
            let (old, new) = form(rest.split_at_checked(len as usize))?;
            (Some(old), new)
        }
    };
    Ok(Operation::KvSwap { store, ttl_ms, key, old, new })
}

fn parse_fetch<'a>(method: &'a [u8], value: &'a [u8]) -> Result<Operation<'a>, ActionFault> {
    let timeout_ms = form(u32_at(value, 0))?;
    let url_len = form(u32_at(value, 4))? as usize;
    let fields_len = form(u32_at(value, 8))? as usize;
    let (url, rest) = form(value[12..].split_at_checked(url_len))?;
    let (fields, body) = form(rest.split_at_checked(fields_len))?;
    if method.is_empty() || method.len() > 32 || !method.iter().all(|b| is_token_byte(*b)) {
        return Err(ActionFault::Form);
    }
    let method = text(method, 32)?;
    if !url.iter().all(|b| b.is_ascii_graphic()) {
        return Err(ActionFault::Path);
    }
    check_fields(fields)?;
    Ok(Operation::Fetch { method, timeout_ms, url: text(url, PATH_BYTES_MAX)?, fields, body })
}

/// Fields of a fetch are a list of their own, in which only headers may stand. This recurses at most once: a list in
/// which an operation stands is refused.
fn check_fields(fields: &[u8]) -> Result<(), ActionFault> {
    // An operation would be read before it is refused; a nested fetch would recurse, so look at the numbers first.
    let mut at = 0;
    while at < fields.len() {
        let op = *form(fields.get(at))?;
        if !matches!(op, op::SET | op::SET_SECRET | op::APPEND) {
            return Err(ActionFault::UnknownOperation(op));
        }
        let name_len = usize::from(form(u16_at(fields, at + 2))?);
        let value_len = form(u32_at(fields, at + 4))? as usize;
        at = form((at + 8 + name_len).checked_add(value_len))?;
    }
    let context = Context { event: EventKind::Request, busy: Slots::NONE, pending: false };
    ActionList::decode(fields, context).map(drop).map_err(|error| error.fault)
}

/// The header actions of a fetch.
pub fn fetch_fields(fields: &[u8]) -> Option<impl Iterator<Item = Action<'_>>> {
    let context = Context { event: EventKind::Request, busy: Slots::NONE, pending: false };
    let list = ActionList::decode(fields, context).ok()?;
    Some(list.into_actions())
}
