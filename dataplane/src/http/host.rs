//! Names whom a request is for: host, scheme, authority, each in one normal form, so that equal means the same host.

use std::{
    borrow::Cow,
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
    sync::Arc,
};

use idna::uts46::{AsciiDenyList, DnsLength, Hyphens, Uts46};

use crate::limits::{HOST_BYTES_MAX, LABEL_BYTES_MAX};

/// Why a text names no host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HostError {
    /// Nothing between the delimiters.
    #[error("the host is empty")]
    Empty,
    /// RFC 1035 §2.3.4: a name has at most 253 bytes as text.
    #[error("the host name is longer than {HOST_BYTES_MAX} bytes")]
    TooLong,
    /// RFC 1035 §2.3.4: a label has 1 to 63 bytes.
    #[error("a label of the host name is empty or longer than {LABEL_BYTES_MAX} bytes")]
    Label,
    /// Bytes outside letters, digits, `-`, `_` and `.`, or a name that UTS #46 refuses.
    #[error("the host name holds a character that no host name may hold")]
    Character,
    /// The last label is a number, so the whole must be an IPv4 address, and it is none.
    #[error("the host ends in a number and is no IPv4 address")]
    Ipv4,
    /// Brackets or colons that enclose no IPv6 address; zones are refused with it.
    #[error("the host is no IPv6 address")]
    Ipv6,
    /// What follows the colon is no port from 1 to 65535.
    #[error("the port is no number from 1 to 65535")]
    Port,
}

/// A DNS name: lower case, A-labels, no trailing dot, labels of letters, digits, `-` and `_`, at most 253 bytes, and
/// never something that reads as an IP address.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DnsName(Arc<str>);

impl DnsName {
    /// The normalised name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for DnsName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for DnsName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, f)
    }
}

/// A host in its only form: two hosts are equal exactly when they are the same host.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Host {
    /// A normalised DNS name.
    Name(DnsName),
    /// An address; an IPv4-mapped IPv6 address appears as its IPv4 address.
    Ip(IpAddr),
}

impl Host {
    /// Reads a host in any notation that some client or resolver would understand: Unicode or A-labels, any case, one
    /// trailing dot, IPv4 in one to four decimal, octal or hexadecimal parts (as WHATWG URL reads it), IPv6 with or
    /// without brackets.
    ///
    /// # Errors
    /// [`HostError`] says why the text names no host. Percent-encoding is not undone: RFC 9110 senders do not need it,
    /// and a name that means different things before and after decoding is refused.
    pub fn parse(text: &str) -> Result<Self, HostError> {
        Self::parse_bytes(text.as_bytes())
    }

    /// [`Host::parse`] over bytes of which nothing is known.
    ///
    /// # Errors
    /// As [`Host::parse`]; bytes that are no UTF-8 are [`HostError::Character`].
    pub fn parse_bytes(bytes: &[u8]) -> Result<Self, HostError> {
        if bytes.is_empty() {
            return Err(HostError::Empty);
        }
        // Four bytes of UTF-8 per character and A-label growth stay far below this; nothing longer is normalised.
        if bytes.len() > 4 * HOST_BYTES_MAX {
            return Err(HostError::TooLong);
        }
        if bytes.contains(&b':') {
            let inner = match (bytes.strip_prefix(b"["), bytes.strip_suffix(b"]")) {
                (Some(_), Some(_)) => &bytes[1..bytes.len() - 1],
                (None, None) => bytes,
                _ => return Err(HostError::Ipv6),
            };
            let text = std::str::from_utf8(inner).map_err(|_| HostError::Ipv6)?;
            return Ok(Ipv6Addr::from_str(text).map_err(|_| HostError::Ipv6)?.into());
        }
        let name = normalise(bytes)?;
        let name = name.strip_suffix('.').unwrap_or(&name);
        if name.is_empty() {
            return Err(HostError::Empty);
        }
        if ends_in_number(name) {
            return parse_ipv4(name).map(|address| Host::Ip(IpAddr::V4(address)));
        }
        check_labels(name)?;
        Ok(Host::Name(DnsName(Arc::from(name))))
    }

