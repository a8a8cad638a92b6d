//! Calls about templates and sandboxes.

use axum::body::Bytes;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, header};
use axum::response::IntoResponse;
use control_wire::limits::LABELS_MAX;
use control_wire::policy::{HandlerUse, HostHandler, Labels, PolicyDocument};
use control_wire::row::SALT_BYTES;
use serde::Deserialize;
use serde_json::json;

use super::{
    Answer, Problem, Shared, WaitQuery, change, check_document, check_match, check_name, check_pattern,
    if_match, parse, parse_object, shown, with_etag,
};
use crate::link::Core;
use crate::tables::{Change, Sandbox, Tables};

pub(super) async fn list_templates(State(core): Shared) -> Answer {
    let tables = core.store.tables();
    let items: Vec<_> = tables
        .templates
        .iter()
        .map(|(name, row)| json!({ "name": name, "revision": row.revision }))
        .collect();
    Ok(shown(tables.revision, &json!({ "templates": items })))
}

pub(super) async fn get_template(State(core): Shared, Path(id): Path<String>) -> Answer {
    let tables = core.store.tables();
    let row = tables.templates.get(&id).ok_or_else(|| Problem::missing("template", &id))?;
    Ok(shown(row.revision, &json!({ "name": id, "revision": row.revision, "document": &*row.value })))
}

pub(super) async fn put_template(
    State(core): Shared,
    Path(id): Path<String>,
    Query(query): Query<WaitQuery>,
    headers: HeaderMap,
    body: Bytes,
) -> Answer {
    check_name("template", &id)?;
    let document: PolicyDocument = parse_object(&body)?;
    let wanted = if_match(&headers)?;
    let decide = move |tables: &Tables| {
        let now = tables.templates.get(&id);
        check_match(wanted.as_deref(), now.map(|row| row.revision))?;
        check_document(&document, |name| tables.handlers.contains_key(name))?;
        Ok(vec![Change::Template(id, Some(document))])
    };
    change(&core, &query, decide).await
}

pub(super) async fn delete_template(
    State(core): Shared,
    Path(id): Path<String>,
    Query(query): Query<WaitQuery>,
) -> Answer {
    let decide = move |tables: &Tables| {
        if !tables.templates.contains_key(&id) {
            return Err(Problem::missing("template", &id));
        }
        if let Some(user) = tables.sandboxes_of_template(&id).first() {
            return Err(Problem::conflict(format!("sandbox {user} uses it; remove or move that first")));
        }
        Ok(vec![Change::Template(id, None)])
    };
    change(&core, &query, decide).await
}

/// What a caller writes of a sandbox; salt and certificate are not theirs.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "a sandbox: {\"template\": name}, optionally overrides and labels")]
pub(super) struct SandboxBody {
    template: String,
    #[serde(default)]
    overrides: PolicyDocument,
    #[serde(default)]
    labels: Labels,
}

pub(super) async fn list_sandboxes(State(core): Shared, Query(query): Query<WaitQuery>) -> Answer {
    let selector = query.selector.as_deref().map(parse_selector).transpose()?.unwrap_or_default();
    let tables = core.store.tables();
    let items: Vec<_> = tables
        .sandboxes
        .iter()
        .filter(|(_, row)| selected(&selector, &row.value.labels))
        .map(|(id, row)| json!({ "id": id, "template": row.value.template, "revision": row.revision }))
        .collect();
    Ok(shown(tables.revision, &json!({ "sandboxes": items })))
}

/// `key=value,key=value`; all must hold.
pub(super) fn parse_selector(text: &str) -> Result<Labels, Problem> {
    let pair = |part: &str| {
        part.split_once('=').map(|(key, value)| (key.trim().to_owned(), value.trim().to_owned()))
    };
    let parsed: Option<Labels> = text.split(',').map(pair).collect();
    parsed.ok_or_else(|| Problem::invalid(format!("selector `{text}`: write label=value,label=value")))
}

pub(super) fn selected(selector: &Labels, labels: &Labels) -> bool {
    selector.iter().all(|(key, value)| labels.get(key) == Some(value))
}

