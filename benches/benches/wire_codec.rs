//! Writing and reading a delta of the link.

use std::hint::black_box;

use benches::{fleet, policy, seeded::Seeded};
use control_wire::message::{FRAME_HEADER_BYTES, ToPlane, frame_header};
use criterion::{BenchmarkId, Throughput};

/// The message in a frame, as a plane reads it off the stream.
fn decode(frame: &[u8]) -> ToPlane {
    let (header, body) = frame.split_first_chunk::<FRAME_HEADER_BYTES>().expect("a header");
    let (tag, length) = frame_header(*header).expect("a length within bounds");
    assert_eq!(length, body.len());
    ToPlane::decode(tag, body).expect("a message").expect("a known tag")
}

fn deltas() -> [(&'static str, ToPlane); 3] {
    let mut seeded = Seeded::new(1);
    let hosts = policy::patterns(100, &mut seeded).join("\",\"");
    let document = format!(r#"{{"allowedHosts":["{hosts}"]}}"#);
    let sandboxes = (0..100).map(|number| fleet::sandbox(number, "{}", &mut seeded)).collect();
    let overrides = r#"{"allowedHosts":["api.openai.com","pypi.org"]}"#;
    [
        ("one_sandbox", vec![fleet::sandbox(7, overrides, &mut seeded)]),
        ("one_template_of_100_hosts", vec![fleet::template(&document)]),
        ("100_sandboxes", sandboxes),
    ]
    .map(|(name, ops)| (name, ToPlane::Delta { revision: 42, ops }))
}

fn wire_codec(criterion: &mut benches::Criterion) {
    let mut group = criterion.benchmark_group("wire_codec");
    for (name, delta) in deltas() {
        let frame = delta.encode();
        let frame = frame.as_slice();
        assert!(decode(frame) == delta, "{name}");
        group.throughput(Throughput::Bytes(frame.len() as u64));
        group.bench_function(BenchmarkId::new("encode", name), |bencher| {
            bencher.iter(|| black_box(&delta).encode())
        });
        group.bench_function(BenchmarkId::new("decode", name), |bencher| {
            bencher.iter(|| decode(black_box(frame)))
        });
    }
    group.finish();
}

benches::main!(wire_codec);
