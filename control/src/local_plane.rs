//! The plane on control's own machine: found, given its settings, started again when it dies, ended with control.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;

use control_wire::attach::{KEEPER_ON_STDIN, KEEPER_VARIABLE, pair};
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

use crate::files;
use crate::here::PlaneHere;
use crate::keeper::{Keeper, raise_descriptors};
use crate::limits::{JOIN_TOKEN_TIME, PLANE_END_TIME, PLANE_HEALTHY_TIME, RESTART_PAUSE, RESTART_PAUSE_MAX};
use crate::link::{Core, LinkError, forget, make_join_token};
use crate::tell::tell;

/// Name of the plane on control's own machine.
pub const LOCAL_PLANE: &str = "local";

/// The program's file name.
pub const PROGRAM: &str = "outgate-dataplane";

/// Builds the program in a checkout, alone, so that no compiler is in it.
pub const BUILD_COMMAND: &str = "cargo build --profile plane -p dataplane --bin outgate-dataplane";

/// Why the local plane cannot be run.
#[derive(Debug, thiserror::Error)]
pub enum PlaneError {
    /// The program is nowhere.
    #[error("{PROGRAM} was not found (looked at {looked}); build it: {BUILD_COMMAND}")]
    Missing {
        /// Where it was looked for.
        looked: String,
    },
    /// The operator's settings cannot be used.
    #[error("cannot use the plane's settings in {path}: {problem}")]
    Given {
        /// Their file.
        path: String,
        /// Why, with the line where that is known.
        problem: String,
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
    /// No socket to the plane.
    #[error("cannot make the socket on which the plane tells what is attached to it")]
    Keeper(#[source] io::Error),
    /// The program cannot be executed.
    #[error("cannot start {program} as the plane; this builds it: {BUILD_COMMAND}")]
    Start {
        /// The program.
        program: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It ended before it served, which another attempt would not change.
    #[error(
        "the plane did not start ({status}): see what it said above; its settings are those of {settings}"
    )]
    Refused {
        /// How it ended.
        status: ExitStatus,
        /// The file of its settings.
        settings: String,
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
                places.push(folder.join("target/plane").join(PROGRAM));
            }
        }
    }
    if let Some(found) = places.iter().find(|path| path.is_file()) {
        return Ok(found.clone());
    }
    let looked: Vec<_> = places.iter().map(|path| path.display().to_string()).collect();
    Err(PlaneError::Missing { looked: looked.join(", ") })
}

/// Settings that an operator wrote.
#[derive(Clone, Debug)]
pub enum Given {
    /// In the file of everything.
    Here(toml::Table),
    /// In a file of their own, read at each start of the plane.
    File(PathBuf),
}

impl Default for Given {
    fn default() -> Self {
        Self::Here(toml::Table::new())
    }
}

/// What the plane is told.
#[derive(Clone, Debug)]
pub struct LocalPlane {
    /// The program.
    pub program: PathBuf,
    /// Its folder: settings, token, identity.
    pub folder: PathBuf,
    /// Settings that an operator wrote; ours fill in what they leave out.
    pub config: Given,
    /// Where control's link listens.
    pub link: SocketAddr,
}

impl LocalPlane {
    /// The file of its settings.
    pub fn config_path(&self) -> PathBuf {
        self.folder.join("plane.toml")
    }

