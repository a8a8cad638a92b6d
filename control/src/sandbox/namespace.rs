//! Namespaces of an ordinary user: from inside, nothing of the machine's network and processes can be seen or reached.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd;

use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space};

use super::system;

/// Which user a namespace shows to those who are in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shown {
    /// The one who made it.
    Same,
    /// Root.
    Root,
}

/// Leaves the machine's users, network, mounts, processes, messages and host name. The processes that are started
/// from here on are in the new namespaces, the first of them as their init. The process must have one thread.
///
/// # Errors
/// When the kernel or the container forbids it, with the step.
pub fn separate(shown: Shown) -> io::Result<()> {
    let (user, group) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    let all = UnshareFlags::NEWUSER
        | UnshareFlags::NEWNET
        | UnshareFlags::NEWNS
        | UnshareFlags::NEWPID
        | UnshareFlags::NEWIPC
        | UnshareFlags::NEWUTS;
    system::unshare(all).map_err(|error| told("unshare", &error))?;
    let inside = |id| if shown == Shown::Root { 0 } else { id };
    // A group map may be written only where groups cannot be dropped (user_namespaces(7)).
    write("/proc/self/setgroups", "deny")?;
    write("/proc/self/uid_map", &format!("{} {user} 1", inside(user)))?;
    write("/proc/self/gid_map", &format!("{} {group} 1", inside(group)))
}

/// Another network namespace for this thread; what it opened before stays where it was.
///
/// # Errors
/// What the kernel says.
pub fn new_network() -> io::Result<()> {
    system::unshare(UnshareFlags::NEWNET).map_err(|error| told("unshare(CLONE_NEWNET)", &error))
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
    move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))
        .map_err(|error| told("setns", &error.into()))
}

fn write(path: &str, text: &str) -> io::Result<()> {
    fs::write(path, text).map_err(|error| told(path, &error))
}

/// The kernel's error, with the call's name.
fn told(what: &str, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{what}: {error}"))
}
