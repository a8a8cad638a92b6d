//! Host patterns: read once into a form that cannot be wrong, or refused with what to write instead.
//!
//! `*` stands for any run of characters, dots and the empty run included; a pattern covers the whole host. Names are
//! kept in lower case as A-labels without trailing dots, addresses unmapped, so that a pattern which is accepted can
//! match. A port behind the host is honoured. CIDR ranges hold addresses.

use std::net::{IpAddr, Ipv4Addr};

use ipnet::{IpNet, Ipv4Net};

use crate::limits::NAME_BYTES_MAX;

/// Characters of a host name without its trailing dot (RFC 1035 §2.3.4).
const HOST_BYTES_MAX: usize = 253;
/// Characters of one label (RFC 1035 §2.3.4).
const LABEL_BYTES_MAX: usize = 63;

/// Why a pattern was refused, always with what to write instead.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the host pattern `{pattern}` {problem}")]
pub struct PatternError {
    /// As it was written, cut to a readable length.
    pub pattern: String,
    /// What is wrong, and the fix.
    pub problem: String,
}

/// A host as policy compares it. Names must be lower-case A-labels without a trailing dot, addresses unmapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HostRef<'a> {
    /// A DNS name.
    Name(&'a str),
    /// An address literal.
    Address(IpAddr),
}

/// One host pattern in normal form.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HostPattern {
    kind: HostKind,
    port: Option<u16>,
}

/// What a pattern says about the host.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum HostKind {
    /// Every host.
    Any,
    /// This name.
    Name(Box<str>),
    /// This address.
    Address(IpAddr),
    /// Addresses in this range; its host bits are zero.
    Range(IpNet),
    /// `*.` and this name: every name below it, not the name itself.
    Below(Box<str>),
    /// Stars anywhere else.
    Glob(Glob),
}

impl HostPattern {
    /// Reads a pattern.
    ///
    /// # Errors
    /// When it could never match: empty, with a scheme, path or user, with characters that no host has, or an
    /// address in a form that hosts are not compared in. The message says what to write instead.
    pub fn parse(text: &str) -> Result<Self, PatternError> {
        let refuse = |problem: String| PatternError { pattern: shown(text), problem };
        if text.is_empty() {
            return Err(refuse(
                "is empty and matches nothing; remove it, or write `*` for every host".into(),
            ));
        }
        if text.len() > NAME_BYTES_MAX {
            return Err(refuse(format!("has {} bytes; hosts have at most {HOST_BYTES_MAX}", text.len())));
        }
        if let Some((_, rest)) = text.split_once("://") {
            let host = rest.split(['/', '?', '#']).next().unwrap_or_default();
            return Err(refuse(format!("holds a scheme, which hosts do not have; write `{host}`")));
        }
        if let Some((_, host)) = text.rsplit_once('@') {
            return Err(refuse(format!("holds a user, which hosts do not have; write `{host}`")));
        }
        let (host, port) = split_port(text).map_err(refuse)?;
        let kind = kind_of(host).map_err(refuse)?;
        Ok(Self { kind, port })
    }

    /// What it says about the host.
    pub fn kind(&self) -> &HostKind {
        &self.kind
    }

    /// The port that it is limited to.
    pub fn port(&self) -> Option<u16> {
        self.port
    }

    /// It speaks of names, as opposed to addresses or every host.
    pub fn names(&self) -> bool {
        match &self.kind {
            HostKind::Name(_) | HostKind::Below(_) => true,
            HostKind::Glob(glob) => !glob.numeric(),
            HostKind::Any | HostKind::Address(_) | HostKind::Range(_) => false,
        }
    }

    /// Whether this host at this port is meant. For one pattern; a plane compiles lists into tables.
    pub fn matches(&self, host: HostRef<'_>, port: u16) -> bool {
        if self.port.is_some_and(|own| own != port) {
            return false;
        }
        match (&self.kind, host) {
            (HostKind::Any, _) => true,
            (HostKind::Name(own), HostRef::Name(name)) => **own == *name,
            (HostKind::Address(own), HostRef::Address(address)) => *own == address,
            (HostKind::Range(range), HostRef::Address(address)) => range.contains(&address),
            (HostKind::Below(own), HostRef::Name(name)) => {
                name.strip_suffix(&**own).is_some_and(|rest| rest.ends_with('.'))
            }
            (HostKind::Glob(glob), HostRef::Name(name)) => glob.matches(name.as_bytes()),
            (HostKind::Glob(glob), HostRef::Address(address)) => glob.matches(address.to_string().as_bytes()),
            _ => false,
        }
    }

