//! Calls of commands on this machine that put a sandbox here for as long as they run.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::Json;
use axum::body::{Body, Bytes, HttpBody};
use axum::extract::{Path, State};
use axum::http::header;
use axum::response::IntoResponse;
use hyper::body::Frame;
use serde_json::json;

use super::{Answer, Problem, Shared, check_name};
use crate::leases::{Lease, LeaseError, release};

/// Where everything is, and of which version.
pub(super) async fn get_here(State(core): Shared) -> Answer {
    let here = core.here.get().ok_or_else(|| Problem::missing("place", "here"))?;
    Ok(Json(here).into_response())
}

/// Takes a name. The answer begins when it is taken and does not end; with the connection, all rows of that name go.
pub(super) async fn post_lease(State(core): Shared, Path(name): Path<String>) -> Answer {
    check_name("sandbox", &name)?;
    // Apart: where the caller leaves meanwhile, the lease is dropped when it is taken, and all goes with it.
    let (taking, wanted) = (Arc::clone(&core), name.clone());
    let taken = tokio::spawn(async move { Lease::take(&taking, &wanted).await }).await;
    let taken = taken.unwrap_or_else(|failed| std::panic::resume_unwind(failed.into_panic()));
    let lease = taken.map_err(|error| match error {
        LeaseError::Taken(_) | LeaseError::Full => Problem::conflict(error.to_string()),
        LeaseError::Store(error) => error.into(),
    })?;
    let first = format!("{}\n", json!({ "lease": name }));
    let body = Body::new(Held { first: Some(first.into()), _lease: lease });
    Ok(([(header::CONTENT_TYPE, "application/json")], body).into_response())
}

/// Ends a lease; answers when its sandbox is detached and its rows are gone.
pub(super) async fn delete_lease(State(core): Shared, Path(name): Path<String>) -> Answer {
    if !release(&core, &name).await? {
        return Err(Problem::missing("lease", &name));
    }
    Ok(Json(json!({ "released": name })).into_response())
}

/// An answer that is dropped when its connection ends, and not before.
struct Held {
    first: Option<Bytes>,
    _lease: Lease,
}

impl HttpBody for Held {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        // Nothing wakes it: the server drops it.
        self.first.take().map_or(Poll::Pending, |first| Poll::Ready(Some(Ok(Frame::data(first)))))
    }
}
