//! A gateway for as long as this process lives: `outgate serve` with its plane, in a temporary folder.
//!
//! ```text
//! this process ── `outgate serve` ── plane
//! ```
//!
//! The standard input of `serve` is a line to this process. However this process ends, the line is closed; `serve` then
//! ends the plane and removes the folder. Should `serve` die first, the plane ends by itself, and this process removes
//! the folder.
//!
//! The folder lies in memory where the system has room for it: nothing of it is worth the time of a disk, and no secret
//! comes to lie on one.

mod folder;

use std::fs;
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use control_wire::attach::{Attach, Client as AttachClient, Done, ListenerKind, ListenerSpec, Request};
use rustix::process::getuid;
use tempfile::TempDir;
use tokio::sync::oneshot;

use crate::causes::chain;
use crate::client::{Client, ClientError, Reply};
use crate::files;
use crate::limits::PLANE_END_TIME;
use crate::local_plane::{BUILD_COMMAND, Given};
use crate::serve::{self, API_SERVES, Fault, Owner, PLANE_SERVES, PlaneSettings};

/// First argument of the process that is `outgate serve` for another process.
const SERVE_COMMAND: &str = "gateway-serve";
/// Told on the line: it cannot serve, and the log says why.
const FAILED: u8 = b'f';
/// Time for control and plane to serve.
const READY_TIME: Duration = Duration::from_secs(15);
/// Time for control and plane to end, before they are killed.
const END_TIME: Duration = PLANE_END_TIME.saturating_add(Duration::from_secs(2));
/// Time in which an interrupt is noticed.
const INTERRUPT_TIME: Duration = Duration::from_millis(50);
/// How `serve` says that the plane did not stay.
const PLANE_ENDED: &str = "starting it again";
/// How the plane says that it cannot run.
const PLANE_FAULT: &str = "outgate-dataplane: ";

/// Set by a signal: whoever waits for the gateway gives up.
pub static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// Control and a plane, and the ways to speak to them.
pub struct Gateway {
    serve: Serve,
    client: Client,
    attach: Option<AttachClient>,
    runtime: tokio::runtime::Runtime,
}

/// Runs a process of the gateway where the first argument is its name.
pub fn process(arguments: &[String]) -> Option<ExitCode> {
    match arguments {
        [first, folder, program] if first == SERVE_COMMAND => Some(main(Path::new(folder), program.into())),
        _ => None,
    }
}

impl Gateway {
    /// Starts control, and the plane that is `program`, with the settings that `furnish` answers after it has put into
    /// the folder whatever they speak of. Answers at once: each call waits for what it needs.
    ///
    /// # Errors
    /// When nothing can be started.
    pub fn start(
        program: &Path,
        furnish: impl FnOnce(&Path) -> Result<toml::Table, Fault>,
    ) -> Result<Self, Fault> {
        let serve = Serve::start(program, furnish)?;
        let client = Client::new(&serve.folder.join("state/api.sock"));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        Ok(Self { serve, client, attach: None, runtime })
    }

    /// Waits until sandboxes can be attached.
    ///
    /// # Errors
    /// With the plane's own sentence where it cannot run; when interrupted; when it takes too long.
    pub fn wait_for_plane(&mut self) -> Result<(), Fault> {
        self.serve.wait_for(PLANE_SERVES)
    }

    /// What speaks to its API, for another thread.
    pub fn client(&self) -> Client {
        self.client.clone()
    }

    /// One call of the API whose refusal is an error.
    ///
    /// # Errors
    /// When interrupted, when there is no answer or a refusal.
    pub fn call(&mut self, method: &str, path: &str, body: impl Into<Vec<u8>>) -> Result<Reply, Fault> {
        self.serve.wait_for(API_SERVES)?;
        match self.runtime.block_on(self.client.call(method, path, body.into())) {
            // It has ended meanwhile.
            Err(ClientError::Connect { .. } | ClientError::Http(_)) => Err(self.serve.reason()?.into()),
            Err(error) => Err(self.serve.with_disk(chain(&error)).into()),
            Ok(reply) => Ok(reply),
        }
    }

    /// The same, where a refusal is an answer too.
    ///
    /// # Errors
    /// When there is no answer.
    pub fn ask(&self, method: &str, path: &str) -> Result<Reply, ClientError> {
        self.runtime.block_on(self.client.send(method, path, &[], ""))
    }

