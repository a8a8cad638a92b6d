//! Calls about handlers, secrets, planes and lock-downs.

use std::time::Duration;

use axum::body::Bytes;
use axum::extract::{Path, Query, State};
use control_wire::limits::{SECRET_BYTES_MAX, SECRET_HOSTS_MAX};
use control_wire::policy::{Labels, PolicyDocument};
use control_wire::row::SecretValue;
use data_encoding::{BASE64, HEXLOWER};
use serde::Deserialize;
use serde_json::{Value, json};
use zeroize::{Zeroize, Zeroizing};

use super::rows::selected;
use super::{
    Answer, Problem, Shared, WaitQuery, change, check_name, check_pattern, commit, parse, rejections, shown,
    written,
};
use crate::files;
use crate::limits::{JOIN_TOKEN_TIME, LOCKDOWN_MAX};
use crate::link::{forget, make_join_token};
use crate::pki::sha256;
use crate::tables::{Change, Entry, Handler, Secret, Tables};

type Wait = Query<WaitQuery>;

fn handler_json(name: &str, row: &Entry<Handler>) -> Value {
    json!({ "name": name, "revision": row.revision, "version": row.value.version, "hash": row.value.hash,
            "module": row.value.module, "bytes": row.value.bytes })
}

pub(super) async fn list_handlers(State(core): Shared) -> Answer {
    let tables = core.store.tables();
    let items: Vec<_> = tables.handlers.iter().map(|(name, row)| handler_json(name, row)).collect();
    Ok(shown(tables.revision, &json!({ "handlers": items })))
}

/// With the planes that do not take it, so that whoever published it sees why.
pub(super) async fn get_handler(State(core): Shared, Path(name): Path<String>) -> Answer {
    let rejected = rejections(&core, &name);
    let tables = core.store.tables();
    let row = tables.handlers.get(&name).ok_or_else(|| Problem::missing("handler", &name))?;
    let mut body = handler_json(&name, row);
    body["rejected"] = json!(rejected);
    Ok(shown(row.revision, &body))
}

pub(super) async fn put_handler(
    State(core): Shared,
    Path(name): Path<String>,
    Query(query): Wait,
    body: Bytes,
) -> Answer {
    check_name("handler", &name)?;
    let module = HEXLOWER.encode(&sha256(&body));
    let publishing = core.clone();
    // Compiling and writing block. The file is there before the row that names it.
    let publish = move || {
        let envelope = (publishing.publisher)(&body).map_err(Problem::invalid)?;
        let hash = HEXLOWER.encode(&sha256(&envelope));
        files::write_private(&publishing.artefacts.join(&hash), &envelope)
            .map_err(|error| Problem::internal(&error))?;
        Ok::<_, Problem>((hash, envelope.len()))
    };
    let published = tokio::task::spawn_blocking(publish).await;
    let (hash, bytes) = published.map_err(|error| Problem::internal(&error))??;
    let handler = name.clone();
    let decide = move |tables: &Tables| {
        let now = tables.handlers.get(&handler);
        if now.is_some_and(|row| row.value.module == module && row.value.hash == hash) {
            return Ok(Vec::new());
        }
        let version = now.map_or(1, |row| row.value.version + 1);
        Ok(vec![Change::Handler(handler, Some(Handler { version, hash, bytes, module }))])
    };
    let committed = commit(&core, decide).await?;
    written(&core, &query, committed, Some(&name)).await
}

fn uses_handler(document: &PolicyDocument, name: &str) -> bool {
    let by_host = document.outbound_by_host.iter().flatten().map(|row| &row.outbound);
    document.outbound.iter().chain(by_host).any(|outbound| outbound.handler == name)
}

pub(super) async fn delete_handler(
    State(core): Shared,
    Path(name): Path<String>,
    Query(query): Wait,
) -> Answer {
    let decide = move |tables: &Tables| {
        if !tables.handlers.contains_key(&name) {
            return Err(Problem::missing("handler", &name));
        }
        if let Some((user, _)) = tables.templates.iter().find(|(_, row)| uses_handler(&row.value, &name)) {
            return Err(Problem::conflict(format!("template {user} uses it; change that first")));
        }
        if let Some((user, _)) =
            tables.sandboxes.iter().find(|(_, row)| uses_handler(&row.value.overrides, &name))
        {
            return Err(Problem::conflict(format!("sandbox {user} uses it; change that first")));
        }
        Ok(vec![Change::Handler(name, None)])
    };
    change(&core, &query, decide).await
}

/// What a caller writes of a secret. Wiped when dropped; nothing prints it.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct SecretBody {
    value: String,
    hosts: Vec<String>,
    #[serde(default)]
    allow_plaintext: bool,
}

impl Drop for SecretBody {
    fn drop(&mut self) {
        self.value.zeroize();
    }
}

fn secret_json(name: &str, row: &Entry<Secret>) -> Value {
    json!({ "name": name, "revision": row.revision, "version": row.value.version, "hosts": row.value.hosts,
            "allowPlaintext": row.value.allow_plaintext })
}

pub(super) async fn list_secrets(State(core): Shared) -> Answer {
    let tables = core.store.tables();
    let items: Vec<_> = tables.secrets.iter().map(|(name, row)| secret_json(name, row)).collect();
    Ok(shown(tables.revision, &json!({ "secrets": items })))
}

