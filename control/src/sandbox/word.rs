//! What `run` and the first process of a sandbox say to each other, over a socket that keeps packets apart.

use std::ffi::OsString;
use std::io::{self, Read, Seek, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use control_wire::attach::{ListenerKind, receive, send};
use data_encoding::BASE64;
use rustix::fs::{MemfdFlags, memfd_create};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::limits::PACKET_BYTES_MAX;
use super::refusal::Refusal;

/// What `run` asks for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Order {
    /// Furnish the sandbox and start the program. Two descriptors come along: a file with a [`Furniture`], and the
    /// program's standard input.
    Start,
    /// Send a signal to the program.
    Signal(i32),
    /// Stop everything inside.
    Pause,
    /// Let the program go on that was stopped, and what [`Order::Pause`] has stopped.
    Resume {
        /// It gets the terminal.
        foreground: bool,
    },
}

/// What becomes of it.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Report {
    /// The sandbox stands; its listeners come along, in this order.
    Ready { kinds: Vec<ListenerKind>, micros: u64 },
    /// The program runs.
    Started,
    /// It was stopped.
    Stopped,
    /// It has ended; the sandbox ends too.
    Ended(End),
    /// There is no sandbox, or no program in it.
    Failed(Fault),
}

/// How a program ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum End {
    /// By itself, with this status.
    Exited(u8),
    /// By a signal.
    Killed {
        /// Its number.
        signal: i32,
    },
}

impl End {
    /// The status by which a shell tells it: that of the program, or 128 and the signal's number.
    pub fn status(self) -> u8 {
        match self {
            Self::Exited(status) => status,
            Self::Killed { signal } => u8::try_from(signal.saturating_add(128)).unwrap_or(u8::MAX),
        }
    }
}

/// Why there is none.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Fault {
    /// The machine allows none.
    Refused(Refusal),
    /// A step of making it went wrong.
    Step { step: String, error: String },
    /// The program cannot be started; the kernel's error number.
    Program { errno: i32 },
    /// The folder in which it should start.
    Folder { errno: i32 },
}

impl Fault {
    pub fn step(step: impl Into<String>, error: &io::Error) -> Self {
        Self::Step { step: step.into(), error: error.to_string() }
    }
}

/// Everything inside that is not there by itself, and the program. Paths are strings of the system: JSON has any bytes
/// for those, and only text for a path.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Furniture {
    /// Files of the folder that only the sandbox has.
    pub files: Vec<(String, Bytes)>,
    /// Which of them lies over which file of the machine.
    pub covers: Vec<(String, OsString)>,
    /// Folders that take the place of others, with files by their path within.
    pub folders: Vec<(OsString, Vec<(String, Bytes)>)>,
    /// Folders that must not be renamed, each after those above it.
    pub kept: Vec<OsString>,
    /// Files that must not be seen.
    pub hidden: Vec<OsString>,
    pub program: OsString,
    pub arguments: Vec<OsString>,
    pub environment: Vec<(OsString, OsString)>,
    pub directory: OsString,
    /// The program gets the terminal.
    pub foreground: bool,
}

/// Bytes that are Base64 in JSON, where a list of numbers would be four times their size.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Bytes(pub Vec<u8>);

impl Serialize for Bytes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&BASE64.encode(&self.0))
    }
}

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        BASE64.decode(text.as_bytes()).map(Self).map_err(serde::de::Error::custom)
    }
}

impl Furniture {
    /// Puts it into a file in memory, since no packet would hold it.
    pub fn write(&self) -> io::Result<OwnedFd> {
        let mut file = std::fs::File::from(memfd_create("outgate-sandbox", MemfdFlags::CLOEXEC)?);
        file.write_all(&serde_json::to_vec(self)?)?;
        file.rewind()?;
        Ok(file.into())
    }

    /// Takes it out of one.
    pub fn read(file: OwnedFd) -> io::Result<Self> {
        let mut bytes = Vec::new();
        std::fs::File::from(file).read_to_end(&mut bytes)?;
        serde_json::from_slice(&bytes).map_err(io::Error::other)
    }
}

/// Sends one packet.
pub(super) fn say(socket: impl AsFd, word: &impl Serialize, passed: &[BorrowedFd<'_>]) -> io::Result<()> {
    send(socket, &serde_json::to_vec(word)?, passed).map(drop)
}

/// Waits for one packet; `None` at the end.
pub(super) fn hear<T: DeserializeOwned>(socket: impl AsFd) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
    let mut packet = vec![0; PACKET_BYTES_MAX];
    match receive(socket, &mut packet)? {
        (0, _) => Ok(None),
        (count, passed) => {
            let word = serde_json::from_slice(&packet[..count]).map_err(io::Error::other)?;
            Ok(Some((word, passed)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::ffi::OsStringExt;

    #[test]
    fn an_end_is_told_as_a_shell_tells_it() {
        for (end, status) in [
            (End::Exited(0), 0),
            (End::Exited(7), 7),
            (End::Killed { signal: 2 }, 130),
            (End::Killed { signal: 9 }, 137),
        ] {
            assert_eq!(end.status(), status, "{end:?}");
        }
    }

    #[test]
    fn furniture_comes_through_a_file_as_it_was_whatever_its_bytes() {
        let odd = OsString::from_vec(vec![b'a', 0xff]);
        let furniture = Furniture {
            files: vec![("bundle.pem".into(), Bytes(vec![0, 255, 7]))],
            covers: vec![("bundle.pem".into(), "/etc/x".into())],
            folders: vec![(odd.clone(), vec![("a/b".into(), Bytes(vec![1]))])],
            kept: vec![],
            hidden: vec![odd.clone()],
            program: odd.clone(),
            arguments: vec![odd.clone()],
            environment: vec![("A".into(), odd.clone())],
            directory: "/".into(),
            foreground: true,
        };
        let read = Furniture::read(furniture.write().unwrap()).unwrap();
        assert_eq!(
            (read.program, read.arguments, read.files),
            (odd.clone(), vec![odd.clone()], furniture.files)
        );
        assert_eq!((read.environment, read.hidden), (vec![("A".into(), odd.clone())], vec![odd]));
    }
}
