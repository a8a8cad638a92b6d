//! A process that runs, and everything that it says.

use std::{
    io::{BufRead, BufReader, Read},
    process::{Child, Command, Stdio},
    sync::{Arc, Condvar, Mutex},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use crate::gateway::PATIENCE;

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