pub(super) async fn get_secret(State(core): Shared, Path(name): Path<String>) -> Answer {
    let tables = core.store.tables();
    let row = tables.secrets.get(&name).ok_or_else(|| Problem::missing("secret", &name))?;
    Ok(shown(row.revision, &secret_json(&name, row)))
}

pub(super) async fn put_secret(
    State(core): Shared,
    Path(name): Path<String>,
    Query(query): Wait,
    body: Bytes,
) -> Answer {
    check_name("secret", &name)?;
    // The reader's words could quote the value; only the shape is told.
    let body: SecretBody = parse(&body).map_err(|_| {
        Problem::invalid(
            "write {\"value\": text, \"hosts\": [pattern, …]}, optionally \"allowPlaintext\": true",
        )
    })?;
    if body.value.is_empty() || body.value.len() > SECRET_BYTES_MAX {
        return Err(Problem::invalid(format!("a secret's value has 1 to {SECRET_BYTES_MAX} bytes")));
    }
    if body.hosts.is_empty() || body.hosts.len() > SECRET_HOSTS_MAX {
        return Err(Problem::invalid(
            "`hosts` must name the hosts that may receive the secret, at least one",
        ));
    }
    for host in &body.hosts {
        check_pattern("hosts", host)?;
    }
    let value = SecretValue::new(body.value.as_bytes());
    let hosts = body.hosts.clone();
    let allow_plaintext = body.allow_plaintext;
    drop(body);
    let sealing = core.clone();
    let decide = move |tables: &Tables| {
        let version = tables.secrets.get(&name).map_or(1, |row| row.value.version + 1);
        let sealed =
            sealing.sealer.seal(&name, version, &value).map_err(|error| Problem::internal(&error))?;
        let secret = Secret { version, sealed: BASE64.encode(&sealed), hosts, allow_plaintext };
        Ok(vec![Change::Secret(name, Some(secret))])
    };
    change(&core, &query, decide).await
}

pub(super) async fn delete_secret(
    State(core): Shared,
    Path(name): Path<String>,
    Query(query): Wait,
) -> Answer {
    let decide = move |tables: &Tables| match tables.secrets.contains_key(&name) {
        true => Ok(vec![Change::Secret(name, None)]),
        false => Err(Problem::missing("secret", &name)),
    };
    change(&core, &query, decide).await
}

pub(super) async fn list_planes(State(core): Shared) -> Answer {
    let tables = core.store.tables();
    let planes = core.planes.view(&tables);
    Ok(shown(tables.revision, &json!({ "revision": tables.revision, "planes": planes })))
}

pub(super) async fn delete_plane(State(core): Shared, Path(name): Path<String>) -> Answer {
    if !forget(&core, &name).await? {
        return Err(Problem::missing("plane", &name));
    }
    Ok(shown(core.store.tables().revision, &json!({ "removed": name })))
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct TokenBody {
    ttl_seconds: Option<u32>,
}

pub(super) async fn post_join_token(State(core): Shared, body: Bytes) -> Answer {
    let body: TokenBody = if body.is_empty() { TokenBody::default() } else { parse(&body)? };
    let life = body.ttl_seconds.map_or(JOIN_TOKEN_TIME, |seconds| Duration::from_secs(seconds.into()));
    let (token, end) = make_join_token(&core, life).await.map_err(|error| Problem::internal(&error))?;
    let token: Zeroizing<String> = token;
    Ok(shown(core.store.tables().revision, &json!({ "token": *token, "expiresAt": end })))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LockdownBody {
    ids: Option<Vec<String>>,
    selector: Option<Labels>,
}

/// Denies everything for the named sandboxes, whatever their lists say, and waits until that is enforced.
pub(super) async fn post_lockdown(State(core): Shared, Query(mut query): Wait, body: Bytes) -> Answer {
    let body: LockdownBody = parse(&body)?;
    query.wait.get_or_insert_with(|| "applied".into());
    let decide = move |tables: &Tables| {
        let ids: Vec<String> = match (body.ids, body.selector) {
            (Some(ids), None) => ids,
            (None, Some(selector)) => {
                let named = tables.sandboxes.iter().filter(|(_, row)| selected(&selector, &row.value.labels));
                named.map(|(id, _)| id.clone()).collect()
            }
            _ => return Err(Problem::invalid("write either \"ids\" or \"selector\"")),
        };
        if ids.is_empty() {
            // Whoever locks down must not believe that it is done.
            return Err(Problem::missing("sandbox", "by these ids or labels; nothing is locked down"));
        }
        if ids.len() > LOCKDOWN_MAX {
            return Err(Problem::invalid(format!(
                "at most {LOCKDOWN_MAX} sandboxes are locked down by one call"
            )));
        }
        let lock_down = |id: String| {
            let row = tables.sandboxes.get(&id).ok_or_else(|| Problem::missing("sandbox", &id))?;
            let mut next = (*row.value).clone();
            // Deny wins over every list, rule and handler.
            next.overrides.denied_hosts = Some(vec!["*".into()]);
            Ok(Change::Sandbox(id, Some(next)))
        };
        ids.into_iter().map(lock_down).collect()
    };
    change(&core, &query, decide).await
}
