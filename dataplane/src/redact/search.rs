//! Looks for credentials in a stream: across the borders of its pieces, and holding back no more than it must.

use std::sync::Arc;

use zeroize::Zeroizing;

use super::Finder;

/// What stands in the place of each byte of a credential. It may stand in fields, in texts and in names.
const MASK: u8 = b'*';

/// What became of a piece.
#[derive(Debug, PartialEq, Eq)]
pub enum Found {
    /// So many of its first bytes go on as they are; the rest is held back.
    Nothing(usize),
    /// These bytes go on in its place. They may be none.
    Instead(Vec<u8>),
}

/// Masks some credentials in one stream.
pub struct Searcher {
    finders: Vec<Arc<Finder>>,
    /// The end of what was searched, which may be the start of a credential.
    held: Zeroizing<Vec<u8>>,
    /// So many of its first bytes belong to a credential that begins before them.
    hidden: usize,
    count: u64,
}

impl Searcher {
    /// Looks for these.
    pub fn new(finders: Vec<Arc<Finder>>) -> Self {
        Self { finders, held: Zeroizing::default(), hidden: 0, count: 0 }
    }

    /// Credentials that were masked.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Looks at the next piece.
    pub fn next(&mut self, piece: &[u8]) -> Found {
        if self.held.is_empty() {
            let (places, until) = self.look(piece, true);
            let until = until.unwrap_or(piece.len());
            if places.is_empty() {
                self.held = Zeroizing::new(piece[until..].to_vec());
                return Found::Nothing(until);
            }
            return Found::Instead(self.mask(piece.to_vec(), &places, until));
        }
        let held = std::mem::take(&mut self.held);
        let text = [&held[..], piece].concat();
        let (places, until) = self.look(&text, true);
        let until = until.unwrap_or(text.len());
        Found::Instead(self.mask(text, &places, until))
    }

    /// The stream has ended: what is still held back goes on.
    pub fn end(&mut self) -> Vec<u8> {
        let held = std::mem::take(&mut self.held);
        let (places, _) = self.look(&held, false);
        let until = held.len();
        self.mask(held.to_vec(), &places, until)
    }

    /// Masks a text that is whole, where it lies.
    pub fn whole(&mut self, text: &mut [u8]) {
        let (places, _) = self.look(text, false);
        self.count += places.len() as u64;
        places.iter().for_each(|(from, to)| text[*from..*to].fill(MASK));
    }

    /// Credentials in a text, as ranges that do not touch, and from where on the text must be held back.
    fn look(&self, text: &[u8], followed: bool) -> (Vec<(usize, usize)>, Option<usize>) {
        let (mut places, mut held) = (Vec::new(), None::<usize>);
        for finder in &self.finders {
            let cut = finder.scan(text, followed, |from, to| places.push((from, to)));
            held = [held, cut].into_iter().flatten().min();
        }
        // What begins where the text is held back is found again.
        places.retain(|(from, _)| held.is_none_or(|held| *from < held));
        places.sort_unstable();
        places.dedup_by(|next, kept| {
            let joined = next.0 < kept.1;
            if joined {
                kept.1 = kept.1.max(next.1);
            }
            joined
        });
        (places, held)
    }

