//! Decides about requests, as many as it is told, from the bytes of each head to those of the head that is sent on, and
//! does nothing else: `valgrind --tool=callgrind` around it counts their instructions.
//!
//!     requests COUNT

use std::{hint::black_box, process::ExitCode};

use benches::{
    MiMalloc, fleet,
    heads::LIBRARY,
    policy::TEMPLATE,
    seeded::Seeded,
    shard::{Shard, on_shard},
};
use dataplane::flow::request::Step;

#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> ExitCode {
    let Some(count) = std::env::args().nth(1).and_then(|count| count.parse::<u32>().ok()) else {
        eprintln!("requests: say how many, a number");
        return ExitCode::FAILURE;
    };
    let tables = fleet::change(&fleet::tables(1, &mut Seeded::new(1)), vec![fleet::template(TEMPLATE)]);
    on_shard(|| {
        let (shard, facts) = (Shard::new(tables), Shard::facts("api.openai.com"));
        for _ in 0..count {
            let step = shard.prepare(black_box(LIBRARY), &facts);
            assert!(matches!(step, Ok(Step::Send(_))), "the request is allowed");
        }
    });
    ExitCode::SUCCESS
}
