//! `POST /v1/apply`: many rows become one revision, or none does. `POST /v1/diff` says what it would change.
//! `GET /v1/state` gives everything in the same shape.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, OnceLock};

use axum::body::Bytes;
use axum::extract::{Query, State};
use axum::response::IntoResponse;
use axum::{Json, response::Response};
use control_wire::policy::{PolicyDocument, RuleAction};
use data_encoding::BASE64;
use serde::{Deserialize, Deserializer, de::Error as _};
use serde_json::{Value, json};

use super::fleet::{Compiled, SecretBody, certificate_flaw, compile, keep, secret_row};
use super::rows::{SandboxBody, sandbox_row};
use super::{
    Answer, Problem, Shared, WaitQuery, check_document, check_name, commit, outcome, parse_object, shown,
    with_etag,
};
use crate::limits::APPLY_ROWS_MAX;
use crate::link::Core;
use crate::tables::{Change, Entry, Handler, Key, Kind, Tables};

/// Everything that one call sets. What it does not name stays as it is.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "an object of templates, sandboxes, handlers and secrets")]
struct ApplyBody {
    handlers: BTreeMap<String, ModuleBody>,
    #[serde(deserialize_with = "hushed")]
    secrets: BTreeMap<String, SecretBody>,
    templates: BTreeMap<String, PolicyDocument>,
    sandboxes: BTreeMap<String, SandboxBody>,
}

/// A module to be published, or the hash of the one that is expected to be.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "{\"wasm\": base64} or {\"module\": hash}")]
struct ModuleBody {
    wasm: Option<String>,
    module: Option<String>,
}

/// The reader's words could quote a value; only the shape is told.
fn hushed<'de, D: Deserializer<'de>>(reader: D) -> Result<BTreeMap<String, SecretBody>, D::Error> {
    BTreeMap::deserialize(reader).map_err(|_| {
        D::Error::custom(
            "write name: {\"value\": text, \"hosts\": [pattern, …]}, optionally \"allowPlaintext\": true",
        )
    })
}

/// The parts of a call after what takes long: modules are compiled.
struct Prepared {
    handlers: BTreeMap<String, Module>,
    secrets: BTreeMap<String, SecretBody>,
    templates: BTreeMap<String, PolicyDocument>,
    sandboxes: BTreeMap<String, SandboxBody>,
    /// Envelopes by their hashes, to be kept before rows name them.
    envelopes: Vec<(String, Vec<u8>)>,
}

enum Module {
    Compiled { module: String, hash: String, bytes: usize },
    Expected(String),
}

/// Changes that were asked for, what they do, and what the operator may not have meant.
struct Plan {
    changes: Vec<Change>,
    told: Vec<Value>,
    warnings: Vec<String>,
}

pub(super) async fn get_state(State(core): Shared) -> Answer {
    let tables = core.store.tables();
    let rows = |kind: Kind| -> serde_json::Map<String, Value> {
        let keys = tables.keys().into_iter().filter(|key| key.kind == kind);
        keys.map(|key| (key.name.clone(), face(&standing(&tables, key)))).collect()
    };
    let body = json!({ "templates": rows(Kind::Template), "sandboxes": rows(Kind::Sandbox),
                       "handlers": rows(Kind::Handler), "secrets": rows(Kind::Secret) });
    Ok(shown(tables.revision, &body))
}

pub(super) async fn post_diff(State(core): Shared, body: Bytes) -> Answer {
    let prepared = prepare(&core, &body).await?;
    let tables = core.store.tables();
    let plan = plan(&core, prepared, &tables)?;
    Ok(shown(tables.revision, &json!({ "changes": plan.told, "warnings": plan.warnings })))
}

pub(super) async fn post_apply(
    State(core): Shared,
    Query(query): Query<WaitQuery>,
    body: Bytes,
) -> Result<Response, Problem> {
    let mut prepared = prepare(&core, &body).await?;
    for (hash, envelope) in std::mem::take(&mut prepared.envelopes) {
        keep(&core, &hash, envelope).await?;
    }
    let handlers: Vec<String> = prepared.handlers.keys().cloned().collect();
    let told = Arc::new(OnceLock::new());
    let (noted, deciding) = (told.clone(), core.clone());
    let decide = move |tables: &Tables| {
        let plan = plan(&deciding, prepared, tables)?;
        let _first = noted.set((plan.told, plan.warnings));
        Ok(plan.changes)
    };
    let (revision, fence) = commit(&core, decide).await?;
    let (status, mut answer) = outcome(&core, &query, (revision, fence), &handlers).await?;
    let (changes, warnings) = told.get().cloned().unwrap_or_default();
    (answer["changes"], answer["warnings"]) = (changes.into(), warnings.into());
    Ok(with_etag((status, Json(answer)).into_response(), revision))
}

