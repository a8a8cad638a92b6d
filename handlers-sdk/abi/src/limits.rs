//! Bounds of the contract. Host and guest enforce the same ones.

/// Bytes of one request view. Larger: the guest's memory goes to copies. Smaller: long cookies are refused.
pub const VIEW_BYTES_MAX: usize = 64 * 1024;

/// Header fields in one view; an id is one byte, so never above 254. Larger: look-ups by name grow. Smaller: chatty
/// browsers are refused.
pub const VIEW_FIELDS_MAX: usize = 128;

/// Labels in one view. Larger: each request copies them. Smaller: orchestrators run out of labels.
pub const VIEW_LABELS_MAX: usize = 64;

/// Bytes of the inbox that the host asks for once at start. Larger: memory that most requests never use. Smaller:
/// ordinary requests need an allocation of their own.
pub const INBOX_BYTES: u32 = 8 * 1024;

/// Bytes of one action list. Larger: time to apply it. Smaller: a handler cannot answer with a page.
pub const ACTION_LIST_BYTES_MAX: usize = 64 * 1024;

/// Entries of one action list. Larger: time to validate it. Smaller: a handler cannot rewrite a large head.
pub const ACTIONS_MAX: usize = 256;

/// Bytes of log text in one action list. Larger: logs crowd out records. Smaller: messages lose their subject.
pub const LOG_BYTES_MAX: usize = 4 * 1024;

/// Log lines in one action list. Larger: a loop floods the log. Smaller: no trail of a decision.
pub const LOG_LINES_MAX: usize = 16;

/// Bytes of the reason of a denial or the message of an error. Larger: refusals become documents. Smaller: no remedy
/// fits.
pub const REASON_BYTES_MAX: usize = 1024;

/// Bytes of a header name that a guest sets. Larger: upstreams refuse it. Smaller: real names do not fit.
pub const FIELD_NAME_BYTES_MAX: usize = 256;

/// Bytes of a header value that a guest sets. Larger: upstreams refuse the head. Smaller: tokens do not fit.
pub const FIELD_VALUE_BYTES_MAX: usize = 16 * 1024;

/// Bytes of a path with its query. Larger: upstreams refuse it. Smaller: signed URLs do not fit.
pub const PATH_BYTES_MAX: usize = 16 * 1024;

/// Bytes of a name of a secret, store, metric, key, handler or label. Larger: names become data. Smaller: names with a
/// prefix per team do not fit.
pub const NAME_BYTES_MAX: usize = 128;

/// Operations of one request that may be outstanding. Larger: state of parked requests. Smaller: no parallel fetch.
pub const SLOTS_MAX: u8 = 8;

/// Suspensions of one request. Larger: loops of fetches. Smaller: no chain of look-ups.
pub const SUSPENSIONS_MAX: u32 = 16;

/// Bytes of one body chunk. Larger: falls out of the first-level cache. Smaller: the call costs more than the copy.
pub const BODY_CHUNK_BYTES_MAX: usize = 16 * 1024;

/// Bytes of a panic message that the host keeps. Larger: a panic becomes a channel. Smaller: the location is cut.
pub const PANIC_BYTES_MAX: usize = 1024;

/// Bytes of the manifest section. Larger: publishing reads whatever it is given. Smaller: no room for a parameter
/// schema.
pub const MANIFEST_BYTES_MAX: usize = 64 * 1024;

/// Bytes of a handler's parameters. Larger: each instance parses them. Smaller: long host lists do not fit.
pub const PARAMS_BYTES_MAX: usize = 64 * 1024;
