//! What is remembered of one request.

use std::{borrow::Cow, net::SocketAddr, sync::Arc};

use super::json::{Object, text};
use crate::{http::Host, identity::SandboxId, policy::Route, respond::Blame};

/// What is remembered of one request, or of a connection that carried none. Never a query or a field's value.
#[derive(Clone, Debug, Default)]
#[allow(missing_docs, reason = "the names are the documentation: they are those of the JSON line")]
pub struct Record {
    pub unix_ms: u64,
    pub sandbox: Option<SandboxId>,
    pub method: Option<Cow<'static, str>>,
    pub scheme: Option<&'static str>,
    pub host: Option<String>,
    pub port: Option<u16>,
    pub path: Option<String>,
    pub verdict: &'static str,
    pub code: Option<&'static str>,
    /// Whose fault a refusal is.
    pub blame: Option<Blame>,
    pub rule: Option<String>,
    /// Why it was refused, with every cause. More than the sandbox is told.
    pub reason: Option<String>,
    pub handler: Option<String>,
    pub handler_version: Option<u64>,
    /// Why the handler did not decide, where the request went on all the same.
    pub handler_error: Option<String>,
    /// What the handler wrote.
    pub log: Vec<LogLine>,
    /// Where the request went instead, where the handler changed that.
    pub sent_to: Option<String>,
    /// What became of the question, where a person had to be asked.
    pub asked: Option<Asked>,
    /// Which secrets went out with the request, put there by a rule or a handler: their names.
    pub secrets: Vec<Arc<str>>,
    /// How many credentials were masked in the answer, where it was searched for them.
    pub redacted: Option<u64>,
    /// Where the upstream was dialled, for this request or for one before it on the same connection.
    pub address: Option<SocketAddr>,
    /// How the upstream was to be reached, where a rule says it.
    pub via: Option<Arc<Route>>,
    pub status: Option<u16>,
    pub bytes_up: u64,
    pub bytes_down: u64,
    pub revision: u64,
}

impl Record {
    /// Says where a connection without a request was going, as far as that is known.
    pub fn going(&mut self, whither: Option<(Host, u16)>) {
        (self.host, self.port) = whither.map(|(host, port)| (host.to_string(), port)).unzip();
    }

    /// Appends the record as one line of JSON. What says nothing of most requests is left out where it is empty.
    pub(super) fn write_to(&self, out: &mut Vec<u8>) {
        Object::write(out, |line| {
            line.number("unixMs", Some(self.unix_ms));
            line.text("sandbox", self.sandbox.as_ref().map(SandboxId::as_str));
            line.text("method", self.method.as_deref());
            line.text("scheme", self.scheme);
            line.text("host", self.host.as_deref());
            line.number("port", self.port);
            line.text("path", self.path.as_deref());
            line.text("verdict", Some(self.verdict));
            line.text("code", self.code);
            line.text_if("blame", self.blame.map(Blame::as_str));
            line.text("rule", self.rule.as_deref());
            line.text_if("reason", self.reason.as_deref());
            line.text("handler", self.handler.as_deref());
            if self.handler_version.is_some() {
                line.number("handlerVersion", self.handler_version);
            }
            line.text_if("handlerError", self.handler_error.as_deref());
            line.list_if("log", &self.log, LogLine::write_to);
            line.text_if("sentTo", self.sent_to.as_deref());
            if let Some(asked) = &self.asked {
                line.object("asked", |line| asked.write_to(line));
            }
            line.list_if("secrets", &self.secrets, |name, out| text(name, out));
            if self.redacted.is_some() {
                line.number("redacted", self.redacted);
            }
            line.address_if("address", self.address);
            if let Some(route) = &self.via {
                line.plain_if("via", route.via.as_ref());
                line.plain_if("from", route.source);
            }
            line.number("status", self.status);
            line.number("bytesUp", Some(self.bytes_up));
            line.number("bytesDown", Some(self.bytes_down));
            line.number("revision", Some(self.revision));
        });
        out.push(b'\n');
    }
}

