//! What the demo runs on: a gateway of its own, and calls of its API.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::time::Instant;

use control_wire::attach::Password;
use serde_json::Value;

use super::driver::Listeners;
use super::origin::Origin;
use crate::gateway::Gateway;
use crate::serve::Fault;

/// Everything that must not outlive the demo.
pub struct Stage {
    gateway: Gateway,
    /// Address of the plane's explicit proxy.
    pub proxy: SocketAddr,
    /// Everything that the API answered.
    pub answers: Vec<u8>,
    /// Microseconds from start to readiness.
    pub ready_micros: u64,
}

impl Stage {
    /// Starts control and plane in a folder of their own, with a resolver that finds `names` at the origin.
    pub fn start(program: &Path, origin: &Origin, names: &[&str]) -> Result<Self, Fault> {
        let started = Instant::now();
        // Taken and let go: the plane takes it in a moment.
        let proxy = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
        let names: String = names.iter().map(|name| format!("{} {name}\n", origin.address.ip())).collect();
        let mut gateway = Gateway::start(program, |folder| {
            let at = |name: &str| folder.join(name);
            fs::write(at("hosts"), names)?;
            fs::write(at("origin.pem"), &origin.root_pem)?;
            Ok(settings(&at("hosts"), &at("origin.pem"), &at("records.jsonl"), proxy))
        })?;
        gateway.wait_for_plane()?;
        let ready_micros = u64::try_from(started.elapsed().as_micros())?;
        Ok(Self { gateway, proxy, answers: Vec::new(), ready_micros })
    }

    /// One call of the API, and the JSON that it answered.
    pub fn call(&mut self, method: &str, path: &str, body: impl Into<Vec<u8>>) -> Result<Value, Fault> {
        let reply = self.gateway.call(method, path, body)?;
        self.answers.extend_from_slice(&reply.body);
        let value: Value = serde_json::from_slice(&reply.body)?;
        if value["applied"] == false {
            return Err(format!(
                "{method} {path} was not applied in time; behind: {}",
                value["planesBehind"]
            )
            .into());
        }
        Ok(value)
    }

    /// Puts a sandbox behind its listeners; where it has none, makes a password for the proxy and answers it.
    pub fn attach(&mut self, sandbox: &str, listeners: &Listeners) -> Result<Option<Password>, Fault> {
        Ok(self.gateway.attach(sandbox, listeners)?.proxy_password)
    }

    /// Records so far.
    pub fn records(&self) -> Result<String, Fault> {
        let mut text = fs::read_to_string(self.gateway.folder().join("records.jsonl"))?;
        // Their writer may be in the midst of the last line.
        text.truncate(text.rfind('\n').map_or(0, |end| end + 1));
        Ok(text)
    }

    /// What control and plane have told their operator.
    pub fn log(&self) -> Result<String, Fault> {
        self.gateway.log()
    }

    /// Ends everything. Answers how many processes and files of it are left.
    pub fn end(self) -> (usize, usize) {
        self.gateway.end()
    }
}

/// The plane's settings: it resolves the demo's names, trusts the demo's server and nobody else.
fn settings(hosts: &Path, roots: &Path, records: &Path, proxy: SocketAddr) -> toml::Table {
    let text = |path: &Path| toml::Value::from(&*path.to_string_lossy());
    let table = |entries: Vec<(&str, toml::Value)>| {
        toml::Table::from_iter(entries.into_iter().map(|(key, value)| (key.to_owned(), value)))
    };
    let upstream = table(vec![("systemRoots", false.into()), ("rootsFile", text(roots))]);
    let dns = table(vec![("hostsFile", text(hosts))]);
    table(vec![
        ("proxy", toml::Value::Array(vec![proxy.to_string().into()])),
        ("records", text(records)),
        ("dns", dns.into()),
        ("upstream", upstream.into()),
    ])
}

/// The plane's program.
///
/// # Errors
/// With the command that builds it.
pub fn plane_program() -> Result<PathBuf, Fault> {
    Ok(crate::local_plane::find(std::env::var_os("OUTGATE_DATAPLANE").map(PathBuf::from))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_toml_whatever_the_folder_is_called() {
        let (odd, proxy) = (Path::new("/a \"b\"\\c"), "127.0.0.1:7".parse().unwrap());
        let read: toml::Table = settings(odd, odd, odd, proxy).to_string().parse().unwrap();
        assert_eq!(read["dns"]["hostsFile"].as_str(), Some("/a \"b\"\\c"));
        assert_eq!(read["proxy"][0].as_str(), Some("127.0.0.1:7"));
        assert_eq!(read["upstream"]["systemRoots"].as_bool(), Some(false));
    }
}
