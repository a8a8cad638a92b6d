//! The request view: one flat block that tells a guest everything about a request, written once by the host.
//!
//! | offset | size | field |
//! |---|---|---|
//! | 0 | u32 | total bytes |
//! | 4 | u16 | version of the contract |
//! | 6 | u16 | [`flags`] |
//! | 8 | u16 | number of header fields |
//! | 10 | u16 | port |
//! | 12 | u8 | [`MethodId`], 0 = see the text |
//! | 13 | u8 | HTTP version: 10, 11, 20 |
//! | 14 | u16 | status of a response's view, 0 in a request's |
//! | 16 | u64 | body bytes, all ones = unknown |
//! | 24 | u64 | now, Unix milliseconds |
//! | 32 | 16 | random bytes |
//! | 48, 56, 64, 72 | offset, length | method, host, path without query, query (offset 0 = none) |
//! | 80, 88, 96, 104 | offset, length | container id, class name, request id, traceparent |
//! | 112 | offset, count | labels: entries as header fields |
//! | 120 | u32 | suspensions left |
//! | 124 | u32 | where the header entries begin: the head may grow |
//! | 128 | 64 | by [`Known`] id: 1 + index of its first field, 0 = absent |
//! | 192 | offset, length | handler's name |
//! | 200 | u64 | revision |
//! | 208 | 16·n | entries: name offset, length, value offset, length; names in lower case |

use alloc::vec::Vec;

use crate::ABI_VERSION;
use crate::field::Known;
use crate::limits::{VIEW_BYTES_MAX, VIEW_FIELDS_MAX, VIEW_LABELS_MAX};

/// Bits of the view's flags.
pub mod flags {
    /// The request came over TLS.
    pub const TLS: u16 = 1;
    /// It came as HTTP/2.
    pub const H2: u16 = 2;
    /// It has a body.
    pub const BODY: u16 = 4;
    /// The body's length is known.
    pub const LENGTH_KNOWN: u16 = 8;
    /// It asks for an upgrade.
    pub const UPGRADE: u16 = 16;
}

/// Bytes of the fixed head that this version writes.
pub const HEAD_BYTES: usize = 208;
const IDS_AT: usize = 128;
const IDS_BYTES: usize = 64;
const ENTRY_BYTES: usize = 16;
const UNKNOWN_LENGTH: u64 = u64::MAX;

/// Methods with a number. Numbers are frozen; new ones are appended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MethodId(pub u8);

impl MethodId {
    const NAMES: [&'static str; 9] =
        ["GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "CONNECT", "TRACE"];

    /// The number of a method, 0 where it has none. Methods are case-sensitive (RFC 9110 §9.1).
    pub fn of(method: &str) -> Self {
        Self(Self::NAMES.iter().position(|name| *name == method).map_or(0, |at| at as u8 + 1))
    }
}

/// One header field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field<'a> {
    /// Its name; the writer folds it to lower case.
    pub name: &'a [u8],
    /// Its value as received.
    pub value: &'a [u8],
}

/// One label of the sandbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Label<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its value.
    pub value: &'a str,
}

/// What the host knows about a request, ready to be written.
#[derive(Clone, Copy, Debug)]
pub struct RequestView<'a> {
    /// Bits of [`flags`]; `LENGTH_KNOWN` is derived from `body_bytes`.
    pub flags: u16,
    /// Port of the authority.
    pub port: u16,
    /// 10, 11 or 20.
    pub http_version: u8,
    /// Status of a response's view, 0 in a request's.
    pub status: u16,
    /// Length of the body where it is known.
    pub body_bytes: Option<u64>,
    /// Unix milliseconds.
    pub now_ms: u64,
    /// Fresh random bytes.
    pub random: [u8; 16],
    /// Method.
    pub method: &'a str,
    /// Normalised host of the authority, without port.
    pub host: &'a str,
    /// Path as received, without query.
    pub path: &'a str,
    /// Query without its question mark; an empty one differs from none.
    pub query: Option<&'a str>,
    /// The sandbox's id.
    pub container_id: &'a str,
    /// The sandbox's template.
    pub class_name: &'a str,
    /// Id of this request.
    pub request_id: &'a str,
    /// Trace context, empty where there is none.
    pub traceparent: &'a str,
    /// The handler's name.
    pub handler: &'a str,
    /// Revision of the snapshot that decided.
    pub revision: u64,
    /// How often the handler may still suspend.
    pub suspensions_left: u32,
    /// The sandbox's labels.
    pub labels: &'a [Label<'a>],
    /// Header fields in order.
    pub fields: &'a [Field<'a>],
}

/// Why bytes are no view, or a request fits none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ViewError {
    /// The view would have this many bytes, above [`VIEW_BYTES_MAX`].
    TooLong(usize),
    /// More header fields than [`VIEW_FIELDS_MAX`].
    TooManyFields(usize),
    /// More labels than [`VIEW_LABELS_MAX`].
    TooManyLabels(usize),
    /// The space given is too small for this many bytes.
    NoSpace(usize),
    /// It ends before the span at this offset of its head does.
    Truncated(usize),
    /// Its version is not known.
    Version(u16),
    /// A text at this offset of its head is not UTF-8.
    NotText(usize),
}

