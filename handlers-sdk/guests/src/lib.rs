//! Builds handlers for WebAssembly with whatever toolchain the machine has.
//!
//! The order: rustup's target where it is installed; a Debian compiler that was unpacked before; `rustup target add`;
//! on Debian a compiler with its own standard library's source, fetched and unpacked below the target folder, without
//! root; else an error that names the remedies. Whatever is fetched is announced on standard error.
//!
//! Not a build script: a nested cargo would wait for the lock of the same target folder, and its errors are hidden.

mod command;
mod toolchain;
mod debian;
mod cache;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

pub use toolchain::Source;

/// The target that every handler is built for.
pub const TARGET: &str = "wasm32-unknown-unknown";

/// Bytes of a guest's stack. Larger: with its data and inbox a guest no longer fits one page, and twice the memory is
/// put back after each request. Smaller: deep recursion and large local arrays trap.
pub const STACK_BYTES: u32 = 16 * 1024;

/// What to build, and where.
#[derive(Clone, Debug)]
pub struct GuestBuild {
    /// Folder of the handler's `Cargo.toml`.
    pub manifest_dir: PathBuf,
    /// Folder for everything that the build leaves. Not the folder of the build that calls this: both would wait for
    /// one lock.
    pub target_dir: PathBuf,
}

/// Why a handler was not built.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// A file could not be read or written.
    #[error("{}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What went wrong.
        #[source]
        source: std::io::Error,
    },
    /// A program could not be started.
    #[error("cannot run {program}")]
    Start {
        /// The program.
        program: String,
        /// What went wrong.
        #[source]
        source: std::io::Error,
    },
    /// A program failed; its last lines.
    #[error("{program} failed:\n{output}")]
    Failed {
        /// The program and its arguments.
        program: String,
        /// The end of what it wrote.
        output: String,
    },
    /// What a program wrote has another form than expected.
    #[error("{program} answered in an unexpected form")]
    Form {
        /// The program.
        program: String,
    },
    /// The crate makes no module.
    #[error("{} makes no module: its [lib] needs crate-type = [\"cdylib\", \"rlib\"]", .0.display())]
    NoModule(PathBuf),
    /// No compiler for WebAssembly, and none could be had.
    #[error(
        "no Rust compiler for {TARGET} on this machine.\nTried: {}.\nRemedies: run `rustup target add {TARGET}`; or, \
         on Debian, `apt-get update` and run this again; or unpack Debian's rustc-web, rust-web-src, \
         libstd-rust-web-* and libllvm* into a folder and name it in {}",
        tried.join("; "),
        toolchain::ROOT_VARIABLE
    )]
    NoToolchain {
        /// What was tried, and why it did not do.
        tried: Vec<String>,
    },
}

/// Builds one handler and answers where its module is.
///
/// # Errors
/// Where no toolchain can be had, the crate does not compile, or it makes no module.
pub fn build(build: &GuestBuild) -> Result<PathBuf, BuildError> {
    build_by(build, Source::Any)
}

/// Builds one handler with a toolchain of a kind.
///
/// # Errors
/// As [`build`].
pub fn build_by(build: &GuestBuild, source: Source) -> Result<PathBuf, BuildError> {
    let target_dir = &build.target_dir;
    fs::create_dir_all(target_dir).map_err(|source| file(target_dir, source))?;
    let target_dir = target_dir.canonicalize().map_err(|source| file(target_dir, source))?;
    // One build at a time below one folder; the lock ends with this value, or with the process.
    let lock_path = target_dir.join("guests.lock");
    let lock = fs::File::create(&lock_path).map_err(|source| file(&lock_path, source))?;
    lock.lock().map_err(|source| file(&lock_path, source))?;

    let toolchain = toolchain::find(&target_dir, source)?;
    let key = cache::key(&build.manifest_dir, &toolchain)?;
    let cached = target_dir.join("modules").join(&key);
    if let Some(module) = cache::find(&cached) {
        return Ok(module);
    }
    let built = compile(&build.manifest_dir, &target_dir, &toolchain)?;
    cache::store(&cached, &built)
}

/// The examples of this repository, by name.
pub const EXAMPLES: [&str; 16] = [
    "allow_hosts",
    "auth",
    "canned_answer",
    "get_only",
    "git_read_only",
    "guard_answers",
    "guard_uploads",
    "identity",
    "inject_token",
    "mask_answers",
    "mirror",
    "no_http",
    "no_keywords",
    "office_hours",
    "per_sandbox_token",
    "strip_fields",
];

/// Builds the examples; answers each one's name and module.
///
/// # Errors
/// As [`build`].
pub fn build_examples(target_dir: &Path) -> Result<Vec<(String, PathBuf)>, BuildError> {
    let examples = examples_dir();
    EXAMPLES
        .iter()
        .map(|name| {
            let manifest_dir = examples.join(name);
            let module = build(&GuestBuild { manifest_dir, target_dir: target_dir.to_owned() })?;
            Ok(((*name).to_owned(), module))
        })
        .collect()
}

/// Where this repository's examples are, on the machine that built this.
pub fn examples_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples")
}

/// Where guests of this repository are built unless something else is said: `guests` below cargo's target folder.
pub fn default_target_dir() -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target"), PathBuf::from);
    target.join("guests")
}

fn compile(
    manifest_dir: &Path,
    target_dir: &Path,
    toolchain: &toolchain::Toolchain,
) -> Result<PathBuf, BuildError> {
    let mut cargo = toolchain.cargo();
    cargo
        .current_dir(manifest_dir)
        .args(["build", "--release", "--lib", "--target", TARGET, "--message-format=json-render-diagnostics"])
        .args(toolchain.arguments())
        .arg("--target-dir")
        .arg(target_dir.join(toolchain.folder()));
    set_profile(&mut cargo);
    let output = command::run(&mut cargo)?;
    let manifest = manifest_dir.join("Cargo.toml");
    let manifest = manifest.canonicalize().map_err(|source| file(&manifest, source))?;
    module_in(&output, &manifest).ok_or_else(|| BuildError::NoModule(manifest_dir.to_owned()))
}

/// The profile of guests, whatever the author's manifest says: no unwinding, one unit, no symbols, a small stack.
fn set_profile(cargo: &mut Command) {
    cargo
        .env("CARGO_PROFILE_RELEASE_PANIC", "abort")
        .env("CARGO_PROFILE_RELEASE_LTO", "true")
        .env("CARGO_PROFILE_RELEASE_OPT_LEVEL", "3")
        .env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "1")
        .env("CARGO_PROFILE_RELEASE_STRIP", "true")
        .env("CARGO_PROFILE_RELEASE_DEBUG", "false")
        .env(
            "CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_RUSTFLAGS",
            format!("-C link-arg=-zstack-size={STACK_BYTES}"),
        );
}

/// The module among cargo's messages: the one that the crate of this manifest made.
fn module_in(messages: &str, manifest: &Path) -> Option<PathBuf> {
    let mut found = None;
    for line in messages.lines() {
        let Ok(message) = serde_json::from_str::<serde_json::Value>(line) else { continue };
        let ours = message["manifest_path"].as_str().is_some_and(|path| Path::new(path) == manifest);
        if message["reason"] != "compiler-artifact" || !ours {
            continue;
        }
        let files = message["filenames"].as_array().into_iter().flatten();
        let mut names = files.filter_map(|name| name.as_str());
        found = names.find(|name| name.ends_with(".wasm")).map(PathBuf::from).or(found);
    }
    found
}

pub(crate) fn file(path: &Path, source: std::io::Error) -> BuildError {
    BuildError::File { path: path.to_owned(), source }
}
