//! What the benches share: inputs as they come in the field, made from a seed, and how they are measured.

use std::time::Duration;

pub use mimalloc::MiMalloc;

pub mod fleet;
pub mod heads;
pub mod policy;
pub mod processor_time;
pub mod seeded;
pub mod shard;

/// Time of a handler's call in benches. Longer than planes give (`HANDLER_TIME`): a virtual machine is stopped for longer in
/// the midst of one call of some millions, and none of them may fail.
pub const CALL_TIME: Duration = Duration::from_secs(5);

/// What benches are given.
pub type Criterion = criterion::Criterion<processor_time::ProcessorTime>;

/// Measures for three seconds after half a second of warming up: each bench ends within half a minute.
pub fn criterion() -> Criterion {
    criterion::Criterion::default()
        .with_measurement(processor_time::ProcessorTime)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(3))
        .sample_size(50)
        .configure_from_args()
}

/// The `main` of a bench: these functions in turn, with the allocator of the shipped binaries.
#[macro_export]
macro_rules! main {
    ($($target:path),+) => {
        #[global_allocator]
        static ALLOCATOR: $crate::MiMalloc = $crate::MiMalloc;

        fn main() {
            let mut criterion = $crate::criterion();
            $($target(&mut criterion);)+
            criterion.final_summary();
        }
    };
}
