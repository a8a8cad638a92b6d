//! Heads of requests and answers: spans over one block of bytes, so a head that lies in one receive buffer is not
//! copied.

use std::{
    borrow::Cow,
    fmt,
    ops::{Deref, Range},
};

/// Version of the protocol in which a head arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Version {
    /// HTTP/1.0.
    Http10,
    /// HTTP/1.1.
    Http11,
    /// HTTP/2.
    Http2,
}

/// How the end of a body is known (RFC 9112 §6.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// No body.
    None,
    /// As many bytes as `Content-Length` says.
    Length(u64),
    /// The chunked coding.
    Chunked,
    /// Until the sender closes; only answers may.
    UntilClose,
    /// Bytes of another protocol until the sender closes, once the answer has agreed to it with 101 (RFC 9110 §7.8).
    Tunnel,
}

/// What a parser found at the start of some bytes.
#[derive(Debug)]
pub enum Parsed<T> {
    /// The head goes on beyond these bytes.
    Partial,
    /// A whole head and the number of bytes that it takes.
    Complete {
        /// The head.
        head: T,
        /// Bytes from the start to behind the empty line.
        consumed: usize,
    },
}

/// One field as it was sent: name with its case, value without white space around it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Field<'a> {
    /// A token (RFC 9110 §5.6.2), in the sender's case.
    pub name: &'a [u8],
    /// Bytes without CR, LF and NUL; not always UTF-8.
    pub value: &'a [u8],
}

impl Field<'_> {
    /// Whether the field has this name, whatever its case.
    pub fn is(&self, name: &str) -> bool {
        self.name.eq_ignore_ascii_case(name.as_bytes())
    }
}

/// Values may be credentials and are not shown.
impl fmt::Debug for Field<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: [{} bytes]", String::from_utf8_lossy(self.name), self.value.len())
    }
}

/// A part of the block; heads are far shorter than 4 GiB.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Span {
    start: u32,
    end: u32,
}

impl Span {
    pub(super) fn new(range: Range<usize>) -> Self {
        debug_assert!(range.end <= u32::MAX as usize, "heads are bounded");
        Span { start: range.start as u32, end: range.end as u32 }
    }

    /// Where `part`, a slice of `block`, lies in it.
    pub(super) fn of(block: &[u8], part: &[u8]) -> Self {
        let start = part.as_ptr() as usize - block.as_ptr() as usize;
        Span::new(start..start + part.len())
    }

    pub(super) fn in_block<'a>(&self, block: &'a [u8]) -> &'a [u8] {
        &block[self.start as usize..self.end as usize]
    }

    pub(super) fn is_empty(&self) -> bool {
        self.start == self.end
    }
}

/// Where the fields of a head lie in its block, in the order in which they were sent.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct FieldSpans(pub(super) Vec<(Span, Span)>);

impl FieldSpans {
    pub(super) fn iter<'a>(
        &'a self,
        block: &'a [u8],
    ) -> impl DoubleEndedIterator<Item = Field<'a>> + Clone + 'a {
        self.0.iter().map(|(name, value)| Field { name: name.in_block(block), value: value.in_block(block) })
    }
}

/// The form of a request target (RFC 9112 §3.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TargetForm {
    /// `/path?query`.
    Origin,
    /// `http://host/path?query`, as to a proxy.
    Absolute,
    /// `host:port` of CONNECT.
    Authority,
    /// `*` of OPTIONS.
    Asterisk,
}

/// A request head without its bytes: what [`RequestHead::detach`] leaves when the borrow of the buffer ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestLayout {
    pub(super) length: usize,
    pub(super) version: Version,
    pub(super) method: Span,
    pub(super) form: TargetForm,
    pub(super) target: Span,
    pub(super) target_scheme: Option<super::Scheme>,
    pub(super) target_authority: Span,
    pub(super) path: Span,
    pub(super) query: Option<Span>,
    pub(super) host: Option<Span>,
    pub(super) fields: FieldSpans,
    pub(super) framing: Framing,
    pub(super) expects_continue: bool,
    pub(super) keep_alive: bool,
}

