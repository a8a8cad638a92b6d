//! Searching answers for the credential that their request was given.

use std::{hint::black_box, io::Write, sync::Arc};

use benches::seeded::Seeded;
use criterion::{BatchSize, Throughput};
use dataplane::{
    http::Field,
    redact::{Finder, Search, Searcher},
};
use flate2::{Compression, write::GzEncoder};

/// As long as keys of the usual services.
const CREDENTIAL: &[u8] = b"sk-proj-7Hq2mVxT9bLcD4wEfR8yUaKs";
/// Bytes of an answer.
const ANSWER_BYTES: usize = 256 << 10;
/// Bytes of what arrives at once.
const PIECE_BYTES: usize = 16 << 10;

/// Words of letters and digits, each with this behind it.
fn text(behind: &str) -> Vec<u8> {
    let mut seeded = Seeded::new(7);
    let mut text = Vec::with_capacity(ANSWER_BYTES);
    while text.len() < ANSWER_BYTES {
        let word = (0..3 + seeded.below(9)).map(|_| b"etaoinshrdlucmfwypvbgkjqxz0123"[seeded.below(30)]);
        text.extend(word);
        text.extend_from_slice(behind.as_bytes());
    }
    text
}

/// All pieces of an answer, searched.
fn searched(finder: &Arc<Finder>, coding: Option<&'static [u8]>, body: &[u8]) -> usize {
    let mut search = Search::new(Searcher::new(vec![Arc::clone(finder)]));
    let field = coding.map(|value| Field { name: b"content-encoding", value });
    search.begin(200, field.into_iter()).expect("a known coding");
    let mut left = 0;
    for piece in body.chunks(PIECE_BYTES) {
        let mut out = Vec::new();
        left += if search.piece(piece, &mut out).expect("sound") { out.len() } else { piece.len() };
        while coding.is_some() {
            out.clear();
            search.more(&mut out).expect("sound");
            left += out.len();
            if out.is_empty() {
                break;
            }
        }
    }
    let mut out = Vec::new();
    search.end(&mut out).expect("whole");
    left + out.len()
}

fn redaction(criterion: &mut benches::Criterion) {
    criterion.bench_function("redaction/finder_made", |bencher| {
        bencher.iter_batched(|| (), |()| Finder::new(&[CREDENTIAL]), BatchSize::SmallInput);
    });
    let finder = Arc::new(Finder::new(&[CREDENTIAL]).expect("long enough"));
    let plain = text(" ");
    let mut gzip = GzEncoder::new(Vec::new(), Compression::default());
    gzip.write_all(&plain).expect("memory takes it");
    let gzip = gzip.finish().expect("memory takes it");
    let escaped = text("\\\", \\\"");
    let bodies = [("plain", None, &plain), ("escaped", None, &escaped), ("gzip", Some(&b"gzip"[..]), &gzip)];
    let mut group = criterion.benchmark_group("redaction");
    for (name, coding, body) in bodies {
        let whole = searched(&finder, coding, body);
        assert!(whole >= ANSWER_BYTES, "{name}: everything goes on");
        group.throughput(Throughput::Bytes(whole as u64));
        group.bench_function(name, |bencher| bencher.iter(|| searched(&finder, coding, black_box(body))));
    }
}

benches::main!(redaction);
