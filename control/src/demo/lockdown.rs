//! Step five: sandboxes that stream, and one call that cuts them all.

use std::time::Instant;

use serde_json::json;

use super::driver::Sandbox;
use super::origin::monotonic_nanos;
use super::report::{number, time};
use super::steps::{Demo, attach_all, hold};
use super::word::Ask;
use crate::serve::Fault;

/// Sandboxes that stream.
pub const FLEET: usize = 100;
/// Their host.
pub const STREAMED: &str = "downloads.example";
/// How long the streams run before the call.
const RUN_MILLIS: u64 = 500;
/// How long they are watched afterwards. The server goes on writing all that time.
const WATCH_MILLIS: u64 = 1_000;

impl Demo {
    /// Cuts the fleet.
    pub fn lock_down(&mut self) -> Result<(), Fault> {
        let template = json!({
            "allowedHosts": [STREAMED],
            "allowedAddresses": [{ "host": STREAMED, "cidrs": ["127.0.0.0/8"] }],
        });
        self.stage.call("PUT", "/v1/templates/fleet", template.to_string())?;
        let names: Vec<String> = (0..FLEET).map(|number| format!("fleet-{number:03}")).collect();
        let row = json!({ "template": "fleet", "labels": { "role": "fleet" } }).to_string();
        for (at, name) in names.iter().enumerate() {
            // Revisions are applied in their order: the last one stands for all.
            let wait = if at + 1 == FLEET { "?wait=applied" } else { "" };
            self.stage.call("PUT", &format!("/v1/sandboxes/{name}{wait}"), row.clone())?;
        }
        let started = Instant::now();
        let mut fleet = Sandbox::start("")?;
        let port = self.origin.address.port();
        let rooms = fleet.open(FLEET, port)?;
        let road = attach_all(&mut self.stage, &names, rooms)?;
        fleet.trust(road)?;
        let running = fleet.streams(&Ask::Stream { host: STREAMED.to_owned(), port })?;
        let opened = time(u64::try_from(started.elapsed().as_micros())?);
        hold(running.count == FLEET, || format!("{} of {FLEET} streams run", running.count))?;
        fleet.streams(&Ask::Settle { millis: RUN_MILLIS })?;

        let called = monotonic_nanos();
        let body = json!({ "selector": { "role": "fleet" } }).to_string();
        let answer = self.stage.call("POST", "/v1/lockdown", body)?;
        let applied = monotonic_nanos();
        fleet.streams(&Ask::Mark)?;
        hold(answer["applied"] == true, || format!("the lock-down was not applied: {answer}"))?;
        let settled = fleet.streams(&Ask::Settle { millis: WATCH_MILLIS })?;
        hold(settled.after == 0, || format!("{} bytes came after *applied*", settled.after))?;
        hold(settled.newest_stamp < applied, || "a line that was written after *applied* came".into())?;
        hold(settled.reset == FLEET, || format!("{} of {FLEET} streams were reset", settled.reset))?;

        let apart = "in a network namespace of its own";
        let homes = if fleet.is_apart() { apart } else { "with credentials of its own for the proxy" };
        self.report.step(
            "5 lock-down",
            &format!("{FLEET} sandboxes, each {homes}, stream over TLS; set up in {opened}"),
        );
        let (cut, reset) = (time((applied - called) / 1_000), settled.reset);
        self.report
            .fact(&format!("one call cuts all: *applied* after {cut}, {reset} of {FLEET} connections reset"));
        let handed = number(settled.handed);
        self.report.fact(&format!(
            "bytes handed to their sockets before *applied*: {handed}; after: {}",
            settled.after
        ));
        let newest = time((applied - settled.newest_stamp) / 1_000);
        self.report
            .fact(&format!("the newest byte that came was written by the server {newest} before *applied*"));
        Ok(())
    }
}