    /// Puts a sandbox behind its listeners, or where it has none behind the plane's proxy; the answer then holds the
    /// password. Its policy is enforced then.
    ///
    /// # Errors
    /// What the plane says, and as [`Self::wait_for_plane`].
    pub fn attach<D: AsFd>(&mut self, sandbox: &str, listeners: &[(ListenerKind, D)]) -> Result<Done, Fault> {
        self.wait_for_plane()?;
        let client = match &mut self.attach {
            Some(client) => client,
            none => {
                let socket = self.serve.folder.join("state/plane/attach.sock");
                none.insert(AttachClient::connect(&socket, READY_TIME)?)
            }
        };
        let specs = listeners.iter().map(|(kind, _)| ListenerSpec { kind: *kind }).collect();
        let proxy = listeners.is_empty();
        let attach = Attach { sandbox: sandbox.to_owned(), listeners: specs, proxy, ..Attach::default() };
        let descriptors: Vec<_> = listeners.iter().map(|(_, socket)| socket.as_fd()).collect();
        Ok(client.call(&Request::Attach(attach), &descriptors)?)
    }

    /// Where everything of it lies.
    pub fn folder(&self) -> &Path {
        &self.serve.folder
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
        self.serve.log()
    }

    /// Ends it. Answers how many processes and files of it are left.
    ///
    /// # Errors
    /// None that leaves anything behind.
    pub fn end(self) -> (usize, usize) {
        let folder = self.serve.folder.clone();
        drop(self);
        (processes_of(&folder), usize::from(folder.exists()))
    }
}

/// `outgate serve` and all below it. Dropped, they are gone, and the folder too.
struct Serve {
    folder: PathBuf,
    process: Child,
    line: Option<UnixStream>,
    /// What was told on the line.
    told: Vec<u8>,
    /// The plane's.
    program: PathBuf,
}

impl Serve {
    fn start(
        program: &Path,
        furnish: impl FnOnce(&Path) -> Result<toml::Table, Fault>,
    ) -> Result<Self, Fault> {
        let folder = folder::make(&folder::temporary(), getuid().as_raw())?;
        let path = folder.path().to_owned();
        Self::start_in(folder, program, furnish).inspect_err(|_| folder::remove(&path))
    }

    fn start_in(
        folder: TempDir,
        program: &Path,
        furnish: impl FnOnce(&Path) -> Result<toml::Table, Fault>,
    ) -> Result<Self, Fault> {
        let at = |name: &str| folder.path().join(name);
        let settings = furnish(folder.path())?.to_string();
        let told = |error: std::io::Error| {
            format!("cannot write to {}: {error}; set TMPDIR to another place", folder.path().display())
        };
        fs::write(at("plane.toml"), settings).map_err(told)?;
        let log = fs::File::create(at("log")).map_err(told)?;
        let (line, theirs) = UnixStream::pair()?;
        line.set_read_timeout(Some(INTERRUPT_TIME))?;
        let process = Command::new(std::env::current_exe()?)
            .arg(SERVE_COMMAND)
            .arg(folder.path())
            .arg(program)
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(log.try_clone()?)
            .stderr(log)
            // A terminal's interrupt is for this process, which then ends everything in order.
            .process_group(0)
            .spawn()?;
        // From here on it is that process's too.
        let program = program.to_owned();
        Ok(Self { folder: folder.keep(), process, line: Some(line), told: Vec::new(), program })
    }

    fn log(&self) -> Result<String, Fault> {
        Ok(fs::read_to_string(self.folder.join("log"))?)
    }

    /// Why it does not serve.
    fn reason(&self) -> Result<String, Fault> {
        Ok(self.with_disk(reason(&self.log()?, &self.program)))
    }

    /// The reason, and that the disk is full where it is.
    fn with_disk(&self, reason: String) -> String {
        if !files::is_full(rustix::fs::statvfs(&self.folder)) {
            return reason;
        }
        let place = self.folder.ancestors().nth(2).unwrap_or(&self.folder).display();
        format!("{reason}; the disk of {place} is full: make room, or set TMPDIR to another place")
    }