    /// Gives the text up to where it is held back, masked, and holds back the rest as it is.
    fn mask(&mut self, mut text: Vec<u8>, places: &[(usize, usize)], until: usize) -> Vec<u8> {
        let hidden = std::mem::take(&mut self.hidden);
        self.held = Zeroizing::new(text[until..].to_vec());
        text[until..].fill(0);
        text.truncate(until);
        self.hidden = hidden.saturating_sub(until);
        text[..hidden.min(until)].fill(MASK);
        for (from, to) in places {
            text[*from..until.min(*to)].fill(MASK);
            self.hidden = self.hidden.max(to.saturating_sub(until));
            self.count += u64::from(*from >= hidden);
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn searcher(values: &[&str]) -> Searcher {
        let finder = |value: &&str| Arc::new(Finder::new(&[value.as_bytes()]).unwrap());
        Searcher::new(values.iter().map(finder).collect())
    }

    /// What goes on of each piece, and of the end.
    fn through(searcher: &mut Searcher, pieces: &[&[u8]]) -> Vec<String> {
        let mut out: Vec<Vec<u8>> = Vec::new();
        for piece in pieces {
            out.push(match searcher.next(piece) {
                Found::Nothing(until) => piece[..until].to_vec(),
                Found::Instead(text) => text,
            });
        }
        out.push(searcher.end());
        out.into_iter().map(|bytes| String::from_utf8(bytes).unwrap()).collect()
    }

    #[test]
    fn what_cannot_begin_a_credential_goes_on_at_once() {
        let mut searcher = searcher(&["sk-live-0123"]);
        let out = through(&mut searcher, &[b"data: 1\n\n", b"data: sk-li\n\n", b"x", b"s", b"k-lively"]);
        assert_eq!(out, ["data: 1\n\n", "data: sk-li\n\n", "x", "", "sk-lively", ""]);
        assert_eq!(searcher.count(), 0);
    }

    #[test]
    fn only_what_may_become_one_is_held_back() {
        let mut searcher = searcher(&["sk-live-0123"]);
        let out = through(&mut searcher, &[b"a sk-li", b"ve-01", b"23 b", b" sk-live"]);
        assert_eq!(out, ["a ", "", "************ b", " ", "sk-live"]);
        assert_eq!(searcher.count(), 1);
    }

    #[test]
    fn credentials_that_overlap_are_both_hidden_and_one_in_another_counts_once() {
        let mut searcher = searcher(&["abcdefghij", "ghijklmnop", "cdefghij"]);
        let out = through(&mut searcher, &[b"-abcdefghijklmnop-abcdefghij-"]);
        assert_eq!(out.concat(), "-****************-**********-");
        assert_eq!(searcher.count(), 2);
        let bytes: Vec<&[u8]> = b"-abcdefghijklmnop-abcdefghij-".chunks(1).collect();
        let out = through(&mut searcher, &bytes);
        assert_eq!(out.concat(), "-****************-**********-");
    }

    #[test]
    fn a_longer_credential_is_waited_for_where_a_shorter_is_whole() {
        let mut searcher = searcher(&["abcdefgh", "abcdefghijkl"]);
        assert_eq!(through(&mut searcher, &[b"abcdefgh", b"ijkl"]).concat(), "*".repeat(12));
        assert_eq!(through(&mut searcher, &[b"abcdefgh", b"ijk"]).concat(), "********ijk");
    }

    #[test]
    fn a_head_is_masked_where_it_lies() {
        let mut searcher = searcher(&["sk-live-0123"]);
        let mut head = b"HTTP/1.1 200 OK\r\nlocation: /?k=sk%2Dlive-0123\r\nx: sk-live-012\r\n\r\n".to_vec();
        searcher.whole(&mut head);
        let masked = b"HTTP/1.1 200 OK\r\nlocation: /?k=**************\r\nx: sk-live-012\r\n\r\n";
        assert_eq!(head, masked);
    }

    /// Words of a small alphabet, so that credentials, parts of them and their repetitions are common.
    struct Seeded(u64);

    impl Seeded {
        fn below(&mut self, bound: usize) -> usize {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (self.0 >> 33) as usize % bound
        }

        fn word(&mut self, length: usize) -> Vec<u8> {
            (0..length).map(|_| b"ab+"[self.below(3)]).collect()
        }
    }

    /// All lengths of text at the start of which the needle may be read, tried byte by byte.
    fn readings(needle: &[u8], text: &[u8]) -> Vec<usize> {
        let Some((first, rest)) = needle.split_first() else { return vec![0] };
        let escapes = [
            vec![*first],
            format!("%{first:02x}").into_bytes(),
            format!("%{first:02X}").into_bytes(),
            format!("\\u{first:04x}").into_bytes(),
        ];
        let mut found: Vec<usize> = escapes
            .iter()
            .filter(|escape| text.starts_with(escape))
            .flat_map(|escape| {
                let behind = readings(rest, &text[escape.len()..]);
                behind.into_iter().map(|length| length + escape.len())
            })
            .collect();
        found.sort_unstable();
        found.dedup();
        found
    }

    #[test]
    fn any_cutting_gives_what_a_search_byte_by_byte_of_the_whole_gives() {
        use data_encoding::{BASE64_NOPAD, HEXLOWER};
        for seed in 0..400 {
            let mut seeded = Seeded(seed);
            let (one, two) = (8 + seeded.below(6), 8 + seeded.below(6));
            let values = [seeded.word(one), seeded.word(two)];
            let mut text = Vec::new();
            for _ in 0..40 {
                let value = values[seeded.below(2)].clone();
                let cut = seeded.below(value.len() + 1);
                match seeded.below(7) {
                    0 => text.extend_from_slice(&value),
                    1 => text.extend_from_slice(&value[..cut]),
                    2 => text.extend(BASE64_NOPAD.encode(&value).into_bytes()),
                    3 => text.extend(HEXLOWER.encode(&value).into_bytes()),
                    4 => value.iter().for_each(|byte| match seeded.below(3) {
                        0 => text.extend(format!("%{byte:02x}").bytes()),
                        1 => text.extend(format!("\\u{byte:04x}").bytes()),
                        _ => text.push(*byte),
                    }),
                    5 => text.extend(seeded.word(3)),
                    _ => text.extend_from_slice(b"%\\u"),
                }
            }
            let mut expected = text.clone();
            let finders: Vec<Arc<Finder>> =
                values.iter().map(|value| Arc::new(Finder::new(&[value]).unwrap())).collect();
            for needle in values.iter().flat_map(|value| {
                [value.clone(), BASE64_NOPAD.encode(value).into_bytes(), HEXLOWER.encode(value).into_bytes()]
            }) {
                // Of base64 only the digits that no neighbour changes.
                let sure = if values.contains(&needle) || needle.iter().all(u8::is_ascii_hexdigit) {
                    needle.len()
                } else {
                    needle.len() * 6 / 8 * 8 / 6
                };
                for at in 0..text.len() {
                    for length in readings(&needle[..sure], &text[at..]) {
                        expected[at..at + length].fill(MASK);
                    }
                }
            }
            let mut searcher = Searcher::new(finders);
            let (mut out, mut rest) = (Vec::new(), &text[..]);
            while !rest.is_empty() {
                let (piece, behind) = rest.split_at(rest.len().min(1 + seeded.below(30)));
                match searcher.next(piece) {
                    Found::Nothing(until) => out.extend_from_slice(&piece[..until]),
                    Found::Instead(text) => out.extend(text),
                }
                rest = behind;
            }
            out.extend(searcher.end());
            let shown = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            assert_eq!(out.len(), text.len(), "seed {seed}");
            // The finder knows base64 at other offsets too, which may hide more, never less.
            let missed = expected.iter().zip(&out).any(|(wanted, got)| *wanted == MASK && *got != MASK);
            assert!(
                !missed,
                "seed {seed}: {} of {} should be {}",
                shown(&out),
                shown(&text),
                shown(&expected)
            );
            let changed = out.iter().zip(&text).any(|(got, was)| got != was && *got != MASK);
            assert!(!changed, "seed {seed}");
        }
    }
}
