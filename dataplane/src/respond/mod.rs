//! What a sandbox is told: a refusal with a stable code, who can mend it, and how.

mod answer;
pub mod refusal;
mod no_upstream;
mod reasons;

pub use refusal::{ASK_DENIED, Blame, Refusal};