    /// What an operator may not have meant, in one sentence.
    pub fn warning(&self) -> Option<String> {
        match &self.kind {
            HostKind::Glob(glob) if glob.numeric() => None,
            HostKind::Glob(glob) if glob.parts.last().is_some_and(|last| !last.contains('.')) => {
                let name = glob.to_string();
                Some(format!("`{name}` also matches names of strangers, because its last label is open"))
            }
            HostKind::Glob(glob) if glob.parts.first().is_some_and(|part| part.is_empty()) => {
                let name = glob.to_string();
                Some(format!("`{name}` also matches names that merely end so; `*.` keeps to names below one"))
            }
            HostKind::Below(name) if !name.contains('.') => {
                Some(format!("`*.{name}` matches every name under `{name}`"))
            }
            _ => None,
        }
    }
}

impl std::fmt::Display for HostPattern {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let bracketed = self.port.is_some();
        match &self.kind {
            HostKind::Any => f.write_str("*")?,
            HostKind::Name(name) => f.write_str(name)?,
            HostKind::Address(IpAddr::V6(address)) if bracketed => write!(f, "[{address}]")?,
            HostKind::Address(address) => write!(f, "{address}")?,
            HostKind::Range(IpNet::V6(range)) if bracketed => write!(f, "[{range}]")?,
            HostKind::Range(range) => write!(f, "{range}")?,
            HostKind::Below(name) => write!(f, "*.{name}")?,
            HostKind::Glob(glob) => write!(f, "{glob}")?,
        }
        self.port.map_or(Ok(()), |port| write!(f, ":{port}"))
    }
}

/// Literal text between stars. A star stands for any run of bytes, also the empty one.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Glob {
    /// What stands before, between and behind the stars; one part means that there is no star.
    parts: Box<[Box<str>]>,
}

impl Glob {
    /// Reads any text; several stars in a row are one.
    pub fn new(text: &str) -> Self {
        let mut parts: Vec<Box<str>> = Vec::new();
        for (at, part) in text.split('*').enumerate() {
            // An empty part inside stands between two stars in a row.
            let inside = at > 0 && at < text.matches('*').count();
            if !(inside && part.is_empty()) {
                parts.push(part.into());
            }
        }
        Self { parts: parts.into() }
    }

    /// Whether the pattern covers the text from its first to its last byte. Linear: the leftmost place of each part
    /// is as good as any other.
    pub fn matches(&self, text: &[u8]) -> bool {
        let [first, middle @ .., last] = &*self.parts else {
            return self.parts.first().is_some_and(|only| only.as_bytes() == text);
        };
        // Prefix and suffix must not overlap, so the suffix is looked for in what the prefix leaves.
        let Some(rest) = text.strip_prefix(first.as_bytes()) else { return false };
        let Some(mut rest) = rest.strip_suffix(last.as_bytes()) else { return false };
        for part in middle {
            let part = part.as_bytes();
            let Some(at) = rest.windows(part.len()).position(|window| window == part) else { return false };
            rest = &rest[at + part.len()..];
        }
        true
    }

    /// It can only match addresses.
    fn numeric(&self) -> bool {
        let mut bytes = self.parts.iter().flat_map(|part| part.bytes());
        let colon = self.parts.iter().any(|part| part.contains(':'));
        bytes.all(|byte| matches!(byte, b'0'..=b'9' | b'.')) || colon
    }
}

impl std::fmt::Display for Glob {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.parts.join("*"))
    }
}

/// The text for a message: bounded, and without anything that could break a line.
fn shown(text: &str) -> String {
    text.chars().take(100).flat_map(char::escape_debug).collect()
}

