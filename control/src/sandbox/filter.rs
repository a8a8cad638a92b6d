//! The filter of system calls that a program inside runs under, made of classic BPF (seccomp(2)).
//!
//! Namespaces do not hold everything. A socket of some families (`AF_VSOCK`: the hypervisor) belongs to the machine and
//! not to a network namespace; a ring of io_uring makes sockets past any filter; `TIOCSTI` types into the terminal
//! that the program shares with the shell that started it; the keys of a user are found by their number from every
//! namespace, and `/proc/keys` lists the numbers; a counter of a processor's events sees the stack of whoever runs on
//! it; and the control group in which the gateway itself is can be mounted, and ended, by whoever leaves its namespace.

use std::io;

use super::system;

/// Families of sockets that belong to a network namespace, or to none because they lead nowhere: Unix, IPv4, IPv6,
/// netlink, packet (which takes a capability), the kernel's cryptography.
const FAMILIES: [libc::c_int; 6] =
    [libc::AF_UNIX, libc::AF_INET, libc::AF_INET6, libc::AF_NETLINK, libc::AF_PACKET, libc::AF_ALG];
/// Requests that put bytes into the input of a terminal (ioctl_tty(2)): `TIOCSTI`, and `TIOCLINUX` by its selection.
const TYPING: [u32; 2] = [0x5412, 0x541c];
/// `io_uring_setup`, `io_uring_enter`, `io_uring_register`: the same on every architecture.
const RINGS: [u32; 3] = [425, 426, 427];
/// `clone3`, which says in memory what `clone` says in an argument; C libraries go back to that one. The same on every
/// architecture.
const CLONE3: u32 = 435;
/// The flag of `unshare` and `clone` that leaves the namespace of control groups (clone(2)).
const NEW_CONTROL_GROUPS: u32 = 0x0200_0000;

/// Where a word of struct seccomp_data stands: the call's number, the architecture, and the lower half of an argument.
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
const fn argument(index: u32) -> u32 {
    16 + 8 * index + if cfg!(target_endian = "big") { 4 } else { 0 }
}

/// Numbers of system calls of one architecture.
struct Numbers {
    /// As the kernel names it (linux/audit.h).
    architecture: u32,
    socket: u32,
    ioctl: u32,
    /// `unshare` and `clone`, whose first argument is flags.
    leaving: [u32; 2],
    /// `add_key`, `request_key`, `keyctl`, `perf_event_open`; and calls that cannot be judged, because their arguments
    /// lie in memory.
    absent: &'static [u32],
    /// Numbers from here on are of another calling convention.
    others: Option<u32>,
}

#[cfg(target_arch = "x86_64")]
const TABLES: [Numbers; 2] = [
    Numbers {
        architecture: 0xc000_003e,
        socket: 41,
        ioctl: 16,
        leaving: [272, 56],
        absent: &[248, 249, 250, 298],
        others: Some(0x4000_0000),
    },
    Numbers {
        architecture: 0x4000_0003,
        socket: 359,
        ioctl: 54,
        leaving: [310, 120],
        // The last is `socketcall` of 32-bit programs; newer libraries call `socket` by its own number.
        absent: &[286, 287, 288, 336, 102],
        others: None,
    },
];
#[cfg(target_arch = "aarch64")]
const TABLES: [Numbers; 2] = [
    Numbers {
        architecture: 0xc000_00b7,
        socket: 198,
        ioctl: 29,
        leaving: [97, 220],
        absent: &[217, 218, 219, 241],
        others: None,
    },
    Numbers {
        architecture: 0x4000_0028,
        socket: 281,
        ioctl: 54,
        leaving: [337, 120],
        absent: &[309, 310, 311, 364],
        others: None,
    },
];
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
const TABLES: [Numbers; 0] = [];

