//! Programs in a network namespace of their own, made by an ordinary user, that pass their listeners to a gateway.

use std::{process::Command, sync::Arc};

use serde_json::Value;

use crate::{gateway::Gateway, origin::Origin};

/// Runs a Python program inside after `set_up`, a line of shell, and answers the JSON that it printed. It is told, in
/// this order: the gateway's local socket, a file with the authority of `box`, the origin's port.
///
/// # Panics
/// When the machine allows no namespaces, a program is missing, or this one fails.
pub fn said_inside(gateway: &Gateway, origin: &Origin, set_up: &str, program: &str) -> Value {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = |name: &str| folder.path().join(name);
    let _server = dataplane::attach::start(&file("attach"), Arc::clone(&gateway.shards), None)
        .expect("a temporary folder takes sockets");
    std::fs::write(file("program.py"), program).expect("a temporary folder takes files");
    let pem = dataplane::admin::to_pem(gateway.authority("box"));
    std::fs::write(file("authority.pem"), pem).expect("a temporary folder takes files");
    // Debian keeps some programs where only root's search path leads.
    let inside =
        format!("PATH=$PATH:/usr/sbin:/sbin && ip link set lo up && {set_up} && exec python3 \"$@\"");
    let mut command = Command::new("unshare");
    command.args(["--user", "--map-root-user", "--net", "sh", "-c", &inside, "sh"]);
    command.arg(file("program.py")).arg(file("attach")).arg(file("authority.pem"));
    let ran =
        command.arg(origin.address.port().to_string()).output().expect("`unshare` of util-linux is needed");
    let told = String::from_utf8_lossy(&ran.stderr);
    assert!(
        ran.status.success(),
        "needs unprivileged user namespaces, iproute2, nftables and python3: {} {told}",
        ran.status
    );
    serde_json::from_slice(&ran.stdout).expect("the program prints JSON")
}
