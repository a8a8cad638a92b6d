//! One change among 100,000 sandboxes: building the next revision while shards hold the one before.

use benches::{
    fleet::{self, change},
    policy::TEMPLATE,
    seeded::Seeded,
};
use criterion::BatchSize;

/// Sandboxes of the fleet.
const SANDBOXES: usize = 100_000;

fn table_change(criterion: &mut benches::Criterion) {
    let mut seeded = Seeded::new(1);
    let before = fleet::tables(SANDBOXES, &mut seeded);
    assert_eq!(before.sandboxes.len(), SANDBOXES);
    let mut group = criterion.benchmark_group("change_among_100000_sandboxes");
    let overrides = r#"{"allowedHosts":["api.openai.com","pypi.org"],"enableInternet":false}"#;
    group.bench_function("one_sandbox", |bencher| {
        let op = || vec![fleet::sandbox(seeded.below(SANDBOXES), overrides, &mut seeded)];
        bencher.iter_batched(op, |ops| change(&before, ops), BatchSize::SmallInput);
    });
    group.bench_function("one_template", |bencher| {
        let op = || vec![fleet::template(TEMPLATE)];
        bencher.iter_batched(op, |ops| change(&before, ops), BatchSize::SmallInput);
    });
    group.bench_function("one_secret", |bencher| {
        bencher.iter_batched(|| vec![fleet::secret()], |ops| change(&before, ops), BatchSize::SmallInput);
    });
    // The link thread also drops the revision that the last shard let go.
    group.bench_function("one_sandbox_and_drop_the_revision_before", |bencher| {
        let mut tables = before.clone();
        bencher.iter_batched(
            || vec![fleet::sandbox(seeded.below(SANDBOXES), overrides, &mut seeded)],
            |ops| tables = change(&tables, ops),
            BatchSize::SmallInput,
        );
    });
    group.finish();
}

benches::main!(table_change);
