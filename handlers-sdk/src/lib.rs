//! The library of handler authors.
//!
//! A handler is one async function. It sees the head of a request that left a sandbox and says what becomes of it.
//!
//! ```
//! use handlers_sdk::prelude::*;
//!
//! #[handler]
//! async fn inject_token(mut request: Request, _: Context) -> Outcome {
//!     if request.host() == "api.github.com" {
//!         request.headers_mut().bearer(secret("github"));
//!     }
//!     request.forward()
//! }
//! ```
//!
//! The same code runs natively in tests ([`testing`]) and as WebAssembly inside the gateway. Secrets are named, never
//! seen. Each request begins with the memory that the handler had after it read its parameters: nothing that one
//! request leaves in a static is there for the next.

pub mod method;
pub mod headers;
pub mod request;
pub mod outcome;
pub mod context;
pub mod log;
mod call;
pub mod operation;
pub mod runtime;
pub mod testing;
#[cfg(target_arch = "wasm32")]
mod guest;

pub use context::Context;
pub use handlers_sdk_abi as abi;
pub use handlers_sdk_macros::handler;
pub use headers::{HeaderError, Headers, Secret, Value, secret};
pub use method::Method;
pub use operation::OperationError;
pub use outcome::{IntoOutcome, Outcome};
pub use request::Request;
pub use runtime::Handler;

/// What a handler needs, in one line.
pub mod prelude {
    pub use crate::{Context, Method, Outcome, Request, handler, secret};
    pub use crate::{debug, error, info, warn};
}

/// What the attribute's output names; not for authors.
#[doc(hidden)]
pub mod __private {
    pub use crate::context::ContextOf;
    #[cfg(target_arch = "wasm32")]
    pub use crate::guest::{alloc, event, init};
}