    /// Its settings: the operator's, and ours where they say nothing.
    ///
    /// # Errors
    /// When the operator's cannot be read or are not TOML; whether the plane takes them is for the plane to say.
    pub fn settings(&self) -> Result<toml::Table, PlaneError> {
        let mut settings = match &self.config {
            Given::Here(settings) => settings.clone(),
            Given::File(path) => {
                let fault = |problem| PlaneError::Given { path: path.display().to_string(), problem };
                let text = std::fs::read_to_string(path).map_err(|error| fault(error.to_string()))?;
                text.parse().map_err(|error: toml::de::Error| fault(error.to_string()))?
            }
        };
        let mut link = self.link;
        // An address to listen on need not be one to call.
        match link.ip() {
            IpAddr::V4(ip) if ip.is_unspecified() => link.set_ip(Ipv4Addr::LOCALHOST.into()),
            IpAddr::V6(ip) if ip.is_unspecified() => link.set_ip(Ipv6Addr::LOCALHOST.into()),
            _ => {}
        }
        let text = |path: &Path| toml::Value::from(&*path.to_string_lossy());
        let control = toml::Table::from_iter([
            ("address".to_owned(), link.to_string().into()),
            ("joinTokenFile".to_owned(), text(&self.folder.join("join-token"))),
        ]);
        let ours = [
            ("name", LOCAL_PLANE.into()),
            ("stateDir", text(&self.folder)),
            ("attachSocket", text(&self.folder.join("attach.sock"))),
            ("control", control.into()),
        ];
        for (key, value) in ours {
            settings.entry(key).or_insert(value);
        }
        Ok(settings)
    }

    /// What a command on this machine must know of it.
    ///
    /// # Errors
    /// As [`Self::settings`].
    pub fn here(&self) -> Result<PlaneHere, PlaneError> {
        let settings = self.settings()?;
        let text = |key: &str| settings.get(key).and_then(toml::Value::as_str).unwrap_or_default();
        // The plane has the current folder of this process.
        let whole = |path: &str| std::path::absolute(path).unwrap_or_else(|_| path.into());
        let records = match text("records") {
            "" => whole(text("stateDir")).join("records.jsonl"),
            "-" => "-".into(),
            given => whole(given),
        };
        let attach_socket = whole(text("attachSocket"));
        Ok(PlaneHere { name: text("name").to_owned(), attach_socket, records })
    }

    /// Where everything of it is, a line each.
    ///
    /// # Errors
    /// As [`Self::settings`].
    pub fn places(&self) -> Result<String, PlaneError> {
        let (settings, here) = (self.settings()?, self.here()?);
        let none = "\nproxy  none, so passwords of `outgate attach` have no use; write proxy = [\"127.0.0.1:3128\"] in [plane]";
        let listens =
            settings.get("proxy").and_then(toml::Value::as_array).is_some_and(|list| !list.is_empty());
        Ok(format!(
            "plane  {} --config {}\nattach {}\naudit  {}{}",
            self.program.display(),
            self.config_path().display(),
            here.attach_socket.display(),
            here.records.display(),
            if listens { "" } else { none }
        ))
    }

    /// Writes settings, and a token where the plane has no identity that control knows.
    async fn prepare(&self, core: &Core) -> Result<(), PlaneError> {
        let fault = |source| PlaneError::Settings { folder: self.folder.display().to_string(), source };
        files::make_folder(&self.folder).map_err(fault)?;
        let settings = self.settings()?;
        files::write_private(&self.config_path(), settings.to_string().as_bytes()).map_err(fault)?;
        let text = |key: &str| settings.get(key).and_then(toml::Value::as_str).unwrap_or_default();
        let has_identity = Path::new(text("stateDir")).join("plane.key").is_file();
        if !(has_identity && core.planes.knows(text("name"))) {
            // Its process has ended, and what it joined as is lost or was removed: its name is free again.
            forget(core, text("name")).await.map_err(LinkError::from)?;
            let (token, _) = make_join_token(core, JOIN_TOKEN_TIME).await?;
            files::write_private(&self.folder.join("join-token"), token.as_bytes()).map_err(fault)?;
        }
        Ok(())
    }

