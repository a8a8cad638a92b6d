//! A gateway for as long as this process lives: `outgate serve` with its plane, in a temporary folder.
//!
//! ```text
//! this process ── keeper ── leash, which becomes `outgate serve` ── plane
//! ```
//!
//! However this process ends, its end of the keeper's standard input closes; the keeper then ends `serve` and removes
//! the folder. Should the keeper die first, the kernel ends `serve`.

use std::fs;
use std::io::{ErrorKind, Read};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use control_wire::attach::{Attach, Client as AttachClient, Done, ListenerKind, ListenerSpec, Request};
use rustix::process::{Pid, Signal, getppid, getuid, kill_process, set_parent_process_death_signal};
use serde_json::Value;
use tempfile::TempDir;

use crate::client::{Client, ClientError, Reply};
use crate::limits::PLANE_END_TIME;
use crate::serve::Fault;

/// First argument of the process that ends the gateway and removes its folder.
const KEEPER_COMMAND: &str = "gateway-keeper";
/// First argument of the process that ties `outgate serve` to the keeper's life.
const LEASH_COMMAND: &str = "gateway-leash";
/// Time for control and plane to serve.
const READY_TIME: Duration = Duration::from_secs(15);
/// Time for control and plane to end when asked, before they are killed.
const END_TIME: Duration = PLANE_END_TIME.saturating_add(Duration::from_secs(2));
/// Pause between two looks whether something is there yet.
const LOOK_PAUSE: Duration = Duration::from_millis(2);
/// How the plane says that it cannot run.
const PLANE_FAULT: &str = "outgate-dataplane: ";
/// How `serve` says that the plane did not stay.
const PLANE_ENDED: &str = "starting it again";

/// Set by a signal: whoever waits for the gateway gives up.
pub static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// Control and a plane, and the ways to speak to them.
pub struct Gateway {
    processes: Processes,
    client: Client,
    attach: AttachClient,
    runtime: tokio::runtime::Runtime,
}

/// Runs a process of the gateway where the first argument is its name.
pub fn process(arguments: &[String]) -> Option<ExitCode> {
    let (first, rest) = arguments.split_first()?;
    match (first.as_str(), rest) {
        (KEEPER_COMMAND, [folder, serve @ ..]) => Some(keep(Path::new(folder), serve)),
        (LEASH_COMMAND, [keeper, serve @ ..]) => Some(tie(keeper, serve)),
        _ => None,
    }
}

impl Gateway {
    /// Starts control, and the plane that is `program`, with the settings that `furnish` answers after it has put into
    /// the folder whatever they speak of.
    ///
    /// # Errors
    /// With the plane's own sentence where it cannot run; when interrupted; when it takes too long.
    pub fn start(
        program: &Path,
        furnish: impl FnOnce(&Path) -> Result<toml::Table, Fault>,
    ) -> Result<Self, Fault> {
        let started = Instant::now();
        let mut processes = Processes::start(program, furnish)?;
        let client = Client::new(&processes.folder.join("state/api.sock"));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let socket = processes.folder.join("state/plane/attach.sock");
        let attach = loop {
            let linked = runtime.block_on(client.call("GET", "/v1/planes", ""));
            let planes: Value =
                linked.map(|reply| serde_json::from_slice(&reply.body)).unwrap_or(Ok(Value::Null))?;
            if planes["planes"][0]["connected"] == true
                && let Ok(attach) = AttachClient::connect(&socket, READY_TIME)
            {
                break attach;
            }
            processes.look(started)?;
            std::thread::sleep(LOOK_PAUSE);
        };
        Ok(Self { processes, client, attach, runtime })
    }

    /// What speaks to its API, for another thread.
    pub fn client(&self) -> Client {
        self.client.clone()
    }

    /// One call of the API whose refusal is an error.
    ///
    /// # Errors
    /// When interrupted, when there is no answer or a refusal.
    pub fn call(&self, method: &str, path: &str, body: impl Into<Vec<u8>>) -> Result<Reply, Fault> {
        if INTERRUPTED.load(Ordering::Relaxed) {
            return Err("interrupted".into());
        }
        Ok(self.runtime.block_on(self.client.call(method, path, body.into()))?)
    }

    /// The same, where a refusal is an answer too.
    ///
    /// # Errors
    /// When there is no answer.
    pub fn ask(&self, method: &str, path: &str) -> Result<Reply, ClientError> {
        self.runtime.block_on(self.client.send(method, path, &[], ""))
    }

