//! Is the document whole? Control asks before it stores one, a plane before it compiles one.
//!
//! What would silently do nothing is refused, each time with the field and what to write instead.

use std::collections::HashSet;

use crate::limits::{
    ASK_MS_MAX, ASK_MS_MIN, GLOBS_MAX, LEASE_MS_MAX, LEASE_MS_MIN, NAME_BYTES_MAX, RULES_MAX,
};
use crate::pattern::{HostKind, HostPattern};
use crate::policy::{HandlerUse, HostHandler, PolicyDocument, Resolves, Rule, RuleAction, UpstreamWay};

/// Why a document was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{field}`: {problem}")]
pub struct DocumentError {
    /// Path of the field, like `allowedHosts[3]`.
    pub field: String,
    /// What is wrong, and the fix.
    pub problem: String,
}

impl PolicyDocument {
    /// Reads and validates a document.
    ///
    /// # Errors
    /// When it is not JSON of our shape, or [`PolicyDocument::validate`] refuses it.
    pub fn from_json(text: &str) -> Result<Self, DocumentError> {
        let document: Self =
            serde_json::from_str(text).map_err(|error| refuse("document", error.to_string()))?;
        document.validate()?;
        Ok(document)
    }

    /// Checks everything that the types do not.
    ///
    /// # Errors
    /// The first field that could never do what it says, with the fix.
    pub fn validate(&self) -> Result<(), DocumentError> {
        list("allowedHosts", self.allowed_hosts.as_deref().unwrap_or_default())?;
        list("deniedHosts", self.denied_hosts.as_deref().unwrap_or_default())?;
        self.validate_ask()?;
        self.validate_addresses()?;
        self.validate_roots()?;
        self.validate_rules()?;
        self.validate_handlers()?;
        if let Some(lease) = self.lease_ms
            && !(LEASE_MS_MIN..=LEASE_MS_MAX).contains(&lease)
        {
            return Err(refuse("leaseMs", format!("is {lease}; write {LEASE_MS_MIN} to {LEASE_MS_MAX}")));
        }
        match self.deny_status {
            Some(status) if !(400..=599).contains(&status) => {
                Err(refuse("denyStatus", format!("is {status}; write a status from 400 to 599")))
            }
            _ => Ok(()),
        }
    }

    /// What an operator may not have meant, one sentence each.
    pub fn warnings(&self) -> Vec<String> {
        let lists = [("allowedHosts", &self.allowed_hosts), ("deniedHosts", &self.denied_hosts)];
        let lists = lists
            .into_iter()
            .flat_map(|(field, list)| list.iter().flatten().map(move |text| (field, text.as_str())));
        let asked = self.ask.iter().flat_map(|ask| &ask.hosts).map(|host| ("ask.hosts", host.as_str()));
        let keys = self.outbound_by_host.iter().flatten().map(|row| ("outboundByHost", row.host.as_str()));
        let rules = self.rules.iter().flatten().map(|rule| ("rules", rule.host.as_str()));
        lists
            .chain(asked)
            .chain(keys)
            .chain(rules)
            .filter_map(|(field, text)| {
                let warning = HostPattern::parse(text).ok()?.warning()?;
                Some(format!("{field}: {warning}"))
            })
            .chain(self.trusting())
            .collect()
    }

    /// Rules that trust somebody else with what the gateway would have seen to.
    fn trusting(&self) -> impl Iterator<Item = String> {
        self.rules.iter().flatten().enumerate().flat_map(|(at, rule)| {
            rule.actions.iter().filter_map(move |action| {
                let what = match action {
                    RuleAction::Passthrough {} => {
                        "relays TLS unread: whoever serves it is trusted with whatever a sandbox says, and no credential, \
                         handler, method or path counts"
                    }
                    RuleAction::Upstream(UpstreamWay { resolve: Resolves::Proxy, .. }) => {
                        "lets the proxy resolve names: nobody checks that these do not lead into its own network"
                    }
                    _ => return None,
                };
                Some(format!("rules[{at}]: `{}` {what}", rule.host))
            })
        })
    }

