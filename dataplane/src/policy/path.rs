//! The forms in which rules see a path: as sent, decoded, and as a lax upstream might read it.
//!
//! What allows or injects must hold in the raw and the decoded form, what denies in any form: an upstream may resolve
//! `/a/..%2fadmin` or `//admin`, and nobody knows which one does.

use std::borrow::Cow;

use control_wire::pattern::Glob;

/// How often a lax upstream might decode. More costs work per request; fewer lets `%252e` by.
const DECODES_MAX: usize = 3;

/// One path in its forms; plain paths, nearly all, are not copied.
pub(super) struct PathForms<'a> {
    raw: &'a [u8],
    /// Decoded once, dot segments resolved. `None`: equal to the raw form.
    decoded: Option<Vec<u8>>,
    /// Decoded until nothing changes, backslashes and runs of slashes as one slash. `None`: equal to the raw form.
    lax: Option<Vec<u8>>,
}

impl<'a> PathForms<'a> {
    /// Makes the forms of a path without its query.
    pub(super) fn new(raw: &'a [u8]) -> Self {
        if is_plain(raw) {
            return Self { raw, decoded: None, lax: None };
        }
        let decoded = without_dots(&decode(raw));
        let mut lax = raw.to_vec();
        for _ in 0..DECODES_MAX {
            lax = decode(&lax).into_owned();
        }
        for byte in &mut lax {
            if *byte == b'\\' {
                *byte = b'/';
            }
        }
        lax.dedup_by(|next, before| *next == b'/' && *before == b'/');
        Self { raw, decoded: Some(decoded), lax: Some(without_dots(&lax)) }
    }

    /// The pattern holds in the raw and in the decoded form.
    pub(super) fn surely(&self, glob: &Glob) -> bool {
        glob.matches(self.raw) && self.decoded.as_deref().is_none_or(|decoded| glob.matches(decoded))
    }

    /// The pattern holds in some form.
    pub(super) fn possibly(&self, glob: &Glob) -> bool {
        let others = [self.decoded.as_deref(), self.lax.as_deref()];
        glob.matches(self.raw) || others.into_iter().flatten().any(|form| glob.matches(form))
    }
}

/// Nothing to decode or resolve.
fn is_plain(path: &[u8]) -> bool {
    let odd = |pair: &[u8]| pair == b"//" || pair == b"/.";
    !path.iter().any(|byte| matches!(byte, b'%' | b'\\')) && !path.windows(2).any(odd)
}

/// Percent-decoding, once (RFC 3986 §2.1). What is no escape stays.
fn decode(path: &[u8]) -> Cow<'_, [u8]> {
    if !path.contains(&b'%') {
        return Cow::Borrowed(path);
    }
    let mut out = Vec::with_capacity(path.len());
    let mut rest = path;
    while let Some((first, tail)) = rest.split_first() {
        let escaped = match tail {
            [high, low, ..] if *first == b'%' => nibble(*high).zip(nibble(*low)),
            _ => None,
        };
        if let Some((high, low)) = escaped {
            out.push(high << 4 | low);
            rest = &tail[2..];
        } else {
            out.push(*first);
            rest = tail;
        }
    }
    Cow::Owned(out)
}

fn nibble(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok())
}

/// RFC 3986 §5.2.4, for paths that begin with `/`.
fn without_dots(path: &[u8]) -> Vec<u8> {
    let mut out: Vec<&[u8]> = Vec::new();
    let mut segments = path.split(|byte| *byte == b'/').peekable();
    while let Some(segment) = segments.next() {
        let last = segments.peek().is_none();
        match segment {
            b"." | b".." => {
                // The empty segment before the first slash is never taken away.
                if segment == b".." && out.len() > 1 {
                    out.pop();
                }
                if last {
                    out.push(b"");
                }
            }
            other => out.push(other),
        }
    }
    out.join(&b'/')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn forms(path: &str) -> PathForms<'_> {
        PathForms::new(path.as_bytes())
    }

    #[test]
    fn a_denied_path_is_found_however_it_is_written() {
        let admin = Glob::new("/admin*");
        for path in [
            "/admin",
            "/admin/x",
            "/%61dmin",
            "/a/../admin",
            "/a/%2e%2e/admin",
            "/a/..%2fadmin",
            "/./admin",
            "//admin",
            "/%2561dmin",
            "/a/%252e%252e/admin",
            "/a\\..\\admin",
            "/..//admin",
        ] {
            assert!(forms(path).possibly(&admin), "{path}");
        }
        for path in ["/x/admin", "/adm%20in", "/", "/admi"] {
            assert!(!forms(path).possibly(&admin), "{path}");
        }
    }

    #[test]
    fn an_allowed_path_must_hold_raw_and_decoded() {
        let public = Glob::new("/public/*");
        assert!(forms("/public/a").surely(&public));
        assert!(forms("/public/a%20b").surely(&public));
        for path in ["/public/../secret", "/public/%2e%2e/secret", "/%70ublic/a", "/x/../public/a"] {
            assert!(!forms(path).surely(&public), "{path}");
        }
    }

    #[test]
    fn broken_escapes_and_ends_are_kept() {
        assert_eq!(&*decode(b"/%zz%4"), b"/%zz%4");
        assert_eq!(without_dots(b"/a/.."), b"/");
        assert_eq!(without_dots(b"/a/."), b"/a/");
        assert_eq!(without_dots(b"/../../a"), b"/a");
        assert_eq!(without_dots(b"*"), b"*");
    }
}
