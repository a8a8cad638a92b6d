//! Putting a credential on a request by rule.

use benches::{
    fleet,
    heads::{LIBRARY, request},
    policy::{TEMPLATE, permit, rules},
    seeded::Seeded,
};
use criterion::BatchSize;
use dataplane::{
    http::{Authority, OutgoingRequest},
    inject,
};

fn injection(criterion: &mut benches::Criterion) {
    let permit = permit(&rules(TEMPLATE));
    let tables = fleet::tables(1, &mut Seeded::new(1));
    let head = request(LIBRARY);
    let authority = Authority { scheme: permit.scheme(), host: permit.host().clone(), port: permit.port() };
    let outgoing = OutgoingRequest::new(&head, &authority);
    let put = |outgoing: &mut OutgoingRequest<'_>| {
        for injection in permit.injections() {
            inject::put(&permit, injection, tables.secret(&injection.secret), outgoing)
                .expect("bound to the host");
        }
    };
    let mut written = Vec::new();
    let mut once = outgoing.clone();
    put(&mut once);
    once.write_to(&mut written).expect("short enough");
    assert!(written.windows(fleet::SECRET.len()).any(|part| part == fleet::SECRET));
    criterion.bench_function("injection/bearer_by_rule", |bencher| {
        bencher.iter_batched_ref(|| outgoing.clone(), put, BatchSize::SmallInput);
    });
}

benches::main!(injection);
