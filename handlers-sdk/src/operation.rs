//! Operations that a handler awaits. The gateway performs them and calls the handler again.

use core::fmt;
use core::future::Future;
use core::pin::Pin;
use core::task::{Context, Poll};

use handlers_sdk_abi::Operation;
use handlers_sdk_abi::code::Status;

use crate::call;

/// Why an operation has no result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OperationError {
    /// Not allowed.
    Denied,
    /// It did not end in its time.
    Timeout,
    /// Whoever had to do it could not be reached.
    Unavailable,
    /// The result does not fit.
    TooLarge,
    /// The handler already waits for as many operations as it may.
    NoSlot,
}

impl fmt::Display for OperationError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Denied => "the operation is not allowed",
            Self::Timeout => "the operation timed out",
            Self::Unavailable => "the operation's service is unavailable",
            Self::TooLarge => "the operation's result is too large",
            Self::NoSlot => "too many operations at once",
        })
    }
}

impl std::error::Error for OperationError {}

/// An operation that has not ended. It starts when it is first polled.
#[derive(Debug)]
#[must_use = "an operation starts when it is awaited"]
pub struct Pending {
    state: State,
}

#[derive(Debug)]
enum State {
    New(Request),
    Waiting(u8),
    Done,
}

#[derive(Debug)]
enum Request {
    Get { store: String, key: String },
    Put { store: String, key: String, value: Vec<u8>, ttl_ms: u64 },
    Delete { store: String, key: String },
    Timer { ms: u32 },
}

impl Request {
    fn operation(&self) -> Operation<'_> {
        match self {
            Self::Get { store, key } => Operation::KvGet { store, key },
            Self::Put { store, key, value, ttl_ms } => {
                Operation::KvPut { store, ttl_ms: *ttl_ms, key, value }
            }
            Self::Delete { store, key } => Operation::KvDelete { store, key },
            Self::Timer { ms } => Operation::Timer { ms: *ms },
        }
    }
}

impl Future for Pending {
    type Output = Result<Option<Vec<u8>>, OperationError>;

    fn poll(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Self::Output> {
        if let State::New(request) = &self.state {
            match call::with(|call| call.start(&request.operation())) {
                Some(slot) => self.state = State::Waiting(slot),
                None => {
                    self.state = State::Done;
                    return Poll::Ready(Err(OperationError::NoSlot));
                }
            }
        }
        let State::Waiting(slot) = self.state else { panic!("an operation was polled after it ended") };
        let Some((status, bytes)) = call::with(|call| call.take(slot)) else { return Poll::Pending };
        self.state = State::Done;
        Poll::Ready(match status {
            Status::None => Ok(None),
            Status::Value => Ok(Some(bytes)),
            Status::Denied => Err(OperationError::Denied),
            Status::Timeout => Err(OperationError::Timeout),
            Status::Unavailable => Err(OperationError::Unavailable),
            Status::TooLarge => Err(OperationError::TooLarge),
        })
    }
}

/// A key-value store.
#[derive(Clone, Debug)]
pub struct Kv {
    store: String,
    scope: String,
}

impl Kv {
    pub(crate) fn new(store: &str) -> Self {
        Self { store: store.to_owned(), scope: String::new() }
    }

    /// The same store, all keys below a prefix, such as the sandbox's id.
    pub fn scoped(mut self, scope: &str) -> Self {
        self.scope.push_str(scope);
        self.scope.push('/');
        self
    }

    /// The value of a key.
    pub fn get(&self, key: &str) -> Pending {
        new(Request::Get { store: self.store.clone(), key: self.key(key) })
    }

    /// Writes a key; it is forgotten after `ttl_ms`, or never where that is 0.
    pub fn put(&self, key: &str, value: impl Into<Vec<u8>>, ttl_ms: u64) -> Pending {
        new(Request::Put { store: self.store.clone(), key: self.key(key), value: value.into(), ttl_ms })
    }

    /// Forgets a key.
    pub fn delete(&self, key: &str) -> Pending {
        new(Request::Delete { store: self.store.clone(), key: self.key(key) })
    }

    fn key(&self, key: &str) -> String {
        format!("{}{key}", self.scope)
    }
}

pub(crate) fn sleep(ms: u32) -> Pending {
    new(Request::Timer { ms })
}

fn new(request: Request) -> Pending {
    Pending { state: State::New(request) }
}
