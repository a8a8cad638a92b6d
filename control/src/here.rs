//! What a command on this machine must know of a gateway to put a sandbox there.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// What a command on this machine must know of a gateway to put a sandbox there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Here {
    /// Of the program.
    pub version: String,
    /// Folder of everything that control keeps.
    pub state: PathBuf,
    /// The plane on this machine.
    pub plane: Option<PlaneHere>,
}

/// Where a plane is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PlaneHere {
    /// As control knows it.
    pub name: String,
    /// Its local socket.
    pub attach_socket: PathBuf,
    /// The file of its records; `-` is its standard output.
    pub records: PathBuf,
}