pub(super) async fn get_sandbox(State(core): Shared, Path(id): Path<String>) -> Answer {
    let tables = core.store.tables();
    let row = tables.sandboxes.get(&id).ok_or_else(|| Problem::missing("sandbox", &id))?;
    let value = &row.value;
    let body = json!({
        "id": id, "revision": row.revision, "template": value.template, "overrides": value.overrides,
        "labels": value.labels, "answers": value.answers, "caReady": value.ca_certificate.is_some(),
    });
    Ok(shown(row.revision, &body))
}

pub(super) async fn put_sandbox(
    State(core): Shared,
    Path(id): Path<String>,
    Query(query): Query<WaitQuery>,
    headers: HeaderMap,
    body: Bytes,
) -> Answer {
    let body: SandboxBody = parse_object(&body)?;
    let wanted = if_match(&headers)?;
    let name = id.clone();
    change_sandbox(&core, id, &query, move |now, tables| {
        check_match(wanted.as_deref(), now.map(|(revision, _)| revision))?;
        sandbox_row(tables, &name, body, |template| tables.templates.contains_key(template)).map(Some)
    })
    .await
}

/// What a sandbox becomes; the caller checks its overrides.
pub(super) fn sandbox_row(
    tables: &Tables,
    id: &str,
    body: SandboxBody,
    template: impl Fn(&str) -> bool,
) -> Result<Sandbox, Problem> {
    check_name("sandbox", id)?;
    if body.labels.len() > LABELS_MAX {
        let problem = Problem::invalid(format!("a sandbox has at most {LABELS_MAX} labels"));
        return Err(problem.of_field("labels"));
    }
    for (key, value) in &body.labels {
        check_name("label", key)
            .and_then(|()| check_name("label value", value))
            .map_err(|problem| problem.of_field(format!("labels.{key}")))?;
    }
    if !template(&body.template) {
        let name = &body.template;
        let detail = format!(
            "template {name} does not exist; make it first: [templates.{name}] in a file that is applied, or \
             PUT /v1/templates/{name}"
        );
        return Err(Problem::conflict(detail).of_field("template"));
    }
    // Salt and certificate stay for the sandbox's life: clients in it trust that authority. So do answers, until they
    // are taken back.
    let (salt, ca_certificate, answers) = match tables.sandboxes.get(id) {
        Some(row) => (row.value.salt, row.value.ca_certificate.clone(), row.value.answers.clone()),
        None => {
            let mut salt = [0; SALT_BYTES];
            aws_lc_rs::rand::fill(&mut salt).map_err(|error| Problem::internal(&error))?;
            (salt, None, Vec::new())
        }
    };
    let SandboxBody { template, overrides, labels } = body;
    Ok(Sandbox { template, overrides, labels, salt, ca_certificate, answers })
}

pub(super) async fn delete_sandbox(
    State(core): Shared,
    Path(id): Path<String>,
    Query(query): Query<WaitQuery>,
) -> Answer {
    let name = id.clone();
    change_sandbox(&core, id, &query, move |now, _| match now {
        Some(_) => Ok(None),
        None => Err(Problem::missing("sandbox", &name)),
    })
    .await
}

/// Reads one sandbox, decides what it becomes, and commits that, all in one step of the store.
pub(super) async fn change_sandbox<F>(core: &Core, id: String, query: &WaitQuery, decide: F) -> Answer
where
    F: FnOnce(Option<(u64, &Sandbox)>, &Tables) -> Result<Option<Sandbox>, Problem> + Send + 'static,
{
    let decide = move |tables: &Tables| {
        let now = tables.sandboxes.get(&id);
        let next = decide(now.map(|row| (row.revision, &*row.value)), tables)?;
        if let Some(next) = &next {
            check_document(&next.overrides, |name| tables.handlers.contains_key(name))?;
        }
        Ok(vec![Change::Sandbox(id, next)])
    };
    change(core, query, decide).await
}

/// Changes only the overrides of a sandbox that exists.
async fn change_overrides<F>(core: &Core, id: String, query: &WaitQuery, change: F) -> Answer
where
    F: FnOnce(&mut PolicyDocument) -> Result<(), Problem> + Send + 'static,
{
    let name = id.clone();
    change_sandbox(core, id, query, move |now, _| {
        let (_, row) = now.ok_or_else(|| Problem::missing("sandbox", &name))?;
        let mut next = row.clone();
        change(&mut next.overrides)?;
        Ok(Some(next))
    })
    .await
}