    /// Puts a sandbox behind its listeners, or where it has none behind the plane's proxy; the answer then holds the
    /// password.
    ///
    /// # Errors
    /// What the plane says.
    pub fn attach<D: std::os::fd::AsFd>(
        &mut self,
        sandbox: &str,
        listeners: &[(ListenerKind, D)],
    ) -> Result<Done, Fault> {
        let specs = listeners.iter().map(|(kind, _)| ListenerSpec { kind: *kind }).collect();
        let proxy = listeners.is_empty();
        let attach = Attach { sandbox: sandbox.to_owned(), listeners: specs, proxy, ..Attach::default() };
        let descriptors: Vec<_> = listeners.iter().map(|(_, socket)| socket.as_fd()).collect();
        Ok(self.attach.call(&Request::Attach(attach), &descriptors)?)
    }

    /// Where everything of it lies.
    pub fn folder(&self) -> &Path {
        &self.processes.folder
    }

    /// Where it lies, with all other gateways of this user that have the same folder for temporary files, also those
    /// that come later: who can reach one could have it let everything through.
    pub fn shared_folder(&self) -> &Path {
        self.folder().parent().unwrap_or(self.folder())
    }

    /// What control and plane have told their operator.
    ///
    /// # Errors
    /// Those of the file.
    pub fn log(&self) -> Result<String, Fault> {
        self.processes.log()
    }

    /// Ends it. Answers how many processes and files of it are left.
    ///
    /// # Errors
    /// None that leaves anything behind.
    pub fn end(self) -> (usize, usize) {
        let folder = self.processes.folder.clone();
        drop(self);
        (processes_of(&folder), usize::from(folder.exists()))
    }
}

/// The keeper and all below it. Dropped, they are gone, and the folder too.
struct Processes {
    folder: PathBuf,
    keeper: Child,
}

impl Processes {
    fn start(
        program: &Path,
        furnish: impl FnOnce(&Path) -> Result<toml::Table, Fault>,
    ) -> Result<Self, Fault> {
        let folder = make_folder(&std::env::temp_dir(), getuid().as_raw())?;
        let at = |name: &str| folder.path().join(name);
        fs::write(at("plane.toml"), furnish(folder.path())?.to_string())?;
        let log = fs::File::create(at("log"))?;
        let keeper = Command::new(std::env::current_exe()?)
            .arg(KEEPER_COMMAND)
            .arg(folder.path())
            .arg("--state")
            .arg(at("state"))
            .args(["serve", "--listen", "127.0.0.1:0", "--plane-config"])
            .arg(at("plane.toml"))
            .arg("--dataplane")
            .arg(program)
            .stdin(Stdio::piped())
            .stdout(log.try_clone()?)
            .stderr(log)
            // A terminal's interrupt is for this process, which then ends everything in order.
            .process_group(0)
            .spawn()?;
        // From here on it is the keeper's.
        Ok(Self { folder: folder.keep(), keeper })
    }

    fn log(&self) -> Result<String, Fault> {
        Ok(fs::read_to_string(self.folder.join("log"))?)
    }

    /// Fails when nothing can become ready any more, with the reason that was given.
    fn look(&mut self, started: Instant) -> Result<(), Fault> {
        if INTERRUPTED.load(Ordering::Relaxed) {
            return Err("interrupted".into());
        }
        let ended = self.keeper.try_wait()?.is_some();
        let text = self.log()?;
        if ended || text.contains(PLANE_ENDED) || started.elapsed() > READY_TIME {
            return Err(reason(&text).into());
        }
        Ok(())
    }
}

impl Drop for Processes {
    fn drop(&mut self) {
        drop(self.keeper.stdin.take());
        let _ended = self.keeper.wait();
        // A keeper whose `serve` ended by itself has left it.
        remove(&self.folder);
    }
}

/// Makes a folder for one gateway, in one that is shared by all of this user's.
fn make_folder(temporary: &Path, user: u32) -> Result<TempDir, Fault> {
    let shared = temporary.join(format!("outgate-{user}"));
    let told = |error: std::io::Error| {
        format!("cannot make a folder in {} (TMPDIR names another place): {error}", temporary.display())
    };
    loop {
        match fs::DirBuilder::new().mode(0o700).create(&shared) {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(told(error).into()),
            _ => {}
        }
        match fs::symlink_metadata(&shared) {
            Ok(found) if found.is_dir() && found.uid() == user && found.mode() & 0o077 == 0 => {}
            Ok(_) => {
                let why = "is not a folder of yours alone; remove it, or set TMPDIR to another place";
                return Err(format!("{} {why}", shared.display()).into());
            }
            // The last gateway before this one has just removed it.
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            Err(error) => return Err(told(error).into()),
        }
        match TempDir::with_prefix_in("run-", &shared) {
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            made => return Ok(made.map_err(told)?),
        }
    }
}

/// Removes a gateway's folder, and the shared one with the last.
fn remove(folder: &Path) {
    let _gone = fs::remove_dir_all(folder);
    let _others = folder.parent().map(fs::remove_dir);
}

