//! Unmodified HTTP clients inside `outgate run`, in the way that each documents: what is allowed is answered, what is
//! refused says so to the person, and a credential is attached that neither client nor sandbox ever holds.
//!
//! Needs the clients; `.ci/run` installs them and calls this target by name.

mod browser;
mod command_line;
mod curl;
mod grpc;
mod java;
mod nghttp2;
mod node;
mod page;
mod python;
mod s3;
mod streams;
mod trial;
mod websockets;
