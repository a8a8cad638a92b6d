//! Bounds of publishing, each with what breaks when it is larger and when it is smaller.

use std::time::Duration;

/// Bytes of a module. Larger: a publish takes longer than anybody waits. Smaller: handlers with a parser or a script
/// engine inside are refused.
pub const WASM_BYTES_MAX: usize = 8 << 20;
/// Bytes of one function's body. One straight run of it is how long a raised flag may wait. Larger: a handler is
/// stopped later. Smaller: functions into which much was inlined are refused.
pub const FUNCTION_BYTES_MAX: usize = 128 << 10;
/// Functions of a module. Larger: the compiler takes longer. Smaller: script engines are refused.
pub const FUNCTIONS_MAX: u32 = 20_000;
/// Locals of one function. Larger: the compiler's time grows faster than they do. Smaller: large inlined functions
/// are refused.
pub const FUNCTION_LOCALS_MAX: u64 = 8_192;
/// Pages of 64 KiB that a memory may begin with. Larger: no plane has a slot for it. Smaller: guests with large
/// constants are refused.
pub const MEMORY_PAGES_MAX: u64 = 16;
/// Entries that a table may begin with. Larger: each instance allocates them. Smaller: guests with many virtual calls
/// are refused.
pub const TABLE_ENTRIES_MAX: u64 = 16 << 10;
/// Tables of a module. Larger: they multiply the bound above. Smaller: none.
pub const TABLES_MAX: u32 = 1;
/// Globals of a module. Each is put back after each request. Larger: restoring costs more. Smaller: position-independent
/// guests are refused.
pub const GLOBALS_MAX: u32 = 256;

/// Address space of the compiling child in bytes. Larger: a hostile module takes control's machine. Smaller: large
/// handlers do not compile.
pub const CHILD_MEMORY_BYTES: u64 = 4 << 30;
/// Processor time of the compiling child. Larger: publishes queue behind a hostile one. Smaller: large handlers do not
/// compile on slow machines.
pub const CHILD_TIME: Duration = Duration::from_secs(60);
/// Wall time of the compiling child. Larger: a stuck child holds its publish. Smaller: busy machines fail.
pub const CHILD_WALL: Duration = Duration::from_secs(180);
/// Bytes of a child's complaint that are kept. Larger: a module writes control's log. Smaller: the reason is cut.
pub const CHILD_REASON_BYTES_MAX: usize = 2 << 10;
