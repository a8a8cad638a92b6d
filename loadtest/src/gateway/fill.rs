//! What the gateway is told before a plan: secrets, handlers, templates, sandboxes, and where each sandbox is.

use std::{io, net::SocketAddr, os::fd::AsFd, sync::Arc};

use data_encoding::BASE64;
use serde_json::{Value, json};

use super::{
    api::{Api, ApiError},
    attach::Attach,
};
use crate::{
    limits::FILL_ROWS,
    names::{BARE, GROUPS, ZONE, credential},
    origin::{LEGS, Origin},
    plan::{Policy, Way},
    sockets,
    target::{Greeting, Seat, source_of},
};

/// Sandboxes of one kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kind {
    /// What puts their credential on.
    pub policy: Policy,
    /// How their connections say whose they are.
    pub way: Way,
}

impl Kind {
    /// The number of its first sandbox: kinds have numbers of their own. A multiple of the number of groups.
    fn first(self) -> u32 {
        (self.policy as u32 * 3 + self.way as u32) * 400_000
    }

    /// The identifier of its sandbox of this index.
    pub fn id(self, index: usize) -> String {
        let way = ["p", "s", "l"][self.way as usize];
        let policy = ["rule", "handler", "loops"][self.policy as usize];
        format!("{policy}-{way}{index}")
    }
}

/// The name of a group's secret.
pub fn secret(group: u32) -> String {
    format!("token-{group}")
}

/// The handler that refuses everything.
pub const REFUSE: &str = "refuse";

fn wasm(name: &str, text: &str) -> Result<Value, io::Error> {
    let module =
        wat::parse_str(text).map_err(|error| io::Error::other(format!("handlers/{name}.wat: {error}")))?;
    Ok(json!({ "wasm": BASE64.encode(&module) }))
}

/// Where the list of actions lies in a handler's memory, in the upper half of what it answers.
const LIST_AT: u64 = 4096;

/// Handlers by their names.
fn handlers() -> io::Result<Value> {
    let mut all = json!({});
    for group in 0..GROUPS {
        let name = secret(group);
        let value = "Bearer ".len() + 1 + name.len();
        let list = 8 + "authorization".len() + value;
        let text = include_str!("../../handlers/inject.wat")
            .replace("LENGTH", &format!("\\{value:02x}"))
            .replace("SECRET", &name)
            .replace("ANSWER", &((LIST_AT << 32) | list as u64).to_string());
        // The comment at the top names the same words; it is part of no module.
        all[format!("inject-{group}")] = wasm("inject", &text)?;
    }
    all["loops"] = wasm("loops", include_str!("../../handlers/loops.wat"))?;
    all[REFUSE] = wasm(REFUSE, include_str!("../../handlers/refuse.wat"))?;
    Ok(all)
}

/// The policy of a kind's sandboxes of one group.
fn template(policy: Policy, group: u32) -> Value {
    let zone = format!("*.{ZONE}");
    let addresses: Vec<Value> =
        [zone.as_str(), BARE].map(|host| json!({ "host": host, "cidrs": ["127.0.0.0/8"] })).into();
    let mut document = json!({ "allowedHosts": [zone, BARE], "allowedAddresses": addresses });
    match policy {
        Policy::Rule => {
            document["rules"] =
                json!([{ "host": zone, "actions": [{ "bearer": { "secret": secret(group) } }] }]);
        }
        Policy::Handler | Policy::Loops => {
            let handler =
                if policy == Policy::Loops { "loops".to_owned() } else { format!("inject-{group}") };
            document["outboundByHost"] = json!([{ "host": zone, "handler": handler }]);
        }
    }
    document
}

/// Tells control everything that all kinds share.
///
/// # Errors
/// What control says.
pub fn basics(api: &mut Api) -> io::Result<()> {
    let refused = |error: ApiError| io::Error::other(error.to_string());
    let (mut secrets, mut templates) = (json!({}), json!({}));
    for group in 0..GROUPS {
        secrets[secret(group)] =
            json!({ "value": credential(group, 0), "hosts": [format!("*.{ZONE}")], "allowPlaintext": true });
        for policy in [Policy::Rule, Policy::Handler, Policy::Loops] {
            templates[format!("{}-{group}", policy as u32)] = template(policy, group);
        }
    }
    let body = json!({ "secrets": secrets, "templates": templates, "handlers": handlers()? });
    api.call("POST", "/v1/apply?wait=applied&timeout=60s", body.to_string().as_bytes()).map_err(refused)?;
    Ok(())
}

