//! Runs programs in the sandbox of `outgate run` by itself, as an ordinary user, for the tests of what it holds.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

/// Users and groups that no file belongs to, for tests that root runs: below those that systemd gives away.
const ORDINARY: std::ops::Range<u32> = 20_000..60_000;

/// Where an ordinary user's programs are looked for.
pub const PATH: &str = "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin";

/// Where programs are run: a folder of an ordinary user, with the program that makes sandboxes.
pub struct Ground {
    folder: tempfile::TempDir,
    user: Option<u32>,
}

impl Ground {
    /// Prepares one for the given program, of whoever runs the test; root becomes an ordinary user.
    ///
    /// # Panics
    /// When the folder cannot be made.
    pub fn new(program: &str) -> Self {
        // Each its own: what the kernel allows a user, locked memory above all, is not for all tests together.
        static MADE: AtomicU32 = AtomicU32::new(0);
        let number = std::process::id().wrapping_mul(64).wrapping_add(MADE.fetch_add(1, Ordering::Relaxed));
        let user = ORDINARY.start + number % (ORDINARY.end - ORDINARY.start);
        Self::of(program, rustix::process::geteuid().is_root().then_some(user))
    }

    /// Prepares one where root stays root.
    ///
    /// # Panics
    /// When the test is not run by root, or the folder cannot be made.
    pub fn of_root(program: &str) -> Self {
        assert!(rustix::process::geteuid().is_root(), "this test is about root and must be run by root");
        Self::of(program, None)
    }

    fn of(program: &str, user: Option<u32>) -> Self {
        let folder =
            tempfile::Builder::new().prefix("outgate-sandbox-").tempdir().expect("a temporary folder");
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).expect("permissions");
        let ground = Self { folder, user };
        ground.bring(Path::new(program), "in-sandbox");
        ground.own(ground.folder.path());
        ground
    }

    /// Puts another program there: folders on the way to the original may be closed to the user.
    ///
    /// # Panics
    /// When it cannot be put there.
    pub fn bring(&self, program: &Path, name: &str) -> PathBuf {
        let path = self.path(name);
        if fs::hard_link(program, &path).is_err() {
            // By another process: a program that this one has open to write, and so the processes that its other
            // threads start just then, cannot be run.
            let copied = Command::new("cp").arg(program).arg(&path).status();
            assert!(copied.expect("cp runs").success(), "a copy of the program");
        }
        path
    }

    /// The program that makes sandboxes.
    pub fn program(&self) -> PathBuf {
        self.path("in-sandbox")
    }

    /// A path in the folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes a file that belongs to the user.
    ///
    /// # Panics
    /// When it cannot be written.
    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, content).expect("a temporary folder takes files");
        self.own(&path);
        path
    }

    fn own(&self, path: &Path) {
        if self.user.is_some() {
            chown(path, self.user, self.user).expect("root may give files away");
        }
    }

    /// A program run as the user, in the folder, with few variables.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>, arguments: &[&str]) -> Command {
        // Whoever runs the tests in the background may have them ignore signals, and so all that they start.
        let mut command = Command::new("/usr/bin/env");
        command.arg("--default-signal=HUP,INT,QUIT").arg(program).args(arguments);
        command.current_dir(self.folder.path()).stdin(Stdio::null());
        command.env_clear().env("PATH", PATH).env("HOME", self.folder.path());
        if let Some(user) = self.user {
            command.uid(user).gid(user);
        }
        command
    }

    /// The command that runs a program inside; `options` stand before it.
    pub fn inside(&self, options: &[&str], program: &[&str]) -> Command {
        self.command(self.program(), &[options, &["--"], program].concat())
    }

    /// Tries something inside, and says what came of it.
    ///
    /// # Panics
    /// When the program does not run.
    pub fn probe_inside(&self, words: &[&str]) -> String {
        let program = self.program();
        let program = program.to_str().expect("a path that is text");
        text(&self.inside(&[], &[&[program, "probe"], words].concat()).output().expect("it runs"))
    }

    /// Tries something outside, as the same user.
    ///
    /// # Panics
    /// When the program does not run.
    pub fn probe_outside(&self, words: &[&str]) -> String {
        text(&self.command(self.program(), &[&["probe"], words].concat()).output().expect("it runs"))
    }
}

/// What a program wrote, both streams, without the end of the last line.
pub fn text(output: &Output) -> String {
    let text = [&output.stdout[..], &output.stderr].concat();
    String::from_utf8_lossy(&text).trim_end().to_owned()
}

/// How many processes have this text in their command line.
///
/// # Panics
/// When `/proc` cannot be read.
pub fn processes_with(text: &str) -> usize {
    let entries = fs::read_dir("/proc").expect("/proc").flatten();
    let lines = entries.filter_map(|entry| fs::read(entry.path().join("cmdline")).ok());
    lines.filter(|line| line.windows(text.len()).any(|window| window == text.as_bytes())).count()
}
