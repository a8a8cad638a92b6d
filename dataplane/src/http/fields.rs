//! The fields of a head that goes on: those of one hop left out, edits applied, written once.

use std::{borrow::Cow, fmt};

use super::{
    edit::{FieldValue, is_hop_by_hop},
    head::{Field, Framing},
    parse::{reads, same_field, trim},
};

/// A field's value: bytes of the head that arrived, or written by an edit.
#[derive(Clone)]
pub(super) enum Value<'a> {
    /// As it was sent.
    Sent(&'a [u8]),
    /// By an edit or by us.
    Written(FieldValue),
}

impl Value<'_> {
    /// Its bytes.
    pub(super) fn bytes(&self) -> &[u8] {
        match self {
            Value::Sent(bytes) => bytes,
            Value::Written(value) => value.bytes(),
        }
    }

    /// A text of our own.
    pub(super) fn text(text: &str) -> Self {
        Value::Written(FieldValue::own(text))
    }
}

/// Room for fields that edits add. More: memory that most heads do not use. Fewer: a second allocation for those that
/// are given a credential.
const ADDED_FIELDS: usize = 2;

/// The fields of a head that goes on, in their order.
#[derive(Clone)]
pub(super) struct Fields<'a>(pub(super) Vec<(Cow<'a, [u8]>, Value<'a>)>);

impl<'a> Fields<'a> {
    /// Everything but the fields of one hop, those that `Connection` names included.
    pub(super) fn end_to_end(fields: impl Iterator<Item = Field<'a>> + Clone) -> Self {
        let connection = fields.clone().filter(|field| field.is("connection"));
        let named = connection.flat_map(|field| field.value.split(|byte| *byte == b',').map(trim));
        // Nearly every head names no field there, and then none is compared with what it names.
        let names_fields = named.clone().any(|token| !says_only_when_to_close(token));
        let kept = fields.clone().filter(|field| {
            // Framing and host are rewritten in place, so naming them in `Connection` removes nothing.
            let rewritten = field.is("host") || field.is("content-length") || field.is("transfer-encoding");
            let ends_here = || {
                is_hop_by_hop(field.name)
                    || (names_fields && named.clone().any(|token| same_field(token, field.name)))
            };
            rewritten || !ends_here()
        });
        let mut found = Vec::with_capacity(fields.size_hint().0 + ADDED_FIELDS);
        found.extend(kept.map(|field| (Cow::Borrowed(field.name), Value::Sent(field.value))));
        Fields(found)
    }

    /// The first value of that name, where it is as it was sent.
    pub(super) fn sent(&self, name: &[u8]) -> Option<&'a [u8]> {
        self.0.iter().find_map(|(given, value)| match value {
            Value::Sent(bytes) if given.eq_ignore_ascii_case(name) => Some(*bytes),
            _ => None,
        })
    }

    /// Removes every field of that name, `_` and `-` being the same.
    pub(super) fn remove(&mut self, name: &[u8]) {
        self.0.retain(|(sent, _)| !same_field(sent, name));
    }

    /// The first field of that name keeps its place and is given the value; its other variants go.
    pub(super) fn replace(&mut self, name: Cow<'a, [u8]>, value: Value<'a>) {
        let place = self.0.iter().position(|(sent, _)| same_field(sent, &name));
        let Some(place) = place else { return self.0.push((name, value)) };
        let mut at = 0;
        self.0.retain(|(sent, _)| {
            at += 1;
            at <= place + 1 || !same_field(sent, &name)
        });
        self.0[place] = (name, value);
    }

    /// Gives the field this value, and leaves it as it was sent where it says the same already.
    pub(super) fn say(&mut self, name: &'static str, value: fmt::Arguments<'_>) {
        let mut same = self.0.iter().filter(|(sent, _)| same_field(sent, name.as_bytes()));
        let as_sent = match (same.next(), same.next()) {
            (Some((sent, given)), None) => {
                sent.eq_ignore_ascii_case(name.as_bytes()) && reads(value, given.bytes())
            }
            _ => false,
        };
        if !as_sent {
            self.replace(Cow::Borrowed(name.as_bytes()), Value::text(&value.to_string()));
        }
    }

    /// Says how the body is framed.
    pub(super) fn frame(&mut self, framing: Framing) {
        match framing {
            Framing::Length(length) => self.say("Content-Length", format_args!("{length}")),
            _ => self.remove(b"content-length"),
        }
        match framing {
            Framing::Chunked => self.say("Transfer-Encoding", format_args!("chunked")),
            _ => self.remove(b"transfer-encoding"),
        }
    }

    /// All of them.
    pub(super) fn iter(&self) -> impl Iterator<Item = Field<'_>> {
        self.0.iter().map(|(name, value)| Field { name, value: value.bytes() })
    }

    /// Bytes of all of them as they are written.
    pub(super) fn length(&self) -> usize {
        self.iter().map(|field| field.name.len() + field.value.len() + 4).sum()
    }

    /// Appends them as HTTP/1.1 writes them.
    pub(super) fn write_to(&self, out: &mut Vec<u8>) {
        for field in self.iter() {
            out.extend_from_slice(field.name);
            out.extend_from_slice(b": ");
            out.extend_from_slice(field.value);
            out.extend_from_slice(b"\r\n");
        }
    }
}

/// Tokens of `Connection` that name no field.
fn says_only_when_to_close(token: &[u8]) -> bool {
    token.eq_ignore_ascii_case(b"keep-alive") || token.eq_ignore_ascii_case(b"close") || token.is_empty()
}
