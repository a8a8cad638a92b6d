//! What the demo runs on: a temporary folder, `outgate serve` with its plane, and calls of the API.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use control_wire::attach::{Attach, Client as AttachClient, ListenerSpec, Password, Request};
use rustix::process::{Pid, Signal, kill_process, set_parent_process_death_signal};
use serde_json::Value;
use tempfile::TempDir;

use super::driver::Listeners;
use super::origin::Origin;
use crate::client::Client;
use crate::limits::PLANE_END_TIME;
use crate::serve::Fault;

/// First argument of the process that ties `outgate serve` to the demo's life.
pub const LEASH_COMMAND: &str = "demo-leash";
/// Set by a signal; the demo ends at its next call.
pub static INTERRUPTED: AtomicBool = AtomicBool::new(false);
/// Time for control and plane to serve.
const READY_TIME: Duration = Duration::from_secs(15);
/// Pause between two looks whether something is there yet.
const LOOK_PAUSE: Duration = Duration::from_millis(10);
/// How the plane says that it cannot run.
const PLANE_FAULT: &str = "outgate-dataplane: ";
/// How `serve` says that the plane did not stay.
const PLANE_ENDED: &str = "starting it again";

/// Everything that must not outlive the demo.
pub struct Stage {
    folder: TempDir,
    serve: Child,
    client: Client,
    runtime: tokio::runtime::Runtime,
    attach: AttachClient,
    /// Address of the plane's explicit proxy.
    pub proxy: SocketAddr,
    /// Everything that the API answered.
    pub answers: Vec<u8>,
    /// Microseconds from start to readiness.
    pub ready_micros: u64,
}

/// Ends this process with SIGTERM when the demo dies, and becomes `outgate` with the given arguments.
pub fn leash_main(arguments: &[String]) -> ExitCode {
    let tied = set_parent_process_death_signal(Some(Signal::TERM)).map_err(std::io::Error::from);
    let failed = match tied.and_then(|()| std::env::current_exe()) {
        Ok(own) => Command::new(own).args(arguments).exec(),
        Err(error) => error,
    };
    eprintln!("outgate demo: cannot start `outgate serve`: {failed}");
    ExitCode::FAILURE
}

impl Stage {
    /// Starts control and plane in a folder of their own, with a resolver that finds `names` at the origin.
    pub fn start(program: &Path, origin: &Origin, names: &[&str]) -> Result<Self, Fault> {
        let started = Instant::now();
        let folder = TempDir::with_prefix("outgate-demo-")?;
        let at = |name: &str| folder.path().join(name);
        let names: String = names.iter().map(|name| format!("{} {name}\n", origin.address.ip())).collect();
        fs::write(at("hosts"), names)?;
        fs::write(at("origin.pem"), &origin.root_pem)?;
        // Taken and let go: the plane takes it in a moment.
        let proxy = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
        fs::write(at("plane.toml"), settings(&at("hosts"), &at("origin.pem"), &at("records.jsonl"), proxy))?;
        let log = fs::File::create(at("log"))?;
        let state = at("state");
        let serve = Command::new(std::env::current_exe()?)
            .args([LEASH_COMMAND, "--state"])
            .arg(&state)
            .args(["serve", "--listen", "127.0.0.1:0", "--plane-config"])
            .arg(at("plane.toml"))
            .arg("--dataplane")
            .arg(program)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            // A terminal's interrupt is for the demo, which then ends everything in order.
            .process_group(0)
            .spawn()?;
        let mut serve = Ending(Some(serve));
        let client = Client::new(&state.join("api.sock"));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let socket = state.join("plane/attach.sock");
        let attach = loop {
            let linked = runtime.block_on(client.call("GET", "/v1/planes", ""));
            let planes: Value =
                linked.map(|reply| serde_json::from_slice(&reply.body)).unwrap_or(Ok(Value::Null))?;
            if planes["planes"][0]["connected"] == true
                && let Ok(attach) = AttachClient::connect(&socket, READY_TIME)
            {
                break attach;
            }
            serve.look(&at("log"), started)?;
            std::thread::sleep(LOOK_PAUSE);
        };
        let ready_micros = u64::try_from(started.elapsed().as_micros())?;
        let serve = serve.0.take().ok_or("`outgate serve` has ended")?;
        Ok(Self { folder, serve, client, runtime, attach, proxy, answers: Vec::new(), ready_micros })
    }

    /// One call of the API, and the JSON that it answered.
    pub fn call(&mut self, method: &str, path: &str, body: impl Into<Vec<u8>>) -> Result<Value, Fault> {
        if INTERRUPTED.load(Ordering::Relaxed) {
            return Err("interrupted".into());
        }
        let reply = self.runtime.block_on(self.client.call(method, path, body.into()))?;
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
        let specs = listeners.iter().map(|(kind, _)| ListenerSpec { kind: *kind }).collect();
        let proxy = listeners.is_empty();
        let attach = Attach { sandbox: sandbox.to_owned(), listeners: specs, proxy, ..Attach::default() };
        let descriptors: Vec<_> =
            listeners.iter().map(|(_, socket)| std::os::fd::AsFd::as_fd(socket)).collect();
        Ok(self.attach.call(&Request::Attach(attach), &descriptors)?.proxy_password)
    }