/// An address as hosts are compared: IPv4-mapped IPv6 is its IPv4 (RFC 4291 §2.5.5.2).
pub fn unmapped(address: IpAddr) -> IpAddr {
    address.to_canonical()
}

/// A range as hosts are compared: host bits zero, IPv4-mapped IPv6 as its IPv4.
pub fn unmapped_range(range: IpNet) -> IpNet {
    let range = range.trunc();
    let IpNet::V6(six) = range else { return range };
    match (six.addr().to_ipv4_mapped(), six.prefix_len().checked_sub(96)) {
        (Some(four), Some(bits)) => Ipv4Net::new(four, bits).map_or(range, IpNet::V4),
        _ => range,
    }
}

/// Splits a port off. A colon of IPv6 is told from one before a port by brackets or by there being only one.
fn split_port(text: &str) -> Result<(&str, Option<u16>), String> {
    if let Some(rest) = text.strip_prefix('[') {
        let (host, behind) = rest.split_once(']').ok_or("lacks a `]`; write `[2001:db8::1]:443`")?;
        return match behind.strip_prefix(':') {
            Some(port) => Ok((host, port_of(port)?)),
            None if behind.is_empty() => Ok((host, None)),
            None => Err(format!("has `{}` behind its `]`; only a port may stand there", shown(behind))),
        };
    }
    match text.split_once(':') {
        Some((host, port)) if !port.contains(':') => Ok((host, port_of(port)?)),
        _ => Ok((text, None)),
    }
}

fn port_of(text: &str) -> Result<Option<u16>, String> {
    if text == "*" {
        return Ok(None);
    }
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    match text.parse::<u16>() {
        Ok(port) if digits && port > 0 => Ok(Some(port)),
        _ => Err(format!("has the port `{}`; write a number from 1 to 65535, or leave it out", shown(text))),
    }
}

fn kind_of(host: &str) -> Result<HostKind, String> {
    if let Ok(address) = host.parse::<IpAddr>() {
        return Ok(HostKind::Address(unmapped(address)));
    }
    if host.contains('/') {
        let range: IpNet = host.parse().map_err(|_| {
            let name = host.split('/').next().unwrap_or_default();
            format!("holds a `/` but is no range; write `{}`, or a range like `192.0.2.0/24`", shown(name))
        })?;
        let range = unmapped_range(range);
        return Ok(if range.prefix_len() == range.max_prefix_len() {
            HostKind::Address(range.addr())
        } else {
            HostKind::Range(range)
        });
    }
    if host.contains(':') {
        return address_glob(host);
    }
    let host = host.trim_end_matches('.');
    if host.bytes().all(|byte| byte == b'*') && !host.is_empty() {
        return Ok(HostKind::Any);
    }
    let name = normal_name(host)?;
    let Some(star) = name.find('*') else { return name_kind(name) };
    match name.strip_prefix("*.") {
        Some(below) if star == 0 && !below.contains('*') && !numeric_end(below) => {
            Ok(HostKind::Below(below.into()))
        }
        _ => Ok(HostKind::Glob(Glob::new(&name))),
    }
}

/// A glob over IPv6 addresses in their canonical text.
fn address_glob(host: &str) -> Result<HostKind, String> {
    let host = host.to_ascii_lowercase();
    let possible = host.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f' | b':' | b'*' | b'.'));
    if !(possible && host.contains('*')) {
        return Err("is no IPv6 address; write it like `2001:db8::1`, or a range like `2001:db8::/32`".into());
    }
    Ok(HostKind::Glob(Glob::new(&host)))
}

fn name_kind(name: String) -> Result<HostKind, String> {
    if !numeric_end(&name) {
        return Ok(HostKind::Name(name.into()));
    }
    // Hosts whose last label is a number are addresses, and are compared in their dotted form only.
    Err(match loose_ipv4(&name) {
        Some(address) => format!("is another way to write an address; write `{address}`"),
        None => "ends in a number but is no IPv4 address; write it like `192.0.2.1`".into(),
    })
}

/// The last label is a number, so that the host is an IPv4 address or nothing (WHATWG URL, "ends in a number").
pub fn numeric_end(name: &str) -> bool {
    let last = name.rsplit('.').next().unwrap_or_default();
    number(last).is_some() || (!last.is_empty() && last.bytes().all(|byte| byte.is_ascii_digit()))
}

