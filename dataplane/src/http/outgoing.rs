//! The head that goes on: what handlers and injection edit, without the fields of one hop, written once.

use std::{borrow::Cow, io::Write, ops::Deref};

use crate::limits::{HEAD_BYTES_MAX, METHOD_BYTES_MAX, TARGET_BYTES_MAX};

use super::{
    edit::{DIGESTS, EditError, FieldName, FieldValue, is_token_byte},
    fields::{Fields, Value},
    head::{Field, Framing, RequestHead, ResponseHead, Version},
    host::Authority,
    parse::{same_field, trim},
    parts::AnswerParts,
    query::Query,
    target::check_path,
};

/// A request as it goes to the upstream. Order, case and duplicates of the fields are those of the client except where
/// an edit says otherwise.
#[derive(Clone)]
pub struct OutgoingRequest<'a> {
    method: Cow<'a, str>,
    path: Cow<'a, str>,
    query: Query<'a>,
    fields: Fields<'a>,
    framing: Framing,
    switch: Option<&'a [u8]>,
}

impl<'a> OutgoingRequest<'a> {
    /// Takes over what passes this hop; `Host` becomes the decided authority.
    pub fn new<B: Deref<Target = [u8]>>(head: &'a RequestHead<B>, authority: &Authority) -> Self {
        let mut outgoing = OutgoingRequest {
            method: Cow::Borrowed(head.method()),
            path: Cow::Borrowed(head.path()),
            query: Query::new(head.query()),
            fields: Fields::end_to_end(head.fields()),
            framing: head.framing(),
            switch: head.field("upgrade").filter(|_| head.framing() == Framing::Tunnel),
        };
        outgoing.fields.frame(head.framing());
        outgoing.set_authority(authority);
        outgoing
    }

    /// The method.
    pub fn method(&self) -> &str {
        &self.method
    }

    /// The path.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The query without its mark, and without parameters that hold credentials.
    pub fn query(&self) -> Option<&str> {
        self.query.sent()
    }

