//! The control process: API, compiler, store and link.

pub mod limits;
pub mod causes;
pub mod files;
pub mod tell;
pub mod fold;
pub mod seal;
pub mod pki;
pub mod tables;
pub mod store;
pub mod planes;
pub mod questions;
pub mod here;
pub mod link;
pub mod answers;
pub mod leases;

pub mod compile;
pub mod api;
pub mod client;
pub mod documents;
pub mod config;
pub mod keeper;
pub mod local_plane;
pub mod serve;
pub mod sandbox;
pub mod gateway;
pub mod run;
pub mod demo;
pub mod preflight;
pub mod cli;
