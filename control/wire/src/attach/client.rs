//! A blocking client of a plane's local socket.

use std::io;
use std::os::fd::BorrowedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use super::{Answer, Done, LineReader, Problem, Request, send};

/// Why there is no answer, or which.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The socket.
    #[error("cannot speak to the plane's local socket; does the plane run, as this user?")]
    Socket(#[from] io::Error),
    /// The answer is not JSON of our shape.
    #[error("the plane's answer was not understood")]
    Answer(#[from] serde_json::Error),
    /// The plane refused.
    #[error("{0}")]
    Refused(Problem),
}

/// A connection to a plane's local socket.
#[derive(Debug)]
pub struct Client {
    socket: UnixStream,
    reader: LineReader,
}

impl Client {
    /// Connects. A call then waits at most `patience` for its answer.
    ///
    /// # Errors
    /// When nobody listens there.
    pub fn connect(path: &Path, patience: Duration) -> Result<Self, ClientError> {
        let socket = UnixStream::connect(path)?;
        socket.set_read_timeout(Some(patience))?;
        socket.set_write_timeout(Some(patience))?;
        Ok(Self { socket, reader: LineReader::default() })
    }

    /// Sends one request with the descriptors that it speaks of, and waits for the answer.
    ///
    /// # Errors
    /// [`ClientError::Refused`] with what the plane said, else what went wrong on the way.
    pub fn call(&mut self, request: &Request, descriptors: &[BorrowedFd<'_>]) -> Result<Done, ClientError> {
        let mut line = serde_json::to_vec(request)?;
        line.push(b'\n');
        let mut sent = send(&self.socket, &line, descriptors)?;
        while sent < line.len() {
            sent += send(&self.socket, &line[sent..], &[])?;
        }
        let (answer, _) = loop {
            if let Some(answer) = self.reader.read(&self.socket)? {
                break answer;
            }
        };
        match serde_json::from_slice(&answer)? {
            Answer::Done(done) => Ok(done),
            Answer::Refused(problem) => Err(ClientError::Refused(problem)),
        }
    }
}
