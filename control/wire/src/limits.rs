//! Bounds of everything that crosses the link, each with what breaks when it is larger and when it is smaller.

/// Bytes of one frame's body. Larger: one peer makes the other buffer more before it can judge. Smaller: a batch of
/// large documents does not fit one revision.
pub const FRAME_BYTES_MAX: usize = 8 << 20;

/// Bytes of one frame's body from a plane, whose largest word is its list of CPU features. Larger: strangers make
/// control buffer more before it knows them. Smaller: a hello or a certificate does not fit.
pub const PLANE_FRAME_BYTES_MAX: usize = 128 << 10;

/// Operations in one frame. Larger: a small frame unfolds into much memory. Smaller: a batch does not fit.
pub const OPS_MAX: usize = 4_096;

/// Bytes of a name, an identifier or a host pattern. Larger: rows grow. Smaller: DNS names (253) stop fitting.
pub const NAME_BYTES_MAX: usize = 255;

/// Bytes of a policy document as JSON. Larger: rows of a million sandboxes grow. Smaller: real lists are refused.
pub const DOCUMENT_BYTES_MAX: usize = 64 << 10;

/// Labels of one sandbox. Larger: a selector walks longer. Smaller: orchestrators run out of them.
pub const LABELS_MAX: usize = 64;

/// Bytes of a secret's value. Larger: heads that carry it are refused upstream anyway. Smaller: keys in PEM form
/// stop fitting.
pub const SECRET_BYTES_MAX: usize = 64 << 10;

/// Host patterns to which one secret is bound. Larger: each injection compares longer. Smaller: shared credentials
/// must be written twice.
pub const SECRET_HOSTS_MAX: usize = 256;

/// Bytes of a certificate or a signing request in DER form. Larger: a peer's word costs more memory. Smaller:
/// certificates of P-384 chains stop fitting.
pub const CERTIFICATE_BYTES_MAX: usize = 8 << 10;

/// Bytes of a handler's signed envelope. Larger: one publish fills planes. Smaller: handlers with a big runtime are
/// refused.
pub const ENVELOPE_BYTES_MAX: usize = 32 << 20;

/// Bytes up to which an envelope travels inside its operation. Larger: small changes wait behind code. Smaller: each
/// handler costs a stream.
pub const ENVELOPE_INLINE_BYTES_MAX: usize = 32 << 10;

/// Bytes of a protocol's name and version (RFC 9110 §7.8). Larger: rules fill memory. Smaller: long names cannot be said.
pub const PROTOCOL_BYTES_MAX: usize = 64;
/// Bytes of a reason told by one side to the other. Larger: a hostile guest fills logs. Smaller: a chain of causes
/// is cut.
pub const REASON_BYTES_MAX: usize = 2 << 10;

/// CPU features named by a plane. Larger: a peer's word costs more memory. Smaller: newer processors are cut.
pub const FEATURES_MAX: usize = 256;

/// Open globs in one list of hosts; exact names, `*.` suffixes and ranges are found by hash and are not counted.
/// Larger: each request walks longer. Smaller: lists that were made by hand are refused.
pub const GLOBS_MAX: usize = 256;

/// Rules of one policy. Larger: each request to a host of many rules walks longer. Smaller: policies that were made
/// by a program are refused.
pub const RULES_MAX: usize = 1_024;

/// Milliseconds of the shortest policy lease. Larger: a quick lock-down is impossible. Smaller: one lost datagram
/// ends it.
pub const LEASE_MS_MIN: u64 = 500;

/// Milliseconds of the longest policy lease. Larger: a sandbox of `deny` outlives control by that. Smaller: a
/// maintenance hour cannot be bridged.
pub const LEASE_MS_MAX: u64 = 86_400_000;

/// Milliseconds of the shortest time for which a request may wait for a person. Larger: tests wait for it. Smaller: no
/// answer can travel in it.
pub const ASK_MS_MIN: u64 = 100;

/// Milliseconds of the longest time for which a request may wait for a person. Larger: parked requests pile up before
/// people who have gone home. Smaller: somebody who was called cannot reach a screen.
pub const ASK_MS_MAX: u64 = 3_600_000;

/// Bytes of a path that a question shows. Larger: a sandbox makes control hold more of what it made up. Smaller: a
/// person cannot tell what is asked.
pub const QUESTION_PATH_BYTES_MAX: usize = 2 << 10;

/// Answers that a sandbox's row keeps. Larger: rows grow, and each question walks longer. Smaller: a day's work with a
/// new program asks about hosts that were answered before.
pub const ANSWERS_MAX: usize = 256;

/// Bytes of one request or answer on a plane's local socket. Larger: a client makes the plane hold more before it can
/// judge. Smaller: sandboxes with hundreds of source ranges do not fit.
pub const ATTACH_BYTES_MAX: usize = 64 << 10;

/// Descriptors that one message on a local socket may carry. The kernel's own bound is 253; larger, and one message
/// fills the plane's table. Smaller: a namespace with a listener per port needs several messages.
pub const PASSED_DESCRIPTORS_MAX: usize = 32;

/// Bytes of a body that `outgate handler test` shows to a module. Larger: what came of it fills a terminal. Smaller:
/// answers as they are saved have to be cut.
pub const TRIAL_BODY_BYTES_MAX: usize = 1 << 20;

/// Certificates of a chain that a host is shown. Larger: each handshake carries them. Smaller: chains of companies do
/// not fit.
pub const CLIENT_CHAIN_MAX: usize = 8;
