//! What generator, gateway and origin agree on: host names, sandboxes by number, credentials, and paths that say what is
//! asked for.

/// Sandboxes share so many credentials: sandbox `n` has the one of group `n mod 4`. More than one, so that a credential
/// of another group is noticed.
pub const GROUPS: u32 = 4;
/// Every host below it is given a credential.
pub const ZONE: &str = "origin.test";
/// The one host that is given none.
pub const BARE: &str = "bare.test";

/// The name of a host by its number: of several, the last is the bare one.
pub fn host(number: usize, of: usize) -> String {
    if of > 1 && number + 1 == of { BARE.to_owned() } else { format!("h{number}.{ZONE}") }
}

/// The value of a group's credential in one version. Nothing else in a request looks like it.
pub fn credential(group: u32, version: u32) -> String {
    format!("{CREDENTIAL}{group}-{version:08}")
}

/// What every credential begins with.
pub const CREDENTIAL: &str = "load-credential-";

/// Group and version of a credential's value.
pub fn parse_credential(value: &[u8]) -> Option<(u32, u32)> {
    let text = std::str::from_utf8(value).ok()?.strip_prefix(CREDENTIAL)?;
    let (group, version) = text.split_once('-')?;
    Some((group.parse().ok()?, version.parse().ok()?))
}

/// What a path asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asked {
    /// Number of the sandbox that asks.
    pub sandbox: u32,
    /// Bytes of the body that it wants.
    pub down: u64,
    /// Tag of this request's bodies, both ways.
    pub tag: u32,
}

/// Where the tag stands in a path, counted from its end.
pub const TAG_DIGITS: usize = 8;

impl Asked {
    /// The path: numbers in hex, the tag last and of a fixed width.
    pub fn path(&self) -> String {
        format!("/l/{:x}/{:x}/{:08x}", self.sandbox, self.down, self.tag)
    }

    /// Reads a path, or the path of an absolute target.
    pub fn parse(target: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(target).ok()?;
        let path = match text.split_once("://") {
            Some((_, rest)) => &rest[rest.find('/')?..],
            None => text,
        };
        let mut parts = path.strip_prefix("/l/")?.split('/');
        let (sandbox, down, tag) = (parts.next()?, parts.next()?, parts.next()?);
        if parts.next().is_some() || tag.len() != TAG_DIGITS {
            return None;
        }
        Some(Self {
            sandbox: u32::from_str_radix(sandbox, 16).ok()?,
            down: u64::from_str_radix(down, 16).ok()?,
            tag: u32::from_str_radix(tag, 16).ok()?,
        })
    }

    /// The group of the sandbox that asks.
    pub fn group(&self) -> u32 {
        self.sandbox % GROUPS
    }
}

/// Writes a tag over the one of a request.
pub fn put_tag(tag: u32, place: &mut [u8]) {
    for (index, byte) in place.iter_mut().enumerate() {
        let digit = (tag >> (4 * (TAG_DIGITS - 1 - index))) & 15;
        *byte = b"0123456789abcdef"[digit as usize];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_say_what_they_were_made_of() {
        let asked = Asked { sandbox: 70_000, down: 1 << 30, tag: 0xbeef };
        assert_eq!(Asked::parse(asked.path().as_bytes()), Some(asked));
        assert_eq!(Asked::parse(format!("http://h0.origin.test:80{}", asked.path()).as_bytes()), Some(asked));
        let mut path = asked.path().into_bytes();
        let at = path.len() - TAG_DIGITS;
        put_tag(0x0123_abcd, &mut path[at..]);
        assert_eq!(Asked::parse(&path).unwrap().tag, 0x0123_abcd);
        for other in ["/", "/l/1/2", "/l/1/2/3", "/l/1/2/00000003/4", "/l/x/2/00000003"] {
            assert_eq!(Asked::parse(other.as_bytes()), None, "{other}");
        }
    }

    #[test]
    fn credentials_say_whose_they_are() {
        assert_eq!(parse_credential(credential(3, 12).as_bytes()), Some((3, 12)));
        assert_eq!(parse_credential(b"load-credential-3"), None);
    }
}
