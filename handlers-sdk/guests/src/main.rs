//! `guests [--target-dir DIR] [CRATE…]`: builds handlers for WebAssembly, the examples where none is named.

use std::error::Error;
use std::path::PathBuf;
use std::process::ExitCode;

use handlers_sdk_guests::{BuildError, GuestBuild, build, build_examples, default_target_dir};

fn main() -> ExitCode {
    let mut target_dir = default_target_dir();
    let mut crates = Vec::new();
    let mut arguments = std::env::args_os().skip(1);
    while let Some(argument) = arguments.next() {
        if argument != "--target-dir" {
            crates.push(PathBuf::from(argument));
        } else if let Some(folder) = arguments.next() {
            target_dir = PathBuf::from(folder);
        } else {
            eprintln!("guests: --target-dir needs a folder");
            return ExitCode::from(2);
        }
    }
    match modules(crates, target_dir) {
        Ok(modules) => {
            modules.iter().for_each(|(name, module)| println!("{name} {}", module.display()));
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("guests: {error}");
            if let Some(cause) = error.source() {
                eprintln!("  {cause}");
            }
            ExitCode::FAILURE
        }
    }
}

fn modules(crates: Vec<PathBuf>, target_dir: PathBuf) -> Result<Vec<(String, PathBuf)>, BuildError> {
    if crates.is_empty() {
        return build_examples(&target_dir);
    }
    let one = |manifest_dir: PathBuf| {
        let name = manifest_dir.display().to_string();
        build(&GuestBuild { manifest_dir, target_dir: target_dir.clone() }).map(|module| (name, module))
    };
    crates.into_iter().map(one).collect()
}
