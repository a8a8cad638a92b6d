//! `plane`: the planes that serve sandboxes.

use clap::Subcommand;
use serde_json::Value;

use super::api::{Api, at};
use crate::serve::Fault;

/// What is done with planes.
#[derive(Subcommand)]
pub(super) enum Plane {
    /// Lists planes and what each enforces
    List,
    /// Removes one that will not come back; its name is free again
    Rm {
        /// Its name.
        name: String,
    },
    /// Makes a token with which one plane may join, once
    Token,
}

/// Does it.
pub(super) async fn obey(api: &Api, command: Plane) -> Result<(), Fault> {
    match command {
        Plane::List => api.get("/v1/planes").await,
        Plane::Rm { name } => api.remove(&at("planes", &name)).await,
        Plane::Token => {
            let reply = api.client.call("POST", "/v1/join-tokens", Vec::new()).await?;
            let made: Value = serde_json::from_slice(&reply.body)?;
            // Alone on its line, as the plane's file takes it.
            println!("{}", made["token"].as_str().unwrap_or_default());
            eprintln!(
                "one plane may join with it, once, within an hour; control.joinTokenFile names its file"
            );
            Ok(())
        }
    }
}