    /// All fields in their order.
    pub fn fields(&self) -> impl Iterator<Item = Field<'_>> {
        self.fields.iter()
    }

    /// How the body is framed towards the upstream.
    pub fn framing(&self) -> Framing {
        self.framing
    }

    /// The protocol that it would change to, where that is not a WebSocket.
    pub fn upgrade(&self) -> Option<&str> {
        let other = self.switch.filter(|protocol| !protocol.eq_ignore_ascii_case(b"websocket"));
        other.and_then(|protocol| std::str::from_utf8(protocol).ok())
    }

    /// Gives the field this value in place of every field of that name, `_` and `-` being the same.
    pub fn set(&mut self, name: FieldName, value: FieldValue) {
        self.fields.replace(Cow::Owned(name.into_bytes()), Value::Written(value));
    }

    /// Adds a field behind all others.
    pub fn append(&mut self, name: FieldName, value: FieldValue) {
        self.fields.0.push((Cow::Owned(name.into_bytes()), Value::Written(value)));
    }

    /// Removes every field of that name, `_` and `-` being the same.
    pub fn remove(&mut self, name: &FieldName) {
        self.fields.remove(name.bytes());
    }

    /// Writes `Host` from another authority, for which the caller has a permit.
    pub fn set_authority(&mut self, authority: &Authority) {
        if self.fields.0.iter().any(|(sent, _)| same_field(sent, b"host")) {
            self.fields.say("Host", format_args!("{authority}"));
        } else {
            // RFC 9110 §7.2: it should be the first field.
            self.fields.0.insert(0, (Cow::Borrowed(b"Host"), Value::text(&authority.to_string())));
        }
    }

    /// Says that the body will not be what the client sends: its length is not known, and digests of it are removed. A
    /// request without a body stays so.
    pub fn change_body(&mut self) {
        if !matches!(self.framing, Framing::None | Framing::Tunnel | Framing::Length(0)) {
            self.framing = Framing::Chunked;
            self.fields.frame(Framing::Chunked);
            DIGESTS.iter().for_each(|name| self.fields.remove(name));
        }
    }

    /// Changes the method; the caller then asks policy again.
    ///
    /// # Errors
    /// [`EditError::Method`].
    pub fn set_method(&mut self, method: &str) -> Result<(), EditError> {
        let refused = ["CONNECT", "TRACE", "TRACK"].iter().any(|name| method.eq_ignore_ascii_case(name));
        let sound =
            !method.is_empty() && method.len() <= METHOD_BYTES_MAX && method.bytes().all(is_token_byte);
        if refused || !sound {
            return Err(EditError::Method);
        }
        self.method = Cow::Owned(method.to_owned());
        Ok(())
    }

    /// Changes path and query; the caller then asks policy again.
    ///
    /// # Errors
    /// [`EditError::Target`].
    pub fn set_target(&mut self, path: &str, query: Option<&str>) -> Result<(), EditError> {
        let sound = |text: &str| {
            text.bytes().all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'"' | b'<' | b'>' | b'#'))
        };
        let length = path.len() + query.map_or(0, |query| query.len() + 1);
        let path_sound = path.starts_with('/') && !path.contains('?') && sound(path);
        if !path_sound || !query.is_none_or(sound) || length > TARGET_BYTES_MAX {
            return Err(EditError::Target);
        }
        check_path(path.as_bytes()).map_err(|_| EditError::Target)?;
        self.path = Cow::Owned(path.to_owned());
        self.query.replace_sent(query);
        Ok(())
    }

    /// Gives the parameter of the query this value, which may be a secret, in place of every one of that name. Both
    /// are escaped here.
    ///
    /// # Errors
    /// [`EditError::Value`] as for a field; [`EditError::Target`] where there is no path that a query could follow;
    /// [`EditError::TooLong`] when the target became longer than `TARGET_BYTES_MAX`. Nothing must be sent then.
    pub fn set_parameter(&mut self, name: &str, value: &[u8]) -> Result<(), EditError> {
        FieldValue::check(value)?;
        if !self.path.starts_with('/') {
            return Err(EditError::Target);
        }
        self.query.set(name, value);
        if self.path.len() + self.query.length() > TARGET_BYTES_MAX {
            return Err(EditError::TooLong);
        }
        Ok(())
    }

    /// Appends the head in HTTP/1.1 origin form. The connection is kept: nothing is said about it. The buffer grows at
    /// most once, before anything is written: growing later would leave copies of credentials behind.
    ///
    /// # Errors
    /// [`EditError::TooLong`] when edits made it longer than `HEAD_BYTES_MAX`; nothing must be sent then.
    pub fn write_to(&self, out: &mut Vec<u8>) -> Result<(), EditError> {
        const VERSION: &[u8] = b" HTTP/1.1\r\n";
        let line = self.method.len() + 1 + self.path.len() + self.query.length() + VERSION.len();
        let switch = switch(self.switch);
        let length = line + self.fields.length() + switch.iter().map(|part| part.len()).sum::<usize>() + 2;
        if length > HEAD_BYTES_MAX {
            return Err(EditError::TooLong);
        }
        out.reserve_exact(length);
        out.extend_from_slice(self.method.as_bytes());
        out.push(b' ');
        out.extend_from_slice(self.path.as_bytes());
        self.query.write_to(out);
        out.extend_from_slice(VERSION);
        self.fields.write_to(out);
        switch.into_iter().for_each(|part| out.extend_from_slice(part));
        out.extend_from_slice(b"\r\n");
        Ok(())
    }
}

/// An answer as it goes to the client.
#[derive(Clone)]
pub struct OutgoingResponse<'a> {
    status: u16,
    reason: &'a [u8],
    fields: Fields<'a>,
    framing: Framing,
    switch: Option<&'a [u8]>,
    keep_alive: bool,
    to: Version,
}

impl<'a> OutgoingResponse<'a> {
    /// Takes over what passes this hop. `to` is the version of the request; the framing becomes one that it knows, and
    /// `keep_alive` says whether the client connection may carry another request.
    pub fn new<B: Deref<Target = [u8]>>(head: &'a ResponseHead<B>, to: Version, keep_alive: bool) -> Self {
        let mut fields = Fields::end_to_end(head.fields());
        // It would lead the client round the gateway.
        fields.remove(b"alt-svc");
        let framing = (head.framing(), head.field("upgrade"));
        Self::framed((head.status(), head.reason()), fields, framing, (to, keep_alive))
    }