    /// The DNS name, if this is one.
    pub fn name(&self) -> Option<&str> {
        match self {
            Host::Name(name) => Some(name.as_str()),
            Host::Ip(_) => None,
        }
    }

    /// The address, if this is an IP literal.
    pub fn ip(&self) -> Option<IpAddr> {
        match self {
            Host::Name(_) => None,
            Host::Ip(address) => Some(*address),
        }
    }

    /// The text that patterns are matched against: IPv6 without brackets.
    pub fn text(&self) -> Cow<'_, str> {
        match self {
            Host::Name(name) => Cow::Borrowed(name.as_str()),
            Host::Ip(address) => Cow::Owned(address.to_string()),
        }
    }
}

impl From<IpAddr> for Host {
    fn from(address: IpAddr) -> Self {
        Host::Ip(address.to_canonical())
    }
}

impl From<Ipv6Addr> for Host {
    fn from(address: Ipv6Addr) -> Self {
        Host::from(IpAddr::V6(address))
    }
}

impl FromStr for Host {
    type Err = HostError;

    fn from_str(text: &str) -> Result<Self, HostError> {
        Host::parse(text)
    }
}

/// As in a URL: IPv6 in brackets.
impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Host::Name(name) => f.write_str(name.as_str()),
            Host::Ip(IpAddr::V4(address)) => write!(f, "{address}"),
            Host::Ip(IpAddr::V6(address)) => write!(f, "[{address}]"),
        }
    }
}

impl fmt::Debug for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

/// How the plane speaks to the upstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Scheme {
    /// Plain text.
    Http,
    /// TLS.
    Https,
}

impl Scheme {
    /// The port that needs not be written (RFC 9110 §4.2).
    pub const fn default_port(self) -> u16 {
        match self {
            Scheme::Http => 80,
            Scheme::Https => 443,
        }
    }

    /// As in a URL.
    pub const fn as_str(self) -> &'static str {
        match self {
            Scheme::Http => "http",
            Scheme::Https => "https",
        }
    }
}

impl fmt::Display for Scheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The one authority of a request: what policy judges, what is resolved, dialled, verified and written as `Host`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Authority {
    /// How to speak.
    pub scheme: Scheme,
    /// To whom.
    pub host: Host,
    /// On which port; the default of the scheme where none was written.
    pub port: u16,
}

/// As the `Host` field has it: the default port is not written (RFC 9110 §7.2).
impl fmt::Display for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.host)?;
        if self.port == self.scheme.default_port() {
            return Ok(());
        }
        write!(f, ":{}", self.port)
    }
}

/// Reads `host` or `host:port` as `Host`, CONNECT and an absolute target write it (RFC 9110 §7.2, RFC 3986 §3.2).
///
/// An IPv6 address needs brackets here; an empty port (`host:`) means none, as RFC 3986 has it.
///
/// # Errors
/// [`HostError`], user information (`@`) as [`HostError::Character`].
pub fn parse_host_port(bytes: &[u8]) -> Result<(Host, Option<u16>), HostError> {
    let (host, port) = if bytes.first() == Some(&b'[') {
        let close = bytes.iter().position(|byte| *byte == b']').ok_or(HostError::Ipv6)?;
        let inner = &bytes[1..close];
        // `[a.example]` and `[10.0.0.1]` are no IP-literals.
        if !inner.contains(&b':') {
            return Err(HostError::Ipv6);
        }
        match bytes[close + 1..].split_first() {
            None => (&bytes[..=close], None),
            Some((b':', port)) => (&bytes[..=close], Some(port)),
            Some(_) => return Err(HostError::Ipv6),
        }
    } else {
        match bytes.iter().position(|byte| *byte == b':') {
            None => (bytes, None),
            Some(colon) => (&bytes[..colon], Some(&bytes[colon + 1..])),
        }
    };
    let host = Host::parse_bytes(host)?;
    match port {
        None | Some([]) => Ok((host, None)),
        Some(digits) => parse_port(digits).map(|port| (host, Some(port))),
    }
}

