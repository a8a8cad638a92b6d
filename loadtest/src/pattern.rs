//! Bodies that can be checked: each byte follows from the request's tag and its place, so an answer that is cut, shifted
//! or another request's is noticed.

use std::sync::LazyLock;

/// Bytes after which a body repeats; no power of two, so that buffers of usual sizes never line up with it.
const PERIOD: usize = 65_521;

static BLOCK: LazyLock<Vec<u8>> = LazyLock::new(|| {
    // A linear congruence is random enough to tell places apart (Knuth's multiplier), and printable for those who look.
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        b'!' + ((state >> 33) % 94) as u8
    };
    let period: Vec<u8> = (0..PERIOD).map(|_| next()).collect();
    [period.as_slice(), period.as_slice()].concat()
});

/// A piece of the body of this tag from a place on, never empty and at most as long as the period.
pub fn at(tag: u32, place: u64) -> &'static [u8] {
    let begin = (u64::from(tag).wrapping_mul(7_919).wrapping_add(place) % PERIOD as u64) as usize;
    &BLOCK[begin..begin + PERIOD]
}

/// Whether these bytes are what stands at a place of the body of this tag.
pub fn matches(tag: u32, mut place: u64, mut bytes: &[u8]) -> bool {
    while !bytes.is_empty() {
        let n = bytes.len().min(PERIOD);
        if at(tag, place)[..n] != bytes[..n] {
            return false;
        }
        (place, bytes) = (place + n as u64, &bytes[n..]);
    }
    true
}

/// Appends so many bytes of a body to a buffer.
pub fn write(tag: u32, mut place: u64, mut count: u64, into: &mut Vec<u8>) {
    while count > 0 {
        let n = count.min(PERIOD as u64);
        into.extend_from_slice(&at(tag, place)[..n as usize]);
        (place, count) = (place + n, count - n);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flipped_shifted_or_foreign_byte_is_noticed() {
        let mut body = Vec::new();
        write(7, 0, 200_000, &mut body);
        assert!(matches(7, 0, &body));
        assert!(matches(7, 1_000, &body[1_000..90_000]));
        assert!(!matches(7, 1, &body[..64]), "shifted");
        assert!(!matches(8, 0, &body[..64]), "another request's");
        body[150_000] ^= 1;
        assert!(!matches(7, 0, &body), "flipped");
    }
}