    /// Records so far.
    pub fn records(&self) -> Result<String, Fault> {
        Ok(fs::read_to_string(self.folder.path().join("records.jsonl"))?)
    }

    /// What control and plane have told their operator.
    pub fn log(&self) -> Result<String, Fault> {
        Ok(fs::read_to_string(self.folder.path().join("log"))?)
    }

    /// Ends everything. Answers how many processes and files of it are left.
    pub fn end(mut self) -> Result<(usize, usize), Fault> {
        end(&mut self.serve);
        let path = self.folder.path().to_owned();
        self.folder.close()?;
        Ok((processes_of(&path), usize::from(path.exists())))
    }
}

/// `outgate serve`, ended when the demo does not get as far as to own it.
struct Ending(Option<Child>);

impl Ending {
    /// Fails when it cannot become ready any more, with the reason that it gave.
    fn look(&mut self, log: &Path, started: Instant) -> Result<(), Fault> {
        if INTERRUPTED.load(Ordering::Relaxed) {
            return Err("interrupted".into());
        }
        let text = fs::read_to_string(log)?;
        let ended = match &mut self.0 {
            Some(child) => child.try_wait()?.is_some(),
            None => true,
        };
        if ended || text.contains(PLANE_ENDED) || started.elapsed() > READY_TIME {
            return Err(reason(&text).into());
        }
        Ok(())
    }
}

impl Drop for Ending {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            end(child);
        }
    }
}

/// The sentence of a log that says why nothing serves.
fn reason(log: &str) -> String {
    let fault =
        log.lines().find_map(|line| line.strip_prefix(PLANE_FAULT).filter(|line| !line.ends_with(" serves")));
    let last = log.lines().last().unwrap_or("no word from `outgate serve`");
    fault.unwrap_or(last).to_owned()
}

/// Asks `outgate serve` to end with its plane; kills it only when it does not.
fn end(serve: &mut Child) {
    let pid = i32::try_from(serve.id()).ok().and_then(Pid::from_raw);
    if let Some(pid) = pid {
        // It may have ended by itself; the wait tells.
        let _ = kill_process(pid, Signal::TERM);
    }
    let until = Instant::now() + PLANE_END_TIME + Duration::from_secs(2);
    while Instant::now() < until {
        if !matches!(serve.try_wait(), Ok(None)) {
            return;
        }
        std::thread::sleep(LOOK_PAUSE);
    }
    let _ = serve.kill();
    let _ = serve.wait();
}

/// Processes whose command line names the folder.
fn processes_of(folder: &Path) -> usize {
    let wanted = folder.as_os_str().as_encoded_bytes();
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let lines = entries.filter_map(|entry| fs::read(entry.path().join("cmdline")).ok());
    lines.filter(|line| line.windows(wanted.len()).any(|bytes| bytes == wanted)).count()
}

/// The plane's settings: it resolves the demo's names, trusts the demo's server and nobody else.
fn settings(hosts: &Path, roots: &Path, records: &Path, proxy: SocketAddr) -> String {
    let text = |path: &Path| toml::Value::from(&*path.to_string_lossy());
    let table = |entries: Vec<(&str, toml::Value)>| {
        toml::Table::from_iter(entries.into_iter().map(|(key, value)| (key.to_owned(), value)))
    };
    let upstream = table(vec![("systemRoots", false.into()), ("rootsFile", text(roots))]);
    let dns = table(vec![("hostsFile", text(hosts))]);
    let settings = table(vec![
        ("proxy", toml::Value::Array(vec![proxy.to_string().into()])),
        ("records", text(records)),
        ("dns", dns.into()),
        ("upstream", upstream.into()),
    ]);
    settings.to_string()
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
    fn the_reason_is_the_planes_own_sentence_where_there_is_one() {
        let log = "api    /x\noutgate-dataplane: local with 2 shards serves\noutgate-dataplane: io_uring is off; set \
                   kernel.io_uring_disabled to 0\nthe plane ended by exit status: 1; starting it again\n";
        assert_eq!(reason(log), "io_uring is off; set kernel.io_uring_disabled to 0");
        assert_eq!(reason("state /x\noutgate: cannot listen"), "outgate: cannot listen");
        assert_eq!(reason(""), "no word from `outgate serve`");
    }

    #[test]
    fn settings_are_toml_whatever_the_folder_is_called() {
        let (odd, proxy) = (Path::new("/a \"b\"\\c"), "127.0.0.1:7".parse().unwrap());
        let read: toml::Table = settings(odd, odd, odd, proxy).parse().unwrap();
        assert_eq!(read["dns"]["hostsFile"].as_str(), Some("/a \"b\"\\c"));
        assert_eq!(read["proxy"][0].as_str(), Some("127.0.0.1:7"));
        assert_eq!(read["upstream"]["systemRoots"].as_bool(), Some(false));
    }
}