async fn prepare(core: &Arc<Core>, body: &Bytes) -> Result<Prepared, Problem> {
    let body: ApplyBody = parse_object(body)?;
    let rows = body.handlers.len() + body.secrets.len() + body.templates.len() + body.sandboxes.len();
    if rows > APPLY_ROWS_MAX {
        return Err(Problem::invalid(format!(
            "{rows} rows are more than the {APPLY_ROWS_MAX} of one call; apply them in parts, templates first"
        )));
    }
    let (mut handlers, mut envelopes) = (BTreeMap::new(), Vec::new());
    for (name, given) in body.handlers {
        let about = |problem: Problem| problem.about(Kind::Handler, &name);
        check_name("handler", &name).map_err(about)?;
        let made = match (given.wasm, given.module) {
            (Some(wasm), None) => {
                let wasm = BASE64.decode(wasm.as_bytes());
                let wasm = wasm.map_err(|error| about(Problem::invalid(format!("`wasm`: {error}"))))?;
                let compiled = compile(core, wasm.into()).await;
                let Compiled { module, hash, envelope } =
                    compiled.map_err(|problem| about(problem).of_field("file"))?;
                let bytes = envelope.len();
                envelopes.push((hash.clone(), envelope));
                Module::Compiled { module, hash, bytes }
            }
            (None, Some(module)) => Module::Expected(module),
            _ => return Err(about(Problem::invalid("write either \"wasm\" or \"module\""))),
        };
        handlers.insert(name, made);
    }
    let ApplyBody { secrets, templates, sandboxes, .. } = body;
    Ok(Prepared { handlers, secrets, templates, sandboxes, envelopes })
}

/// Checks everything against the tables and against the rest of the call.
fn plan(core: &Core, prepared: Prepared, tables: &Tables) -> Result<Plan, Problem> {
    let mut changes = Vec::new();
    for (name, module) in prepared.handlers {
        let row = handler_row(tables, &name, module)
            .map_err(|problem| problem.about(Kind::Handler, &name).of_field("module"))?;
        changes.push(Change::Handler(name, Some(row)));
    }
    let named: Vec<String> = changes.iter().map(|change| change.key().name).collect();
    let handler = |name: &str| tables.handlers.contains_key(name) || named.iter().any(|known| known == name);
    let mut rotated = BTreeSet::new();
    for (name, body) in prepared.secrets {
        let row = check_name("secret", &name).and_then(|()| secret_row(core, tables, &name, body));
        let (row, new_value) = row.map_err(|problem| problem.about(Kind::Secret, &name))?;
        if new_value {
            rotated.insert(name.clone());
        }
        changes.push(Change::Secret(name, Some(row)));
    }
    for (name, document) in &prepared.templates {
        check_name("template", name)
            .and_then(|()| check_document(document, handler))
            .map_err(|problem| problem.about(Kind::Template, name))?;
    }
    for (id, body) in prepared.sandboxes {
        let template =
            |name: &str| tables.templates.contains_key(name) || prepared.templates.contains_key(name);
        let row = sandbox_row(tables, &id, body, template).and_then(|row| {
            check_document(&row.overrides, handler).map_err(|p| p.within("overrides")).map(|()| row)
        });
        let row = row.map_err(|problem| problem.about(Kind::Sandbox, &id))?;
        changes.push(Change::Sandbox(id, Some(row)));
    }
    changes.extend(
        prepared.templates.into_iter().map(|(name, document)| Change::Template(name, Some(document))),
    );
    let warnings = warnings(core, &changes, tables);
    let new = changes.iter().filter(|change| !tables.holds(change));
    let told = new.map(|change| {
        told(tables, change, matches!(change, Change::Secret(name, _) if rotated.contains(name)))
    });
    let told = told.collect();
    Ok(Plan { changes, told, warnings })
}

