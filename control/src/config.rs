//! One file for one machine: what `serve` is told, its plane's settings included. Every setting has a default.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::documents::{Fault, read_settings};

/// Folder of everything where nothing else is said.
pub const STATE_DEFAULT: &str = "outgate-state";
/// UDP address of the link where nothing else is said.
pub const LISTEN_DEFAULT: &str = "127.0.0.1:7443";

/// The file as it is written. Paths are relative to its folder.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Config {
    /// Folder of everything that control and plane keep.
    pub state: Option<PathBuf>,
    /// Socket of the API.
    pub socket: Option<PathBuf>,
    /// UDP address on which planes connect.
    pub listen: Option<SocketAddr>,
    /// Start a plane on this machine.
    pub start_plane: Option<bool>,
    /// The plane's program.
    pub dataplane: Option<PathBuf>,
    /// Settings of that plane.
    pub plane: PlaneConfig,
}

/// What an operator may tell the plane on this machine; the rest is `serve`'s to say.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct PlaneConfig {
    /// Its name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Number of shards.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shards: Option<usize>,
    /// Pin each shard to a core.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pin: Option<bool>,
    /// Addresses of the explicit proxy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub proxy: Option<Vec<SocketAddr>>,
    /// Its socket for `attach` and `detach`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attach_socket: Option<PathBuf>,
    /// File of its records.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub records: Option<PathBuf>,
    /// Its resolver.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dns: Option<DnsConfig>,
    /// Certificates of upstreams.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub upstream: Option<UpstreamConfig>,
}

/// The plane's resolver.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct DnsConfig {
    /// Servers that are asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name_servers: Option<Vec<SocketAddr>>,
    /// Names that are known without asking.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hosts_file: Option<PathBuf>,
}

/// Whom the plane believes upstreams by.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct UpstreamConfig {
    /// The system's authorities.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub system_roots: Option<bool>,
    /// A file of others.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub roots_file: Option<PathBuf>,
}

/// The file with every setting, commented, as it is where nothing is written. `outgate config defaults` prints it.
pub const DEFAULTS: &str = r#"# Settings of `outgate serve --config FILE`. Every line here says what holds without it.
# Paths are relative to the folder of this file.

# Folder of everything that control and plane keep: store, keys, artefacts, records.
# state = "outgate-state"

# Socket of the API, for the `outgate` command and for orchestrators on this machine; in the state folder unless given.
# socket = "outgate-state/api.sock"

# UDP address on which planes connect. Give one that other machines reach where planes run there.
# listen = "127.0.0.1:7443"

# Start a plane on this machine, and end with it.
# startPlane = true

# The plane's program: beside `outgate` unless given.
# dataplane = "outgate-dataplane"

[plane]
# Its name in the fleet.
# name = "local"

# Shards: one for each core unless given.
# shards = 4

# Pin each shard to a core.
# pin = false

# Addresses of the explicit proxy, for sandboxes that are attached by a password. None unless given.
# proxy = ["127.0.0.1:3128"]

# Socket on which orchestrators attach and detach sandboxes; in the state folder unless given.
# attachSocket = "outgate-state/plane/attach.sock"

# File of the records, a JSON line each; `-` is standard output.
# records = "outgate-state/plane/records.jsonl"

[plane.dns]
# Servers that are asked, in order; those of /etc/resolv.conf unless given.
# nameServers = ["9.9.9.9:53"]

# Names that are known without asking.
# hostsFile = "/etc/hosts"

[plane.upstream]
# Believe the system's certificate authorities.
# systemRoots = true

# File of authorities in PEM form that are believed too.
# rootsFile = "private-roots.pem"
"#;

impl Config {
    /// Reads a file. Paths become absolute.
    ///
    /// # Errors
    /// With line and column of what is unknown or does not fit, and what was meant.
    pub fn read(file: &Path) -> Result<Self, Fault> {
        let mut config: Self = read_settings(file)?;
        let file = std::path::absolute(file).unwrap_or_else(|_| file.to_owned());
        config.resolve(file.parent().unwrap_or(Path::new("/")));
        Ok(config)
    }

