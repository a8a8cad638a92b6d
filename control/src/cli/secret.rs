//! Secrets: written, listed by name, removed; a value is never on the command line and never read back.

use std::io::Read;
use std::path::{Path, PathBuf};

use clap::Subcommand;
use control_wire::limits::SECRET_BYTES_MAX;
use serde_json::json;
use zeroize::Zeroizing;

use super::api::{Api, at};
use crate::serve::Fault;

/// What is done with secrets.
#[derive(Subcommand)]
pub(super) enum Secret {
    /// Makes or replaces one
    Put {
        /// Its name.
        name: String,
        /// File of the value, `-` for standard input; one newline at its end is not part of it.
        #[arg(long)]
        value_file: PathBuf,
        /// Hosts to which it may be sent.
        #[arg(long, required = true, num_args = 1..)]
        host: Vec<String>,
        /// Let it go over plain HTTP too, where everybody on the way can read it.
        #[arg(long)]
        allow_plaintext: bool,
    },
    /// Removes one; requests that need it are refused from then on
    Rm {
        /// Its name.
        name: String,
    },
    /// Lists names, versions and hosts, never a value
    List,
}

/// Does it.
pub(super) async fn obey(api: &Api, command: Secret) -> Result<(), Fault> {
    match command {
        Secret::Put { name, value_file, host, allow_plaintext } => {
            let value = read_value(&value_file)?;
            let body = json!({ "value": &*value, "hosts": host, "allowPlaintext": allow_plaintext });
            api.put(&at("secrets", &name), body).await
        }
        Secret::Rm { name } => api.remove(&at("secrets", &name)).await,
        Secret::List => api.get("/v1/secrets").await,
    }
}

fn read_value(path: &Path) -> Result<Zeroizing<String>, Fault> {
    let mut value = Zeroizing::new(String::new());
    let bytes_max = SECRET_BYTES_MAX as u64 + 2;
    let done = if path == Path::new("-") {
        std::io::stdin().lock().take(bytes_max).read_to_string(&mut value)
    } else {
        std::fs::File::open(path).and_then(|file| file.take(bytes_max).read_to_string(&mut value))
    };
    done.map_err(|error| format!("cannot read {}: {error}", path.display()))?;
    if value.ends_with('\n') {
        value.pop();
    }
    Ok(value)
}
