//! Finding a host among 1, 100 and 10,000 patterns, and judging a whole request.

use std::hint::black_box;

use benches::{
    policy::{TEMPLATE, asked, host_of, patterns, rules, table},
    seeded::Seeded,
};
use criterion::BenchmarkId;
use dataplane::{
    http::Host,
    identity::SandboxId,
    policy::{Decision, decide},
};

fn host_match(criterion: &mut benches::Criterion) {
    let mut group = criterion.benchmark_group("host_match");
    for count in [1, 100, 10_000] {
        let mut seeded = Seeded::new(1);
        let patterns = patterns(count, &mut seeded);
        let table = table(&patterns);
        // More hosts than one cache line, in no order: a single one would be found in the processor's cache only.
        let hits: Vec<Host> = (0..256).map(|_| host_of(&patterns[seeded.below(count)])).collect();
        let misses: Vec<Host> = (0..256)
            .map(|at| Host::parse(&format!("h{at}.s{:x}.example.org", seeded.below(4096))).expect("a name"))
            .collect();
        for (name, hosts, found) in [("hit", &hits, true), ("miss", &misses, false)] {
            assert!(hosts.iter().all(|host| table.find(host, 443).is_some() == found), "{name}");
            let mut hosts = hosts.iter().cycle();
            group.bench_function(BenchmarkId::new(name, count), |bencher| {
                bencher.iter(|| table.find(black_box(hosts.next().expect("endless")), 443));
            });
        }
    }
    group.finish();
}

/// Globs with a star elsewhere than in front are walked one by one; this says what one of them costs.
fn open_globs(criterion: &mut benches::Criterion) {
    let mut group = criterion.benchmark_group("host_match_open_globs");
    for count in [1, 100] {
        let patterns: Vec<String> = (0..count).map(|at| format!("api-*.s{at}.example.com")).collect();
        let (table, miss) = (table(&patterns), Host::parse("api-eu.s-1.example.com").expect("a name"));
        assert_eq!(table.find(&miss, 443), None);
        group.bench_function(BenchmarkId::new("miss", count), |bencher| {
            bencher.iter(|| table.find(black_box(&miss), 443));
        });
    }
    group.finish();
}

fn whole_policy(criterion: &mut benches::Criterion) {
    let (rules, sandbox) = (rules(TEMPLATE), SandboxId::new("box-0").expect("an id"));
    let host = Host::parse("api.openai.com").expect("a name");
    let asked = asked(&host);
    assert!(matches!(decide(&rules, &sandbox, &asked), Decision::Allow(_)));
    criterion.bench_function("decide/allow_with_credential", |bencher| {
        bencher.iter(|| decide(&rules, &sandbox, black_box(&asked)));
    });
}

benches::main!(host_match, open_globs, whole_policy);