type Wait = Query<WaitQuery>;

pub(super) async fn put_outbound(
    State(core): Shared,
    Path(id): Path<String>,
    Query(query): Wait,
    body: Bytes,
) -> Answer {
    let outbound: HandlerUse = parse_object(&body)?;
    change_overrides(&core, id, &query, move |overrides| {
        overrides.outbound = Some(outbound);
        Ok(())
    })
    .await
}

pub(super) async fn delete_outbound(
    State(core): Shared,
    Path(id): Path<String>,
    Query(query): Wait,
) -> Answer {
    change_overrides(&core, id, &query, |overrides| {
        overrides.outbound = None;
        Ok(())
    })
    .await
}

pub(super) async fn put_outbound_by_host(
    State(core): Shared,
    Path((id, host)): Path<(String, String)>,
    Query(query): Wait,
    body: Bytes,
) -> Answer {
    let outbound: HandlerUse = parse_object(&body)?;
    check_pattern("host", &host)?;
    change_overrides(&core, id, &query, move |overrides| {
        // The sandbox's own layer only: the template's hosts are asked after it.
        let list = overrides.outbound_by_host.get_or_insert_default();
        match list.iter_mut().find(|row| row.host == host) {
            Some(row) => row.outbound = outbound,
            None => list.push(HostHandler { host, outbound }),
        }
        Ok(())
    })
    .await
}

pub(super) async fn delete_outbound_by_host(
    State(core): Shared,
    Path((id, host)): Path<(String, String)>,
    Query(query): Wait,
) -> Answer {
    change_overrides(&core, id, &query, move |overrides| {
        let list = overrides.outbound_by_host.get_or_insert_default();
        let count = list.len();
        list.retain(|row| row.host != host);
        if list.len() == count {
            return Err(Problem::missing("outboundByHost", &host));
        }
        if list.is_empty() {
            overrides.outbound_by_host = None;
        }
        Ok(())
    })
    .await
}

pub(super) async fn put_allowed(
    State(core): Shared,
    Path(id): Path<String>,
    Query(query): Wait,
    body: Bytes,
) -> Answer {
    let hosts: Vec<String> = parse(&body)?;
    change_overrides(&core, id, &query, move |overrides| {
        overrides.allowed_hosts = Some(hosts);
        Ok(())
    })
    .await
}

pub(super) async fn delete_allowed(
    State(core): Shared,
    Path(id): Path<String>,
    Query(query): Wait,
) -> Answer {
    change_overrides(&core, id, &query, |overrides| {
        overrides.allowed_hosts = None;
        Ok(())
    })
    .await
}

pub(super) async fn put_denied(
    State(core): Shared,
    Path(id): Path<String>,
    Query(query): Wait,
    body: Bytes,
) -> Answer {
    let hosts: Vec<String> = parse(&body)?;
    change_overrides(&core, id, &query, move |overrides| {
        overrides.denied_hosts = Some(hosts);
        Ok(())
    })
    .await
}

pub(super) async fn delete_denied(State(core): Shared, Path(id): Path<String>, Query(query): Wait) -> Answer {
    change_overrides(&core, id, &query, |overrides| {
        overrides.denied_hosts = None;
        Ok(())
    })
    .await
}

pub(super) async fn ca_pem(State(core): Shared, Path(id): Path<String>) -> Answer {
    let tables = core.store.tables();
    let row = tables.sandboxes.get(&id).ok_or_else(|| Problem::missing("sandbox", &id))?;
    let der = row.value.ca_certificate.as_ref().ok_or_else(|| {
        Problem::conflict(
            "no plane has made this sandbox's certificate yet; the first to which it is attached makes it",
        )
    })?;
    let body = data_encoding::BASE64.encode(der);
    let mut pem = String::from("-----BEGIN CERTIFICATE-----\n");
    for at in (0..body.len()).step_by(64) {
        pem.push_str(&body[at..body.len().min(at + 64)]);
        pem.push('\n');
    }
    pem.push_str("-----END CERTIFICATE-----\n");
    Ok(with_etag(([(header::CONTENT_TYPE, "application/x-pem-file")], pem).into_response(), row.revision))
}