/// Puts the filter on this thread and all that it starts. `no_new_privs` must be set.
///
/// # Errors
/// What the kernel says; `Unsupported` on an architecture whose calls are not known here.
pub(super) fn install() -> io::Result<()> {
    if TABLES.is_empty() {
        return Err(io::ErrorKind::Unsupported.into());
    }
    system::filter(&program())
}

/// Judges a call by the table of its architecture; calls of an unknown one do not exist.
fn program() -> Vec<libc::sock_filter> {
    let mut whole = Vec::new();
    for table in &TABLES {
        let part = judged(table);
        whole.push(load(ARCHITECTURE));
        whole.push(unless(table.architecture, part.len()));
        whole.extend(part);
    }
    whole.push(refuse(libc::ENOSYS));
    whole
}

fn judged(table: &Numbers) -> Vec<libc::sock_filter> {
    let mut part = vec![load(NUMBER)];
    if let Some(others) = table.others {
        // The next instruction is skipped for numbers below.
        part.push(instruction(libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K, others, 0, 1));
        part.push(refuse(libc::ENOSYS));
    }
    for number in RINGS.iter().chain(&[CLONE3]).chain(table.absent) {
        part.extend([unless(*number, 1), refuse(libc::ENOSYS)]);
    }
    for number in table.leaving {
        let flag = instruction(libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K, NEW_CONTROL_GROUPS, 1, 0);
        let judged = [load(argument(0)), flag, allow(), refuse(libc::EPERM)];
        part.push(unless(number, judged.len()));
        part.extend(judged);
    }
    let families = FAMILIES.map(libc::c_int::unsigned_abs);
    let socket = listed(argument(0), &families, allow(), refuse(libc::EAFNOSUPPORT));
    part.push(unless(table.socket, socket.len()));
    part.extend(socket);
    let ioctl = listed(argument(1), &TYPING, refuse(libc::EPERM), allow());
    part.push(unless(table.ioctl, ioctl.len()));
    part.extend(ioctl);
    part.push(allow());
    part
}

/// One end for the values of a list, another for all others.
fn listed(
    place: u32,
    values: &[u32],
    found: libc::sock_filter,
    other: libc::sock_filter,
) -> Vec<libc::sock_filter> {
    let mut part = vec![load(place)];
    for (index, value) in values.iter().enumerate() {
        // Over the values that follow, and over what others get.
        let over = short(values.len() - index);
        part.push(instruction(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, *value, over, 0));
    }
    part.extend([other, found]);
    part
}

fn load(place: u32) -> libc::sock_filter {
    instruction(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, place, 0, 0)
}

/// Skips the following instructions unless the loaded word is this one.
fn unless(value: u32, following: usize) -> libc::sock_filter {
    instruction(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, value, 0, short(following))
}

fn allow() -> libc::sock_filter {
    instruction(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ALLOW, 0, 0)
}

fn refuse(error: libc::c_int) -> libc::sock_filter {
    let action = libc::SECCOMP_RET_ERRNO | (error.unsigned_abs() & libc::SECCOMP_RET_DATA);
    instruction(libc::BPF_RET | libc::BPF_K, action, 0, 0)
}

/// A jump's length; every part is far shorter than a jump can be, which a test holds.
fn short(length: usize) -> u8 {
    u8::try_from(length).unwrap_or(u8::MAX)
}

