//! Sockets of the machine that a program could reach by a path: who answers there acts outside of the sandbox.
//!
//! Abstract sockets need no look: they belong to a network namespace. The kernel lists the sockets that were bound in
//! this one; those of others (an engine's, in a container that it was given to) are looked for where they usually are.
//! What is mounted at several places is covered at each, and where a gateway of this user keeps its state, all of that.
//! A socket that appears later in a folder that is shared is not seen here.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use super::limits::ENTRIES_MAX;
use crate::seal::KEY_FILE;

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
        let points = mount_points()?;
        let listed = String::from_utf8_lossy(&listed);
        let mut sockets = paths(&listed);
        sockets.extend(beside_their_owners(&listed));
        sockets.extend(points.iter().filter(|point| point.is_part()).map(|point| point.path.clone()));
        let mut left = ENTRIES_MAX;
        for (folder, levels) in SEARCHED {
            search(Path::new(folder), levels, &mut left, &mut sockets);
        }
        sockets.retain(|path| !within(path) && is_socket(path));
        let elsewhere: Vec<_> = sockets.iter().flat_map(|path| elsewhere(path, &points)).collect();
        sockets.extend(elsewhere);
        let gateways: BTreeSet<_> = sockets.iter().filter_map(|path| gateway_of(path, uid)).collect();
        let folders = folders.into_iter().chain(gateways.into_iter().map(|folder| (folder, 0))).collect();
        Ok(Self { folders, sockets: sockets.into_iter().collect() })
    }
}

/// The state of the gateway that has this socket, by the key that lies there: what its secrets are sealed with.
fn gateway_of(socket: &Path, uid: u32) -> Option<PathBuf> {
    // Control's own is in its state, its plane's in a folder there.
    const LEVELS: usize = 2;
    let above = socket.ancestors().skip(1).take(LEVELS);
    let is_own = |path: PathBuf| fs::metadata(path).is_ok_and(|found| found.is_file() && found.uid() == uid);
    above.filter(|folder| is_own(folder.join(KEY_FILE))).last().map(Path::to_owned)
}

/// Number and name of each socket of a list that has a name: the number is the last of seven columns, the rest of the
/// line is the name. `@` begins an abstract one.
fn named(list: &str) -> impl Iterator<Item = (&str, &str)> {
    let split = |line| {
        let (mut rest, mut number) = (line, "");
        for _ in 0..7 {
            rest = str::trim_start(rest);
            (number, rest) = rest.split_at(rest.find(' ')?);
        }
        Some((number, rest.strip_prefix(' ')?)).filter(|(_, name)| !name.starts_with('@'))
    };
    list.lines().skip(1).filter_map(split)
}

fn paths(list: &str) -> BTreeSet<PathBuf> {
    named(list).filter(|(_, name)| name.starts_with('/')).map(|(_, name)| name.into()).collect()
}

/// A name that is no whole path counts from the folder in which the socket's owner was, and as a rule is. The owners of
/// this user are asked; the kernel tells nobody those of another.
fn beside_their_owners(list: &str) -> Vec<PathBuf> {
    let names: BTreeMap<String, &str> = named(list)
        .filter(|(_, name)| !name.starts_with('/'))
        .map(|(number, name)| (format!("socket:[{number}]"), name))
        .collect();
    if names.is_empty() {
        return Vec::new();
    }
    let mut found = Vec::new();
    for process in fs::read_dir("/proc").into_iter().flatten().flatten().map(|entry| entry.path()) {
        let Ok(folder) = fs::read_link(process.join("cwd")) else { continue };
        for descriptor in fs::read_dir(process.join("fd")).into_iter().flatten().flatten() {
            let link = fs::read_link(descriptor.path()).unwrap_or_default();
            found.extend(link.to_str().and_then(|link| names.get(link)).map(|name| folder.join(name)));
        }
    }
    found
}

/// Where something is mounted.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct MountPoint {
    /// Which file system.
    device: String,
    /// Which folder or file of it.
    root: PathBuf,
    pub path: PathBuf,
}

