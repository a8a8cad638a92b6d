//! Real processes of the product: control, planes, and the programs that stand in sandboxes.

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::SocketAddr,
    os::{fd::BorrowedFd, unix::net::UnixStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Arc, Condvar, Mutex},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use control_wire::attach::{Attach, Client, Detach, Done, Request};
use serde_json::Value;

use crate::gateway::PATIENCE;

pub use crate::programs::{outgate, shipped_plane};

/// Pause between two looks at something that tells of no change.
const LOOK_PAUSE: Duration = Duration::from_millis(5);
/// How long the last words of a process that has ended are waited for.
const REST_PATIENCE: Duration = Duration::from_secs(1);

/// A process that is killed with the test, and everything that it says.
pub struct Process {
    child: Child,
    said: Arc<(Mutex<String>, Condvar)>,
    readers: [JoinHandle<()>; 2],
}

impl Process {
    /// Starts it.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn start(command: &mut Command) -> Self {
        Self::spawn(command.stdin(Stdio::null()))
    }

    /// Starts it with the standard input that it was given.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn spawn(command: &mut Command) -> Self {
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let said = Arc::<(Mutex<String>, Condvar)>::default();
        let (out, err) = (child.stdout.take().expect("piped"), child.stderr.take().expect("piped"));
        let readers = [collect(out, Arc::clone(&said)), collect(err, Arc::clone(&said))];
        Self { child, said, readers }
    }

    /// What follows `mark` on the first line that holds it.
    ///
    /// # Panics
    /// When no such line comes.
    pub fn told(&self, mark: &str) -> String {
        self.told_within(PATIENCE, mark)
    }

    /// The same for one that has much to do before.
    ///
    /// # Panics
    /// When no such line comes.
    pub fn told_within(&self, time: Duration, mark: &str) -> String {
        let (said, changed) = &*self.said;
        let find = |text: &str| text.lines().find_map(|line| Some(line.split_once(mark)?.1.to_owned()));
        let said = said.lock().expect("no reader panicked");
        let waited = changed.wait_timeout_while(said, time, |text| find(text).is_none());
        // Not held by a test that fails: its end asks again for what was said.
        let said = waited.expect("no reader panicked").0.clone();
        find(&said).unwrap_or_else(|| panic!("no line with `{mark}` in:\n{said}"))
    }

    /// Ends its standard input, where [`Process::spawn`] was given a pipe.
    pub fn end_input(&mut self) {
        self.child.stdin = None;
    }

    /// Everything that it has said so far.
    ///
    /// # Panics
    /// When a reader panicked.
    pub fn said(&self) -> String {
        self.said.0.lock().expect("no reader panicked").clone()
    }

    /// Its number.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends it a signal.
    ///
    /// # Panics
    /// When it has ended.
    pub fn signal(&self, signal: rustix::process::Signal) {
        let pid = i32::try_from(self.pid()).ok().and_then(rustix::process::Pid::from_raw).expect("a pid");
        rustix::process::kill_process(pid, signal).expect("the process lives");
    }

    /// Kills it and waits for its end.
    ///
    /// # Panics
    /// When it cannot be waited for.
    pub fn kill(&mut self) {
        // It may have ended by itself.
        let _ended = self.child.kill();
        self.child.wait().expect("a child can be waited for");
    }

    /// Waits until it ends by itself, and tells whether it ended well.
    ///
    /// # Panics
    /// When it does not end.
    pub fn ended(&mut self) -> bool {
        let begun = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().expect("a child can be waited for") {
                self.hear_the_rest();
                return status.success();
            }
            assert!(begun.elapsed() < PATIENCE, "process {} goes on", self.pid());
            thread::park_timeout(LOOK_PAUSE);
        }
    }

    /// What it said last may still be on its way. Not waited for for ever: others may have its output open.
    fn hear_the_rest(&self) {
        let begun = Instant::now();
        while begun.elapsed() < REST_PATIENCE && !self.readers.iter().all(JoinHandle::is_finished) {
            thread::park_timeout(LOOK_PAUSE);
        }
    }

    /// Asks it to end, waits, and tells whether it ended well.
    ///
    /// # Panics
    /// When it has ended before.
    pub fn end(&mut self) -> bool {
        self.signal(rustix::process::Signal::TERM);
        let ended_well = self.child.wait().expect("a child can be waited for").success();
        self.hear_the_rest();
        ended_well
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // In order where it can be: when `outgate serve` has ended so, its plane has left the folder.
        if self.child.try_wait().is_ok_and(|ended| ended.is_none()) {
            self.signal(rustix::process::Signal::TERM);
            let asked = Instant::now();
            while asked.elapsed() < PATIENCE && self.child.try_wait().is_ok_and(|ended| ended.is_none()) {
                thread::yield_now();
            }
        }
        self.kill();
        if thread::panicking() {
            eprintln!("--- a process said:\n{}", self.said());
        }
    }
}

fn collect(stream: impl Read + Send + 'static, said: Arc<(Mutex<String>, Condvar)>) -> JoinHandle<()> {
    thread::spawn(move || {
        for line in BufReader::new(stream).lines().map_while(Result::ok) {
            let mut text = said.0.lock().expect("no reader panicked");
            text.push_str(&line);
            text.push('\n');
            said.1.notify_all();
        }
    })
}

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
