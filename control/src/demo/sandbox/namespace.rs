//! Namespaces of an ordinary user: nothing of the machine can be seen or reached from inside.

#![allow(unsafe_code, reason = "unshare, setns, mount and pivot_root have no safe interface in std or libc")]

use std::ffi::CStr;
use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::ptr;

/// Where the sandbox's own root is put together; the folder exists everywhere, and is covered for this program only.
const ROOT: &CStr = c"/tmp";
const ROOT_PROC: &CStr = c"/tmp/proc";

/// Leaves the machine's users, network, mounts, processes, messages and host name. The processes that are started
/// from here on are in the new namespaces, the first of them as their init.
///
/// # Errors
/// When the kernel or the container forbids it, with the step.
pub fn separate() -> io::Result<()> {
    let (user, group) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    let all = libc::CLONE_NEWUSER
        | libc::CLONE_NEWNET
        | libc::CLONE_NEWNS
        | libc::CLONE_NEWPID
        | libc::CLONE_NEWIPC
        | libc::CLONE_NEWUTS;
    // SAFETY: no pointers; the process has one thread, which the kernel checks.
    checked(unsafe { libc::unshare(all) }, "unshare")?;
    // A group map may be written only where groups cannot be dropped (user_namespaces(7)).
    write("/proc/self/setgroups", "deny")?;
    write("/proc/self/uid_map", &format!("0 {user} 1"))?;
    write("/proc/self/gid_map", &format!("0 {group} 1"))
}

/// Another network namespace for this thread; what it opened before stays where it was.
///
/// # Errors
/// What the kernel says.
pub fn new_network() -> io::Result<()> {
    // SAFETY: no pointers.
    checked(unsafe { libc::unshare(libc::CLONE_NEWNET) }, "unshare(CLONE_NEWNET)")
}

/// The network namespace of this thread, to come back to.
///
/// # Errors
/// What the kernel says.
pub fn this_network() -> io::Result<File> {
    File::open("/proc/self/ns/net")
}

/// Goes into a network namespace.
///
/// # Errors
/// What the kernel says.
pub fn enter_network(namespace: &File) -> io::Result<()> {
    // SAFETY: no pointers; the descriptor is open for as long as it is borrowed.
    checked(unsafe { libc::setns(namespace.as_raw_fd(), libc::CLONE_NEWNET) }, "setns")
}

/// A root of its own in memory, with the processes of its own process namespace, and nothing else.
///
/// # Errors
/// When a step is refused; a container that covers parts of `/proc` does so.
pub fn furnish() -> io::Result<()> {
    // What is mounted here must not be seen outside.
    mount(None, c"/", None, libc::MS_REC | libc::MS_PRIVATE)?;
    mount(Some(c"tmpfs"), ROOT, Some(c"tmpfs"), libc::MS_NOSUID | libc::MS_NODEV)?;
    fs::create_dir("/tmp/proc")?;
    fs::create_dir("/tmp/work")?;
    mount(Some(c"proc"), ROOT_PROC, Some(c"proc"), libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC)?;
    std::env::set_current_dir("/tmp")?;
    // pivot_root(2): with both arguments `.` the old root lies under the new one, from where it is taken away.
    // SAFETY: both are strings that end with zero and live for the whole program.
    let pivoted = unsafe { libc::syscall(libc::SYS_pivot_root, c".".as_ptr(), c".".as_ptr()) };
    checked(libc::c_int::try_from(pivoted).unwrap_or(-1), "pivot_root")?;
    // SAFETY: as above.
    checked(unsafe { libc::umount2(c".".as_ptr(), libc::MNT_DETACH) }, "umount2")?;
    std::env::set_current_dir("/work")
}

fn mount(source: Option<&CStr>, target: &CStr, kind: Option<&CStr>, flags: libc::c_ulong) -> io::Result<()> {
    let pointer = |text: Option<&CStr>| text.map_or(ptr::null(), CStr::as_ptr);
    // SAFETY: strings that end with zero and outlive the call, or null where mount(2) allows it.
    let done = unsafe { libc::mount(pointer(source), target.as_ptr(), pointer(kind), flags, ptr::null()) };
    checked(done, &format!("mount on {}", target.to_string_lossy()))
}

fn write(path: &str, text: &str) -> io::Result<()> {
    fs::write(path, text).map_err(|error| io::Error::new(error.kind(), format!("{path}: {error}")))
}

/// A system call's answer; its fault is told with the call's name.
fn checked(answer: libc::c_int, what: &str) -> io::Result<()> {
    if answer >= 0 {
        return Ok(());
    }
    let error = io::Error::last_os_error();
    Err(io::Error::new(error.kind(), format!("{what}: {error}")))
}
