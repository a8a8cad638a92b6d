//! Reading the heads of HTTP/1.1 requests and answers where they lie.

use std::hint::black_box;

use benches::heads::{ANSWER, BROWSER, LIBRARY};
use criterion::Throughput;
use dataplane::http::{parse_request, parse_response};

fn head_parse(criterion: &mut benches::Criterion) {
    let mut group = criterion.benchmark_group("head_parse");
    for (name, bytes) in [("browser_request", BROWSER), ("library_request", LIBRARY)] {
        group.throughput(Throughput::Bytes(bytes.len() as u64));
        group.bench_function(name, |bencher| bencher.iter(|| parse_request(black_box(bytes)).is_ok()));
        assert!(parse_request(bytes).is_ok(), "{name}");
    }
    group.throughput(Throughput::Bytes(ANSWER.len() as u64));
    group.bench_function("answer", |bencher| {
        bencher.iter(|| parse_response(black_box(ANSWER), "POST").is_ok())
    });
    assert!(parse_response(ANSWER, "POST").is_ok());
    group.finish();
}

benches::main!(head_parse);
