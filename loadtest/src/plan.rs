//! Plans: what is done to a gateway, as TOML. The usual ones are built in.

use std::{fs, path::Path};

use serde::{Deserialize, Serialize};

use crate::limits::{BODY_BYTES_MAX, CONNECTIONS_MAX, HOSTS_MAX, SANDBOXES_MAX, STREAMS_MAX};

/// The plans that are built in, by name.
pub const BUILT_IN: [(&str, &str); 11] = [
    ("keepalive", include_str!("../plans/keepalive.toml")),
    ("connect-rate", include_str!("../plans/connect-rate.toml")),
    ("first-hit", include_str!("../plans/first-hit.toml")),
    ("bulk", include_str!("../plans/bulk.toml")),
    ("idle", include_str!("../plans/idle.toml")),
    ("open-loop", include_str!("../plans/open-loop.toml")),
    ("http2", include_str!("../plans/http2.toml")),
    ("fleet", include_str!("../plans/fleet.toml")),
    ("churn", include_str!("../plans/churn.toml")),
    ("noisy", include_str!("../plans/noisy.toml")),
    ("soak", include_str!("../plans/soak.toml")),
];

/// A plan: rows that are measured one after the other, in as many rounds as it says.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Its name.
    pub name: String,
    /// What it is for.
    pub about: String,
    /// Times that each row is measured, in turns; the best of a cost and the median of a latency count.
    pub rounds: usize,
    /// What is measured.
    pub rows: Vec<Load>,
}

/// Whose credential a request is given, and by what.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Policy {
    /// By a rule.
    #[default]
    Rule,
    /// By a WebAssembly handler.
    Handler,
    /// A handler that runs until its budget ends; requests are refused.
    Loops,
}

/// How a connection says which sandbox it is of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Way {
    /// Credentials of an explicit proxy.
    #[default]
    Proxy,
    /// Its source address; connections are captured.
    Source,
    /// A listener of its own, which is an explicit proxy.
    Listener,
}

/// What becomes of a connection after an answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Connect {
    /// The next request takes it.
    #[default]
    Keep,
    /// It is closed; each request makes one, with a full handshake.
    Full,
    /// The same with an abbreviated handshake.
    Resumed,
}

/// With or without TLS.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Scheme {
    /// Without.
    Http,
    /// With; the gateway opens it.
    #[default]
    Https,
}

/// One row of a plan.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Load {
    /// What it is called in the table.
    pub name: String,
    /// With or without TLS.
    pub scheme: Scheme,
    /// Requests under way on each connection, by HTTP/2; without, HTTP/1.1 is spoken.
    pub streams: Option<usize>,
    /// The origin speaks HTTP/2.
    pub origin_http2: bool,
    /// Milliseconds that the origin takes before it begins a handshake; in steps of its tick.
    pub handshake_millis: u64,
    /// What puts the credential on.
    pub policy: Policy,
    /// How a connection says whose it is.
    pub way: Way,
    /// Sandboxes that the gateway knows.
    pub sandboxes: usize,
    /// Of those, how many speak at a time; all unless given.
    pub active: Option<usize>,
    /// Sandboxes that leave that set in a second; as many others enter.
    pub moves: f64,
    /// Host names.
    pub hosts: usize,
    /// Connections at once.
    pub connections: usize,
    /// What becomes of one after an answer.
    pub connect: Connect,
    /// Requests due in a second, whatever becomes of those before. Without, each answer brings the next request.
    pub rate: Option<f64>,
    /// Bytes of each answer's body.
    pub down: u64,
    /// Bytes of each request's body.
    pub up: u64,
    /// Bodies go up byte by byte, each byte a tick after the one before.
    pub drips: bool,
    /// Each connection asks once and is silent then.
    pub idle: bool,
    /// Seconds of silence after idle connections have ended, until what memory they left is read, of any target.
    pub silence: f64,
    /// Seconds before what is measured.
    pub warm_up: f64,
    /// Seconds that are measured.
    pub seconds: f64,
    /// Seconds after them in which system calls and instructions are counted.
    pub counted: f64,
    /// Answers after which the measured part ends.
    pub requests: Option<u64>,
    /// Changes of policy, handler and secret in a second meanwhile.
    pub changes: f64,
    /// Requests go straight to the origin, past the gateway that is attacked: what generator, origin and machine add.
    pub past: bool,
    /// What another sandbox does meanwhile.
    pub attack: Option<Box<Load>>,
}

