//! The query of a request that goes on: what was sent, and apart from it the parameters that hold credentials.

use std::{borrow::Cow, iter, mem};

use zeroize::Zeroizing;

use super::path::digit;

/// A query. What holds a credential is wiped when dropped, and nobody sees it before it is written.
#[derive(Clone)]
pub(super) struct Query<'a> {
    sent: Option<Cow<'a, str>>,
    added: Vec<Parameter>,
}

/// A parameter of ours.
#[derive(Clone)]
struct Parameter {
    name: Box<str>,
    /// Name and value, escaped.
    written: Zeroizing<Vec<u8>>,
}

impl<'a> Query<'a> {
    pub(super) fn new(sent: Option<&'a str>) -> Self {
        Self { sent: sent.map(Cow::Borrowed), added: Vec::new() }
    }

    /// What was sent, without parameters of ours and those that they replaced.
    pub(super) fn sent(&self) -> Option<&str> {
        self.sent.as_deref()
    }

    /// Sends another one.
    pub(super) fn replace_sent(&mut self, sent: Option<&str>) {
        self.sent = sent.map(|sent| Cow::Owned(sent.to_owned()));
    }

    /// Gives the parameter this value in place of every one of that name. It stands last, where those servers look
    /// that take the last of several.
    pub(super) fn set(&mut self, name: &str, value: &[u8]) {
        self.sent = self.sent.take().and_then(|sent| without(&sent, name)).map(Cow::Owned);
        self.added.retain(|added| !added.name.eq_ignore_ascii_case(name));
        // Sized once: a growing buffer would leave copies of the value behind unwiped.
        let length = escaped_length(name.as_bytes()) + 1 + escaped_length(value);
        let mut written = Zeroizing::new(Vec::with_capacity(length));
        escape(name.as_bytes(), &mut written);
        written.push(b'=');
        escape(value, &mut written);
        self.added.push(Parameter { name: name.into(), written });
    }

    /// Bytes of all of it with its mark.
    pub(super) fn length(&self) -> usize {
        self.parts().map(|(_, part)| 1 + part.len()).sum()
    }

    pub(super) fn write_to(&self, out: &mut Vec<u8>) {
        for (mark, part) in self.parts() {
            out.push(mark);
            out.extend_from_slice(part);
        }
    }

    /// What stands behind each mark. A query that was sent empty stays where nothing is added.
    fn parts(&self) -> impl Iterator<Item = (u8, &[u8])> {
        let sent = self.sent().filter(|sent| !sent.is_empty() || self.added.is_empty());
        let parts =
            sent.map(str::as_bytes).into_iter().chain(self.added.iter().map(|added| &added.written[..]));
        iter::once(b'?').chain(iter::repeat(b'&')).zip(parts)
    }
}

/// A query without the parameters of a name, all else byte for byte; nothing where nothing is left. Parameters end at
/// `&`, and for old servers at `;` too: both readings are searched.
fn without(query: &str, name: &str) -> Option<String> {
    let mut kept = String::with_capacity(query.len());
    let mut first = true;
    for piece in query.split('&').filter(|piece| !is_named(piece, name)) {
        if !mem::take(&mut first) {
            kept.push('&');
        }
        let mut first_part = true;
        for part in piece.split(';').filter(|part| !is_named(part, name)) {
            if !mem::take(&mut first_part) {
                kept.push(';');
            }
            kept.push_str(part);
        }
    }
    (!first).then_some(kept)
}

/// Whether a parameter may be of that name to some server: decoded, `+` being a space or itself, letters of either
/// case the same.
fn is_named(parameter: &str, name: &str) -> bool {
    let written = parameter.split_once('=').map_or(parameter, |(written, _)| written);
    [b' ', b'+'].into_iter().any(|plus| {
        let decoded = decoded(written.as_bytes(), plus).map(|byte| byte.to_ascii_lowercase());
        decoded.eq(name.bytes().map(|byte| byte.to_ascii_lowercase()))
    })
}

/// Bytes with their escapes undone (RFC 3986 §2.1); what is no escape stays.
fn decoded(mut rest: &[u8], plus: u8) -> impl Iterator<Item = u8> {
    iter::from_fn(move || {
        let (first, tail) = rest.split_first()?;
        if *first == b'%'
            && let [high, low, after @ ..] = tail
            && let (Some(high), Some(low)) = (digit(*high), digit(*low))
        {
            rest = after;
            return Some(high << 4 | low);
        }
        rest = tail;
        Some(if *first == b'+' { plus } else { *first })
    })
}

