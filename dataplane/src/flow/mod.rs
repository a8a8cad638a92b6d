//! The path of one request, top to bottom. This module alone knows the order of the stages.

pub mod bell;
pub mod open;
pub mod tie;
pub mod relay;
pub mod exchange;
pub mod guest;
pub mod core;
pub mod request;
pub mod send;
mod requests;
pub mod connection;
