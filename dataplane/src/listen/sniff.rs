//! The first bytes of a connection tell which protocol the client speaks.

/// What a client begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opening {
    /// A TLS handshake record.
    Tls,
    /// A request line of HTTP/1.
    Http1,
    /// The connection preface of HTTP/2 without TLS.
    Http2,
    /// Nothing that is spoken here.
    Other,
}

/// The connection preface of HTTP/2 (RFC 9113 §3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Judges the first bytes of a connection; `None` asks for more.
///
/// At most four bytes are needed, so a caller never holds back more than a segment. Empty lines before a request
/// line are judged as HTTP/1 (RFC 9112 §2.2 lets a server skip them); the parser decides what it does with them.
#[must_use]
pub fn sniff(bytes: &[u8]) -> Option<Opening> {
    match bytes {
        [] | [0x16] => None,
        // RFC 8446 §5.1: handshake, then a legacy version whose first byte is 3.
        [0x16, 0x03, ..] => Some(Opening::Tls),
        [b'P', ..] if is_proper_start(bytes, b"PRI ") => None,
        _ if bytes.starts_with(b"PRI ") => Some(preface_or_request(bytes)),
        // The banner of SSH (RFC 4253 §4.2) would pass for a method.
        _ if is_proper_start(bytes, b"SSH-") => None,
        _ if bytes.starts_with(b"SSH-") => Some(Opening::Other),
        [b'A'..=b'Z' | b'a'..=b'z' | b'\r' | b'\n', ..] => Some(Opening::Http1),
        _ => Some(Opening::Other),
    }
}

/// `PRI` is reserved for the preface (RFC 9113 §3.4); anything else that starts so is an HTTP/1 request to refuse.
fn preface_or_request(bytes: &[u8]) -> Opening {
    let seen = bytes.len().min(PREFACE.len());
    if bytes[..seen] == PREFACE[..seen] { Opening::Http2 } else { Opening::Http1 }
}

fn is_proper_start(bytes: &[u8], whole: &[u8]) -> bool {
    bytes.len() < whole.len() && whole.starts_with(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_hello_is_tls_and_its_first_byte_alone_is_not_enough() {
        assert_eq!(sniff(b""), None);
        assert_eq!(sniff(b"\x16"), None);
        assert_eq!(sniff(b"\x16\x03\x01\x02\x00"), Some(Opening::Tls));
        assert_eq!(sniff(b"\x16\x04"), Some(Opening::Other));
    }

    #[test]
    fn method_letters_are_http() {
        for head in
            ["GET / HTTP/1.1\r\n", "POST /", "PUT", "PROPFIND", "S", "SEARCH /", "\r\nGET /", "purge /"]
        {
            let judged = sniff(head.as_bytes());
            let waits = "SSH-".starts_with(head) || "PRI ".starts_with(head);
            assert_eq!(judged, (!waits).then_some(Opening::Http1), "{head:?}");
        }
    }

    #[test]
    fn the_preface_is_told_from_methods_at_every_cut() {
        for cut in 1..4 {
            assert_eq!(sniff(&PREFACE[..cut]), None);
        }
        for cut in 4..=PREFACE.len() {
            assert_eq!(sniff(&PREFACE[..cut]), Some(Opening::Http2));
        }
        assert_eq!(sniff(b"PRI /x HTTP/1.1\r\n"), Some(Opening::Http1));
        assert_eq!(sniff(b"PRINT / HTTP/1.1"), Some(Opening::Http1));
    }

    #[test]
    fn other_protocols_are_named_so() {
        for bytes in
            [&b"SSH-2.0-OpenSSH_9"[..], b"\x00\x01", b"\x80\x2e\x01", b"*1\r\n$4\r\nPING", b"\x05\x01\x00"]
        {
            assert_eq!(sniff(bytes), Some(Opening::Other));
        }
    }
}
