//! A stream in each room, read as it comes, and how many bytes the kernel handed over before and after a mark.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustls::ClientConnection;

use crate::demo::word;

/// The streams of all rooms. One thread reads them: nothing is counted twice or in between.
#[derive(Default)]
pub struct Streams {
    open: Vec<Stream>,
}

struct Stream {
    socket: Counted,
    tls: ClientConnection,
    lines: Lines,
    /// Bytes that had been handed over at the mark.
    marked: Option<u64>,
    end: Option<End>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    Reset,
    Closed,
}

/// A socket that counts what is read from it.
struct Counted {
    socket: TcpStream,
    read: u64,
}

impl Read for Counted {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let count = self.socket.read(bytes)?;
        self.read += count as u64;
        Ok(count)
    }
}

impl Write for Counted {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.socket.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.socket.flush()
    }
}

impl Streams {
    /// Asks for a stream and keeps it once its first line has come.
    pub fn begin(&mut self, socket: TcpStream, mut tls: ClientConnection, request: &str) -> io::Result<()> {
        let mut socket = Counted { socket, read: 0 };
        while tls.is_handshaking() {
            tls.complete_io(&mut socket)?;
        }
        tls.writer().write_all(request.as_bytes())?;
        while tls.wants_write() {
            tls.write_tls(&mut socket)?;
        }
        let mut stream = Stream { socket, tls, lines: Lines::default(), marked: None, end: None };
        while stream.lines.newest == 0 {
            stream.receive()?;
            if stream.end.is_some() {
                let why = format!("the stream ended before it began: {}", stream.lines.text());
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, why));
            }
        }
        stream.socket.socket.set_nonblocking(true)?;
        self.open.push(stream);
        Ok(())
    }

    /// Reads whatever comes until `control` has something to say (true), or the time is over or all streams have
    /// ended (false).
    pub fn pump(&mut self, control: BorrowedFd<'_>, until: Option<Instant>) -> io::Result<bool> {
        loop {
            let alive = self.open.iter().any(|stream| stream.end.is_none());
            let left = until.map(|until| until.saturating_duration_since(Instant::now()));
            if left.is_some_and(|left| left.is_zero() || !alive) {
                return Ok(false);
            }
            let (asked, ready) = self.wait(control, left)?;
            if asked {
                return Ok(true);
            }
            for (stream, ready) in self.open.iter_mut().filter(|stream| stream.end.is_none()).zip(ready) {
                if ready {
                    stream.receive()?;
                }
            }
        }
    }

    /// Whether `control` has something, and which of the streams that have not ended.
    fn wait(&self, control: BorrowedFd<'_>, left: Option<Duration>) -> io::Result<(bool, Vec<bool>)> {
        let alive = self.open.iter().filter(|stream| stream.end.is_none());
        let sockets = alive.map(|stream| stream.socket.socket.as_fd());
        let entry = |socket| PollFd::from_borrowed_fd(socket, PollFlags::IN);
        let mut entries: Vec<PollFd<'_>> = std::iter::once(control).chain(sockets).map(entry).collect();
        let left = left.and_then(|left| Timespec::try_from(left).ok());
        match poll(&mut entries, left.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let mut ready = entries.iter().map(|entry| !entry.revents().is_empty());
        Ok((ready.next().unwrap_or_default(), ready.collect()))
    }

    /// Counts what the kernel has handed over until now: what was read, and what waits to be.
    pub fn mark(&mut self) -> io::Result<word::Streams> {
        for stream in &mut self.open {
            stream.marked = Some(stream.handed()?);
        }
        self.told()
    }

    /// All of them together.
    pub fn told(&self) -> io::Result<word::Streams> {
        let mut told = word::Streams { count: self.open.len(), ..word::Streams::default() };
        for stream in &self.open {
            let (handed, marked) = (stream.handed()?, stream.marked);
            told.handed += marked.unwrap_or(handed);
            told.after += marked.map_or(0, |marked| handed.saturating_sub(marked));
            told.reset += usize::from(stream.end == Some(End::Reset));
            told.newest_stamp = told.newest_stamp.max(stream.lines.newest);
        }
        Ok(told)
    }
}

impl Stream {
    /// Reads once.
    fn receive(&mut self) -> io::Result<()> {
        match self.tls.read_tls(&mut self.socket) {
            Ok(0) => self.end = Some(End::Closed),
            Ok(_) => {
                self.tls.process_new_packets().map_err(io::Error::other)?;
                let mut piece = [0; 4096];
                loop {
                    match self.tls.reader().read(&mut piece) {
                        Ok(0) => break self.end = Some(End::Closed),
                        Ok(count) => self.lines.feed(&piece[..count]),
                        Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                        Err(error) => return Err(error),
                    }
                }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => self.end = Some(End::Reset),
            Err(error) => return Err(error),
        }
        Ok(())
    }

    fn handed(&self) -> io::Result<u64> {
        let waiting = if self.end.is_some() { 0 } else { rustix::io::ioctl_fionread(&self.socket.socket)? };
        Ok(self.socket.read + waiting)
    }
}

/// Lines that begin with the time at which the origin wrote them.
#[derive(Default)]
struct Lines {
    partial: Vec<u8>,
    newest: u64,
}

impl Lines {
    fn feed(&mut self, bytes: &[u8]) {
        for byte in bytes {
            if *byte != b'\n' {
                self.partial.push(*byte);
                continue;
            }
            // Others are those of the answer's head.
            let stamp = self.partial.get(..16).and_then(|text| std::str::from_utf8(text).ok());
            let stamp = stamp.and_then(|text| u64::from_str_radix(text, 16).ok());
            self.newest = self.newest.max(stamp.unwrap_or_default());
            self.partial.clear();
        }
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.partial).into_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::super::web::trusting;
    use super::*;
    use crate::demo::origin::{Origin, monotonic_nanos};

    #[test]
    fn bytes_that_come_after_the_mark_are_counted_and_newer() {
        let origin = Origin::start(&["downloads.example"]).unwrap();
        let config = trusting(origin.root_pem.as_bytes()).unwrap();
        let tls = ClientConnection::new(config, "downloads.example".try_into().unwrap()).unwrap();
        let (control, _demo) = std::os::unix::net::UnixStream::pair().unwrap();
        let mut streams = Streams::default();
        let socket = TcpStream::connect(origin.address).unwrap();
        streams.begin(socket, tls, "GET /stream HTTP/1.1\r\nHost: downloads.example\r\n\r\n").unwrap();
        let marked = streams.mark().unwrap();
        let mark = monotonic_nanos();
        assert_eq!((marked.count, marked.after, marked.reset), (1, 0, 0));
        assert!(marked.handed > 0 && (1..mark).contains(&marked.newest_stamp), "{marked:?}");
        let mut told = marked.clone();
        while told.newest_stamp <= mark {
            let until = Instant::now() + Duration::from_millis(20);
            assert!(!streams.pump(control.as_fd(), Some(until)).unwrap(), "nobody asked");
            told = streams.told().unwrap();
        }
        assert!(told.after > 0 && told.handed == marked.handed, "{told:?}");
    }

    #[test]
    fn the_newest_stamp_is_read_wherever_the_lines_are_cut() {
        let text = b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n00000000000000ffxxx\n0000000000000010xxx\n";
        for piece in 1..text.len() {
            let mut lines = Lines::default();
            text.chunks(piece).for_each(|bytes| lines.feed(bytes));
            assert_eq!(lines.newest, 255, "pieces of {piece}");
        }
    }
}
