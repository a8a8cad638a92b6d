//! The answer that a handler judges, and the wait for it.

use core::future::Future;
use core::pin::Pin;
use core::task::{Context, Poll};

use handlers_sdk_abi::code::BodyUse;
use handlers_sdk_abi::{ActionWriter, View};

use crate::body::{Chunk, Watch};
use crate::call;
use crate::headers::Headers;
use crate::outcome::Outcome;
use crate::request::Request;

/// The head of an upstream's answer, before anything of it was told to the sandbox, and the changes that the handler
/// makes to it.
#[derive(Clone, Debug)]
pub struct Response {
    view: View<'static>,
    headers: Headers,
    status: Option<u16>,
    body: Option<BodyUse>,
}

impl Response {
    pub(crate) fn new(view: View<'static>) -> Self {
        Self { view, headers: Headers::of_response(view), status: None, body: None }
    }

    /// The status as it will be told.
    pub fn status(&self) -> u16 {
        self.status.unwrap_or(self.view.status())
    }

    /// Gives it another status. Where that allows no body (204, 304), none is sent.
    ///
    /// # Panics
    /// Where the status is not between 200 and 599, or a WebSocket was agreed to (101).
    #[track_caller]
    pub fn set_status(&mut self, status: u16) {
        assert!((200..=599).contains(&status), "an answer has a status from 200 to 599, not {status}");
        assert!(self.view.status() >= 200, "the status of an answer that agrees to a WebSocket stays");
        self.status = Some(status);
    }

    /// Length of the body where it is known.
    pub fn body_bytes(&self) -> Option<u64> {
        self.view.body_bytes()
    }

    /// Header fields.
    pub fn headers(&self) -> &Headers {
        &self.headers
    }

    /// Header fields, to be changed. A response carries no secrets.
    pub fn headers_mut(&mut self) -> &mut Headers {
        &mut self.headers
    }

    /// The first value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)
    }

    /// Looks at each piece of the body before it goes on. An outcome that it answers instead ends the exchange: the
    /// sandbox has a part by then, which is cut and never looks whole.
    ///
    /// The handler names the hook `responseBody`.
    pub fn look_at_body(&mut self, look: impl FnMut(Chunk<'_>) -> Result<(), Outcome> + 'static) {
        self.watch(Watch::Look(Box::new(look)));
    }

    /// Gives something else for each piece of the body: what `change` appends. Nothing goes on that it does not give,
    /// and the length is not told before the end. It may hold bytes back until a later piece, the last one at the
    /// latest.
    ///
    /// The handler names the hook `responseBody`.
    pub fn change_body(
        &mut self,
        change: impl FnMut(Chunk<'_>, &mut Vec<u8>) -> Result<(), Outcome> + 'static,
    ) {
        self.watch(Watch::Change(Box::new(change)));
    }

    /// Lets the answer go on, with the changes made.
    pub fn forward(self) -> Outcome {
        Outcome::answer(self)
    }

    fn watch(&mut self, watch: Watch) {
        self.body = Some(watch.wants());
        call::watch_down(watch);
    }

    pub(crate) fn write(&self, list: &mut ActionWriter) {
        self.headers.write(list);
        if let Some(status) = self.status {
            list.status(status);
        }
        if let Some(wanted) = self.body {
            list.body(wanted);
        }
    }
}

/// An answer that has not come: what [`Request::send`] gives, to be awaited.
#[derive(Debug)]
#[must_use = "a request is sent when this is awaited"]
pub struct Sent {
    request: Option<Request>,
}

impl Sent {
    pub(crate) fn new(request: Request) -> Self {
        Self { request: Some(request) }
    }
}

impl Future for Sent {
    type Output = Response;

    fn poll(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Response> {
        if let Some(request) = self.request.take() {
            call::with(|call| {
                request.write(&mut call.list);
                call.sent = true;
            });
            return Poll::Pending;
        }
        call::with(|call| call.answer.take()).map_or(Poll::Pending, |view| Poll::Ready(Response::new(view)))
    }
}
