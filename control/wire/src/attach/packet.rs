//! Bytes with descriptors attached, over Unix sockets.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
};

use crate::limits::{ATTACH_BYTES_MAX, PASSED_DESCRIPTORS_MAX};

/// Two connected sockets that keep packets apart (`SOCK_SEQPACKET`), closed on `exec`.
///
/// # Errors
/// No descriptor is left.
pub fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?)
}

/// Sends bytes with descriptors attached to the first of them; the descriptors stay open here. Answers how many bytes
/// went: all of them where the socket keeps packets apart.
///
/// # Errors
/// What the kernel says; `InvalidInput` for no bytes or more descriptors than `PASSED_DESCRIPTORS_MAX`.
pub fn send(socket: impl AsFd, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<usize> {
    if bytes.is_empty() || descriptors.len() > PASSED_DESCRIPTORS_MAX {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(PASSED_DESCRIPTORS_MAX))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() && !control.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    loop {
        match rustix::net::sendmsg(&socket, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL) {
            Err(rustix::io::Errno::INTR) => {}
            result => return Ok(result?),
        }
    }
}

/// Receives bytes and the descriptors attached to them, closed on `exec`. No bytes: the other side has ended.
///
/// # Errors
/// What the kernel says; `InvalidData` where more descriptors or a longer packet came than fit: the rest is lost, so
/// none may be used.
pub fn receive(socket: impl AsFd, bytes: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(PASSED_DESCRIPTORS_MAX))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = loop {
        let into = &mut [IoSliceMut::new(bytes)];
        match rustix::net::recvmsg(&socket, into, &mut control, RecvFlags::CMSG_CLOEXEC) {
            Err(rustix::io::Errno::INTR) => {}
            result => break result?,
        }
    };
    let mut descriptors = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(passed) = message {
            descriptors.extend(passed);
        }
    }
    if received.flags.intersects(ReturnFlags::CTRUNC | ReturnFlags::TRUNC) {
        let what = "more bytes or descriptors than one message may carry";
        return Err(io::Error::new(io::ErrorKind::InvalidData, what));
    }
    Ok((received.bytes, descriptors))
}

/// Collects one line after the other from a stream socket, with the descriptors that came with each.
#[derive(Debug, Default)]
pub struct LineReader {
    bytes: Vec<u8>,
    descriptors: Vec<OwnedFd>,
}

impl LineReader {
    /// Reads once. A line when one is whole, without its end; `Ok(None)` when more must come.
    ///
    /// # Errors
    /// What the kernel says; `UnexpectedEof` at the end of the stream; `InvalidData` where the line is longer than
    /// `ATTACH_BYTES_MAX`, carries more descriptors than `PASSED_DESCRIPTORS_MAX`, or something follows it before it
    /// was answered: then nobody could say to which line a descriptor belongs.
    pub fn read(&mut self, socket: impl AsFd) -> io::Result<Option<(Vec<u8>, Vec<OwnedFd>)>> {
        let fault = |what: &str| Err(io::Error::new(io::ErrorKind::InvalidData, what));
        let mut piece = [0; 4096];
        let (count, passed) = receive(socket, &mut piece)?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.descriptors.extend(passed);
        self.bytes.extend_from_slice(&piece[..count]);
        if self.bytes.len() > ATTACH_BYTES_MAX || self.descriptors.len() > PASSED_DESCRIPTORS_MAX {
            return fault("the line is too long or carries too many descriptors");
        }
        match self.bytes.iter().position(|byte| *byte == b'\n') {
            None => Ok(None),
            Some(end) if end + 1 < self.bytes.len() => fault("one line at a time: wait for the answer"),
            Some(end) => {
                let mut line = std::mem::take(&mut self.bytes);
                line.truncate(end);
                Ok(Some((line, std::mem::take(&mut self.descriptors))))
            }
        }
    }

    /// Whether part of a line has come.
    pub fn is_started(&self) -> bool {
        !self.bytes.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::os::unix::net::UnixStream;

    #[test]
    fn a_passed_listener_accepts_in_the_hands_of_the_receiver() {
        let (sender, receiver) = pair().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let bound = listener.local_addr().unwrap();
        assert_eq!(send(&sender, b"one", &[listener.as_fd()]).unwrap(), 3);
        drop(listener);

        let mut bytes = [0; 16];
        let (count, mut passed) = receive(&receiver, &mut bytes).unwrap();
        assert_eq!((&bytes[..count], passed.len()), (&b"one"[..], 1));
        let listener = TcpListener::from(passed.remove(0));
        let mut client = TcpStream::connect(bound).unwrap();
        client.write_all(b"x").unwrap();
        let mut one = [0];
        listener.accept().unwrap().0.read_exact(&mut one).unwrap();
        assert_eq!(&one, b"x");
    }

    #[test]
    fn too_many_descriptors_are_refused_before_they_are_sent() {
        let (sender, _receiver) = pair().unwrap();
        let many = vec![sender.as_fd(); PASSED_DESCRIPTORS_MAX + 1];
        assert_eq!(send(&sender, b"x", &many).unwrap_err().kind(), io::ErrorKind::InvalidInput);
    }

    #[test]
    fn a_packet_that_does_not_fit_is_no_packet() {
        let (sender, receiver) = pair().unwrap();
        send(&sender, b"longer", &[sender.as_fd()]).unwrap();
        assert_eq!(receive(&receiver, &mut [0; 3]).unwrap_err().kind(), io::ErrorKind::InvalidData);
    }

    #[test]
    fn the_end_of_the_sender_is_no_bytes() {
        let (sender, receiver) = pair().unwrap();
        drop(sender);
        let (count, passed) = receive(&receiver, &mut [0; 4]).unwrap();
        assert_eq!((count, passed.len()), (0, 0));
    }

    #[test]
    fn a_line_comes_in_pieces_with_its_descriptors() {
        let (sender, receiver) = UnixStream::pair().unwrap();
        let mut reader = LineReader::default();
        send(&sender, b"{\"a\"", &[sender.as_fd()]).unwrap();
        assert!(reader.read(&receiver).unwrap().is_none() && reader.is_started());
        send(&sender, b":1}\n", &[]).unwrap();
        let (line, passed) = reader.read(&receiver).unwrap().expect("a line");
        assert_eq!((&line[..], passed.len()), (&b"{\"a\":1}"[..], 1));
        assert!(!reader.is_started());
    }

    #[test]
    fn a_second_line_before_the_answer_and_an_endless_line_are_refused() {
        let (mut sender, receiver) = UnixStream::pair().unwrap();
        sender.write_all(b"{}\n{}\n").unwrap();
        let refused = LineReader::default().read(&receiver).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::InvalidData);

        let (mut sender, receiver) = UnixStream::pair().unwrap();
        let mut reader = LineReader::default();
        let ended = loop {
            sender.write_all(&[b'x'; 1024]).unwrap();
            if let Err(error) = reader.read(&receiver) {
                break error;
            }
        };
        assert_eq!(ended.kind(), io::ErrorKind::InvalidData);
    }
}