/// An IPv4 address in one of the forms that resolvers of old take: `2130706433`, `0x7f.1`, `0177.0.0.1`.
pub fn loose_ipv4(text: &str) -> Option<Ipv4Addr> {
    let numbers: Vec<u64> = text.split('.').map(number).collect::<Option<_>>()?;
    let (last, front) = numbers.split_last()?;
    if front.len() > 3 || front.iter().any(|part| *part > 255) || *last >= 1 << (8 * (4 - front.len())) {
        return None;
    }
    let front = front.iter().zip([24, 16, 8]).fold(0, |sum, (part, shift)| sum | (part << shift));
    u32::try_from(front | last).ok().map(Ipv4Addr::from)
}

fn number(text: &str) -> Option<u64> {
    let lower = text.to_ascii_lowercase();
    let (digits, radix) = match lower.as_bytes() {
        [b'0', b'x', ..] => (&lower[2..], 16),
        [b'0', _, ..] => (&lower[1..], 8),
        _ => (&lower[..], 10),
    };
    if digits.is_empty() {
        return (radix == 16).then_some(0);
    }
    // `from_str_radix` alone would take a sign.
    digits.bytes().all(|byte| byte.is_ascii_hexdigit()).then(|| u64::from_str_radix(digits, radix).ok())?
}

/// Lower case and A-labels, label by label. Stars stay; a label cannot have both a star and letters outside ASCII,
/// because its A-label depends on all of its letters.
fn normal_name(host: &str) -> Result<String, String> {
    let mut name = String::with_capacity(host.len());
    // IDNA maps the full stops of other scripts to `.` (UTS 46 §4), so they separate labels here too.
    for (at, label) in host.split(['.', '\u{3002}', '\u{ff0e}', '\u{ff61}']).enumerate() {
        if at > 0 {
            name.push('.');
        }
        name.push_str(&normal_label(host, label)?);
    }
    let literal = name.bytes().filter(|byte| *byte != b'*').count();
    if literal > HOST_BYTES_MAX {
        return Err(format!("has {literal} characters; host names have at most {HOST_BYTES_MAX}"));
    }
    Ok(name)
}

