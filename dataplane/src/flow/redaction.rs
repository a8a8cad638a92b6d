//! Searches the answer for the credentials that its request was given, before anything else sees it.

use std::sync::Arc;

use super::edits::{AnswerEdit, BodyEdit, Instead, Interest, Passing};
use crate::{
    audit::Record,
    http::{AnswerParts, EditError, FieldName, FieldValue, Framing, OutgoingRequest, Trailers},
    inject,
    policy::{Injection, Permit},
    redact::{self, Search, Searcher},
    respond::Refusal,
    snapshot::Tables,
};

/// The search of one answer.
pub struct Redaction {
    search: Search,
}

impl Redaction {
    /// Of the answer to a request that was given these credentials, and those of its permit, where the policy says so.
    /// Changes the request so that its answer can be searched.
    ///
    /// # Errors
    /// The refusal where it could not.
    pub fn of(
        permit: &Permit,
        wanted: &[Injection],
        tables: &Tables,
        request: &mut OutgoingRequest<'_>,
    ) -> Result<Option<Self>, Refusal> {
        let mut given = permit.injections().iter().map(Arc::as_ref).chain(wanted).peekable();
        if !permit.redacts() || given.peek().is_none() {
            return Ok(None);
        }
        redact::prepare(request).map_err(|error| Refusal::from(&error).by_rule(permit.rule()))?;
        let finders: Result<Vec<_>, Refusal> = given
            .map(|injection| {
                inject::finder(injection, tables.secret(&injection.secret))
                    .map_err(|error| Refusal::from(&error).by_rule(&injection.rule))
            })
            .collect();
        Ok(Some(Self { search: Search::new(Searcher::new(finders?)) }))
    }

    /// Masks what stands in a head, and drops what a mask cannot stand in.
    fn mask(&mut self, parts: &mut AnswerParts) -> Result<(), EditError> {
        parts.edit_values(|field| self.search.value(field.value))?;
        let named: Vec<Vec<u8>> = parts
            .fields()
            .filter(|field| self.search.value(field.name).is_some())
            .map(|field| field.name.to_vec())
            .collect();
        for name in named {
            parts.remove(&FieldName::new(&name)?);
        }
        if self.search.value(parts.reason()).is_some() {
            parts.drop_reason();
        }
        Ok(())
    }
}

fn unwritable(error: EditError) -> Box<Instead> {
    Refusal::from(&error).into()
}

impl BodyEdit for Redaction {
    fn piece(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> Result<Passing, Box<Instead>> {
        match self.search.piece(bytes, out) {
            Ok(true) => Ok(Passing::Changed),
            Ok(false) => Ok(Passing::AsItIs),
            Err(error) => Err(Refusal::from(&error).into()),
        }
    }

    fn more(&mut self, out: &mut Vec<u8>) -> Result<(), Box<Instead>> {
        self.search.more(out).map_err(|error| Refusal::from(&error).into())
    }

    fn end(&mut self, out: &mut Vec<u8>) -> Result<(), Box<Instead>> {
        self.search.end(out).map_err(|error| Refusal::from(&error).into())
    }

    fn report(&mut self, record: &mut Record) {
        record.redacted = Some(self.search.count());
    }
}

impl AnswerEdit for Redaction {
    fn interim(&mut self, parts: &mut AnswerParts) -> Result<(), Box<Instead>> {
        self.mask(parts).map_err(unwritable)
    }

    fn head(&mut self, parts: &mut AnswerParts) -> Result<Interest, Box<Instead>> {
        let decoded = match parts.framing() {
            // Nothing follows that could be searched.
            Framing::None => None,
            _ => Some(
                self.search.begin(parts.status(), parts.fields()).map_err(|error| Refusal::from(&error))?,
            ),
        };
        self.mask(parts).map_err(unwritable)?;
        if decoded == Some(true) {
            parts.remove(&FieldName::own("Content-Encoding"));
            weaken(parts).map_err(unwritable)?;
        }
        Ok(match decoded {
            None => Interest::Nothing,
            Some(false) => Interest::Look,
            Some(true) => Interest::Change,
        })
    }

    fn trailers(&mut self, trailers: Trailers) -> Result<Trailers, Box<Instead>> {
        let mut masked: Vec<(String, Vec<u8>)> = Vec::new();
        for field in trailers.fields() {
            let value = self.search.value(field.value).unwrap_or_else(|| field.value.to_vec());
            if self.search.value(field.name).is_none() {
                masked.push((String::from_utf8_lossy(field.name).into_owned(), value));
            }
        }
        Ok(Trailers::from_fields(masked.iter().map(|(name, value)| (&**name, &**value))))
    }
}

/// A strong validator is of the bytes that were coded (RFC 9110 §8.8.1).
fn weaken(parts: &mut AnswerParts) -> Result<(), EditError> {
    const ETAG: &str = "etag";
    let weak = parts.field(ETAG).filter(|tag| tag.starts_with(b"\"")).map(|tag| [b"W/", tag].concat());
    if let Some(weak) = weak {
        parts.set(FieldName::own("ETag"), FieldValue::new(&weak)?);
    }
    Ok(())
}
