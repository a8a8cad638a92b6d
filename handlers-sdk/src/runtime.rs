//! The executor: one future per request, polled once per event, the same in the gateway and in native tests.

use std::any::Any;
use std::cell::Cell;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context as TaskContext, Poll, Waker};

use handlers_sdk_abi::{ActionWriter, Chunk, Event, View};
use serde::de::DeserializeOwned;

use crate::body::{self, emit};
use crate::call::{self, Call};
use crate::context::Context;
use crate::outcome::Outcome;
use crate::request::Request;

/// A handler's future.
pub type Run = Pin<Box<dyn Future<Output = Outcome>>>;

/// What the attribute makes of an async function.
pub trait Handler {
    /// What the operator gives with `params`.
    type Params: DeserializeOwned + 'static;
    /// Its default name.
    const NAME: &'static str;
    /// Its manifest, as JSON.
    const MANIFEST: &'static str;
    /// Begins to handle a request.
    fn run(request: Request, context: Context<Self::Params>) -> Run;
}

/// What an event came to.
#[derive(Debug)]
pub enum Reply {
    /// The list; the flag is true where the handler waits.
    List(Vec<u8>, bool),
    /// This handler does not know the event.
    NotHandled,
}

thread_local! {
    // Cells that are emptied while the future runs, so nothing is borrowed across a poll.
    static PARAMS: Cell<Option<Rc<dyn Any>>> = const { Cell::new(None) };
    static RUNNING: Cell<Option<Run>> = const { Cell::new(None) };
    // What a watch gives for a piece, and the list of the event before: their space is used again for each event, since
    // a guest's memory is not put back within an exchange.
    static GIVEN: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
    static LIST: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// Takes back the list of an event that was read, for the next one.
pub fn recycle(list: Vec<u8>) {
    LIST.set(list);
}

/// Reads a handler's parameters and keeps them for its requests.
///
/// # Errors
/// With a sentence for the operator, where they do not have the form that the handler wants.
pub fn init<H: Handler>(json: &[u8]) -> Result<(), String> {
    let params: H::Params = parse(json).map_err(|error| format!("params of {}: {error}", H::NAME))?;
    PARAMS.set(Some(Rc::new(params)));
    RUNNING.set(None);
    call::begin();
    Ok(())
}

/// No parameters at all may be written as nothing, `null` or `{}`, whichever form the handler's type takes.
fn parse<P: DeserializeOwned>(json: &[u8]) -> Result<P, serde_json::Error> {
    match json.trim_ascii() {
        b"" | b"null" | b"{}" => serde_json::from_slice(b"null").or_else(|_| serde_json::from_slice(b"{}")),
        json => serde_json::from_slice(json),
    }
}

/// Handles one event.
///
/// # Panics
/// Where the host broke the contract: an event before `init`, or a payload of another form.
pub fn event<H: Handler>(kind: u32, payload: &[u8]) -> Reply {
    let space = LIST.take();
    call::with(|call| call.list.reuse(space));
    match Event::decode(kind, payload) {
        Ok(Event::Request(_)) => begin::<H>(payload),
        Ok(Event::Response(_)) => match RUNNING.take() {
            Some(run) => {
                let answer = kept(payload);
                call::with(|call| (call.answer, call.sent) = (Some(answer), false));
                poll::<H>(run)
            }
            // It decided without waiting for the answer, which goes on as it is.
            None => Reply::List(Vec::new(), false),
        },
        Ok(Event::RequestChunk(chunk)) => watched(true, chunk),
        Ok(Event::ResponseChunk(chunk)) => watched(false, chunk),
        Ok(Event::Completion(done)) => {
            call::with(|call| call.complete(done.slot, done.status, done.bytes));
            match RUNNING.take() {
                Some(run) => poll::<H>(run),
                None => Reply::List(Vec::new(), false),
            }
        }
        Ok(Event::Cancelled) => {
            RUNNING.set(None);
            call::begin();
            Reply::List(Vec::new(), false)
        }
        Err(handlers_sdk_abi::EventError::UnknownKind(_)) => Reply::NotHandled,
        Err(error) => panic!("the host's event is malformed: {error}"),
    }
}

fn begin<H: Handler>(payload: &[u8]) -> Reply {
    call::begin();
    let view = kept(payload);
    let kept = PARAMS.take();
    PARAMS.set(kept.clone());
    let Some(params) = kept.and_then(|params| params.downcast::<H::Params>().ok()) else {
        panic!("a request came before the parameters");
    };
    poll::<H>(H::run(Request::new(view), Context::new(view, params)))
}

/// A view that stays. The inbox is written again when the next event comes, so it is copied. It is not freed: a guest's
/// memory is put back after each exchange, which has two of them, and a native test ends.
fn kept(payload: &[u8]) -> View<'static> {
    let bytes: &'static [u8] = Box::leak(Box::from(payload));
    let Ok(view) = View::parse(bytes) else { panic!("the view was valid before it was copied") };
    view
}

/// Shows a piece of a body to what the author's code left for it.
fn watched(up: bool, chunk: Chunk<'_>) -> Reply {
    let mut given = GIVEN.take();
    given.clear();
    let outcome = match call::take_watch(up) {
        Some(mut watch) => {
            let seen = watch.see(body::Chunk { bytes: chunk.bytes, last: chunk.last }, &mut given);
            if seen.is_ok() {
                if up { call::watch_up(watch) } else { call::watch_down(watch) }
            }
            seen
        }
        None => panic!("a piece of a body came that nobody watches"),
    };
    let mut list = call::with(Call::take_list);
    match outcome {
        Ok(()) => emit(&given, &mut list),
        Err(outcome) => outcome.write(&mut list),
    }
    GIVEN.set(given);
    Reply::List(list.into_bytes(), false)
}

fn poll<H: Handler>(mut run: Run) -> Reply {
    match run.as_mut().poll(&mut TaskContext::from_waker(Waker::noop())) {
        Poll::Pending => {
            let (sent, waits) = call::with(|call| (call.sent, !call.busy.is_empty()));
            assert!(!(sent && waits), "a handler awaits the answer alone, no operation beside it");
            assert!(
                !sent || H::MANIFEST.contains("\"response"),
                "a handler that awaits the answer names the hook: #[handler(hooks = [\"response\"])]"
            );
            RUNNING.set(Some(run));
            // Nothing is pending where the request was sent: the host goes on, and tells of the answer.
            Reply::List(call::with(Call::take_list).into_bytes(), !sent)
        }
        Poll::Ready(outcome) => {
            let mut list = call::with(Call::take_list);
            outcome.write(&mut list);
            Reply::List(list.into_bytes(), false)
        }
    }
}

/// A list that holds one error.
pub fn failure(message: &str) -> Vec<u8> {
    let mut list = ActionWriter::new();
    Outcome::error(message).write(&mut list);
    list.into_bytes()
}
