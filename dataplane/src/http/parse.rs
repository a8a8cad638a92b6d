//! The strict pass: turns a whole head into spans, or says what is wrong with it.

use std::{
    fmt::{self, Write as _},
    mem::MaybeUninit,
};

use crate::limits::{HEAD_FIELDS_MAX, METHOD_BYTES_MAX};

use super::{
    edit::is_token_byte,
    fault::HeadError,
    head::{
        Field, FieldSpans, Framing, RequestHead, RequestLayout, ResponseHead, ResponseLayout, Span, Version,
    },
    reader::WholeHead,
    target,
};

pub(super) fn request(whole: WholeHead<'_>) -> Result<RequestHead<&[u8]>, HeadError> {
    let block = whole.0;
    if block.starts_with(b"PRI * HTTP/2.0\r\n") {
        return Err(HeadError::Http2Preface);
    }
    let mut storage = [const { MaybeUninit::<httparse::Header<'_>>::uninit() }; HEAD_FIELDS_MAX];
    let mut parsed = httparse::Request::new(&mut []);
    match parsed.parse_with_uninit_headers(block, &mut storage) {
        Ok(httparse::Status::Complete(length)) if length == block.len() => {}
        Ok(_) => return Err(HeadError::Field),
        Err(_) if has_space_before_colon(block) => return Err(HeadError::SpaceBeforeColon),
        // A space inside the target reads as a wrong version; what is wrong is the line.
        Err(httparse::Error::Version) if first_line(block).split(|byte| *byte == b' ').count() != 3 => {
            return Err(HeadError::RequestLine);
        }
        Err(error) => return Err(fault(error, HeadError::RequestLine)),
    }
    let (Some(method), Some(target), Some(minor)) = (parsed.method, parsed.path, parsed.version) else {
        return Err(HeadError::RequestLine);
    };
    check_request_line(block, method, target)?;
    if method.len() > METHOD_BYTES_MAX {
        return Err(HeadError::Method);
    }
    // TRACK is the same thing under another name.
    if method.eq_ignore_ascii_case("TRACE") || method.eq_ignore_ascii_case("TRACK") {
        return Err(HeadError::Trace);
    }
    let target = target::read(block, method, target)?;
    let fields = spans(block, parsed.headers)?;
    let facts = request_facts(&fields, block, minor, method)?;
    let layout = RequestLayout {
        length: block.len(),
        version: version(minor),
        method: Span::of(block, method.as_bytes()),
        form: target.form,
        target: target.whole,
        target_scheme: target.scheme,
        target_authority: target.authority,
        path: target.path,
        query: target.query,
        host: facts.host,
        framing: facts.framing,
        expects_continue: facts.expects_continue,
        keep_alive: facts.keep_alive,
        fields,
    };
    Ok(layout.attach(block))
}

pub(super) fn response<'a>(whole: WholeHead<'a>, method: &str) -> Result<ResponseHead<&'a [u8]>, HeadError> {
    let block = whole.0;
    let mut storage = [const { MaybeUninit::<httparse::Header<'_>>::uninit() }; HEAD_FIELDS_MAX];
    let mut parsed = httparse::Response::new(&mut []);
    let config = httparse::ParserConfig::default();
    match config.parse_response_with_uninit_headers(&mut parsed, block, &mut storage) {
        Ok(httparse::Status::Complete(length)) if length == block.len() => {}
        Ok(_) => return Err(HeadError::Field),
        Err(_) if has_space_before_colon(block) => return Err(HeadError::SpaceBeforeColon),
        Err(error) => return Err(fault(error, HeadError::StatusLine)),
    }
    let (Some(status), Some(minor)) = (parsed.code, parsed.version) else {
        return Err(HeadError::StatusLine);
    };
    if !(100..=599).contains(&status) || !block.starts_with(b"HTTP/1.") {
        return Err(HeadError::StatusLine);
    }
    let fields = spans(block, parsed.headers)?;
    let (framing, keep_alive) = match status {
        101 => (switched(&fields, block)?, false),
        _ => response_framing(&fields, block, minor, status, method)?,
    };
    let layout = ResponseLayout {
        length: block.len(),
        version: version(minor),
        status,
        reason: reason(block),
        fields,
        framing,
        keep_alive,
    };
    Ok(layout.attach(block))
}

/// The line up to its CRLF, behind an empty line that may stand before it.
fn first_line(block: &[u8]) -> &[u8] {
    let block = block.strip_prefix(b"\r\n").unwrap_or(block);
    block.split(|byte| *byte == b'\r').next().unwrap_or(block)
}

const fn version(minor: u8) -> Version {
    if minor == 0 { Version::Http10 } else { Version::Http11 }
}

fn fault(error: httparse::Error, first_line: HeadError) -> HeadError {
    match error {
        httparse::Error::TooManyHeaders => HeadError::TooManyFields,
        httparse::Error::Version => HeadError::Version,
        httparse::Error::HeaderName | httparse::Error::HeaderValue => HeadError::Field,
        httparse::Error::NewLine | httparse::Error::Status | httparse::Error::Token => first_line,
    }
}

/// White space before a colon has a refusal of its own, since it is the classic way to hide a field. The parser takes
/// no such name, so only a refused head is searched.
fn has_space_before_colon(block: &[u8]) -> bool {
    let mut lines = block.strip_prefix(b"\r\n").unwrap_or(block).split(|byte| *byte == b'\n').skip(1);
    lines.any(|line| {
        let colon = line.iter().position(|byte| *byte == b':');
        colon.is_some_and(|colon| colon > 0 && matches!(line[colon - 1], b' ' | b'\t'))
    })
}

/// Exactly one space between the three parts of the line (RFC 9112 §3).
fn check_request_line(block: &[u8], method: &str, target: &str) -> Result<(), HeadError> {
    let line = block.strip_prefix(b"\r\n").unwrap_or(block);
    let sound = line
        .strip_prefix(method.as_bytes())
        .and_then(|rest| rest.strip_prefix(b" "))
        .and_then(|rest| rest.strip_prefix(target.as_bytes()))
        .is_some_and(|rest| rest.starts_with(b" HTTP/1.") && rest[9..].get(..2) == Some(b"\r\n"));
    if sound { Ok(()) } else { Err(HeadError::RequestLine) }
}

/// What stands behind the status and its space (RFC 9112 §4); httparse drops phrases that are no ASCII.
fn reason(block: &[u8]) -> Span {
    let start = block.strip_prefix(b"\r\n").map_or(0, |_| 2) + b"HTTP/1.1 200".len();
    let end = block[start..].iter().position(|byte| *byte == b'\r').map_or(start, |length| start + length);
    Span::new((start + 1).min(end)..end)
}

fn spans(block: &[u8], headers: &[httparse::Header<'_>]) -> Result<FieldSpans, HeadError> {
    let mut found = Vec::with_capacity(headers.len());
    for header in headers {
        if header.name.is_empty() {
            return Err(HeadError::Field);
        }
        found.push((Span::of(block, header.name.as_bytes()), Span::of(block, trim(header.value))));
    }
    Ok(FieldSpans(found))
}

/// Without the optional white space of RFC 9110 §5.6.3.
pub(super) fn trim(mut value: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] = value {
        value = rest;
    }
    value
}

struct RequestFacts {
    host: Option<Span>,
    framing: Framing,
    expects_continue: bool,
    keep_alive: bool,
}

fn request_facts(
    fields: &FieldSpans,
    block: &[u8],
    minor: u8,
    method: &str,
) -> Result<RequestFacts, HeadError> {
    let (mut host, mut length, mut chunked, mut expects_continue) = (None, None, false, false);
    let (mut upgrades, mut protocol) = (0, None);
    let mut persistence = Persistence::new(minor);
    for (field, (_, value)) in fields.iter(block).zip(&fields.0) {
        if field.is("host") {
            if host.replace(*value).is_some() {
                return Err(HeadError::HostRepeated);
            }
        } else if field.is("content-length") {
            let value = parse_length(field.value).ok_or(HeadError::ContentLength)?;
            if length.replace(value).is_some() {
                return Err(HeadError::ContentLength);
            }
        } else if field.is("transfer-encoding") {
            if chunked || minor == 0 || !field.value.eq_ignore_ascii_case(b"chunked") {
                return Err(HeadError::TransferEncoding);
            }
            chunked = true;
        } else if field.is("expect") {
            if !field.value.eq_ignore_ascii_case(b"100-continue") {
                return Err(HeadError::Expectation);
            }
            // RFC 9110 §10.1.1: from an HTTP/1.0 client it is ignored.
            expects_continue = minor > 0;
        } else if field.is("upgrade") {
            upgrades += 1;
            protocol = upgrade(field)?.or(protocol);
        } else if is_disguised_framing(field.name) {
            return Err(HeadError::Framing);
        } else {
            persistence.see(field);
        }
    }
    // An empty Host is for targets without an authority, and http has none of these (RFC 9110 §7.2).
    if host.is_none_or(|host| host.is_empty()) && (minor > 0 || host.is_some()) {
        return Err(HeadError::HostMissing);
    }
    // One field, so that policy is asked about what the upstream reads.
    if protocol.is_some() && upgrades > 1 {
        return Err(HeadError::Upgrade);
    }
    let framing = match (length, chunked) {
        (None | Some(0), false) if protocol.is_some_and(|protocol| may_change(protocol, method, length)) => {
            match minor > 0 && persistence.upgrade {
                true => Framing::Tunnel,
                false => return Err(HeadError::Upgrade),
            }
        }
        _ if protocol.is_some() => return Err(HeadError::Upgrade),
        (Some(_), true) => return Err(HeadError::Framing),
        (None, true) => Framing::Chunked,
        (Some(length), false) => Framing::Length(length),
        (None, false) => Framing::None,
    };
    // CONNECT has no body (RFC 9110 §9.3.6); what follows are bytes of the tunnel.
    if method == "CONNECT" && framing != Framing::None {
        return Err(HeadError::Framing);
    }
    expects_continue &= framing != Framing::None;
    Ok(RequestFacts { host, framing, expects_continue, keep_alive: persistence.keep_alive() })
}

/// The protocol that is asked for (RFC 9110 §7.8). `h2c` is an offer that a server may ignore, and Java's client makes it
/// unasked. Anything else is a protocol without which the client cannot go on: one, since policy is asked about it.
fn upgrade(field: Field<'_>) -> Result<Option<&[u8]>, HeadError> {
    let ignorable = |token: &[u8]| trim(token).eq_ignore_ascii_case(b"h2c") || trim(token).is_empty();
    if field.value.split(|byte| *byte == b',').all(ignorable) {
        return Ok(None);
    }
    if is_protocol(field.value) { Ok(Some(field.value)) } else { Err(HeadError::Upgrade) }
}

/// A name, or a name and a version.
fn is_protocol(value: &[u8]) -> bool {
    let mut parts = value.splitn(2, |byte| *byte == b'/');
    parts.all(|part| !part.is_empty() && part.iter().copied().all(is_token_byte))
}

/// The handshake of a WebSocket is a GET without a body (RFC 6455 §4.1). Of others only is known that nothing may stand
/// between head and protocol.
fn may_change(protocol: &[u8], method: &str, length: Option<u64>) -> bool {
    match protocol.eq_ignore_ascii_case(b"websocket") {
        true => method == "GET" && length.is_none(),
        false => !matches!(method, "CONNECT" | "HEAD"),
    }
}

/// The framing behind a 101. Whether that protocol was asked for, the caller knows.
fn switched(fields: &FieldSpans, block: &[u8]) -> Result<Framing, HeadError> {
    let mut protocols = fields.iter(block).filter(|field| field.is("upgrade"));
    match (protocols.next(), protocols.next()) {
        (Some(one), None) if is_protocol(one.value) => Ok(Framing::Tunnel),
        _ => Err(HeadError::SwitchedProtocols),
    }
}

/// `Transfer_Encoding` and `Content_Length`: servers behind CGI-like interfaces take `_` for `-`.
fn is_disguised_framing(name: &[u8]) -> bool {
    name.contains(&b'_') && (same_field(name, b"transfer-encoding") || same_field(name, b"content-length"))
}

/// Whether two field names are the same to a server that reads `_` as `-`, in any case.
pub fn same_field(one: &[u8], other: &[u8]) -> bool {
    let fold = |byte: &u8| if *byte == b'_' { b'-' } else { byte.to_ascii_lowercase() };
    one.len() == other.len() && one.iter().map(fold).eq(other.iter().map(fold))
}

/// Whether a text, which is not made for this, reads like these bytes.
pub(super) fn reads(text: fmt::Arguments<'_>, bytes: &[u8]) -> bool {
    struct Rest<'a>(&'a [u8]);
    impl fmt::Write for Rest<'_> {
        fn write_str(&mut self, part: &str) -> fmt::Result {
            self.0 = self.0.strip_prefix(part.as_bytes()).ok_or(fmt::Error)?;
            Ok(())
        }
    }
    let mut rest = Rest(bytes);
    rest.write_fmt(text).is_ok() && rest.0.is_empty()
}

