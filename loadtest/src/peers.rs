//! Other programs in the gateway's place, each told by a TOML file: how it is configured, started and found ready.

use std::{
    collections::BTreeMap,
    fs, io,
    net::{SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid as KernelPid, Signal, kill_process};
use serde::Deserialize;
use tempfile::TempDir;

use crate::{
    authority::Authority,
    gateway::direct,
    limits::READY_TIME,
    names::{credential, host},
    origin::{Leg, Origin},
    plan::Load,
    target::Target,
    usage::{Pid, descendants},
};

/// The peers that are built in, by name.
pub const BUILT_IN: [(&str, &str); 2] =
    [("nginx", include_str!("../peers/nginx.toml")), ("haproxy", include_str!("../peers/haproxy.toml"))];

/// A peer as its file tells it. `{{work}}` and the like in its texts are replaced by what a run has.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Peer {
    /// Its name: that of the file.
    #[serde(skip)]
    pub name: String,
    /// What it is and how it is set up.
    pub about: String,
    /// Its program, looked for in `PATH` and where Debian has servers.
    program: PathBuf,
    /// Arguments that make it tell its version.
    version: Vec<String>,
    /// Arguments that make it serve in the foreground.
    command: Vec<String>,
    /// Whose time counts.
    measured: Measured,
    /// Files that are written for it, by name.
    files: BTreeMap<String, String>,
}

/// Which processes do the work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Measured {
    /// The one that is started.
    Itself,
    /// Those that it starts.
    Children,
}

/// Why a peer is not measured.
#[derive(Debug, thiserror::Error)]
pub enum PeerError {
    /// No such peer.
    #[error("there is no peer `{0}`; nginx and haproxy are built in, others are given by a file NAME.toml")]
    Unknown(String),
    /// Its file cannot be read.
    #[error("peer {name}: {reason}")]
    File {
        /// Its name.
        name: String,
        /// Why.
        reason: String,
    },
    /// The program is not there.
    #[error("peer {name}: {program} is not installed; on Debian: apt install {name}")]
    Missing {
        /// Its name.
        name: String,
        /// Its program.
        program: String,
    },
    /// It does not serve.
    #[error("peer {name} does not serve: {said}")]
    Silent {
        /// Its name.
        name: String,
        /// What it said.
        said: String,
    },
    /// Files or sockets.
    #[error("peer: {0}")]
    Io(#[from] io::Error),
}

/// A peer that serves.
pub struct Running {
    /// How it is loaded.
    pub target: Target,
    child: Child,
    _work: TempDir,
}

impl Peer {
    /// A peer by its name or its file.
    ///
    /// # Errors
    /// [`PeerError::Unknown`] and [`PeerError::File`].
    pub fn find(name: &str) -> Result<Self, PeerError> {
        let wrong = |reason: String| PeerError::File { name: name.into(), reason };
        let text = match BUILT_IN.iter().find(|(known, _)| *known == name) {
            Some((_, text)) => (*text).to_owned(),
            None if name.ends_with(".toml") => {
                fs::read_to_string(name).map_err(|error| wrong(error.to_string()))?
            }
            None => return Err(PeerError::Unknown(name.into())),
        };
        let mut peer: Self = toml::from_str(&text).map_err(|error| wrong(error.to_string()))?;
        peer.name = Path::new(name).file_stem().unwrap_or_default().to_string_lossy().into_owned();
        Ok(peer)
    }

    /// Whether it can do a row: none of them speaks HTTP/2 upstream.
    pub fn can(&self, load: &Load) -> bool {
        !load.origin_http2
    }

    fn program(&self) -> Result<PathBuf, PeerError> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let places = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/usr/local/sbin".into()]);
        let found = places.map(|place| place.join(&self.program)).find(|path| path.is_file());
        let program = self.program.display().to_string();
        found.ok_or_else(|| PeerError::Missing { name: self.name.clone(), program })
    }