fn parse_port(digits: &[u8]) -> Result<u16, HostError> {
    // Five digits are enough for each port; more would only be zeros in front.
    if digits.len() > 5 || !digits.iter().all(u8::is_ascii_digit) {
        return Err(HostError::Port);
    }
    let value = digits.iter().fold(0u32, |value, digit| value * 10 + u32::from(digit - b'0'));
    u16::try_from(value).ok().filter(|port| *port != 0).ok_or(HostError::Port)
}

/// Lower case and A-labels. Plain names, nearly all, do not pass through the Unicode tables.
fn normalise(bytes: &[u8]) -> Result<Cow<'_, str>, HostError> {
    let plain = bytes.iter().all(|byte| is_host_byte(*byte) || *byte == b'.');
    if plain && !holds_ace_prefix(bytes) {
        let text = std::str::from_utf8(bytes).map_err(|_| HostError::Character)?;
        return Ok(if bytes.iter().any(u8::is_ascii_uppercase) {
            Cow::Owned(text.to_ascii_lowercase())
        } else {
            Cow::Borrowed(text)
        });
    }
    // Non-transitional, like browsers; hyphens are free since names like `r1---sn-x.example` are in use.
    Uts46::new()
        .to_ascii(bytes, AsciiDenyList::URL, Hyphens::Allow, DnsLength::Ignore)
        .map_err(|_| HostError::Character)
}

/// Some label starts with `xn--`: its Punycode must be checked.
fn holds_ace_prefix(bytes: &[u8]) -> bool {
    bytes
        .split(|byte| *byte == b'.')
        .any(|label| label.len() >= 4 && label[..4].eq_ignore_ascii_case(b"xn--"))
}

const fn is_host_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_'
}

fn check_labels(name: &str) -> Result<(), HostError> {
    if name.len() > HOST_BYTES_MAX {
        return Err(HostError::TooLong);
    }
    for label in name.as_bytes().split(|byte| *byte == b'.') {
        if label.is_empty() || label.len() > LABEL_BYTES_MAX {
            return Err(HostError::Label);
        }
        if !label.iter().all(|byte| is_host_byte(*byte)) {
            return Err(HostError::Character);
        }
    }
    Ok(())
}

