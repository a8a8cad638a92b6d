//! The steps of the demo: each does something for real, measures it, says it in a line, and fails when it is not so.

use std::path::PathBuf;
use std::time::Instant;

use serde_json::{Value, json};

use super::driver::Sandbox;
use super::origin::Origin;
use super::report::{Report, count, number, time};
use super::stage::Stage;
use super::word::{Found, Got, Masked, Road, Wanted};
use crate::serve::Fault;

/// The host that is allowed; the demo's own server plays it.
pub const ALLOWED: &str = "api.github.com";
/// The host that is not on the list. It leads to the same server, which would notice.
pub const DENIED: &str = "exfiltrate.example";
/// The sandbox.
const SANDBOX: &str = "agent";
/// The secret, and the handler that asks for it.
const SECRET: &str = "github";

/// All that the steps share.
pub struct Demo {
    /// Where it is told.
    pub report: Report,
    /// Control and plane.
    pub stage: Stage,
    /// The other end.
    pub origin: Origin,
    /// The sandbox.
    pub sandbox: Sandbox,
    /// The credential that the sandbox must never see.
    pub credential: String,
    /// A text of the same kind that it may see.
    pub planted: String,
}

/// Fails with a sentence unless something holds.
pub fn hold(holds: bool, otherwise: impl FnOnce() -> String) -> Result<(), Fault> {
    if holds { Ok(()) } else { Err(otherwise().into()) }
}

/// A text that looks like a token.
pub fn token() -> Result<String, Fault> {
    let mut random = [0; 18];
    aws_lc_rs::rand::fill(&mut random).map_err(|_| "the system gives no random bytes")?;
    Ok(format!("ghp_{}", data_encoding::HEXLOWER.encode(&random)))
}

impl Demo {
    /// A request of the sandbox to the server.
    fn ask(&mut self, method: &str, host: &str, path: &str, body: &str) -> Result<Got, Fault> {
        let (method, path, body) = (method.to_owned(), path.to_owned(), body.to_owned());
        let port = self.origin.address.port();
        self.sandbox.send(Wanted { method, tls: true, host: host.to_owned(), port, path, body })
    }

    /// Publishes handlers, writes the secret and the policy, makes the sandbox and puts it behind the plane.
    pub fn set_up(&mut self, handlers: &[(String, PathBuf)]) -> Result<(), Fault> {
        let started = Instant::now();
        for (name, module) in handlers {
            let module = std::fs::read(module)?;
            self.stage.call("PUT", &format!("/v1/handlers/{name}"), module)?;
        }
        let published = started.elapsed();
        let secret = json!({ "value": self.credential, "hosts": [ALLOWED] });
        self.stage.call("PUT", &format!("/v1/secrets/{SECRET}"), secret.to_string())?;
        let template = json!({
            "allowedHosts": [ALLOWED],
            "allowedAddresses": [{ "host": ALLOWED, "cidrs": ["127.0.0.0/8"] }],
            "outbound": { "handler": "inject_token" },
        });
        self.stage.call("PUT", "/v1/templates/agents", template.to_string())?;
        let sandbox = json!({ "template": "agents" });
        self.stage.call("PUT", &format!("/v1/sandboxes/{SANDBOX}?wait=applied"), sandbox.to_string())?;

        let names: Vec<_> = handlers.iter().map(|(name, _)| name.as_str()).collect();
        let (ready, took) = (time(self.stage.ready_micros), time(u64::try_from(published.as_micros())?));
        self.report.step("started", &format!("control and plane ready in {ready}"));
        let names = names.join(" and ");
        self.report.fact(&format!("handlers {names} compiled, signed and published in {took}"));
        let rooms = self.sandbox.open(1, self.origin.address.port())?;
        let road = attach_all(&mut self.stage, &[SANDBOX.to_owned()], rooms)?;
        self.sandbox.trust(road)?;
        let port = self.origin.address.port();
        match &self.sandbox.apart.refused {
            None => {
                let took = time(self.sandbox.apart.micros);
                self.report.fact(&format!(
                    "sandbox with user, network, mount and process namespaces of its own, made in {took}"
                ));
                self.report.fact(&format!(
                    "its DNS and ports 80, 443 and {port} of every address lead to the plane; others are closed"
                ));
            }
            Some(why) => self.report.fact(&format!(
                "no namespaces for the sandbox: the kernel or the container refuses them to this user ({why}). It is a \
                 plain process here, which goes by the plane's explicit proxy of its own will"
            )),
        }
        Ok(())
    }

