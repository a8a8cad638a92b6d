//! The gateway under test: a real `outgate serve` with its plane in a folder that is removed afterwards, or one that
//! runs already.

pub mod api;
pub mod attach;
pub mod fill;

use std::{
    collections::HashMap,
    fs,
    io::{self, BufRead, BufReader},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc::{Receiver, RecvTimeoutError, channel},
    thread,
    time::Instant,
};

use rustix::process::{Pid as KernelPid, Signal, kill_process};
use tempfile::TempDir;

use crate::{
    authority::Authority,
    limits::READY_TIME,
    names,
    origin::Origin,
    plan::{Load, Policy, Way},
    target::{Greeting, Seat, Target},
    usage::{Pid, command, descendants},
};
use api::Api;
use attach::Attach;
use fill::{Kind, Places};

/// The programs of a gateway.
#[derive(Clone, Debug)]
pub struct Programs {
    /// `outgate`.
    pub outgate: PathBuf,
    /// `outgate-dataplane`.
    pub dataplane: PathBuf,
}

impl Programs {
    /// Those that are given, else those beside this program, else those of the plane's own target folder.
    ///
    /// # Errors
    /// With the command that builds what is missing.
    pub fn find(outgate: Option<PathBuf>, dataplane: Option<PathBuf>) -> io::Result<Self> {
        let beside = std::env::current_exe()?.parent().map(Path::to_owned).unwrap_or_default();
        let outgate = outgate.unwrap_or_else(|| beside.join("outgate"));
        let near = outgate.parent().map(Path::to_owned).unwrap_or_default();
        let candidates = [
            near.join("outgate-dataplane"),
            near.join("../plane/outgate-dataplane"),
            beside.join("../plane/outgate-dataplane"),
        ];
        let dataplane = dataplane
            .or_else(|| candidates.iter().find(|path| path.exists()).cloned())
            .unwrap_or_else(|| candidates[1].clone());
        for (program, package) in
            [(&outgate, "--release -p control"), (&dataplane, "--profile plane -p dataplane")]
        {
            if !program.exists() {
                return Err(io::Error::other(format!(
                    "{} is not there; build it by `cargo build --locked {package}`, or name it by --outgate or --dataplane",
                    program.display()
                )));
            }
        }
        Ok(Self { outgate, dataplane })
    }

    /// What `outgate` says of its version.
    pub fn version(&self) -> String {
        let said = Command::new(&self.outgate).arg("--version").output();
        said.map_or_else(|_| String::new(), |said| String::from_utf8_lossy(&said.stdout).trim().to_owned())
    }
}

/// A gateway that serves.
pub struct Gateway {
    api: Api,
    attach: Attach,
    proxy: SocketAddr,
    /// The plane's process; control's is not measured.
    pub plane: Pid,
    /// Control's process.
    pub control: Pid,
    /// Folder of its state.
    pub state: PathBuf,
    version: String,
    registered: HashMap<Known, usize>,
    serve: Option<Serve>,
}

/// Policy and way, as a key.
type Known = (Policy, Way);

/// The processes and the folder of a gateway that was started here.
struct Serve {
    child: Child,
    _folder: TempDir,
}

/// What a gateway is started with.
pub struct Start<'a> {
    /// Its programs.
    pub programs: &'a Programs,
    /// Whom it is to trust upstream.
    pub authority: &'a Authority,
    /// Host names that it is to know.
    pub hosts: usize,
    /// Shards of its plane.
    pub shards: usize,
}

