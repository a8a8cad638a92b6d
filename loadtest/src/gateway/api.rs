//! Calls of control's API over its Unix socket, one connection for all of them.

use std::{
    io::{self, Read, Write},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
};

use serde_json::Value;

use crate::{
    http1::{Piece, Reader, status},
    limits::{CALL_TIME, READ_BYTES},
};

/// A caller of the API.
pub struct Api {
    path: PathBuf,
    socket: Option<UnixStream>,
}

/// Why a call brought nothing.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// Nobody listens.
    #[error(
        "control cannot be reached at {path}: {source}; does `outgate serve` run, with this state folder and as this user?"
    )]
    Connect {
        /// The socket.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// The connection broke.
    #[error("control did not answer {call}: {source}")]
    Broken {
        /// Method and path.
        call: String,
        /// Why.
        source: io::Error,
    },
    /// Control refused.
    #[error("control answered {status} to {call}: {text}")]
    Refused {
        /// Method and path.
        call: String,
        /// The status.
        status: u16,
        /// What it said.
        text: String,
    },
}

impl Api {
    /// A caller of the API at this socket. Nothing is sent yet.
    pub fn new(path: &Path) -> Self {
        Self { path: path.to_owned(), socket: None }
    }

    /// One call; the answer as JSON, as a text where it is none.
    ///
    /// # Errors
    /// [`ApiError`].
    pub fn call(&mut self, method: &str, path: &str, body: &[u8]) -> Result<Value, ApiError> {
        let bytes = self.bytes(method, path, body)?;
        let text = || Value::String(String::from_utf8_lossy(&bytes).into_owned());
        Ok(serde_json::from_slice(&bytes).unwrap_or_else(|_| text()))
    }

    /// The same with JSON.
    ///
    /// # Errors
    /// [`ApiError`].
    pub fn put(&mut self, path: &str, body: &Value) -> Result<Value, ApiError> {
        self.call("PUT", path, body.to_string().as_bytes())
    }

    /// The body of the answer as it came.
    ///
    /// # Errors
    /// [`ApiError`].
    pub fn bytes(&mut self, method: &str, path: &str, body: &[u8]) -> Result<Vec<u8>, ApiError> {
        let call = format!("{method} {path}");
        let (status, body) = match self.exchange(&call, body) {
            // Control may have closed a connection that was idle for long.
            Err(ApiError::Broken { .. }) if method != "POST" => self.exchange(&call, body)?,
            other => other?,
        };
        if status == 202 || !(200..300).contains(&status) {
            let text = String::from_utf8_lossy(&body).into_owned();
            return Err(ApiError::Refused { call, status, text });
        }
        Ok(body)
    }

    fn exchange(&mut self, call: &str, body: &[u8]) -> Result<(u16, Vec<u8>), ApiError> {
        let socket = match &mut self.socket {
            Some(socket) => socket,
            none => {
                let made = UnixStream::connect(&self.path).and_then(|socket| {
                    socket.set_read_timeout(Some(CALL_TIME))?;
                    Ok(socket)
                });
                let fault = |source| ApiError::Connect { path: self.path.display().to_string(), source };
                none.insert(made.map_err(fault)?)
            }
        };
        let answer = send_and_read(socket, call, body);
        if answer.is_err() {
            self.socket = None;
        }
        answer.map_err(|source| ApiError::Broken { call: call.to_owned(), source })
    }
}

fn send_and_read(socket: &mut UnixStream, call: &str, body: &[u8]) -> io::Result<(u16, Vec<u8>)> {
    let length = body.len();
    let head = format!(
        "{call} HTTP/1.1\r\nHost: outgate\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n"
    );
    socket.write_all(head.as_bytes())?;
    socket.write_all(body)?;
    let (mut reader, mut buffer) = (Reader::default(), vec![0; READ_BYTES]);
    let (mut code, mut answer) = (0, Vec::new());
    loop {
        let n = socket.read(&mut buffer)?;
        if n == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let mut input = &buffer[..n];
        while let Some(piece) = reader.next(&mut input).map_err(io::Error::other)? {
            match piece {
                Piece::Head(head) => code = status(head),
                Piece::Body(bytes) => answer.extend_from_slice(bytes),
                Piece::End => return Ok((code, answer)),
            }
        }
    }
}
