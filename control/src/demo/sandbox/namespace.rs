//! The root of the demo's sandbox: nothing of the machine's files can be seen from inside.

use std::fs;
use std::io;

use rustix::io::Errno;
use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_change, unmount};
use rustix::process::pivot_root;

/// Where the sandbox's own root is put together; the folder exists everywhere, and is covered for this program only.
const ROOT: &str = "/tmp";
const ROOT_PROC: &str = "/tmp/proc";

/// A root of its own in memory, with the processes of its own process namespace, and nothing else.
///
/// # Errors
/// When a step is refused; a container that covers parts of `/proc` does so.
pub fn furnish() -> io::Result<()> {
    let step =
        |what: &'static str| move |error: Errno| io::Error::new(error.kind(), format!("{what}: {error}"));
    // What is mounted here must not be seen outside.
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    mount_change("/", private).map_err(step("make the mounts private"))?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV;
    mount("tmpfs", ROOT, "tmpfs", flags, None).map_err(step("mount a root"))?;
    fs::create_dir(ROOT_PROC)?;
    fs::create_dir("/tmp/work")?;
    mount("proc", ROOT_PROC, "proc", flags | MountFlags::NOEXEC, None).map_err(step("mount /proc"))?;
    std::env::set_current_dir(ROOT)?;
    // pivot_root(2): with both arguments `.` the old root lies under the new one, from where it is taken away.
    pivot_root(".", ".").map_err(step("pivot_root"))?;
    unmount(".", UnmountFlags::DETACH).map_err(step("umount2"))?;
    std::env::set_current_dir("/work")
}
