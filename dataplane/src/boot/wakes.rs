//! What the main thread waits for: that the plane is let in, and that a signal or the end of its keeper ends it.

use std::{
    io,
    ops::ControlFlow,
    os::fd::OwnedFd,
    process,
    sync::mpsc::{self, RecvTimeoutError},
    thread,
    time::Duration,
};

use signal_hook::{
    consts::{SIGINT, SIGTERM},
    iterator::Signals,
};

use super::BootError;
use crate::{
    attach::wait_until_gone,
    causes::{chain, tell},
    limits::ORPHAN_TIME,
    link::{self, LinkConfig, LinkError, Member},
};

enum Wake {
    /// Somebody asks the process to end.
    End,
    /// Joining has ended.
    Entered(Box<(LinkConfig, Result<Option<Member>, LinkError>)>),
}

/// The main thread's end of everything that wakes it.
pub(super) struct Wakes {
    wake: mpsc::Sender<Wake>,
    woken: mpsc::Receiver<Wake>,
}

impl Wakes {
    /// Takes SIGINT and SIGTERM from now on.
    pub(super) fn of_signals() -> io::Result<Self> {
        let mut signals = Signals::new([SIGINT, SIGTERM])?;
        let (wake, woken) = mpsc::channel();
        let ending = wake.clone();
        let forward = move || {
            for _signal in signals.forever() {
                // Nobody waits any more once the process ends.
                let _ = ending.send(Wake::End);
            }
        };
        thread::Builder::new().name("signals".into()).spawn(forward)?;
        Ok(Self { wake, woken })
    }

    /// Ends the plane when its keeper is gone, also by a signal that no process can handle: a plane that nobody ends
    /// any more would hold its sockets for ever. One that hangs at its end is killed.
    ///
    /// The signal of a parent's death would not do: it follows a thread, and is lost where the program has
    /// capabilities of its own.
    pub(super) fn end_with(&self, keeper: OwnedFd) -> io::Result<()> {
        let wake = self.wake.clone();
        let follow = move || {
            if let Err(error) = wait_until_gone(&keeper) {
                return tell(format_args!("this plane would outlive what started it: {error}"));
            }
            tell("what started this plane is gone; it ends too");
            // Nobody waits any more once the process ends.
            let _ = wake.send(Wake::End);
            thread::sleep(ORPHAN_TIME);
            process::abort();
        };
        thread::Builder::new().name("keeper".into()).spawn(follow).map(drop)
    }

    /// Whether the plane is to end, asked for so long.
    pub(super) fn end_within(&mut self, time: Duration) -> bool {
        !matches!(self.woken.recv_timeout(time), Err(RecvTimeoutError::Timeout))
    }

    /// Waits until the plane has identity and master, and says why it has not yet. `None` when a signal came first.
    ///
    /// # Errors
    /// What only an operator can mend.
    pub(super) fn entered(&mut self, config: LinkConfig) -> Result<Option<(LinkConfig, Member)>, BootError> {
        let wake = self.wake.clone();
        let enter = move || {
            let mut last = String::new();
            let entered = link::enter(&config, |error| {
                let text = chain(&error);
                // The same, attempt after attempt, would fill the log.
                if text != last {
                    tell(format_args!("nothing is served yet, trying again: {text}"));
                    last = text;
                }
                ControlFlow::Continue(())
            });
            // Nobody waits any more once the process ends.
            let _ = wake.send(Wake::Entered(Box::new((config, entered))));
        };
        thread::Builder::new().name("join".into()).spawn(enter).map_err(BootError::Thread)?;
        match self.woken.recv() {
            Ok(Wake::Entered(entered)) => {
                let (config, member) = *entered;
                Ok(member?.map(|member| (config, member)))
            }
            Ok(Wake::End) | Err(_) => Ok(None),
        }
    }

    /// Waits for a signal.
    pub(super) fn until_end(&mut self) {
        while !matches!(self.woken.recv(), Ok(Wake::End) | Err(_)) {}
    }
}
