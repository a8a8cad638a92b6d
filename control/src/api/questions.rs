//! Calls about questions, and about the answers that sandboxes' rows keep.

use axum::Json;
use axum::body::Bytes;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::IntoResponse;
use control_wire::limits::NAME_BYTES_MAX;
use control_wire::question::{Answer as Reply, KeptAnswer, Question, Scope, Verdict};
use serde::Deserialize;
use serde_json::{Value, json};

use super::rows::change_sandbox;
use super::{Answer, Problem, Shared, WaitQuery, commit, outcome, parse, with_etag};
use crate::answers::keep;
use crate::limits::{ANSWER_SECONDS_MAX, WAIT_MAX};
use crate::link::Core;
use crate::planes::Fence;
use crate::questions::{NotOpen, unix_millis};
use crate::tables::{Change, Tables};

type Wait = Query<WaitQuery>;

/// What is open now; with `?after=` the version of a list that the caller has, as soon as there is another one, or at
/// the end of the time the same again.
pub(super) async fn list_questions(State(core): Shared, Query(query): Wait) -> Answer {
    if let Some(after) = query.after()? {
        let mut versions = core.questions.versions();
        let changed = versions.wait_for(|version| *version != after);
        // At the end of the time the list is what it was.
        let _in_time = tokio::time::timeout(query.time()?.min(WAIT_MAX), changed).await;
    }
    let (version, questions) = core.questions.list();
    Ok(Json(json!({ "version": version, "questions": questions })).into_response())
}

/// What a person says.
#[derive(Deserialize)]
#[serde(
    deny_unknown_fields,
    expecting = "an answer: {\"verdict\": \"allow\" or \"deny\"}, optionally scope, seconds and by"
)]
struct AnswerBody {
    verdict: Verdict,
    #[serde(default)]
    scope: Scope,
    seconds: Option<u64>,
    #[serde(default)]
    by: String,
}

impl AnswerBody {
    /// Until when it is kept, in milliseconds of Unix time.
    fn until(&self, now_unix_ms: u64) -> Result<Option<u64>, Problem> {
        match (self.scope, self.seconds) {
            (Scope::Time, Some(seconds)) if (1..=ANSWER_SECONDS_MAX).contains(&seconds) => {
                Ok(Some(now_unix_ms + seconds * 1_000))
            }
            (Scope::Time, _) => {
                let detail =
                    format!("`seconds`: write 1 to {ANSWER_SECONDS_MAX}, or scope \"host\" to keep it");
                Err(Problem::invalid(detail))
            }
            (_, None) => Ok(None),
            (_, Some(_)) => Err(Problem::invalid("`seconds` has a meaning only with scope \"time\"")),
        }
    }

    fn check_by(&self) -> Result<(), Problem> {
        if self.by.len() > NAME_BYTES_MAX || self.by.chars().any(char::is_control) {
            return Err(Problem::invalid(format!("`by` has at most {NAME_BYTES_MAX} printable bytes")));
        }
        Ok(())
    }
}

impl From<NotOpen> for Problem {
    fn from(error: NotOpen) -> Self {
        match error {
            NotOpen::Unknown => Self::refused(StatusCode::NOT_FOUND, error.to_string()),
            _ => Self::conflict(error.to_string()),
        }
    }
}

/// Answers a question. One that is kept stands in the sandbox's row first, so that every plane of the sandbox acts by
/// it, and `?wait=applied` says when.
pub(super) async fn post_answer(
    State(core): Shared,
    Path(id): Path<String>,
    Query(query): Wait,
    body: Bytes,
) -> Answer {
    let body: AnswerBody = parse(&body)?;
    body.check_by()?;
    let until_unix_ms = body.until(unix_millis())?;
    let claim = core.questions.claim(&id)?;
    let told = json!({ "id": id, "verdict": body.verdict, "scope": body.scope });
    let reply = Reply {
        id: claim.question().id,
        verdict: body.verdict,
        scope: body.scope,
        until_unix_ms: until_unix_ms.unwrap_or_default(),
        by: body.by,
    };
    if body.scope == Scope::Once {
        claim.answer(reply).await?;
        return Ok(Json(told).into_response());
    }
    // The plane hears who said it before the row lets the request go, so that its record can tell.
    claim.announce(reply).await?;
    let committed = keep_answer(&core, claim.question(), body.verdict, until_unix_ms).await?;
    claim.close();
    let (status, mut body) = outcome(&core, &query, committed, &[]).await?;
    if let (Value::Object(body), Value::Object(told)) = (&mut body, told) {
        body.extend(told);
    }
    Ok(with_etag((status, Json(body)).into_response(), committed.0))
}

async fn keep_answer(
    core: &Core,
    question: &Question,
    verdict: Verdict,
    until_unix_ms: Option<u64>,
) -> Result<(u64, Option<Fence>), Problem> {
    let Question { sandbox, scheme, host, port, .. } = question.clone();
    let decide = move |tables: &Tables| {
        let gone = || Problem::conflict(format!("sandbox {sandbox} is gone, and its question with it"));
        let mut row = (*tables.sandboxes.get(&sandbox).ok_or_else(gone)?.value).clone();
        let answer = KeptAnswer { verdict, scheme, host, port, until_unix_ms };
        keep(&mut row.answers, answer, unix_millis())
            .map_err(|error| Problem::conflict(error.to_string()))?;
        Ok(vec![Change::Sandbox(sandbox, Some(row))])
    };
    commit(core, decide).await
}

/// Takes back every answer of a sandbox.
pub(super) async fn delete_answers(
    State(core): Shared,
    Path(id): Path<String>,
    Query(query): Wait,
) -> Answer {
    take_back(&core, id, &query, None).await
}

/// Takes back every answer of a sandbox about a host.
pub(super) async fn delete_answers_of_host(
    State(core): Shared,
    Path((id, host)): Path<(String, String)>,
    Query(query): Wait,
) -> Answer {
    take_back(&core, id, &query, Some(host)).await
}

async fn take_back(core: &Core, id: String, query: &WaitQuery, host: Option<String>) -> Answer {
    let name = id.clone();
    change_sandbox(core, id, query, move |now, _| {
        let (_, row) = now.ok_or_else(|| Problem::missing("sandbox", &name))?;
        let mut next = row.clone();
        let count = next.answers.len();
        next.answers.retain(|answer| host.as_ref().is_some_and(|host| answer.host != *host));
        match &host {
            Some(host) if next.answers.len() == count => Err(Problem::missing("answer about a host", host)),
            _ => Ok(Some(next)),
        }
    })
    .await
}
