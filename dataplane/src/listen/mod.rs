//! Ways in: listening sockets, the first bytes of a connection, and the names that a sandbox asks for.

pub mod dns;
pub mod sniff;
pub mod socket;
pub mod synthetic;

pub use control_wire::attach::ListenerKind;
