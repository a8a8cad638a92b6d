//! `template`: policies that sandboxes share.

use std::path::PathBuf;

use clap::Subcommand;

use super::api::{Api, at, read};
use crate::serve::Fault;

/// What is done with templates.
#[derive(Subcommand)]
pub(super) enum Template {
    /// Makes or replaces one
    Put {
        /// Its name.
        name: String,
        /// File of the policy, as JSON.
        #[arg(short, long)]
        file: PathBuf,
    },
    /// Prints one
    Get {
        /// Its name.
        name: String,
    },
    /// Removes one that no sandbox uses
    Rm {
        /// Its name.
        name: String,
    },
    /// Lists names and revisions
    List,
}

/// Does it.
pub(super) async fn obey(api: &Api, command: Template) -> Result<(), Fault> {
    match command {
        Template::Put { name, file } => api.show("PUT", &at("templates", &name), read(&file)?).await,
        Template::Get { name } => api.get(&at("templates", &name)).await,
        Template::Rm { name } => api.remove(&at("templates", &name)).await,
        Template::List => api.get("/v1/templates").await,
    }
}
