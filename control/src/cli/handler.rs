//! `handler`: building and publishing modules.

use std::path::PathBuf;

use clap::Subcommand;

use super::api::{Api, at, read};
use crate::serve::Fault;

/// What is done with handlers.
#[derive(Subcommand)]
pub(super) enum Handler {
    /// Publishes a module.
    Put {
        name: String,
        file: PathBuf,
    },
    /// Builds a handler's crate and prints where its module is.
    Build {
        dir: PathBuf,
    },
    Rm {
        name: String,
    },
    List,
}

/// Does it.
pub(super) async fn obey(api: &Api, command: Handler) -> Result<(), Fault> {
    match command {
        Handler::Put { name, file } => api.show("PUT", &at("handlers", &name), read(&file)?).await,
        Handler::Build { dir } => {
            if !dir.join("Cargo.toml").is_file() {
                let dir = dir.display();
                return Err(format!("{dir} holds no Cargo.toml; give the folder of a handler's crate").into());
            }
            let target_dir = dir.join("target/outgate");
            let build = handlers_sdk_guests::GuestBuild { manifest_dir: dir, target_dir };
            println!("{}", handlers_sdk_guests::build(&build)?.display());
            Ok(())
        }
        Handler::Rm { name } => api.remove(&at("handlers", &name)).await,
        Handler::List => api.get("/v1/handlers").await,
    }
}
