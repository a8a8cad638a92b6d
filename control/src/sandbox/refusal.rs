//! Why a machine lets an ordinary user make no sandbox, and what its owner can do about it.

use std::fs;
use std::io;

use serde::{Deserialize, Serialize};

/// Why there can be no sandbox here. The text names the cause and the fix.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Refusal {
    /// The administrator allows none.
    #[error(
        "this machine allows no user namespaces (user.max_user_namespaces is 0), so no sandbox can be made; allow \
         them as root: sysctl -w user.max_user_namespaces=15000"
    )]
    Forbidden,
    /// There are too many already, or they are nested too deep.
    #[error(
        "no further user namespace may be made: the limit of {limit} is reached, or they are nested more than 32 deep; \
         raise it as root: sysctl -w user.max_user_namespaces={}", limit.saturating_mul(2)
    )]
    Exhausted {
        /// Of `user.max_user_namespaces`.
        limit: u64,
    },
    /// Ubuntu since 23.10.
    #[error(
        "AppArmor lets programs without a profile of their own make no user namespaces, as Ubuntu sets it; allow it as \
         root: sysctl -w kernel.apparmor_restrict_unprivileged_userns=0, or give this program a profile with the rule \
         `userns,`"
    )]
    AppArmor,
    /// Older Debian and Arch kernels.
    #[error(
        "only root may make user namespaces here (kernel.unprivileged_userns_clone is 0); allow it as root: sysctl -w \
         kernel.unprivileged_userns_clone=1"
    )]
    OnlyRoot,
    /// Containers.
    #[error(
        "a seccomp filter forbids new namespaces, as Docker's own does; start the container with --security-opt \
         seccomp=unconfined --security-opt systempaths=unconfined, or run this outside of it"
    )]
    Seccomp,
    /// Something else said no.
    #[error(
        "the kernel allows no user namespace here ({error}); it refuses them below a chroot and where a security module \
         says so: look at dmesg"
    )]
    Denied {
        /// What the kernel said.
        error: String,
    },
    /// Built without.
    #[error("this kernel has no user namespaces; it needs one with CONFIG_USER_NS")]
    Kernel,
    /// A container covers parts of `/proc`.
    #[error(
        "no /proc of the sandbox's own may be mounted, as in a container that covers parts of it; start the container \
         with --security-opt systempaths=unconfined"
    )]
    Proc,
    /// No transparent capture.
    #[error(
        "this kernel cannot hand all TCP ports to one listener ({error}); load the modules as root: modprobe nf_tables; \
         modprobe nft_tproxy"
    )]
    Capture {
        /// What the kernel said.
        error: String,
    },
}

/// Settings of the machine that decide on user namespaces; `None` where it has no such setting.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Machine {
    /// `user.max_user_namespaces`.
    pub namespaces_max: Option<u64>,
    /// `kernel.apparmor_restrict_unprivileged_userns`.
    pub apparmor: Option<u64>,
    /// `kernel.unprivileged_userns_clone`.
    pub clone: Option<u64>,
    /// This process is under a seccomp filter.
    pub filtered: bool,
}

impl Machine {
    /// Reads them. To be called before namespaces are left: the limit is another one inside.
    pub fn read() -> Self {
        let number =
            |path: &str| fs::read_to_string(path).ok().and_then(|text| text.trim().parse::<u64>().ok());
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        Self {
            namespaces_max: number("/proc/sys/user/max_user_namespaces"),
            apparmor: number("/proc/sys/kernel/apparmor_restrict_unprivileged_userns"),
            clone: number("/proc/sys/kernel/unprivileged_userns_clone"),
            filtered: status.lines().any(|line| line.trim_end() == "Seccomp:\t2"),
        }
    }

    /// Why namespaces could not be left.
    pub fn explain(&self, error: &io::Error) -> Refusal {
        use io::ErrorKind::{InvalidInput, PermissionDenied, StorageFull, Unsupported};
        match (error.kind(), self.namespaces_max) {
            (_, Some(0)) => Refusal::Forbidden,
            // ENOSPC (unshare(2)); EUSERS before Linux 4.9.
            (StorageFull | io::ErrorKind::QuotaExceeded, Some(limit)) => Refusal::Exhausted { limit },
            (InvalidInput | Unsupported, _) => Refusal::Kernel,
            (PermissionDenied, _) if self.clone == Some(0) => Refusal::OnlyRoot,
            (PermissionDenied, _) if self.is_restricted() => Refusal::AppArmor,
            (PermissionDenied, _) if self.filtered => Refusal::Seccomp,
            _ => Refusal::Denied { error: error.to_string() },
        }
    }

    /// AppArmor may let the namespace be made and refuse what it is for.
    pub fn is_restricted(&self) -> bool {
        self.apparmor == Some(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_cause_is_told_with_the_command_that_mends_it() {
        let error = |number| io::Error::from_raw_os_error(number);
        let plain = Machine { namespaces_max: Some(9), ..Machine::default() };
        for (machine, number, wanted, fix) in [
            (
                Machine { namespaces_max: Some(0), ..plain },
                28,
                Refusal::Forbidden,
                "user.max_user_namespaces=",
            ),
            (plain, 28, Refusal::Exhausted { limit: 9 }, "user.max_user_namespaces=18"),
            (Machine { apparmor: Some(1), ..plain }, 1, Refusal::AppArmor, "restrict_unprivileged_userns=0"),
            (Machine { apparmor: Some(1), ..plain }, 13, Refusal::AppArmor, "restrict_unprivileged_userns=0"),
            (Machine { clone: Some(0), ..plain }, 1, Refusal::OnlyRoot, "unprivileged_userns_clone=1"),
            (Machine { filtered: true, ..plain }, 1, Refusal::Seccomp, "--security-opt seccomp"),
            (plain, 22, Refusal::Kernel, "CONFIG_USER_NS"),
            (plain, 38, Refusal::Kernel, "CONFIG_USER_NS"),
            (plain, 1, Refusal::Denied { error: error(1).to_string() }, "chroot"),
        ] {
            let found = machine.explain(&error(number));
            assert_eq!(found, wanted, "{machine:?} {number}");
            assert!(found.to_string().contains(fix), "{found}");
        }
    }
}
