//! Calls about handlers, secrets, planes and lock-downs.

use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use axum::body::Bytes;
use axum::extract::{Path, Query, State};
use control_wire::client_certificate::{CertificateFlaw, ClientCertificate, KeyKind, holds_key};
use control_wire::limits::{SECRET_BYTES_MAX, SECRET_HOSTS_MAX};
use control_wire::policy::{Labels, PolicyDocument};
use control_wire::row::SecretValue;
use data_encoding::{BASE64, HEXLOWER};
use rustls::InconsistentKeys;
use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::sign::CertifiedKey;
use rustls_pki_types::PrivateKeyDer;
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
use crate::link::{Core, forget, make_join_token};
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
    let Compiled { module, hash, envelope } = compile(&core, body).await?;
    let bytes = envelope.len();
    keep(&core, &hash, envelope).await?;
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

/// A module as it is published.
pub(super) struct Compiled {
    /// SHA-256 of the module, in hex.
    pub module: String,
    /// SHA-256 of the envelope, in hex.
    pub hash: String,
    /// The signed envelope.
    pub envelope: Vec<u8>,
}

/// Compiles and signs a module.
pub(super) async fn compile(core: &Arc<Core>, wasm: Bytes) -> Result<Compiled, Problem> {
    let publisher = core.publisher.clone();
    // The compiler blocks.
    let compile = move || {
        let envelope = publisher(&wasm).map_err(Problem::invalid)?;
        let (module, hash) = (HEXLOWER.encode(&sha256(&wasm)), HEXLOWER.encode(&sha256(&envelope)));
        Ok(Compiled { module, hash, envelope })
    };
    tokio::task::spawn_blocking(compile).await.map_err(|error| Problem::internal(&error))?
}

/// Keeps an envelope. It is there before the row that names it.
pub(super) async fn keep(core: &Arc<Core>, hash: &str, envelope: Vec<u8>) -> Result<(), Problem> {
    let path = core.artefacts.join(hash);
    let write = move || files::write_private(&path, &envelope);
    let written = tokio::task::spawn_blocking(write).await.map_err(|error| Problem::internal(&error))?;
    written.map_err(|error| Problem::internal(&error))
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
pub(super) struct SecretBody {
    /// Absent: the one that is there stays.
    value: Option<String>,
    hosts: Vec<String>,
    #[serde(default)]
    allow_plaintext: bool,
}

impl Drop for SecretBody {
    fn drop(&mut self) {
        self.value.zeroize();
    }
}

/// What a secret becomes, and whether its value is another one then. The same again is the same row.
pub(super) fn secret_row(
    core: &Core,
    tables: &Tables,
    name: &str,
    body: SecretBody,
) -> Result<(Secret, bool), Problem> {
    let value = body.value.as_deref().map(str::as_bytes);
    if value.is_some_and(|value| value.is_empty() || value.len() > SECRET_BYTES_MAX) {
        let problem = Problem::invalid(format!("a secret's value has 1 to {SECRET_BYTES_MAX} bytes"));
        return Err(problem.of_field("value"));
    }
    if let Some(value) = value.filter(|value| holds_key(value)) {
        client_certificate(value).map_err(|flaw| {
            let problem = Problem::invalid(format!(
                "the value holds a private key, and cannot be a client certificate: {flaw}"
            ));
            problem.of_field("value")
        })?;
    }
    if body.hosts.is_empty() || body.hosts.len() > SECRET_HOSTS_MAX {
        let problem =
            Problem::invalid("`hosts` must name the hosts that may receive the secret, at least one");
        return Err(problem.of_field("hosts"));
    }
    for (at, host) in body.hosts.iter().enumerate() {
        check_pattern("hosts", host).map_err(|problem| problem.of_field(format!("hosts[{at}]")))?;
    }
    let now = tables.secrets.get(name).map(|row| &*row.value);
    let kept = now.map(|now| open_secret(core, name, now)).transpose()?;
    let value = match (value, &kept) {
        (Some(value), _) => value,
        (None, Some(kept)) => kept.expose(),
        (None, None) => {
            return Err(Problem::conflict(format!("secret {name} does not exist yet; write its value")));
        }
    };
    let same_value = kept.as_ref().is_some_and(|kept| verify_slices_are_equal(kept.expose(), value).is_ok());
    if let Some(now) = now
        && same_value
        && (&now.hosts, now.allow_plaintext) == (&body.hosts, body.allow_plaintext)
    {
        return Ok((now.clone(), false));
    }
    let version = now.map_or(1, |now| now.version + 1);
    let sealed = core.sealer.seal(name, version, &SecretValue::new(value));
    let sealed = BASE64.encode(&sealed.map_err(|error| Problem::internal(&error))?);
    let row = Secret { version, sealed, hosts: body.hosts.clone(), allow_plaintext: body.allow_plaintext };
    Ok((row, !same_value))
}

/// Whether a value can be shown as a client certificate. A plane would find out only when a request needs it.
fn client_certificate(value: &[u8]) -> Result<(), CertificateFlaw> {
    let ClientCertificate { chain, kind, key } = ClientCertificate::read(value)?;
    let der = match kind {
        KeyKind::Pkcs1 => PrivateKeyDer::Pkcs1(key.as_slice().into()),
        KeyKind::Sec1 => PrivateKeyDer::Sec1(key.as_slice().into()),
        KeyKind::Pkcs8 => PrivateKeyDer::Pkcs8(key.as_slice().into()),
    };
    let key = any_supported_type(&der).map_err(|_| CertificateFlaw::Kind)?;
    match CertifiedKey::new(chain.into_iter().map(Into::into).collect(), key).keys_match() {
        Ok(()) | Err(rustls::Error::InconsistentKeys(InconsistentKeys::Unknown)) => Ok(()),
        Err(_) => Err(CertificateFlaw::Mismatch),
    }
}

/// Why a stored secret cannot be shown as a client certificate, where that is so.
pub(super) fn certificate_flaw(core: &Core, name: &str, row: &Secret) -> Option<CertificateFlaw> {
    // One that cannot be opened says nothing of what it holds.
    let value = open_secret(core, name, row).ok()?;
    client_certificate(value.expose()).err()
}

fn open_secret(core: &Core, name: &str, row: &Secret) -> Result<SecretValue, Problem> {
    let sealed = BASE64.decode(row.sealed.as_bytes()).map_err(|error| Problem::internal(&error))?;
    core.sealer.open(name, row.version, &sealed).map_err(|error| Problem::internal(&error))
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
    if body.value.is_none() {
        return Err(Problem::invalid("`value` is missing; write it as text"));
    }
    let sealing = core.clone();
    let decide = move |tables: &Tables| {
        let (row, _) = secret_row(&sealing, tables, &name, body)?;
        Ok(vec![Change::Secret(name, Some(row))])
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
