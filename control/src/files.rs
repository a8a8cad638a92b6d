//! Files that only this process may read: made with mode 0600, written whole or not at all.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use zeroize::Zeroizing;

use crate::limits::DISK_FREE_MIN;

/// Makes a folder with mode 0700, and its parents, where they are missing.
///
/// # Errors
/// When the system refuses it.
pub fn make_folder(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// Whether a disk takes nothing more, by what it says about itself.
pub fn is_full(disk: rustix::io::Result<rustix::fs::StatVfs>) -> bool {
    disk.is_ok_and(|disk| disk.f_bavail.saturating_mul(disk.f_frsize) < DISK_FREE_MIN)
}

/// Writes a file of mode 0600, so that after a crash the old or the new content is there.
///
/// # Errors
/// When the system refuses it.
pub fn write_private(path: &Path, bytes: &[u8]) -> io::Result<()> {
    // Two writers of one path must not share what lies beside it.
    static WRITES: AtomicU64 = AtomicU64::new(0);
    let number = WRITES.fetch_add(1, Ordering::Relaxed);
    let beside = path.with_extension(format!("new-{}-{number}", std::process::id()));
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&beside)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&beside, path)?;
    match path.parent() {
        Some(folder) if folder != Path::new("") => fs::File::open(folder)?.sync_all(),
        _ => Ok(()),
    }
}

/// Reads a private file; `None` where it is missing. One that others may read is refused, since it may be known.
///
/// # Errors
/// When it cannot be read or others may read it.
pub fn read_private(path: &Path) -> io::Result<Option<Zeroizing<Vec<u8>>>> {
    let metadata = match fs::metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    if metadata.mode() & 0o077 != 0 {
        let text = format!("{} may be read by others; run: chmod 600 {0}", path.display());
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, text));
    }
    Ok(Some(Zeroizing::new(fs::read(path)?)))
}
