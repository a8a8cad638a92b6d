//! The `outgate` command.

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // Before anything else: the compiler's child reads no configuration and starts no threads of ours.
    let arguments: Vec<String> =
        std::env::args_os().skip(1).map(|text| text.to_string_lossy().into_owned()).collect();
    if arguments.first().is_some_and(|first| first == control::compile::CHILD_COMMAND) {
        return control::compile::child_main(&arguments[1..]);
    }
    // Nor do those that leave the machine's namespaces, for which they must have one thread.
    control::sandbox::process(&arguments)
        .or_else(|| control::gateway::process(&arguments))
        .or_else(|| control::demo::process(&arguments))
        .unwrap_or_else(control::cli::main)
}
