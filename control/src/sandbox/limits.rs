//! Every bound of the sandbox, each with what breaks when it is larger and when it is smaller.

use std::time::Duration;

/// Connections that the kernel keeps until the plane accepts them. Larger: a stopped plane lets clients wait instead of
/// failing. Smaller: bursts are lost.
pub const BACKLOG: i32 = 4_096;
/// Time for the kernel's answer over netlink, which it gives within the call. Larger: what is not the kernel holds up
/// the start. Smaller: a machine under load is taken for that.
pub const NETLINK_TIME: Duration = Duration::from_secs(2);
/// Bytes of a packet between `run` and the first process inside. Larger: memory for nothing. Smaller: the text of an
/// error does not fit.
pub const PACKET_BYTES_MAX: usize = 16 << 10;
/// Reports that wait to be taken: a sandbox tells three in its life. Larger: nothing. Smaller: the thread that heeds
/// the program's stops waits for whoever takes them.
pub const REPORTS_MAX: usize = 4;
/// Time for a program to stop when the terminal is taken from it. Larger: a question to the person waits for a program
/// that hangs in the kernel. Smaller: one under load takes the answer for itself.
pub const PAUSE_TIME: Duration = Duration::from_secs(2);
/// Files that are looked at for sockets of other network namespaces. Larger: a folder of many files delays every start.
/// Smaller: a socket among many files is missed.
pub const ENTRIES_MAX: usize = 20_000;
/// Entries of `.ssh` that are looked at for keys. Larger: a folder of thousands costs time. Smaller: a key is not named.
pub const SSH_ENTRIES_MAX: usize = 1_000;
/// Parents that are looked at for a shell. Larger: a circle of processes that end meanwhile is followed longer. Smaller:
/// a deep pile of scripts hides the shell.
pub const PARENTS_MAX: usize = 32;
/// Bytes of the shortest secret that is looked for in other variables. Larger: short secrets stay there. Smaller: an
/// accident removes what has nothing to do with a secret.
pub const SECRET_BYTES_MIN: usize = 8;
