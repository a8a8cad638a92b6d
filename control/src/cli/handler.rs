//! `handler`: from an idea to a module that is published.

mod page;
mod request;
mod start;
mod try_out;

use std::path::PathBuf;

use clap::Subcommand;
use handlers_sdk_guests::GuestBuild;

use super::api::{Api, at, read};
use crate::compile::check;
use crate::serve::Fault;

/// What is done with handlers.
#[derive(Subcommand)]
pub(super) enum Handler {
    /// Makes a project with a handler of a few lines and its test
    New(start::New),
    /// Builds a handler's project and prints where its module is
    Build {
        /// Folder of its Cargo.toml.
        #[arg(default_value = ".")]
        dir: PathBuf,
        /// Folder for everything that the build leaves; `target/outgate` in the project unless given.
        #[arg(long)]
        target_dir: Option<PathBuf>,
    },
    /// Runs a module on one request, and its answer, as a plane would, and prints outcome, log and cost
    Test(Box<try_out::Test>),
    /// Publishes a module
    Put {
        /// Name by which policies call it.
        name: String,
        /// The module (.wasm).
        file: PathBuf,
    },
    /// Removes a handler that no policy names
    Rm {
        /// Its name.
        name: String,
    },
    /// Lists handlers with their versions
    List,
}

/// Does it.
pub(super) async fn obey(api: &Api, command: Handler) -> Result<(), Fault> {
    match command {
        Handler::New(new) => start::make(&new),
        Handler::Build { dir, target_dir } => build(dir, target_dir),
        Handler::Test(test) => try_out::try_out(&test),
        Handler::Put { name, file } => api.show("PUT", &at("handlers", &name), read(&file)?).await,
        Handler::Rm { name } => api.remove(&at("handlers", &name)).await,
        Handler::List => api.get("/v1/handlers").await,
    }
}

/// Builds, and checks what publishing would check, so that a refusal comes at the author's desk.
fn build(dir: PathBuf, target_dir: Option<PathBuf>) -> Result<(), Fault> {
    if !dir.join("Cargo.toml").is_file() {
        let dir = dir.display();
        return Err(
            format!("{dir} holds no Cargo.toml; make a project with `outgate handler new NAME`").into()
        );
    }
    let target_dir = target_dir.unwrap_or_else(|| dir.join("target/outgate"));
    let module = handlers_sdk_guests::build(&GuestBuild { manifest_dir: dir, target_dir })?;
    let wasm = read(&module)?;
    let manifest = check(&wasm)?;
    // Alone on its line, for scripts.
    println!("{}", module.display());
    eprintln!(
        "handler {}, {} KiB. Try it:  outgate handler test {path} --request https://example.com/\n\
         Publish it:  outgate handler put {} {path}",
        manifest.name,
        wasm.len().div_ceil(1024),
        manifest.name,
        path = module.display()
    );
    Ok(())
}
