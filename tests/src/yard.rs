//! `outgate run` as an ordinary user types it, with an origin that it may dial.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output};

use crate::{
    origin::{Origin, respond},
    process::{outgate, shipped_plane},
    sandboxed::{Ground, processes_with},
};

/// A credential that no program inside may ever see.
pub const SECRET: &str = "ghp_4f0c7b1e9d2a48658a3b";

/// Runs a command at a terminal of its own. For each two further words: waits for the first, then types the second.
/// Says all that was shown, and ends as the command did.
const AT_A_TERMINAL: &str = r"
import os, pty, sys
steps = [word.encode().decode('unicode_escape').encode() for word in sys.argv[1].split(',')]
pid, terminal = pty.fork()
if pid == 0:
    os.execvp(sys.argv[2], sys.argv[2:])
shown, read = b'', b''
while True:
    try:
        piece = os.read(terminal, 4096)
    except OSError:
        break
    if not piece:
        break
    shown, read = shown + piece, read + piece
    while steps and steps[0] in read:
        read = read.split(steps.pop(0), 1)[1]
        os.write(terminal, steps.pop(0))
sys.stdout.buffer.write(shown)
status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
sys.exit(128 - status if status < 0 else status)
";

/// A folder of an ordinary user with the gateway's programs, and an origin that they may dial.
pub struct Yard {
    /// The folder.
    pub ground: Ground,
    /// The command.
    pub outgate: PathBuf,
    /// What may be dialled.
    pub origin: Origin,
}

impl Yard {
    /// With an origin that says back which credentials it was shown.
    ///
    /// # Panics
    /// As [`Yard::of`].
    #[allow(clippy::new_without_default, reason = "it starts things")]
    pub fn new() -> Self {
        Self::of(Origin::tls(&["origin.test"], |seen, out| {
            respond(out, seen.fields("authorization").collect::<Vec<_>>().join(" ").as_bytes())
        }))
    }

    /// With this origin, which serves `origin.test`; `denied.test` leads to it too, and no option allows that.
    ///
    /// # Panics
    /// When a program is not built or the folder cannot be made.
    pub fn of(origin: Origin) -> Self {
        let outgate = outgate();
        let ground = Ground::new(outgate.to_str().expect("a path that is text"));
        let outgate = ground.bring(&outgate, "outgate");
        ground.bring(&shipped_plane(), "outgate-dataplane");
        ground.write("hosts", "127.0.0.1 origin.test denied.test\n");
        ground.write("roots.pem", &origin.root_pem);
        let at = |name: &str| ground.path(name);
        ground.write(
            "plane.toml",
            format!(
                "[dns]\nhostsFile = {:?}\n[upstream]\nsystemRoots = false\nrootsFile = {:?}\n",
                at("hosts"),
                at("roots.pem")
            ),
        );
        ground.write(
            "policy.toml",
            "allowedAddresses = [{ host = \"origin.test\", cidrs = [\"127.0.0.0/8\"] }]\nallowedHosts = []\n",
        );
        Self { ground, outgate, origin }
    }

    /// A page of the origin under the name of this host.
    pub fn url(&self, host: &str) -> String {
        format!("https://{host}:{}/path?token=in-the-query", self.origin.address.port())
    }

    /// `outgate run` with the yard's settings and these options, up to `--`. [`SECRET`] is in the variable `TOKEN`.
    ///
    /// # Panics
    /// When the folder for temporary files cannot be made.
    pub fn run(&self, options: &[&str], program: &[&str]) -> Command {
        let mut command = self.ground.command(&self.outgate, &["run", "--policy", "policy.toml"]);
        command.args(["--plane-config", "plane.toml"]).args(options).arg("--").args(program);
        // What it makes for itself, to see what it leaves.
        let own = self.ground.path("tmp");
        if !own.exists() {
            fs::create_dir(&own).expect("a folder takes folders");
            fs::set_permissions(&own, std::os::unix::fs::PermissionsExt::from_mode(0o1777)).expect("mode");
        }
        command.env("TMPDIR", own).env("TOKEN", SECRET);
        command
    }

    /// The command at a terminal of its own. `steps` are words between commas, in pairs: the first of two is waited for,
    /// the second is typed. It says all that was shown, and ends as the command does.
    pub fn at_a_terminal(&self, steps: &str, run: &Command) -> Command {
        let mut command = self.ground.command("python3", &["-c", AT_A_TERMINAL, steps]);
        command.arg(run.get_program()).args(run.get_args());
        command.envs(run.get_envs().filter_map(|(name, value)| Some((name, value?))));
        command
    }

    /// What lies in the folder for temporary files.
    ///
    /// # Panics
    /// When it cannot be read.
    pub fn left(&self) -> Vec<String> {
        let entries = fs::read_dir(self.ground.path("tmp")).expect("folder");
        entries.map(|entry| entry.expect("entry").file_name().to_string_lossy().into_owned()).collect()
    }

    /// How many processes have the yard in their command line.
    ///
    /// # Panics
    /// When `/proc` cannot be read.
    pub fn processes(&self) -> usize {
        processes_with(&self.ground.path("").to_string_lossy())
    }
}

/// What a program wrote on standard output and on standard error.
pub fn said(output: &Output) -> (String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (text(&output.stdout), text(&output.stderr))
}
