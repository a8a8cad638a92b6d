//! The plane's settings: one TOML file, read once, checked whole before a socket is bound.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use serde::Deserialize;

use crate::limits;

/// Everything that a plane is told at start.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Config {
    /// Name of this plane, unique in the fleet.
    pub name: String,
    /// Folder for the pool master and the link's identity, of this plane alone. Made with mode 0700 where it is missing.
    pub state_dir: PathBuf,
    /// Number of shards. Unset: one per core that the process may use.
    #[serde(default)]
    pub shards: Option<usize>,
    /// Pin each shard to a core.
    #[serde(default)]
    pub pin: bool,
    /// Addresses on which the explicit proxy listens; sandboxes authenticate with proxy credentials.
    #[serde(default)]
    pub proxy: Vec<SocketAddr>,
    /// Path of the local socket for `attach` and `detach`.
    #[serde(default)]
    pub attach_socket: Option<PathBuf>,
    /// File to which records are appended; `-` is standard output. Unset: `records.jsonl` in the state folder.
    #[serde(default)]
    pub records: Option<PathBuf>,
    /// The plane's own resolver.
    #[serde(default)]
    pub dns: DnsConfig,
    /// Certificates that upstreams are verified with.
    #[serde(default)]
    pub upstream: UpstreamConfig,
    /// Where control is.
    pub control: ControlConfig,
}

/// Settings of the plane's own resolver.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct DnsConfig {
    /// Servers that are asked, in order. Empty: those of `/etc/resolv.conf`.
    pub name_servers: Vec<SocketAddr>,
    /// Names that are known without asking.
    pub hosts_file: PathBuf,
}

impl Default for DnsConfig {
    fn default() -> Self {
        Self { name_servers: Vec::new(), hosts_file: PathBuf::from("/etc/hosts") }
    }
}

/// Settings of the connections to upstreams.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct UpstreamConfig {
    /// Trust the system's certificate authorities.
    pub system_roots: bool,
    /// File of certificate authorities in PEM form that are trusted too.
    pub roots_file: Option<PathBuf>,
}

impl Default for UpstreamConfig {
    fn default() -> Self {
        Self { system_roots: true, roots_file: None }
    }
}

/// Settings of the link.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ControlConfig {
    /// UDP address of control.
    pub address: SocketAddr,
    /// File with the one-time join token; read when the plane has no identity yet.
    #[serde(default)]
    pub join_token_file: Option<PathBuf>,
}

/// Why the settings were not accepted.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file could not be read.
    #[error("cannot read {path}; give the path of the plane's settings with --config")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The file is not TOML of our shape.
    #[error("{path} is not what a plane's settings look like")]
    Parse {
        /// The file.
        path: PathBuf,
        /// Line, column and what was expected.
        source: Box<toml::de::Error>,
    },
    /// A value is outside its range.
    #[error("`{field}` {problem}")]
    Value {
        /// Name of the setting.
        field: &'static str,
        /// What is wrong and what would be right.
        problem: String,
    },
}

impl Config {
    /// Reads and checks the settings.
    ///
    /// # Errors
    /// When the file cannot be read, is not of our shape, or holds a value outside its range.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let text =
            fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
        let config: Self = toml::from_str(&text)
            .map_err(|source| ConfigError::Parse { path: path.to_owned(), source: Box::new(source) })?;
        config.check()?;
        Ok(config)
    }

    fn check(&self) -> Result<(), ConfigError> {
        if self.name.is_empty() || self.name.len() > limits::PLANE_NAME_BYTES_MAX {
            return Err(ConfigError::Value {
                field: "name",
                problem: format!("must have 1 to {} bytes", limits::PLANE_NAME_BYTES_MAX),
            });
        }
        match self.shards {
            Some(0) => Err(ConfigError::Value { field: "shards", problem: "must be at least 1".into() }),
            Some(n) if n > limits::SHARDS_MAX => Err(ConfigError::Value {
                field: "shards",
                problem: format!("is {n}; at most {} are possible", limits::SHARDS_MAX),
            }),
            _ => Ok(()),
        }
    }

    /// How many shards to start.
    pub fn shard_count(&self) -> usize {
        let cores = || std::thread::available_parallelism().map_or(1, usize::from);
        self.shards.unwrap_or_else(cores).min(limits::SHARDS_MAX)
    }

    /// Where records go.
    pub fn records_path(&self) -> PathBuf {
        self.records.clone().unwrap_or_else(|| self.state_dir.join("records.jsonl"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: &str = "name = \"a\"\nstateDir = \"s\"\n[control]\naddress = \"127.0.0.1:9\"\n";

    fn parse(text: &str) -> Result<Config, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("plane.toml");
        fs::write(&path, text).unwrap();
        Config::read(&path).map_err(|error| crate::causes::chain(&error))
    }

    #[test]
    fn smallest_settings_are_enough() {
        let config = parse(SMALL).unwrap();
        assert!(config.shard_count() >= 1);
        assert!(config.upstream.system_roots);
        assert_eq!(config.records_path(), PathBuf::from("s/records.jsonl"));
    }

    #[test]
    fn unknown_setting_is_refused_by_name() {
        let error = parse(&format!("shard = 2\n{SMALL}")).unwrap_err();
        assert!(error.contains("`shard`") && error.matches("line 1").count() == 1, "{error}");
    }

    #[test]
    fn zero_shards_are_refused() {
        let error = parse(&format!("shards = 0\n{SMALL}")).unwrap_err();
        assert!(error.contains("at least 1"), "{error}");
    }
}
