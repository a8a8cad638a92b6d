//! The terminal that `run` and the program inside share, and which of them is in its foreground.
//!
//! Groups and sessions are read as the kernel lists them: the calls for them have no answer for a group that is outside
//! of this process namespace, where the lists have zero.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use rustix::process::{Pid, Signal};
use rustix::termios::{Action, ioctl_tiocnxcl, tcflow, tcsetpgrp};

use super::limits::PARENTS_MAX;
use super::system::{Mask, mask};

/// The controlling terminal of this process.
pub(super) struct Terminal(File);

impl Terminal {
    /// Opens it; `None` where there is none.
    pub fn open() -> Option<Self> {
        let flags = libc::O_NOCTTY | libc::O_CLOEXEC;
        OpenOptions::new().read(true).write(true).custom_flags(flags).open("/dev/tty").ok().map(Self)
    }

    pub fn file(&self) -> &File {
        &self.0
    }

    /// Whether this process is in its foreground.
    pub fn is_ours(&self) -> bool {
        Stat::own().is_some_and(|own| own.group == own.foreground)
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

    /// Undoes what a program may have done to keep others from it: output that it has stopped (tcflow(3)), and a claim
    /// to be the last who opens it (ioctl_tty(2)).
    pub fn release(&self) {
        let _gone = tcflow(&self.0, Action::OOn);
        let _gone = ioctl_tiocnxcl(&self.0);
    }

    /// Puts this process's group into its foreground.
    pub fn take(&self) {
        if let Some(group) = Stat::own().and_then(|own| Pid::from_raw(own.group)) {
            self.give(group);
        }
    }
}

/// What `/proc/PID/stat` says of a process (proc_pid_stat(5)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stat {
    parent: i32,
    group: i32,
    session: i32,
    /// Device number of the controlling terminal.
    terminal: u32,
    /// The group in its foreground.
    foreground: i32,
}

impl Stat {
    fn own() -> Option<Self> {
        Self::read(&fs::read_to_string("/proc/self/stat").ok()?)
    }

    fn of(pid: i32) -> Option<Self> {
        Self::read(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
    }

    /// Columns are counted behind the name, which may hold anything.
    fn read(text: &str) -> Option<Self> {
        let (_, columns) = text.rsplit_once(')')?;
        let mut columns = columns.split_whitespace().skip(1);
        Some(Self {
            parent: columns.next()?.parse().ok()?,
            group: columns.next()?.parse().ok()?,
            session: columns.next()?.parse().ok()?,
            terminal: columns.next()?.parse().ok()?,
            foreground: columns.next()?.parse().ok()?,
        })
    }

    /// Majors 136 to 143 are pseudo-terminals.
    fn pseudo_terminal(self) -> Option<PathBuf> {
        let (major, minor) =
            (self.terminal >> 8 & 0xfff, self.terminal & 0xff | self.terminal >> 12 & 0xfff00);
        (136..144)
            .contains(&major)
            .then(|| PathBuf::from(format!("/dev/pts/{}", (major - 136) << 20 | minor)))
    }
}

/// The pseudo-terminal that controls this process; `None` where it has none, or another kind.
pub(super) fn own() -> Option<PathBuf> {
    Stat::own()?.pseudo_terminal().filter(|path| path.exists())
}

/// Whether somebody would continue this process's group if it were stopped: a process of its session, outside of the
/// group, that one of its members descends from. The kernel does not stop other groups.
pub(super) fn has_shell() -> bool {
    let Some(own) = Stat::own() else { return false };
    let mut above = own;
    for _ in 0..PARENTS_MAX {
        match Stat::of(above.parent) {
            Some(parent) if parent.session != own.session => return false,
            Some(parent) if parent.group != own.group => return true,
            Some(parent) => above = parent,
            None => return false,
        }
    }
    false
}

/// The other processes of this one's group, which a shell stops and continues together.
pub(super) fn others_of_group() -> Vec<Pid> {
    let (own, group) = (rustix::process::getpid(), Stat::own().map(|own| own.group));
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let numbers = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let of_group = numbers.filter(|number| Stat::of(*number).map(|stat| stat.group) == group);
    of_group.filter_map(Pid::from_raw).filter(|pid| *pid != own).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_read_behind_any_name() {
        let stat = Stat::read("7 (a) b c) S 1 2 3 34823 5 6").unwrap();
        assert_eq!(stat, Stat { parent: 1, group: 2, session: 3, terminal: 34823, foreground: 5 });
        assert_eq!(Stat::read("7 (a) S 1 2 3 0 -1").unwrap().foreground, -1);
        assert_eq!((Stat::read("7 (a) S 1 2"), Stat::read("")), (None, None));
    }

    #[test]
    fn only_a_pseudo_terminal_has_a_path() {
        let path =
            |terminal| Stat { parent: 1, group: 2, session: 3, terminal, foreground: 5 }.pseudo_terminal();
        // Of the minor, eight bits stand below the major and the others above.
        for (number, wanted) in [
            (34816, Some("/dev/pts/0")),
            (34823, Some("/dev/pts/7")),
            (0x0010_882c, Some("/dev/pts/300")),
            (0, None),
            (1025, None),
        ] {
            assert_eq!(path(number), wanted.map(PathBuf::from), "{number}");
        }
    }

    #[test]
    fn the_groups_of_this_machine_can_be_read() {
        let own = Stat::own().unwrap();
        assert_eq!(Stat::of(own.parent).map(|parent| parent.session >= 0), Some(true));
        assert!(!others_of_group().contains(&rustix::process::getpid()));
    }
}
