//! Which codings hide an answer's body, and which are asked for.

use super::answer::Refused;
use crate::{http::Field, limits::REDACT_CODINGS_MAX};

/// A coding that can be undone (RFC 9110 §8.4.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Coding {
    /// RFC 1952.
    Gzip,
    /// RFC 1950, or bare RFC 1951 from servers that misread the name.
    Deflate,
    /// RFC 7932.
    Brotli,
    /// RFC 8878.
    Zstd,
}

impl Coding {
    fn named(name: &str) -> Option<Self> {
        Some(match name {
            "gzip" | "x-gzip" => Self::Gzip,
            "deflate" => Self::Deflate,
            "br" => Self::Brotli,
            "zstd" => Self::Zstd,
            _ => return None,
        })
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Gzip => "gzip",
            Self::Deflate => "deflate",
            Self::Brotli => "br",
            Self::Zstd => "zstd",
        }
    }
}

/// The codings of an answer with these fields, in the order in which they were applied.
///
/// # Errors
/// [`Refused::Coding`] for one that cannot be undone, [`Refused::Codings`] for too many.
pub(super) fn of<'a>(fields: impl Iterator<Item = Field<'a>>) -> Result<Vec<Coding>, Refused> {
    let mut codings = Vec::new();
    for field in fields {
        // Messages inside the body, each coded on its own, cannot be searched.
        let of_messages = field.is("grpc-encoding") || field.is("connect-content-encoding");
        if !of_messages && !field.is("content-encoding") {
            continue;
        }
        for name in field.value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii) {
            let name = String::from_utf8_lossy(name).to_ascii_lowercase();
            if matches!(&*name, "" | "identity") {
                continue;
            }
            match Coding::named(&name) {
                Some(coding) if !of_messages => codings.push(coding),
                _ => return Err(Refused::Coding(name)),
            }
        }
    }
    if codings.len() > REDACT_CODINGS_MAX { Err(Refused::Codings) } else { Ok(codings) }
}

/// What is asked for where this was to be asked for: no coding with a large window, and none that cannot be undone.
/// Weights stay.
pub(super) fn narrowed(accepted: &str) -> String {
    let kept: Vec<&str> = accepted
        .split(',')
        .map(str::trim)
        .filter(|item| {
            let name = item.split(';').next().unwrap_or_default().trim_end();
            ["gzip", "x-gzip", "deflate", "identity"].iter().any(|known| name.eq_ignore_ascii_case(known))
        })
        .collect();
    if kept.is_empty() { "identity".into() } else { kept.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::{Parsed, parse_response};

    fn codings(fields: &str) -> Result<Vec<Coding>, Refused> {
        let text = format!("HTTP/1.1 200 OK\r\n{fields}Content-Length: 1\r\n\r\n");
        let Ok(Parsed::Complete { head, .. }) = parse_response(text.as_bytes(), "GET") else {
            panic!("{text}")
        };
        of(head.fields())
    }

    #[test]
    fn codings_are_read_in_their_order_from_all_fields() {
        assert_eq!(codings(""), Ok(vec![]));
        assert_eq!(codings("Content-Encoding: identity\r\nGrpc-Encoding: identity\r\n"), Ok(vec![]));
        assert_eq!(
            codings("Content-Encoding: X-GZip, \r\ncontent-encoding: br\r\n"),
            Ok(vec![Coding::Gzip, Coding::Brotli])
        );
    }

    #[test]
    fn what_cannot_be_undone_is_refused_by_its_name() {
        assert_eq!(codings("Content-Encoding: gzip, compress\r\n"), Err(Refused::Coding("compress".into())));
        assert_eq!(codings("Grpc-Encoding: gzip\r\n"), Err(Refused::Coding("gzip".into())));
        assert_eq!(codings("Content-Encoding: gzip, gzip, br\r\n"), Err(Refused::Codings));
    }

    #[test]
    fn only_what_is_cheap_to_undo_is_asked_for() {
        for (asked, sent) in [
            ("gzip, deflate, br, zstd", "gzip, deflate"),
            ("br;q=1.0, GZIP ;q=0.5, *;q=0.1", "GZIP ;q=0.5"),
            ("identity;q=0, x-gzip", "identity;q=0, x-gzip"),
            ("zstd, dcb", "identity"),
            ("*", "identity"),
            ("", "identity"),
        ] {
            assert_eq!(narrowed(asked), sent, "{asked}");
        }
    }
}
