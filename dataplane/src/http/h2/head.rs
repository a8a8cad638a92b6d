//! Heads of HTTP/2 from and to the one kind of head that the plane knows.

use std::io::Write as _;

use ::http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, request::Parts};

use crate::http::{
    edit::EditError,
    fault::HeadError,
    h1::Block,
    head::{Field, Framing, Parsed, RequestHead, Version},
    outgoing::OutgoingResponse,
    reader::parse_request,
    serve::Answer,
};
use crate::tls::Chunk;

/// A request's head. `ended` says that no body follows.
///
/// It is written as HTTP/1.1 in absolute form, so that scheme and authority are compared as those of a proxy's request
/// are, and read by the same parser. The crumbs of `Cookie` are joined (RFC 9113 §8.2.3).
///
/// # Errors
/// [`HeadError`], as for HTTP/1.1; also for what cannot be said in it.
pub fn request_head(parts: &Parts, ended: bool) -> Result<RequestHead<Block<Chunk>>, HeadError> {
    let mut text = Vec::with_capacity(USUAL_BYTES);
    let uri = &parts.uri;
    let authority = uri.authority().map(|authority| authority.as_str());
    let field = parts.headers.get("host").map(HeaderValue::as_bytes);
    let host = authority.map(str::as_bytes).or(field).ok_or(HeadError::HostMissing)?;
    let path = uri.path_and_query().map_or("", |path| path.as_str());
    // Writing to a vector does not fail.
    let _written = write!(text, "{} ", parts.method);
    if path != "*" {
        let scheme = uri.scheme_str().ok_or(HeadError::Scheme)?;
        let _written = write!(text, "{scheme}://");
        text.extend_from_slice(host);
    }
    text.extend_from_slice(path.as_bytes());
    text.extend_from_slice(b" HTTP/1.1\r\n");
    line(&mut text, b"host", host);
    for (name, value) in &parts.headers {
        match name.as_str() {
            // RFC 9113 §8.3.1: it says the same as the authority.
            "host" if value.as_bytes().eq_ignore_ascii_case(host) => {}
            "cookie" => {}
            name => line(&mut text, name.as_bytes(), value.as_bytes()),
        }
    }
    let crumbs: Vec<&[u8]> = parts.headers.get_all("cookie").iter().map(HeaderValue::as_bytes).collect();
    if !crumbs.is_empty() {
        line(&mut text, b"cookie", &crumbs.join(&b"; "[..]));
    }
    if !ended && !parts.headers.contains_key("content-length") {
        line(&mut text, b"transfer-encoding", b"chunked");
    }
    text.extend_from_slice(b"\r\n");
    match parse_request(&text)? {
        Parsed::Complete { head, consumed } if consumed == text.len() => {
            let layout = head.detach().arrived_in(Version::Http2);
            Ok(layout.attach(Block::Gathered(std::rc::Rc::new(text))))
        }
        _ => Err(HeadError::Field),
    }
}

/// Bytes of a usual head; a longer one grows once or twice.
const USUAL_BYTES: usize = 768;

fn line(text: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    for part in [name, b": ", value, b"\r\n"] {
        text.extend_from_slice(part);
    }
}

/// An answer's head, and how its body is framed.
///
/// # Errors
/// [`EditError`] where a field cannot be said in HTTP/2.
pub fn response(answer: &Answer<Chunk>, head_only: bool) -> Result<(Response<()>, Framing), EditError> {
    let (status, fields, framing) = match answer {
        Answer::Upstream(head) => {
            let outgoing = OutgoingResponse::new(head, Version::Http2, true);
            (outgoing.status(), fields(outgoing.fields())?, outgoing.framing())
        }
        Answer::Own(own) => {
            let mut fields = fields(
                own.fields.iter().map(|(name, value)| Field { name: name.bytes(), value: value.bytes() }),
            )?;
            fields.insert("content-length", HeaderValue::from(own.length));
            let framing = if head_only { Framing::None } else { Framing::Length(own.length as u64) };
            (own.status, fields, framing)
        }
    };
    let mut response = Response::new(());
    *response.status_mut() = StatusCode::from_u16(status).map_err(|_| EditError::Value)?;
    *response.headers_mut() = fields;
    Ok((response, framing))
}

/// Fields in lower case (RFC 9113 §8.2.1), without the framing of HTTP/1.1.
pub(super) fn fields<'a>(from: impl Iterator<Item = Field<'a>>) -> Result<HeaderMap, EditError> {
    let mut found = HeaderMap::with_capacity(from.size_hint().0);
    for field in from.filter(|field| !field.is("transfer-encoding")) {
        let name = HeaderName::from_bytes(field.name).map_err(|_| EditError::Name)?;
        let value = HeaderValue::from_bytes(field.value).map_err(|_| EditError::Value)?;
        found.append(name, value);
    }
    Ok(found)
}