    /// An allowed request, and another on its connection.
    pub fn allowed(&mut self) -> Result<(), Fault> {
        let first = self.ask("GET", ALLOWED, "/user", "")?;
        let again = self.ask("GET", ALLOWED, "/user", "")?;
        for got in [&first, &again] {
            hold(got.status == 200, || format!("{ALLOWED} answered {}: {}", got.status, got.body))?;
        }
        hold(again.opened_micros.is_none(), || "the second request needed a connection of its own".into())?;
        let (port, opened) = (self.origin.address.port(), time(first.opened_micros.unwrap_or_default()));
        let (first, again) = (time(first.micros), time(again.micros));
        self.report.step("1 allowed", &format!("GET https://{ALLOWED}:{port}/user → 200 in {first}"));
        self.report.fact(&format!("the next request on that connection → 200 in {again}"));
        self.report.fact(&format!(
            "before them {opened} for name, connection and TLS, opened with this sandbox's own authority"
        ));
        Ok(())
    }

    /// A request to a host that is not on the list; the host's server must not notice.
    pub fn denied(&mut self) -> Result<(), Fault> {
        let before = self.origin.connections();
        let got = self.ask("GET", DENIED, "/", "")?;
        let after = self.origin.connections();
        let problem: Value = serde_json::from_str(&got.body).unwrap_or_default();
        let text = |field: &str| problem[field].as_str().unwrap_or("?").to_owned();
        hold(got.status == 403 && problem["code"] == "host_not_allowed", || {
            format!("{DENIED} was not refused but answered {}: {}", got.status, got.body)
        })?;
        hold(before == after, || format!("{DENIED} saw a connection"))?;
        let port = self.origin.address.port();
        let micros = time(got.opened_micros.unwrap_or_default() + got.micros);
        self.report
            .step("2 denied", &format!("GET https://{DENIED}:{port}/ → 403 in {micros}, told inside TLS"));
        self.report.fact(&format!("rule    {}", text("rule")));
        self.report.fact(&format!("reason  {}", text("detail")));
        self.report.fact(&format!("remedy  {}", text("remedy")));
        self.report.fact("server  saw no connection");
        Ok(())
    }

    /// The credential arrives, and is nowhere in the sandbox, where a look-alike is found everywhere.
    pub fn credential(&mut self) -> Result<(), Fault> {
        let seen = self.origin.seen();
        let wanted = format!("Bearer {}", self.credential);
        let carried = seen.iter().filter(|seen| seen.authorization.as_deref() == Some(&*wanted)).count();
        hold(carried == seen.len() && carried > 0, || {
            format!("{carried} of {} requests carried the credential", seen.len())
        })?;
        let planted = self.planted.clone();
        self.sandbox.plant(&planted)?;
        let echoed = self.ask("POST", ALLOWED, "/echo", &planted)?;
        hold(echoed.body == planted, || "the server did not echo".into())?;
        // A path is written into the record; so the records hold the look-alike too.
        self.ask("GET", ALLOWED, &format!("/{planted}"), "")?;

        let needles = vec![masked(&planted)?, masked(&self.credential)?];
        let found = self.sandbox.search(needles)?;
        let blind: Vec<_> =
            found.places.iter().filter(|place| place.hits[0] == 0).map(|place| &*place.name).collect();
        hold(blind.is_empty(), || format!("the planted look-alike was not found in: {}", blind.join(", ")))?;
        let leaks: usize = found.places.iter().map(|place| place.hits[1]).sum();
        hold(leaks == 0, || format!("the credential is in the sandbox: {}", places(&found)))?;
        let outside = self.outside()?;

        let shown: String = self.credential.chars().take(6).collect();
        self.report.step(
            "3 credential",
            &format!("{ALLOWED} got \"Bearer {shown}…\" in {carried} of {carried} requests, by handler inject_token"),
        );
        let took = time(found.micros);
        self.report.fact(&format!("a program in the sandbox searched, in {took}: {}", places(&found)));
        if !self.sandbox.is_apart() {
            self.report.fact(
                "(its own process and folder only: without namespaces others of its user are open to it)",
            );
        }
        let kinds = found.places.len();
        self.report.fact(&format!(
            "a look-alike, planted there: found in {kinds} of {kinds}; the credential: in 0 of {kinds}"
        ));
        self.report.fact(&outside);
        Ok(())
    }