/// Registers so many sandboxes of a kind.
///
/// # Errors
/// What control says.
pub fn register(api: &mut Api, kind: Kind, count: usize, progress: &dyn Fn(usize)) -> io::Result<()> {
    let refused = |error: ApiError| io::Error::other(error.to_string());
    for begin in (0..count).step_by(FILL_ROWS) {
        let end = (begin + FILL_ROWS).min(count);
        let sandboxes: serde_json::Map<String, Value> = (begin..end)
            .map(|index| {
                let group = (kind.first() + index as u32) % GROUPS;
                (kind.id(index), json!({ "template": format!("{}-{group}", kind.policy as u32) }))
            })
            .collect();
        let body = json!({ "sandboxes": sandboxes }).to_string();
        api.call("POST", "/v1/apply?wait=applied&timeout=60s", body.as_bytes()).map_err(refused)?;
        progress(end);
    }
    Ok(())
}

/// Where sandboxes meet a plane.
pub struct Places<'a> {
    /// Address of the explicit proxy.
    pub proxy: SocketAddr,
    /// The origin, whose ports captured connections go to.
    pub origin: &'a Origin,
}

/// Any address that is not the origin's: connections to it are captured.
const ELSEWHERE: [u8; 4] = [127, 127, 0, 1];

/// Attaches the first so many sandboxes of a kind, and answers how each speaks.
///
/// # Errors
/// What the plane or control says.
pub fn attach(
    api: &mut Api,
    attach: &mut Attach,
    places: &Places<'_>,
    kind: Kind,
    count: usize,
) -> io::Result<Vec<Seat>> {
    if kind.way == Way::Source {
        for (leg, port) in LEGS.iter().zip(places.origin.ports) {
            let listener = sockets::listen(SocketAddr::from(([0, 0, 0, 0], port)))?;
            attach.share(&format!("captured-{}", *leg as usize), listener.as_fd())?;
        }
    }
    let mut seats = Vec::with_capacity(count);
    for index in 0..count {
        let (id, sandbox) = (kind.id(index), kind.first() + index as u32);
        let (doors, source, greeting) = match kind.way {
            Way::Proxy => {
                let password = format!("the-password-of-{id}");
                attach.by_password(&id, &password)?;
                let value = format!("Basic {}", BASE64.encode(format!("{id}:{password}").as_bytes()));
                ([places.proxy; 3], None, Greeting::Proxy(Some(value)))
            }
            Way::Source => {
                let source = source_of(sandbox);
                attach.by_source(&id, source)?;
                (
                    places.origin.ports.map(|port| SocketAddr::from((ELSEWHERE, port))),
                    Some(source),
                    Greeting::None,
                )
            }
            Way::Listener => {
                let listener = sockets::listen("127.0.0.1:0".parse().map_err(io::Error::other)?)?;
                attach.by_listener(&id, listener.as_fd())?;
                ([listener.local_addr()?; 3], None, Greeting::Proxy(None))
            }
        };
        let roots: Arc<str> = String::from_utf8_lossy(&authority(api, &id)?).into();
        seats.push(Seat { sandbox, doors, source, greeting, roots, is_refusable: false });
    }
    Ok(seats)
}

/// The certificate of a sandbox's authority, as soon as the plane has made it.
fn authority(api: &mut Api, id: &str) -> io::Result<Vec<u8>> {
    let patience = std::time::Instant::now() + crate::limits::READY_TIME;
    loop {
        match api.bytes("GET", &format!("/v1/sandboxes/{id}/ca.pem"), b"") {
            Ok(pem) => return Ok(pem),
            Err(ApiError::Refused { .. }) if std::time::Instant::now() < patience => {
                std::thread::park_timeout(std::time::Duration::from_millis(5));
            }
            Err(error) => return Err(io::Error::other(error.to_string())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn handlers_are_modules_and_name_what_they_ask_for() {
        let all = handlers().unwrap();
        assert_eq!(all.as_object().unwrap().len(), GROUPS as usize + 2);
        let module = BASE64.decode(all["inject-3"]["wasm"].as_str().unwrap().as_bytes()).unwrap();
        let list = b"\x02\x00\x0d\x00\x0f\x00\x00\x00authorizationBearer \x00token-3";
        assert!(module.windows(list.len()).any(|bytes| bytes == list));
    }

    #[test]
    fn sandboxes_of_all_kinds_have_numbers_of_their_own() {
        let mut seen = std::collections::HashSet::new();
        for policy in [Policy::Rule, Policy::Handler, Policy::Loops] {
            for way in [Way::Proxy, Way::Source, Way::Listener] {
                let first = Kind { policy, way }.first();
                assert!(first.is_multiple_of(GROUPS));
                assert!((0..200_000).all(|index| seen.insert(first + index)));
            }
        }
    }
}
