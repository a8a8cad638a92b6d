//! Calls of the admin API over its Unix socket, HTTP/1.1, one connection per call.

use std::io;
use std::path::{Path, PathBuf};

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1::SendRequest;
use hyper::{Request, Response, StatusCode, header};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tokio::task::AbortHandle;

use crate::limits::ANSWER_BYTES_MAX;

/// Where the API listens.
#[derive(Clone, Debug)]
pub struct Client {
    socket: PathBuf,
}

/// What the API answered.
#[derive(Debug)]
pub struct Reply {
    /// Its status.
    pub status: StatusCode,
    /// The revision, in quotes as `If-Match` takes it.
    pub etag: Option<String>,
    /// The media type.
    pub content_type: String,
    /// The body.
    pub body: Bytes,
}

/// Why a call has no answer, or a refusal as its answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens on the socket.
    #[error(
        "cannot reach control at {socket}; start it with `outgate serve`, or name its socket with --socket"
    )]
    Connect {
        /// The socket.
        socket: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The connection broke.
    #[error("control did not answer")]
    Http(#[from] hyper::Error),
    /// A name or a header cannot stand in a request.
    #[error("the call cannot be written")]
    Request(#[from] hyper::http::Error),
    /// The answer broke off, or is larger than any that control gives.
    #[error("control's answer cannot be read: {0}")]
    Body(Box<dyn std::error::Error + Send + Sync>),
    /// Control refused; its words hold the remedy.
    #[error("{detail}")]
    Refused {
        /// The status.
        status: StatusCode,
        /// What is wrong, and the fix.
        detail: String,
    },
}

/// A name as one segment of a path (RFC 3986 §3.3): everything but unreserved bytes is escaped.
pub fn segment(name: &str) -> String {
    let mut text = String::with_capacity(name.len());
    for byte in name.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) {
            text.push(byte.into());
        } else {
            text.push('%');
            text.push_str(&data_encoding::HEXUPPER.encode(&[byte]));
        }
    }
    text
}

impl Client {
    /// Calls over this socket.
    pub fn new(socket: &Path) -> Self {
        Self { socket: socket.to_owned() }
    }

    /// One call; every status is an answer.
    ///
    /// # Errors
    /// When there is no whole answer.
    pub async fn send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> Result<Reply, ClientError> {
        self.begin(method, path, headers, body.into()).await?.whole().await
    }

    /// One call whose answer goes on for as long as both ends live.
    ///
    /// # Errors
    /// When there is no answer, or it is a refusal.
    pub async fn hold(&self, method: &str, path: &str) -> Result<Held, ClientError> {
        let mut held = self.begin(method, path, &[], Bytes::new()).await?;
        if !held.answer.status().is_success() {
            return Err(refusal(&held.whole().await?));
        }
        // The other end has done what was asked.
        match held.answer.frame().await {
            Some(first) => drop(first?),
            None => return Err(ClientError::Body("it ended at once".into())),
        }
        Ok(held)
    }

    async fn begin(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: Bytes,
    ) -> Result<Held, ClientError> {
        let stream = UnixStream::connect(&self.socket)
            .await
            .map_err(|source| ClientError::Connect { socket: self.socket.display().to_string(), source })?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        // A fault of it is the call's fault too and is told there.
        let driver = tokio::spawn(connection).abort_handle();
        let mut request = Request::builder().method(method).uri(path).header(header::HOST, "control");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let answer = sender.send_request(request.body(Full::new(body))?).await?;
        Ok(Held { answer, _sender: sender, driver })
    }

    /// One call whose refusal is an error.
    ///
    /// # Errors
    /// When there is no whole answer, or it is a refusal.
    pub async fn call(&self, method: &str, path: &str, body: impl Into<Bytes>) -> Result<Reply, ClientError> {
        let reply = self.send(method, path, &[], body).await?;
        if reply.status.is_success() { Ok(reply) } else { Err(refusal(&reply)) }
    }
}

/// What control refused with.
fn refusal(reply: &Reply) -> ClientError {
    let problem = serde_json::from_slice::<serde_json::Value>(&reply.body).ok();
    let detail = problem.as_ref().and_then(|problem| problem["detail"].as_str()).map(str::to_owned);
    let detail = detail.unwrap_or_else(|| String::from_utf8_lossy(&reply.body).trim().to_owned());
    let detail = if detail.is_empty() { reply.status.to_string() } else { detail };
    ClientError::Refused { status: reply.status, detail }
}

/// An answer that has begun. Dropped, its connection is closed.
pub struct Held {
    answer: Response<Incoming>,
    _sender: SendRequest<Full<Bytes>>,
    driver: AbortHandle,
}

impl Held {
    /// Waits until the other end is gone.
    pub async fn ended(mut self) {
        while let Some(Ok(_more)) = self.answer.frame().await {}
    }

    async fn whole(mut self) -> Result<Reply, ClientError> {
        let text = |name| self.answer.headers().get(name).and_then(|value| value.to_str().ok());
        let etag = text(header::ETAG).map(str::to_owned);
        let content_type = text(header::CONTENT_TYPE).unwrap_or_default().to_owned();
        let status = self.answer.status();
        let body = Limited::new(self.answer.body_mut(), ANSWER_BYTES_MAX).collect().await;
        let body = body.map_err(ClientError::Body)?.to_bytes();
        Ok(Reply { status, etag, content_type, body })
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.driver.abort();
    }
}
