//! What an edit may write: field names and values in which a split head is impossible by type.

use std::fmt;

use zeroize::Zeroizing;

use super::parse::{same_field, trim};

/// Why an edit is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EditError {
    /// A name is no token (RFC 9110 §5.1).
    #[error("the field name is no token")]
    Name,
    /// A value holds CR, LF, NUL or another control character, or white space around it.
    #[error("the field value holds a character that no field may hold")]
    Value,
    /// Host, framing and the fields of one hop are written by the gateway alone.
    #[error("the field is written by the gateway alone")]
    Reserved,
    /// A method is no token, or CONNECT or TRACE.
    #[error("the method is malformed or refused")]
    Method,
    /// A path or query that no request target may hold.
    #[error("the path or query is malformed")]
    Target,
    /// A status that no edit may give, or an answer whose status no edit may change.
    #[error("the status is no status of a final answer, or belongs to an answer that is none")]
    Status,
    /// The edited head would be longer than any that is accepted.
    #[error("the head became too long")]
    TooLong,
}

/// A field name that may be written: a token outside the reserved ones.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldName(Box<[u8]>);

impl FieldName {
    /// Checks a name.
    ///
    /// # Errors
    /// [`EditError::Name`] and [`EditError::Reserved`].
    pub fn new(name: &[u8]) -> Result<Self, EditError> {
        if name.is_empty() || !name.iter().copied().all(is_token_byte) {
            return Err(EditError::Name);
        }
        let framing = [&b"host"[..], b"content-length"].iter().any(|reserved| same_field(name, reserved));
        if framing || is_hop_by_hop(name) { Err(EditError::Reserved) } else { Ok(FieldName(name.into())) }
    }

    /// A name of our own, known to be sound, also one that no edit may write.
    pub(crate) fn own(name: &str) -> Self {
        FieldName(name.as_bytes().into())
    }

    /// The name in the case in which it was given.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    pub(super) fn into_bytes(self) -> Vec<u8> {
        self.0.into_vec()
    }
}

/// A field value that may be written: CR, LF and NUL are impossible. It may be a secret, so it is wiped when dropped
/// and not shown.
#[derive(Clone)]
pub struct FieldValue(Zeroizing<Vec<u8>>);

impl FieldValue {
    /// Checks a value (RFC 9110 §5.5).
    ///
    /// # Errors
    /// [`EditError::Value`].
    pub fn new(value: &[u8]) -> Result<Self, EditError> {
        Self::from_zeroizing(Zeroizing::new(value.to_vec()))
    }

    /// Checks a value and takes it over, so that a secret is not copied once more.
    ///
    /// # Errors
    /// [`EditError::Value`].
    pub fn from_zeroizing(value: Zeroizing<Vec<u8>>) -> Result<Self, EditError> {
        Self::check(&value)?;
        Ok(FieldValue(value))
    }

    /// Whether bytes could be a field's value as they are; what is encoded first is asked too, because a line end
    /// behind a credential is a slip wherever it goes.
    ///
    /// # Errors
    /// [`EditError::Value`].
    pub fn check(value: &[u8]) -> Result<(), EditError> {
        let sound = value.iter().all(|byte| matches!(byte, b'\t' | b' '..=b'~' | 0x80..));
        if sound && trim(value).len() == value.len() { Ok(()) } else { Err(EditError::Value) }
    }

    /// A text of our own, known to be sound.
    pub(crate) fn own(text: &str) -> Self {
        FieldValue(Zeroizing::new(text.as_bytes().to_vec()))
    }

    /// The value, which may be a secret.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for FieldValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{} bytes]", self.0.len())
    }
}

pub(super) const fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
        || matches!(
            byte,
            b'!' | b'#'
                | b'$'
                | b'%'
                | b'&'
                | b'\''
                | b'*'
                | b'+'
                | b'-'
                | b'.'
                | b'^'
                | b'_'
                | b'`'
                | b'|'
                | b'~'
        )
}

/// Fields that end at this hop (RFC 9110 §7.6.1), everything for proxies included: `Proxy-Authorization` never leaves.
pub(super) fn is_hop_by_hop(name: &[u8]) -> bool {
    const NAMES: [&[u8]; 6] =
        [b"connection", b"keep-alive", b"te", b"transfer-encoding", b"upgrade", b"http2-settings"];
    NAMES.iter().any(|hop| same_field(name, hop)) || (name.len() > 6 && same_field(&name[..6], b"proxy-"))
}

/// What a body that is changed no longer is: digests of what its sender sent (RFC 9530, RFC 1864).
pub(super) const DIGESTS: [&[u8]; 4] = [b"content-digest", b"repr-digest", b"digest", b"content-md5"];

#[cfg(test)]
mod tests {
    use control_wire::policy::is_of_the_gateway;
    use handlers_sdk_abi::field::RESERVED;

    use super::*;

    #[test]
    fn what_no_handler_may_write_and_no_plane_writes_for_it_no_rule_may_set() {
        for name in RESERVED {
            assert!(is_of_the_gateway(name), "{name}");
        }
        for name in
            ["Proxy-Status", "HTTP2_Settings", "proxy_x", "Content_Length", "TE", "X-Own", "Authorization"]
        {
            let refused = FieldName::new(name.as_bytes()) == Err(EditError::Reserved);
            assert_eq!(refused, is_of_the_gateway(name), "{name}");
        }
    }
}
