//! The harness that end-to-end, attack and tidy tests share.

use std::path::PathBuf;

pub mod allocations;
pub mod cgi;
pub mod client;
pub mod coding;
pub mod counting;
pub mod descriptors;
pub mod frames;
pub mod gateway;
pub mod guests;
pub mod http2;
pub mod netns;
pub mod no_ring;
pub mod origin;
pub mod process;
mod programs;
pub mod questions;
pub mod reading;
mod running;
pub mod relay;
pub mod rows;
pub mod sandboxed;
pub mod secured;
pub mod stage;
pub mod websocket;
pub mod upstream_proxy;
pub mod yard;

/// The root of the checkout.
///
/// # Panics
/// Never: the manifest of this package has a parent.
pub fn checkout() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).parent().expect("the package lies in the checkout").to_owned()
}
