//! The admin API on a Unix socket: idempotent `PUT`, ETag = revision, `If-Match`, `?wait=applied`.

mod apply;
mod fleet;
mod leases;
mod problem;
mod questions;
mod rows;

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use axum::extract::rejection::QueryRejection;
use axum::extract::{DefaultBodyLimit, Query, Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post, put};
use axum::{Json, Router};
use control_wire::limits::NAME_BYTES_MAX;
use control_wire::pattern::HostPattern;
use control_wire::policy::PolicyDocument;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::error::Category;
use serde_json::{Value, json};
use tokio::net::{UnixListener, UnixStream};

use crate::limits::{APPLY_BYTES_MAX, BODY_BYTES_MAX, WAIT_DEFAULT, WAIT_MAX};
use crate::link::Core;
use crate::planes::Fence;
use crate::tables::{Change, Tables};
pub use problem::Problem;

type Shared = State<Arc<Core>>;
type Answer = Result<Response, Problem>;

/// All calls.
pub fn router(core: Arc<Core>) -> Router {
    Router::new()
        .route("/v1/templates", get(rows::list_templates))
        .route(
            "/v1/templates/{id}",
            put(rows::put_template).get(rows::get_template).delete(rows::delete_template),
        )
        .route("/v1/sandboxes", get(rows::list_sandboxes))
        .route(
            "/v1/sandboxes/{id}",
            put(rows::put_sandbox).get(rows::get_sandbox).delete(rows::delete_sandbox),
        )
        .route("/v1/sandboxes/{id}/outbound", put(rows::put_outbound).delete(rows::delete_outbound))
        .route(
            "/v1/sandboxes/{id}/outboundByHost/{host}",
            put(rows::put_outbound_by_host).delete(rows::delete_outbound_by_host),
        )
        .route("/v1/sandboxes/{id}/allowedHosts", put(rows::put_allowed).delete(rows::delete_allowed))
        .route("/v1/sandboxes/{id}/deniedHosts", put(rows::put_denied).delete(rows::delete_denied))
        .route("/v1/sandboxes/{id}/ca.pem", get(rows::ca_pem))
        .route("/v1/sandboxes/{id}/answers", delete(questions::delete_answers))
        .route("/v1/sandboxes/{id}/answers/{host}", delete(questions::delete_answers_of_host))
        .route("/v1/questions", get(questions::list_questions))
        .route("/v1/questions/{id}", post(questions::post_answer))
        .route("/v1/handlers", get(fleet::list_handlers))
        .route(
            "/v1/handlers/{name}",
            put(fleet::put_handler).get(fleet::get_handler).delete(fleet::delete_handler),
        )
        .route("/v1/secrets", get(fleet::list_secrets))
        .route(
            "/v1/secrets/{name}",
            put(fleet::put_secret).get(fleet::get_secret).delete(fleet::delete_secret),
        )
        .route("/v1/planes", get(fleet::list_planes))
        .route("/v1/planes/{name}", delete(fleet::delete_plane))
        .route("/v1/join-tokens", post(fleet::post_join_token))
        .route("/v1/here", get(leases::get_here))
        .route("/v1/leases/{name}", post(leases::post_lease).delete(leases::delete_lease))
        .route("/v1/lockdown", post(fleet::post_lockdown))
        .route("/v1/state", get(apply::get_state))
        .route("/v1/apply", post(apply::post_apply).layer(DefaultBodyLimit::max(APPLY_BYTES_MAX)))
        .route("/v1/diff", post(apply::post_diff).layer(DefaultBodyLimit::max(APPLY_BYTES_MAX)))
        .fallback(async |uri: axum::http::Uri| Problem::missing("path", uri.path()))
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .layer(axum::middleware::from_fn(only_known_queries))
        .with_state(core)
}

/// A misspelt `?wait=aplied` must not silently answer before anything is enforced.
async fn only_known_queries(
    query: Result<Query<WaitQuery>, QueryRejection>,
    request: Request,
    next: Next,
) -> Response {
    let known = query.map_err(|error| Problem::invalid(error.body_text()));
    match known.and_then(|query| query.wait()) {
        Ok(_) => in_our_form(request, next).await,
        Err(problem) => problem.into_response(),
    }
}

/// Says in our form what is refused before it reaches a call of ours.
async fn in_our_form(request: Request, next: Next) -> Response {
    let call = format!("{} {}", request.method(), request.uri().path());
    let response = next.run(request).await;
    let detail = match response.status() {
        StatusCode::METHOD_NOT_ALLOWED => format!("{call} is no call; the field Allow names the methods"),
        StatusCode::PAYLOAD_TOO_LARGE if call.ends_with("/apply") || call.ends_with("/diff") => {
            format!("a body has at most {APPLY_BYTES_MAX} bytes here; apply in parts, handlers first")
        }
        StatusCode::PAYLOAD_TOO_LARGE => format!("a body has at most {BODY_BYTES_MAX} bytes"),
        StatusCode::BAD_REQUEST => format!("{call} cannot be read; write names in UTF-8, escaped by %"),
        _ => return response,
    };
    let mut problem = Problem::refused(response.status(), detail).into_response();
    problem
        .headers_mut()
        .extend(response.headers().get(header::ALLOW).map(|allow| (header::ALLOW, allow.clone())));
    problem
}

