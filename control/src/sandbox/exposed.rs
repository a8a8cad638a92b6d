//! Sockets of the machine that a program could reach by a path: who answers there acts outside of the sandbox.
//!
//! Abstract sockets need no look: they belong to a network namespace. The kernel lists the sockets that were bound in
//! this one; those of others (an engine's, in a container that it was given to) are looked for where they usually are.
//! A socket that appears later in a folder that is shared is not seen here.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use super::limits::ENTRIES_MAX;

/// Folders that hold nothing but sockets and what belongs to them. They are covered whole, so that what appears in them
/// later is covered too; `{uid}` is the user's number, and the number is the mode of what covers them.
const FOLDERS: [(&str, u32); 13] = [
    ("/run/user/{uid}", 0o700),
    // Starts programs of Windows, outside of everything.
    ("/run/WSL", 0o755),
    ("/run/dbus", 0o755),
    ("/run/docker", 0o755),
    ("/run/containerd", 0o755),
    ("/run/podman", 0o755),
    ("/run/nscd", 0o755),
    ("/run/avahi-daemon", 0o755),
    ("/run/screen", 0o777),
    ("/tmp/.X11-unix", 0o1777),
    ("/tmp/.ICE-unix", 0o1777),
    ("/tmp/tmux-{uid}", 0o700),
    ("/var/lib/sss/pipes", 0o755),
];

/// Folders in which sockets of other network namespaces are looked for, and how many levels below them.
const SEARCHED: [(&str, usize); 2] = [("/run", 4), ("/tmp", 2)];

/// What must be covered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Exposed {
    /// Folders, with the mode of the empty one that takes their place.
    pub folders: Vec<(PathBuf, u32)>,
    /// Sockets by themselves.
    pub sockets: Vec<PathBuf>,
}

impl Exposed {
    /// Looks at the machine. Called before the network namespace is left: the kernel lists the sockets of one.
    ///
    /// # Errors
    /// When a list of the kernel's cannot be read.
    pub fn look(uid: u32) -> std::io::Result<Self> {
        let listed = fs::read("/proc/net/unix")?;
        let is_socket =
            |path: &PathBuf| fs::metadata(path).is_ok_and(|metadata| metadata.file_type().is_socket());
        let folders = FOLDERS
            .iter()
            .map(|(path, mode)| (PathBuf::from(path.replace("{uid}", &uid.to_string())), *mode));
        let folders: Vec<_> = folders.filter(|(path, _)| path.is_dir()).collect();
        let within = |path: &PathBuf| folders.iter().any(|(folder, _)| path.starts_with(folder));
        let mut sockets = paths(&String::from_utf8_lossy(&listed));
        sockets.extend(mount_points()?.into_iter().filter(|point| point.is_part).map(|point| point.path));
        let mut left = ENTRIES_MAX;
        for (folder, levels) in SEARCHED {
            search(Path::new(folder), levels, &mut left, &mut sockets);
        }
        let sockets = sockets.into_iter().filter(|path| !within(path) && is_socket(path)).collect();
        Ok(Self { folders, sockets })
    }
}

/// Paths of a list: seven columns, then the path where there is one. `@` begins an abstract name.
fn paths(list: &str) -> BTreeSet<PathBuf> {
    let path = |line: &str| {
        let mut rest = line;
        for _ in 0..7 {
            rest = rest.trim_start();
            rest = &rest[rest.find(' ')?..];
        }
        let path = rest.strip_prefix(' ')?;
        path.starts_with('/').then(|| PathBuf::from(path))
    };
    list.lines().skip(1).filter_map(path).collect()
}

/// Where something is mounted.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct MountPoint {
    pub path: PathBuf,
    /// It is a part of another mount, so it may be a socket by itself. What is whole may be far away, and is not asked.
    is_part: bool,
}

/// All that this process has.
pub(super) fn mount_points() -> std::io::Result<Vec<MountPoint>> {
    Ok(points(&fs::read_to_string("/proc/self/mountinfo")?))
}