    /// Starts it in front of an origin.
    ///
    /// # Errors
    /// When it is not installed or does not serve, with what it said.
    pub fn start(&self, origin: &Origin, authority: &Authority) -> Result<Running, PeerError> {
        let program = self.program()?;
        let work = tempfile::Builder::new().prefix("outgate-peer-").tempdir()?;
        // Workers that give up root must reach their files.
        fs::set_permissions(work.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
        let fronts = [free_port()?, free_port()?];
        let values = self.furnish(work.path(), fronts, origin, authority)?;
        for (name, text) in &self.files {
            fs::write(work.path().join(name), filled(text, &values))?;
        }
        let log = work.path().join("said");
        let mut child = Command::new(&program)
            .args(self.command.iter().map(|argument| filled(argument, &values)))
            .stdin(Stdio::null())
            .stdout(fs::File::create(&log)?)
            .stderr(fs::OpenOptions::new().append(true).open(&log)?)
            .spawn()?;
        let doors = fronts.map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
        let pids = match wait_ready(&mut child, doors, &self.measured) {
            Ok(pids) => pids,
            Err(error) => {
                let _killed = child.kill();
                let _reaped = child.wait();
                let said = format!("{error}\n{}", fs::read_to_string(&log).unwrap_or_default());
                return Err(PeerError::Silent { name: self.name.clone(), said });
            }
        };
        let mut target = direct([doors[0], doors[1], doors[1]], origin.ports, pids, authority.pem());
        (target.name, target.version) = (self.name.clone(), self.says_version(&program));
        Ok(Running { target, child, _work: work })
    }

    fn says_version(&self, program: &Path) -> String {
        let said = Command::new(program).args(&self.version).output();
        let first = |bytes: &[u8]| String::from_utf8_lossy(bytes).lines().next().map(str::to_owned);
        said.ok().and_then(|said| first(&said.stdout).or_else(|| first(&said.stderr))).unwrap_or_default()
    }

    /// Keys and certificates of a run, and everything that a text may name.
    fn furnish(
        &self,
        work: &Path,
        fronts: [u16; 2],
        origin: &Origin,
        authority: &Authority,
    ) -> io::Result<Vec<(&'static str, String)>> {
        let leaf = authority.leaf(&[host(0, 1)])?;
        let file = |name: &str, text: &str| -> io::Result<String> {
            fs::write(work.join(name), text)?;
            Ok(work.join(name).display().to_string())
        };
        Ok(vec![
            ("work", work.display().to_string()),
            ("front_plain", fronts[0].to_string()),
            ("front_tls", fronts[1].to_string()),
            ("front_certificate", file("front.pem", &leaf.certificate)?),
            ("front_key", file("front.key", &leaf.key)?),
            ("front_bundle", file("front.bundle", &format!("{}{}", leaf.certificate, leaf.key))?),
            ("root", file("root.pem", authority.pem())?),
            ("origin_plain", origin.port(Leg::Plain).to_string()),
            ("origin_tls", origin.port(Leg::Tls).to_string()),
            ("host", host(0, 1)),
            ("credential", credential(0, 0)),
        ])
    }
}

fn filled(text: &str, values: &[(&str, String)]) -> String {
    values.iter().fold(text.to_owned(), |text, (name, value)| text.replace(&format!("{{{{{name}}}}}"), value))
}

fn free_port() -> io::Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

/// Waits until it takes connections. Gives the processes that are measured: a parent takes some before its workers are
/// there.
fn wait_ready(child: &mut Child, doors: [SocketAddr; 2], measured: &Measured) -> io::Result<Vec<Pid>> {
    let patience = Instant::now() + READY_TIME / 4;
    let own = Pid(child.id());
    loop {
        let takes = doors.iter().all(|door| TcpStream::connect(door).is_ok());
        let pids = match measured {
            Measured::Itself => vec![own],
            Measured::Children => descendants(own),
        };
        if takes && !pids.is_empty() {
            return Ok(pids);
        }
        if let Some(status) = child.try_wait()? {
            return Err(io::Error::other(format!("it ended with {status}")));
        }
        if Instant::now() > patience {
            let missing = if takes { "it has no workers" } else { "its ports do not answer" };
            return Err(io::Error::other(missing));
        }
        thread::park_timeout(Duration::from_millis(20));
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(pid) = i32::try_from(self.child.id()).ok().and_then(KernelPid::from_raw) {
            // In order: a parent that is killed leaves its workers.
            let _asked = kill_process(pid, Signal::TERM);
        }
        let _reaped = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_built_in_peer_names_only_what_a_run_has() {
        let authority = Authority::make().unwrap();
        let origin = Origin::start(&authority, true).unwrap();
        let work = tempfile::tempdir().unwrap();
        for (name, _) in BUILT_IN {
            let peer = Peer::find(name).unwrap();
            let values = peer.furnish(work.path(), [1, 2], &origin, &authority).unwrap();
            for text in peer.files.values().chain(&peer.command) {
                assert!(!filled(text, &values).contains("{{"), "{name}: {}", filled(text, &values));
            }
        }
        assert!(Peer::find("envoy").unwrap_err().to_string().contains("NAME.toml"));
    }
}
