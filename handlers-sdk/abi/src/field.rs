//! Header fields: which a guest may write, and the well-known ones that a view finds by number.

use crate::limits::{FIELD_NAME_BYTES_MAX, FIELD_VALUE_BYTES_MAX};

macro_rules! known {
    ($($(#[$doc:meta])* $variant:ident = $id:literal, $name:literal;)*) => {
        /// A header field with a number of its own. Numbers are frozen; new ones are appended.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u8)]
        #[non_exhaustive]
        pub enum Known { $($(#[$doc])* $variant = $id),* }

        impl Known {
            /// Every well-known field, by number.
            pub const ALL: &'static [Known] = &[$(Known::$variant),*];

            /// Its name in lower case.
            pub const fn name(self) -> &'static str {
                match self { $(Known::$variant => $name),* }
            }
        }
    };
}

known! {
    /// `host`
    Host = 0, "host";
    /// `user-agent`
    UserAgent = 1, "user-agent";
    /// `accept`
    Accept = 2, "accept";
    /// `accept-encoding`
    AcceptEncoding = 3, "accept-encoding";
    /// `content-type`
    ContentType = 4, "content-type";
    /// `content-length`
    ContentLength = 5, "content-length";
    /// `authorization`
    Authorization = 6, "authorization";
    /// `x-request-id`
    XRequestId = 7, "x-request-id";
    /// `cookie`
    Cookie = 8, "cookie";
    /// `origin`
    Origin = 9, "origin";
    /// `referer`
    Referer = 10, "referer";
    /// `range`
    Range = 11, "range";
    /// `if-none-match`
    IfNoneMatch = 12, "if-none-match";
    /// `if-match`
    IfMatch = 13, "if-match";
    /// `transfer-encoding`
    TransferEncoding = 14, "transfer-encoding";
    /// `connection`
    Connection = 15, "connection";
    /// `upgrade`
    Upgrade = 16, "upgrade";
    /// `proxy-authorization`
    ProxyAuthorization = 17, "proxy-authorization";
    /// `x-api-key`
    XApiKey = 18, "x-api-key";
    /// `traceparent`
    Traceparent = 19, "traceparent";
}

/// Bytes of the longest well-known name.
const NAME_BYTES_MAX: usize = 19;

/// Well-known fields by the length of their names: at most three share one, so most names cost no comparison.
const BY_LENGTH: [[Option<Known>; 3]; NAME_BYTES_MAX + 1] = {
    let mut table = [[None; 3]; NAME_BYTES_MAX + 1];
    let mut at = 0;
    while at < Known::ALL.len() {
        let known = Known::ALL[at];
        let row = &mut table[known.name().len()];
        let mut place = 0;
        while row[place].is_some() {
            place += 1;
        }
        row[place] = Some(known);
        at += 1;
    }
    table
};

impl Known {
    /// The well-known field of a name, whatever its case.
    pub fn of(name: &[u8]) -> Option<Self> {
        let mut candidates = BY_LENGTH.get(name.len())?.iter().flatten().copied();
        candidates.find(|known| known.name().as_bytes().eq_ignore_ascii_case(name))
    }

    /// Its number.
    pub const fn id(self) -> u8 {
        self as u8
    }
}

/// Whether bytes are a field name (RFC 9110 §5.1: a token) within its bound.
pub fn is_name(name: &[u8]) -> bool {
    !name.is_empty() && name.len() <= FIELD_NAME_BYTES_MAX && name.iter().all(|&b| is_token_byte(b))
}

/// Whether bytes are a field value (RFC 9110 §5.5: no control bytes, no white space at the ends) within its bound.
pub fn is_value(value: &[u8]) -> bool {
    let space = |b: Option<&u8>| matches!(b, Some(b' ' | b'\t'));
    value.len() <= FIELD_VALUE_BYTES_MAX
        && !space(value.first())
        && !space(value.last())
        && value.iter().all(|&b| is_value_byte(b))
}

/// Whether a byte may stand inside a field value. CR, LF and NUL may not.
pub fn is_value_byte(byte: u8) -> bool {
    byte == b'\t' || (byte >= b' ' && byte != 0x7f)
}

/// Whether a byte may stand in a token (RFC 9110 §5.6.2).
pub fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// Fields that belong to the connection or frame the message (RFC 9110 §7.6.1, RFC 9112 §6): the gateway's alone.
pub const RESERVED: &[&str] = &[
    "connection",
    "content-length",
    "expect",
    "host",
    "http2-settings",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// Whether a guest may not write a field. `_` counts as `-`: many servers fold the two.
pub fn is_reserved(name: &[u8]) -> bool {
    RESERVED.iter().any(|reserved| same_name(reserved.as_bytes(), name))
}

/// Whether two names are one field to a server that ignores case and folds `_` into `-`.
pub fn same_name(a: &[u8], b: &[u8]) -> bool {
    let fold = |byte: &u8| if *byte == b'_' { b'-' } else { byte.to_ascii_lowercase() };
    a.len() == b.len() && a.iter().map(fold).eq(b.iter().map(fold))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn well_known_numbers_are_frozen() {
        let names: alloc::vec::Vec<&str> = Known::ALL.iter().map(|known| known.name()).collect();
        assert_eq!(
            names.join(","),
            "host,user-agent,accept,accept-encoding,content-type,content-length,authorization,x-request-id,cookie,\
             origin,referer,range,if-none-match,if-match,transfer-encoding,connection,upgrade,proxy-authorization,\
             x-api-key,traceparent"
        );
        assert!(Known::ALL.iter().enumerate().all(|(at, known)| usize::from(known.id()) == at));
    }

    #[test]
    fn well_known_fields_are_found_in_any_case() {
        assert_eq!(Known::of(b"Authorization"), Some(Known::Authorization));
        assert_eq!(Known::of(b"X-API-KEY"), Some(Known::XApiKey));
        assert!(Known::ALL.iter().all(|known| Known::of(known.name().as_bytes()) == Some(*known)));
        assert_eq!(Known::of(b"x-unknown"), None);
        assert_eq!(Known::of(b""), None);
    }

    #[test]
    fn line_breaks_and_control_bytes_are_no_value() {
        for bad in [&b"a\r\nb"[..], b"a\nb", b"a\0b", b"a\x7f", b" a", b"a\t"] {
            assert!(!is_value(bad), "{bad:?}");
        }
        assert!(is_value(b"Bearer abc\tdef \xe9x"));
        assert!(is_value(b""));
    }

    #[test]
    fn framing_fields_are_reserved_in_every_spelling() {
        for name in ["Transfer-Encoding", "transfer_encoding", "CONTENT_LENGTH", "Host", "te"] {
            assert!(is_reserved(name.as_bytes()), "{name}");
        }
        assert!(!is_reserved(b"authorization"));
    }
}
