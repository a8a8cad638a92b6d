//! The executor: one future per request, polled once per event, the same in the gateway and in native tests.

use std::any::Any;
use std::cell::Cell;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context as TaskContext, Poll, Waker};

use handlers_sdk_abi::{ActionWriter, Event, View};
use serde::de::DeserializeOwned;

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
}

/// Reads a handler's parameters and keeps them for its requests.
///
/// # Errors
/// With a sentence for the operator, where they do not have the form that the handler wants.
pub fn init<H: Handler>(json: &[u8]) -> Result<(), String> {
    let params: H::Params = parse(json).map_err(|error| format!("params of {}: {error}", H::NAME))?;
    PARAMS.set(Some(Rc::new(params)));
    RUNNING.set(None);
    call::with(|call| *call = Call::default());
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
    match Event::decode(kind, payload) {
        Ok(Event::Request(_)) => begin::<H>(payload),
        Ok(Event::Completion(done)) => {
            call::with(|call| call.complete(done.slot, done.status, done.bytes));
            match RUNNING.take() {
                Some(run) => poll(run),
                None => Reply::List(Vec::new(), false),
            }
        }
        Ok(Event::Cancelled) => {
            RUNNING.set(None);
            call::with(|call| *call = Call::default());
            Reply::List(Vec::new(), false)
        }
        Ok(_) | Err(handlers_sdk_abi::EventError::UnknownKind(_)) => Reply::NotHandled,
        Err(error) => panic!("the host's event is malformed: {error}"),
    }
}

fn begin<H: Handler>(payload: &[u8]) -> Reply {
    call::with(|call| *call = Call::default());
    // The inbox is written again when a completion comes, so the view is copied. It is not freed: a guest's memory is
    // put back after each request, and a native test ends.
    let bytes: &'static [u8] = Box::leak(Box::from(payload));
    let Ok(view) = View::parse(bytes) else { panic!("the view was valid before it was copied") };
    let kept = PARAMS.take();
    PARAMS.set(kept.clone());
    let Some(params) = kept.and_then(|params| params.downcast::<H::Params>().ok()) else {
        panic!("a request came before the parameters");
    };
    poll(H::run(Request::new(view), Context::new(view, params)))
}

fn poll(mut run: Run) -> Reply {
    match run.as_mut().poll(&mut TaskContext::from_waker(Waker::noop())) {
        Poll::Pending => {
            RUNNING.set(Some(run));
            Reply::List(call::with(Call::take_list).into_bytes(), true)
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