    fn validate_ask(&self) -> Result<(), DocumentError> {
        let Some(ask) = &self.ask else { return Ok(()) };
        list("ask.hosts", &ask.hosts)?;
        match ask.timeout_ms {
            Some(time) if !(ASK_MS_MIN..=ASK_MS_MAX).contains(&time) => {
                Err(refuse("ask.timeoutMs", format!("is {time}; write {ASK_MS_MIN} to {ASK_MS_MAX}")))
            }
            _ => Ok(()),
        }
    }

    fn validate_addresses(&self) -> Result<(), DocumentError> {
        let rows = self.allowed_addresses.as_deref().unwrap_or_default();
        hosts("allowedAddresses", rows.iter().map(|row| row.host.as_str()))?;
        match rows.iter().position(|row| row.cidrs.is_empty()) {
            Some(at) => Err(refuse(
                format!("allowedAddresses[{at}].cidrs"),
                "is empty and allows nothing; name a range like `10.0.0.0/8`, or remove the entry".into(),
            )),
            None => Ok(()),
        }
    }

    fn validate_roots(&self) -> Result<(), DocumentError> {
        let rows = self.upstream_roots.as_deref().unwrap_or_default();
        hosts("upstreamRoots", rows.iter().map(|row| row.host.as_str()))?;
        let armed = |pem: &str| {
            pem.contains("-----BEGIN CERTIFICATE-----") && pem.contains("-----END CERTIFICATE-----")
        };
        match rows.iter().position(|row| !armed(&row.pem)) {
            Some(at) => Err(refuse(
                format!("upstreamRoots[{at}].pem"),
                "holds no certificate; give it from `-----BEGIN CERTIFICATE-----` to its end".into(),
            )),
            None => Ok(()),
        }
    }

    fn validate_rules(&self) -> Result<(), DocumentError> {
        let rules = self.rules.as_deref().unwrap_or_default();
        if rules.len() > RULES_MAX {
            return Err(refuse("rules", format!("has {} rules; at most {RULES_MAX} are taken", rules.len())));
        }
        hosts("rules", rules.iter().map(|rule| rule.host.as_str()))?;
        rules.iter().enumerate().try_for_each(|(at, rule)| {
            rule_holds(rule).map_err(|(field, problem)| refuse(format!("rules[{at}].{field}"), problem))
        })
    }

    fn validate_handlers(&self) -> Result<(), DocumentError> {
        if let Some(outbound) = &self.outbound {
            handler("outbound", outbound)?;
        }
        let rows: &[HostHandler] = self.outbound_by_host.as_deref().unwrap_or_default();
        let patterns = hosts("outboundByHost", rows.iter().map(|row| row.host.as_str()))?;
        let mut seen = HashSet::new();
        for (at, (pattern, row)) in patterns.iter().zip(rows).enumerate() {
            handler(&format!("outboundByHost[{at}]"), &row.outbound)?;
            if !seen.insert(pattern) {
                return Err(refuse(
                    format!("outboundByHost[{at}].host"),
                    format!("`{pattern}` stands here twice and the second is never used; remove one"),
                ));
            }
        }
        Ok(())
    }
}

fn refuse(field: impl Into<String>, problem: String) -> DocumentError {
    DocumentError { field: field.into(), problem }
}

/// The patterns of a plain list.
fn list(field: &str, texts: &[String]) -> Result<(), DocumentError> {
    patterns(texts.iter().map(String::as_str), |at| format!("{field}[{at}]"), field).map(drop)
}

/// The patterns of rows that have a `host`.
fn hosts<'a>(field: &str, texts: impl Iterator<Item = &'a str>) -> Result<Vec<HostPattern>, DocumentError> {
    patterns(texts, |at| format!("{field}[{at}].host"), field)
}

fn patterns<'a>(
    texts: impl Iterator<Item = &'a str>,
    place: impl Fn(usize) -> String,
    field: &str,
) -> Result<Vec<HostPattern>, DocumentError> {
    let parsed: Vec<HostPattern> = texts
        .enumerate()
        .map(|(at, text)| HostPattern::parse(text).map_err(|error| refuse(place(at), error.to_string())))
        .collect::<Result<_, _>>()?;
    let globs = parsed.iter().filter(|pattern| matches!(pattern.kind(), HostKind::Glob(_))).count();
    if globs > GLOBS_MAX {
        return Err(refuse(
            field,
            format!(
                "has {globs} patterns with a `*` elsewhere than in front as `*.`; at most {GLOBS_MAX} are taken"
            ),
        ));
    }
    Ok(parsed)
}