fn handler_row(tables: &Tables, name: &str, module: Module) -> Result<Handler, Problem> {
    let now = tables.handlers.get(name).map(|row| &*row.value);
    match (module, now) {
        (Module::Expected(wanted), Some(now)) if now.module == wanted => Ok(now.clone()),
        (Module::Expected(_), _) => Err(Problem::conflict(format!(
            "handler {name} is not published with this module; write file = \"….wasm\" in its place"
        ))),
        (Module::Compiled { module, hash, .. }, Some(now)) if now.module == module && now.hash == hash => {
            Ok(now.clone())
        }
        (Module::Compiled { module, hash, bytes }, now) => {
            Ok(Handler { version: now.map_or(1, |now| now.version + 1), hash, bytes, module })
        }
    }
}

/// A row as callers may see and write it, without what is so unless it is written; nothing of a value.
fn face(change: &Change) -> Value {
    let mut face = match change {
        Change::Template(_, row) => json!(row),
        Change::Sandbox(_, Some(row)) => {
            json!({ "template": row.template, "overrides": row.overrides, "labels": row.labels })
        }
        Change::Handler(_, Some(row)) => json!({ "module": row.module }),
        Change::Secret(_, Some(row)) => json!({ "hosts": row.hosts, "allowPlaintext": row.allow_plaintext }),
        _ => Value::Null,
    };
    let usual = [("overrides", json!({})), ("labels", json!({})), ("allowPlaintext", json!(false))];
    if let (false, Some(fields)) = (matches!(change, Change::Template(..)), face.as_object_mut()) {
        fields.retain(|name, value| !usual.iter().any(|(known, usual)| name == known && value == usual));
    }
    face
}

/// The row that stands in the tables.
fn standing(tables: &Tables, key: Key) -> Change {
    fn row<T: Clone>(rows: &BTreeMap<String, Entry<T>>, name: &str) -> Option<T> {
        rows.get(name).map(|row| T::clone(&row.value))
    }
    let name = key.name;
    match key.kind {
        Kind::Template => Change::Template(name.clone(), row(&tables.templates, &name)),
        Kind::Sandbox => Change::Sandbox(name.clone(), row(&tables.sandboxes, &name)),
        Kind::Handler => Change::Handler(name.clone(), row(&tables.handlers, &name)),
        Kind::Secret => Change::Secret(name.clone(), row(&tables.secrets, &name)),
    }
}

/// One change, before and after. Of a secret's value only whether it becomes another one.
fn told(tables: &Tables, change: &Change, value_changes: bool) -> Value {
    let key = change.key();
    let before = face(&standing(tables, key.clone()));
    let done = if before.is_null() { "added" } else { "changed" };
    json!({ "kind": key.kind.name(), "name": key.name, "change": done, "before": before,
            "after": face(change), "valueChanges": value_changes })
}

/// What is accepted, and will not do what it was written for.
fn warnings(core: &Core, changes: &[Change], tables: &Tables) -> Vec<String> {
    let secret = |name: &str| {
        let given = changes.iter().find_map(|change| match change {
            Change::Secret(given, Some(row)) if given == name => Some(row),
            _ => None,
        });
        given.or_else(|| tables.secrets.get(name).map(|row| &*row.value))
    };
    let (mut found, mut flaws) = (Vec::new(), BTreeMap::new());
    for change in changes {
        let document = match change {
            Change::Template(_, Some(document)) => document,
            Change::Sandbox(_, Some(row)) => &row.overrides,
            _ => continue,
        };
        let Key { kind, name } = change.key();
        let about = format!("{} {name}", kind.name());
        found.extend(document.warnings().into_iter().map(|text| format!("{about}: {text}")));
        for action in document.rules.iter().flatten().flat_map(|rule| &rule.actions) {
            let Some(named) = action.secret() else { continue };
            let Some(row) = secret(named) else {
                found.push(format!(
                    "{about}: a rule names secret {named}, which does not exist; its requests are refused until it does"
                ));
                continue;
            };
            if matches!(action, RuleAction::ClientCertificate { .. }) {
                // Opened once, however many rows name it.
                let flaw = flaws.entry(named).or_insert_with(|| certificate_flaw(core, named, row));
                found.extend(flaw.as_ref().map(|flaw| {
                    format!(
                        "{about}: a rule shows secret {named} as a client certificate, and {flaw}; its requests are \
                         refused until then"
                    )
                }));
            }
        }
    }
    found
}
