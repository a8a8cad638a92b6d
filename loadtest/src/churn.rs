//! Changes during load: policies, handlers and secrets of some sandboxes. After each answer *applied*, the origin is
//! told what may not come any more.

use std::{
    io,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use serde_json::json;

use crate::{
    engine::outcome::{Micros, micros, record},
    gateway::{
        Gateway,
        api::Api,
        fill::{Kind, REFUSE, secret},
    },
    limits::READY_TIME,
    names::{BARE, GROUPS, ZONE, credential},
    origin::judge::{Judge, Order},
    plan::Load,
    report::Row,
    target::Target,
};

/// Of so many sandboxes that speak, one is changed; at least one.
const OF: usize = 4;

/// Who changes, and how.
pub struct Churn {
    api: Api,
    /// Identifiers and numbers of the sandboxes that are changed.
    sandboxes: Vec<(String, u32)>,
    /// The version of each group's credential that was written last.
    versions: [u32; GROUPS as usize],
}

/// What became of the changes.
#[derive(Debug)]
pub struct Changed {
    applied: Micros,
    late: u64,
}

/// Chooses the sandboxes that are changed; their refusals are no errors.
///
/// # Errors
/// When control cannot be reached.
pub fn prepare(gateway: &Gateway, load: &Load, target: &mut Target) -> io::Result<Churn> {
    let kind = Kind { policy: load.policy, way: load.way };
    let changed = (load.active() / OF).max(1);
    let mut sandboxes = Vec::new();
    for (index, seat) in target.seats.iter_mut().enumerate().take(changed) {
        seat.is_refusable = true;
        sandboxes.push((kind.id(index), seat.sandbox));
    }
    let mut api = gateway.caller();
    // Secrets begin with the version that this run counts from, whatever a run before has left.
    for group in 0..GROUPS {
        put_secret(&mut api, group, 1)?;
    }
    Ok(Churn { api, sandboxes, versions: [1; GROUPS as usize] })
}

fn call(api: &mut Api, method: &str, path: &str, body: &serde_json::Value) -> io::Result<()> {
    let path = format!("{path}?wait=applied&timeout=20s");
    let body = if body.is_null() { String::new() } else { body.to_string() };
    api.call(method, &path, body.as_bytes()).map(drop).map_err(|error| io::Error::other(error.to_string()))
}

fn put_secret(api: &mut Api, group: u32, version: u32) -> io::Result<()> {
    let body = json!({ "value": credential(group, version), "hosts": [format!("*.{ZONE}")], "allowPlaintext": true });
    call(api, "PUT", &format!("/v1/secrets/{}", secret(group)), &body)
}

impl Churn {
    /// Changes so often in a second until it is stopped, and then puts everything back.
    ///
    /// # Errors
    /// When control refuses a change or does not answer.
    pub fn run(mut self, rate: f64, judge: &Judge, stop: &AtomicBool) -> io::Result<Changed> {
        let (began, pause) = (Instant::now(), Duration::from_secs_f64(1.0 / rate));
        let mut changed = Changed { applied: micros(), late: 0 };
        let (mut number, mut index) = (0_u32, 0);
        while !stop.load(Ordering::Relaxed) {
            let due = began + pause * number;
            if let Some(wait) = due.checked_duration_since(Instant::now()) {
                thread::park_timeout(wait.min(Duration::from_millis(50)));
                continue;
            }
            number += 1;
            let (id, sandbox) = self.sandboxes[index % self.sandboxes.len()].clone();
            // A change that could not begin in time is late, not left out.
            changed.late += u64::from(due.elapsed() > pause);
            match number % 5 {
                1 => self.deny(&id, sandbox, judge, &mut changed)?,
                2 => self.time(&mut changed, judge, Some(Order::Open(sandbox)), None, |api| {
                    call(api, "DELETE", &format!("/v1/sandboxes/{id}/deniedHosts"), &json!(null))
                })?,
                3 => self.refuse(&id, sandbox, judge, &mut changed)?,
                4 => self.time(&mut changed, judge, Some(Order::Open(sandbox)), None, |api| {
                    call(api, "DELETE", &format!("/v1/sandboxes/{id}/outbound"), &json!(null))?;
                    call(api, "DELETE", &format!("/v1/sandboxes/{id}/outboundByHost/*.{ZONE}"), &json!(null))
                })?,
                _ => {
                    index += 1;
                    self.rotate(number, judge, &mut changed)?;
                }
            }
        }
        for (id, sandbox) in self.sandboxes.clone() {
            give(judge, Order::Open(sandbox));
            // What is not set there is no error.
            let _absent =
                call(&mut self.api, "DELETE", &format!("/v1/sandboxes/{id}/deniedHosts"), &json!(null));
            let _absent =
                call(&mut self.api, "DELETE", &format!("/v1/sandboxes/{id}/outbound"), &json!(null));
            let by_host = format!("/v1/sandboxes/{id}/outboundByHost/*.{ZONE}");
            let _absent = call(&mut self.api, "DELETE", &by_host, &json!(null));
        }
        for group in 0..GROUPS {
            give(judge, Order::Least { group, version: 0 });
            put_secret(&mut self.api, group, 0)?;
        }
        Ok(changed)
    }

    fn deny(&mut self, id: &str, sandbox: u32, judge: &Judge, changed: &mut Changed) -> io::Result<()> {
        self.time(changed, judge, None, Some(Order::Close(sandbox)), |api| {
            let hosts = json!([format!("*.{ZONE}"), BARE]);
            call(api, "PUT", &format!("/v1/sandboxes/{id}/deniedHosts"), &hosts)
        })
    }

    fn refuse(&mut self, id: &str, sandbox: u32, judge: &Judge, changed: &mut Changed) -> io::Result<()> {
        self.time(changed, judge, None, Some(Order::Close(sandbox)), |api| {
            let outbound = json!({ "handler": REFUSE });
            call(api, "PUT", &format!("/v1/sandboxes/{id}/outboundByHost/*.{ZONE}"), &outbound)?;
            call(api, "PUT", &format!("/v1/sandboxes/{id}/outbound"), &outbound)
        })
    }

    fn rotate(&mut self, number: u32, judge: &Judge, changed: &mut Changed) -> io::Result<()> {
        let group = number / 5 % GROUPS;
        let version = &mut self.versions[group as usize];
        *version += 1;
        let version = *version;
        self.time(changed, judge, None, Some(Order::Least { group, version }), |api| {
            put_secret(api, group, version)
        })
    }

    /// Makes a change: what it allows is allowed before it, what it forbids is forbidden after it was applied.
    fn time(
        &mut self,
        changed: &mut Changed,
        judge: &Judge,
        before: Option<Order>,
        after: Option<Order>,
        change: impl FnOnce(&mut Api) -> io::Result<()>,
    ) -> io::Result<()> {
        if let Some(order) = before {
            give(judge, order);
        }
        let began = Instant::now();
        change(&mut self.api)?;
        record(&mut changed.applied, began.elapsed());
        if let Some(order) = after {
            // Nobody waits: the order holds from when the origin has read what came before.
            let _held = judge.order(order);
        }
        Ok(())
    }
}

/// Gives an order and waits until it holds.
fn give(judge: &Judge, order: Order) {
    let _held = judge.order(order).recv_timeout(READY_TIME);
}

impl Changed {
    /// Adds what was found to a row.
    pub fn into_row(self, row: &mut Row) {
        let mut figure = |name: &str, value: f64| _ = row.figures.insert(name.to_owned(), value);
        figure("changes", self.applied.len() as f64);
        figure("changesLate", self.late as f64);
        figure("appliedP50Micros", self.applied.value_at_quantile(0.5) as f64);
        figure("appliedP99Micros", self.applied.value_at_quantile(0.99) as f64);
        row.fault("noChangeWasApplied", u64::from(self.applied.is_empty()));
    }
}
