//! What the main thread waits for: that the plane is let in, and that a signal ends it.

use std::{io, ops::ControlFlow, sync::mpsc, thread};

use signal_hook::{
    consts::{SIGINT, SIGTERM},
    iterator::Signals,
};

use super::BootError;
use crate::{
    causes::{chain, tell},
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