impl RequestView<'_> {
    /// Bytes that the view takes.
    ///
    /// # Errors
    /// Where the request has too many fields or labels, or the view would be too long.
    pub fn encoded_len(&self) -> Result<usize, ViewError> {
        if self.fields.len() > VIEW_FIELDS_MAX {
            return Err(ViewError::TooManyFields(self.fields.len()));
        }
        if self.labels.len() > VIEW_LABELS_MAX {
            return Err(ViewError::TooManyLabels(self.labels.len()));
        }
        let entries = ENTRY_BYTES * (self.fields.len() + self.labels.len());
        let fields: usize = self.fields.iter().map(|field| field.name.len() + field.value.len()).sum();
        let labels: usize = self.labels.iter().map(|label| label.name.len() + label.value.len()).sum();
        let texts: usize = self.texts().iter().map(|(_, text)| text.map_or(0, str::len)).sum();
        let total = HEAD_BYTES + entries + fields + labels + texts;
        if total > VIEW_BYTES_MAX { Err(ViewError::TooLong(total)) } else { Ok(total) }
    }

    /// Writes the view to the front of a space and answers its length.
    ///
    /// # Errors
    /// As [`encoded_len`](Self::encoded_len), and where the space is too small.
    pub fn encode_into(&self, out: &mut [u8]) -> Result<usize, ViewError> {
        let total = self.encoded_len()?;
        let out = out.get_mut(..total).ok_or(ViewError::NoSpace(total))?;
        let labels_at = HEAD_BYTES + ENTRY_BYTES * self.fields.len();
        out[..HEAD_BYTES].fill(0);
        self.write_numbers(out, total);
        put(out, 112, &(labels_at as u32).to_le_bytes());
        put(out, 116, &(self.labels.len() as u32).to_le_bytes());
        let mut heap = Heap { at: labels_at + ENTRY_BYTES * self.labels.len(), out };
        for (at, text) in self.texts() {
            if let Some(text) = text {
                heap.place(at, text.as_bytes());
            }
        }
        for (index, field) in self.fields.iter().enumerate() {
            let entry = HEAD_BYTES + ENTRY_BYTES * index;
            let name = heap.place(entry, field.name);
            heap.out[name..name + field.name.len()].make_ascii_lowercase();
            heap.place(entry + 8, field.value);
            if let Some(known) = Known::of(field.name) {
                let id = &mut heap.out[IDS_AT + usize::from(known.id())];
                if *id == 0 {
                    *id = index as u8 + 1;
                }
            }
        }
        for (index, label) in self.labels.iter().enumerate() {
            let entry = labels_at + ENTRY_BYTES * index;
            heap.place(entry, label.name.as_bytes());
            heap.place(entry + 8, label.value.as_bytes());
        }
        Ok(total)
    }

    /// Appends the view.
    ///
    /// # Errors
    /// As [`encoded_len`](Self::encoded_len).
    pub fn encode(&self, out: &mut Vec<u8>) -> Result<usize, ViewError> {
        let start = out.len();
        out.resize(start + self.encoded_len()?, 0);
        self.encode_into(&mut out[start..])
    }

    fn write_numbers(&self, out: &mut [u8], total: usize) {
        let known = if self.body_bytes.is_some() { flags::LENGTH_KNOWN } else { 0 };
        let flags = (self.flags & !flags::LENGTH_KNOWN) | known;
        put(out, 0, &(total as u32).to_le_bytes());
        put(out, 4, &ABI_VERSION.to_le_bytes());
        put(out, 6, &flags.to_le_bytes());
        put(out, 8, &(self.fields.len() as u16).to_le_bytes());
        put(out, 10, &self.port.to_le_bytes());
        put(out, 12, &[MethodId::of(self.method).0, self.http_version]);
        put(out, 14, &self.status.to_le_bytes());
        put(out, 16, &self.body_bytes.unwrap_or(UNKNOWN_LENGTH).to_le_bytes());
        put(out, 24, &self.now_ms.to_le_bytes());
        put(out, 32, &self.random);
        put(out, 120, &self.suspensions_left.to_le_bytes());
        put(out, 124, &(HEAD_BYTES as u32).to_le_bytes());
        put(out, 200, &self.revision.to_le_bytes());
    }

    fn texts(&self) -> [(usize, Option<&str>); 9] {
        [
            (48, Some(self.method)),
            (56, Some(self.host)),
            (64, Some(self.path)),
            (72, self.query),
            (80, Some(self.container_id)),
            (88, Some(self.class_name)),
            (96, Some(self.request_id)),
            (104, Some(self.traceparent)),
            (192, Some(self.handler)),
        ]
    }
}

/// Space behind the entries, filled front to back. Its size was computed, so nothing here can run over.
struct Heap<'o> {
    out: &'o mut [u8],
    at: usize,
}

impl Heap<'_> {
    fn place(&mut self, entry: usize, bytes: &[u8]) -> usize {
        let at = self.at;
        put(self.out, at, bytes);
        put(self.out, entry, &(at as u32).to_le_bytes());
        put(self.out, entry + 4, &(bytes.len() as u32).to_le_bytes());
        self.at += bytes.len();
        at
    }
}

fn put(out: &mut [u8], at: usize, bytes: &[u8]) {
    out[at..at + bytes.len()].copy_from_slice(bytes);
}

mod reader;

pub use reader::View;

impl core::fmt::Display for ViewError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::TooLong(len) => write!(f, "a view of {len} bytes exceeds {VIEW_BYTES_MAX}"),
            Self::TooManyFields(n) => write!(f, "{n} header fields exceed {VIEW_FIELDS_MAX}"),
            Self::TooManyLabels(n) => write!(f, "{n} labels exceed {VIEW_LABELS_MAX}"),
            Self::NoSpace(len) => write!(f, "no space for a view of {len} bytes"),
            Self::Truncated(at) => write!(f, "the view's entry at {at} points outside it"),
            Self::Version(version) => write!(f, "the view's version {version} is not {ABI_VERSION}"),
            Self::NotText(at) => write!(f, "the view's text at {at} is not UTF-8"),
        }
    }
}

impl core::error::Error for ViewError {}

#[cfg(test)]
#[path = "view_tests.rs"]
mod tests;
