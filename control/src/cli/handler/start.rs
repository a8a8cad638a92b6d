//! `handler new`: a project that builds, is tested and says what to do next.

use std::fs;
use std::path::{Path, PathBuf};

use clap::Args;
use control_wire::limits::NAME_BYTES_MAX;

use crate::serve::Fault;

/// What `handler new` is told.
#[derive(Args)]
pub(in crate::cli) struct New {
    /// Name of the handler and of its folder: letters, digits, `_` and `-`.
    name: String,
    /// Folder in which the project's folder is made.
    #[arg(long, default_value = ".")]
    dir: PathBuf,
}

const SOURCE: &str = r#"//! Lets a sandbox read and not write, and notes what it asks for. Say here what yours does.
//! `#[handler(hooks = ["response"])]` would show it answers too, "requestBody" and "responseBody" their bodies.

use handlers_sdk::prelude::*;

/// GET passes, with the sandbox's name in a header; other methods are refused.
#[handler]
async fn NAME(mut request: Request, context: Context) -> Outcome {
    info!("{} {}", request.method(), request.url());
    if request.method() != Method::GET {
        return Outcome::refuse(405, "only GET is allowed").header("Allow", "GET");
    }
    request.headers_mut().set("x-sandbox", context.container_id());
    request.forward()
}

#[cfg(test)]
mod tests {
    use handlers_sdk::testing::{Host, Request, Verdict};

    use super::NAME;

    #[test]
    fn reading_passes_with_the_name_of_the_sandbox() {
        let ran = Host::new().container_id("box").get::<NAME>("https://example.com/");
        assert_eq!((ran.verdict.clone(), ran.header("x-sandbox")), (Verdict::Forwarded, Some("box")));
    }

    #[test]
    fn writing_is_refused() {
        let ran = Host::new().run::<NAME>(&Request::new("POST", "https://example.com/"));
        assert_eq!(ran.verdict, Verdict::Refused { status: Some(405), reason: "only GET is allowed".into() });
    }
}
"#;

/// Makes the project.
pub(in crate::cli) fn make(new: &New) -> Result<(), Fault> {
    let name = crate_name(&new.name)?;
    let folder = new.dir.join(&new.name);
    if folder.exists() {
        return Err(format!("{} is there already; take another name", folder.display()).into());
    }
    let sdk = sdk(&new.dir);
    fs::create_dir_all(folder.join("src"))?;
    fs::write(folder.join("Cargo.toml"), manifest(&name, sdk.as_deref()))?;
    fs::write(folder.join("src/lib.rs"), SOURCE.replace("NAME", &name))?;
    fs::write(folder.join(".gitignore"), "target\n")?;
    if let Some(sdk) = &sdk {
        // The versions with which the SDK's own examples are tested; cargo drops what this project does not need.
        fs::copy(sdk.join("examples/Cargo.lock"), folder.join("Cargo.lock"))?;
    }
    let shown = folder.display();
    println!("{shown}/src/lib.rs is your handler.");
    if sdk.is_none() {
        println!(
            "Its Cargo.toml asks for handlers-sdk {} by version, since no checkout of Outgate is around; with one, \
             write path = \"…/handlers-sdk\" there.",
            env!("CARGO_PKG_VERSION")
        );
    }
    println!("  cargo test --manifest-path {shown}/Cargo.toml   # natively, in milliseconds");
    println!("  outgate handler build {shown}");
    Ok(())
}

/// A name that is a crate and a function.
fn crate_name(text: &str) -> Result<String, String> {
    let name = text.replace('-', "_");
    let plain = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    let begins = name.starts_with(|first: char| first.is_ascii_lowercase());
    if !plain
        || !begins
        || name.len() > NAME_BYTES_MAX / 4
        || name.bytes().any(|byte| byte.is_ascii_uppercase())
    {
        return Err(format!(
            "`{text}` cannot be a handler's name; write a-z, 0-9, `_` and `-`, a letter first"
        ));
    }
    Ok(name)
}

/// The SDK of the checkout in which the project is made, in which the command runs, or in which it was built.
fn sdk(dir: &Path) -> Option<PathBuf> {
    let own = std::env::current_exe().unwrap_or_default();
    let (there, here) = (dir.canonicalize().unwrap_or_default(), std::env::current_dir().unwrap_or_default());
    let mut around = there.ancestors().chain(here.ancestors()).chain(own.ancestors());
    let found = around.find(|folder| {
        folder.join("handlers-sdk/Cargo.toml").is_file() && folder.join("handlers-sdk/guests").is_dir()
    });
    found.map(|checkout| checkout.join("handlers-sdk"))
}

fn manifest(name: &str, sdk: Option<&Path>) -> String {
    let sdk = match sdk {
        Some(path) => format!("{{ path = {} }}", toml::Value::from(&*path.to_string_lossy())),
        None => format!("\"{}\"", env!("CARGO_PKG_VERSION")),
    };
    format!(
        "[package]\nname = \"{name}\"\nversion = \"0.1.0\"\nedition = \"2024\"\n\n\
         # The module, and a library for native tests.\n[lib]\ncrate-type = [\"cdylib\", \"rlib\"]\n\n\
         [dependencies]\nhandlers-sdk = {sdk}\n\n# Of no other workspace.\n[workspace]\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_become_crates_and_others_are_refused() {
        assert_eq!(crate_name("git-only2").unwrap(), "git_only2");
        for name in ["", "2x", "../x", "a b", "Aa", "ä", "-a", "a.b"] {
            assert!(crate_name(name).unwrap_err().contains("a letter first"), "{name}");
        }
    }

    #[test]
    fn a_manifest_names_the_sdk_by_path_or_by_version() {
        let by_path: toml::Table = manifest("x", Some(Path::new("/a \"b\""))).parse().unwrap();
        assert_eq!(by_path["dependencies"]["handlers-sdk"]["path"].as_str(), Some("/a \"b\""));
        let by_version: toml::Table = manifest("x", None).parse().unwrap();
        assert_eq!(by_version["dependencies"]["handlers-sdk"].as_str(), Some(env!("CARGO_PKG_VERSION")));
    }
}
