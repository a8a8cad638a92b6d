//! One credential in the forms in which a server may repeat it, with the tables that find them fast.

use std::fmt;

use data_encoding::{BASE64_NOPAD, BASE64URL_NOPAD, Encoding, HEXLOWER, HEXUPPER};
use memchr::memchr2;
use zeroize::Zeroizing;

use super::escape::{ESCAPE_BYTES_MAX, Match, SPECIAL, compare, compare_both, escaped_byte};
use crate::limits::REDACT_SECRET_BYTES_MIN;

/// A value that is too short to be told from ordinary text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a credential of fewer than {REDACT_SECRET_BYTES_MIN} bytes cannot be told from ordinary text")]
pub struct TooShort;

/// The bit of a byte that may begin an escape.
const ESCAPE: u32 = 1 << 31;

/// Places in the table of shifts.
const SHIFTS: usize = 4096;

/// Finds the forms of one value. Everything in it is wiped when dropped and never shown.
pub struct Finder {
    needles: Vec<Zeroizing<Vec<u8>>>,
    /// Which of them hold what looks like an escape, one bit each.
    ambiguous: u32,
    /// Bytes of the shortest needle, over which the window goes.
    window: usize,
    /// By the last two bytes of the window: how far the window can go on without missing a needle.
    shifts: Zeroizing<Vec<u8>>,
    /// By a byte: which needles begin with it, one bit each, and [`ESCAPE`].
    starts: Zeroizing<Vec<u32>>,
}

impl Finder {
    /// Of one value, or of parts of a credential that are each to be found.
    ///
    /// # Errors
    /// [`TooShort`] where one of them has fewer than [`REDACT_SECRET_BYTES_MIN`] bytes.
    pub fn new(values: &[&[u8]]) -> Result<Self, TooShort> {
        let mut needles: Vec<Zeroizing<Vec<u8>>> = Vec::new();
        for value in values {
            if value.len() < REDACT_SECRET_BYTES_MIN {
                return Err(TooShort);
            }
            for form in forms(value) {
                if !needles.contains(&form) {
                    needles.push(form);
                }
            }
        }
        debug_assert!(needles.len() < 32, "a needle is a bit");
        // All forms of a value are longer than the least value, or are that value.
        let window =
            needles.iter().map(|needle| needle.len()).min().ok_or(TooShort)?.min(usize::from(u8::MAX));
        let mut finder = Self {
            needles,
            ambiguous: 0,
            window,
            shifts: Zeroizing::new(vec![(window - 1) as u8; SHIFTS]),
            starts: Zeroizing::new(vec![0; 256]),
        };
        finder.fill();
        Ok(finder)
    }

    fn fill(&mut self) {
        for (bit, needle) in self.needles.iter().enumerate() {
            self.ambiguous |= u32::from(special(needle, 0) < needle.len()) << bit;
            for (end, pair) in needle[..self.window].windows(2).enumerate() {
                // The pair ends one byte further.
                let shift = (self.window - 2 - end) as u8;
                let place = &mut self.shifts[place(pair[0], pair[1])];
                *place = shift.min(*place);
            }
            self.starts[usize::from(needle[0])] |= 1 << bit;
        }
        SPECIAL.iter().for_each(|special| self.starts[usize::from(*special)] |= ESCAPE);
    }

    /// Which needles may begin where this text does, one bit each, given those that begin with its first byte.
    fn candidates(&self, first: u32, text: &[u8]) -> u32 {
        if first & ESCAPE == 0 {
            return first;
        }
        let first = first & !ESCAPE;
        match escaped_byte(text) {
            Some(byte) => first | self.starts[usize::from(byte)] & !ESCAPE,
            // It may be an escape of any byte.
            None if text.len() < ESCAPE_BYTES_MAX => u32::MAX >> (32 - self.needles.len()),
            None => first,
        }
    }

    /// Looks through a text. Tells `found` each place, in their order; gives where the text ends within what may become
    /// one, and has not looked behind that. Where nothing follows the text, nothing can become one.
    pub(super) fn scan(
        &self,
        text: &[u8],
        followed: bool,
        mut found: impl FnMut(usize, usize),
    ) -> Option<usize> {
        let (mut at, mut special) = (0, special(text, 0));
        let starts = &self.starts[..];
        let mut look = |at: usize| {
            let first = starts[usize::from(text[at])];
            let (mut cut, mut candidates) = (false, self.candidates(first, &text[at..]));
            while candidates != 0 {
                let bit = candidates.trailing_zeros();
                let compare = if self.ambiguous >> bit & 1 == 1 { compare_both } else { compare };
                match compare(&self.needles[bit as usize], &text[at..]) {
                    Match::Whole(length) => found(at, at + length),
                    Match::Cut => cut = true,
                    Match::None => {}
                }
                candidates &= candidates - 1;
            }
            cut && followed
        };
        loop {
            // No escape lies in the window, so its bytes are those of a needle or nothing begins here.
            while at + self.window <= special {
                let last = at + self.window - 1;
                match self.shifts[place(text[last - 1], text[last])] {
                    0 => {
                        if look(at) {
                            return Some(at);
                        }
                        at += 1;
                    }
                    shift => at += usize::from(shift),
                }
            }
            let until = text.len().min(special + 1);
            while at < until {
                if starts[usize::from(text[at])] != 0 && look(at) {
                    return Some(at);
                }
                at += 1;
            }
            if at == text.len() {
                return None;
            }
            special = self::special(text, at);
        }
    }
}

