//! The plane's end of its keeper: whoever started the plane keeps what is attached, for the plane after this one.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use control_wire::{
    attach::{KEEPER_ON_STDIN, KEEPER_VARIABLE, Kept, receive, send},
    limits::ATTACH_BYTES_MAX,
};
use rustix::{
    event::{PollFd, PollFlags, poll},
    io::Errno,
    net::{
        SocketType,
        sockopt::{Timeout, set_socket_timeout, socket_type},
    },
};

use super::AttachError;
use crate::limits::KEEPER_TIME;

/// The socket to the keeper.
pub struct Keeper(OwnedFd);

impl Keeper {
    /// The keeper that the environment names; none where the plane was not started by one.
    ///
    /// # Errors
    /// When the environment names a keeper that is none.
    pub fn from_environment() -> Result<Option<Self>, AttachError> {
        match std::env::var(KEEPER_VARIABLE) {
            Err(_) => Ok(None),
            Ok(place) if place == KEEPER_ON_STDIN => {
                let socket = io::stdin().as_fd().try_clone_to_owned();
                socket.and_then(Self::new).map(Some).map_err(AttachError::Keeper)
            }
            Ok(_) => {
                let what = io::Error::new(io::ErrorKind::InvalidInput, "OUTGATE_KEEPER has an unknown value");
                Err(AttachError::Keeper(what))
            }
        }
    }

    /// Takes the socket.
    ///
    /// # Errors
    /// When it is no packet socket.
    pub fn new(socket: OwnedFd) -> io::Result<Self> {
        if socket_type(&socket)? != SocketType::SEQPACKET {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "the keeper is no packet socket"));
        }
        set_socket_timeout(&socket, Timeout::Recv, Some(KEEPER_TIME))?;
        set_socket_timeout(&socket, Timeout::Send, Some(KEEPER_TIME))?;
        Ok(Self(socket))
    }

    /// What [`wait_until_gone`] waits on.
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn watched(&self) -> io::Result<OwnedFd> {
        self.0.try_clone()
    }

    /// Hands over all that the keeper holds, to its last word.
    pub(super) fn take_over(&self, mut take: impl FnMut(Kept, Vec<OwnedFd>)) -> io::Result<()> {
        let mut packet = vec![0; ATTACH_BYTES_MAX];
        loop {
            let (count, descriptors) = receive(&self.0, &mut packet)?;
            if count == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            match serde_json::from_slice(&packet[..count])? {
                Kept::Whole => return Ok(()),
                Kept::Detach(_) | Kept::Unshare(_) | Kept::Serves => {
                    return Err(io::ErrorKind::InvalidData.into());
                }
                kept => take(kept, descriptors),
            }
        }
    }

    /// Tells the keeper what changed. Once this returns, it gets there even when the plane dies.
    pub(super) fn tell(&self, kept: &Kept, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        send(&self.0, &serde_json::to_vec(kept)?, descriptors).map(drop)
    }
}

/// Waits until the keeper is gone, however it went; takes nothing from the conversation. A keeper that only listens no
/// more is still there.
///
/// # Errors
/// What the kernel says.
pub fn wait_until_gone(watched: &OwnedFd) -> io::Result<()> {
    loop {
        // Without anything asked for, the kernel tells the end alone.
        match poll(&mut [PollFd::new(watched, PollFlags::empty())], None) {
            Ok(0) | Err(Errno::INTR) => {}
            Ok(_) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
}