/// How a request's wait for a person went.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Asked {
    /// `allowed` or `denied` by a person, `timedOut`, `withdrawn` by the client, `policyChanged` meanwhile, `linkLost`,
    /// `detached`, `tooMany` questions of one request, or `notAsked` because nobody could be.
    pub outcome: &'static str,
    /// What the answer covers.
    pub scope: Option<&'static str>,
    /// Who answered, where that was said.
    pub by: Option<String>,
    /// Milliseconds that the request waited, answers about a second host included.
    pub waited_ms: u64,
}

impl Asked {
    fn write_to(&self, line: &mut Object<'_>) {
        line.text("outcome", Some(self.outcome));
        line.text_if("scope", self.scope);
        line.text_if("by", self.by.as_deref());
        line.number("waitedMs", Some(self.waited_ms));
    }
}

/// One line of a handler's log. The contract bounds lines and bytes of one request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogLine {
    /// `error`, `warn`, `info` or `debug`.
    pub level: &'static str,
    /// The text.
    pub text: String,
}

impl LogLine {
    fn write_to(&self, out: &mut Vec<u8>) {
        Object::write(out, |line| {
            line.text("level", Some(self.level));
            line.text("text", Some(&self.text));
        });
    }
}

#[cfg(test)]
mod tests {
    use control_wire::policy::ProxyKind;

    use super::*;
    use crate::policy::Via;

    fn line(record: &Record) -> String {
        let mut out = Vec::new();
        record.write_to(&mut out);
        String::from_utf8(out).expect("text")
    }

    #[test]
    fn a_record_with_everything_has_golden_bytes() {
        let record = Record {
            unix_ms: 1,
            sandbox: SandboxId::new("box").ok(),
            method: Some("GET".into()),
            scheme: Some("https"),
            host: Some("one\n\u{2028}".into()),
            port: Some(443),
            path: Some("/\"".into()),
            verdict: "refused",
            code: Some("host_denied"),
            blame: Some(Blame::Policy),
            rule: Some("deniedHosts[0]".into()),
            reason: Some("why".into()),
            handler: Some("h".into()),
            handler_version: Some(2),
            handler_error: Some("e".into()),
            log: vec![LogLine { level: "info", text: "said".into() }],
            sent_to: Some("https://two/".into()),
            asked: Some(Asked {
                outcome: "denied",
                scope: Some("once"),
                by: Some("ann".into()),
                waited_ms: 3,
            }),
            secrets: vec!["a".into(), "b".into()],
            redacted: Some(2),
            address: Some(([127, 0, 0, 1], 4).into()),
            via: Some(Arc::new(Route {
                via: Some(Via {
                    kind: ProxyKind::Socks5,
                    host: Host::parse("proxy").expect("a host"),
                    port: 8,
                    secret: None,
                    resolves: false,
                }),
                source: Some([10, 0, 0, 9].into()),
            })),
            status: Some(403),
            bytes_up: 5,
            bytes_down: 6,
            revision: 7,
        };
        let golden = concat!(
            r#"{"unixMs":1,"sandbox":"box","method":"GET","scheme":"https","host":"one\u000a"#,
            "\u{2028}",
            r#"","port":443,"path":"/\"","verdict":"refused","code":"host_denied","blame":"policy","#,
            r#""rule":"deniedHosts[0]","reason":"why","handler":"h","handlerVersion":2,"handlerError":"e","#,
            r#""log":[{"level":"info","text":"said"}],"sentTo":"https://two/","#,
            r#""asked":{"outcome":"denied","scope":"once","by":"ann","waitedMs":3},"secrets":["a","b"],"redacted":2,"#,
            r#""address":"127.0.0.1:4","via":"socks5://proxy:8","from":"10.0.0.9","status":403,"bytesUp":5,"bytesDown":6,"revision":7}"#,
            "\n"
        );
        assert_eq!(line(&record), golden);
    }

    #[test]
    fn a_record_of_a_usual_request_says_no_more_than_it_must() {
        let record = Record { verdict: "allowed", ..Record::default() };
        let golden = concat!(
            r#"{"unixMs":0,"sandbox":null,"method":null,"scheme":null,"host":null,"port":null,"path":null,"#,
            r#""verdict":"allowed","code":null,"rule":null,"handler":null,"status":null,"bytesUp":0,"#,
            r#""bytesDown":0,"revision":0}"#,
            "\n"
        );
        assert_eq!(line(&record), golden);
    }
}
