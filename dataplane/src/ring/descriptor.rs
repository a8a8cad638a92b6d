//! A descriptor that operations name by its number.

use std::{
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd},
    rc::Rc,
};

use rustix::{io::Errno, net::RecvFlags};

use super::core::Core;

/// Owns a descriptor whose number entries of the submission queue carry.
///
/// The kernel looks a number up when an entry is submitted, which is after it was queued. A descriptor that was
/// closed in between may have been made anew by then, for another connection of this shard or of another: a receive
/// would take a stranger's bytes. So a dropped one is closed only when nothing is left to be submitted.
pub(super) struct Descriptor {
    core: Rc<Core>,
    /// `None` only after [`Descriptor::take`].
    fd: Option<OwnedFd>,
}

impl Descriptor {
    /// A descriptor whose operations are on the ring of `core`.
    pub fn new(core: Rc<Core>, fd: OwnedFd) -> Self {
        Self { core, fd: Some(fd) }
    }

    /// The ring of its operations.
    pub fn core(&self) -> &Rc<Core> {
        &self.core
    }

    /// Its number, for requests.
    pub fn number(&self) -> RawFd {
        self.as_fd().as_raw_fd()
    }

    /// Gives the descriptor away. Every operation that names it must have ended.
    pub fn take(&mut self) -> Option<OwnedFd> {
        self.fd.take()
    }

    /// Whether the kernel holds nothing to be received, an end or an error included: asks it once.
    pub fn is_drained(&self) -> bool {
        let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
        matches!(rustix::net::recv(self.as_fd(), &mut [0; 1], flags), Err(Errno::AGAIN))
    }

    /// Whether the descriptor is still here.
    pub fn is_taken(&self) -> bool {
        self.fd.is_none()
    }
}

impl AsFd for Descriptor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_ref().expect("it has its descriptor until it is given away").as_fd()
    }
}

impl Drop for Descriptor {
    fn drop(&mut self) {
        if let Some(fd) = self.fd.take() {
            self.core.retire(fd);
        }
    }
}