    /// The same of a head that was edited.
    pub fn edited(parts: &'a AnswerParts, to: Version, keep_alive: bool) -> Self {
        let framing = (parts.framing(), parts.upgrade());
        Self::framed((parts.status(), parts.reason()), parts.sent_fields(), framing, (to, keep_alive))
    }

    fn framed(
        (status, reason): (u16, &'a [u8]),
        mut fields: Fields<'a>,
        (arriving, upgrade): (Framing, Option<&'a [u8]>),
        (to, keep_alive): (Version, bool),
    ) -> Self {
        let framing = match (arriving, to) {
            (Framing::Chunked, Version::Http10) => Framing::UntilClose,
            (Framing::UntilClose, Version::Http11 | Version::Http2) => Framing::Chunked,
            (framing, _) => framing,
        };
        match framing {
            // To HEAD and with 304 the length is that of a body that is not sent (RFC 9110 §8.6).
            Framing::None if status >= 200 && status != 204 => {
                let length = fields.sent(b"content-length");
                let length = length.map(|value| value.split(|byte| *byte == b',').next().map_or(value, trim));
                fields.remove(b"transfer-encoding");
                if let Some(length) = length {
                    fields.replace(Cow::Borrowed(b"Content-Length"), Value::Sent(length));
                }
            }
            framing => fields.frame(framing),
        }
        let keep_alive = keep_alive && !matches!(framing, Framing::UntilClose | Framing::Tunnel);
        let switch = upgrade.filter(|_| framing == Framing::Tunnel);
        OutgoingResponse { status, reason, fields, framing, switch, keep_alive, to }
    }

    /// The status.
    pub fn status(&self) -> u16 {
        self.status
    }

    /// How the body is framed towards the client.
    pub fn framing(&self) -> Framing {
        self.framing
    }

    /// Whether the client connection may carry another request.
    pub fn keep_alive(&self) -> bool {
        self.keep_alive
    }

    /// All fields in their order.
    pub fn fields(&self) -> impl Iterator<Item = Field<'_>> {
        self.fields.iter()
    }

    /// As [`OutgoingRequest::set`].
    pub fn set(&mut self, name: FieldName, value: FieldValue) {
        self.fields.replace(Cow::Owned(name.into_bytes()), Value::Written(value));
    }

    /// As [`OutgoingRequest::append`].
    pub fn append(&mut self, name: FieldName, value: FieldValue) {
        self.fields.0.push((Cow::Owned(name.into_bytes()), Value::Written(value)));
    }

    /// As [`OutgoingRequest::remove`].
    pub fn remove(&mut self, name: &FieldName) {
        self.fields.remove(name.bytes());
    }

    /// Appends the head.
    ///
    /// # Errors
    /// [`EditError::TooLong`] when edits made it longer than `HEAD_BYTES_MAX`.
    pub fn write_to(&self, out: &mut Vec<u8>) -> Result<(), EditError> {
        let start = out.len();
        // Writing to a vector does not fail; the version is that of the sender, this gateway (RFC 9110 §6.2).
        write!(out, "HTTP/1.1 {} ", self.status).map_err(|_| EditError::TooLong)?;
        out.extend_from_slice(self.reason);
        out.extend_from_slice(b"\r\n");
        self.fields.write_to(out);
        switch(self.switch).into_iter().for_each(|part| out.extend_from_slice(part));
        // An interim answer says nothing about the connection.
        if self.status >= 200 {
            match (self.keep_alive, self.to) {
                (false, _) => out.extend_from_slice(b"Connection: close\r\n"),
                (true, Version::Http10) => out.extend_from_slice(b"Connection: keep-alive\r\n"),
                (true, _) => {}
            }
        }
        out.extend_from_slice(b"\r\n");
        if out.len() - start > HEAD_BYTES_MAX {
            out.truncate(start);
            return Err(EditError::TooLong);
        }
        Ok(())
    }
}

/// What is said of the connection where it changes to another protocol (RFC 9110 §7.8): fields of one hop, so they are
/// written anew.
fn switch(protocol: Option<&[u8]>) -> [&[u8]; 3] {
    match protocol {
        Some(protocol) => [b"Connection: Upgrade\r\nUpgrade: ", protocol, b"\r\n"],
        None => [b"", b"", b""],
    }
}

#[cfg(test)]
mod tests;
