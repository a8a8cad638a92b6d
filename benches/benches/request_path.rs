//! Everything that is decided about one request, from the bytes of its head to the bytes of the head that is sent on:
//! parse, authority, policy, handler, injection.

mod guest;

use std::hint::black_box;

use benches::{
    fleet,
    heads::{BROWSER, LIBRARY},
    policy::TEMPLATE,
    seeded::Seeded,
    shard::{Shard, on_shard},
};
use control_wire::row::{Envelope, HandlerRow, Op, SecretRow, SecretValue};
use dataplane::{flow::request::Step, snapshot::Tables};

/// A policy that asks the example handler for one host.
const WITH_HANDLER: &str = r#"{"outboundByHost": [{"host": "api.github.com", "handler": "inject-token"}]}"#;

fn tables(document: &str) -> Tables {
    fleet::change(&fleet::tables(1, &mut Seeded::new(1)), vec![fleet::template(document)])
}

/// The tables with the handler and the secret that it names.
fn with_handler() -> Tables {
    let version = guest::loaded(&guest::module());
    let envelope = Envelope::Apart { bytes: 1 };
    let handler = HandlerRow { name: "inject-token".into(), version: 1, hash: [1; 32], envelope };
    let secret = SecretRow {
        name: "github".into(),
        version: 1,
        value: SecretValue::new(fleet::SECRET),
        hosts: vec!["api.github.com".into()],
        allow_plaintext: false,
    };
    let ops = vec![Op::UpsertHandler(handler), Op::UpsertSecret(secret)];
    let before = tables(WITH_HANDLER);
    before.apply(before.revision + 1, ops, &|_| Ok(version.clone())).expect("rows that hold").0
}

fn request_path(criterion: &mut benches::Criterion) {
    on_shard(|| measure(criterion));
}

fn measure(criterion: &mut benches::Criterion) {
    let mut group = criterion.benchmark_group("request_path");
    for (name, tables, bytes, host) in [
        ("allowed", tables(r#"{"allowedHosts": ["*.github.com"]}"#), BROWSER, "api.github.com"),
        ("allowed_with_credential_by_rule", tables(TEMPLATE), LIBRARY, "api.openai.com"),
        ("credential_by_handler", with_handler(), BROWSER, "api.github.com"),
    ] {
        let (shard, facts) = (Shard::new(tables), Shard::facts(host));
        let Ok(Step::Send(outbound)) = shard.prepare(bytes, &facts) else { panic!("{name} is not sent") };
        let secret = outbound.head.windows(fleet::SECRET.len()).any(|part| part == fleet::SECRET);
        assert_eq!(secret, name != "allowed", "{name}");
        group
            .bench_function(name, |bencher| bencher.iter(|| shard.prepare(black_box(bytes), &facts).is_ok()));
    }
    group.finish();
}

benches::main!(request_path);