/// The fourth and fifth column (proc_pid_mountinfo(5)).
fn points(list: &str) -> Vec<MountPoint> {
    let point = |line: &str| {
        let mut columns = line.split(' ').skip(3);
        Some(MountPoint { is_part: columns.next()? != "/", path: unescaped(columns.next()?) })
    };
    list.lines().filter_map(point).collect()
}

/// A space and the like are told by their octal number behind a backslash.
fn unescaped(text: &str) -> PathBuf {
    let mut parts = text.split('\\');
    let mut plain = parts.next().unwrap_or_default().as_bytes().to_vec();
    for part in parts {
        match part.get(..3).and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) => {
                plain.push(byte);
                plain.extend_from_slice(&part.as_bytes()[3..]);
            }
            None => {
                plain.push(b'\\');
                plain.extend_from_slice(part.as_bytes());
            }
        }
    }
    PathBuf::from(OsString::from_vec(plain))
}

/// Collects the sockets below a folder.
fn search(folder: &Path, levels: usize, left: &mut usize, found: &mut BTreeSet<PathBuf>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let Some(fewer) = left.checked_sub(1) else { return };
        *left = fewer;
        match entry.file_type() {
            Ok(kind) if kind.is_socket() => {
                found.insert(entry.path());
            }
            Ok(kind) if kind.is_dir() && levels > 1 => search(&entry.path(), levels - 1, left, found),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;

    #[test]
    fn paths_are_taken_and_abstract_names_are_not() {
        let list = "Num       RefCount Protocol Flags    Type St Inode Path\n\
                    00000000f37fbcd1: 00000003 00000000 00000000 0001 03 4118785\n\
                    000000001e4bd273: 00000002 00000000 00010000 0001 01   647 /run/docker.sock\n\
                    000000001e4bd274: 00000002 00000000 00010000 0001 01 99647 @/tmp/.X11-unix/X0\n\
                    000000001e4bd276: 00000002 00000000 00010000 0001 01 99647 relative\n\
                    000000001e4bd275: 00000002 00000000 00010000 0002 01 99648 /tmp/a b c\n";
        let found: Vec<_> = paths(list).into_iter().collect();
        assert_eq!(found, [PathBuf::from("/run/docker.sock"), PathBuf::from("/tmp/a b c")]);
    }

    #[test]
    fn mount_points_are_read_as_they_are_called() {
        let list = "36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue\n\
                    37 35 0:5 / /with\\040space\\134\\011 ro - tmpfs tmpfs rw\n";
        let point = |path: &str, is_part| MountPoint { path: path.into(), is_part };
        assert_eq!(points(list), [point("/mnt2", true), point("/with space\\\t", false)]);
    }

    #[test]
    fn sockets_are_found_by_their_kind_and_the_search_has_an_end() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir_all(folder.path().join("a/b")).unwrap();
        let socket = folder.path().join("a/b/s");
        let _listener = UnixListener::bind(&socket).unwrap();
        let search = |levels, mut left| {
            let mut found = BTreeSet::new();
            search(folder.path(), levels, &mut left, &mut found);
            found.into_iter().collect::<Vec<_>>()
        };
        assert_eq!(search(3, 10), [socket]);
        assert_eq!((search(2, 10), search(3, 2)), (vec![], vec![]));
    }

    #[test]
    fn a_socket_of_this_machine_is_found_and_one_that_is_gone_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let (kept, gone) = (folder.path().join("kept"), folder.path().join("gone"));
        let _listeners = (UnixListener::bind(&kept).unwrap(), UnixListener::bind(&gone).unwrap());
        fs::remove_file(&gone).unwrap();
        let found = Exposed::look(rustix::process::getuid().as_raw()).unwrap();
        assert!(found.sockets.contains(&kept) && !found.sockets.contains(&gone), "{found:?}");
    }
}