    fn resolve(&mut self, folder: &Path) {
        let plane = &mut self.plane;
        let dns = plane.dns.as_mut().map(|dns| &mut dns.hosts_file);
        let upstream = plane.upstream.as_mut().map(|upstream| &mut upstream.roots_file);
        let own = [&mut self.state, &mut self.socket, &mut self.dataplane, &mut plane.attach_socket];
        let all = own.into_iter().chain([&mut plane.records]).chain(dns).chain(upstream);
        // `-` is no file.
        for path in all.flatten().filter(|path| *path != Path::new("-")) {
            *path = folder.join(&*path);
        }
    }
}

impl PlaneConfig {
    /// As the plane reads it.
    ///
    /// # Errors
    /// When a path is no UTF-8.
    pub fn table(&self) -> Result<toml::Table, toml::ser::Error> {
        let mut table = toml::Table::try_from(self)?;
        table.retain(|_, value| value.as_table().is_none_or(|inner| !inner.is_empty()));
        Ok(table)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Config, String> {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("outgate.toml");
        std::fs::write(&file, text).unwrap();
        let shown = |fault: Fault| fault.to_string().replace(&format!("{}/", folder.path().display()), "");
        Config::read(&file).map_err(shown)
    }

    /// The lines that are settings behind a `#`.
    fn uncommented() -> String {
        let setting = |line: &str| {
            line.strip_prefix("# ")
                .filter(|rest| {
                    rest.split_once(" = ")
                        .is_some_and(|(key, _)| key.bytes().all(|byte| byte.is_ascii_alphanumeric()))
                })
                .map(str::to_owned)
        };
        let lines = DEFAULTS.lines().map(|line| setting(line).unwrap_or_else(|| line.to_owned()));
        lines.collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn the_defaults_change_nothing_and_name_every_setting() {
        assert!(read(DEFAULTS).unwrap().plane.table().unwrap().is_empty());
        let all = read(&uncommented()).unwrap();
        let every = all.state.is_some() && all.socket.is_some() && all.listen.is_some();
        assert!(every && all.start_plane == Some(true) && all.dataplane.is_some(), "{all:?}");
        let plane = all.plane.table().unwrap();
        let keys: Vec<&str> = plane.keys().map(String::as_str).collect();
        let expected = ["attachSocket", "dns", "name", "pin", "proxy", "records", "shards", "upstream"];
        assert_eq!(keys, expected);
        assert_eq!(
            (plane["dns"].as_table().unwrap().len(), plane["upstream"].as_table().unwrap().len()),
            (2, 2)
        );
        assert_eq!(all.listen.unwrap().to_string(), LISTEN_DEFAULT);
        assert!(all.state.unwrap().ends_with(STATE_DEFAULT));
    }

    #[test]
    fn an_unknown_setting_is_refused_by_line_with_the_one_that_was_meant() {
        for (text, start, meant) in [
            ("state = \"s\"\nlisten_ = \"127.0.0.1:1\"\n", "outgate.toml:2:1:", "`listen`?"),
            ("[plane]\nshard = 2\n", "outgate.toml:2:1:", "`shards`?"),
            ("[plane.dns]\nnameserver = []\n", "outgate.toml:2:1:", "`nameServers`?"),
            ("listen = \"here\"\n", "outgate.toml:1:1: `listen`", "socket address"),
            ("state = \n", "outgate.toml:1:9:", ""),
        ] {
            let said = read(text).unwrap_err();
            assert!(said.starts_with(start) && said.contains(meant), "{text}: {said}");
        }
    }

    #[test]
    fn paths_are_relative_to_the_file_and_a_dash_is_none() {
        let config = read("state = \"s\"\n[plane]\nrecords = \"-\"\nattachSocket = \"/a\"\n").unwrap();
        assert!(config.state.unwrap().is_absolute());
        assert_eq!(config.plane.records, Some("-".into()));
        assert_eq!(config.plane.attach_socket, Some("/a".into()));
    }
}
