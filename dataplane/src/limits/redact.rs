//! Bounds of the search for credentials in answers.

/// Bytes of the shortest credential that is looked for. Larger: real passwords cannot be used under `redact`. Smaller:
/// bits of ordinary answers are taken for it.
pub const REDACT_SECRET_BYTES_MIN: usize = 8;
/// Content codings of one answer, one inside the other. Larger: a bomb multiplies by each. Smaller: a server that codes
/// what its program had coded already is refused.
pub const REDACT_CODINGS_MAX: usize = 2;
/// Bytes that are decoded in one step. Larger: memory for each answer. Smaller: more sends for bulk.
pub const REDACT_STEP_BYTES: usize = 16 << 10;
/// Bytes that an answer may decode to however few it was sent as. Larger: a bomb takes more of the shard's time.
/// Smaller: empty files of a usual size are cut off.
pub const REDACT_EXPANSION_FREE_BYTES: u64 = 64 << 20;
/// Bytes to which each sent one may decode beyond that. Larger: a bomb takes more of the shard's time; deflate ends at
/// 1,032, the others nowhere. Smaller: real logs, which reach 100, are cut off.
pub const REDACT_EXPANSION_MAX: u64 = 256;
/// Answers of a shard that are decoded at once from codings with large windows, which are never asked for. Larger:
/// upstreams that send them take memory, 16 MiB each. Smaller: more of them are refused.
pub const REDACT_WIDE_DECODERS_MAX: usize = 16;
/// Window of one answer in zstd (RFC 9659 §3 bounds it so). Larger: memory. Smaller: lawful answers are refused.
pub const REDACT_ZSTD_WINDOW_BYTES_MAX: u64 = 8 << 20;
