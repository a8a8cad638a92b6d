//! The path of one request, top to bottom. This module alone knows the order of the stages.

pub mod bell;
pub mod open;
pub mod relay;
pub mod exchange;
