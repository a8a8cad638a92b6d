//! Objects of JSON (RFC 8259), field by field into bytes: a record costs no tree and no allocation.

use std::{fmt::Display, io::Write, net::SocketAddr};

use crate::limits::RECORD_TEXT_BYTES_MAX;

/// One object that is being written. Names are our own and need no escapes. Texts that a sandbox or the other end
/// could make long are cut at [`RECORD_TEXT_BYTES_MAX`].
pub struct Object<'a> {
    out: &'a mut Vec<u8>,
    begun: bool,
}

impl<'a> Object<'a> {
    /// Writes an object of these fields.
    pub fn write(out: &'a mut Vec<u8>, fields: impl FnOnce(&mut Object<'_>)) {
        out.push(b'{');
        fields(&mut Object { out, begun: false });
        out.push(b'}');
    }

    /// A number, or null.
    pub fn number(&mut self, name: &str, value: Option<impl Into<u64>>) {
        self.name(name);
        match value {
            Some(value) => self.out.extend_from_slice(itoa::Buffer::new().format(value.into()).as_bytes()),
            None => self.out.extend_from_slice(b"null"),
        }
    }

    /// A text, or null.
    pub fn text(&mut self, name: &str, value: Option<&str>) {
        self.name(name);
        match value {
            Some(value) => text(value, self.out),
            None => self.out.extend_from_slice(b"null"),
        }
    }

    /// A text, where there is one.
    pub fn text_if(&mut self, name: &str, value: Option<&str>) {
        if value.is_some() {
            self.text(name, value);
        }
    }

    /// What is shown without a character that needs an escape, where there is something.
    pub fn plain_if(&mut self, name: &str, value: Option<impl Display>) {
        if let Some(value) = value {
            self.name(name);
            // Writing to a vector does not fail.
            let _written = write!(self.out, "\"{value}\"");
        }
    }

    /// An address and its port, where there is one.
    pub fn address_if(&mut self, name: &str, value: Option<SocketAddr>) {
        let Some(SocketAddr::V4(address)) = value else { return self.plain_if(name, value) };
        self.name(name);
        let mut number = itoa::Buffer::new();
        for (octet, before) in address.ip().octets().into_iter().zip([b'"', b'.', b'.', b'.']) {
            self.out.push(before);
            self.out.extend_from_slice(number.format(octet).as_bytes());
        }
        self.out.push(b':');
        self.out.extend_from_slice(number.format(address.port()).as_bytes());
        self.out.push(b'"');
    }

    /// An object.
    pub fn object(&mut self, name: &str, fields: impl FnOnce(&mut Object<'_>)) {
        self.name(name);
        Object::write(self.out, fields);
    }

    /// A list, where it has items.
    pub fn list_if<T>(&mut self, name: &str, items: &[T], item: impl Fn(&T, &mut Vec<u8>)) {
        if items.is_empty() {
            return;
        }
        self.name(name);
        for (index, each) in items.iter().enumerate() {
            self.out.push(if index == 0 { b'[' } else { b',' });
            item(each, self.out);
        }
        self.out.push(b']');
    }

    fn name(&mut self, name: &str) {
        if std::mem::replace(&mut self.begun, true) {
            self.out.push(b',');
        }
        self.out.push(b'"');
        self.out.extend_from_slice(name.as_bytes());
        self.out.extend_from_slice(b"\":");
    }
}

/// A text in its quotes (RFC 8259 §7): what must be escaped is, everything else stands as it is.
pub fn text(value: &str, out: &mut Vec<u8>) {
    let mut rest = &value.as_bytes()[..value.floor_char_boundary(RECORD_TEXT_BYTES_MAX)];
    out.push(b'"');
    while let Some(at) = rest.iter().position(|byte| matches!(byte, b'"' | b'\\' | 0..0x20)) {
        out.extend_from_slice(&rest[..at]);
        match rest[at] {
            byte @ (b'"' | b'\\') => out.extend_from_slice(&[b'\\', byte]),
            byte => {
                // Writing to a vector does not fail.
                let _written = write!(out, "\\u{byte:04x}");
            }
        }
        rest = &rest[at + 1..];
    }
    out.extend_from_slice(rest);
    out.push(b'"');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_character_reads_back_as_it_was() {
        let mut out = Vec::new();
        for character in (0..0x500).chain([0x2028, 0x2029, 0x1_f980]).filter_map(char::from_u32) {
            out.clear();
            text(&format!("a{character}b"), &mut out);
            assert_eq!(serde_json::from_slice::<String>(&out).expect("JSON"), format!("a{character}b"));
        }
    }

    #[test]
    fn a_hostile_text_is_cut_at_a_character() {
        let mut out = Vec::new();
        text(&format!("x{}", "ä".repeat(RECORD_TEXT_BYTES_MAX)), &mut out);
        let kept: String = serde_json::from_slice(&out).expect("JSON");
        assert_eq!(kept.len(), RECORD_TEXT_BYTES_MAX - 1);
    }

    #[test]
    fn an_object_without_fields_and_one_within_another_are_objects() {
        let mut out = Vec::new();
        Object::write(&mut out, |outer| {
            outer.object("empty", |_| {});
            outer.text_if("absent", None);
            outer.number("none", None::<u64>);
            outer.list_if("list", &[1_u8, 2], |item, out| out.push(b'0' + item));
            outer.plain_if("plain", Some(std::net::Ipv4Addr::LOCALHOST));
            for address in ["203.0.113.0:65535", "[2001:db8::1]:443"] {
                outer.address_if("address", address.parse().ok());
            }
        });
        assert_eq!(
            String::from_utf8(out).expect("text"),
            r#"{"empty":{},"none":null,"list":[1,2],"plain":"127.0.0.1","address":"203.0.113.0:65535","address":"[2001:db8::1]:443"}"#
        );
    }
}