/// Shows nothing of what it finds.
impl fmt::Debug for Finder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Finder").finish_non_exhaustive()
    }
}

/// Where the next escape may begin; behind the text where there is none.
fn special(text: &[u8], from: usize) -> usize {
    memchr2(SPECIAL[0], SPECIAL[1], &text[from..]).map_or(text.len(), |at| from + at)
}

fn place(first: u8, second: u8) -> usize {
    // Letters and digits differ in their low six bits.
    (usize::from(first) << 6 ^ usize::from(second)) % SHIFTS
}

/// The bytes themselves, and what base64 and hexadecimal digits make of them.
fn forms(value: &[u8]) -> impl Iterator<Item = Zeroizing<Vec<u8>>> {
    let plain = Zeroizing::new(value.to_vec());
    // `application/x-www-form-urlencoded`.
    let spaces = value.contains(&b' ').then(|| {
        let mut written = plain.clone();
        written.iter_mut().filter(|byte| **byte == b' ').for_each(|byte| *byte = b'+');
        written
    });
    let joined = (0..3).flat_map(move |before| {
        [&BASE64_NOPAD, &BASE64URL_NOPAD].map(|encoding| inside(encoding, value, before))
    });
    let digits = [&HEXLOWER, &HEXUPPER].map(|encoding| encoded(encoding, value));
    [plain].into_iter().chain(spaces).chain(joined).chain(digits)
}

fn encoded(encoding: &Encoding, bytes: &[u8]) -> Zeroizing<Vec<u8>> {
    let mut written = Zeroizing::new(vec![0; encoding.encode_len(bytes.len())]);
    encoding.encode_mut(bytes, &mut written);
    written
}

/// What base64 writes of a value that so many bytes stand before, without the digits that depend on neighbours too.
fn inside(encoding: &Encoding, value: &[u8], before: usize) -> Zeroizing<Vec<u8>> {
    let mut padded = Zeroizing::new(Vec::with_capacity(before + value.len()));
    padded.resize(before, 0);
    padded.extend_from_slice(value);
    let written = encoded(encoding, &padded);
    let (first, end) = ((before * 8).div_ceil(6), padded.len() * 8 / 6);
    Zeroizing::new(written[first..end].to_vec())
}

#[cfg(test)]
mod tests {
    use data_encoding::{BASE64, BASE64URL};

    use super::*;

    fn places(finder: &Finder, text: &[u8]) -> Vec<(usize, usize)> {
        let mut found = Vec::new();
        assert_eq!(finder.scan(text, false, |from, to| found.push((from, to))), None);
        found
    }

    #[test]
    fn every_form_is_found_where_it_stands() {
        let value = b"s3cr?t>~value/+1 \xff";
        let finder = Finder::new(&[value]).unwrap();
        let whole = [
            value.to_vec(),
            HEXLOWER.encode(value).into_bytes(),
            HEXUPPER.encode(value).into_bytes(),
            b"s3cr%3Ft%3e~value%2F%2B1+%ff".to_vec(),
            b"s3cr?t>~value/+1+\xff".to_vec(),
            b"s3cr?t\\u003e~value\\/+1 \xff".to_vec(),
        ];
        for text in whole {
            let around = [&b"{\"a\":\""[..], &text, b"\"}"].concat();
            assert_eq!(places(&finder, &around), [(6, 6 + text.len())], "{}", text.escape_ascii());
        }
        for before in 0..7 {
            for after in 0..4 {
                let text = [&b"0123456"[..before], value, &b"789"[..after]].concat();
                for encoding in [&BASE64, &BASE64URL] {
                    let text = encoding.encode(&text);
                    for text in [text.replace('+', "%2B").replace('/', "\\/"), text] {
                        let hidden: usize =
                            places(&finder, text.as_bytes()).iter().map(|(from, to)| to - from).sum();
                        assert!(hidden >= value.len() * 8 / 6 - 1, "{hidden} bytes of {text}");
                    }
                }
            }
        }
    }

    #[test]
    fn ordinary_text_is_left_alone() {
        let finder = Finder::new(&[b"sk-live-0123456789"]).unwrap();
        let text =
            b"sk-live-012345678 sk-live-0123456788 c2stbGl2ZS0wMTIzNDU2Nzg %73k-live- \\u0073k-l".repeat(50);
        assert_eq!(places(&finder, &text), []);
    }

    #[test]
    fn a_short_value_is_refused() {
        assert_eq!(Finder::new(&[b"1234567"]).unwrap_err(), TooShort);
        assert_eq!(Finder::new(&[b"long enough", b"short"]).unwrap_err(), TooShort);
        assert!(Finder::new(&[b"12345678"]).is_ok());
    }

    #[test]
    fn nothing_of_a_value_is_shown() {
        let shown = format!("{:?}", Finder::new(&[b"hush-77aa-bb"]).unwrap());
        assert!(!shown.contains("hush") && !shown.contains("104"), "{shown}");
    }
}
