//! A refusal as a whole answer.

use super::Refusal;
use crate::http::{FieldName, FieldValue, OwnAnswer};

impl Refusal {
    /// Head and body, whatever version carries them.
    pub fn answer(&self) -> (OwnAnswer, Vec<u8>) {
        self.holding("application/problem+json", self.body())
    }

    /// The same for the client that asks for this path. git shows its person what answers the first request of a clone,
    /// a fetch or a push (gitprotocol-http(5)) only as plain text, and else nothing but the status.
    pub fn answer_to(&self, path: &str) -> (OwnAnswer, Vec<u8>) {
        match path.ends_with("/info/refs") {
            true => self.holding("text/plain", self.words().into_bytes()),
            false => self.answer(),
        }
    }

    fn holding(&self, kind: &'static str, body: Vec<u8>) -> (OwnAnswer, Vec<u8>) {
        let own = |name, value| (FieldName::own(name), FieldValue::own(value));
        let mut fields = vec![own("Content-Type", kind), own("Cache-Control", "no-store")];
        // RFC 9110 §15.5.8: 407 names a challenge.
        if self.status == 407 {
            fields.push(own("Proxy-Authenticate", "Basic realm=\"outgate\""));
        }
        // RFC 9110 §15.5.6: 405 names what is allowed.
        if self.code == "method_refused" {
            fields.push(own("Allow", "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"));
        }
        let ours = |name: &[u8]| fields.iter().any(|(own, _)| own.bytes().eq_ignore_ascii_case(name));
        let more: Vec<_> = self.fields.iter().filter(|(name, _)| !ours(name.bytes())).cloned().collect();
        fields.extend(more);
        // Many clients show their people nothing else of a refusal.
        let reason = format!("{} (outgate: {})", reason_phrase(self.status), self.code);
        (
            OwnAnswer {
                status: self.status,
                reason: reason.trim_start().to_owned().into(),
                fields,
                length: body.len(),
            },
            body,
        )
    }

    /// The same for a call of gRPC: a status and a message in fields, and no body. The status is that to which clients
    /// translate the one of HTTP (gRPC, `http-grpc-status-mapping.md`), so a policy's refusal is not tried again.
    pub fn grpc_answer(&self) -> (OwnAnswer, Vec<u8>) {
        let status = match self.status {
            400 => "13",
            401 | 407 => "16",
            403 => "7",
            404 => "12",
            429 | 502..=504 => "14",
            _ => "2",
        };
        let rule = self.rule.as_ref().map_or(String::new(), |rule| format!(", rule {rule}"));
        let message = format!("{} ({}{rule}); {}", self.detail, self.code, self.remedy);
        let fields = [("Content-Type", "application/grpc"), ("grpc-status", status)];
        let mut fields: Vec<_> =
            fields.into_iter().map(|(name, value)| (FieldName::own(name), FieldValue::own(value))).collect();
        fields.push((FieldName::own("grpc-message"), FieldValue::own(&percent_encoded(&message))));
        (OwnAnswer { status: 200, reason: "OK".into(), fields, length: 0 }, Vec::new())
    }

    /// The same in HTTP/1.1. `head_only` is for HEAD, whose answer has the length but no body (RFC 9110 §9.3.2).
    pub fn to_http(&self, keep_alive: bool, head_only: bool) -> Vec<u8> {
        let (head, body) = self.answer();
        let mut answer = Vec::new();
        head.write_to(keep_alive, &mut answer);
        if !head_only {
            answer.extend_from_slice(&body);
        }
        answer
    }
}

/// A message as gRPC carries it: visible ASCII and spaces as they are, all else escaped.
fn percent_encoded(text: &str) -> String {
    use std::fmt::Write as _;
    text.bytes().fold(String::new(), |mut encoded, byte| {
        match byte {
            b' '..=b'$' | b'&'..=b'~' => encoded.push(char::from(byte)),
            // Writing to a text does not fail.
            _ => drop(write!(encoded, "%{byte:02X}")),
        }
        encoded
    })
}

/// For statuses of refusals; empty where there is none.
fn reason_phrase(status: u16) -> &'static str {
    match status {
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        407 => "Proxy Authentication Required",
        408 => "Request Timeout",
        411 => "Length Required",
        413 => "Content Too Large",
        414 => "URI Too Long",
        417 => "Expectation Failed",
        421 => "Misdirected Request",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        451 => "Unavailable For Legal Reasons",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        505 => "HTTP Version Not Supported",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use crate::{
        identity::IdentityError,
        respond::{Blame, Refusal},
    };

    fn text(refusal: &Refusal, keep_alive: bool, head_only: bool) -> String {
        String::from_utf8(refusal.to_http(keep_alive, head_only)).unwrap()
    }

    #[test]
    fn an_answer_is_whole_and_no_text_can_break_its_lines() {
        let refusal = Refusal::new(520, "code", Blame::Policy, "a\r\nSet-Cookie: x\r\n\r\n", "b");
        let answer = text(&refusal, true, false);
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(
            head.starts_with("HTTP/1.1 520 (outgate: code)\r\n") && head.ends_with("Connection: keep-alive")
        );
        assert!(head.contains(&format!("Content-Length: {}\r\n", body.len())));
        assert!(!head.contains("Set-Cookie") && !body.contains('\n'));
        let problem: serde_json::Value = serde_json::from_str(body).unwrap();
        assert_eq!((&problem["code"], &problem["status"]), (&"code".into(), &520.into()));
        let only = text(&refusal, false, true);
        assert!(only.ends_with("Connection: close\r\n\r\n"));
        assert!(only.contains(&format!("Content-Length: {}\r\n", body.len())));
    }

    #[test]
    fn git_is_told_in_plain_text_and_everything_else_in_json() {
        let refusal =
            Refusal::new(403, "code", Blame::Policy, "a.test: \x1b[2J\nno", "ask").by_rule("rule 1");
        let told = |path| {
            let (head, body) = refusal.answer_to(path);
            (head.fields[0].1.bytes().to_vec(), String::from_utf8(body).unwrap(), head.length)
        };
        let (kind, words, length) = told("/a.git/info/refs");
        assert_eq!((&kind[..], length), (&b"text/plain"[..], words.len()));
        assert_eq!(words, "Refused by policy: a.test:  [2J no\ncode, by rule 1\nTo mend it: ask\n");
        for path in ["/a.git/git-upload-pack", "/info/refs/", "/"] {
            assert_eq!(
                (&told(path).0[..], told(path).1),
                (&b"application/problem+json"[..], String::from_utf8(refusal.body()).unwrap())
            );
        }
    }

    #[test]
    fn a_proxy_asks_for_credentials_by_name() {
        let answer = text(&Refusal::from(&IdentityError::NoCredentials), false, false);
        assert!(
            answer.starts_with("HTTP/1.1 407 Proxy Authentication Required (outgate: proxy_credentials)\r\n")
        );
        assert!(answer.contains("\r\nProxy-Authenticate: Basic realm=\"outgate\"\r\n"));
    }
}
