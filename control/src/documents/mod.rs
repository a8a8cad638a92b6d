//! Policy in files: TOML, YAML or JSON become one call of the API, and what is wrong is told by file, line and column.
//!
//! Each format is read into the same tree of values and places; everything after that knows no format.

mod node;
mod toml;
mod yaml;
mod json;
mod fit;
mod secret;
mod wanted;
mod files;
mod write;
mod compare;

use std::path::PathBuf;

pub use compare::compare;
pub use files::{read, read_one, read_settings};
pub use node::{Node, Place, Step, steps};
pub use wanted::Wanted;
pub use write::{Format, write};

/// What is wrong with a text, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flaw {
    /// Where it is.
    pub place: Place,
    /// What is wrong, and the fix.
    pub problem: String,
}

/// What is wrong with a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The file.
    pub file: PathBuf,
    /// Where in it; nowhere when it cannot be read at all.
    pub place: Option<Place>,
    /// What is wrong, and the fix.
    pub problem: String,
}

impl std::fmt::Display for Fault {
    /// As compilers write it, so that editors find the place.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.place {
            Some(Place { line, column }) => {
                write!(f, "{}:{line}:{column}: {}", self.file.display(), self.problem)
            }
            None => write!(f, "{}: {}", self.file.display(), self.problem),
        }
    }
}

impl std::error::Error for Fault {}

#[cfg(test)]
mod tests;
