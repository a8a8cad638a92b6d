//! Whether the other end of a connection says nothing more, seen without reading what it said.

use std::os::fd::AsFd;

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
};

/// Whether the peer has ended its direction, or the connection is broken. One system call; what was not read stays.
pub fn is_left(socket: impl AsFd) -> bool {
    let mut looked = [PollFd::new(&socket, PollFlags::RDHUP)];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    match poll(&mut looked, Some(&now)) {
        Ok(_) => looked[0].revents().intersects(PollFlags::RDHUP | PollFlags::HUP | PollFlags::ERR),
        // A look that was interrupted says nothing; the next one does.
        Err(error) => error != Errno::INTR,
    }
}

#[cfg(test)]
mod tests {
    use std::{io::Write, net::Shutdown, os::unix::net::UnixStream};

    use super::*;

    #[test]
    fn a_peer_that_has_ended_its_direction_is_seen_behind_what_it_said() {
        let (near, mut far) = UnixStream::pair().unwrap();
        assert!(!is_left(&near));
        far.write_all(b"not read").unwrap();
        assert!(!is_left(&near));
        far.shutdown(Shutdown::Write).unwrap();
        assert!(is_left(&near));
    }
}
