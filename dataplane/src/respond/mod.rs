//! What a sandbox is told: a refusal with a stable code, who can mend it, and how.

pub mod refusal;

pub use refusal::{Blame, Refusal};
