//! The usual stage of end-to-end tests: control, one plane, one origin, one sandbox with a credential to spend.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
};

use rustls::{
    StreamOwned,
    pki_types::{CertificateDer, pem::PemObject},
};
use serde_json::{Value, json};

use crate::{
    client,
    gateway::{SECRET, Tls},
    origin::Origin,
    process::{Control, Plane, attach_proxy},
};

/// The sandbox.
pub const SANDBOX: &str = "box";

/// Control, a plane, and a sandbox that may speak to `origin.test`, where its requests get a bearer token.
pub struct Stage {
    /// The plane.
    pub plane: Plane,
    /// Control.
    pub control: Control,
    /// The sandbox's proxy password.
    pub password: String,
    /// The certificate of the sandbox's authority, in a file.
    pub authority: PathBuf,
    /// The folder of everything.
    pub folder: tempfile::TempDir,
}

impl Stage {
    /// Sets it up with so many shards.
    ///
    /// # Panics
    /// When any part of it does not start.
    pub fn set(origin: &Origin, shards: usize) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let control = Control::start(&folder.path().join("control"));
        let plane = Self::plane(folder.path(), &control, origin, "one", shards);
        let value = json!({ "value": SECRET, "hosts": ["origin.test"] });
        control.put("secrets/token", &value);
        control.put("templates/t", &policy(&["origin.test"]));
        control.put("sandboxes/box", &json!({ "template": "t" }));
        let password = attach_proxy(&plane.folder, SANDBOX);
        let authority = folder.path().join("ca.pem");
        fs::write(&authority, authority_pem(&control, SANDBOX)).expect("a temporary folder takes files");
        Self { plane, control, password, authority, folder }
    }

    /// Another plane for the same control.
    pub fn plane(folder: &Path, control: &Control, origin: &Origin, name: &str, shards: usize) -> Plane {
        let (hosts, roots) = (folder.join("hosts"), folder.join("roots.pem"));
        fs::write(&hosts, "127.0.0.1 origin.test\n").expect("a temporary folder takes files");
        fs::write(&roots, &origin.root_pem).expect("a temporary folder takes files");
        let settings = format!(
            "shards = {shards}\n[dns]\nhostsFile = {hosts:?}\n[upstream]\nsystemRoots = false\nrootsFile = {roots:?}\n"
        );
        Plane::join(control, name, &folder.join(name), &settings)
    }

    /// The proxy's address with the sandbox's credentials in it.
    pub fn proxy_url(&self) -> String {
        proxy_url(self.plane.proxy, SANDBOX, &self.password)
    }

    /// A TLS connection of the sandbox to `host:port`, opened by the gateway.
    ///
    /// # Panics
    /// When the tunnel is not given.
    pub fn tls(&self, host: &str, port: u16) -> Tls {
        let authority = CertificateDer::from_pem_file(&self.authority).expect("a certificate");
        let socket = client::tunnel(self.plane.proxy, &format!("{SANDBOX}:{}", self.password), host, port);
        StreamOwned::new(client::trusting(&authority, host, &[]), socket)
    }

    /// curl as the sandbox would run it, trusting its authority.
    pub fn curl(&self) -> Command {
        let mut command = Command::new("curl");
        command.args(["--silent", "--show-error", "--max-time", "20", "--noproxy", ""]);
        command.args(["--proxy", &self.proxy_url(), "--cacert"]).arg(&self.authority);
        command
    }
}

/// The address of a proxy with credentials in it.
pub fn proxy_url(proxy: SocketAddr, sandbox: &str, password: &str) -> String {
    format!("http://{sandbox}:{password}@{proxy}")
}

/// A policy that lets these hosts be reached at loopback and gives `origin.test` its credential.
pub fn policy(allowed: &[&str]) -> Value {
    json!({
        "allowedHosts": allowed,
        "allowedAddresses": [{ "host": "origin.test", "cidrs": ["127.0.0.0/8"] }],
        "rules": [{ "host": "origin.test", "actions": [{ "bearer": { "secret": "token" } }] }],
    })
}

/// The certificate of a sandbox's authority, as control has it.
///
/// # Panics
/// When it has none.
pub fn authority_pem(control: &Control, sandbox: &str) -> String {
    let (status, pem) = control.call("GET", &format!("/v1/sandboxes/{sandbox}/ca.pem"), b"");
    assert_eq!(status, 200, "{pem}");
    pem
}