impl RequestLayout {
    /// The same, of a head that arrived in this version and was written as HTTP/1.1.
    pub(super) fn arrived_in(self, version: Version) -> Self {
        Self { version, ..self }
    }

    /// Joins the layout with the block from which it was parsed, or a copy of it.
    ///
    /// # Panics
    /// When the block is shorter than the head: our own mistake, the block came from somewhere else.
    pub fn attach<B: Deref<Target = [u8]>>(self, block: B) -> RequestHead<B> {
        assert!(block.len() >= self.length, "a layout belongs to the bytes from which it was parsed");
        RequestHead { block, layout: self }
    }
}

/// A request head that passed every check of `parse_request`. `B` holds the bytes: a borrowed slice, a receive
/// buffer that is kept until the head was sent on, or a vector of its own (for example while it is parked).
#[derive(Clone)]
pub struct RequestHead<B = Vec<u8>> {
    block: B,
    layout: RequestLayout,
}

impl<B: Deref<Target = [u8]>> RequestHead<B> {
    /// Ends the hold on the bytes and keeps the layout.
    pub fn detach(self) -> RequestLayout {
        self.layout
    }

    /// A copy with bytes of its own, which holds back no receive buffer.
    pub fn to_owned(&self) -> RequestHead<Vec<u8>> {
        RequestHead { block: self.block[..self.layout.length].to_vec(), layout: self.layout.clone() }
    }

    /// The version in which it arrived.
    pub fn version(&self) -> Version {
        self.layout.version
    }

    /// The method, in its case: methods are case-sensitive (RFC 9110 §9.1).
    pub fn method(&self) -> &str {
        text(self.layout.method.in_block(&self.block))
    }

    /// The form in which the target was written.
    pub fn form(&self) -> TargetForm {
        self.layout.form
    }

    /// The target as it was written.
    pub fn target(&self) -> &str {
        text(self.layout.target.in_block(&self.block))
    }

    /// The scheme of an absolute target.
    pub fn target_scheme(&self) -> Option<super::Scheme> {
        self.layout.target_scheme
    }

    /// `host:port` of an absolute or CONNECT target.
    pub fn target_authority(&self) -> Option<&[u8]> {
        Some(self.layout.target_authority.in_block(&self.block)).filter(|authority| !authority.is_empty())
    }

    /// The path as it was sent; `/` where an absolute target has none, `*` of an OPTIONS, empty for CONNECT.
    pub fn path(&self) -> &str {
        if !self.layout.path.is_empty() {
            return text(self.layout.path.in_block(&self.block));
        }
        match self.layout.form {
            TargetForm::Asterisk => "*",
            TargetForm::Authority => "",
            // RFC 9112 §3.2.4: the last hop writes `*` for an OPTIONS whose absolute target has no path.
            TargetForm::Absolute if self.layout.query.is_none() && self.method() == "OPTIONS" => "*",
            TargetForm::Absolute | TargetForm::Origin => "/",
        }
    }

    /// The query without its question mark; `Some("")` where only the mark was sent.
    pub fn query(&self) -> Option<&str> {
        self.layout.query.map(|query| text(query.in_block(&self.block)))
    }

    /// The value of `Host` as it was sent.
    pub fn host(&self) -> Option<&[u8]> {
        self.layout.host.map(|host| host.in_block(&self.block))
    }

    /// All fields in their order.
    pub fn fields(&self) -> impl DoubleEndedIterator<Item = Field<'_>> + Clone {
        self.layout.fields.iter(&self.block)
    }

    /// The value of the first field of that name.
    pub fn field(&self, name: &str) -> Option<&[u8]> {
        self.fields().find(|field| field.is(name)).map(|field| field.value)
    }

    /// A call of gRPC, which has a form in HTTP/2 alone.
    pub fn is_grpc(&self) -> bool {
        self.layout.version == Version::Http2
            && self.field("content-type").is_some_and(|kind| kind.starts_with(b"application/grpc"))
    }

    /// How the body ends; never [`Framing::UntilClose`].
    pub fn framing(&self) -> Framing {
        self.layout.framing
    }

    /// The client waits for `100 Continue` before it sends the body.
    pub fn expects_continue(&self) -> bool {
        self.layout.expects_continue
    }

    /// The client would send another request on this connection (RFC 9112 §9.3).
    pub fn keep_alive(&self) -> bool {
        self.layout.keep_alive
    }
}

