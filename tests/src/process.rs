//! Real processes of the product: control, planes, and the programs that stand in sandboxes.

use std::{
    fs,
    io::{Read, Write},
    net::SocketAddr,
    os::{fd::BorrowedFd, unix::net::UnixStream},
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::Instant,
};

use control_wire::attach::{Attach, Client, Detach, Done, Request};
use serde_json::Value;

use crate::gateway::PATIENCE;

pub use crate::{
    programs::{outgate, shipped_plane},
    running::Process,
};

/// A control process, in a folder that outlives it.
pub struct Control {
    /// Its state folder.
    pub state: PathBuf,
    /// The process.
    pub process: Process,
    /// UDP address of its link.
    pub link: SocketAddr,
}

impl Control {
    /// Starts control alone in a folder.
    ///
    /// # Panics
    /// When it does not start.
    pub fn start(state: &Path) -> Self {
        Self::alone(state, "127.0.0.1:0")
    }

    /// Starts control with a plane of its own, which gets these settings beside its usual ones.
    ///
    /// # Panics
    /// When it does not start.
    pub fn with_plane(state: &Path, settings: &str) -> Self {
        Self::serve(state, &mut Self::with_plane_command(state, settings))
    }

    /// The command that starts control with a plane of its own.
    ///
    /// # Panics
    /// When the settings cannot be written.
    pub fn with_plane_command(state: &Path, settings: &str) -> Command {
        fs::create_dir_all(state).expect("a temporary folder takes folders");
        let file = state.join("own.toml");
        fs::write(&file, settings).expect("a temporary folder takes files");
        let mut command = Self::command(state, "127.0.0.1:0");
        command.arg("--plane-config").arg(file).arg("--dataplane").arg(shipped_plane());
        command
    }

    fn command(state: &Path, listen: &str) -> Command {
        let mut command = Command::new(outgate());
        command.arg("--state").arg(state).args(["serve", "--listen", listen]);
        command
    }

    fn alone(state: &Path, listen: &str) -> Self {
        Self::serve(state, Self::command(state, listen).arg("--no-plane"))
    }

    fn serve(state: &Path, command: &mut Command) -> Self {
        let process = Process::start(command);
        let link = process.told("link   udp ").parse().expect("an address");
        Self { state: state.to_owned(), process, link }
    }

    /// Kills it and starts it again, alone, in the same folder at the same address.
    pub fn restart(&mut self) {
        self.process.kill();
        let link = self.link.to_string();
        *self = Self::alone(&self.state.clone(), &link);
    }

    /// Calls the API: status and body.
    ///
    /// # Panics
    /// When control does not answer HTTP.
    pub fn call(&self, method: &str, path: &str, body: &[u8]) -> (u16, String) {
        let mut socket = UnixStream::connect(self.state.join("api.sock")).expect("control listens");
        socket.set_read_timeout(Some(PATIENCE)).expect("a time-out can be set");
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: control\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        socket.write_all(&[head.as_bytes(), body].concat()).expect("control reads");
        let mut answer = String::new();
        socket.read_to_string(&mut answer).expect("control answers text");
        let (head, body) = answer.split_once("\r\n\r\n").expect("control answers HTTP");
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
        (status, body.to_owned())
    }

    /// Writes something and waits until every plane enforces it.
    ///
    /// # Panics
    /// When it is refused or not applied in time.
    pub fn put(&self, path: &str, body: &Value) {
        let (status, answer) =
            self.call("PUT", &format!("/v1/{path}?wait=applied"), body.to_string().as_bytes());
        assert_eq!(status, 200, "{path}: {answer}");
    }

    /// Publishes a handler and waits until every plane enforces it.
    ///
    /// # Panics
    /// When it is refused or not applied in time.
    pub fn publish(&self, name: &str, module: &Path) {
        let wasm = fs::read(module).expect("the module is built");
        let (status, answer) = self.call("PUT", &format!("/v1/handlers/{name}?wait=applied"), &wasm);
        assert_eq!(status, 200, "{name}: {answer}");
    }

    /// The folder of the plane that `serve` runs.
    pub fn plane_folder(&self) -> PathBuf {
        self.state.join("plane")
    }

    /// A token with which one plane may join.
    ///
    /// # Panics
    /// When control makes none.
    pub fn join_token(&self) -> String {
        let (status, answer) = self.call("POST", "/v1/join-tokens", b"");
        let token: Value = serde_json::from_str(&answer).unwrap_or_default();
        assert!((200..300).contains(&status), "{answer}");
        token["token"].as_str().expect("a token").to_owned()
    }
}

