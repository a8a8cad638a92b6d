//! Searches against the simplest possible ones, over every cutting into chunks.

use super::*;

/// xorshift64*, seeded.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) as usize % bound
    }

    /// Few letters, so that patterns overlap, hold each other and repeat.
    fn text(&mut self, longest: usize) -> Vec<u8> {
        (0..1 + self.below(longest)).map(|_| b"aAbBc"[self.below(5)]).collect()
    }

    fn chunks<'a>(&mut self, mut text: &'a [u8]) -> Vec<&'a [u8]> {
        let mut chunks = Vec::new();
        while !text.is_empty() {
            let (chunk, rest) = text.split_at(1 + self.below(text.len().min(7)));
            chunks.push(chunk);
            text = rest;
        }
        chunks
    }
}

fn same(one: &[u8], other: &[u8], ignore_case: bool) -> bool {
    if ignore_case { one.eq_ignore_ascii_case(other) } else { one == other }
}

/// Every match, by its end, the longest first.
fn naive(text: &[u8], patterns: &[Vec<u8>], ignore_case: bool) -> Vec<Match> {
    let mut found = Vec::new();
    for end in 1..=text.len() {
        for start in 0..end {
            // Of equal patterns the first one counts.
            let pattern = patterns.iter().position(|pattern| same(&text[start..end], pattern, ignore_case));
            found.extend(pattern.map(|pattern| Match { pattern, start: start as u64, end: end as u64 }));
        }
    }
    found
}

fn naive_replace(text: &[u8], patterns: &[Vec<u8>], ignore_case: bool) -> (Vec<u8>, u64) {
    let (mut out, mut at, mut count) = (Vec::new(), 0, 0);
    while at < text.len() {
        let longest = patterns
            .iter()
            .map(Vec::len)
            .filter(|length| at + length <= text.len())
            .filter(|length| patterns.iter().any(|p| same(&text[at..at + length], p, ignore_case)))
            .max();
        match longest {
            Some(length) => {
                out.extend_from_slice(b"<x>");
                (at, count) = (at + length, count + 1);
            }
            None => {
                out.push(text[at]);
                at += 1;
            }
        }
    }
    (out, count)
}

#[test]
fn scans_and_replacements_agree_with_the_simplest_search_however_the_text_is_cut() {
    let seed = 0x5EA_2C4_u64;
    let mut random = Random(seed);
    let mut matches = 0;
    for round in 0..3_000 {
        let patterns: Vec<Vec<u8>> = (0..1 + random.below(6)).map(|_| random.text(5)).collect();
        let (text, ignore_case) = (random.text(40), random.below(2) == 0);
        let search = Search::try_new(&patterns, ignore_case).expect("sound");
        let context = format!("seed {seed:#x} round {round}: {patterns:?} in {text:?}, {ignore_case}");
        let (mut scan, mut found) = (search.scan(), Vec::new());
        let (mut replace, mut out) = (Replace::new(&search, "<x>"), Vec::new());
        for chunk in random.chunks(&text) {
            scan.feed(chunk, |one| found.push(one));
            replace.feed(chunk, &mut out);
            assert!(replace.held.len() <= search.longest(), "{context}");
        }
        replace.end(&mut out);
        assert_eq!(found, naive(&text, &patterns, ignore_case), "{context}");
        assert_eq!((out, replace.count()), naive_replace(&text, &patterns, ignore_case), "{context}");
        matches += found.len();
    }
    assert!(matches > 10_000, "the texts hold too few matches to prove anything: {matches}");
}

#[test]
fn the_first_match_of_a_chunk_is_told_and_the_rest_is_not_forgotten() {
    let mut scan = Search::new(["ab", "b", "cd"]).scan();
    assert_eq!(scan.finds(b"xab c"), Some(Match { pattern: 0, start: 1, end: 3 }));
    assert_eq!(scan.finds(b"d"), Some(Match { pattern: 2, start: 4, end: 6 }));
    assert_eq!(scan.finds(b""), None);
}

#[test]
fn every_byte_may_be_searched_for_and_nothing_is_never_found() {
    let all: Vec<u8> = (0..=255).collect();
    let search = Search::new([&all[..], &[0], &[255, 0]]);
    let mut ends = Vec::new();
    search.scan().feed(&[&all[..], &all[..]].concat(), |found| ends.push((found.pattern, found.end)));
    assert_eq!(ends, [(1, 1), (0, 256), (2, 257), (1, 257), (0, 512)]);
    assert!(!Search::new::<&str>([]).is_in(&all));
}

#[test]
fn held_back_bytes_come_at_the_end_and_another_stream_begins_anew() {
    let mut replace = Replace::new(&Search::new(["abcd", "bc"]), "-");
    let mut out = Vec::new();
    replace.feed(b"xabc", &mut out);
    assert_eq!(out, b"x", "`abc` may become `abcd`");
    replace.end(&mut out);
    assert_eq!(out, b"xa-");
    replace.feed(b"d", &mut out);
    assert_eq!(out, b"xa-d");
}

#[test]
fn patterns_are_bounded_and_read_from_parameters() {
    assert_eq!(Search::try_new([""], false).expect_err("empty"), SearchError::Empty);
    let long = vec![b'a'; PATTERN_BYTES_MAX];
    assert!(Search::try_new([&long], false).is_ok());
    assert_eq!(Search::try_new([&long[..], b"b"], false).expect_err("long"), SearchError::TooLong);
    let read: Search = serde_json::from_str(r#"["Ab"]"#).expect("a list");
    assert!(read.is_in("xAb") && !read.is_in("xab"));
    #[derive(serde::Deserialize)]
    struct Params {
        #[serde(deserialize_with = "ignoring_case")]
        words: Search,
    }
    let params: Params = serde_json::from_str(r#"{"words":["Ab"]}"#).expect("a list");
    assert!(params.words.is_in("xaB"));
    assert!(serde_json::from_str::<Search>(r#"["a",""]"#).is_err());
}
