//! The programs that real processes of tests run.

use std::path::PathBuf;

use crate::checkout;

/// The `outgate` program of this build.
///
/// # Panics
/// When it is not built; the message says how.
pub fn outgate() -> PathBuf {
    let own = std::env::current_exe().expect("a running program has a path");
    let path = own.ancestors().nth(2).expect("tests lie in a target folder").join("outgate");
    assert!(path.is_file(), "{} is missing; cargo build --workspace --bins", path.display());
    path
}

/// The plane's program as it is shipped: built alone. `OUTGATE_DATAPLANE` names another.
///
/// # Panics
/// When it is not built; the message says how.
pub fn shipped_plane() -> PathBuf {
    if let Some(path) = std::env::var_os("OUTGATE_DATAPLANE") {
        return path.into();
    }
    let built = checkout().join("target/plane/outgate-dataplane");
    assert!(built.is_file(), "cargo build --profile plane -p dataplane --bin outgate-dataplane");
    built
}
