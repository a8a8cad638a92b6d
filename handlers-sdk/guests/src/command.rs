//! Running programs: what they write is kept, and shown where they fail.

use std::process::{Command, Stdio};

use crate::BuildError;

/// Lines of a failed program's output that are shown. Larger: the cause drowns. Smaller: it is cut.
const LINES_SHOWN: usize = 60;

/// Runs a program to its end and answers its standard output.
pub(crate) fn run(command: &mut Command) -> Result<String, BuildError> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .map_err(|source| BuildError::Start { program: name(command), source })?;
    if output.status.success() {
        return String::from_utf8(output.stdout).map_err(|_| BuildError::Form { program: name(command) });
    }
    let text = String::from_utf8_lossy(&output.stderr);
    let lines: Vec<&str> = text.lines().collect();
    let shown = lines[lines.len().saturating_sub(LINES_SHOWN)..].join("\n");
    Err(BuildError::Failed { program: line(command), output: shown })
}

fn name(command: &Command) -> String {
    command.get_program().to_string_lossy().into_owned()
}

fn line(command: &Command) -> String {
    let arguments = command.get_args().map(|argument| format!(" {}", argument.to_string_lossy()));
    name(command) + &arguments.collect::<String>()
}
