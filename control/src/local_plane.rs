//! The plane on control's own machine: found, given its settings, started again when it dies, ended with control.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::ExitStatus;

use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

use crate::files;
use crate::limits::{JOIN_TOKEN_TIME, PLANE_END_TIME, PLANE_HEALTHY_TIME, RESTART_PAUSE, RESTART_PAUSE_MAX};
use crate::link::{Core, LinkError, make_join_token};

/// Name of the plane on control's own machine.
pub const LOCAL_PLANE: &str = "local";

/// The program's file name.
pub const PROGRAM: &str = "outgate-dataplane";

/// Why the local plane cannot be run.
#[derive(Debug, thiserror::Error)]
pub enum PlaneError {
    /// The program is nowhere.
    #[error(
        "{PROGRAM} was not found (looked at {looked}); build it: \
         cargo build --release -p dataplane --bin outgate-dataplane --target-dir target/plane"
    )]
    Missing {
        /// Where it was looked for.
        looked: String,
    },
    /// Its settings could not be written.
    #[error("cannot write the plane's settings in {folder}")]
    Settings {
        /// The folder.
        folder: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// No join token could be made.
    #[error("cannot make the plane's join token")]
    Token(#[from] LinkError),
}

/// Finds the program: the given path alone, else beside this one, else what this checkout has built.
///
/// # Errors
/// With the command that builds it.
pub fn find(given: Option<PathBuf>) -> Result<PathBuf, PlaneError> {
    let mut places = Vec::new();
    match given {
        Some(path) => places.push(path),
        None => {
            let own = std::env::current_exe().unwrap_or_default();
            places.extend(own.parent().map(|folder| folder.join(PROGRAM)));
            for folder in own.ancestors().filter(|folder| folder.join("dataplane/Cargo.toml").is_file()) {
                places.extend(
                    ["release", "debug"].map(|kind| folder.join("target/plane").join(kind).join(PROGRAM)),
                );
            }
        }
    }
    if let Some(found) = places.iter().find(|path| path.is_file()) {
        return Ok(found.clone());
    }
    let looked: Vec<_> = places.iter().map(|path| path.display().to_string()).collect();
    Err(PlaneError::Missing { looked: looked.join(", ") })
}

/// What the plane is told.
#[derive(Clone, Debug)]
pub struct LocalPlane {
    /// The program.
    pub program: PathBuf,
    /// Its folder: settings, token, identity.
    pub folder: PathBuf,
    /// Settings that an operator wrote; unset, ours are written.
    pub config: Option<PathBuf>,
    /// Where control's link listens.
    pub link: SocketAddr,
}

impl LocalPlane {
    /// The file of its settings.
    pub fn config_path(&self) -> PathBuf {
        self.config.clone().unwrap_or_else(|| self.folder.join("plane.toml"))
    }

    /// Its settings as TOML. JSON's strings are TOML's basic strings.
    pub fn settings(&self) -> String {
        let text = |path: &Path| serde_json::Value::from(path.to_string_lossy()).to_string();
        let mut link = self.link;
        // An address to listen on need not be one to call.
        match link.ip() {
            IpAddr::V4(ip) if ip.is_unspecified() => link.set_ip(Ipv4Addr::LOCALHOST.into()),
            IpAddr::V6(ip) if ip.is_unspecified() => link.set_ip(Ipv6Addr::LOCALHOST.into()),
            _ => {}
        }
        format!(
            "name = \"{LOCAL_PLANE}\"\nstateDir = {}\nattachSocket = {}\n\n[control]\naddress = \"{link}\"\n\
             joinTokenFile = {}\n",
            text(&self.folder),
            text(&self.folder.join("attach.sock")),
            text(&self.folder.join("join-token")),
        )
    }

    /// Writes settings, and a token where the plane has no identity that control knows.
    async fn prepare(&self, core: &Core) -> Result<(), PlaneError> {
        if self.config.is_some() {
            return Ok(());
        }
        let fault = |source| PlaneError::Settings { folder: self.folder.display().to_string(), source };
        files::make_folder(&self.folder).map_err(fault)?;
        files::write_private(&self.config_path(), self.settings().as_bytes()).map_err(fault)?;
        if !(core.planes.knows(LOCAL_PLANE) && self.folder.join("plane.der").is_file()) {
            let (token, _) = make_join_token(core, JOIN_TOKEN_TIME).await?;
            files::write_private(&self.folder.join("join-token"), token.as_bytes()).map_err(fault)?;
        }
        Ok(())
    }

    /// Runs the plane until `stop` says so; then ends it and waits for its end.
    ///
    /// # Errors
    /// When its settings cannot be written. A plane that dies is started again.
    pub async fn run(&self, core: &Core, mut stop: watch::Receiver<bool>) -> Result<(), PlaneError> {
        let mut pause = RESTART_PAUSE;
        loop {
            self.prepare(core).await?;
            let started = Instant::now();
            match Command::new(&self.program)
                .arg("--config")
                .arg(self.config_path())
                .kill_on_drop(true)
                .spawn()
            {
                Err(error) => eprintln!("cannot start {}: {error}", self.program.display()),
                Ok(mut child) => tokio::select! {
                    ended = child.wait() => tell(ended),
                    () = told(&mut stop) => {
                        end(&mut child).await;
                        return Ok(());
                    }
                },
            }
            if started.elapsed() > PLANE_HEALTHY_TIME {
                pause = RESTART_PAUSE;
            }
            tokio::select! {
                () = sleep(pause) => pause = (pause * 2).min(RESTART_PAUSE_MAX),
                () = told(&mut stop) => return Ok(()),
            }
        }
    }
}

/// The value lies behind a lock, which must not be held while anything waits.
async fn told(stop: &mut watch::Receiver<bool>) {
    let _ = stop.wait_for(|stop| *stop).await;
}

fn tell(ended: io::Result<ExitStatus>) {
    match ended {
        Ok(status) => eprintln!("the plane ended by {status}; starting it again"),
        Err(error) => eprintln!("the plane cannot be waited for: {error}"),
    }
}

/// Asks this one process to end; one that does not is killed.
async fn end(child: &mut Child) {
    let pid = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
    if let Some(pid) = pid {
        // It may have ended by itself meanwhile; the wait tells.
        let _ = kill_process(pid, Signal::TERM);
    }
    if timeout(PLANE_END_TIME, child.wait()).await.is_err() {
        let _ = child.kill().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_program_is_an_error_that_builds_it() {
        let error = find(Some("/nonexistent/plane".into())).unwrap_err().to_string();
        assert!(error.contains("/nonexistent/plane"), "{error}");
        assert!(error.contains("cargo build --release -p dataplane --bin outgate-dataplane"), "{error}");
    }

    #[test]
    fn settings_are_toml_whatever_the_folder_is_called() {
        let plane = LocalPlane {
            program: "p".into(),
            folder: "/a \"b\"\\c".into(),
            config: None,
            link: "0.0.0.0:7".parse().unwrap(),
        };
        let read: toml::Table = toml::from_str(&plane.settings()).unwrap();
        assert_eq!(read["stateDir"].as_str(), Some("/a \"b\"\\c"));
        assert_eq!(read["control"]["address"].as_str(), Some("127.0.0.1:7"));
    }
}
