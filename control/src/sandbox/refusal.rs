//! Why a machine lets an ordinary user make no sandbox, and what its owner can do about it.

use std::fs;
use std::io;

use serde::{Deserialize, Serialize};

/// Why there can be no sandbox here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("a sandbox needs user namespaces, which are {}; mend it: {}", self.cause(), self.command())]
pub enum Refusal {
    /// The administrator allows none.
    Forbidden,
    /// There are too many already, or they are nested too deep.
    Exhausted {
        /// Of `user.max_user_namespaces`.
        limit: u64,
    },
    /// Ubuntu since 23.10.
    AppArmor,
    /// Older Debian and Arch kernels.
    OnlyRoot,
    /// Containers.
    Seccomp,
    /// Something else said no.
    Denied {
        /// What the kernel said.
        error: String,
    },
    /// Built without.
    Kernel,
    /// A container covers parts of `/proc`.
    Proc,
    /// No transparent capture.
    Capture {
        /// What the kernel said.
        error: String,
    },
}

impl Refusal {
    /// What user namespaces are here.
    pub fn cause(&self) -> String {
        match self {
            Self::Forbidden => "switched off: user.max_user_namespaces is 0".into(),
            Self::Exhausted { limit } => {
                format!("used up: there are {limit} (user.max_user_namespaces), or they are nested 32 deep")
            }
            Self::AppArmor => {
                "taken back by AppArmor: kernel.apparmor_restrict_unprivileged_userns is 1, Ubuntu's default"
                    .into()
            }
            Self::OnlyRoot => "only for root: kernel.unprivileged_userns_clone is 0".into(),
            Self::Seccomp => "refused by a seccomp filter, which containers have by default".into(),
            Self::Denied { error } => {
                format!("refused by a security module, or because this runs below a chroot ({error})")
            }
            Self::Kernel => "missing: this kernel was built without CONFIG_USER_NS".into(),
            Self::Proc => "there, but take no /proc of their own: a container covers parts of it".into(),
            Self::Capture { error } => {
                format!(
                    "there, but cannot hand all TCP ports to one listener: the kernel lacks nft_tproxy ({error})"
                )
            }
        }
    }

    /// The command that mends it.
    pub fn command(&self) -> String {
        match self {
            Self::Forbidden => "sudo sysctl -w user.max_user_namespaces=65536".into(),
            Self::Exhausted { limit } => {
                format!("sudo sysctl -w user.max_user_namespaces={}", limit.saturating_mul(2))
            }
            Self::AppArmor => "sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0".into(),
            Self::OnlyRoot => "sudo sysctl -w kernel.unprivileged_userns_clone=1".into(),
            Self::Seccomp => {
                "docker run --security-opt seccomp=unconfined --security-opt apparmor=unconfined --security-opt \
                 systempaths=unconfined …"
                    .into()
            }
            Self::Denied { .. } => "sudo dmesg | tail  # says who refused".into(),
            Self::Kernel => "grep USER_NS /boot/config-*  # install a kernel that has it".into(),
            Self::Proc => "docker run --security-opt systempaths=unconfined …".into(),
            Self::Capture { .. } => "sudo modprobe nft_tproxy".into(),
        }
    }
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
            (plain, 1, Refusal::Denied { error: error(1).to_string() }, "dmesg"),
        ] {
            let found = machine.explain(&error(number));
            assert_eq!(found, wanted, "{machine:?} {number}");
            assert!(found.to_string().contains(fix), "{found}");
        }
    }
}