/// RFC 3986 §2.3: these mean the same escaped or not; everything else could be read as something else.
fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

fn escaped_length(bytes: &[u8]) -> usize {
    bytes.iter().map(|byte| if is_unreserved(*byte) { 1 } else { 3 }).sum()
}

fn escape(bytes: &[u8], out: &mut Vec<u8>) {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    for byte in bytes {
        if is_unreserved(*byte) {
            out.push(*byte);
        } else {
            out.extend([b'%', DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(query: &Query<'_>) -> String {
        let mut out = Vec::new();
        query.write_to(&mut out);
        assert_eq!(out.len(), query.length());
        String::from_utf8(out).unwrap()
    }

    fn with(sent: Option<&str>, name: &str) -> String {
        let mut query = Query::new(sent);
        query.set(name, b"v");
        written(&query)
    }

    #[test]
    fn every_spelling_of_the_name_goes_and_all_else_stays_byte_for_byte() {
        for (sent, expected) in [
            (None, "?api=v"),
            (Some(""), "?api=v"),
            (Some("api"), "?api=v"),
            (Some("api=own"), "?api=v"),
            (Some("a=1"), "?a=1&api=v"),
            (Some("api=1&a=%7e+&b&&=c&api=2&api"), "?a=%7e+&b&&=c&api=v"),
            (Some("%61pi=1&%41P%49=2&API=3&a=1"), "?a=1&api=v"),
            (Some("&a=1&"), "?&a=1&&api=v"),
            // Other names, however near, and broken escapes.
            (
                Some("apix=1&xapi=2&a=api&api%5B%5D=3&%2561pi=4"),
                "?apix=1&xapi=2&a=api&api%5B%5D=3&%2561pi=4&api=v",
            ),
            (Some("%6=1&%=2&api%=3&%zzapi=4"), "?%6=1&%=2&api%=3&%zzapi=4&api=v"),
            // What `;` divides: to some a part of the value before it, to others a parameter.
            (Some("a=1;api=own;b=2&c=3"), "?a=1;b=2&c=3&api=v"),
            (Some("api=own;b=2&c=3"), "?c=3&api=v"),
            (Some("api;b=2&c=3"), "?b=2&c=3&api=v"),
        ] {
            assert_eq!(with(sent, "api"), expected, "{sent:?}");
        }
    }

    #[test]
    fn a_name_with_a_space_or_a_plus_is_found_however_it_is_written() {
        assert_eq!(with(Some("a+b=1&a%20b=2&a%2Bb=3"), "a b"), "?a%2Bb=3&a%20b=v");
        assert_eq!(with(Some("a+b=1&a%20b=2&a%2bb=3"), "a+b"), "?a%20b=2&a%2Bb=v");
    }

    #[test]
    fn value_is_escaped_so_that_it_ends_where_it_ends() {
        let mut query = Query::new(Some("a=1"));
        query.set("k", "x&b=2#\u{e4} +%/?;\"".as_bytes());
        assert_eq!(written(&query), "?a=1&k=x%26b%3D2%23%C3%A4%20%2B%25%2F%3F%3B%22");
        assert!(query.added.iter().all(|added| added.written.len() == added.written.capacity()));
    }

    #[test]
    fn later_credential_of_a_name_replaces_the_earlier_and_none_is_shown() {
        let mut query = Query::new(Some("a=1&k=own"));
        for (name, value) in [("k", "one"), ("l", "two"), ("K", "three")] {
            query.set(name, value.as_bytes());
        }
        assert_eq!(written(&query), "?a=1&l=two&K=three");
        assert_eq!(query.sent(), Some("a=1"));
        query.replace_sent(None);
        assert_eq!(written(&query), "?l=two&K=three");
    }

    #[test]
    fn without_a_credential_the_query_is_as_it_was_sent() {
        for (sent, expected) in [(None, ""), (Some(""), "?"), (Some("a&&b=;"), "?a&&b=;")] {
            assert_eq!(written(&Query::new(sent)), expected);
        }
    }
}
