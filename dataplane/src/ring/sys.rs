//! The only place that talks to io_uring: opens the ring, queues entries, takes completions, adopts descriptors.
#![allow(unsafe_code)] // Pushing an entry, registering buffer memory and adopting a descriptor have no safe form.

use std::{
    io,
    os::fd::{FromRawFd, OwnedFd, RawFd},
    time::Duration,
};

use io_uring::{IoUring, cqueue, opcode, squeue, types};
use socket2::SockAddr;

use super::buffers::Pool;
use crate::limits::RING_TURN_MAX;

/// User data of cancel requests; no slot ever has it.
const CANCEL: u64 = u64::MAX;

/// Memory that the kernel reads while an operation is on its way. A slot frees it after its last completion.
pub(super) enum Kept {
    /// The operation names no memory.
    Nothing,
    /// Where to connect.
    Address(Box<SockAddr>),
}

/// What to ask the kernel for.
#[derive(Clone, Copy, Debug)]
pub(super) enum Request {
    /// Receive into a buffer that the kernel takes from the group: once, or until it ends.
    Receive { fd: RawFd, group: u16, multishot: bool },
    /// Accept until it ends.
    Accept { fd: RawFd },
    /// Connect to the kept address.
    Connect { fd: RawFd },
    /// Wait until the socket is readable or writable.
    Poll { fd: RawFd, events: i16 },
}

/// One completion as the kernel gave it.
#[derive(Clone, Copy)]
pub(super) struct Completed {
    /// Generation and index of the slot.
    pub data: u64,
    /// Result or negative error number.
    pub result: i32,
    flags: u32,
}

impl Completed {
    /// Whether more completions of this operation follow.
    pub fn more(&self) -> bool {
        cqueue::more(self.flags)
    }

    /// The provided buffer that holds the data.
    pub fn buffer(&self) -> Option<u16> {
        cqueue::buffer_select(self.flags)
    }
}

/// An io_uring of one shard.
pub(super) struct Uring {
    ring: IoUring,
}

impl Uring {
    /// Opens a ring that only the calling thread may enter.
    ///
    /// # Errors
    /// What `io_uring_setup` answers: `EPERM`, `ENOSYS`, `ENOMEM`, `EINVAL`.
    pub fn open(entries: u32) -> io::Result<Self> {
        let mut builder = IoUring::builder();
        builder
            .setup_single_issuer()
            .setup_defer_taskrun()
            // Tells in shared memory that deferred completions wait, so an enter without use is spared.
            .setup_taskrun_flag()
            .setup_submit_all()
            .setup_cqsize(entries.saturating_mul(4));
        Ok(Self { ring: builder.build(entries)? })
    }

    /// Hands a pool's ring of buffers to the kernel.
    ///
    /// # Errors
    /// What `io_uring_register` answers.
    pub fn register_pool(&self, pool: &Pool) -> io::Result<()> {
        // SAFETY: the pool's memory is mapped, page aligned and large enough; `Core` keeps the pool until the ring
        // is gone, or leaks it where the kernel did not finish. There is no safe form of this registration.
        unsafe {
            self.ring.submitter().register_buf_ring_with_flags(
                pool.ring_address(),
                pool.count(),
                pool.group(),
                0,
            )
        }
    }

    /// Takes a pool's ring of buffers back from the kernel.
    pub fn unregister_pool(&self, pool: &Pool) {
        // Fails only when it was never registered; closing the ring does the same.
        let _ = self.ring.submitter().unregister_buf_ring(pool.group());
    }

    /// Queues an operation; `false` when the queue is full even after a submission.
    pub fn start(&mut self, request: Request, kept: &Kept, data: u64) -> bool {
        self.push(&entry(request, kept).user_data(data))
    }

    /// Queues the cancelling of one operation. Only a failure to find it gives a completion, which is skipped.
    pub fn cancel(&mut self, data: u64) -> bool {
        let entry = opcode::AsyncCancel::new(data).build().flags(squeue::Flags::SKIP_SUCCESS);
        self.push(&entry.user_data(CANCEL))
    }

    /// Queues the cancelling of everything.
    pub fn cancel_all(&mut self) -> bool {
        let all = types::CancelBuilder::any().all();
        self.push(&opcode::AsyncCancel2::new(all).build().user_data(CANCEL))
    }

    fn push(&mut self, entry: &squeue::Entry) -> bool {
        if self.ring.submission().is_full() {
            // The answer does not matter: when nothing was taken, the push below says so.
            let _ = self.ring.submit();
        }
        let mut queue = self.ring.submission();
        // SAFETY: entries are made only in this file. They name descriptors (a stale one is an error, not a fault)
        // and at most memory of `Kept`, which the slot of this operation holds until its last completion.
        unsafe { queue.push(entry) }.is_ok()
    }