impl Gateway {
    /// Starts control and a plane.
    ///
    /// # Errors
    /// With the last lines of what they said.
    pub fn start(start: &Start<'_>) -> io::Result<Self> {
        let folder = tempfile::Builder::new().prefix("outgate-loadtest-").tempdir()?;
        let (state, root, hosts) =
            (folder.path().join("state"), folder.path().join("root.pem"), folder.path().join("hosts"));
        fs::write(&root, start.authority.pem())?;
        fs::write(&hosts, hosts_file(start.hosts))?;
        let settings = folder.path().join("plane.toml");
        fs::write(&settings, settings_of(start.shards, &root, &hosts))?;
        let mut child = Command::new(&start.programs.outgate)
            .args(["--state".as_ref(), state.as_os_str()])
            .args(["serve", "--listen", "127.0.0.1:0", "--plane-config"])
            .arg(&settings)
            .arg("--dataplane")
            .arg(&start.programs.dataplane)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| io::Error::other(format!("{}: {error}", start.programs.outgate.display())))?;
        let lines = lines_of(&mut child);
        let control = Pid(child.id());
        let serve = Serve { child, _folder: folder };
        let proxy = wait_ready(&lines)?;
        let plane = descendants(control).into_iter().find(|pid| command(*pid).starts_with("outgate-datapla"));
        let plane = plane.ok_or_else(|| io::Error::other("the plane's process is not to be found"))?;
        // Nobody reads on: what they say from now on must not fill the pipe.
        thread::spawn(move || lines.iter().for_each(drop));
        let version = start.programs.version();
        let mut gateway = Self::reach(&state, proxy, plane, control, version)?;
        gateway.serve = Some(serve);
        Ok(gateway)
    }

    /// A gateway that runs already.
    ///
    /// # Errors
    /// When control or its plane on this machine cannot be reached.
    pub fn running(state: &Path, proxy: SocketAddr, plane: Option<u32>) -> io::Result<Self> {
        let plane = plane.map(Pid).or_else(|| {
            let all = fs::read_dir("/proc")
                .ok()?
                .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
            all.map(Pid).find(|pid| command(*pid).starts_with("outgate-datapla"))
        });
        let plane = plane
            .ok_or_else(|| io::Error::other("no plane runs on this machine; name its process by --pid"))?;
        Self::reach(state, proxy, plane, plane, "running".into())
    }

    fn reach(state: &Path, proxy: SocketAddr, plane: Pid, control: Pid, version: String) -> io::Result<Self> {
        let mut api = Api::new(&state.join("api.sock"));
        fill::basics(&mut api)?;
        let attach = Attach::connect(&state.join("plane/attach.sock"))?;
        let (state, registered) = (state.to_owned(), HashMap::new());
        Ok(Self { api, attach, proxy, plane, control, state, version, registered, serve: None })
    }

    /// A caller of its API of one's own.
    pub fn caller(&self) -> Api {
        Api::new(&self.state.join("api.sock"))
    }

    /// Sandboxes of a load's kind that it knows already.
    pub fn registered(&self, load: &Load) -> usize {
        self.registered.get(&(load.policy, load.way)).copied().unwrap_or(0)
    }

    /// Makes it ready for a load: sandboxes are registered and those that will speak are attached.
    ///
    /// # Errors
    /// What control or the plane says.
    pub fn target(&mut self, load: &Load, origin: &Origin, progress: &dyn Fn(usize)) -> io::Result<Target> {
        let kind = Kind { policy: load.policy, way: load.way };
        let known = self.registered.entry((load.policy, load.way)).or_default();
        if *known < load.sandboxes {
            fill::register(&mut self.api, kind, load.sandboxes, progress)?;
            *known = load.sandboxes;
        }
        let time = load.warm_up + load.seconds + load.counted + 1.0;
        let speak = load.active() + (load.moves * time).ceil() as usize;
        let places = Places { proxy: self.proxy, origin };
        let count = speak.min(load.sandboxes);
        let seats = fill::attach(&mut self.api, &mut self.attach, &places, kind, count)?;
        Ok(Target {
            name: "outgate".into(),
            version: self.version.clone(),
            pids: vec![self.plane],
            ports: origin.ports,
            seats,
        })
    }
}

impl Drop for Serve {
    fn drop(&mut self) {
        let Some(pid) = i32::try_from(self.child.id()).ok().and_then(KernelPid::from_raw) else { return };
        // In order first: the plane ends with it.
        let _asked = kill_process(pid, Signal::TERM);
        let patience = Instant::now() + READY_TIME / 4;
        while Instant::now() < patience {
            match self.child.try_wait() {
                Ok(None) => thread::park_timeout(std::time::Duration::from_millis(20)),
                _ => return,
            }
        }
        let _killed = self.child.kill();
        let _reaped = self.child.wait();
    }
}

/// A reverse proxy, or the origin itself, as a target.
pub fn direct(doors: [SocketAddr; 3], ports: [u16; 3], pids: Vec<Pid>, roots: &str) -> Target {
    let seat = |sandbox| Seat {
        sandbox,
        doors,
        source: None,
        greeting: Greeting::None,
        roots: roots.into(),
        is_refusable: false,
    };
    Target { name: "direct".into(), version: String::new(), pids, ports, seats: vec![seat(0)] }
}

/// Every host of a plan, on this machine.
pub fn hosts_file(hosts: usize) -> String {
    let mut text: String =
        (0..hosts).map(|number| format!("127.0.0.1 h{number}.{}\n", names::ZONE)).collect();
    text.push_str(&format!("127.0.0.1 {}\n", names::BARE));
    text
}

fn settings_of(shards: usize, root: &Path, hosts: &Path) -> String {
    format!(
        "shards = {shards}\nproxy = [\"127.0.0.1:0\"]\n[dns]\nhostsFile = {:?}\n[upstream]\nsystemRoots = false\nrootsFile = {:?}\n",
        hosts.display().to_string(),
        root.display().to_string()
    )
}

fn lines_of(child: &mut Child) -> Receiver<String> {
    let (tell, lines) = channel();
    let streams: [Option<Box<dyn io::Read + Send>>; 2] = [
        child.stdout.take().map(|stream| Box::new(stream) as Box<dyn io::Read + Send>),
        child.stderr.take().map(|stream| Box::new(stream) as Box<dyn io::Read + Send>),
    ];
    for stream in streams.into_iter().flatten() {
        let tell = tell.clone();
        thread::spawn(move || {
            for line in BufReader::new(stream).lines().map_while(Result::ok) {
                let _nobody_listens = tell.send(line);
            }
        });
    }
    lines
}

/// Waits until the plane serves and is connected; answers the address of its explicit proxy.
fn wait_ready(lines: &Receiver<String>) -> io::Result<SocketAddr> {
    let (mut proxy, mut serves, mut connected, mut said) = (None, false, false, Vec::new());
    let patience = Instant::now() + READY_TIME;
    loop {
        if let (Some(proxy), true, true) = (proxy, serves, connected) {
            return Ok(proxy);
        }
        let line = match lines.recv_timeout(patience.saturating_duration_since(Instant::now())) {
            Ok(line) => line,
            Err(error) => {
                let why =
                    if error == RecvTimeoutError::Timeout { "is not ready in time" } else { "has ended" };
                return Err(io::Error::other(format!("the gateway {why}; it said:\n{}", said.join("\n"))));
            }
        };
        if let Some(address) = line.split("explicit proxy on ").nth(1) {
            proxy = address.trim().parse().ok();
        }
        serves |= line.ends_with(" serves");
        connected |= line.ends_with("connected to control");
        said.push(line);
    }
}