/// A plane that was started by itself, in a folder that outlives it.
pub struct Plane {
    /// Its state folder.
    pub folder: PathBuf,
    /// The process.
    pub process: Process,
    /// Where its explicit proxy listens.
    pub proxy: SocketAddr,
}

impl Plane {
    /// Makes a plane that joins control; `settings` are top-level settings and tables beside the usual ones.
    ///
    /// # Panics
    /// When it does not start.
    pub fn join(control: &Control, name: &str, folder: &Path, settings: &str) -> Self {
        fs::create_dir_all(folder).expect("a temporary folder takes folders");
        fs::write(folder.join("token"), control.join_token()).expect("a temporary folder takes files");
        let text = |path: &Path| Value::from(path.display().to_string()).to_string();
        let all = format!(
            "name = {name:?}\nstateDir = {}\nattachSocket = {}\nproxy = [\"127.0.0.1:0\"]\n{settings}\n\
             [control]\naddress = \"{}\"\njoinTokenFile = {}\n",
            text(folder),
            text(&folder.join("attach.sock")),
            control.link,
            text(&folder.join("token")),
        );
        fs::write(folder.join("plane.toml"), all).expect("a temporary folder takes files");
        Self::start(folder)
    }

    fn start(folder: &Path) -> Self {
        let mut command = Command::new(shipped_plane());
        let process = Process::start(command.arg("--config").arg(folder.join("plane.toml")));
        let proxy = process.told("explicit proxy on ").parse().expect("an address");
        process.told("connected to control");
        // Its last word of the start, after which its local socket answers.
        process.told(" serves");
        Self { folder: folder.to_owned(), process, proxy }
    }

    /// Kills it and starts it again in the same folder.
    pub fn restart(&mut self) {
        self.process.kill();
        *self = Self::start(&self.folder.clone());
    }
}

/// The records that a plane wrote, once there are so many.
///
/// # Panics
/// When they do not come, or one is no JSON.
pub fn records(folder: &Path, count: usize) -> Vec<Value> {
    let file = folder.join("records.jsonl");
    let end = Instant::now() + PATIENCE;
    loop {
        let text = fs::read_to_string(&file).unwrap_or_default();
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        if whole.lines().count() >= count {
            return whole.lines().map(|line| serde_json::from_str(line).expect("a record")).collect();
        }
        assert!(Instant::now() < end, "{count} records did not come:\n{text}");
        thread::yield_now();
    }
}

/// Asks something of a plane's local socket.
///
/// # Panics
/// When the plane refuses.
pub fn local(folder: &Path, request: &Request, passed: &[BorrowedFd<'_>]) -> Done {
    let client = Client::connect(&folder.join("attach.sock"), PATIENCE);
    client.and_then(|mut client| client.call(request, passed)).unwrap_or_else(|error| panic!("{error}"))
}

/// Attaches a sandbox to the explicit proxy and returns its password.
///
/// # Panics
/// When the plane refuses.
pub fn attach_proxy(folder: &Path, sandbox: &str) -> String {
    let attach = Attach { sandbox: sandbox.into(), proxy: true, ..Attach::default() };
    let done = local(folder, &Request::Attach(attach), &[]);
    done.proxy_password.expect("a password was asked for").expose().to_owned()
}

/// Detaches a sandbox.
///
/// # Panics
/// When the plane refuses.
pub fn detach(folder: &Path, sandbox: &str) {
    local(folder, &Request::Detach(Detach { sandbox: sandbox.into() }), &[]);
}

/// The process that another one has started.
///
/// # Panics
/// When `/proc` cannot be read.
pub fn child_of(pid: u32) -> Option<u32> {
    fs::read_dir("/proc").expect("/proc is there").flatten().find_map(|entry| {
        let stat = fs::read_to_string(entry.path().join("stat")).ok()?;
        let parent = stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse::<u32>().ok()?;
        (parent == pid).then(|| entry.file_name().to_str()?.parse().ok()).flatten()
    })
}

/// Runs a program to its end; what it wrote, both streams, and whether it went well.
///
/// # Panics
/// When it cannot be started.
pub fn run(command: &mut Command) -> (bool, String) {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let text = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&text).into_owned())
}