    /// Waits until this was told. Fails when it will not be, with the reason that was given.
    fn wait_for(&mut self, wanted: u8) -> Result<(), Fault> {
        let started = Instant::now();
        loop {
            if INTERRUPTED.load(Ordering::Relaxed) {
                return Err("interrupted".into());
            }
            if self.told.contains(&wanted) {
                return Ok(());
            }
            let mut told = [0];
            let line = self.line.as_mut().ok_or("the gateway has ended")?;
            match line.read(&mut told) {
                Ok(1) if told != [FAILED] => self.told.extend(told),
                Ok(_) => return Err(self.reason()?.into()),
                Err(_) if started.elapsed() > READY_TIME => {
                    let last = self.reason()?;
                    return Err(
                        format!("no gateway serves within {READY_TIME:?}; its last word: {last}").into()
                    );
                }
                // A plane that ends is started again; here the first end is one too many.
                Err(error) if is_pause(&error) && self.log()?.contains(PLANE_ENDED) => {
                    return Err(self.reason()?.into());
                }
                Err(error) if is_pause(&error) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

fn is_pause(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::Interrupted | ErrorKind::TimedOut | ErrorKind::WouldBlock)
}

impl Drop for Serve {
    fn drop(&mut self) {
        drop(self.line.take());
        let _ended = self.process.wait();
        // One that was killed has left it.
        folder::remove(&self.folder);
    }
}

/// The process that serves.
fn main(folder: &Path, program: PathBuf) -> ExitCode {
    // Its environment is the caller's, with what is hidden from the program, and its memory has the same.
    let served = crate::sandbox::close_to_others().and_then(|()| serve_for_owner(folder, program));
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("outgate: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Serves until the other end of standard input is closed, then removes the folder.
fn serve_for_owner(folder: &Path, program: PathBuf) -> io::Result<()> {
    let line = Arc::new(UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?));
    // The line is nothing for those that follow.
    rustix::stdio::dup2_stdin(fs::File::open("/dev/null")?)?;
    let (ended, gone) = oneshot::channel();
    let (watched, left) = (Arc::clone(&line), folder.to_owned());
    let watching = std::thread::spawn(move || {
        let _none = io::copy(&mut &*watched, &mut io::sink());
        // Who has failed meanwhile waits for this thread.
        let waiting = ended.send(()).is_ok();
        if waiting {
            std::thread::sleep(END_TIME);
            folder::remove(&left);
            std::process::exit(1);
        }
    });
    let plane = PlaneSettings { config: Given::File(folder.join("plane.toml")), program: Some(program) };
    let state = folder.join("state");
    let settings = serve::Settings {
        socket: state.join("api.sock"),
        state,
        listen: (std::net::Ipv4Addr::LOCALHOST, 0).into(),
        plane: Some(plane),
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    if let Err(error) = runtime.block_on(serve::run(settings, Some(Owner { line: Arc::clone(&line), gone })))
    {
        eprintln!("outgate: {}", chain(&*error));
        // It reads why, and lets go.
        let _gone = (&*line).write_all(&[FAILED]);
        let _let_go = watching.join();
    }
    drop(runtime);
    folder::remove(folder);
    Ok(())
}

/// The sentence of a log that says why nothing serves.
fn reason(log: &str, program: &Path) -> String {
    let fault =
        log.lines().find_map(|line| line.strip_prefix(PLANE_FAULT).filter(|line| !line.ends_with(" serves")));
    if let Some(fault) = fault {
        return fault.to_owned();
    }
    // A plane says why it ends; what says nothing is none, or another version's.
    let ended = log.lines().find_map(|line| line.strip_suffix(PLANE_ENDED)?.strip_suffix("; "));
    if let Some(ended) = ended {
        let program = program.display();
        return format!(
            "{ended} and said nothing; {program} must be the plane of this version: {BUILD_COMMAND}"
        );
    }
    let last = log.lines().last().unwrap_or("no word from `outgate serve`");
    last.strip_prefix("outgate: ").unwrap_or(last).to_owned()
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
    fn the_reason_is_the_planes_own_sentence_where_there_is_one() {
        let log = "api    /x\noutgate-dataplane: local with 2 shards serves\noutgate-dataplane: io_uring is off; set \
                   kernel.io_uring_disabled to 0\nthe plane ended by exit status: 1; starting it again\n";
        let reason = |log| reason(log, Path::new("/p"));
        assert_eq!(reason(log), "io_uring is off; set kernel.io_uring_disabled to 0");
        assert_eq!(reason("state /x\noutgate: cannot listen"), "cannot listen");
        assert_eq!(reason(""), "no word from `outgate serve`");
        let silent = reason("link\nthe plane ended by exit status: 0; starting it again\n");
        assert!(
            silent.starts_with("the plane ended by exit status: 0 and said nothing; /p must be"),
            "{silent}"
        );
        assert!(silent.ends_with(BUILD_COMMAND), "{silent}");
    }
}
