//! What the sandbox sees of the machine's files: all of them, but for those that lead out and those that are replaced.
//!
//! Every mount is in a mount namespace of the sandbox's own, so it is gone with the sandbox. A program inside can take
//! none away: it has no capability here, and in a user namespace that it makes itself they are locked
//! (mount_namespaces(7)).

use std::ffi::CString;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use rustix::mount::{
    MountFlags, MountPropagationFlags, mount, mount_bind, mount_bind_recursive, mount_change, mount_move,
    mount_remount,
};

use super::exposed::{Exposed, mount_points};
use super::refusal::Refusal;
use super::terminal;
use super::word::{Bytes, Fault, Furniture};

/// Where the folder that only the sandbox has can be: below the first of these that exists. The first is covered by a
/// memory of the sandbox's own in any case.
const PARENTS: [&str; 4] = [SHARED_MEMORY, "/media", "/mnt", "/srv"];
const SHARED_MEMORY: &str = "/dev/shm";
/// Its name there.
const FOLDER: &str = "outgate";
/// A file that is empty, may not be read, and takes the place of what must not be seen.
const NOTHING: &str = "nothing";
/// Devices through which a program would type into the machine's desktop or speak to its hypervisor.
const DANGEROUS: [&str; 5] = ["/dev/uinput", "/dev/uhid", "/dev/vhci", "/dev/vsock", "/dev/vhost-vsock"];
/// Where the system's console is, which no program inside has a use for.
const CONSOLE: &str = "/dev/console";
/// Settings of the kernel that its root may write, with or without capabilities.
const SETTINGS: [&str; 7] =
    ["/proc/sys", "/proc/sysrq-trigger", "/proc/irq", "/proc/bus", "/proc/fs", "/proc/acpi", "/proc/scsi"];
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
        Errno::PERM | Errno::ACCESS => Fault::Refused(Refusal::Proc),
        error => Fault::step("mount /proc", &error.into()),
    })?;
    // Control groups can be delegated to users, and then end or freeze what is outside.
    for point in mount_points().map_err(|error| Fault::step("read the mounts", &error))? {
        let path = point.path;
        if path.starts_with("/sys") {
            let done = mount_remount(&path, hard | MountFlags::BIND | MountFlags::RDONLY, "");
            reachable(done)
                .map_err(|error| Fault::step(format!("make {} read-only", path.display()), &error.into()))?;
        }
    }
    let terminal = terminal::own().filter(|_| Path::new(CONSOLE).exists());
    // The machine's files of root, whose programs need no capability to write them.
    if rustix::process::geteuid().is_root() {
        root(terminal.as_deref())?;
    } else if let Some(terminal) = &terminal {
        // Where ttyname(3) finds it.
        mount_bind(terminal, CONSOLE)
            .map_err(|error| Fault::step("lay the terminal over the console", &error.into()))?;
    }
    // Other terminals of the user's could be read. `/dev/ptmx` goes to what is mounted here.
    terminals("/dev/pts").map_err(|error| Fault::step("mount /dev/pts", &error))?;
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
        reachable(empty(path, *mode))
            .map_err(|error| Fault::step(format!("cover {}", path.display()), &error.into()))?;
    }
    for path in exposed.sockets.iter().map(PathBuf::as_path).chain(DANGEROUS.iter().map(Path::new)) {
        hide(&folder, path)?;
    }
    Ok(())
}

/// Puts files into the folder, lays them over those of the machine where there are such, and hides others.
pub(super) fn furnish(furniture: &Furniture) -> Result<(), Fault> {
    let folder = folder().unwrap_or_default();
    for (name, bytes) in &furniture.files {
        write(&folder.join(name), &bytes.0, 0o444)?;
    }
    for (name, over) in furniture.covers.iter().map(|(name, over)| (name, Path::new(over))) {
        reachable(mount_bind(folder.join(name), over))
            .map_err(|error| Fault::step(format!("lay {name} over {}", over.display()), &error.into()))?;
    }
    for (path, files) in &furniture.folders {
        own_folder(Path::new(path), files)?;
    }
    // Whatever is mounted cannot be renamed.
    for path in furniture.kept.iter().map(Path::new) {
        mount_bind_recursive(path, path)
            .map_err(|error| Fault::step(format!("keep {} in its place", path.display()), &error.into()))?;
    }
    for path in &furniture.hidden {
        hide(&folder, Path::new(path))?;
    }
    let hard = MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    mount_remount(&folder, hard, "")
        .map_err(|error| Fault::step(format!("make {} read-only", folder.display()), &io::Error::from(error)))
}

