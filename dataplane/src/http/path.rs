//! The two forms of a path that rules judge: as it was sent, and decoded without dots. An upstream may read either, so
//! *an allow needs both, a deny needs one*.

use std::borrow::Cow;

/// A path in both forms.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathForms<'a> {
    raw: &'a str,
    plain: Cow<'a, [u8]>,
}

impl<'a> PathForms<'a> {
    /// Both forms of a path without its query.
    pub fn new(raw: &'a str) -> Self {
        PathForms { raw, plain: plain(raw.as_bytes()) }
    }

    /// As it was sent, and as it goes on.
    pub fn raw(&self) -> &'a str {
        self.raw
    }

    /// Decoded until no escape is left, `//` and `/./` joined, `/../` resolved without leaving the root. Not always
    /// UTF-8.
    pub fn plain(&self) -> &[u8] {
        &self.plain
    }

    /// Whether an allowing rule matches: both forms do.
    pub fn allowed_by(&self, matches: impl Fn(&[u8]) -> bool) -> bool {
        matches(self.raw.as_bytes()) && matches(&self.plain)
    }

    /// Whether a denying rule matches: one form does.
    pub fn denied_by(&self, matches: impl Fn(&[u8]) -> bool) -> bool {
        matches(self.raw.as_bytes()) || matches(&self.plain)
    }
}

/// How often escapes are undone. Some chains of servers decode twice; whoever escapes deeper gets a form in which the
/// rest stands as text.
const DECODE_ROUNDS: usize = 3;

fn plain(raw: &[u8]) -> Cow<'_, [u8]> {
    let unescaped = !raw.contains(&b'%');
    // `/.` starts each dot segment.
    let dotless = !raw.windows(2).any(|pair| matches!(pair, b"/." | b"//"));
    if unescaped && dotless && !raw.contains(&b'\\') {
        return Cow::Borrowed(raw);
    }
    let mut path = raw.to_vec();
    for _ in 0..DECODE_ROUNDS {
        let Some(decoded) = decode(&path) else { break };
        path = decoded;
    }
    Cow::Owned(without_dots(&path))
}

/// The path with its escapes undone once; nothing where there is none.
fn decode(path: &[u8]) -> Option<Vec<u8>> {
    let (mut out, mut rest, mut found) = (Vec::with_capacity(path.len()), path, false);
    while let [first, tail @ ..] = rest {
        if let (b'%', [high, low, after @ ..]) = (first, tail)
            && let (Some(high), Some(low)) = (digit(*high), digit(*low))
        {
            out.push(high << 4 | low);
            rest = after;
            found = true;
        } else {
            out.push(*first);
            rest = tail;
        }
    }
    found.then_some(out)
}

fn digit(byte: u8) -> Option<u8> {
    char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok())
}

/// RFC 3986 §5.2.4, with `\` read as `/`, empty segments joined and path parameters of dot segments (`..;x`) ignored,
/// as servers do that an attacker would pick.
fn without_dots(path: &[u8]) -> Vec<u8> {
    let mut kept: Vec<&[u8]> = Vec::new();
    let mut ends_in_slash = false;
    for segment in path.split(|byte| matches!(byte, b'/' | b'\\')) {
        let name = segment.split(|byte| *byte == b';').next().unwrap_or(segment);
        ends_in_slash = true;
        match name {
            b"" if segment.is_empty() => {}
            b"." => {}
            b".." => {
                kept.pop();
            }
            _ => {
                kept.push(segment);
                ends_in_slash = false;
            }
        }
    }
    let mut out = Vec::with_capacity(path.len());
    for segment in kept {
        out.push(b'/');
        out.extend_from_slice(segment);
    }
    if ends_in_slash || out.is_empty() {
        out.push(b'/');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain_text(path: &str) -> String {
        String::from_utf8_lossy(PathForms::new(path).plain()).into_owned()
    }

    #[test]
    fn plain_form_shows_what_an_upstream_might_read() {
        for (raw, expected) in [
            ("/a/b", "/a/b"),
            ("/a/../b", "/b"),
            ("/a/%2e%2E/b", "/b"),
            ("/a/%252e%252e/b", "/b"),
            ("/a%2f..%2fb", "/b"),
            ("/a/..;x=1/b", "/b"),
            ("/a/..%5cb", "/b"),
            ("/../../b", "/b"),
            ("//a///b", "/a/b"),
            ("/a/.", "/a/"),
            ("/a/..", "/"),
            ("/a/", "/a/"),
            ("/", "/"),
            ("/%61dmin", "/admin"),
            ("/a/...", "/a/..."),
            ("*", "*"),
        ] {
            assert_eq!(plain_text(raw), expected, "{raw}");
        }
    }

    #[test]
    fn allow_needs_both_forms_and_deny_needs_one() {
        let path = PathForms::new("/public/%2e%2e/admin");
        assert!(!path.allowed_by(|form| form.starts_with(b"/public/")));
        assert!(path.denied_by(|form| form.starts_with(b"/admin")));
        assert!(path.denied_by(|form| form.starts_with(b"/public/")));
    }
}
