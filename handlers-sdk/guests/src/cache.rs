//! Modules that were built before, by everything that goes into them.

use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};

use crate::toolchain::Toolchain;
use crate::{BuildError, STACK_BYTES, command, file};

/// A key over sources, lock file, flags and compiler. The hash guards against accident, not against an attacker: who
/// can write to the target folder can also write the module. Another standard library may hash otherwise; then the
/// module is built once more.
pub(crate) fn key(manifest_dir: &Path, toolchain: &Toolchain) -> Result<String, BuildError> {
    let mut hasher = DefaultHasher::new();
    (toolchain.version(), toolchain.folder(), STACK_BYTES).hash(&mut hasher);
    let metadata = metadata(manifest_dir, toolchain)?;
    let form = || BuildError::Form { program: "cargo metadata".to_owned() };
    let workspace = PathBuf::from(metadata["workspace_root"].as_str().ok_or_else(form)?);
    let mut files = vec![workspace.join("Cargo.toml"), workspace.join("Cargo.lock")];
    for package in metadata["packages"].as_array().ok_or_else(form)? {
        // Packages of a registry are pinned by the lock file; the others are folders on this machine.
        if package["source"].is_null() {
            let manifest = PathBuf::from(package["manifest_path"].as_str().ok_or_else(form)?);
            let folder = manifest.parent().ok_or_else(form)?;
            collect(&folder.join("src"), &mut files)?;
            files.extend([folder.join("build.rs"), manifest]);
        }
    }
    let manifest = manifest_dir.canonicalize().map_err(|source| file(manifest_dir, source))?;
    manifest.hash(&mut hasher);
    files.sort();
    files.dedup();
    for path in files {
        match fs::read(&path) {
            Ok(bytes) => (&path, bytes).hash(&mut hasher),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(file(&path, error)),
        }
    }
    Ok(format!("{:016x}", hasher.finish()))
}

fn metadata(manifest_dir: &Path, toolchain: &Toolchain) -> Result<serde_json::Value, BuildError> {
    let mut cargo = toolchain.cargo();
    let text = command::run(cargo.current_dir(manifest_dir).args(["metadata", "--format-version", "1"]))?;
    serde_json::from_str(&text).map_err(|_| BuildError::Form { program: "cargo metadata".to_owned() })
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) -> Result<(), BuildError> {
    for entry in fs::read_dir(folder).map_err(|source| file(folder, source))? {
        let path = entry.map_err(|source| file(folder, source))?.path();
        if path.is_dir() { collect(&path, files)? } else { files.push(path) }
    }
    Ok(())
}

/// The module of a key, where it was built before.
pub(crate) fn find(folder: &Path) -> Option<PathBuf> {
    let files = fs::read_dir(folder).ok()?.filter_map(|entry| Some(entry.ok()?.path()));
    files.into_iter().find(|path| path.extension().is_some_and(|extension| extension == "wasm"))
}

/// Keeps a module under its key.
pub(crate) fn store(folder: &Path, module: &Path) -> Result<PathBuf, BuildError> {
    fs::create_dir_all(folder).map_err(|source| file(folder, source))?;
    let kept = folder.join(module.file_name().unwrap_or_default());
    // Renamed into place, so that a half-written copy is never found.
    let partial = kept.with_extension("partial");
    fs::copy(module, &partial).map_err(|source| file(module, source))?;
    fs::rename(&partial, &kept).map_err(|source| file(&kept, source))?;
    Ok(kept)
}
