//! The compiler's child process alone, for tests that compile as control does.

use std::process::ExitCode;

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    match arguments.next().as_deref() {
        Some(control::compile::CHILD_COMMAND) => control::compile::child_main(&arguments.collect::<Vec<_>>()),
        _ => ExitCode::from(64),
    }
}