fn handler(field: &str, used: &HandlerUse) -> Result<(), DocumentError> {
    name(&used.handler).map_err(|problem| refuse(format!("{field}.handler"), problem))
}

/// A name of a handler or secret.
pub(crate) fn name(text: &str) -> Result<(), String> {
    if text.is_empty() || text.len() > NAME_BYTES_MAX {
        return Err(format!("has {} bytes; write a name of 1 to {NAME_BYTES_MAX}", text.len()));
    }
    if text.chars().any(char::is_control) {
        return Err("holds a control character; write a plain name".into());
    }
    Ok(())
}

fn rule_holds(rule: &Rule) -> Result<(), (String, String)> {
    if rule.actions.is_empty() && !rule.redact {
        return Err(("actions".into(), "is empty, so the rule does nothing; name an action".into()));
    }
    if rule.redact && rule.actions.iter().any(|action| matches!(action, RuleAction::Deny { .. })) {
        let problem = "searches answers of requests that the rule denies; remove it, or write two rules";
        return Err(("redact".into(), problem.into()));
    }
    if let Some(matcher) = &rule.matcher {
        if let Some(methods) = &matcher.method {
            methods_hold(methods).map_err(|problem| ("match.method".to_owned(), problem))?;
        }
        if let Some(path) = &matcher.path {
            path_holds(path).map_err(|problem| ("match.path".to_owned(), problem))?;
        }
    }
    rule.actions
        .iter()
        .enumerate()
        .try_for_each(|(at, action)| action.holds().map_err(|problem| (format!("actions[{at}]"), problem)))?;
    actions_fit(rule).map_err(|problem| ("actions".into(), problem))
}

/// Whether the actions of a rule can all do what they say together.
fn actions_fit(rule: &Rule) -> Result<(), String> {
    let count = |kind: fn(&RuleAction) -> bool| rule.actions.iter().filter(|action| kind(action)).count();
    let ways = count(|action| matches!(action, RuleAction::Upstream(_)));
    let certificates = count(|action| matches!(action, RuleAction::ClientCertificate { .. }));
    if ways > 1 {
        return Err("has `upstream` twice, and a connection has one way; remove one".into());
    }
    if certificates > 1 {
        return Err("has `clientCertificate` twice, and a connection shows one; remove one".into());
    }
    if count(|action| matches!(action, RuleAction::Passthrough {})) == 0 {
        return Ok(());
    }
    if rule.matcher.is_some() {
        return Err("has `passthrough` with a `match`, but TLS that is relayed unread shows neither method nor path; \
                    remove the `match`"
            .into());
    }
    if ways + 1 < rule.actions.len() || rule.redact {
        return Err(
            "has `passthrough` with what needs TLS to be opened; beside it only `upstream` can act".into()
        );
    }
    Ok(())
}

fn methods_hold(methods: &[String]) -> Result<(), String> {
    if methods.is_empty() {
        return Err("is empty and matches nothing; remove it to match every method".into());
    }
    for method in methods {
        if !crate::action::is_token(method) {
            return Err(format!("holds `{}`, which is no method", method.escape_debug()));
        }
        let upper = method.to_ascii_uppercase();
        let known = ["GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"].contains(&upper.as_str());
        if known && *method != upper {
            return Err(format!("holds `{method}`; methods have their case, write `{upper}`"));
        }
    }
    Ok(())
}

