//! The `outgate` command.

use std::{env, process::ExitCode};

use control::compile;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let arguments: Vec<String> =
        env::args_os().skip(1).map(|argument| argument.to_string_lossy().into_owned()).collect();
    // Before anything else: the compiler's process limits itself, and must hold nothing by then that it should not.
    if let Some((command, rest)) = arguments.split_first()
        && command == compile::CHILD_COMMAND
    {
        return compile::child_main(rest);
    }
    eprintln!("outgate: no such command: {arguments:?}");
    ExitCode::FAILURE
}
