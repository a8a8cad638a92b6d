//! The side of `run`: starts the sandbox's processes, passes on signals, stops and goes on with the program, and tells
//! how it ended.
//!
//! A thread does that. The kernel kills the sandbox when the thread ends that started it (`PR_SET_PDEATHSIG` looks at
//! threads), so it stays as long as the sandbox does.

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{self, JoinHandle};

use control_wire::attach::{ListenerKind, pair};
use rustix::net::{Shutdown, shutdown};
use rustix::process::{Signal, kill_process};
use signal_hook::consts::signal::{SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGTSTP, SIGUSR1, SIGUSR2};
use signal_hook::iterator::{Handle, Signals};

use super::lend::Desk;
use super::limits::REPORTS_MAX;
use super::system::keep_ends_of_children;
use super::terminal::{Terminal, has_shell, others_of_group};
use super::word::{End, Fault, Order, Report, hear, say};
use super::{INSIDE_COMMAND, SandboxError};

/// Signals that go on to the program. A terminal's own reach it without us.
const PASSED_ON: [i32; 6] = [SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2];

/// What the sandbox's processes tell, in this order.
pub(super) enum News {
    Ready { listeners: Vec<(ListenerKind, OwnedFd)>, micros: u64 },
    Started,
    Ended(End),
    Failed(Fault),
}

/// A sandbox's processes. Dropped, they are ended and waited for.
pub(super) struct Supervised {
    socket: Arc<OwnedFd>,
    desk: Arc<Desk>,
    news: Receiver<News>,
    signals: Option<Handle>,
    thread: Option<JoinHandle<()>>,
}

impl Supervised {
    /// Starts the first two processes.
    pub fn start() -> Result<Self, SandboxError> {
        let step = |error| SandboxError::Step { step: "start a process".into(), error };
        keep_ends_of_children().map_err(|error| step(error.to_string()))?;
        let (ours, theirs) = pair().map_err(|error| step(error.to_string()))?;
        let socket = Arc::new(ours);
        let (tell, news) = sync_channel(REPORTS_MAX);
        let (spawned, done) = sync_channel(1);
        let desk = Arc::new(Desk::new(Arc::clone(&socket)));
        let (heard, minded) = (Arc::clone(&socket), Arc::clone(&desk));
        let attending = move || match spawn(theirs) {
            Ok(child) => {
                let _waited_for = spawned.send(Ok(()));
                attend(&heard, child, &minded, &tell);
            }
            Err(error) => {
                let _waited_for = spawned.send(Err(error));
            }
        };
        // Who may have no more processes may have no more threads.
        let thread = thread::Builder::new().spawn(attending).map_err(|error| step(error.to_string()))?;
        let supervised = Self { socket, desk, news, signals: None, thread: Some(thread) };
        match done.recv() {
            Ok(Ok(())) => Ok(supervised),
            Ok(Err(error)) => Err(step(error.to_string())),
            Err(_) => Err(SandboxError::Lost),
        }
    }

    /// Waits for what comes next; the end of the processes without a word is one too.
    pub fn next(&self) -> Result<News, SandboxError> {
        match self.news.recv() {
            Ok(News::Failed(fault)) => Err(fault.into()),
            Ok(news) => Ok(news),
            Err(_) => Err(SandboxError::Lost),
        }
    }

    /// Lets the program be started, with standard input and its furniture; from here on signals go to it.
    pub fn order_start(&mut self, furniture: &OwnedFd, stdin: &OwnedFd) -> io::Result<()> {
        let mut signals = Signals::new(heeded(&fs::read_to_string("/proc/self/status")?))?;
        self.signals = Some(signals.handle());
        let socket = Arc::clone(&self.socket);
        say(&*self.socket, &Order::Start, &[furniture.as_fd(), stdin.as_fd()])?;
        thread::spawn(move || {
            for number in signals.forever() {
                // A sandbox that is gone needs none.
                let _gone = say(&*socket, &Order::Signal(number), &[]);
            }
        });
        Ok(())
    }

    /// Ends everything inside at once.
    pub fn kill(&self) {
        // The first process ends when it hears no more.
        let _gone = shutdown(&*self.socket, Shutdown::Both);
    }

