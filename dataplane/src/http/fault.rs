//! Why a head is refused, one fact per variant.

/// Why a head is refused. For a request the status is 400 unless the variant says otherwise; for an answer it is
/// always 502.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HeadError {
    /// 431: the head is longer than `HEAD_BYTES_MAX`.
    #[error("the head is longer than {} bytes", crate::limits::HEAD_BYTES_MAX)]
    TooLong,
    /// 431: more fields than `HEAD_FIELDS_MAX`.
    #[error("the head has more than {} fields", crate::limits::HEAD_FIELDS_MAX)]
    TooManyFields,
    /// 414: the request target is longer than `TARGET_BYTES_MAX`.
    #[error("the request target is longer than {} bytes", crate::limits::TARGET_BYTES_MAX)]
    TargetTooLong,
    /// A NUL anywhere.
    #[error("the head holds a NUL")]
    Nul,
    /// A carriage return that no line feed follows (RFC 9112 §2.2).
    #[error("the head holds a carriage return without a line feed")]
    BareCr,
    /// A line feed without a carriage return before it.
    #[error("the head holds a line feed without a carriage return")]
    BareLf,
    /// A line that starts with white space (RFC 9112 §5.2).
    #[error("a field is folded over several lines")]
    Folded,
    /// White space between field name and colon (RFC 9112 §5.1).
    #[error("white space stands before the colon of a field")]
    SpaceBeforeColon,
    /// A line that is no field.
    #[error("a field is malformed")]
    Field,
    /// The first line is no request line.
    #[error("the request line is malformed")]
    RequestLine,
    /// The first line is no status line, or its status is outside 100 to 599.
    #[error("the status line is malformed")]
    StatusLine,
    /// 505: neither HTTP/1.0 nor HTTP/1.1.
    #[error("the protocol version is not served")]
    Version,
    /// 505: HTTP/2 without having agreed on it.
    #[error("HTTP/2 is not served on this connection; use HTTP/1.1")]
    Http2Preface,
    /// 405: TRACE sends back what credentials were added to it.
    #[error("the method TRACE is refused")]
    Trace,
    /// 501: no method has a name that long.
    #[error("the method is not known")]
    Method,
    /// The target's form does not fit the method, or it holds what no target may hold.
    #[error("the request target is malformed")]
    Target,
    /// User information before the host (RFC 9110 §4.2.4).
    #[error("the request target holds user information")]
    UserInfo,
    /// A fragment is never sent (RFC 9110 §7.1).
    #[error("the request target holds a fragment")]
    Fragment,
    /// An absolute target of another scheme than http or https.
    #[error("the scheme of the request target is not served")]
    Scheme,
    /// HTTP/1.1 without `Host` (RFC 9112 §3.2).
    #[error("the Host field is missing")]
    HostMissing,
    /// More than one `Host`.
    #[error("there is more than one Host field")]
    HostRepeated,
    /// `Content-Length` is repeated, a list, or no number.
    #[error("Content-Length is malformed or repeated")]
    ContentLength,
    /// `Transfer-Encoding` is repeated, or something else than `chunked`, or stands in HTTP/1.0.
    #[error("Transfer-Encoding is something else than one `chunked`")]
    TransferEncoding,
    /// Both framings at once (RFC 9112 §6.1), or one where none may be.
    #[error("the framing of the body contradicts itself")]
    Framing,
    /// 501: another protocol was asked for.
    #[error("switching to another protocol is not served")]
    Upgrade,
    /// 417: an expectation other than `100-continue`.
    #[error("the expectation is not known")]
    Expectation,
    /// An answer switches protocols although nobody asked.
    #[error("the upstream switched protocols without being asked")]
    SwitchedProtocols,
}