/// Whether resolvers would read the name as a number (WHATWG URL, "ends in a number").
fn ends_in_number(name: &str) -> bool {
    let last = name.rsplit('.').next().unwrap_or(name);
    let digits = !last.is_empty() && last.bytes().all(|byte| byte.is_ascii_digit());
    digits || last.strip_prefix("0x").is_some_and(|hex| hex.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

/// One to four parts, the last filling what is left, each decimal, octal (`0…`) or hexadecimal (`0x…`).
fn parse_ipv4(name: &str) -> Result<Ipv4Addr, HostError> {
    let parts: Vec<&str> = name.splitn(5, '.').collect();
    if parts.len() > 4 {
        return Err(HostError::Ipv4);
    }
    let (last, front) = parts.split_last().ok_or(HostError::Ipv4)?;
    let mut address: u64 = 0;
    for part in front {
        let value = parse_ipv4_part(part).filter(|value| *value <= 255).ok_or(HostError::Ipv4)?;
        address = address << 8 | value;
    }
    let room = 8 * (4 - front.len() as u32);
    let value = parse_ipv4_part(last).filter(|value| *value < 1 << room).ok_or(HostError::Ipv4)?;
    u32::try_from(address << room | value).map(Ipv4Addr::from).map_err(|_| HostError::Ipv4)
}

fn parse_ipv4_part(part: &str) -> Option<u64> {
    let (digits, radix) = match part.strip_prefix("0x") {
        // WHATWG reads a bare `0x` as zero.
        Some("") => return Some(0),
        Some(hex) => (hex, 16),
        None if part.len() > 1 && part.starts_with('0') => (&part[1..], 8),
        None => (part, 10),
    };
    if !digits.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
        return None;
    }
    u64::from_str_radix(digits, radix).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(text: &str) -> String {
        Host::parse(text).unwrap_or_else(|error| panic!("{text}: {error}")).to_string()
    }

    #[test]
    fn names_have_one_form() {
        assert_eq!(host("Api.Example.COM."), "api.example.com");
        assert_eq!(host("bücher.example"), "xn--bcher-kva.example");
        assert_eq!(host("XN--BCHER-KVA.example"), "xn--bcher-kva.example");
        assert_eq!(host("a\u{3002}example"), "a.example");
        assert_eq!(host("_dmarc.example"), "_dmarc.example");
        assert_eq!(host("r1---sn-x.example"), "r1---sn-x.example");
        assert_eq!(host("localhost"), "localhost");
    }

    #[test]
    fn addresses_have_one_form_in_whatever_notation() {
        for text in [
            "127.0.0.1",
            "127.1",
            "2130706433",
            "0x7f000001",
            "0177.0.0.1",
            "0x7F.1",
            "127.0.0.1.",
            "::ffff:127.0.0.1",
            "[::ffff:7f00:1]",
            "１２７.0.0.1",
        ] {
            assert_eq!(host(text), "127.0.0.1", "{text}");
        }
        assert_eq!(host("[2001:DB8:0:0::1]"), "[2001:db8::1]");
        assert_eq!(host("2001:db8::1"), "[2001:db8::1]");
        assert_eq!(Host::parse("2001:db8::1").unwrap().text(), "2001:db8::1");
    }

    #[test]
    fn what_is_no_host_is_refused() {
        for text in [
            "",
            ".",
            "..",
            "a..b",
            ".a",
            "a..",
            "a b",
            "a%41",
            "a/b",
            "a@b",
            "*.a",
            "[::1",
            "::1]",
            "fe80::1%eth0",
            "256.0.0.1",
            "1.2.3.4.5",
            "1.2.3.09",
            "4294967296",
            "a.1",
            "a.0x1",
            "xn--\u{0}",
            "xn--a\u{7f}",
            "xn--0",
            "a\u{0}b",
            "a:1:b",
            "[a.example]",
            "1.2.3.0x100",
        ] {
            assert!(Host::parse(text).is_err(), "{text:?} was taken for {:?}", Host::parse(text));
        }
        assert_eq!(Host::parse(&"a".repeat(64)), Err(HostError::Label));
        assert_eq!(Host::parse(&"a.".repeat(127)).map(|host| host.to_string().len()), Ok(253));
        assert_eq!(Host::parse(&"a.".repeat(128)), Err(HostError::TooLong));
        assert_eq!(Host::parse_bytes(b"a\xff"), Err(HostError::Character));
    }

    #[test]
    fn normal_form_is_its_own_normal_form() {
        for text in
            ["Bücher.example", "0x7f.1", "[::ffff:1.2.3.4]", "2001:db8::", "faß.example", "A_b-c.example."]
        {
            let once = Host::parse(text).unwrap();
            assert_eq!(Host::parse(&once.to_string()).unwrap(), once, "{text}");
        }
    }

    #[test]
    fn ports_are_read_strictly() {
        let port = |text: &str| parse_host_port(text.as_bytes()).map(|(host, port)| (host.to_string(), port));
        assert_eq!(port("a.example:8443"), Ok(("a.example".into(), Some(8443))));
        assert_eq!(port("a.example:"), Ok(("a.example".into(), None)));
        assert_eq!(port("[::1]:80"), Ok(("[::1]".into(), Some(80))));
        for text in [
            "a:0",
            "a:65536",
            "a:+80",
            "a:080000",
            "a: 80",
            "::1",
            "[::1]80",
            "[1.2.3.4]:80",
            "u@a:80",
            ":80",
        ] {
            assert!(port(text).is_err(), "{text}");
        }
    }

    #[test]
    fn authority_is_written_without_the_default_port() {
        let authority =
            |scheme, port| Authority { scheme, host: Host::parse("::1").unwrap(), port }.to_string();
        assert_eq!(authority(Scheme::Https, 443), "[::1]");
        assert_eq!(authority(Scheme::Http, 443), "[::1]:443");
    }
}
