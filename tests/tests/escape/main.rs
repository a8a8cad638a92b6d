//! Ways out of the sandbox of `outgate run`, tried by whoever has all the code of the world inside: as the caller's own
//! user, and as root of a user namespace of its own. Each is first taken without the sandbox where a machine allows it.

mod kernel;
mod mounts;
mod neighbours;
mod network;
mod processes;
mod terminal;

use std::process::Command;

use tests::sandboxed::{Ground, text};

/// A text that nobody inside may read.
const HIDDEN: &str = "ghp_91c2fe07aa53";

/// In front of every script: system calls by number, and a word for what came of one.
const PRELUDE: &str = "
import ctypes, errno, fcntl, os, socket, struct, subprocess, sys
libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
def call(number, *arguments):
    answer = libc.syscall(number, *arguments)
    return answer if answer >= 0 else -ctypes.get_errno()
def tried(what, attempt):
    try:
        done = attempt()
        if isinstance(done, int) and not isinstance(done, bool) and done < 0:
            done = errno.errorcode[-done]
    except OSError as error:
        done = errno.errorcode.get(error.errno, str(error))
    print(what, done, flush=True)
";

/// A script in Python, with the prelude.
fn python(script: &str) -> [String; 3] {
    ["python3".into(), "-c".into(), format!("{PRELUDE}{script}")]
}

/// A program run as root of a user namespace of its own, with mounts and processes of its own.
const NESTED: [&str; 5] = ["unshare", "--user", "--map-root-user", "--mount", "--"];

/// The sandbox by itself, with a stand-in for the plane.
struct Cell(Ground);

impl Cell {
    fn new() -> Self {
        Self(Ground::new(env!("CARGO_BIN_EXE_in-sandbox")))
    }

    /// What a script says without the sandbox, in it, and in a user namespace in it.
    fn tell(&self, options: &[&str], script: &str, arguments: &[&str]) -> [String; 3] {
        let script = python(script);
        let script: Vec<&str> = script.iter().map(String::as_str).chain(arguments.iter().copied()).collect();
        let nested = [&NESTED[..], &script].concat();
        let mut outside = self.0.command(script[0], &script[1..]);
        let (mut inside, mut nested) = (self.0.inside(options, &script), self.0.inside(options, &nested));
        [said(&mut outside), said(&mut inside), said(&mut nested)]
    }
}

fn said(command: &mut Command) -> String {
    text(&command.output().expect("it runs"))
}
