//! May it? Pure judgement of one request by compiled rules: no input or output, no clock.

mod answers;
mod decide;
mod host_rule;
mod hosts;
mod permit;
mod rules;

pub use answers::{AnswerError, Answers};
pub use decide::{decide, decide_opaque};
pub use hosts::HostTable;
pub use permit::{
    AddressPolicy, Asked, Decision, Denial, DenyReason, HandlerUse, Injection, Permit, Place, Question,
    Roots, Route, Shown, Via, Way,
};
pub use rules::{DENY_STATUS, RuleError, Rules};

#[cfg(test)]
#[path = "conformance_tests.rs"]
mod conformance;

#[cfg(test)]
#[path = "decide_tests.rs"]
mod decide_order;