/// The keeper: starts `serve`, ends it when standard input ends, and removes the folder.
fn keep(folder: &Path, serve: &[String]) -> ExitCode {
    let start = || {
        let own = std::env::current_exe()?;
        let keeper = std::process::id().to_string();
        Command::new(own).args([LEASH_COMMAND, &keeper]).args(serve).stdin(Stdio::null()).spawn()
    };
    let mut serve = match start() {
        Ok(serve) => serve,
        Err(error) => {
            eprintln!("outgate: cannot start `outgate serve`: {error}");
            return ExitCode::FAILURE;
        }
    };
    let pid = i32::try_from(serve.id()).ok().and_then(Pid::from_raw);
    std::thread::spawn(move || {
        wait_for_end_of_input();
        for signal in [Signal::TERM, Signal::KILL] {
            // It is not waited for before this process ends, so its number is its own.
            let _asked = pid.map(|pid| kill_process(pid, signal));
            std::thread::sleep(END_TIME);
        }
    });
    let _ended = serve.wait();
    if !input_has_ended() {
        // By itself. Whoever started this reads why, and removes the folder.
        return ExitCode::FAILURE;
    }
    remove(folder);
    ExitCode::SUCCESS
}

fn wait_for_end_of_input() {
    let mut bytes = [0; 64];
    while std::io::stdin().read(&mut bytes).is_ok_and(|count| count > 0) {}
}

fn input_has_ended() -> bool {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let stdin = std::io::stdin();
    let mut polled = [PollFd::new(&stdin, PollFlags::IN)];
    let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut polled, Some(&at_once)).is_ok_and(|ready| ready > 0)
}

/// The leash: becomes `outgate` with the given arguments, ended by the kernel when the keeper dies.
fn tie(keeper: &str, serve: &[String]) -> ExitCode {
    let tied = set_parent_process_death_signal(Some(Signal::TERM)).map_err(std::io::Error::from);
    if getppid().map(|parent| parent.as_raw_nonzero().to_string()).as_deref() != Some(keeper) {
        return ExitCode::FAILURE;
    }
    let failed = match tied.and_then(|()| std::env::current_exe()) {
        Ok(own) => Command::new(own).args(serve).exec(),
        Err(error) => error,
    };
    eprintln!("outgate: cannot start `outgate serve`: {failed}");
    ExitCode::FAILURE
}

/// The sentence of a log that says why nothing serves.
fn reason(log: &str) -> String {
    let fault =
        log.lines().find_map(|line| line.strip_prefix(PLANE_FAULT).filter(|line| !line.ends_with(" serves")));
    let last = log.lines().last().unwrap_or("no word from `outgate serve`");
    fault.unwrap_or(last).to_owned()
}

/// Processes whose command line names the folder.
fn processes_of(folder: &Path) -> usize {
    let wanted = folder.as_os_str().as_encoded_bytes();
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let lines = entries.filter_map(|entry| fs::read(entry.path().join("cmdline")).ok());
    lines.filter(|line| line.windows(wanted.len()).any(|bytes| bytes == wanted)).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gateways_of_one_user_lie_in_one_folder_that_goes_with_the_last() {
        let temporary = tempfile::tempdir().unwrap();
        let user = getuid().as_raw();
        let make = || make_folder(temporary.path(), user).unwrap().keep();
        let (one, other) = (make(), make());
        let shared = one.parent().unwrap().to_owned();
        assert_eq!((other.parent(), shared.parent()), (Some(&*shared), Some(temporary.path())));
        remove(&one);
        assert!(other.exists());
        remove(&other);
        assert!(!shared.exists());
    }

    #[test]
    fn a_folder_that_others_could_have_prepared_is_refused_with_what_to_do() {
        let temporary = tempfile::tempdir().unwrap();
        let user = getuid().as_raw();
        let refused = || make_folder(temporary.path(), user).unwrap_err().to_string();
        let shared = temporary.path().join(format!("outgate-{user}"));
        std::os::unix::fs::symlink("/tmp", &shared).unwrap();
        assert!(refused().contains("set TMPDIR"), "{}", refused());
        fs::remove_file(&shared).unwrap();
        fs::DirBuilder::new().mode(0o755).create(&shared).unwrap();
        assert!(refused().contains("set TMPDIR"), "{}", refused());
        let missing = make_folder(&temporary.path().join("missing"), user).unwrap_err().to_string();
        assert!(missing.contains("TMPDIR"), "{missing}");
    }

    #[test]
    fn the_reason_is_the_planes_own_sentence_where_there_is_one() {
        let log = "api    /x\noutgate-dataplane: local with 2 shards serves\noutgate-dataplane: io_uring is off; set \
                   kernel.io_uring_disabled to 0\nthe plane ended by exit status: 1; starting it again\n";
        assert_eq!(reason(log), "io_uring is off; set kernel.io_uring_disabled to 0");
        assert_eq!(reason("state /x\noutgate: cannot listen"), "outgate: cannot listen");
        assert_eq!(reason(""), "no word from `outgate serve`");
    }
}
