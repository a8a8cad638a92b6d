//! Names of the exports and imports, of the manifest section, and the shape of names inside actions.

use crate::limits::NAME_BYTES_MAX;

/// Export `(len: i32) -> i32`: space for the host to write into; 0 refuses.
pub const EXPORT_ALLOC: &str = "og_alloc";
/// Export `(ptr: i32, len: i32) -> i64`: takes the parameters as JSON, once; 0 on success, a list with an error else.
pub const EXPORT_INIT: &str = "og_init";
/// Export `(kind: i32, ptr: i32, len: i32) -> i64`: takes one event, answers as [`crate::Answer`] says.
pub const EXPORT_EVENT: &str = "og_event";
/// The guest's only memory.
pub const EXPORT_MEMORY: &str = "memory";
/// Module of every import that a guest may have.
pub const IMPORT_MODULE: &str = "outgate";
/// Import `(ptr: i32, len: i32)`: a panic's message and location; the guest traps after it.
pub const IMPORT_PANIC: &str = "panic";
/// Custom section that holds the manifest.
pub const MANIFEST_SECTION: &str = "outgate";

/// Whether a name of a secret, store, metric or key is well formed: ASCII letters, digits, `.`, `_`, `-`, `/`, `:`.
pub fn is_name(name: &[u8]) -> bool {
    !name.is_empty()
        && name.len() <= NAME_BYTES_MAX
        && name.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-' | b'/' | b':'))
}
