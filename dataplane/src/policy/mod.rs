//! May it? Pure judgement of one request by compiled rules: no input or output, no clock.

mod permit;

pub use permit::{AddressPolicy, Asked, Decision, Denial, DenyReason, HandlerUse, Injection, Permit, Roots};
