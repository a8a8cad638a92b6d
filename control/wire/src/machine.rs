//! Why a machine gives a plane no ring, in the one sentence that both the plane and `outgate preflight` say.

use std::io;

use rustix::io::Errno;

/// The flag without which a plane's ring does not work came with this kernel, as major and minor number.
pub const KERNEL_MIN: (u32, u32) = (6, 1);

/// Why this machine gives no ring. The sentence names the setting.
#[derive(Debug, thiserror::Error)]
pub enum RingRefusal {
    /// `kernel.io_uring_disabled` is not 0.
    #[error(
        "io_uring is switched off on this machine: the sysctl kernel.io_uring_disabled is {value}; \
         set it to 0 (sysctl -w kernel.io_uring_disabled=0)"
    )]
    Disabled {
        /// What the sysctl says: 1 (only a group or CAP_SYS_ADMIN) or 2 (nobody).
        value: String,
    },
    /// Refused though the sysctl allows it: a seccomp filter or a security module.
    #[error(
        "io_uring is refused to this process, though kernel.io_uring_disabled allows it: the seccomp profile of the \
         container must permit io_uring_setup, io_uring_enter and io_uring_register (the default profiles of Docker \
         and containerd do not; docker run --security-opt seccomp=FILE or Kubernetes' \
         securityContext.seccompProfile sets another)"
    )]
    Refused(#[source] io::Error),
    /// No such system call.
    #[error(
        "this kernel answers that it has no io_uring: Linux 6.1 or later is needed; in a container, the seccomp \
         profile may answer the same for io_uring_setup (docker run --security-opt seccomp=FILE sets another)"
    )]
    Missing(#[source] io::Error),
    /// The kernel does not know the flags.
    #[error("this kernel's io_uring lacks IORING_SETUP_DEFER_TASKRUN: Linux 6.1 or later is needed")]
    TooOld(#[source] io::Error),
    /// Locked memory is used up; it is counted per user.
    #[error(
        "locked memory is used up: raise LimitMEMLOCK in the unit file (ulimit -l) to infinity; it is counted for all \
         processes of the user, about 1 MiB for each shard"
    )]
    LockedMemory(#[source] io::Error),
    /// No descriptor is left.
    #[error("no descriptor is left for a ring: raise LimitNOFILE (ulimit -n)")]
    Descriptors(#[source] io::Error),
    /// Anything else.
    #[error("the kernel refuses the ring")]
    Other(#[source] io::Error),
}

impl RingRefusal {
    /// Tells apart why `io_uring_setup` failed.
    pub fn of(error: io::Error) -> Self {
        let disabled = std::fs::read_to_string("/proc/sys/kernel/io_uring_disabled").unwrap_or_default();
        Self::classify(error, disabled.trim())
    }

    fn classify(error: io::Error, disabled: &str) -> Self {
        match Errno::from_io_error(&error) {
            Some(Errno::PERM | Errno::ACCESS) if !matches!(disabled, "" | "0") => {
                Self::Disabled { value: disabled.to_owned() }
            }
            Some(Errno::PERM | Errno::ACCESS) => Self::Refused(error),
            Some(Errno::NOSYS) => Self::Missing(error),
            Some(Errno::INVAL) => Self::TooOld(error),
            Some(Errno::NOMEM) => Self::LockedMemory(error),
            Some(Errno::MFILE | Errno::NFILE) => Self::Descriptors(error),
            _ => Self::Other(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_refusal_names_the_setting_that_would_allow_it() {
        let says = |number: Errno, sysctl: &str, word: &str| {
            let text = RingRefusal::classify(number.into(), sysctl).to_string();
            assert!(text.contains(word), "{number} {sysctl}: {text}");
        };
        says(Errno::PERM, "2", "kernel.io_uring_disabled is 2");
        says(Errno::PERM, "0", "seccomp");
        says(Errno::PERM, "", "seccomp");
        says(Errno::NOSYS, "0", "Linux 6.1");
        says(Errno::INVAL, "0", "Linux 6.1");
        says(Errno::NOMEM, "0", "LimitMEMLOCK");
        says(Errno::MFILE, "0", "LimitNOFILE");
    }
}