fn path_holds(path: &str) -> Result<(), String> {
    if !path.starts_with(['/', '*']) {
        return Err(format!("never matches, since paths begin with `/`; write `/{}`", path.escape_debug()));
    }
    if path.contains(['?', '#']) {
        return Err("holds `?` or `#`, but only the path is compared; end the pattern before it".into());
    }
    if path.contains('%') || !path.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(
            "is compared with the path as sent and decoded, so encoded characters never match; write `*` for them"
                .into(),
        );
    }
    if path.split('/').any(|segment| segment == "." || segment == "..") {
        return Err(
            "holds `.` or `..` as a segment, which are resolved before; write the resolved path".into()
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(text: &str) -> String {
        PolicyDocument::from_json(text).unwrap_err().to_string()
    }

    #[test]
    fn a_whole_document_is_taken_and_survives_its_own_text() {
        let text = r#"{"enableInternet":true,"allowedHosts":["*.a.com","10.0.0.0/8"],"deniedHosts":[],
            "ask":{"hosts":["*"],"timeoutMs":30000},
            "allowedAddresses":[{"host":"db.a.com","cidrs":["10.0.0.0/8"]}],
            "rules":[{"host":"api.a.com","match":{"method":["GET"],"path":"/v1/*"},
                      "actions":[{"header":{"name":"x-key","secret":"k"}},{"bearer":{"secret":"t"}},
                                 {"basic":{"secret":"p"}},{"basic":{"secret":"p","user":""}},
                                 {"query":{"name":"api key","secret":"k"}},{"deny":{"reason":"no"}},
                                 {"clientCertificate":{"secret":"c"}},
                                 {"upstream":{"via":"socks5://proxy.a.com:1080","secret":"p","resolve":"proxy",
                                              "sourceAddress":"10.0.0.7"}}]},
                     {"host":"pinned.a.com","actions":[{"passthrough":{}},
                                                       {"upstream":{"sourceAddress":"fd00::7"}}]},
                     {"host":"api.b.com","actions":[{"bearer":{"secret":"t"}}],"redact":true},
                     {"host":"api.c.com","redact":true}],
            "outbound":{"handler":"h","params":{"a":1},"onError":"next"},
            "outboundByHost":[{"host":"a.com","handler":"g"}],
            "onControlLoss":"deny","leaseMs":2000,"denyStatus":520}"#;
        let document = PolicyDocument::from_json(text).unwrap();
        let again = serde_json::to_string(&document).unwrap();
        assert_eq!(PolicyDocument::from_json(&again).unwrap(), document);
    }

    #[test]
    fn what_would_silently_do_nothing_is_refused_with_field_and_fix() {
        for (text, field, fix) in [
            (r#"{"allowedHost":[]}"#, "document", "allowedHost"),
            (r#"{"allowedHosts":["a.com",""]}"#, "allowedHosts[1]", "remove it"),
            (r#"{"deniedHosts":["?.com"]}"#, "deniedHosts[0]", "`*`"),
            (r#"{"leaseMs":1}"#, "leaseMs", "500"),
            (r#"{"ask":{"hosts":["?.com"]}}"#, "ask.hosts[0]", "`*`"),
            (r#"{"ask":{"hosts":["*"],"timeoutMs":5}}"#, "ask.timeoutMs", "100 to 3600000"),
            (r#"{"ask":{}}"#, "document", "hosts"),
            (r#"{"ask":{"hosts":[],"seconds":5}}"#, "document", "timeoutMs"),
            (r#"{"denyStatus":200}"#, "denyStatus", "400 to 599"),
            (
                r#"{"allowedAddresses":[{"host":"a.com","cidrs":[]}]}"#,
                "allowedAddresses[0].cidrs",
                "10.0.0.0/8",
            ),
            (
                r#"{"upstreamRoots":[{"host":"a.com","pem":"x"}]}"#,
                "upstreamRoots[0].pem",
                "BEGIN CERTIFICATE",
            ),
            (r#"{"outbound":{"handler":""}}"#, "outbound.handler", "1 to 255"),
            (r#"{"outboundByHost":[{"host":"a.com","handler":"h","parms":1}]}"#, "document", "parms"),
            (
                r#"{"outboundByHost":[{"host":"a.com","handler":"h"},{"host":"A.com.","handler":"g"}]}"#,
                "outboundByHost[1].host",
                "remove one",
            ),
            (r#"{"rules":[{"host":"a.com","actions":[]}]}"#, "rules[0].actions", "name an action"),
            (r#"{"rules":[{"host":"a.com","redact":false}]}"#, "rules[0].actions", "name an action"),
            (
                r#"{"rules":[{"host":"a.com","redact":true,"actions":[{"deny":{"reason":"no"}}]}]}"#,
                "rules[0].redact",
                "two rules",
            ),
            (
                r#"{"rules":[{"host":"a.com","redact":true,"actions":[{"passthrough":{}}]}]}"#,
                "rules[0].actions",
                "`passthrough`",
            ),
        ] {
            let said = problem(text);
            assert!(said.contains(field) && said.contains(fix), "{text}: {said}");
        }
    }

    #[test]
    fn a_value_of_the_wrong_type_is_told_in_json_and_never_by_a_type_of_the_program() {
        for (text, form) in [
            (r#"{"rules":[{"host":"a.com","actions":[{"deny":5}]}]}"#, "{\"reason\": text}"),
            (r#"{"rules":[{"host":"a.com","actions":["bearer"]}]}"#, "{\"bearer\": {\"secret\": name}}"),
            (r#"{"rules":[{"host":"a.com","actions":[7]}]}"#, "an action"),
            (r#"{"rules":[{"host":"a.com","actions":[{"bearer":"token"}]}]}"#, "{\"secret\": name}"),
            (r#"{"rules":[{"host":"a.com","actions":[{}]}]}"#, "exactly one of `deny`"),
            (r#"{"rules":[{"host":"a.com","actions":[{"basic":"token"}]}]}"#, "optionally \"user\""),
            (r#"{"rules":[{"host":"a.com","actions":[{"query":"token"}]}]}"#, "{\"name\": parameter"),
            (
                r#"{"rules":[{"host":"a.com","actions":[{"basic":{"secret":"t"},"bearer":{"secret":"t"}}]}]}"#,
                "several actions",
            ),
            (
                r#"{"rules":[{"host":"a.com","actions":[{"cookie":{}}]}]}"#,
                "`deny`, `header`, `bearer`, `basic`, `query`, `clientCertificate`, `passthrough`, `upstream`",
            ),
            (
                r#"{"rules":[{"host":"a.com","actions":[{"upstream":"http://p:1"}]}]}"#,
                "\"sourceAddress\": address",
            ),
            (
                r#"{"rules":[{"host":"a.com","actions":[{"upstream":{"resolve":"both"}}]}]}"#,
                "`plane` or `proxy`",
            ),
            (r#"{"rules":[{"host":"a.com","actions":[{"passthrough":true}]}]}"#, "{}"),
            (r#"{"rules":["a.com"]}"#, "a rule: {\"host\": pattern"),
            (r#"{"rules":[{"host":"a.com","match":"/x","actions":[]}]}"#, "\"path\": glob"),
            (r#"{"outbound":"inject"}"#, "{\"handler\": name}"),
            (r#"{"outboundByHost":["inject"]}"#, "\"handler\": name"),
            (r#"{"onControlLoss":"maybe"}"#, "`keep` or `deny`"),
            (r#"{"allowedAddresses":["10.0.0.0/8"]}"#, "\"cidrs\""),
            (r#"{"ask":true}"#, "{\"hosts\": [pattern"),
        ] {
            let said = problem(text);
            assert!(said.contains(form), "{text}: {said}");
            for ours in ["struct", "enum", "variant Rule", "RuleAction", "PolicyDocument", "HandlerUse", "::"]
            {
                assert!(!said.contains(ours), "{text}: {said}");
            }
        }
    }

    #[test]
    fn rules_that_cannot_hold_are_refused() {
        for (inside, fix) in [
            (r#""match":{"path":"v1"},"actions":[{"bearer":{"secret":"t"}}]"#, "write `/v1`"),
            (r#""match":{"path":"/a%20b"},"actions":[{"bearer":{"secret":"t"}}]"#, "`*` for them"),
            (r#""match":{"path":"/a?b"},"actions":[{"bearer":{"secret":"t"}}]"#, "before it"),
            (r#""match":{"path":"/a/../b"},"actions":[{"bearer":{"secret":"t"}}]"#, "resolved path"),
            (r#""match":{"method":["get"]},"actions":[{"bearer":{"secret":"t"}}]"#, "write `GET`"),
            (r#""match":{"method":[]},"actions":[{"bearer":{"secret":"t"}}]"#, "remove it"),
            (r#""actions":[{"header":{"name":"Content_Length","secret":"t"}}]"#, "gateway alone"),
            (r#""actions":[{"header":{"name":"x y","secret":"t"}}]"#, "no field name"),
            (r#""actions":[{"header":{"name":"x","secret":"t","prefix":"a\r\n"}}]"#, "printable"),
            (r#""actions":[{"bearer":{"secret":""}}]"#, "1 to 255"),
            (r#""actions":[{"basic":{"secret":""}}]"#, "1 to 255"),
            (r#""actions":[{"basic":{"secret":"t","user":"a:b"}}]"#, "the user alone"),
            (r#""actions":[{"basic":{"secret":"t","user":"a\n"}}]"#, "plain text"),
            (r#""actions":[{"query":{"name":"k","secret":""}}]"#, "1 to 255"),
            (r#""actions":[{"query":{"name":"","secret":"t"}}]"#, "names a parameter that has 0 bytes"),
            (
                r#""actions":[{"query":{"name":"a\n","secret":"t"}}]"#,
                "a parameter that holds a control character",
            ),
            (r#""actions":[{"clientCertificate":{"secret":""}}]"#, "1 to 255"),
            (
                r#""actions":[{"clientCertificate":{"secret":"a"}},{"clientCertificate":{"secret":"b"}}]"#,
                "shows one",
            ),
            (r#""actions":[{"upstream":{}}]"#, "name `via` or `sourceAddress`"),
            (r#""actions":[{"upstream":{"via":"https://proxy:1"}}]"#, "write http:// or socks5://"),
            (r#""actions":[{"upstream":{"via":"http://me:word@proxy:1"}}]"#, "into a secret"),
            (
                r#""actions":[{"upstream":{"secret":"p","sourceAddress":"10.0.0.1"}}]"#,
                "`secret` without `via`",
            ),
            (
                r#""actions":[{"upstream":{"resolve":"proxy","sourceAddress":"10.0.0.1"}}]"#,
                "`resolve` without `via`",
            ),
            (r#""actions":[{"upstream":{"sourceAddress":"0.0.0.0"}}]"#, "an address of the machine"),
            (
                r#""actions":[{"upstream":{"via":"http://p:1"}},{"upstream":{"sourceAddress":"10.0.0.1"}}]"#,
                "one way",
            ),
            (r#""actions":[{"upgrade":[]}]"#, "names no protocol"),
            (r#""actions":[{"upgrade":["tcp, x"]}]"#, "a name and a version"),
            (r#""actions":[{"upgrade":["WebSocket"]}]"#, "needs no rule"),
            (r#""actions":[{"upgrade":["h2c"]}]"#, "would pass unseen"),
            (r#""actions":[{"passthrough":{}},{"upgrade":["tcp"]}]"#, "only `upstream` can act"),
            (r#""match":{"path":"/x"},"actions":[{"passthrough":{}}]"#, "neither method nor path"),
            (r#""actions":[{"passthrough":{}},{"bearer":{"secret":"t"}}]"#, "only `upstream` can act"),
            (r#""actions":[{"passthrough":{}},{"deny":{"reason":"no"}}]"#, "only `upstream` can act"),
        ] {
            let said = problem(&format!(r#"{{"rules":[{{"host":"a.com",{inside}}}]}}"#));
            assert!(said.contains("rules[0].") && said.contains(fix), "{inside}: {said}");
        }
        let said = problem(r#"{"rules":[{"host":"a.com","actions":[{"upgrade":"tcp"}]}]}"#);
        assert!(said.contains("a list of protocols, one of them too: [\"tcp\"]"), "{said}");
    }

    #[test]
    fn rules_that_trust_somebody_else_are_warned_about() {
        let warned = |actions: &str| {
            let text = format!(r#"{{"rules":[{{"host":"a.com","actions":[{actions}]}}]}}"#);
            PolicyDocument::from_json(&text).unwrap().warnings().join(" ")
        };
        assert!(warned(r#"{"passthrough":{}}"#).starts_with("rules[0]: `a.com` relays TLS unread"));
        let via = r#"{"upstream":{"via":"http://p:1","resolve":"RESOLVE"}}"#;
        assert!(warned(&via.replace("RESOLVE", "proxy")).contains("proxy resolve names"));
        assert_eq!(warned(&via.replace("RESOLVE", "plane")), "");
    }

    #[test]
    fn too_many_open_globs_are_refused_and_suffixes_are_not_counted() {
        let many = |pattern: fn(usize) -> String| {
            let hosts: Vec<String> = (0..1_000).map(pattern).collect();
            PolicyDocument { allowed_hosts: Some(hosts), ..PolicyDocument::default() }.validate()
        };
        assert!(many(|n| format!("*.h{n}.com")).is_ok());
        assert!(many(|n| format!("h{n}*.com")).unwrap_err().problem.contains("at most 256"));
    }
}
