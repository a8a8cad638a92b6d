//! Errors of the API as `application/problem+json` (RFC 9457).

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::json;

use crate::store::{ChangeError, StoreError};
use crate::tables::Kind;

/// What a caller is told when a call is refused.
#[derive(Debug)]
pub struct Problem {
    status: StatusCode,
    title: &'static str,
    detail: String,
    row: Option<(Kind, String)>,
    field: String,
}

impl Problem {
    /// The body or a name is not acceptable; `detail` says the fix.
    pub fn invalid(detail: impl Into<String>) -> Self {
        Self {
            status: StatusCode::UNPROCESSABLE_ENTITY,
            title: "invalid",
            detail: detail.into(),
            row: None,
            field: String::new(),
        }
    }

    /// The call itself is not acceptable.
    pub fn refused(status: StatusCode, detail: String) -> Self {
        Self { status, title: "refused", detail, row: None, field: String::new() }
    }

    /// There is no such thing.
    pub fn missing(what: &str, name: &str) -> Self {
        let detail = format!("there is no {what} named {name}");
        Self { status: StatusCode::NOT_FOUND, title: "not found", detail, row: None, field: String::new() }
    }

    /// It is in use, or something that it needs is missing.
    pub fn conflict(detail: impl Into<String>) -> Self {
        Self {
            status: StatusCode::CONFLICT,
            title: "conflict",
            detail: detail.into(),
            row: None,
            field: String::new(),
        }
    }

    /// `If-Match` names another revision.
    pub fn precondition(now: Option<u64>) -> Self {
        let detail = match now {
            Some(now) => format!("the revision is {now}; read again and repeat with If-Match: \"{now}\""),
            None => "it does not exist; leave If-Match away to make it".into(),
        };
        Self {
            status: StatusCode::PRECONDITION_FAILED,
            title: "changed meanwhile",
            detail,
            row: None,
            field: String::new(),
        }
    }

    /// A fault of control's own, with its causes.
    pub fn internal(error: &dyn std::error::Error) -> Self {
        let mut detail = error.to_string();
        let mut cause = error.source();
        while let Some(error) = cause {
            detail = format!("{detail}: {error}");
            cause = error.source();
        }
        Self {
            status: StatusCode::INTERNAL_SERVER_ERROR,
            title: "internal",
            detail,
            row: None,
            field: String::new(),
        }
    }
}

impl Problem {
    /// Of which row of a call with many this is said.
    pub fn about(self, kind: Kind, name: &str) -> Self {
        Self { row: Some((kind, name.to_owned())), ..self }
    }

    /// Of which field this is said.
    pub fn of_field(self, field: impl Into<String>) -> Self {
        Self { field: field.into(), ..self }
    }

    /// The field lies within this one.
    pub fn within(self, outer: &str) -> Self {
        let field = format!("{outer}.{}", self.field);
        self.of_field(field)
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        Self::internal(&error)
    }
}

impl From<ChangeError<Problem>> for Problem {
    fn from(error: ChangeError<Problem>) -> Self {
        match error {
            ChangeError::Refused(problem) => problem,
            ChangeError::Store(error) => error.into(),
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut body = json!({ "status": self.status.as_u16(), "title": self.title, "detail": self.detail });
        // Extension members (RFC 9457 §3.2), where a call sets many rows.
        if let Some((kind, name)) = self.row {
            body["kind"] = kind.name().into();
            (body["name"], body["field"]) = (name.into(), self.field.into());
        }
        let mut response = (self.status, Json(body)).into_response();
        let kind = HeaderValue::from_static("application/problem+json");
        response.headers_mut().insert(header::CONTENT_TYPE, kind);
        response
    }
}
