//! Finding a compiler for WebAssembly.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::{BuildError, TARGET, command, debian, file};

/// Names a folder into which Debian's compiler was unpacked by hand.
pub(crate) const ROOT_VARIABLE: &str = "OUTGATE_GUEST_ROOT";

/// Seconds that `rustup target add` may take. Larger: a machine without network waits. Smaller: a slow line fails.
const RUSTUP_SECONDS: &str = "120";

/// Which toolchain may be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// Whatever there is, in the order that the crate's first page gives.
    Any,
    /// Only Debian's, unpacked below the target folder.
    Debian,
}

/// A compiler for [`TARGET`].
#[derive(Clone, Debug)]
pub(crate) enum Toolchain {
    /// The target is installed beside the usual compiler.
    Installed { version: String },
    /// Debian's compiler, which builds its own standard library.
    Unpacked { root: PathBuf, linker: PathBuf, version: String },
}

/// Finds a toolchain, or brings one.
pub(crate) fn find(target_dir: &Path, source: Source) -> Result<Toolchain, BuildError> {
    let sysroot = PathBuf::from(command::run(rustc().args(["--print", "sysroot"]))?.trim());
    let version = command::run(rustc().arg("-vV"))?;
    let unpacked = |root: PathBuf| unpacked(root, &sysroot, &version);
    if source == Source::Any && has_target(&sysroot) {
        return Ok(Toolchain::Installed { version });
    }
    let mut tried = vec![format!("{TARGET} is not installed in {}", sysroot.display())];
    if let Some(root) = std::env::var_os(ROOT_VARIABLE) {
        return unpacked(PathBuf::from(root));
    }
    let root = target_dir.join("toolchain").join("root");
    if debian::is_complete(&root) {
        return unpacked(root);
    }
    if source == Source::Any {
        match add_by_rustup(&sysroot) {
            Ok(()) if has_target(&sysroot) => return Ok(Toolchain::Installed { version }),
            Ok(()) => tried.push("rustup added the target to another toolchain".to_owned()),
            Err(error) => tried.push(format!("rustup: {}", chain(&error))),
        }
    }
    match debian::unpack(&target_dir.join("toolchain")) {
        Ok(root) => unpacked(root),
        Err(error) => {
            tried.push(format!("Debian's packages: {}", chain(&error)));
            Err(BuildError::NoToolchain { tried })
        }
    }
}

fn has_target(sysroot: &Path) -> bool {
    sysroot.join("lib/rustlib").join(TARGET).join("lib").is_dir()
}

fn add_by_rustup(sysroot: &Path) -> Result<(), BuildError> {
    // Two at once stand in each other's way, and one of them would fall back to another compiler. The lock ends with
    // this value, or with the process; who had to wait for it may find the target there.
    let lock = File::open(sysroot).map_err(|source| file(sysroot, source))?;
    lock.lock().map_err(|source| file(sysroot, source))?;
    if has_target(sysroot) {
        return Ok(());
    }
    eprintln!("guests: asking rustup for {TARGET} (about 25 MB)");
    let mut rustup = Command::new("timeout");
    rustup.args([RUSTUP_SECONDS, "rustup", "target", "add", TARGET]);
    command::run(&mut rustup).map(drop)
}

fn unpacked(root: PathBuf, sysroot: &Path, host_version: &str) -> Result<Toolchain, BuildError> {
    let host = host_version.lines().find_map(|line| line.strip_prefix("host: ")).unwrap_or_default();
    let linker = sysroot.join("lib/rustlib").join(host).join("bin/rust-lld");
    let mut rustc = Command::new(root.join("usr/bin/rustc"));
    let version = command::run(rustc.arg("-vV").env("LD_LIBRARY_PATH", libraries(&root)))?;
    Ok(Toolchain::Unpacked { root, linker, version })
}

/// The libraries of an unpacked root, in Debian's folder for this machine's architecture.
fn libraries(root: &Path) -> PathBuf {
    root.join(format!("usr/lib/{}-linux-gnu", std::env::consts::ARCH))
}

/// The compiler that this build uses, without what an outer cargo told it.
fn rustc() -> Command {
    let mut command = Command::new("rustc");
    clean(&mut command);
    command
}

/// An outer cargo's settings must not reach a guest: its flags are for the host's target.
fn clean(command: &mut Command) {
    for name in
        ["RUSTFLAGS", "CARGO_ENCODED_RUSTFLAGS", "CARGO_BUILD_TARGET", "RUSTC", "RUSTC_WRAPPER", "RUSTDOC"]
    {
        command.env_remove(name);
    }
}

impl Toolchain {
    /// Cargo with the environment that this compiler needs.
    pub(crate) fn cargo(&self) -> Command {
        let mut cargo = Command::new("cargo");
        clean(&mut cargo);
        if let Self::Unpacked { root, linker, .. } = self {
            cargo
                .env("RUSTC", root.join("usr/bin/rustc"))
                .env("LD_LIBRARY_PATH", libraries(root))
                .env("CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_LINKER", linker)
                // Building the standard library is an unstable option of cargo; a stable compiler needs to be told.
                .env("RUSTC_BOOTSTRAP", "1");
        }
        cargo
    }

    /// What `cargo build` needs beside the usual.
    pub(crate) fn arguments(&self) -> &'static [&'static str] {
        match self {
            Self::Installed { .. } => &[],
            Self::Unpacked { .. } => &["-Zbuild-std=std,panic_abort"],
        }
    }

    /// Folder for its output: two compilers in one would rebuild each other's work.
    pub(crate) fn folder(&self) -> &'static str {
        match self {
            Self::Installed { .. } => "installed",
            Self::Unpacked { .. } => "debian",
        }
    }

    /// What `rustc -vV` says.
    pub(crate) fn version(&self) -> &str {
        match self {
            Self::Installed { version } | Self::Unpacked { version, .. } => version,
        }
    }
}

/// An error and its causes in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(source) = cause {
        text = format!("{text}: {source}");
        cause = source.source();
    }
    text
}