fn response_framing(
    fields: &FieldSpans,
    block: &[u8],
    minor: u8,
    status: u16,
    method: &str,
) -> Result<(Framing, bool), HeadError> {
    let (mut length, mut chunked) = (None, false);
    let mut persistence = Persistence::new(minor);
    for field in fields.iter(block) {
        if field.is("content-length") {
            // Equal values, repeated or in a list, are one value (RFC 9112 §6.3 item 5).
            for item in field.value.split(|byte| *byte == b',') {
                let value = parse_length(trim(item)).ok_or(HeadError::ContentLength)?;
                if length.replace(value).is_some_and(|before| before != value) {
                    return Err(HeadError::ContentLength);
                }
            }
        } else if field.is("transfer-encoding") {
            if chunked || minor == 0 || !field.value.eq_ignore_ascii_case(b"chunked") {
                return Err(HeadError::TransferEncoding);
            }
            chunked = true;
        } else {
            persistence.see(field);
        }
    }
    if length.is_some() && chunked {
        return Err(HeadError::Framing);
    }
    // RFC 9112 §6.1: neither an interim answer nor 204 has the coding.
    if chunked && (status < 200 || status == 204) {
        return Err(HeadError::Framing);
    }
    let keep_alive = persistence.keep_alive();
    // RFC 9112 §6.3 item 1: without a body, whatever the fields say.
    if method == "HEAD" || status < 200 || matches!(status, 204 | 304) {
        return Ok((Framing::None, keep_alive));
    }
    Ok(match (length, chunked) {
        (_, true) => (Framing::Chunked, keep_alive),
        (Some(length), false) => (Framing::Length(length), keep_alive),
        (None, false) => (Framing::UntilClose, false),
    })
}

/// Digits alone; `+`, lists and what does not fit 63 bits are none.
fn parse_length(value: &[u8]) -> Option<u64> {
    if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let digits = std::str::from_utf8(value).ok()?;
    digits.parse().ok().filter(|length| *length <= i64::MAX as u64)
}

/// RFC 9112 §9.3.
struct Persistence {
    minor: u8,
    close: bool,
    keep: bool,
    upgrade: bool,
}

impl Persistence {
    fn new(minor: u8) -> Self {
        Persistence { minor, close: false, keep: false, upgrade: false }
    }

    fn see(&mut self, field: Field<'_>) {
        if field.is("connection") {
            for token in field.value.split(|byte| *byte == b',').map(trim) {
                self.close |= token.eq_ignore_ascii_case(b"close");
                self.keep |= token.eq_ignore_ascii_case(b"keep-alive");
                self.upgrade |= token.eq_ignore_ascii_case(b"upgrade");
            }
        }
    }

    fn keep_alive(&self) -> bool {
        !self.close && (self.minor > 0 || self.keep)
    }
}

#[cfg(test)]
mod tests;
