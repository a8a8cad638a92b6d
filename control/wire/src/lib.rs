//! The contract between control and data planes.

pub mod action;
pub mod certificate;
pub mod client_certificate;
pub mod codec;
pub mod envelope;
pub mod limits;
pub mod machine;
pub mod message;
pub mod pattern;
pub mod pool;
pub mod question;
pub mod policy;
pub mod validate;
pub mod row;
pub mod attach;
pub mod trial;