impl MountPoint {
    /// It is a part of another mount, so it may be a socket by itself. What is whole may be far away, and is not asked.
    fn is_part(&self) -> bool {
        self.root != Path::new("/")
    }
}

/// Other paths of the same file, by which a file system that is mounted at several places shows it.
pub(super) fn elsewhere(path: &Path, points: &[MountPoint]) -> Vec<PathBuf> {
    let identity = |path: &Path| fs::symlink_metadata(path).map(|found| (found.dev(), found.ino())).ok();
    let Some(same) = identity(path) else { return Vec::new() };
    // Where it lies in its file system. Of two mounts over each other the later one counts.
    let depth = |point: &&MountPoint| point.path.components().count();
    let Some(own) = points.iter().filter(|point| path.starts_with(&point.path)).max_by_key(depth) else {
        return Vec::new();
    };
    let Ok(below) = path.strip_prefix(&own.path) else { return Vec::new() };
    let place = joined(&own.root, below);
    let others = points.iter().filter(|point| point.device == own.device).filter_map(|point| {
        let below = place.strip_prefix(&point.root).ok()?;
        Some(joined(&point.path, below)).filter(|other| other != path && identity(other) == Some(same))
    });
    others.collect::<BTreeSet<_>>().into_iter().collect()
}

/// Without a slash at the end where there is nothing below.
fn joined(folder: &Path, below: &Path) -> PathBuf {
    if below.as_os_str().is_empty() { folder.to_owned() } else { folder.join(below) }
}

/// All that this process has.
pub(super) fn mount_points() -> std::io::Result<Vec<MountPoint>> {
    Ok(points(&fs::read_to_string("/proc/self/mountinfo")?))
}

/// The third, fourth and fifth column (proc_pid_mountinfo(5)).
fn points(list: &str) -> Vec<MountPoint> {
    let point = |line: &str| {
        let mut columns = line.split(' ').skip(2);
        let device = columns.next()?.to_owned();
        Some(MountPoint { device, root: unescaped(columns.next()?), path: unescaped(columns.next()?) })
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
        assert_eq!(named(list).nth(1), Some(("99647", "relative")));
        let found: Vec<_> = paths(list).into_iter().collect();
        assert_eq!(found, [PathBuf::from("/run/docker.sock"), PathBuf::from("/tmp/a b c")]);
    }

    #[test]
    fn mount_points_are_read_as_they_are_called() {
        let list = "36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue\n\
                    37 35 0:5 / /with\\040space\\134\\011 ro - tmpfs tmpfs rw\n";
        let point = |device: &str, root: &str, path: &str| MountPoint {
            device: device.into(),
            root: root.into(),
            path: path.into(),
        };
        let found = points(list);
        assert_eq!(found, [point("98:0", "/mnt1", "/mnt2"), point("0:5", "/", "/with space\\\t")]);
        assert!(found[0].is_part() && !found[1].is_part());
    }

    #[test]
    fn a_file_that_is_mounted_twice_is_found_by_its_other_path_only_where_it_is_the_same() {
        let folder = tempfile::tempdir().unwrap();
        let (one, other) = (folder.path().join("one"), folder.path().join("other"));
        fs::create_dir(&one).unwrap();
        fs::write(one.join("f"), "").unwrap();
        // A link stands in for the second mount: the same file by another path.
        std::os::unix::fs::symlink(&one, &other).unwrap();
        let point = |device: &str, root: &str, path: &Path| MountPoint {
            device: device.into(),
            root: root.into(),
            path: path.to_owned(),
        };
        let whole = point("8:1", "/", Path::new("/"));
        let mounted = |device: &str, root: &Path| point(device, root.to_str().unwrap(), &other);
        let file = one.join("f");
        assert_eq!(elsewhere(&file, &[whole, mounted("8:1", &one)]), [other.join("f")]);
        let whole = point("8:1", "/", Path::new("/"));
        assert_eq!(elsewhere(&file, &[whole, mounted("8:2", &one)]), [""; 0].map(PathBuf::from));
        let whole = point("8:1", "/", Path::new("/"));
        assert_eq!(elsewhere(&file, &[whole, mounted("8:1", Path::new("/x"))]), [""; 0].map(PathBuf::from));
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