/// A socket that takes callers of this user and of root only; the file's mode says the same, this holds it where
/// the folder was opened up.
pub struct OwnUserListener {
    inner: UnixListener,
    user: u32,
}

impl OwnUserListener {
    /// Wraps a bound socket.
    pub fn new(inner: UnixListener) -> Self {
        Self { inner, user: rustix::process::geteuid().as_raw() }
    }
}

impl axum::serve::Listener for OwnUserListener {
    type Io = UnixStream;
    type Addr = tokio::net::unix::SocketAddr;

    async fn accept(&mut self) -> (UnixStream, Self::Addr) {
        loop {
            match self.inner.accept().await {
                Ok((stream, from)) => match stream.peer_cred() {
                    Ok(peer) if peer.uid() == self.user || peer.uid() == 0 => return (stream, from),
                    _ => drop(stream),
                },
                // Out of descriptors, most likely: time brings some back.
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
    }

    fn local_addr(&self) -> std::io::Result<Self::Addr> {
        self.inner.local_addr()
    }
}

/// How long a write waits to be enforced.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct WaitQuery {
    wait: Option<String>,
    timeout: Option<String>,
    selector: Option<String>,
    after: Option<String>,
}

impl WaitQuery {
    fn time(&self) -> Result<Duration, Problem> {
        self.timeout.as_deref().map_or(Ok(WAIT_DEFAULT), duration)
    }

    /// The version of a list that the caller has.
    fn after(&self) -> Result<Option<u64>, Problem> {
        let read = |text: &str| {
            let fix =
                |_| Problem::invalid(format!("after={text} is no version; write the one of the last list"));
            text.parse().map_err(fix)
        };
        self.after.as_deref().map(read).transpose()
    }

