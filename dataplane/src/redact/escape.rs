//! Compares a credential with text in which some of its bytes may be written as escapes.

/// What comparing found at one place.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Match {
    /// It stands there, in so many bytes of the text.
    Whole(usize),
    /// It may stand there: the text ends within it.
    Cut,
    /// It does not.
    None,
}

/// Bytes that begin an escape.
pub(super) const SPECIAL: [u8; 2] = [b'%', b'\\'];

/// Whether the text begins with the needle, of whose bytes some may be escaped.
pub(super) fn compare(needle: &[u8], text: &[u8]) -> Match {
    let mut at = 0;
    for byte in needle {
        match text.get(at) {
            None => return Match::Cut,
            Some(first) if !SPECIAL.contains(first) => {
                if first != byte {
                    return Match::None;
                }
                at += 1;
            }
            Some(_) => match unit(*byte, &text[at..]) {
                Match::Whole(length) => at += length,
                other => return other,
            },
        }
    }
    Match::Whole(at)
}

/// The same for a needle that itself holds what looks like an escape: it may also stand there as it is.
pub(super) fn compare_both(needle: &[u8], text: &[u8]) -> Match {
    let common = needle.len().min(text.len());
    let flat = match needle[..common] == text[..common] {
        true if common == needle.len() => Match::Whole(common),
        true => Match::Cut,
        false => Match::None,
    };
    match (flat, compare(needle, text)) {
        (Match::Whole(one), Match::Whole(other)) => Match::Whole(one.max(other)),
        (Match::Whole(length), _) | (_, Match::Whole(length)) => Match::Whole(length),
        (Match::Cut, _) | (_, Match::Cut) => Match::Cut,
        (Match::None, Match::None) => Match::None,
    }
}

/// The byte that an escape at the start of a text stands for; nothing where there is none, or where the text ends before
/// that can be told.
pub(super) fn escaped_byte(text: &[u8]) -> Option<u8> {
    let digits = match text {
        [b'%', digits @ ..] | [b'\\', b'x', digits @ ..] | [b'\\', b'u', b'0', b'0', digits @ ..] => digits,
        [b'\\', letter, ..] => return named(*letter),
        _ => return None,
    };
    let [high, low, ..] = digits else { return None };
    let digit = |digit: u8| char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok());
    Some(digit(*high)? << 4 | digit(*low)?)
}

/// Bytes of the longest escape.
pub(super) const ESCAPE_BYTES_MAX: usize = 6;

/// One byte of a needle at the start of a text.
fn unit(byte: u8, text: &[u8]) -> Match {
    let plain = |first: u8| if first == byte { Match::Whole(1) } else { Match::None };
    let (high, low) = (byte >> 4, byte & 15);
    let escaped = match text {
        [] | [b'\\'] => return Match::Cut,
        [b'%', digits @ ..] => hex(digits, &[high, low], 1),
        [b'\\', b'x', digits @ ..] => hex(digits, &[high, low], 2),
        // Beyond ASCII an escape stands for several bytes.
        [b'\\', b'u', digits @ ..] if byte.is_ascii() => hex(digits, &[0, 0, high, low], 2),
        [b'\\', letter, ..] if named(*letter) == Some(byte) => Match::Whole(2),
        [first, ..] => return plain(*first),
    };
    match (escaped, text) {
        (Match::None, [first, ..]) => plain(*first),
        (escaped, _) => escaped,
    }
}

/// Whether these digits stand behind an escape's mark, which has so many bytes.
fn hex(digits: &[u8], wanted: &[u8], mark: usize) -> Match {
    for (digit, wanted) in digits.iter().zip(wanted) {
        if char::from(*digit).to_digit(16) != Some((*wanted).into()) {
            return Match::None;
        }
    }
    if digits.len() < wanted.len() { Match::Cut } else { Match::Whole(mark + wanted.len()) }
}

/// RFC 8259 §7.
fn named(letter: u8) -> Option<u8> {
    Some(match letter {
        b'"' | b'\\' | b'/' | b'\'' => letter,
        b'b' => 8,
        b'f' => 12,
        b'n' => b'\n',
        b'r' => b'\r',
        b't' => b'\t',
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_needle_is_known_in_every_mixture_of_escapes() {
        let needle = b"a/b+\"\\ %";
        for text in [
            r#"a/b+"\ %"#,
            "a%2fb%2B%22%5c%20%25",
            "%61%2F%62%2B%22%5C%20%25",
            r#"a\/b+\"\\ %"#,
            r#"a\u002fb\u002B\"\\ \x25"#,
            r#"\u0061/%62+"\\%20%25"#,
        ] {
            let longer = format!("{text}x");
            assert_eq!(compare_both(needle, longer.as_bytes()), Match::Whole(text.len()), "{text}");
            for cut in 0..text.len() {
                assert_eq!(compare_both(needle, &text.as_bytes()[..cut]), Match::Cut, "{text} cut at {cut}");
            }
        }
    }

    #[test]
    fn other_bytes_in_escapes_are_no_match() {
        for text in ["a%2eb", "a%2", "a\\u0130b", "a\\u00", "a\\n", "a%", "a\\"] {
            let found = compare(b"a/b", text.as_bytes());
            let cut = ["a%2", "a\\u00", "a%", "a\\"].contains(&text);
            assert_eq!(found, if cut { Match::Cut } else { Match::None }, "{text}");
        }
    }

    #[test]
    fn what_looks_like_an_escape_may_be_itself() {
        assert_eq!(compare_both(b"x%25y\\n", b"x%25y\\n"), Match::Whole(7));
        assert_eq!(compare_both(b"x%zz", b"x%zz"), Match::Whole(4));
        assert_eq!(compare_both(b"x%2", b"x%252"), Match::Whole(5));
    }
}