fn instruction(code: u32, k: u32, jt: u8, jf: u8) -> libc::sock_filter {
    libc::sock_filter { code: u16::try_from(code).unwrap_or(u16::MAX), jt, jf, k }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs the program as the kernel does, with its few instructions.
    fn judge(architecture: u32, number: u32, arguments: [u64; 2]) -> u32 {
        let program = program();
        let (mut at, mut word) = (0, 0);
        loop {
            let step = program[at];
            at += 1;
            let code = u32::from(step.code);
            if code == libc::BPF_RET | libc::BPF_K {
                return step.k;
            }
            if code == libc::BPF_LD | libc::BPF_W | libc::BPF_ABS {
                word = match step.k {
                    NUMBER => number,
                    ARCHITECTURE => architecture,
                    place => {
                        u32::try_from(arguments[usize::from(place == argument(1))] & 0xffff_ffff).unwrap()
                    }
                };
                continue;
            }
            let holds = match code ^ (libc::BPF_JMP | libc::BPF_K) {
                libc::BPF_JEQ => word == step.k,
                libc::BPF_JGE => word >= step.k,
                libc::BPF_JSET => word & step.k != 0,
                other => panic!("instruction {other}"),
            };
            at += usize::from(if holds { step.jt } else { step.jf });
        }
    }

    fn refused(error: libc::c_int) -> u32 {
        libc::SECCOMP_RET_ERRNO | error.unsigned_abs()
    }

    #[test]
    fn only_sockets_of_a_namespace_are_made_whatever_the_upper_half_says() {
        for table in &TABLES {
            for family in 0..64_u64 {
                let wanted = if FAMILIES.iter().any(|known| u64::from(known.unsigned_abs()) == family) {
                    libc::SECCOMP_RET_ALLOW
                } else {
                    refused(libc::EAFNOSUPPORT)
                };
                for upper in [0, 1 << 32] {
                    assert_eq!(
                        judge(table.architecture, table.socket, [family | upper, 1]),
                        wanted,
                        "{family}"
                    );
                }
            }
        }
    }

    #[test]
    fn typing_into_the_terminal_rings_and_keys_are_refused_and_the_rest_is_not() {
        for table in &TABLES {
            let ioctl = |request| judge(table.architecture, table.ioctl, [0, request]);
            assert_eq!(ioctl(0x5412), refused(libc::EPERM));
            assert_eq!(ioctl(0x5412 | 7 << 32), refused(libc::EPERM));
            assert_eq!(ioctl(0x541c), refused(libc::EPERM));
            assert_eq!(ioctl(0x5413), libc::SECCOMP_RET_ALLOW);
            for number in RINGS.iter().chain(&[CLONE3]).chain(table.absent) {
                assert_eq!(judge(table.architecture, *number, [2, 2]), refused(libc::ENOSYS));
            }
            assert_eq!(judge(table.architecture, 0, [0, 0]), libc::SECCOMP_RET_ALLOW);
            if let Some(others) = table.others {
                assert_eq!(judge(table.architecture, others | table.socket, [2, 1]), refused(libc::ENOSYS));
            }
        }
    }

    #[test]
    fn control_groups_are_not_left_and_the_other_namespaces_are() {
        for table in &TABLES {
            for number in table.leaving {
                let flags = |flags| judge(table.architecture, number, [flags, 0]);
                // Users, mounts and processes; a thread.
                for others in [0x3002_0000, 0x003d_0f00] {
                    assert_eq!(flags(others), libc::SECCOMP_RET_ALLOW);
                    assert_eq!(flags(others | 0x0200_0000), refused(libc::EPERM));
                    assert_eq!(flags(others | 0x0200_0000 | 1 << 32), refused(libc::EPERM));
                }
            }
        }
    }

    #[test]
    #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
    fn the_native_table_has_the_numbers_of_this_machine() {
        let table = &TABLES[0];
        let number = |number: libc::c_long| u32::try_from(number).unwrap();
        let keys = [libc::SYS_add_key, libc::SYS_request_key, libc::SYS_keyctl, libc::SYS_perf_event_open];
        assert_eq!(table.absent, keys.map(number));
        assert_eq!(table.leaving, [libc::SYS_unshare, libc::SYS_clone].map(number));
        assert_eq!((table.socket, CLONE3), (number(libc::SYS_socket), number(libc::SYS_clone3)));
    }

    #[test]
    fn calls_of_an_unknown_architecture_do_not_exist() {
        assert_eq!(judge(7, 0, [0, 0]), refused(libc::ENOSYS));
    }

    #[test]
    fn no_jump_is_longer_than_an_instruction_can_say() {
        for table in &TABLES {
            assert!(judged(table).len() < 255);
        }
    }
}