impl Default for Load {
    fn default() -> Self {
        Self {
            name: String::new(),
            scheme: Scheme::default(),
            streams: None,
            origin_http2: false,
            handshake_millis: 0,
            policy: Policy::default(),
            way: Way::default(),
            sandboxes: 1,
            active: None,
            moves: 0.0,
            hosts: 1,
            connections: 64,
            connect: Connect::default(),
            rate: None,
            down: 1024,
            up: 0,
            drips: false,
            idle: false,
            silence: 12.0,
            warm_up: 0.3,
            seconds: 2.0,
            counted: 0.3,
            requests: None,
            changes: 0.0,
            past: false,
            attack: None,
        }
    }
}

/// Why a plan is not run.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// No such plan.
    #[error("there is no plan `{0}`; `outgate-loadtest plans` lists those that are built in, or give a file")]
    Unknown(String),
    /// It cannot be read.
    #[error("plan {name}: {reason}")]
    Text {
        /// Its name.
        name: String,
        /// Why.
        reason: String,
    },
    /// It cannot be done.
    #[error("plan {name}, row `{row}`: {reason}")]
    Row {
        /// Its name.
        name: String,
        /// The row.
        row: String,
        /// Why, and what would do.
        reason: String,
    },
}

/// How a plan is read.
#[derive(Clone, Debug, Default)]
pub struct Reading {
    /// Its `[smoke]` settings hold: seconds, not figures.
    pub smoke: bool,
    /// Settings that win over the plan's, `key=value`.
    pub set: Vec<String>,
    /// Only rows whose name has this in it.
    pub row: Option<String>,
}

impl Plan {
    /// A plan by its name or its file.
    ///
    /// # Errors
    /// [`PlanError`], which names the plan and the row.
    pub fn find(name: &str, how: &Reading) -> Result<Self, PlanError> {
        let built_in = BUILT_IN.iter().find(|(known, _)| *known == name);
        match built_in {
            Some((name, text)) => Self::parse(name, text, how),
            None if name.ends_with(".toml") => {
                let text = fs::read_to_string(name)
                    .map_err(|error| PlanError::Text { name: name.into(), reason: error.to_string() })?;
                let stem = Path::new(name).file_stem().unwrap_or_default().to_string_lossy();
                Self::parse(&stem, &text, how)
            }
            None => Err(PlanError::Unknown(name.into())),
        }
    }

    /// Reads a plan: rows inherit what `[load]` says; `[smoke]`, and `smoke` of a row, win over both, and what is set
    /// over all.
    ///
    /// # Errors
    /// As [`Self::find`].
    pub fn parse(name: &str, text: &str, how: &Reading) -> Result<Self, PlanError> {
        let wrong = |reason: String| PlanError::Text { name: name.into(), reason };
        let file: File = toml::from_str(text).map_err(|error| wrong(error.to_string()))?;
        let mut smoke = if how.smoke { file.smoke } else { toml::Table::new() };
        let mut above = toml::Table::new();
        for pair in &how.set {
            let (key, value) =
                pair.split_once('=').ok_or_else(|| wrong(format!("--set {pair}: write key=value")))?;
            let read = toml::from_str(&format!("value = {value}"))
                .or_else(|_| toml::from_str(&format!("value = \"{value}\"")));
            let mut read: toml::Table = read.map_err(|error| wrong(format!("--set {pair}: {error}")))?;
            above.extend(read.remove("value").map(|value| (key.trim().to_owned(), value)));
        }
        let given = [above.remove("rounds"), smoke.remove("rounds")];
        let rounds =
            given.into_iter().flatten().find_map(|rounds| rounds.as_integer()).or(file.rounds).unwrap_or(1);
        let mut plan = Self {
            name: name.into(),
            about: file.about,
            rounds: rounds.clamp(1, 100) as usize,
            rows: Vec::new(),
        };
        let mut titles = Vec::new();
        for mut row in file.row {
            let title = row.get("name").and_then(|name| name.as_str()).unwrap_or(name).to_owned();
            titles.push(format!("`{title}`"));
            if how.row.as_ref().is_some_and(|wanted| !title.contains(wanted.as_str())) {
                continue;
            }
            let small = row.remove("smoke");
            let mut merged = file.load.clone();
            merge(&mut merged, row);
            merge(&mut merged, smoke.clone());
            if let (true, Some(toml::Value::Table(small))) = (how.smoke, small) {
                merge(&mut merged, small);
            }
            merge(&mut merged, above.clone());
            let refuse = |reason: String| PlanError::Row { name: name.into(), row: title.clone(), reason };
            let load: Load = toml::Value::Table(merged)
                .try_into()
                .map_err(|error: toml::de::Error| refuse(error.to_string()))?;
            load.check().map_err(refuse)?;
            plan.rows.push(load);
        }
        if plan.rows.is_empty() {
            return Err(wrong(match &how.row {
                Some(wanted) if !titles.is_empty() => {
                    format!("no row has `{wanted}` in its name; it has {}", titles.join(", "))
                }
                _ => "it has no row; each is a [[row]] with a name".into(),
            }));
        }
        Ok(plan)
    }
}