    fn wait(&self) -> Result<Option<Duration>, Problem> {
        let time = self.time()?;
        match self.wait.as_deref() {
            None => Ok(None),
            Some("applied") => Ok(Some(time.min(WAIT_MAX))),
            Some(other) => Err(Problem::invalid(format!("wait={other} is unknown; write wait=applied"))),
        }
    }
}

fn duration(text: &str) -> Result<Duration, Problem> {
    let fix = || Problem::invalid(format!("timeout={text} is no time; write 500ms or 5s"));
    let number = |text: &str| text.parse::<u32>().map_err(|_| fix());
    match (text.strip_suffix("ms"), text.strip_suffix('s')) {
        (Some(millis), _) => Ok(Duration::from_millis(number(millis)?.into())),
        (None, Some(seconds)) => Ok(Duration::from_secs(number(seconds)?.into())),
        (None, None) => Err(fix()),
    }
}

/// A body as JSON of a shape; what does not fit is refused with where and what would.
fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, Problem> {
    let mut reader = serde_json::Deserializer::from_slice(body);
    let value = serde_path_to_error::deserialize(&mut reader).map_err(|error| {
        let (path, inner) = (error.path().to_string(), error.inner());
        match inner.classify() {
            Category::Data if path == "." => Problem::invalid(inner.to_string()),
            Category::Data => Problem::invalid(format!("`{path}`: {inner}")),
            _ if body.is_empty() => Problem::invalid("the body is empty; write it as JSON"),
            _ => Problem::invalid(format!("the body is no JSON: {inner}")),
        }
    })?;
    reader.end().map_err(|error| Problem::invalid(format!("the body goes on after its value: {error}")))?;
    Ok(value)
}

/// As [`parse`], where only an object will do: a list would be read as the fields in their order.
fn parse_object<T: DeserializeOwned>(body: &[u8]) -> Result<T, Problem> {
    match body.trim_ascii_start().first() {
        Some(b'[') => Err(Problem::invalid("the body is a list; write an object of fields")),
        _ => parse(body),
    }
}

fn check_name(what: &str, name: &str) -> Result<(), Problem> {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    if name.is_empty() || name.len() > NAME_BYTES_MAX || !name.bytes().all(fits) {
        return Err(Problem::invalid(format!(
            "a {what}'s name has 1 to {NAME_BYTES_MAX} of a-z A-Z 0-9 - _ ."
        )));
    }
    Ok(())
}

/// A host pattern that stands outside a document.
fn check_pattern(field: &str, text: &str) -> Result<(), Problem> {
    HostPattern::parse(text).map(|_| ()).map_err(|error| Problem::invalid(format!("`{field}`: {error}")))
}

/// Everything about a document that its types do not say; also its size, and that what it names exists.
fn check_document(document: &PolicyDocument, handler: impl Fn(&str) -> bool) -> Result<(), Problem> {
    let text = serde_json::to_string(document).map_err(|error| Problem::internal(&error))?;
    let max = control_wire::limits::DOCUMENT_BYTES_MAX;
    if text.len() > max {
        return Err(Problem::invalid(format!(
            "the document has {} bytes; at most {max} are taken",
            text.len()
        )));
    }
    document.validate().map_err(|error| Problem::invalid(error.to_string()).of_field(error.field))?;
    let by_host = document.outbound_by_host.iter().flatten().enumerate();
    let by_host = by_host.map(|(at, row)| (format!("outboundByHost[{at}].handler"), &row.outbound.handler));
    let outbound = document.outbound.iter().map(|used| ("outbound.handler".to_owned(), &used.handler));
    for (field, name) in outbound.chain(by_host) {
        if !handler(name) {
            let detail = format!("handler {name} does not exist; publish it first");
            return Err(Problem::conflict(detail).of_field(field));
        }
    }
    Ok(())
}

/// Refuses when `If-Match` names another revision than the row has.
fn check_match(wanted: Option<&str>, now: Option<u64>) -> Result<(), Problem> {
    let Some(wanted) = wanted else { return Ok(()) };
    let fits = match now {
        Some(now) => wanted == "*" || wanted.trim_matches('"') == now.to_string(),
        None => false,
    };
    if fits { Ok(()) } else { Err(Problem::precondition(now)) }
}

fn if_match(headers: &HeaderMap) -> Result<Option<String>, Problem> {
    let text = |value: &HeaderValue| value.to_str().map(str::to_owned);
    let value = headers.get(header::IF_MATCH).map(text).transpose();
    value.map_err(|_| Problem::invalid("If-Match must hold a revision in quotes"))
}

fn with_etag(mut response: Response, revision: u64) -> Response {
    if let Ok(value) = HeaderValue::from_str(&format!("\"{revision}\"")) {
        response.headers_mut().insert(header::ETAG, value);
    }
    response
}

fn shown(revision: u64, value: &serde_json::Value) -> Response {
    with_etag(Json(value).into_response(), revision)
}

/// Decides and commits in one step of the store, so that no other change lies between. Answers the revision, and when
/// planes that no longer hear control surely refuse all whom the change concerns.
async fn commit<F>(core: &Core, decide: F) -> Result<(u64, Option<Fence>), Problem>
where
    F: FnOnce(&Tables) -> Result<Vec<Change>, Problem> + Send + 'static,
{
    let noted = Arc::new(OnceLock::new());
    let fence = noted.clone();
    let decide = move |tables: &Tables| {
        let mut changes = decide(tables)?;
        // Of what was asked for, not of what is new: a call that is repeated waits for the same as the first one.
        let _first = fence.set(Fence::of(tables.lease_facts_of(&changes)));
        changes.retain(|change| !tables.holds(change));
        Ok(changes)
    };
    let revision = core.store.change(decide).await?;
    Ok((revision, noted.get().copied().flatten()))
}

/// Commits, and answers the write.
async fn change<F>(core: &Core, query: &WaitQuery, decide: F) -> Answer
where
    F: FnOnce(&Tables) -> Result<Vec<Change>, Problem> + Send + 'static,
{
    let (revision, fence) = commit(core, decide).await?;
    written(core, query, (revision, fence), None).await
}

/// Answers a write: at once with 200, or when it is enforced with 200 and the number of planes, or at the end of the
/// wait with 202 and the planes that are behind. A version of a handler that a plane does not take is not enforced
/// there, whatever the plane acknowledges.
async fn written(
    core: &Core,
    query: &WaitQuery,
    (revision, fence): (u64, Option<Fence>),
    handler: Option<&str>,
) -> Answer {
    let handlers: Vec<String> = handler.map(str::to_owned).into_iter().collect();
    let (status, body) = outcome(core, query, (revision, fence), &handlers).await?;
    Ok(with_etag((status, Json(body)).into_response(), revision))
}

/// What there is to answer to a write.
async fn outcome(
    core: &Core,
    query: &WaitQuery,
    (revision, fence): (u64, Option<Fence>),
    handlers: &[String],
) -> Result<(StatusCode, Value), Problem> {
    let Some(within) = query.wait()? else { return Ok((StatusCode::OK, json!({ "revision": revision }))) };
    let behind = core.planes.wait(revision, fence, within).await;
    let rejected: Vec<Value> = handlers.iter().flat_map(|name| rejections(core, name)).collect();
    let planes = core.planes.view(&core.store.tables()).len();
    let applied = behind.is_empty() && rejected.is_empty();
    let mut body = json!({ "revision": revision, "applied": applied, "planes": planes });
    if !behind.is_empty() {
        body["planesBehind"] = json!(behind);
    }
    if !rejected.is_empty() {
        body["rejected"] = json!(rejected);
    }
    Ok((if applied { StatusCode::OK } else { StatusCode::ACCEPTED }, body))
}

/// Planes that do not take the version of a handler that is in force, and why.
fn rejections(core: &Core, name: &str) -> Vec<Value> {
    let version = core.store.tables().handlers.get(name).map(|row| row.value.version);
    let known = version.map(|version| core.planes.rejections(name, version)).unwrap_or_default();
    known.into_iter().map(|(plane, reason)| json!({ "plane": plane, "reason": reason })).collect()
}

#[cfg(test)]
mod tests;
