//! The terminal, lent back to `run` while the program has it: for a question to the person.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use rustix::process::Pid;
use rustix::termios::{
    InputModes, LocalModes, OptionalActions, OutputModes, Termios, tcgetattr, tcgetpgrp, tcsetattr,
};

use super::limits::PAUSE_TIME;
use super::terminal::Terminal;
use super::word::{Order, say};

/// Who has the terminal.
#[derive(Debug)]
pub(super) struct Desk {
    socket: Arc<OwnedFd>,
    state: Mutex<State>,
    /// The program was stopped while the terminal is lent.
    stop: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// The program, or whoever it was lent to.
    given: bool,
    lent: bool,
    /// The program stands still.
    stopped: bool,
}

impl Desk {
    pub fn new(socket: Arc<OwnedFd>) -> Self {
        Self { socket, state: Mutex::default(), stop: Condvar::new() }
    }

    pub fn is_given(&self) -> bool {
        self.state().given
    }

    pub fn set_given(&self, given: bool) {
        self.state().given = given;
    }

    /// Whether a program that was stopped waits for the terminal to come back, and not for a shell.
    pub fn is_awaited(&self) -> bool {
        let mut state = self.state();
        state.stopped |= state.lent;
        self.stop.notify_all();
        state.lent
    }

    /// Stops everything inside. Whoever waits in a read would keep what comes next, though the terminal is no longer
    /// its own; whoever writes could draw over the question; and a process that ignores the signal for that may take
    /// the foreground (tcsetpgrp(3)).
    fn freeze(&self) {
        let _gone = say(&*self.socket, &Order::Pause, &[]);
        // One that does not stop in time has ended.
        drop(self.stop.wait_timeout_while(self.state(), PAUSE_TIME, |state| !state.stopped));
    }

    /// Lets everything go on; who had the terminal has it already.
    fn thaw(&self) {
        let _gone = say(&*self.socket, &Order::Resume { foreground: false }, &[]);
    }

    /// Nothing here can be half done.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Lends the terminal of a running program.
#[derive(Clone, Debug)]
pub struct Lender(pub(super) Arc<Desk>);

impl Lender {
    /// Takes the terminal for as long as the answer lives, in the state in which people type lines; everything inside
    /// stands still meanwhile, and what was typed before is dropped. `None` where the program does not have it either:
    /// without one, in the background, or lent already.
    pub fn borrow(&self) -> Option<Lent> {
        let mut state = self.0.state();
        if !state.given || state.lent {
            return None;
        }
        let terminal = Terminal::open()?;
        state.lent = true;
        state.stopped = false;
        drop(state);
        // First of all: who reads from a terminal that is taken away would be stopped by that.
        self.0.freeze();
        let found = tcgetpgrp(terminal.file()).and_then(|group| Ok((group, tcgetattr(terminal.file())?)));
        let Ok((group, modes)) = found else {
            self.0.state().lent = false;
            self.0.thaw();
            return None;
        };
        terminal.take();
        terminal.release();
        let mut lines = modes.clone();
        lines.input_modes |= InputModes::ICRNL;
        lines.output_modes |= OutputModes::OPOST | OutputModes::ONLCR;
        lines.local_modes |= LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG;
        // What was typed for the program is no answer. Where that fails, the answer is typed unseen.
        let _unseen = tcsetattr(terminal.file(), OptionalActions::Flush, &lines);
        Some(Lent { desk: Arc::clone(&self.0), terminal, group, modes })
    }
}

/// The terminal, to write a question to and to read the answer from. Dropped, the program has it again.
pub struct Lent {
    desk: Arc<Desk>,
    terminal: Terminal,
    group: Pid,
    modes: Termios,
}

impl Lent {
    /// The terminal.
    pub fn file(&self) -> &File {
        self.terminal.file()
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        let mut state = self.desk.state();
        state.lent = false;
        // A program that has ended leaves it to this process, as it was when that asked.
        if !state.given {
            return;
        }
        let _unseen = tcsetattr(self.terminal.file(), OptionalActions::Drain, &self.modes);
        self.terminal.give(self.group);
        drop(state);
        self.desk.thaw();
    }
}
