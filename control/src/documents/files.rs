//! Finds and reads the files that a command names.

use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;

use super::fit::fit;
use super::{Fault, Flaw, Node, Wanted, json, toml, yaml};
use crate::limits::DOCUMENT_FILE_BYTES_MAX;

/// Endings that are read in a folder.
const ENDINGS: [&str; 4] = ["toml", "yaml", "yml", "json"];

/// Reads files, and the files of folders, not those of folders inside: handlers have a `Cargo.toml` of their own.
///
/// # Errors
/// When a file cannot be read or has an unknown ending, or a folder holds none. What is wrong inside files is found by
/// [`Wanted::call`].
pub fn read(paths: &[PathBuf]) -> Result<Wanted, Fault> {
    let mut wanted = Wanted::default();
    for path in paths {
        let files = if path.is_dir() { inside(path)? } else { vec![path.clone()] };
        for file in files {
            read_file(&file, &mut wanted)?;
        }
    }
    Ok(wanted)
}

fn fault(file: &Path, problem: impl Into<String>) -> Fault {
    Fault { file: file.to_owned(), place: None, problem: problem.into() }
}

fn ending(path: &Path) -> Option<&str> {
    path.extension().and_then(|ending| ending.to_str())
}

fn inside(folder: &Path) -> Result<Vec<PathBuf>, Fault> {
    let entries: io::Result<Vec<PathBuf>> =
        fs::read_dir(folder).and_then(|entries| entries.map(|entry| Ok(entry?.path())).collect());
    let mut files = entries.map_err(|error| fault(folder, error.to_string()))?;
    let hidden = |path: &Path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'));
    files.retain(|path| {
        path.is_file() && !hidden(path) && ending(path).is_some_and(|ending| ENDINGS.contains(&ending))
    });
    files.sort();
    match files.is_empty() {
        true => Err(fault(folder, "holds no file that ends in .toml, .yaml, .yml or .json")),
        false => Ok(files),
    }
}

/// Reads settings: one TOML file of one type.
///
/// # Errors
/// With line and column of what is unknown or does not fit.
pub fn read_settings<T: DeserializeOwned>(file: &Path) -> Result<T, Fault> {
    let text = text_of(file)?;
    let at = |flaw: Flaw| Fault { place: Some(flaw.place), ..fault(file, flaw.problem) };
    let documents = toml::read(&text).map_err(at)?;
    match documents.as_slice() {
        [document] => fit(document, "a file of settings").map_err(at),
        _ => Err(fault(file, "holds no settings")),
    }
}

/// Reads a file that is one document and nothing else, such as a policy.
///
/// # Errors
/// When it cannot be read, has an unknown ending, or is not one document.
pub fn read_one(file: &Path) -> Result<serde_json::Value, Fault> {
    let documents = read_tree(file)?.map_err(|flaw| Fault {
        file: file.to_owned(),
        place: Some(flaw.place),
        problem: flaw.problem,
    })?;
    match documents.as_slice() {
        [document] => Ok(document.json()),
        _ => Err(fault(file, "holds more than one document")),
    }
}

fn read_file(file: &Path, wanted: &mut Wanted) -> Result<(), Fault> {
    match read_tree(file)? {
        Ok(documents) => documents.into_iter().for_each(|document| wanted.take(file, document)),
        Err(flaw) => wanted.blame(file, flaw),
    }
    Ok(())
}

/// The documents of a file; what is wrong inside is told apart from what is wrong with the file.
fn read_tree(file: &Path) -> Result<Result<Vec<Node>, Flaw>, Fault> {
    let text = text_of(file)?;
    Ok(match ending(file) {
        Some("toml") => toml::read(&text),
        Some("yaml" | "yml") => yaml::read(&text),
        Some("json") => json::read(&text),
        _ => return Err(fault(file, "its name must end in .toml, .yaml, .yml or .json")),
    })
}

fn text_of(file: &Path) -> Result<String, Fault> {
    let mut text = String::new();
    let bytes_max = DOCUMENT_FILE_BYTES_MAX as u64;
    fs::File::open(file)
        .and_then(|opened| opened.take(bytes_max + 1).read_to_string(&mut text))
        .map_err(|error| fault(file, format!("cannot be read: {error}")))?;
    if text.len() as u64 > bytes_max {
        return Err(fault(file, format!("has more than {bytes_max} bytes; split it")));
    }
    Ok(text)
}
