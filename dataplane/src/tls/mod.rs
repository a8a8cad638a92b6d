//! TLS on both legs: certificate authorities, leaves, and streams over the ring.

mod authority;
mod fault;
mod handover;
mod hello;
mod leaf;
mod master;
mod outbox;
mod session;
mod socket;
mod stream;
mod terminator;
mod upstream;
mod wire;

pub use authority::{Authority, AuthorityError, Issuer};
pub use fault::{CertificateFault, TlsError};
pub use handover::{HandoverError, Receiver};
pub use hello::{Hello, HelloReader, hides_a_name, read_hello};
pub use leaf::{CertName, MintError};
pub use master::{MasterError, PoolMaster, SandboxSalt};
pub use socket::{Script, Socket};
pub use stream::{TlsStream, accept, connect};
pub use terminator::{Protocol, Terminator};
pub use upstream::{RootsError, UpstreamTls};
pub use wire::{Chunk, Wire};

#[cfg(test)]
mod tests;