    /// Nor do records, logs and answers of the API hold the credential. Answers the sentence that says so.
    fn outside(&mut self) -> Result<String, Fault> {
        for path in [format!("/v1/secrets/{SECRET}"), format!("/v1/sandboxes/{SANDBOX}")] {
            self.stage.call("GET", &path, "")?;
        }
        let records = self.wait_for_record(&self.planted)?;
        let log = self.stage.log()?;
        let api = String::from_utf8_lossy(&self.stage.answers);
        for (name, text) in [("records", &*records), ("logs", &*log), ("answers of the API", &*api)] {
            hold(!text.contains(&self.credential), || format!("the credential is in the {name}"))?;
        }
        let sizes = [&*records, &*log, &*api].map(|text| bytes(text.len() as u64));
        let [records, log, api] = sizes;
        Ok(format!("nor in records ({records}, the look-alike is there), logs ({log}), API answers ({api})"))
    }

    /// Records are written behind the answers; waits until one holds a text.
    fn wait_for_record(&self, text: &str) -> Result<String, Fault> {
        super::until(|| {
            let records = self.stage.records()?;
            Ok(records.contains(text).then_some(records))
        })
    }

    /// Another handler between two requests of one connection.
    pub fn swap(&mut self) -> Result<(), Fault> {
        const PATH: &str = "/repos/octocat/production";
        let before = self.ask("DELETE", ALLOWED, PATH, "")?;
        hold(before.status == 200, || format!("DELETE was answered {}: {}", before.status, before.body))?;
        let started = Instant::now();
        let outbound = json!({ "handler": "get_only" }).to_string();
        self.stage.call("PUT", &format!("/v1/sandboxes/{SANDBOX}/outbound?wait=applied"), outbound)?;
        let swapped = time(u64::try_from(started.elapsed().as_micros())?);
        let seen = self.origin.seen().len();
        let after = self.ask("DELETE", ALLOWED, PATH, "")?;
        let problem: Value = serde_json::from_str(&after.body).unwrap_or_default();
        hold(after.status == 405, || format!("DELETE was answered {}: {}", after.status, after.body))?;
        hold(self.origin.seen().len() == seen, || format!("{ALLOWED} saw the refused request"))?;
        let read = self.ask("GET", ALLOWED, "/user", "")?;
        let last = self.origin.seen().pop();
        hold(read.status == 200, || format!("GET was answered {}: {}", read.status, read.body))?;
        hold(last.is_some_and(|seen| seen.authorization.is_none()), || {
            "the old handler still attached the credential".into()
        })?;
        for (what, got) in [("before the swap", &before), ("after the swap", &after), ("GET", &read)] {
            hold(got.opened_micros.is_none(), || format!("the request ({what}) needed another connection"))?;
        }
        let took = time(before.micros);
        self.report.step("4 swap", &format!("DELETE {PATH} by inject_token → 200 in {took}"));
        self.report.fact(&format!("inject_token → get_only: enforced {swapped} after the call"));
        let (detail, took) = (problem["detail"].as_str().unwrap_or_default(), time(after.micros));
        self.report
            .fact(&format!("the same DELETE → 405 in {took} ({detail}); the server saw nothing of it"));
        self.report.fact("all of it on the TLS connection that step 1 opened");
        Ok(())
    }

