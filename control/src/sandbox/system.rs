//! System calls that have no safe interface in std or rustix, each behind one that is.

#![allow(
    unsafe_code,
    reason = "unshare, fork, pthread_sigmask, close_range, seccomp and keyctl have no safe interface"
)]

use std::io;
use std::mem;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::Arc;

use rustix::process::{Pid, Signal};
use rustix::thread::UnshareFlags;

/// Leaves namespaces (unshare(2)). Descriptors stay shared: no flag for them is taken.
///
/// # Errors
/// What the kernel says; `InvalidInput` for [`UnshareFlags::FILES`].
pub fn unshare(flags: UnshareFlags) -> io::Result<()> {
    if flags.contains(UnshareFlags::FILES) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    // SAFETY: only a descriptor table that is no longer shared could break safe code, and that was refused.
    Ok(unsafe { rustix::thread::unshare_unsafe(flags) }?)
}

/// Makes a copy of this process (fork(2)); `None` in the copy.
///
/// # Errors
/// What the kernel says; `Unsupported` where the process has other threads: the locks that they hold would stay locked
/// in the copy for ever.
pub fn fork() -> io::Result<Option<Pid>> {
    if std::fs::read_dir("/proc/self/task")?.count() != 1 {
        let what = "a process with several threads cannot be copied";
        return Err(io::Error::new(io::ErrorKind::Unsupported, what));
    }
    // SAFETY: this is the only thread, as was just checked, so the copy is whole.
    let pid = unsafe { libc::fork() };
    if pid < 0 { Err(io::Error::last_os_error()) } else { Ok(Pid::from_raw(pid)) }
}

/// Lets no descriptor from `first` on survive an `exec` (close_range(2), Linux 5.11).
///
/// # Errors
/// What the kernel says.
pub fn close_on_exec_from(first: u32) -> io::Result<()> {
    let flags = libc::c_int::try_from(libc::CLOSE_RANGE_CLOEXEC).unwrap_or(libc::c_int::MAX);
    // SAFETY: it closes nothing now, it only marks descriptors; no pointers.
    checked(unsafe { libc::close_range(first, u32::MAX, flags) })
}

/// What becomes of a signal that comes to this thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mask {
    /// It waits.
    Block,
    /// It is delivered.
    Unblock,
}

/// Changes the mask of this thread for one signal.
///
/// # Errors
/// What the kernel says.
pub fn mask(signal: Signal, how: Mask) -> io::Result<()> {
    // SAFETY: a set of signals is plain numbers, for which all zeros is a value.
    let mut set: libc::sigset_t = unsafe { mem::zeroed() };
    // SAFETY: the set is valid and this function's own.
    unsafe { libc::sigemptyset(&raw mut set) };
    // SAFETY: as above, and the signal is a valid number by its type.
    unsafe { libc::sigaddset(&raw mut set, signal.as_raw()) };
    let how = if how == Mask::Block { libc::SIG_BLOCK } else { libc::SIG_UNBLOCK };
    // SAFETY: the set is initialised; a null pointer asks for no answer.
    let error = unsafe { libc::pthread_sigmask(how, &raw const set, std::ptr::null_mut()) };
    if error == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(error)) }
}

/// Lets a socket listen on, and answer from, addresses that the machine does not have (`IP_TRANSPARENT`,
/// `IPV6_TRANSPARENT`).
///
/// # Errors
/// What the kernel says: it takes `CAP_NET_ADMIN` in the socket's network namespace.
pub fn transparent(socket: BorrowedFd<'_>, v4: bool, v6: bool) -> io::Result<()> {
    let one: libc::c_int = 1;
    let size = libc::socklen_t::try_from(mem::size_of_val(&one)).unwrap_or(0);
    for (wanted, level, option) in
        [(v4, libc::IPPROTO_IP, libc::IP_TRANSPARENT), (v6, libc::IPPROTO_IPV6, libc::IPV6_TRANSPARENT)]
    {
        if wanted {
            // SAFETY: the value is an integer that outlives the call, and its size is told.
            checked(unsafe {
                libc::setsockopt(socket.as_raw_fd(), level, option, (&raw const one).cast(), size)
            })?;
        }
    }
    Ok(())
}

/// Lets this process wait for its children. Where the caller ignores SIGCHLD, and so everything that it starts, the
/// kernel throws their ends away (wait(2)); a program that is started from here on has the default again.
///
/// # Errors
/// What the kernel says.
pub fn keep_ends_of_children() -> io::Result<()> {
    // Any handler will do; this one sets a flag that nobody reads.
    signal_hook::flag::register(libc::SIGCHLD, Arc::default()).map(drop)
}

/// Puts a filter of system calls on this thread and all that it starts (seccomp(2)). `no_new_privs` must be set.
///
/// # Errors
/// What the kernel says about the program; `InvalidInput` where it is longer than the kernel can be told.
pub fn filter(program: &[libc::sock_filter]) -> io::Result<()> {
    let len = u16::try_from(program.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    let program = libc::sock_fprog { len, filter: program.as_ptr().cast_mut() };
    // SAFETY: the kernel copies `len` instructions, which are there for the whole call, and writes none.
    let done = unsafe {
        libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0 as libc::c_long, &raw const program)
    };
    checked(done)
}

/// Leaves the caller's session keyring, which may hold tickets and keys, for an empty one (keyctl(2)).
///
/// # Errors
/// What the kernel says; `Unsupported` where it has no keyrings: then there is nothing to leave.
pub fn leave_session_keyring() -> io::Result<()> {
    let name: *const libc::c_char = std::ptr::null();
    // SAFETY: a null name asks for a keyring without one.
    checked(unsafe { libc::syscall(libc::SYS_keyctl, libc::KEYCTL_JOIN_SESSION_KEYRING, name) })
}

fn checked(answer: impl Into<i64>) -> io::Result<()> {
    if answer.into() < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_with_several_threads_is_not_copied() {
        // The harness of these tests runs each in a thread of its own.
        assert_eq!(fork().unwrap_err().kind(), io::ErrorKind::Unsupported);
    }

    #[test]
    fn a_table_of_descriptors_cannot_be_left() {
        assert_eq!(unshare(UnshareFlags::FILES).unwrap_err().kind(), io::ErrorKind::InvalidInput);
    }
}
