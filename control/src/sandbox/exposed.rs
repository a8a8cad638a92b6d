//! Sockets of the machine that a program could reach by a path: who answers there acts outside of the sandbox.
//!
//! Abstract sockets need no look: they belong to a network namespace. A socket that appears later in a folder that is
//! shared, one that is bound by a relative path, and one of another network namespace are not seen here.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::FileTypeExt;
use std::path::PathBuf;

/// Folders that hold nothing but sockets and what belongs to them. They are covered whole, so that what appears in them
/// later is covered too; `{uid}` is the user's number, and the number is the mode of what covers them.
const FOLDERS: [(&str, u32); 12] = [
    ("/run/user/{uid}", 0o700),
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
    /// When the kernel's list cannot be read.
    pub fn look(uid: u32) -> std::io::Result<Self> {
        let listed = fs::read("/proc/net/unix")?;
        let is_socket =
            |path: &PathBuf| fs::metadata(path).is_ok_and(|metadata| metadata.file_type().is_socket());
        let folders = FOLDERS
            .iter()
            .map(|(path, mode)| (PathBuf::from(path.replace("{uid}", &uid.to_string())), *mode));
        let folders: Vec<_> = folders.filter(|(path, _)| path.is_dir()).collect();
        let within = |path: &PathBuf| folders.iter().any(|(folder, _)| path.starts_with(folder));
        let sockets = paths(&String::from_utf8_lossy(&listed));
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
    fn a_socket_of_this_machine_is_found_and_one_that_is_gone_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let (kept, gone) = (folder.path().join("kept"), folder.path().join("gone"));
        let _listeners = (UnixListener::bind(&kept).unwrap(), UnixListener::bind(&gone).unwrap());
        fs::remove_file(&gone).unwrap();
        let found = Exposed::look(rustix::process::getuid().as_raw()).unwrap();
        assert!(found.sockets.contains(&kept) && !found.sockets.contains(&gone), "{found:?}");
    }
}
