//! The demo's end of a sandbox: starts its program, asks it, and attaches what listens in it to the plane.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use control_wire::attach::{LineReader, ListenerKind};
use tempfile::TempDir;

use super::sandbox::{SANDBOX_COMMAND, TOGETHER};
use super::word::{Answer, Apart, Ask, Found, Got, Road, Streams, Wanted};
use crate::serve::Fault;

/// A sandbox that says nothing for so long has failed.
const PATIENCE: Duration = Duration::from_secs(25);
/// Variable with a text that the search must find.
pub const PLANTED_VARIABLE: &str = "DEMO_PLANTED";

/// A running sandbox program. Dropped, it is ended and waited for.
pub struct Sandbox {
    child: Child,
    socket: UnixStream,
    lines: LineReader,
    /// Whether it stands apart from the machine.
    pub apart: Apart,
    /// Its files, where it has no root of its own. Removed after the program has ended.
    _folder: TempDir,
}

/// Listeners of one room, each with what it is for.
pub type Listeners = Vec<(ListenerKind, OwnedFd)>;

impl Sandbox {
    /// Starts one, apart from the machine where the kernel allows it.
    pub fn start(planted: &str) -> Result<Self, Fault> {
        let apart = Self::spawn("apart", planted)?;
        let Some(why) = apart.apart.refused.clone() else { return Ok(apart) };
        let mut together = Self::spawn(TOGETHER, planted)?;
        together.apart.refused = Some(why);
        Ok(together)
    }

    fn spawn(how: &str, planted: &str) -> Result<Self, Fault> {
        let (socket, theirs) = UnixStream::pair()?;
        socket.set_read_timeout(Some(PATIENCE))?;
        let mut command = Command::new(std::env::current_exe()?);
        command.args([SANDBOX_COMMAND, how, planted]);
        // Nothing of the demo's own environment is for the sandbox to see.
        command.env_clear().env(PLANTED_VARIABLE, planted);
        let folder = TempDir::with_prefix("outgate-demo-sandbox-")?;
        command.current_dir(folder.path());
        command.stdin(Stdio::from(OwnedFd::from(theirs))).stdout(Stdio::null()).process_group(0);
        let child = command.spawn()?;
        let apart = Apart { micros: 0, refused: None };
        let mut sandbox = Self { child, socket, lines: LineReader::default(), apart, _folder: folder };
        match sandbox.hear()? {
            (Answer::Apart(apart), _) => sandbox.apart = apart,
            (other, _) => return Err(unexpected(&other)),
        }
        Ok(sandbox)
    }

    /// Whether it has namespaces of its own.
    pub fn is_apart(&self) -> bool {
        self.apart.refused.is_none()
    }

    /// Opens rooms. Answers the listeners of each, none where it does not stand apart.
    pub fn open(&mut self, rooms: usize, port: u16) -> Result<Vec<Listeners>, Fault> {
        self.say(&Ask::Open { rooms, port })?;
        let mut opened = Vec::new();
        loop {
            match self.hear()? {
                (Answer::Room { kinds }, descriptors) if kinds.len() == descriptors.len() => {
                    opened.push(kinds.into_iter().zip(descriptors).collect());
                    control_wire::attach::send(&self.socket, b"+", &[])?;
                }
                (Answer::Done, _) => return Ok(opened),
                (other, _) => return Err(unexpected(&other)),
            }
        }
    }

    /// Sets the road and trusts what is at its end.
    pub fn trust(&mut self, road: Road) -> Result<(), Fault> {
        self.done(&Ask::Take(road))?;
        self.done(&Ask::Trust)
    }

    /// Puts a text into a file and into memory.
    pub fn plant(&mut self, text: &str) -> Result<(), Fault> {
        self.done(&Ask::Plant { text: text.to_owned() })
    }

    /// Sends one request from the first room.
    pub fn send(&mut self, wanted: Wanted) -> Result<Got, Fault> {
        match self.ask(&Ask::Send(wanted))? {
            Answer::Got(got) => Ok(got),
            other => Err(unexpected(&other)),
        }
    }

    /// Looks everywhere for texts.
    pub fn search(&mut self, needles: Vec<super::word::Masked>) -> Result<Found, Fault> {
        match self.ask(&Ask::Search { needles })? {
            Answer::Found(found) => Ok(found),
            other => Err(unexpected(&other)),
        }
    }

    /// Begins a stream in each room, counts, or reads on.
    pub fn streams(&mut self, ask: &Ask) -> Result<Streams, Fault> {
        match self.ask(ask)? {
            Answer::Streams(streams) => Ok(streams),
            other => Err(unexpected(&other)),
        }
    }

    fn done(&mut self, ask: &Ask) -> Result<(), Fault> {
        match self.ask(ask)? {
            Answer::Done => Ok(()),
            other => Err(unexpected(&other)),
        }
    }

    fn ask(&mut self, ask: &Ask) -> Result<Answer, Fault> {
        self.say(ask)?;
        Ok(self.hear()?.0)
    }

    fn say(&self, ask: &Ask) -> Result<(), Fault> {
        let mut line = serde_json::to_vec(ask)?;
        line.push(b'\n');
        let mut sent = 0;
        while sent < line.len() {
            sent += control_wire::attach::send(&self.socket, &line[sent..], &[])?;
        }
        Ok(())
    }

    fn hear(&mut self) -> Result<(Answer, Vec<OwnedFd>), Fault> {
        let (line, descriptors) = loop {
            match self.lines.read(self.socket.as_fd()) {
                Ok(Some(heard)) => break heard,
                Ok(None) => {}
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                    return Err("the sandbox's program has ended".into());
                }
                Err(error) => return Err(format!("the sandbox's program does not answer: {error}").into()),
            }
        };
        match serde_json::from_slice(&line)? {
            Answer::Failed { why } => Err(format!("in the sandbox: {why}").into()),
            answer => Ok((answer, descriptors)),
        }
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        // The end of the socket is the order to end; the kernel ends what would not obey, with its namespaces.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn unexpected(answer: &Answer) -> Fault {
    format!("the sandbox's program answered out of turn: {answer:?}").into()
}
