//! The contract between control and data planes.

pub mod policy;
