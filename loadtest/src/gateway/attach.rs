//! Attaching sandboxes at a plane's local socket: a JSON object on a line each way, descriptors beside it.

use std::{
    io::{self, BufRead, BufReader, IoSlice, Write},
    mem::MaybeUninit,
    os::{
        fd::{AsFd, BorrowedFd},
        unix::net::UnixStream,
    },
    path::Path,
};

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use serde_json::{Value, json};

use crate::limits::CALL_TIME;

/// A connection to the socket.
pub struct Attach {
    reader: BufReader<UnixStream>,
}

impl Attach {
    /// Connects.
    ///
    /// # Errors
    /// When nobody listens there.
    pub fn connect(path: &Path) -> io::Result<Self> {
        let socket = UnixStream::connect(path).map_err(|error| {
            let place = path.display();
            io::Error::other(format!(
                "the plane cannot be reached at {place}: {error}; does it run, as this user?"
            ))
        })?;
        socket.set_read_timeout(Some(CALL_TIME))?;
        Ok(Self { reader: BufReader::new(socket) })
    }

    /// Attaches a sandbox by a password for the explicit proxy.
    ///
    /// # Errors
    /// What the plane says.
    pub fn by_password(&mut self, sandbox: &str, password: &str) -> io::Result<()> {
        self.call(&json!({ "op": "attach", "sandbox": sandbox, "proxyPassword": password }), None)
    }

    /// Attaches a sandbox by its source address.
    ///
    /// # Errors
    /// What the plane says.
    pub fn by_source(&mut self, sandbox: &str, source: std::net::IpAddr) -> io::Result<()> {
        self.call(&json!({ "op": "attach", "sandbox": sandbox, "sources": [format!("{source}/32")] }), None)
    }

    /// Attaches a sandbox by an explicit proxy of its own.
    ///
    /// # Errors
    /// What the plane says.
    pub fn by_listener(&mut self, sandbox: &str, listener: BorrowedFd<'_>) -> io::Result<()> {
        let request = json!({ "op": "attach", "sandbox": sandbox, "listeners": [{ "kind": "proxy" }] });
        self.call(&request, Some(listener))
    }

    /// Serves a listener that takes connections to any address, told apart by their source.
    ///
    /// # Errors
    /// What the plane says.
    pub fn share(&mut self, name: &str, listener: BorrowedFd<'_>) -> io::Result<()> {
        let request = json!({ "op": "share", "name": name, "listeners": [{ "kind": "transparent" }] });
        self.call(&request, Some(listener))
    }

    fn call(&mut self, request: &Value, descriptor: Option<BorrowedFd<'_>>) -> io::Result<()> {
        let line = format!("{request}\n");
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut beside = SendAncillaryBuffer::new(&mut space);
        let descriptors: Vec<_> = descriptor.into_iter().collect();
        if !descriptors.is_empty() {
            beside.push(SendAncillaryMessage::ScmRights(&descriptors));
        }
        let socket = self.reader.get_ref().as_fd();
        let sent = sendmsg(socket, &[IoSlice::new(line.as_bytes())], &mut beside, SendFlags::NOSIGNAL)?;
        self.reader.get_mut().write_all(&line.as_bytes()[sent..])?;
        let mut answer = String::new();
        self.reader.read_line(&mut answer)?;
        let answer: Value = serde_json::from_str(&answer).map_err(io::Error::other)?;
        match answer["ok"].as_bool() {
            Some(true) => Ok(()),
            _ => Err(io::Error::other(format!("the plane did not attach a sandbox: {answer}"))),
        }
    }
}
