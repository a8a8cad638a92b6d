//! Heads of HTTP/2 from and to the one kind of head that the plane knows.

use std::{io::Write as _, rc::Rc};

use ::h2::ext::Protocol;
use ::http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri, request::Parts,
};

use data_encoding::BASE64;

use crate::http::{
    edit::EditError,
    fault::HeadError,
    h1::Block,
    head::{Field, Framing, Parsed, RequestHead, ResponseHead, Version},
    host::Scheme,
    outgoing::OutgoingResponse,
    reader::{parse_request, parse_response},
    serve::Answer,
};
use crate::tls::Chunk;

/// A request's head. `ended` says that no body follows.
///
/// It is written as HTTP/1.1 in absolute form, so that scheme and authority are compared as those of a proxy's request
/// are, and read by the same parser. The crumbs of `Cookie` are joined (RFC 9113 §8.2.3). The CONNECT of a WebSocket
/// (RFC 8441) becomes its handshake.
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
    let tunnel = parts.method == Method::CONNECT && parts.extensions.get::<Protocol>().is_none();
    // Writing to a vector does not fail.
    let switches = parts.extensions.get::<Protocol>();
    if switches.is_some_and(|protocol| protocol.as_str() != "websocket") {
        return Err(HeadError::Upgrade);
    }
    let method = if switches.is_some() { "GET" } else { parts.method.as_str() };
    let _written = write!(text, "{method} ");
    // Without an authority h2 tells no scheme, and the field alone names the host (RFC 9113 §8.3.1).
    if path != "*" && !tunnel && authority.is_some() {
        let scheme = uri.scheme_str().ok_or(HeadError::Scheme)?;
        let _written = write!(text, "{scheme}://");
    }
    if path != "*" && authority.is_some() {
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
    if switches.is_some() {
        text.extend_from_slice(b"Connection: Upgrade\r\nUpgrade: websocket\r\n");
        line(&mut text, b"Sec-WebSocket-Key", key()?.as_bytes());
    } else if !ended && !tunnel && !parts.headers.contains_key("content-length") {
        line(&mut text, b"transfer-encoding", b"chunked");
    }
    text.extend_from_slice(b"\r\n");
    match parse_request(&text)? {
        Parsed::Complete { head, consumed } if consumed == text.len() => {
            let layout = head.detach().arrived_in(Version::Http2);
            Ok(layout.attach(Block::Gathered(Rc::new(text))))
        }
        _ => Err(HeadError::Field),
    }
}

/// A key of a handshake (RFC 6455 §4.1).
fn key() -> Result<String, HeadError> {
    let mut bytes = [0; 16];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| HeadError::Upgrade)?;
    Ok(BASE64.encode(&bytes))
}

/// A request as it goes to an upstream, from its head as HTTP/1.1 writes it. One that is `secret`, since it carries
/// credentials, is kept out of the tables of compression (RFC 7541 §7.1.3).
///
/// Trailers are announced as welcome, since they pass; gRPC asks for that.
///
/// # Errors
/// [`HeadError`] where it cannot be said in HTTP/2.
pub fn request(written: &[u8], scheme: Scheme, secret: bool) -> Result<Request<()>, HeadError> {
    let Parsed::Complete { head, .. } = parse_request(written)? else { return Err(HeadError::Field) };
    let method = Method::from_bytes(head.method().as_bytes()).map_err(|_| HeadError::Method)?;
    let host = head.host().ok_or(HeadError::HostMissing)?;
    let uri = Uri::builder().scheme(scheme.as_str()).authority(host).path_and_query(head.target());
    let mut request = Request::new(());
    *request.method_mut() = method;
    *request.uri_mut() = uri.build().map_err(|_| HeadError::Target)?;
    let end_to_end = head.fields().filter(|field| !field.is("host"));
    let mut fields = fields(end_to_end).map_err(|_| HeadError::Field)?;
    fields.values_mut().for_each(|value| value.set_sensitive(secret));
    fields.insert("te", HeaderValue::from_static("trailers"));
    *request.headers_mut() = fields;
    Ok(request)
}

/// An answer's head to a request with this method. `ended` says that no body follows.
///
/// # Errors
/// [`HeadError`], as for HTTP/1.1.
pub fn response_head(
    response: &Response<()>,
    method: &str,
    ended: bool,
) -> Result<ResponseHead<Block<Chunk>>, HeadError> {
    let mut text = Vec::with_capacity(USUAL_BYTES);
    let (status, fields) = (response.status(), response.headers());
    // Writing to a vector does not fail.
    let _written = write!(text, "HTTP/1.1 {} \r\n", status.as_str());
    for (name, value) in fields {
        line(&mut text, name.as_str().as_bytes(), value.as_bytes());
    }
    let has_body = !status.is_informational() && !matches!(status.as_u16(), 204 | 304) && method != "HEAD";
    if has_body && !fields.contains_key("content-length") {
        match ended {
            true => line(&mut text, b"content-length", b"0"),
            false => line(&mut text, b"transfer-encoding", b"chunked"),
        }
    }
    text.extend_from_slice(b"\r\n");
    match parse_response(&text, method)? {
        Parsed::Complete { head, consumed } if consumed == text.len() => {
            let layout = head.detach();
            Ok(layout.attach(Block::Gathered(Rc::new(text))))
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
        Answer::Upstream(head) => relayed(&OutgoingResponse::new(head, Version::Http2, true))?,
        Answer::Edited(parts) => relayed(&OutgoingResponse::edited(parts, Version::Http2, true))?,
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

/// Status, fields and framing of an upstream's answer.
fn relayed(outgoing: &OutgoingResponse<'_>) -> Result<(u16, HeaderMap, Framing), EditError> {
    let mut fields = fields(outgoing.fields())?;
    Ok(match outgoing.framing() {
        // RFC 8441 §5: a success says it all.
        Framing::Tunnel => {
            fields.remove("sec-websocket-accept");
            (200, fields, Framing::Tunnel)
        }
        framing => (outgoing.status(), fields, framing),
    })
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