impl<B: Deref<Target = [u8]>> fmt::Debug for RequestHead<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {:?}", self.method(), self.path(), self.layout.version)?;
        f.debug_list().entries(self.fields()).finish()
    }
}

/// An answer's head without its bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResponseLayout {
    pub(super) length: usize,
    pub(super) version: Version,
    pub(super) status: u16,
    pub(super) reason: Span,
    pub(super) fields: FieldSpans,
    pub(super) framing: Framing,
    pub(super) keep_alive: bool,
}

impl ResponseLayout {
    /// Joins the layout with its block, as [`RequestLayout::attach`].
    ///
    /// # Panics
    /// When the block is shorter than the head.
    pub fn attach<B: Deref<Target = [u8]>>(self, block: B) -> ResponseHead<B> {
        assert!(block.len() >= self.length, "a layout belongs to the bytes from which it was parsed");
        ResponseHead { block, layout: self }
    }
}

/// The head of an answer that passed every check of `parse_response`.
#[derive(Clone)]
pub struct ResponseHead<B = Vec<u8>> {
    block: B,
    layout: ResponseLayout,
}

impl<B: Deref<Target = [u8]>> ResponseHead<B> {
    /// Ends the hold on the bytes and keeps the layout.
    pub fn detach(self) -> ResponseLayout {
        self.layout
    }

    /// A copy with bytes of its own.
    pub fn to_owned(&self) -> ResponseHead<Vec<u8>> {
        ResponseHead { block: self.block[..self.layout.length].to_vec(), layout: self.layout.clone() }
    }

    /// The version in which it arrived.
    pub fn version(&self) -> Version {
        self.layout.version
    }

    /// The status, 100 to 599.
    pub fn status(&self) -> u16 {
        self.layout.status
    }

    /// An interim answer; another head follows (RFC 9110 §15.2).
    pub fn is_interim(&self) -> bool {
        self.layout.status < 200 && self.layout.framing != Framing::Tunnel
    }

    /// The reason phrase as it was sent, possibly empty, not always UTF-8.
    pub fn reason(&self) -> &[u8] {
        self.layout.reason.in_block(&self.block)
    }

    /// All fields in their order.
    pub fn fields(&self) -> impl DoubleEndedIterator<Item = Field<'_>> + Clone {
        self.layout.fields.iter(&self.block)
    }

    /// The value of the first field of that name.
    pub fn field(&self, name: &str) -> Option<&[u8]> {
        self.fields().find(|field| field.is(name)).map(|field| field.value)
    }

    /// How the body ends, the request's method considered.
    pub fn framing(&self) -> Framing {
        self.layout.framing
    }

    /// The connection may carry another request after this answer.
    pub fn keep_alive(&self) -> bool {
        self.layout.keep_alive
    }
}

impl<B: Deref<Target = [u8]>> fmt::Debug for ResponseHead<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:?}", self.layout.status, self.layout.version)?;
        f.debug_list().entries(self.fields()).finish()
    }
}

/// Method and target are visible ASCII by the parser's check.
fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap_or_default()
}

/// A method that outlives its head. The usual ones (RFC 9110 §9.3, RFC 5789) are not copied.
pub fn kept_method(method: &str) -> Cow<'static, str> {
    const USUAL: [&str; 7] = ["GET", "POST", "PUT", "DELETE", "HEAD", "PATCH", "OPTIONS"];
    let usual = USUAL.into_iter().find(|usual| *usual == method);
    usual.map_or_else(|| Cow::Owned(method.to_owned()), Cow::Borrowed)
}
