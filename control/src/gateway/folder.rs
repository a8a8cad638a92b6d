//! The folder of one gateway: beside those of all others of its user, so that a sandbox can cover them together.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::limits::GATEWAY_MEMORY_MIN;
use crate::serve::Fault;

/// Where gateways lie: in memory, where the system has some for that; where the caller says that temporary files go, it
/// is there. What this looks at is the same for all gateways of a machine, so that they lie together.
pub(super) fn temporary() -> PathBuf {
    const MEMORY: &str = "/dev/shm";
    // statfs(2): `TMPFS_MAGIC`.
    const TMPFS: u64 = 0x0102_1994;
    let in_memory = || {
        let found = rustix::fs::statfs(MEMORY).ok()?;
        let bytes = found.f_blocks.saturating_mul(u64::try_from(found.f_bsize).ok()?);
        Some(u64::try_from(found.f_type).ok()? == TMPFS && bytes >= GATEWAY_MEMORY_MIN)
    };
    if std::env::var_os("TMPDIR").is_none() && in_memory() == Some(true) {
        return MEMORY.into();
    }
    std::env::temp_dir()
}

/// Makes a folder for one gateway, in one that is shared by all of this user's.
pub(super) fn make(temporary: &Path, user: u32) -> Result<TempDir, Fault> {
    let shared = temporary.join(format!("outgate-{user}"));
    let told = |error: std::io::Error| {
        format!("cannot make a folder in {}: {error}; set TMPDIR to another place", temporary.display())
    };
    loop {
        match fs::DirBuilder::new().mode(0o700).create(&shared) {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(told(error).into()),
            _ => {}
        }
        match fs::symlink_metadata(&shared) {
            Ok(found) if found.is_dir() && found.uid() == user && found.mode() & 0o077 == 0 => {}
            Ok(_) => {
                let why = "is not a folder of yours alone; remove it, or set TMPDIR to another place";
                return Err(format!("{} {why}", shared.display()).into());
            }
            // The last gateway before this one has just removed it.
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            Err(error) => return Err(told(error).into()),
        }
        match TempDir::with_prefix_in("run-", &shared) {
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            made => return Ok(made.map_err(told)?),
        }
    }
}

/// Removes a gateway's folder, and the shared one with the last.
pub(super) fn remove(folder: &Path) {
    let _gone = fs::remove_dir_all(folder);
    let _others = folder.parent().map(fs::remove_dir);
}

#[cfg(test)]
mod tests {
    use rustix::process::getuid;

    use super::*;

    #[test]
    fn gateways_of_one_user_lie_in_one_folder_that_goes_with_the_last() {
        let temporary = tempfile::tempdir().unwrap();
        let user = getuid().as_raw();
        let make = || super::make(temporary.path(), user).unwrap().keep();
        let (one, other) = (make(), make());
        let shared = one.parent().unwrap().to_owned();
        assert_eq!((other.parent(), shared.parent()), (Some(&*shared), Some(temporary.path())));
        remove(&one);
        assert!(other.exists());
        remove(&other);
        assert!(!shared.exists());
    }

    #[test]
    fn a_folder_that_others_could_have_prepared_is_refused_with_what_to_do() {
        let temporary = tempfile::tempdir().unwrap();
        let user = getuid().as_raw();
        let refused = || make(temporary.path(), user).unwrap_err().to_string();
        let shared = temporary.path().join(format!("outgate-{user}"));
        std::os::unix::fs::symlink("/tmp", &shared).unwrap();
        assert!(refused().contains("set TMPDIR"), "{}", refused());
        fs::remove_file(&shared).unwrap();
        fs::DirBuilder::new().mode(0o755).create(&shared).unwrap();
        assert!(refused().contains("set TMPDIR"), "{}", refused());
        let missing = make(&temporary.path().join("missing"), user).unwrap_err().to_string();
        assert!(missing.contains("TMPDIR"), "{missing}");
    }
}
