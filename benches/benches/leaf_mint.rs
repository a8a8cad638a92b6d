//! The certificate of a host: minted at its first connection, found in the cache afterwards.

use std::{hint::black_box, time::SystemTime};

use criterion::BatchSize;
use dataplane::{
    limits::LEAVES_PER_SANDBOX_MAX,
    tls::{Authority, CertName, PoolMaster, Protocol, SandboxSalt, Terminator},
};

/// Sandboxes of a pool, as its planes derive them.
struct Pool {
    master: PoolMaster,
    certificate: Vec<u8>,
}

impl Pool {
    fn new(now: SystemTime) -> Self {
        let master = PoolMaster::ephemeral().expect("a master");
        let authority = Authority::derive(&master, &SandboxSalt([7; 32])).expect("an authority");
        let certificate = authority.issue_certificate("box-0", now, 30).expect("a certificate");
        Self { master, certificate }
    }

    fn authority(&self) -> Authority {
        Authority::derive(&self.master, &SandboxSalt([7; 32])).expect("an authority")
    }

    /// The TLS end of a sandbox whose certificate is stored.
    fn terminator(&self, now: SystemTime) -> Terminator {
        let issuer = self.authority().with_certificate(self.certificate.clone()).expect("an issuer");
        Terminator::new(issuer, now).expect("a terminator")
    }
}

fn name(number: usize) -> CertName {
    CertName::parse(&format!("h{number}.example.com")).expect("a name")
}

fn leaf(criterion: &mut benches::Criterion) {
    let now = SystemTime::now();
    let mut group = criterion.benchmark_group("leaf");
    let terminator = Pool::new(now).terminator(now);
    // Every name is new, and from the bound on each takes the place of the oldest: the worst case of the path.
    let mut number = 0;
    let mut fresh = || {
        number += 1;
        name(number)
    };
    group.bench_function("mint", |bencher| {
        bencher.iter_batched(
            &mut fresh,
            |name| terminator.settings(&name, Some(Protocol::Http11), now).expect("settings"),
            BatchSize::SmallInput,
        );
    });
    assert!(terminator.leaves() <= LEAVES_PER_SANDBOX_MAX);
    let known: Vec<CertName> = (1..=LEAVES_PER_SANDBOX_MAX).map(name).collect();
    for name in &known {
        terminator.settings(name, Some(Protocol::Http11), now).expect("settings");
    }
    let mut names = known.iter().cycle();
    group.bench_function("cache_hit", |bencher| {
        bencher.iter(|| {
            terminator
                .settings(black_box(names.next().expect("endless")), Some(Protocol::Http11), now)
                .expect("settings")
        });
    });
    group.finish();
}

/// What the first connection of a sandbox costs beyond its first leaf.
fn first_use(criterion: &mut benches::Criterion) {
    let now = SystemTime::now();
    let pool = Pool::new(now);
    let mut group = criterion.benchmark_group("sandbox_authority");
    group.bench_function("derive", |bencher| bencher.iter(|| pool.authority()));
    group.bench_function("derive_and_make_ready", |bencher| bencher.iter(|| pool.terminator(black_box(now))));
    group.finish();
}

benches::main!(leaf, first_use);
