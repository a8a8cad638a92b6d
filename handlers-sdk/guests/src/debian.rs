//! Debian's compiler, fetched and unpacked without root.
//!
//! `rustc-web` is the compiler that Debian keeps new enough for browsers. It comes with the source of its own standard
//! library, which is what WebAssembly needs; the linker is rustup's. Nothing is installed: packages are unpacked.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::{BuildError, command, file};

/// Packages with names that do not change. The library's and LLVM's carry a version and are looked up.
const PACKAGES: [&str; 3] = ["rustc-web", "rust-web-src", "libstd-rust-web-dev"];

/// Whether a root was unpacked to its end.
pub(crate) fn is_complete(root: &Path) -> bool {
    root.join("complete").is_file()
}

/// Fetches and unpacks; answers the root.
pub(crate) fn unpack(folder: &Path) -> Result<PathBuf, BuildError> {
    let root = folder.join("root");
    let packages = folder.join("packages");
    // What an interrupted attempt left may be half a file.
    for stale in [&root, &packages] {
        if stale.exists() {
            fs::remove_dir_all(stale).map_err(|source| file(stale, source))?;
        }
        fs::create_dir_all(stale).map_err(|source| file(stale, source))?;
    }
    let names = match package_names() {
        Ok(names) => names,
        // A fresh machine has no package lists, or old ones; only root can bring them.
        Err(_) => {
            eprintln!("guests: Debian's package lists lack rustc-web; updating them");
            command::run(Command::new("apt-get").args(["update", "-q"]))?;
            package_names()?
        }
    };
    announce(&names, folder)?;
    command::run(Command::new("apt-get").args(["download", "-q"]).args(&names).current_dir(&packages))?;
    for entry in fs::read_dir(&packages).map_err(|source| file(&packages, source))? {
        let package = entry.map_err(|source| file(&packages, source))?.path();
        command::run(Command::new("dpkg").arg("-x").arg(&package).arg(&root))?;
    }
    fs::remove_dir_all(&packages).map_err(|source| file(&packages, source))?;
    let mark = root.join("complete");
    fs::write(&mark, names.join("\n")).map_err(|source| file(&mark, source))?;
    Ok(root)
}

/// The five packages: compiler and source of one version, and the libraries that this version names.
fn package_names() -> Result<Vec<String>, BuildError> {
    let library = dependency("libstd-rust-web-dev", "libstd-rust-web-")?;
    let llvm = dependency(&library, "libllvm")?;
    Ok(PACKAGES.iter().map(|name| (*name).to_owned()).chain([library, llvm]).collect())
}

/// The first dependency of a package whose name begins so.
fn dependency(package: &str, beginning: &str) -> Result<String, BuildError> {
    let text = command::run(Command::new("apt-cache").args(["depends", package]).env("LC_ALL", "C"))?;
    text.lines()
        .filter_map(|line| line.trim().strip_prefix("Depends: "))
        .find(|name| name.starts_with(beginning))
        .map(str::to_owned)
        .ok_or_else(|| BuildError::Form { program: format!("apt-cache depends {package}") })
}

fn announce(names: &[String], folder: &Path) -> Result<(), BuildError> {
    let lines = command::run(Command::new("apt-get").args(["download", "--print-uris", "-q"]).args(names))?;
    // One line per package: 'address' file bytes digest
    let bytes: u64 = lines.lines().filter_map(|line| line.split(' ').nth(2)?.parse::<u64>().ok()).sum();
    eprintln!(
        "guests: fetching {} ({} MB) and unpacking them below {} (about 850 MB); nothing is installed",
        names.join(", "),
        bytes / 1_000_000,
        folder.display()
    );
    Ok(())
}