    /// Runs the plane until `stop` says so; then ends it and waits for its end. One that dies is started again.
    ///
    /// # Errors
    /// When its settings cannot be written, or something keeps the first plane from serving: that is for an operator
    /// to mend. Once a plane has served, the cause may pass, and what is attached is worth another attempt.
    pub async fn run(
        &self,
        core: &Core,
        mut keeper: Keeper,
        mut stop: watch::Receiver<bool>,
    ) -> Result<(), PlaneError> {
        let mut pause = RESTART_PAUSE;
        if let Err(error) = raise_descriptors() {
            tell(format_args!("few listeners can be kept for a restarted plane: {error}"));
        }
        loop {
            self.prepare(core).await?;
            let started = Instant::now();
            let (ours, theirs) = pair().map_err(PlaneError::Keeper)?;
            // The plane's end is given away: when the plane ends, so does the conversation.
            let spawned = self.spawn(theirs);
            let keeping = tokio::task::spawn_blocking(move || {
                keeper.attend(&ours);
                // Ours stays open for as long as the plane lives, which ends when it closes.
                (keeper, ours)
            });
            let ended = match spawned {
                Err(error) => Err(error),
                Ok(mut child) => tokio::select! {
                    ended = child.wait() => ended,
                    () = told(&mut stop) => {
                        end(&mut child).await;
                        return Ok(());
                    }
                },
            };
            keeper = keeping.await.map(|(keeper, _ours)| keeper).unwrap_or_default();
            if keeper.has_served() {
                tell_end(ended);
            } else {
                self.judge(ended)?;
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

    /// Whether another attempt may go better than the first one, which came to no service.
    fn judge(&self, ended: io::Result<ExitStatus>) -> Result<(), PlaneError> {
        let status = ended
            .map_err(|source| PlaneError::Start { program: self.program.display().to_string(), source })?;
        // By a signal it was killed, and with 0 it was asked to end: neither is its own doing.
        if status.code().is_some_and(|code| code != 0) {
            let settings = self.config_path().display().to_string();
            return Err(PlaneError::Refused { status, settings });
        }
        tell_end(Ok(status));
        Ok(())
    }

    fn spawn(&self, keeper: OwnedFd) -> io::Result<Child> {
        let mut command = Command::new(&self.program);
        command.arg("--config").arg(self.config_path()).kill_on_drop(true);
        command.stdin(keeper).env(KEEPER_VARIABLE, KEEPER_ON_STDIN).spawn()
    }
}

/// The value lies behind a lock, which must not be held while anything waits.
async fn told(stop: &mut watch::Receiver<bool>) {
    let _ = stop.wait_for(|stop| *stop).await;
}

fn tell_end(ended: io::Result<ExitStatus>) {
    match ended {
        Ok(status) => tell(format_args!("the plane ended by {status}; starting it again")),
        Err(error) => tell(format_args!("the plane cannot be started: {error}; trying again")),
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
        assert!(
            error.contains("cargo build --profile plane -p dataplane --bin outgate-dataplane"),
            "{error}"
        );
    }

    fn plane(config: Given) -> LocalPlane {
        LocalPlane {
            program: "p".into(),
            folder: "/a \"b\"\\c".into(),
            config,
            link: "0.0.0.0:7".parse().unwrap(),
        }
    }

    #[test]
    fn settings_are_toml_whatever_the_folder_is_called() {
        let read: toml::Table = plane(Given::default()).settings().unwrap().to_string().parse().unwrap();
        assert_eq!(read["stateDir"].as_str(), Some("/a \"b\"\\c"));
        assert_eq!(read["control"]["address"].as_str(), Some("127.0.0.1:7"));
    }

    #[test]
    fn what_the_operator_wrote_stands_and_ours_fills_in_the_rest() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("own.toml");
        std::fs::write(&file, "name = \"edge\"\nshards = 3\n").unwrap();
        let read = plane(Given::File(file.clone())).settings().unwrap();
        assert_eq!((read["name"].as_str(), read["shards"].as_integer()), (Some("edge"), Some(3)));
        assert!(read.contains_key("control"));
        std::fs::write(&file, "shards = = 3\n").unwrap();
        let error = plane(Given::File(file)).settings().unwrap_err().to_string();
        assert!(error.contains("own.toml") && error.contains("line 1"), "{error}");
    }
}
