//! Just enough DER to read the certificate of a sandbox's authority back, and when another may take its place.

use std::time::{Duration, SystemTime};

const SEQUENCE: u8 = 0x30;
const BIT_STRING: u8 = 0x03;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
const VERSION: u8 = 0xa0;

/// The parts of a certificate (RFC 5280 §4.1) that are checked before it is used or stored.
pub struct Certificate<'a> {
    /// The signed bytes.
    pub signed: &'a [u8],
    /// The issuer's name, encoded.
    pub issuer: &'a [u8],
    /// The subject's name, encoded.
    pub subject: &'a [u8],
    /// The subject's public key info, encoded.
    pub public_key_info: &'a [u8],
    /// From then on it is valid.
    pub not_before: SystemTime,
    /// From then on it is not.
    pub not_after: SystemTime,
    /// The signature's bytes.
    pub signature: &'a [u8],
}

impl<'a> Certificate<'a> {
    /// Reads a certificate; `None` where it is not one, or has bytes behind it.
    pub fn parse(der: &'a [u8]) -> Option<Self> {
        let mut outer = Reader(der);
        let mut certificate = Reader(outer.take(SEQUENCE)?.content);
        let signed = certificate.take(SEQUENCE)?;
        let algorithm = certificate.take(SEQUENCE)?.whole;
        let signature = certificate.take(BIT_STRING)?.content;
        if !outer.0.is_empty() || !certificate.0.is_empty() {
            return None;
        }
        let mut fields = Reader(signed.content);
        fields.take(VERSION)?;
        fields.any()?;
        // The algorithm outside the signed bytes must be the one inside (RFC 5280 §4.1.1.2).
        if fields.take(SEQUENCE)?.whole != algorithm {
            return None;
        }
        let issuer = fields.take(SEQUENCE)?.whole;
        let mut validity = Reader(fields.take(SEQUENCE)?.content);
        let not_before = time(&validity.any()?)?;
        let not_after = time(&validity.any()?)?;
        let subject = fields.take(SEQUENCE)?.whole;
        let public_key_info = fields.take(SEQUENCE)?.whole;
        let signature = signature.strip_prefix(&[0])?;
        Some(Self {
            signed: signed.whole,
            issuer,
            subject,
            public_key_info,
            not_before,
            not_after,
            signature,
        })
    }

    /// Whether two thirds of its time are over at `now`, so that another may take its place.
    pub fn is_in_its_last_third(&self, now: SystemTime) -> bool {
        let time = self.not_after.duration_since(self.not_before).unwrap_or_default();
        now >= self.not_before + time * 2 / 3
    }

    /// Whether it says the same of the same key as `other`, and for longer; its signature is not looked at.
    pub fn outlasts(&self, other: &Certificate<'_>) -> bool {
        self.public_key_info == other.public_key_info
            && self.subject == other.subject
            && self.issuer == other.issuer
            && self.not_after > other.not_after
    }

    /// The text of the subject's last attribute: our common name.
    pub fn last_subject_text(&self) -> Option<&'a str> {
        let mut name = Reader(Reader(self.subject).take(SEQUENCE)?.content);
        let mut last = None;
        while !name.0.is_empty() {
            last = Some(name.any()?);
        }
        let mut attribute = Reader(Reader(last?.content).take(SEQUENCE)?.content);
        attribute.any()?;
        std::str::from_utf8(attribute.any()?.content).ok()
    }
}

/// One encoded element.
struct Element<'a> {
    tag: u8,
    whole: &'a [u8],
    content: &'a [u8],
}

/// The elements not yet read.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, tag: u8) -> Option<Element<'a>> {
        self.any().filter(|element| element.tag == tag)
    }

    /// The next element; lengths in the definite form of at most three bytes (X.690 §8.1.3, §10.1).
    fn any(&mut self) -> Option<Element<'a>> {
        let (&tag, rest) = self.0.split_first()?;
        let (&first, rest) = rest.split_first()?;
        let (length, rest) = match first {
            0..=0x7f => (usize::from(first), rest),
            0x81..=0x83 => {
                let (bytes, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
                (bytes.iter().fold(0, |length, byte| length << 8 | usize::from(*byte)), rest)
            }
            _ => return None,
        };
        let (content, behind) = rest.split_at_checked(length)?;
        let whole = &self.0[..self.0.len() - behind.len()];
        self.0 = behind;
        Some(Element { tag, whole, content })
    }
}

/// A time in one of the two forms of RFC 5280 §4.1.2.5.
fn time(element: &Element<'_>) -> Option<SystemTime> {
    let digits = element.content.strip_suffix(b"Z")?;
    if !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let number = |range: std::ops::Range<usize>| {
        digits.get(range).map(|part| part.iter().fold(0_u64, |sum, digit| sum * 10 + u64::from(digit - b'0')))
    };
    let (year, rest) = match (element.tag, digits.len()) {
        // Two digits name the years 1950 to 2049.
        (UTC_TIME, 12) => number(0..2).map(|year| (if year < 50 { 2000 + year } else { 1900 + year }, 2))?,
        (GENERALIZED_TIME, 14) => (number(0..4)?, 4),
        _ => return None,
    };
    let part = |index: usize| number(rest + 2 * index..rest + 2 * index + 2);
    let (month, day) = (part(0)?, part(1)?);
    if !(1970..=9999).contains(&year) || !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    let seconds = days_since_epoch(year, month, day) * 86_400 + part(2)? * 3_600 + part(3)? * 60 + part(4)?;
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds))
}

/// Days from 1970-01-01 in the Gregorian calendar, counted from March so that the leap day comes last.
fn days_since_epoch(year: u64, month: u64, day: u64) -> u64 {
    let year = if month <= 2 { year - 1 } else { year };
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    (year * 365 + year / 4 - year / 100 + year / 400 + day_of_year) - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_are_counted_as_the_calendar_does() {
        assert_eq!(days_since_epoch(1970, 1, 1), 0);
        assert_eq!(days_since_epoch(1970, 3, 1), 59);
        assert_eq!(days_since_epoch(2000, 2, 29), 11_016);
        assert_eq!(days_since_epoch(2026, 11, 21), 20_778);
    }

    #[test]
    fn broken_certificates_are_refused() {
        for bytes in [&b""[..], b"\x30", b"\x30\x80", b"\x30\x84\xff\xff\xff\xff", b"\x30\x03\x30\x01\x00"] {
            assert!(Certificate::parse(bytes).is_none());
        }
    }
}