    /// What was remembered of all this.
    pub fn records(&mut self, streams: usize) -> Result<(), Fault> {
        let wanted = self.origin.seen().len();
        let records: Vec<Value> = super::until(|| {
            let text = self.stage.records()?;
            let records: Vec<Value> = text.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
            let forwarded = |record: &&Value| record["verdict"] == "allowed" || record["verdict"] == "cut";
            Ok((records.iter().filter(forwarded).count() >= wanted).then_some(records))
        })?;
        let with = |verdict: &str| records.iter().filter(|record| record["verdict"] == verdict).count();
        let (allowed, refused, cut) = (with("allowed"), with("refused"), with("cut"));
        hold(cut == streams, || format!("{cut} of {streams} streams were recorded as cut"))?;
        hold(refused == 2, || {
            format!("{refused} requests were recorded as refused, not the 2 of steps 2 and 4")
        })?;
        let own = records.len() - allowed - refused - cut;
        self.report.step(
            "6 records",
            &format!(
                "{} lines of JSON: {allowed} allowed, {refused} refused, {cut} cut, {own} answered by the plane itself",
                number(records.len() as u64)
            ),
        );
        for verdict in ["allowed", "refused", "cut"] {
            let record = records.iter().find(|record| record["verdict"] == verdict).unwrap_or(&Value::Null);
            self.report.verbatim(&row(record));
        }
        Ok(())
    }
}

/// Attaches sandboxes, each at its room, and answers the road that leads out of them.
pub fn attach_all(
    stage: &mut Stage,
    names: &[String],
    mut rooms: Vec<super::driver::Listeners>,
) -> Result<Road, Fault> {
    let captured = !rooms.is_empty();
    rooms.resize_with(names.len(), Vec::new);
    let mut credentials = Vec::new();
    for (name, listeners) in names.iter().zip(&rooms) {
        let password = stage.attach(name, listeners)?;
        credentials.extend(password.map(|password| (name.clone(), password.expose().to_owned())));
    }
    if captured { Ok(Road::Captured) } else { Ok(Road::Proxy { address: stage.proxy, credentials }) }
}

fn masked(text: &str) -> Result<Masked, Fault> {
    let mut pad = vec![0; text.len()];
    aws_lc_rs::rand::fill(&mut pad).map_err(|_| "the system gives no random bytes")?;
    Ok(Masked::new(text, pad))
}

/// What was searched.
fn places(found: &Found) -> String {
    let told = |place: &super::word::Place| match &*place.name {
        "files" => count(place.count as u64, "file"),
        "memory" => format!("memory ({}) of {}", bytes(place.bytes), count(place.count as u64, "process")),
        "answers" => format!("{} of answers and refusals", bytes(place.bytes)),
        name => name.to_owned(),
    };
    found.places.iter().map(told).collect::<Vec<_>>().join(", ")
}

/// Bytes with the unit that reads best.
pub fn bytes(value: u64) -> String {
    match value {
        0..10_000 => format!("{} B", number(value)),
        10_000..10_000_000 => format!("{} KB", number(value / 1_000)),
        _ => format!("{} MB", number(value / 1_000_000)),
    }
}

/// A record in columns.
fn row(record: &Value) -> String {
    let text = |field: &str| record[field].as_str().unwrap_or_default().to_owned();
    let what = format!("{} {}{}", text("method"), text("host"), text("path"));
    let rest = [text("code"), text("rule"), text("handler")].into_iter().filter(|text| !text.is_empty());
    let rest = rest.collect::<Vec<_>>().join("  ");
    format!("{:<9}  {what:<29}  {:<7}  {rest}", text("sandbox"), text("verdict"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_differ_and_have_one_length() {
        let (one, other) = (token().unwrap(), token().unwrap());
        assert!(one != other && one.len() == other.len() && one.starts_with("ghp_"));
        assert_eq!(masked(&one).unwrap().count(format!("x{one}{other}").as_bytes()), 1);
    }

    #[test]
    fn a_record_is_a_row_without_what_is_null() {
        let record = json!({ "sandbox": "a", "method": "GET", "host": "b.example", "path": "/c", "rule": null,
            "verdict": "allowed", "handler": "h", "unixMs": 1 });
        assert_eq!(row(&record), format!("a          {:<29}  allowed  h", "GET b.example/c"));
        assert_eq!([12, 9_999, 10_500, 23_400_000].map(bytes), ["12 B", "9,999 B", "10 KB", "23 MB"]);
    }
}