fn normal_label(host: &str, label: &str) -> Result<String, String> {
    if label.is_empty() {
        let below = host.trim_matches('.');
        return Err(if host.starts_with('.') {
            format!("begins with a dot; write `*.{}` for the names below, `{0}` for itself", shown(below))
        } else {
            "has an empty label; remove the dot that is too many".into()
        });
    }
    // An `xn--` label goes through the checks of IDNA; with a star in it, it is a glob over A-labels and no name yet.
    let is_a_label = label.to_ascii_lowercase().starts_with("xn--") && !label.contains('*');
    let label = if label.is_ascii() && !is_a_label {
        label.to_ascii_lowercase()
    } else if label.contains('*') {
        return Err(format!(
            "has a star beside letters outside ASCII in `{}`; write the whole label, or `*` for all of it",
            shown(label)
        ));
    } else {
        idna::domain_to_ascii(label).map_err(|_| {
            format!("has the label `{}`, which is no valid international name; check it", shown(label))
        })?
    };
    let possible = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'*');
    if let Some(odd) = label.chars().find(|letter| !u8::try_from(*letter).is_ok_and(possible)) {
        let why = "which no host has; only `*` is special, so write a name or globs of `*`";
        return Err(format!("has `{}`, {why}", odd.escape_debug()));
    }
    if label.bytes().filter(|byte| *byte != b'*').count() > LABEL_BYTES_MAX || label.is_empty() {
        return Err(format!("has a label of more than {LABEL_BYTES_MAX} characters; no name has"));
    }
    Ok(label)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pattern(text: &str) -> HostPattern {
        HostPattern::parse(text).unwrap()
    }

    fn problem(text: &str) -> String {
        HostPattern::parse(text).unwrap_err().to_string()
    }

    fn meets(text: &str, host: &str, port: u16) -> bool {
        let host = host.parse().map_or(HostRef::Name(host), HostRef::Address);
        pattern(text).matches(host, port)
    }

    #[test]
    fn case_dots_letters_and_mapped_addresses_have_one_form() {
        for (written, normal) in [
            ("EVIL.com", "evil.com"),
            ("evil.com.", "evil.com"),
            ("bücher.de", "xn--bcher-kva.de"),
            ("*.BÜCHER.de", "*.xn--bcher-kva.de"),
            ("[::1]", "::1"),
            ("::FFFF:192.0.2.1", "192.0.2.1"),
            ("[::1]:80", "[::1]:80"),
            ("::ffff:192.0.2.0/120", "192.0.2.0/24"),
            ("192.0.2.77/24", "192.0.2.0/24"),
            ("192.0.2.7/32", "192.0.2.7"),
            ("192.0.2.0/24:443", "192.0.2.0/24:443"),
            ("[2001:db8::/32]:443", "[2001:db8::/32]:443"),
            ("**", "*"),
            ("a.com:*", "a.com"),
            ("a**b.com", "a*b.com"),
            ("__proto__", "__proto__"),
        ] {
            assert_eq!(pattern(written).to_string(), normal, "{written}");
            assert_eq!(pattern(normal), pattern(written), "{normal} is not its own normal form");
        }
    }

    #[test]
    fn patterns_that_can_never_match_are_refused_with_the_fix() {
        for (written, fix) in [
            ("", "`*`"),
            ("https://a.com/x", "write `a.com`"),
            ("user@a.com", "write `a.com`"),
            ("a.com/path", "write `a.com`"),
            ("?.com", "`*` is special"),
            (".a.com", "write `*.a.com`"),
            ("a..com", "remove the dot"),
            ("a b.com", "no host has"),
            ("7", "write `0.0.0.7`"),
            ("2130706433", "write `127.0.0.1`"),
            ("0x7f.1", "write `127.0.0.1`"),
            ("1.2.3.400", "192.0.2.1"),
            ("a.com:0", "1 to 65535"),
            ("a.com:+1", "1 to 65535"),
            ("a.com:http", "1 to 65535"),
            ("[::1", "`]`"),
            ("::zz", "2001:db8::1"),
            ("bü*.de", "whole label"),
            ("..", "remove"),
            (&"a".repeat(64), "63"),
            (&"ab.".repeat(85), "253"),
        ] {
            let said = problem(written);
            assert!(said.contains(fix), "{written}: {said}");
        }
    }

    #[test]
    fn a_pattern_covers_the_whole_host() {
        assert!(meets("*.a.com", "x.y.a.com", 1));
        assert!(!meets("*.a.com", "a.com", 1));
        assert!(!meets("*.a.com", "xa.com", 1));
        assert!(!meets("a.com", "a.com.evil.com", 1));
        assert!(meets("*a.com", "xa.com", 1));
        assert!(meets("api.*.com", "api.x.y.com", 1));
        assert!(!meets("api.*.com", "api.com", 1));
        assert!(!meets("a*a", "a", 1));
        assert!(meets("a*a", "aa", 1));
        assert!(meets("*a*b*", "xaxbx", 1));
        assert!(!meets("*b*a*", "xaxbx", 1));
        assert!(meets("141.101.*", "141.101.64.5", 1));
        assert!(meets("2001:db8:*", "2001:db8::1", 1));
        assert!(meets("*.64.5", "141.101.64.5", 1));
    }

    #[test]
    fn ports_and_ranges_are_honoured() {
        assert!(meets("a.com:80", "a.com", 80));
        assert!(!meets("a.com:80", "a.com", 443));
        assert!(meets("10.0.0.0/8", "10.255.0.1", 1));
        assert!(!meets("10.0.0.0/8", "11.0.0.1", 1));
        assert!(!meets("10.0.0.0/8", "a.com", 1));
    }

    #[test]
    fn an_open_last_label_is_warned_about() {
        assert!(pattern("google.*").warning().is_some());
        assert!(pattern("*google.com").warning().is_some());
        assert!(pattern("*.com").warning().is_some());
        assert!(pattern("*.google.com").warning().is_none());
        assert!(pattern("141.101.*").warning().is_none());
    }
}
