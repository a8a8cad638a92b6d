//! The terminal that `run` and the program inside share, and which of them is in its foreground.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;

use rustix::process::{Pid, Signal, getpgrp};
use rustix::termios::{tcgetpgrp, tcsetpgrp};

use super::system::{Mask, mask};

/// The controlling terminal of this process.
pub(super) struct Terminal(File);

impl Terminal {
    /// Opens it; `None` where there is none.
    pub fn open() -> Option<Self> {
        let flags = libc::O_NOCTTY | libc::O_CLOEXEC;
        OpenOptions::new().read(true).write(true).custom_flags(flags).open("/dev/tty").ok().map(Self)
    }

    /// Whether this process is in its foreground.
    pub fn is_ours(&self) -> bool {
        tcgetpgrp(&self.0).is_ok_and(|group| group == getpgrp())
    }

    /// Puts a process group into its foreground. Who does so from the background would be stopped, unless that signal
    /// waits (tcsetpgrp(3)). A terminal that has gone away has no foreground.
    pub fn give(&self, group: Pid) {
        let held = mask(Signal::TTOU, Mask::Block);
        let _gone = tcsetpgrp(&self.0, group);
        if held.is_ok() {
            let _never = mask(Signal::TTOU, Mask::Unblock);
        }
    }
}
