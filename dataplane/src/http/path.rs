//! The forms in which rules judge a path: as it was sent, and every way in which an upstream may read it. Nobody knows
//! which one does, so *an allow needs all of them, a deny needs one*.

/// How often escapes are undone. More: more work per odd request. Fewer: `%252e` gets by where a chain of servers
/// decodes twice.
const DECODE_ROUNDS: usize = 3;

/// A path in its forms; a plain path, nearly every one, is not copied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathForms<'a> {
    raw: &'a [u8],
    /// What differs from the raw form, each once. The last one is decoded and resolved the furthest.
    readings: Vec<Vec<u8>>,
}

impl<'a> PathForms<'a> {
    /// All forms of a path without its query.
    pub fn new(raw: &'a [u8]) -> Self {
        let mut forms = Self { raw, readings: Vec::new() };
        if is_plain(raw) {
            return forms;
        }
        let mut path = raw.to_vec();
        for round in 0..=DECODE_ROUNDS {
            // Each round counts for itself: what is resolved after the third decoding hides a segment from an
            // upstream that decodes once, and the other way round.
            let joined = joined(&path);
            let decoded = if round < DECODE_ROUNDS { decode(&path) } else { None };
            let resolved = [without_dots(&path), without_dots(&joined), without_dots_lax(&path)];
            for form in [path, joined].into_iter().chain(resolved) {
                forms.add(form);
            }
            let Some(next) = decoded else { break };
            path = next;
        }
        forms
    }

    /// As it was sent, and as it goes on.
    pub fn raw(&self) -> &'a [u8] {
        self.raw
    }

    /// Whether an allowing rule matches: every form does.
    pub fn allowed_by(&self, matches: impl Fn(&[u8]) -> bool) -> bool {
        matches(self.raw) && self.readings.iter().all(|form| matches(form))
    }

    /// Whether a denying rule matches: one form does.
    pub fn denied_by(&self, matches: impl Fn(&[u8]) -> bool) -> bool {
        matches(self.raw) || self.readings.iter().any(|form| matches(form))
    }

    fn add(&mut self, form: Vec<u8>) {
        if form != self.raw && !self.readings.contains(&form) {
            self.readings.push(form);
        }
    }
}

/// Nothing to decode or resolve; `/.` starts each dot segment.
fn is_plain(path: &[u8]) -> bool {
    let odd = |pair: &[u8]| pair == b"//" || pair == b"/.";
    !path.iter().any(|byte| matches!(byte, b'%' | b'\\')) && !path.windows(2).any(odd)
}

/// The path with its escapes undone once (RFC 3986 §2.1); nothing where there is none. What is no escape stays.
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

/// The value of a hexadecimal digit.
pub(super) fn digit(byte: u8) -> Option<u8> {
    char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok())
}

/// `\` as `/`, and a run of slashes as one.
fn joined(path: &[u8]) -> Vec<u8> {
    let mut out: Vec<u8> = path.iter().map(|byte| if *byte == b'\\' { b'/' } else { *byte }).collect();
    out.dedup_by(|next, before| *next == b'/' && *before == b'/');
    out
}

/// RFC 3986 §5.2.4, for paths that begin with `/`; empty segments count.
fn without_dots(path: &[u8]) -> Vec<u8> {
    let mut out: Vec<&[u8]> = Vec::new();
    let mut segments = path.split(|byte| *byte == b'/').peekable();
    while let Some(segment) = segments.next() {
        match segment {
            b"." | b".." => {
                // The empty segment before the first slash is never taken away.
                if segment == b".." && out.len() > 1 {
                    out.pop();
                }
                if segments.peek().is_none() {
                    out.push(b"");
                }
            }
            other => out.push(other),
        }
    }
    out.join(&b'/')
}

/// As servers resolve that an attacker would pick: `\` is `/`, empty segments are joined, and path parameters of dot
/// segments (`..;x`) are ignored.
fn without_dots_lax(path: &[u8]) -> Vec<u8> {
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
    use control_wire::pattern::Glob;

    use super::*;

    fn denied(path: &str, glob: &Glob) -> bool {
        PathForms::new(path.as_bytes()).denied_by(|form| glob.matches(form))
    }

    fn allowed(path: &str, glob: &Glob) -> bool {
        PathForms::new(path.as_bytes()).allowed_by(|form| glob.matches(form))
    }

    #[test]
    fn a_denied_path_is_found_however_it_is_written() {
        let admin = Glob::new("/admin*");
        for path in [
            "/admin",
            "/admin/x",
            "/%61dmin",
            "/a/../admin",
            "/a/%2e%2E/admin",
            "/a/..%2fadmin",
            "/a%2f..%2fadmin",
            "/./admin",
            "//admin",
            "/%2561dmin",
            "/a/%252e%252e/admin",
            "/a\\..\\admin",
            "/a/..%5cadmin",
            "/a/..;x=1/admin",
            "/..//admin",
            "/../../admin",
        ] {
            assert!(denied(path, &admin), "{path}");
        }
        for path in ["/x/admin", "/adm%20in", "/", "/admi", "*"] {
            assert!(!denied(path, &admin), "{path}");
        }
    }

    /// Resolving too much would hide the segment from the rule that an upstream which resolves less still sees.
    #[test]
    fn a_denied_path_cannot_hide_behind_dots_that_only_some_servers_resolve() {
        let admin = Glob::new("/admin*");
        for path in
            ["/%61dmin/..;/x", "/%61dmin/%252e%252e/x", "/%61dmin/../x", "/%61dmin\\..\\x", "//admin/..;/x"]
        {
            assert!(denied(path, &admin), "{path}");
        }
    }

    #[test]
    fn an_allowed_path_must_hold_in_every_form() {
        let public = Glob::new("/public/*");
        for path in ["/public/a", "/public/a%20b", "/public//a", "/public/a/../b", "/public/a;v=1"] {
            assert!(allowed(path, &public), "{path}");
        }
        for path in [
            "/public/../secret",
            "/public/%2e%2e/secret",
            "/public/%252e%252e/secret",
            "/public/..;/secret",
            "/%70ublic/a",
            "/x/../public/a",
        ] {
            assert!(!allowed(path, &public), "{path}");
        }
    }

    #[test]
    fn broken_escapes_and_ends_are_kept() {
        assert_eq!(decode(b"/%zz%4"), None);
        assert_eq!(decode(b"/%zz%41").as_deref(), Some(&b"/%zzA"[..]));
        for (path, strict, lax) in [
            ("/a/..", "/", "/"),
            ("/a/.", "/a/", "/a/"),
            ("/../../a", "/a", "/a"),
            ("//a///b", "//a///b", "/a/b"),
            ("/a/...", "/a/...", "/a/..."),
            ("/a/", "/a/", "/a/"),
        ] {
            assert_eq!(without_dots(path.as_bytes()), strict.as_bytes(), "{path}");
            assert_eq!(without_dots_lax(path.as_bytes()), lax.as_bytes(), "{path}");
        }
    }

    #[test]
    fn plain_paths_are_not_copied() {
        assert!(PathForms::new(b"/a/b.c/d").readings.is_empty());
    }
}
