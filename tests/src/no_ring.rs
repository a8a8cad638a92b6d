//! Runs programs where `io_uring_setup` is refused, as the default profiles of container engines do it.

use std::process::Command;

/// Refuses the call to itself with the error that its first argument is the number of, and becomes the program that
/// the others name. The filter: load the call's number, compare, refuse or allow (seccomp(2)).
const REFUSE_RING: &str = "
import ctypes, os, struct, sys
def step(code, yes, no, k): return struct.pack('HBBI', code, yes, no, k)
refused = 0x00050000 | int(sys.argv[1])
steps = step(0x20, 0, 0, 0) + step(0x15, 0, 1, 425) + step(0x06, 0, 0, refused) + step(0x06, 0, 0, 0x7fff0000)
filter = ctypes.create_string_buffer(steps, len(steps))
program = ctypes.create_string_buffer(struct.pack('HxxxxxxP', 4, ctypes.addressof(filter)))
libc = ctypes.CDLL(None, use_errno=True)
assert libc.prctl(38, 1, 0, 0, 0) == 0 and libc.prctl(22, 2, program) == 0, os.strerror(ctypes.get_errno())
os.execv(sys.argv[2], sys.argv[2:])
";

/// The same program with the same arguments and variables, and without io_uring: the call answers `errno` to it and to
/// whatever it starts.
pub fn without_ring(errno: i32, command: &Command) -> Command {
    let mut without = Command::new("python3");
    without.args(["-c", REFUSE_RING, &errno.to_string()]).arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => without.env(name, value),
            None => without.env_remove(name),
        };
    }
    without
}