/// Values of the one win; tables are merged.
fn merge(into: &mut toml::Table, from: toml::Table) {
    for (key, value) in from {
        match (into.get_mut(&key), value) {
            (Some(toml::Value::Table(below)), toml::Value::Table(above)) => merge(below, above),
            (_, value) => _ = into.insert(key, value),
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    about: String,
    rounds: Option<i64>,
    #[serde(default)]
    load: toml::Table,
    #[serde(default)]
    smoke: toml::Table,
    row: Vec<toml::Table>,
}

impl Load {
    /// How many sandboxes speak at a time.
    pub fn active(&self) -> usize {
        self.active.unwrap_or(self.sandboxes)
    }

    /// Whether bodies are what costs: below 64 KiB a request, what a byte costs is lost in what a request costs.
    pub fn is_bulk(&self) -> bool {
        self.down + self.up >= 64 << 10
    }

    fn check(&self) -> Result<(), String> {
        let within = |what: &str, value: usize, max: usize| {
            if (1..=max).contains(&value) { Ok(()) } else { Err(format!("`{what}` is from 1 to {max}")) }
        };
        within("connections", self.connections, CONNECTIONS_MAX)?;
        within("sandboxes", self.sandboxes, SANDBOXES_MAX)?;
        within("active", self.active(), self.sandboxes)?;
        within("hosts", self.hosts, HOSTS_MAX)?;
        within("streams", self.streams.unwrap_or(1), STREAMS_MAX)?;
        if self.streams.is_some() && (self.scheme == Scheme::Http || self.up > 0) {
            return Err("`streams` is for scheme = \"https\" and requests without a body".into());
        }
        if self.down.max(self.up) > BODY_BYTES_MAX {
            return Err(format!("`down` and `up` are at most {BODY_BYTES_MAX}"));
        }
        if self.past && self.sandboxes > 1 {
            return Err("`past` is for one sandbox: the origin knows none".into());
        }
        if self.rate.is_some_and(|rate| !(rate > 0.0 && rate <= 1e6)) {
            return Err("`rate` is above 0 and at most 1,000,000".into());
        }
        let times = [self.silence, self.warm_up, self.seconds, self.counted, self.moves, self.changes];
        if times.iter().any(|time| !(0.0..=1e6).contains(time)) {
            return Err("times and rates are 0 or more".into());
        }
        self.attack.as_ref().map_or(Ok(()), |attack| attack.check())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_built_in_plan_can_be_run_and_smoked() {
        for (name, _) in BUILT_IN {
            for smoke in [false, true] {
                let plan = Plan::find(name, &Reading { smoke, ..Reading::default() }).unwrap();
                assert!(!plan.about.is_empty());
                // Rows that end by their count take less.
                let by_time = plan.rows.iter().filter(|row| row.requests.is_none());
                let seconds: f64 = by_time.map(|row| row.warm_up + row.seconds + row.counted).sum();
                assert!(
                    !smoke || seconds * (plan.rounds as f64) < 10.0,
                    "{name} smokes for {seconds} seconds"
                );
            }
        }
    }

    #[test]
    fn what_is_set_wins_over_the_row_and_the_row_over_the_plan() {
        let text =
            "about = 'x'\n[load]\ndown = 1\nup = 1\n[smoke]\nseconds = 0.1\n[[row]]\nname = 'a'\nup = 2\n";
        let set = vec!["connections=7".to_owned(), "way=source".to_owned()];
        let how = Reading { smoke: true, set, row: None };
        let row = Plan::parse("p", text, &how).unwrap().rows.remove(0);
        assert_eq!((row.down, row.up, row.seconds, row.connections, row.way), (1, 2, 0.1, 7, Way::Source));
    }

    #[test]
    fn mistakes_name_the_plan_and_the_row() {
        let parse = |text: &str| Plan::parse("p", text, &Reading::default()).unwrap_err().to_string();
        assert!(parse("about = 'x'\n[[row]]\nname = 'a'\nconection = 1").contains("row `a`: unknown field"));
        assert!(parse("about = 'x'\n[[row]]\nname = 'a'\nconnections = 0").contains("from 1 to"));
        assert!(parse("about = 'x'\nrow = []").contains("it has no row"));
        let how = Reading { row: Some("64x".into()), ..Reading::default() };
        let unknown = Plan::find("keepalive", &how).unwrap_err().to_string();
        assert!(unknown.contains("`64x`") && unknown.contains("`intercepted, 64 connections`"), "{unknown}");
        assert!(
            Plan::find("nope", &Reading::default())
                .unwrap_err()
                .to_string()
                .contains("outgate-loadtest plans")
        );
    }
}
