//! How much of the read bytes is one complete HTTP/1.1 message, and whether it is the one that was expected.

/// A complete message at the start of some bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message {
    /// Bytes of the head.
    pub head: usize,
    /// Bytes of the whole message.
    pub total: usize,
}

/// Why bytes are not a message that this generator understands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the answer is neither of a known length nor a `200` to CONNECT")]
pub struct NotUnderstood;

/// Finds the end of the first message; `None` while it is incomplete. A message without `Content-Length` has no body.
///
/// # Errors
/// When the message is chunked or its length is not a number.
pub fn complete(bytes: &[u8]) -> Result<Option<Message>, NotUnderstood> {
    let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") else { return Ok(None) };
    let head = end + 4;
    let mut length = 0;
    for line in bytes[..end].split(|byte| *byte == b'\n').skip(1) {
        let Some(colon) = line.iter().position(|byte| *byte == b':') else { continue };
        let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
        if name.eq_ignore_ascii_case(b"transfer-encoding") {
            return Err(NotUnderstood);
        }
        if name.eq_ignore_ascii_case(b"content-length") {
            length =
                std::str::from_utf8(value).ok().and_then(|text| text.parse().ok()).ok_or(NotUnderstood)?;
        }
    }
    let total = head + length;
    Ok((bytes.len() >= total).then_some(Message { head, total }))
}

/// The status of an answer's head; zero when there is none.
pub fn status(bytes: &[u8]) -> u16 {
    bytes
        .get(9..12)
        .and_then(|digits| std::str::from_utf8(digits).ok())
        .and_then(|text| text.parse().ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn message_ends_where_its_length_says() {
        let bytes = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhiHTTP";
        let message = complete(bytes).unwrap().unwrap();
        assert_eq!((message.head, message.total), (38, 40));
        assert_eq!(complete(&bytes[..39]), Ok(None));
        assert_eq!(status(bytes), 200);
    }

    #[test]
    fn chunked_message_is_not_guessed_at() {
        assert_eq!(complete(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"), Err(NotUnderstood));
    }
}