    /// Who has the terminal.
    pub fn desk(&self) -> Arc<Desk> {
        Arc::clone(&self.desk)
    }

    /// Something that can end it from elsewhere.
    pub fn socket(&self) -> Arc<OwnedFd> {
        Arc::clone(&self.socket)
    }
}

impl Drop for Supervised {
    fn drop(&mut self) {
        self.kill();
        if let Some(signals) = &self.signals {
            signals.close();
        }
        if let Some(thread) = self.thread.take() {
            let _panicked = thread.join();
        }
    }
}

/// Those that the caller does not ignore: what `nohup` and the shell's `&` have set stays so, inside too.
fn heeded(status: &str) -> Vec<i32> {
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let ignored = ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or_default();
    PASSED_ON.into_iter().filter(|number| ignored & (1 << (number - 1)) == 0).collect()
}

/// Starts this same program as the process that leaves the namespaces. It sees nothing of our environment, and is in a
/// process group of its own, so that signals for ours do not end it.
fn spawn(socket: OwnedFd) -> io::Result<Child> {
    Command::new("/proc/self/exe")
        .arg0("outgate")
        .arg(INSIDE_COMMAND)
        .env_clear()
        .stdin(Stdio::from(socket))
        .process_group(0)
        .spawn()
}

/// Hears reports until the processes are gone, and waits for the one that was started here.
fn attend(socket: &OwnedFd, mut child: Child, desk: &Desk, tell: &SyncSender<News>) {
    let terminal = Terminal::open();
    // The program gets the foreground where this process has it, and what it did with it ends with it.
    let foreground = terminal.as_ref().is_some_and(Terminal::is_ours);
    let take_back = || {
        if let (Some(terminal), true) = (&terminal, desk.is_given()) {
            desk.set_given(false);
            terminal.take();
            terminal.release();
        }
    };
    while let Ok(Some((report, passed))) = hear::<Report>(socket) {
        let news = match report {
            Report::Ready { kinds, micros } if kinds.len() == passed.len() => {
                News::Ready { listeners: kinds.into_iter().zip(passed).collect(), micros }
            }
            Report::Ready { .. } => break,
            Report::Started => {
                desk.set_given(foreground);
                News::Started
            }
            Report::Stopped if desk.is_awaited() => continue,
            Report::Stopped => {
                if let Some(terminal) = &terminal {
                    for order in stop(terminal, desk.is_given()) {
                        desk.set_given(order == Order::Resume { foreground: true });
                        let _gone = say(socket, &order, &[]);
                    }
                }
                continue;
            }
            Report::Ended(end) => News::Ended(end),
            Report::Failed(fault) => News::Failed(fault),
        };
        if matches!(news, News::Ended(_)) {
            take_back();
        }
        if tell.send(news).is_err() {
            break;
        }
    }
    let _gone = shutdown(socket, Shutdown::Both);
    let _reaped = child.wait();
    take_back();
}

/// Stops this process, and all of its job, as the program inside was stopped; goes on when the shell says so. Answers
/// what the program must be told then.
fn stop(terminal: &Terminal, ours: bool) -> Vec<Order> {
    if ours {
        terminal.take();
    }
    if !has_shell() {
        // What the kernel does with a stopped group that nobody would continue (setpgid(2)).
        let hang_up = (!ours).then_some(Order::Signal(SIGHUP));
        return hang_up.into_iter().chain([Order::Resume { foreground: ours }]).collect();
    }
    // The call for a whole group would stop this process too, at a moment that nobody knows: it would go on, and stop
    // again.
    for other in others_of_group() {
        let _ended = kill_process(other, Signal::TSTP);
    }
    // Comes back when the shell lets this process go on.
    let _always_possible = signal_hook::low_level::raise(SIGTSTP);
    vec![Order::Resume { foreground: terminal.is_ours() }]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_that_the_caller_ignores_is_not_taken() {
        // Bits 0 and 1 are SIGHUP and SIGINT.
        assert_eq!(heeded("SigBlk:\t0\nSigIgn:\t0000000000000003\n"), PASSED_ON[2..]);
        assert_eq!(heeded("SigIgn:\t0000000000001000\n"), PASSED_ON);
    }
}
