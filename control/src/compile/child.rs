//! The compiler's process: this executable again, with a hidden command, bounded in memory and time.
#![allow(unsafe_code, reason = "resource limits have no safe interface in std or libc")]

use std::io::{self, Read, Write};
use std::path::Path;
use std::process::{Command, ExitCode, ExitStatus, Stdio};
use std::thread;

use control_wire::envelope::CompileTarget;
use control_wire::limits::ENVELOPE_BYTES_MAX;

use super::cranelift::compile;
use super::limits::{CHILD_MEMORY_BYTES, CHILD_REASON_BYTES_MAX, CHILD_TIME, CHILD_WALL, WASM_BYTES_MAX};
use crate::causes::chain;

/// The hidden command: `outgate compile-child TRIPLE FEATURE,FEATURE`. Its `main` hands over to [`child_main`] before
/// it does anything else.
pub const CHILD_COMMAND: &str = "compile-child";

/// Why the child gave no code.
#[derive(Debug, thiserror::Error)]
pub enum ChildError {
    /// It could not be started or spoken to.
    #[error("the compiler's process cannot be run")]
    Io(#[from] io::Error),
    /// It refused, and said why.
    #[error("{0}")]
    Refused(String),
    /// It was ended by a signal: out of memory or of time, or a fault in the compiler.
    #[error(
        "the compiler's process ended by {status}: out of its {CHILD_MEMORY_BYTES} bytes or {CHILD_TIME:?}"
    )]
    Ended {
        /// How.
        status: ExitStatus,
    },
    /// Its code is larger than an envelope may be.
    #[error("the compiled code is larger than {ENVELOPE_BYTES_MAX} bytes")]
    TooLarge,
}

/// Compiles in a child of `executable`. Blocks until it ends, which its own limits force.
///
/// # Errors
/// Where the child cannot be run, refuses, or exceeds a limit.
pub fn compile_in_child(
    executable: &Path,
    wasm: &[u8],
    target: &CompileTarget,
) -> Result<Vec<u8>, ChildError> {
    let mut child = Command::new(executable)
        .arg(CHILD_COMMAND)
        .arg(&target.triple)
        .arg(target.cpu_features.join(","))
        .env_clear()
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let pipes = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let (Some(mut input), Some(output), Some(complaint)) = pipes else {
        return Err(io::Error::from(io::ErrorKind::BrokenPipe).into());
    };
    let (code, reason) = thread::scope(|scope| {
        let code = scope.spawn(move || read_up_to(output, ENVELOPE_BYTES_MAX + 1));
        let reason = scope.spawn(move || read_up_to(complaint, CHILD_REASON_BYTES_MAX));
        // A child that refuses early closes its input; what it says is worth more than the broken pipe.
        let _ = input.write_all(wasm);
        drop(input);
        (code.join(), reason.join())
    });
    let status = child.wait()?;
    let lost = |_| io::Error::from(io::ErrorKind::BrokenPipe);
    let (code, reason) = (code.map_err(lost)??, reason.map_err(lost)??);
    match status.code() {
        Some(0) if code.len() > ENVELOPE_BYTES_MAX => Err(ChildError::TooLarge),
        Some(0) => Ok(code),
        Some(_) if !reason.is_empty() => {
            Err(ChildError::Refused(String::from_utf8_lossy(&reason).trim().to_owned()))
        }
        _ => Err(ChildError::Ended { status }),
    }
}

/// Reads at most `bytes_max` bytes and drops the pipe, which ends a child that writes more.
fn read_up_to(pipe: impl Read, bytes_max: usize) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    pipe.take(bytes_max as u64).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The child's whole life: limits itself, reads the module, writes the code or a reason.
pub fn child_main(arguments: &[String]) -> ExitCode {
    match child(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => {
            let mut reason = reason;
            reason.truncate(reason.floor_char_boundary(CHILD_REASON_BYTES_MAX));
            // There is nobody else to tell when this fails.
            let _ = io::stderr().write_all(reason.as_bytes());
            ExitCode::FAILURE
        }
    }
}

fn child(arguments: &[String]) -> Result<(), String> {
    let [triple, features] = arguments else {
        return Err(format!("usage: {CHILD_COMMAND} TRIPLE FEATURE,FEATURE"));
    };
    limit_this_process().map_err(|error| format!("cannot limit this process: {error}"))?;
    let features = features.split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect();
    let target = CompileTarget::new(triple.clone(), features);
    let wasm = read_up_to(io::stdin().lock(), WASM_BYTES_MAX + 1).map_err(|error| error.to_string())?;
    let code = compile(&wasm, &target).map_err(|error| chain(&error))?;
    io::stdout().lock().write_all(&code).map_err(|error| error.to_string())
}

fn limit_this_process() -> io::Result<()> {
    limit(libc::RLIMIT_AS, CHILD_MEMORY_BYTES)?;
    limit(libc::RLIMIT_CPU, CHILD_TIME.as_secs())?;
    // Code goes through a pipe; the compiler writes no file and leaves no core.
    limit(libc::RLIMIT_FSIZE, 0)?;
    limit(libc::RLIMIT_CORE, 0)?;
    // SAFETY: takes a number and arms a timer whose signal ends the process; std has no such thing.
    unsafe { libc::alarm(CHILD_WALL.as_secs() as libc::c_uint) };
    // SAFETY: the arguments are numbers as prctl(2) asks for; the kernel then ends this process with its parent.
    let failed = unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
    if failed == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn limit(resource: libc::__rlimit_resource_t, value: u64) -> io::Result<()> {
    let limit = libc::rlimit { rlim_cur: value, rlim_max: value };
    // SAFETY: `limit` is a valid structure for the length of the call, which copies it.
    let failed = unsafe { libc::setrlimit(resource, &limit) };
    if failed == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
