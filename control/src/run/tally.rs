//! What the records of a run say, host by host.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;

/// The fields of a record that are looked at; `dataplane` writes them.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Record {
    /// Milliseconds since the Unix epoch.
    pub unix_ms: u64,
    /// Method.
    pub method: Option<String>,
    /// `http` or `https`.
    pub scheme: Option<String>,
    /// Host.
    pub host: Option<String>,
    /// Port.
    pub port: Option<u16>,
    /// Path, without the query.
    pub path: Option<String>,
    /// What became of it.
    pub verdict: String,
    /// Why it was refused, as a stable word.
    pub code: Option<String>,
    /// Whose fault that is.
    pub blame: Option<String>,
    /// Which part of the policy decided.
    pub rule: Option<String>,
    /// Why it was refused, for a person.
    pub reason: Option<String>,
    /// Who looked at it.
    pub handler: Option<String>,
    /// Names of the secrets that it was given.
    pub secrets: Vec<String>,
    /// Status of the answer.
    pub status: Option<u16>,
    /// Payload that went up.
    pub bytes_up: u64,
    /// Payload that came down.
    pub bytes_down: u64,
}

impl Record {
    /// Whether it was stopped by us, and not by what is wrong elsewhere.
    pub fn is_refused(&self) -> bool {
        let elsewhere = matches!(self.blame.as_deref(), Some("upstream" | "gateway"));
        matches!(self.verdict.as_str(), "refused" | "cut") && !elsewhere
    }

    /// The host, with its port where that is not the scheme's own.
    pub fn place(&self) -> Option<String> {
        let host = self.host.as_deref()?;
        let usual = if self.scheme.as_deref() == Some("http") { 80 } else { 443 };
        match self.port {
            Some(port) if port != usual => Some(format!("{}:{port}", bracketed(host))),
            _ => Some(host.to_owned()),
        }
    }

    /// The option that would have allowed it, where one would.
    pub fn remedy(&self) -> Option<String> {
        (self.code.as_deref() == Some("host_not_allowed")).then_some(())?;
        Some(format!("--allow {}", self.place()?))
    }
}

fn bracketed(host: &str) -> String {
    if host.contains(':') && !host.starts_with('[') { format!("[{host}]") } else { host.to_owned() }
}

/// One host's.
#[derive(Debug, Default)]
pub struct Host {
    /// Requests that went through.
    pub allowed: u64,
    /// Requests that were refused or cut off.
    pub refused: u64,
    /// Requests that failed: the other end, or the client.
    pub failed: u64,
    /// Payload that went up.
    pub bytes_up: u64,
    /// Payload that came down.
    pub bytes_down: u64,
    /// What decided: rules, handlers that refused, codes where there is neither.
    pub by: BTreeSet<String>,
    /// Names of secrets that were attached.
    pub secrets: BTreeSet<String>,
}

/// All of them.
#[derive(Debug, Default)]
pub struct Tally {
    /// By host, with its port where that is not the usual one.
    pub hosts: BTreeMap<String, Host>,
    /// Options that would have allowed what was refused.
    pub remedies: BTreeSet<String>,
    /// What was refused, oldest first.
    pub refusals: Vec<Record>,
}

impl Tally {
    /// Reads lines of JSON. A line that is none, half written when the plane was killed, is left out.
    pub fn of(lines: &str) -> Self {
        let mut tally = Self::default();
        for record in lines.lines().filter_map(|line| serde_json::from_str::<Record>(line).ok()) {
            tally.add(record);
        }
        tally
    }

    fn add(&mut self, record: Record) {
        // The plane's own pages.
        if record.host.as_deref() == Some("outgate.internal") && !record.is_refused() {
            return;
        }
        // A connection opened ahead, as npm and browsers do, and given up before it asked for anything.
        if record.method.is_none() && record.code.as_deref() == Some("client_gone") {
            return;
        }
        let place = record.place().unwrap_or_else(|| "(no request)".to_owned());
        let host = self.hosts.entry(place).or_default();
        match record.verdict.as_str() {
            "allowed" | "answered" => host.allowed += 1,
            _ if record.is_refused() => host.refused += 1,
            _ => host.failed += 1,
        }
        host.bytes_up += record.bytes_up;
        host.bytes_down += record.bytes_down;
        host.by.extend(decided_by(&record));
        host.secrets.extend(record.secrets.iter().cloned());
        self.remedies.extend(record.remedy());
        if record.is_refused() {
            self.refusals.push(record);
        }
    }

    /// All requests.
    pub fn requests(&self) -> u64 {
        self.hosts.values().map(|host| host.allowed + host.refused + host.failed).sum()
    }

    /// Hosts that were reached.
    pub fn reached(&self) -> impl Iterator<Item = &str> {
        self.hosts.iter().filter(|(_, host)| host.allowed > 0).map(|(place, _)| place.as_str())
    }
}

fn decided_by(record: &Record) -> Option<String> {
    match (record.code.as_deref(), &record.handler, &record.rule) {
        (Some("handler_refused"), Some(handler), _) => Some(format!("handler {handler}")),
        (_, _, Some(rule)) => Some(rule.clone()),
        (Some(code), _, _) => Some(code.to_owned()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINES: &str = r#"
{"method":"GET","scheme":"https","host":"a.example","port":443,"verdict":"allowed","rule":"allowedHosts: a.example","secrets":["t"],"bytesUp":1,"bytesDown":20}
{"method":"GET","scheme":"https","host":"a.example","port":443,"verdict":"refused","code":"handler_refused","handler":"get_only","rule":"outbound"}
{"method":"GET","scheme":"https","host":"b.example","port":8443,"verdict":"refused","code":"host_not_allowed","rule":"allowedHosts"}
{"method":"GET","scheme":"http","host":"2001:db8::1","port":443,"verdict":"refused","code":"host_not_allowed","rule":"allowedHosts"}
{"method":"GET","scheme":"http","host":"outgate.internal","port":80,"verdict":"answered"}
{"verdict":"refused","code":"not_http","blame":"sandbox"}
{"verdict":"refused","code":"client_gone","blame":"sandbox"}
{"method":"GET","scheme":"https","host":"a.example","port":443,"verdict":"refused","code":"name_unknown","blame":"upstream"}
{"half"#;

    #[test]
    fn records_are_counted_by_host() {
        let tally = Tally::of(LINES);
        assert_eq!(tally.requests(), 6);
        let a = &tally.hosts["a.example"];
        assert_eq!((a.allowed, a.refused, a.failed, a.bytes_up, a.bytes_down), (1, 1, 1, 1, 20));
        assert!(a.by.contains("handler get_only") && a.by.contains("allowedHosts: a.example"));
        assert!(a.secrets.contains("t"));
        assert_eq!(tally.hosts["(no request)"].by.first().unwrap(), "not_http");
        assert_eq!(tally.reached().collect::<Vec<_>>(), ["a.example"]);
    }

    #[test]
    fn what_a_longer_list_would_have_allowed_is_named_as_an_option() {
        let remedies: Vec<_> = Tally::of(LINES).remedies.into_iter().collect();
        assert_eq!(remedies, ["--allow [2001:db8::1]:443", "--allow b.example:8443"]);
    }
}
