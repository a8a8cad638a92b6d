//! Calls of the API, as the commands make them.

use std::path::Path;

use serde_json::Value;

use crate::client::{Client, segment};
use crate::serve::Fault;

/// A write that was waited for in vain.
pub(super) const NOT_APPLIED: &str = "it is written, but not every plane enforces it; look at `outgate plane list`, and \
                                      repeat the command to wait again";

/// The API, and whether writes wait.
pub(super) struct Api {
    /// Where it listens.
    pub client: Client,
    /// Writes answer when every plane enforces them.
    pub wait: bool,
}

impl Api {
    /// One call whose answer is printed.
    pub async fn show(&self, method: &str, path: &str, body: Vec<u8>) -> Result<(), Fault> {
        let path =
            if self.wait && method != "GET" { format!("{path}?wait=applied") } else { path.to_owned() };
        let reply = self.client.call(method, &path, body).await?;
        let Ok(value) = serde_json::from_slice::<Value>(&reply.body) else {
            print!("{}", String::from_utf8_lossy(&reply.body));
            return Ok(());
        };
        println!("{}", serde_json::to_string_pretty(&value)?);
        // A script that asked to wait must not go on as if it were so.
        if value["applied"] == false {
            return Err(NOT_APPLIED.into());
        }
        Ok(())
    }

    /// Reads and prints.
    pub async fn get(&self, path: &str) -> Result<(), Fault> {
        self.show("GET", path, Vec::new()).await
    }

    /// Writes a value.
    pub async fn put(&self, path: &str, value: Value) -> Result<(), Fault> {
        self.show("PUT", path, value.to_string().into_bytes()).await
    }

    /// Removes a row.
    pub async fn remove(&self, path: &str) -> Result<(), Fault> {
        self.show("DELETE", path, Vec::new()).await
    }
}

/// The path of a row.
pub(super) fn at(kind: &str, name: &str) -> String {
    format!("/v1/{kind}/{}", segment(name))
}

/// Reads a file that the command line names.
pub(super) fn read(path: &Path) -> Result<Vec<u8>, Fault> {
    std::fs::read(path).map_err(|error| format!("cannot read {}: {error}", path.display()).into())
}