    /// Submits what is queued and runs deferred completions, without waiting. Returns whether the kernel was entered.
    ///
    /// # Errors
    /// Only what is a defect of ours: a full completion queue, a signal and lack of memory mean "reap and go on".
    pub fn turn(&mut self) -> io::Result<bool> {
        if !self.is_due() {
            return Ok(false);
        }
        forgive(self.ring.submit())?;
        Ok(true)
    }

    /// Whether entries wait to be submitted.
    pub fn has_entries(&mut self) -> bool {
        !self.ring.submission().is_empty()
    }

    /// Whether there is anything for which the kernel has to be entered.
    fn is_due(&mut self) -> bool {
        let queue = self.ring.submission();
        !queue.is_empty() || queue.taskrun() || queue.cq_overflow()
    }

    /// Whether completions wait to be taken.
    pub fn has_completions(&mut self) -> bool {
        !self.ring.completion().is_empty()
    }

    /// Submits, then sleeps in the ring until a completion comes, or the time is over where there is one.
    ///
    /// # Errors
    /// As [`Uring::turn`].
    pub fn wait(&mut self, at_most: Option<Duration>) -> io::Result<()> {
        let time = at_most.map(|time| types::Timespec::new().sec(time.as_secs()).nsec(time.subsec_nanos()));
        let arguments = types::SubmitArgs::new();
        let arguments = time.as_ref().map_or(arguments, |time| arguments.timespec(time));
        forgive(self.ring.submitter().submit_with_args(1, &arguments))
    }

    /// Moves completions that are there into `into`, without those of cancel requests, and no more than a turn's.
    pub fn take(&mut self, into: &mut Vec<Completed>) {
        into.extend(
            self.ring
                .completion()
                .take(RING_TURN_MAX)
                .map(|entry| Completed {
                    data: entry.user_data(),
                    result: entry.result(),
                    flags: entry.flags(),
                })
                .filter(|completed| completed.data != CANCEL),
        );
    }
}

fn entry(request: Request, kept: &Kept) -> squeue::Entry {
    match (request, kept) {
        (Request::Receive { fd, group, multishot: true }, _) => {
            opcode::RecvMulti::new(types::Fd(fd), group).build()
        }
        (Request::Receive { fd, group, multishot: false }, _) => {
            opcode::Recv::new(types::Fd(fd), std::ptr::null_mut(), 0)
                .buf_group(group)
                .build()
                .flags(squeue::Flags::BUFFER_SELECT)
        }
        (Request::Accept { fd }, _) => {
            opcode::AcceptMulti::new(types::Fd(fd)).flags(libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK).build()
        }
        (Request::Connect { fd }, Kept::Address(address)) => {
            opcode::Connect::new(types::Fd(fd), address.as_ptr().cast(), address.len()).build()
        }
        (Request::Poll { fd, events }, _) => {
            opcode::PollAdd::new(types::Fd(fd), u32::from(events.unsigned_abs())).build()
        }
        // An operation without its memory completes at once and is reported as such by its slot.
        (Request::Connect { .. }, _) => opcode::Nop::new().build(),
    }
}

fn forgive(result: io::Result<usize>) -> io::Result<()> {
    match result {
        Ok(_) => Ok(()),
        Err(error) => match error.raw_os_error() {
            Some(libc::EBUSY | libc::EAGAIN | libc::EINTR | libc::ETIME | libc::ENOMEM) => Ok(()),
            _ => Err(error),
        },
    }
}

/// Owns a descriptor that an accept completion carried.
pub(super) fn adopt(descriptor: RawFd) -> OwnedFd {
    debug_assert!(descriptor >= 0, "a completion without a descriptor is an error");
    // SAFETY: the kernel made this descriptor for the completion and each completion is converted once, in `Core`.
    unsafe { OwnedFd::from_raw_fd(descriptor) }
}

/// For tests: refuses io_uring to the calling thread, as a container's seccomp profile does.
#[cfg(test)]
pub(super) fn forbid_ring() {
    let instruction = |code: u32, jump: (u8, u8), value: u32| libc::sock_filter {
        code: u16::try_from(code).expect("a BPF code"),
        jt: jump.0,
        jf: jump.1,
        k: value,
    };
    let mut filter = [
        // The number of the system call is the first word of what a filter sees (seccomp(2)).
        instruction(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, (0, 0), 0),
        instruction(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, (0, 1), libc::SYS_io_uring_setup as u32),
        instruction(libc::BPF_RET | libc::BPF_K, (0, 0), libc::SECCOMP_RET_ERRNO | libc::EPERM as u32),
        instruction(libc::BPF_RET | libc::BPF_K, (0, 0), libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
    // SAFETY: sets a flag of the thread. No crate of ours offers filters.
    let unprivileged = unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) };
    // SAFETY: the program lives on this stack for the call, which copies it.
    let filtered =
        unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program) };
    assert_eq!((unprivileged, filtered), (0, 0), "{}", io::Error::last_os_error());
}
