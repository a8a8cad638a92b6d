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
//! A handler that names more hooks also sees the answer, before anything of it is told, and both bodies, piece by piece
//! as they pass ([`search`] finds words across the pieces):
//!
//! ```
//! use handlers_sdk::prelude::*;
//! use handlers_sdk::search::{Replace, Search};
//!
//! #[handler(hooks = ["response", "responseBody"])]
//! async fn hide_names(request: Request, _: Context) -> Outcome {
//!     let mut response = request.send().await;
//!     response.headers_mut().remove("server");
//!     let mut names = Replace::new(&Search::new(["project-falcon"]), "(a project)");
//!     response.change_body(move |chunk, out| {
//!         names.feed(chunk.bytes, out);
//!         if chunk.last {
//!             names.end(out);
//!         }
//!         Ok(())
//!     });
//!     response.forward()
//! }
//! ```
//!
//! What the gateway or the handler itself answers is not shown. A handler that fails, or refuses, once a part of an
//! answer was told cuts that answer, so that it never looks whole.
//!
//! The same code runs natively in tests ([`testing`]) and as WebAssembly inside the gateway; `outgate handler test`
//! shows a module a request, and an answer, in the gateway's own host. Secrets are named, never seen. Each request
//! begins with the memory that the handler had after it read its parameters: nothing that one request leaves in a
//! static is there for the next. Between the events of one exchange everything stays.

pub mod method;
pub mod headers;
pub mod body;
pub mod request;
pub mod response;
pub mod outcome;
pub mod context;
pub mod log;
pub mod search;
mod call;
pub mod operation;
pub mod runtime;
pub mod testing;
#[cfg(target_arch = "wasm32")]
mod guest;

pub use body::Chunk;
pub use context::Context;
pub use handlers_sdk_abi as abi;
pub use handlers_sdk_macros::handler;
pub use headers::{HeaderError, Headers, Secret, Value, secret};
pub use method::Method;
pub use operation::OperationError;
pub use outcome::{IntoOutcome, Outcome};
pub use request::Request;
pub use response::Response;
pub use runtime::Handler;

/// What a handler needs, in one line.
pub mod prelude {
    pub use crate::{Chunk, Context, Method, Outcome, Request, Response, handler, secret};
    pub use crate::{debug, error, info, warn};
}

/// What the attribute's output names; not for authors.
#[doc(hidden)]
pub mod __private {
    pub use crate::context::ContextOf;
    #[cfg(target_arch = "wasm32")]
    pub use crate::guest::{alloc, event, init};
}
