//! What the sandbox sees of the machine's files: all of them, but for those that lead out and those that are replaced.
//!
//! Every mount is in a mount namespace of the sandbox's own, so it is gone with the sandbox. A program inside can take
//! none away: it has no capability here, and in a user namespace that it makes itself they are locked
//! (mount_namespaces(7)).

use std::ffi::{CString, OsString};
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::mount::{
    MountFlags, MountPropagationFlags, mount, mount_bind, mount_change, mount_move, mount_remount,
};

use super::exposed::Exposed;
use super::refusal::Refusal;
use super::word::{Bytes, Fault};

/// Where the folder that only the sandbox has can be: below the first of these that exists. The first is covered by a
/// memory of the sandbox's own in any case.
const PARENTS: [&str; 4] = [SHARED_MEMORY, "/media", "/mnt", "/srv"];
const SHARED_MEMORY: &str = "/dev/shm";
/// Its name there.
const FOLDER: &str = "outgate";
/// A file that is empty, may not be read, and takes the place of what must not be seen.
const NOTHING: &str = "nothing";
/// Devices that root's programs keep; each is on every machine.
const DEVICES: [&str; 6] = ["null", "zero", "full", "random", "urandom", "tty"];

/// The folder that only the sandbox has, as both sides call it; `None` on a machine without any of its parents.
pub fn folder() -> Option<PathBuf> {
    PARENTS.iter().map(Path::new).find(|path| path.is_dir()).map(|path| path.join(FOLDER))
}

/// Takes the mounts apart from the machine's and covers what leads out. Called by the first process of the new process
/// namespace.
pub(super) fn separate(exposed: &Exposed) -> Result<(), Fault> {
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
        .map_err(|error| Fault::step("make the mounts private", &error.into()))?;
    let hard = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    mount("proc", "/proc", "proc", hard, None).map_err(|error| match error {
        rustix::io::Errno::PERM | rustix::io::Errno::ACCESS => Fault::Refused(Refusal::Proc),
        error => Fault::step("mount /proc", &error.into()),
    })?;
    // Its files belong to root, whose programs need no capability to write them.
    if rustix::process::geteuid().is_root() {
        root()?;
    }
    let folder = folder().ok_or_else(|| {
        Fault::step(
            format!("find one of the folders {}", PARENTS.join(", ")),
            &io::ErrorKind::NotFound.into(),
        )
    })?;
    let parent = folder.parent().unwrap_or(Path::new(SHARED_MEMORY));
    memory(parent, 0o1777)?;
    fs::create_dir(&folder).map_err(|error| Fault::step(format!("make {}", folder.display()), &error))?;
    memory(&folder, 0o755)?;
    write(&folder.join(NOTHING), &[], 0)?;
    if Path::new("/dev/mqueue").is_dir() {
        mount("mqueue", "/dev/mqueue", "mqueue", hard, None)
            .map_err(|error| Fault::step("mount /dev/mqueue", &error.into()))?;
    }
    for (path, mode) in &exposed.folders {
        memory(path, *mode)?;
    }
    for path in &exposed.sockets {
        match cover(&folder.join(NOTHING), path) {
            // It has been removed since.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            done => done.map_err(|error| Fault::step(format!("cover {}", path.display()), &error))?,
        }
    }
    Ok(())
}

/// Puts files into the folder, lays them over those of the machine where there are such, and hides others.
pub(super) fn furnish(
    files: &[(String, Bytes)],
    covers: &[(String, OsString)],
    hidden: &[OsString],
) -> Result<(), Fault> {
    let folder = folder().unwrap_or_default();
    for (name, bytes) in files {
        write(&folder.join(name), &bytes.0, 0o444)?;
    }
    for (name, over) in covers.iter().map(|(name, over)| (name, Path::new(over))) {
        match cover(&folder.join(name), over) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            done => {
                done.map_err(|error| Fault::step(format!("lay {name} over {}", over.display()), &error))?
            }
        }
    }
    for path in hidden.iter().map(Path::new) {
        // One that is not there is an error here: what was meant might be somewhere else.
        cover(&folder.join(NOTHING), path)
            .map_err(|error| Fault::step(format!("hide {}", path.display()), &error))?;
    }
    let hard = MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    mount_remount(&folder, hard, "")
        .map_err(|error| Fault::step(format!("make {} read-only", folder.display()), &io::Error::from(error)))
}

/// What a program of root's, even without capabilities, must not write: settings of the kernel and devices.
fn root() -> Result<(), Fault> {
    let hard = MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    for path in
        ["/proc/sys", "/proc/sysrq-trigger", "/proc/irq", "/proc/bus", "/proc/fs", "/proc/acpi", "/proc/scsi"]
    {
        if Path::new(path).exists() {
            let done = mount_bind(path, path).and_then(|()| mount_remount(path, hard | MountFlags::BIND, ""));
            done.map_err(|error| Fault::step(format!("make {path} read-only"), &error.into()))?;
        }
    }
    mount("sysfs", "/sys", "sysfs", hard, None)
        .map_err(|error| Fault::step("mount /sys read-only", &error.into()))?;
    devices().map_err(|error| Fault::step("give root's program devices of its own", &error))
}

/// A `/dev` with nothing but what every program may have. It is put together over `/tmp`, then moved.
fn devices() -> io::Result<()> {
    const STAGE: &str = "/tmp";
    let stage = Path::new(STAGE);
    mount("tmpfs", STAGE, "tmpfs", MountFlags::NOSUID | MountFlags::NOEXEC, c"mode=0755")?;
    for name in DEVICES {
        fs::write(stage.join(name), [])?;
        mount_bind(Path::new("/dev").join(name), stage.join(name))?;
    }
    for folder in ["pts", "shm"] {
        fs::create_dir(stage.join(folder))?;
    }
    let data = c"newinstance,ptmxmode=0666,mode=0620";
    mount("devpts", stage.join("pts"), "devpts", MountFlags::NOSUID | MountFlags::NOEXEC, data)?;
    for (name, to) in [
        ("ptmx", "pts/ptmx"),
        ("fd", "/proc/self/fd"),
        ("stdin", "/proc/self/fd/0"),
        ("stdout", "/proc/self/fd/1"),
        ("stderr", "/proc/self/fd/2"),
    ] {
        std::os::unix::fs::symlink(to, stage.join(name))?;
    }
    Ok(mount_move(STAGE, "/dev")?)
}

/// An empty folder in memory takes the place of this one.
fn memory(path: &Path, mode: u32) -> Result<(), Fault> {
    let data = CString::new(format!("mode={mode:o}")).unwrap_or_default();
    mount("tmpfs", path, "tmpfs", MountFlags::NOSUID | MountFlags::NODEV, &*data)
        .map_err(|error| Fault::step(format!("cover {}", path.display()), &error.into()))
}

/// A file takes the place of another, whatever links lead there.
fn cover(with: &Path, over: &Path) -> io::Result<()> {
    Ok(mount_bind(with, over)?)
}

fn write(path: &Path, bytes: &[u8], mode: u32) -> Result<(), Fault> {
    let mut options = OpenOptions::new();
    let file = options.write(true).create_new(true).mode(mode).open(path);
    file.and_then(|mut file| file.write_all(bytes))
        .map_err(|error| Fault::step(format!("write {}", path.display()), &error))
}