/// What a program of root's, even without capabilities, must not write: settings of the kernel and devices.
fn root(terminal: Option<&Path>) -> Result<(), Fault> {
    let hard = MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    for path in SETTINGS.into_iter().filter(|path| Path::new(path).exists()) {
        let done = mount_bind(path, path).and_then(|()| mount_remount(path, hard | MountFlags::BIND, ""));
        done.map_err(|error| Fault::step(format!("make {path} read-only"), &error.into()))?;
    }
    devices(terminal).map_err(|error| Fault::step("give root's program devices of its own", &error))
}

/// A `/dev` with nothing but what every program may have. It is put together over `/tmp`, then moved.
fn devices(terminal: Option<&Path>) -> io::Result<()> {
    const STAGE: &str = "/tmp";
    let stage = Path::new(STAGE);
    mount("tmpfs", STAGE, "tmpfs", MountFlags::NOSUID | MountFlags::NOEXEC, c"mode=0755")?;
    let devices = DEVICES.map(|name| (name, Path::new("/dev").join(name)));
    let console = terminal.map(|terminal| ("console", terminal.to_owned()));
    for (name, device) in devices.into_iter().chain(console) {
        fs::write(stage.join(name), [])?;
        mount_bind(device, stage.join(name))?;
    }
    for folder in ["pts", "shm"] {
        fs::create_dir(stage.join(folder))?;
    }
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

/// Pseudo-terminals of the sandbox's own.
fn terminals(path: &str) -> io::Result<()> {
    let data = c"newinstance,ptmxmode=0666,mode=0620";
    Ok(mount("devpts", path, "devpts", MountFlags::NOSUID | MountFlags::NOEXEC, data)?)
}

/// Nothing takes the place of this file; one that is not there is hidden.
fn hide(folder: &Path, path: &Path) -> Result<(), Fault> {
    if path.is_dir() {
        return memory(path, 0);
    }
    let done = reachable(mount_bind(folder.join(NOTHING), path));
    done.map_err(|error| Fault::step(format!("hide {}", path.display()), &error.into()))
}

/// What is not there, or lies in a folder that is closed to this user, can be reached by nothing inside.
fn reachable(done: Result<(), Errno>) -> Result<(), Errno> {
    match done {
        Err(Errno::NOENT | Errno::ACCESS) => Ok(()),
        done => done,
    }
}

/// An empty folder in memory takes the place of this one.
fn memory(path: &Path, mode: u32) -> Result<(), Fault> {
    empty(path, mode).map_err(|error| Fault::step(format!("cover {}", path.display()), &error.into()))
}

fn empty(path: &Path, mode: u32) -> Result<(), Errno> {
    let data = CString::new(format!("mode={mode:o}")).unwrap_or_default();
    mount("tmpfs", path, "tmpfs", MountFlags::NOSUID | MountFlags::NODEV, &*data)
}

/// A folder of the program's own takes the place of this one, with files that it may write.
fn own_folder(path: &Path, files: &[(String, Bytes)]) -> Result<(), Fault> {
    memory(path, 0o700)?;
    for (name, bytes) in files {
        let file = path.join(name);
        if let Some(folder) = file.parent() {
            let made = fs::create_dir_all(folder);
            made.map_err(|error| Fault::step(format!("make {}", folder.display()), &error))?;
        }
        write(&file, &bytes.0, 0o600)?;
    }
    Ok(())
}

fn write(path: &Path, bytes: &[u8], mode: u32) -> Result<(), Fault> {
    let mut options = OpenOptions::new();
    let file = options.write(true).create_new(true).mode(mode).open(path);
    file.and_then(|mut file| file.write_all(bytes))
        .map_err(|error| Fault::step(format!("write {}", path.display()), &error))
}
