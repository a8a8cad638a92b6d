//! The origin's side of one HTTP/2 connection.

use std::{
    collections::{BTreeMap, VecDeque},
    io,
    sync::atomic::Ordering,
};

use super::judge::{Bench, Judge};
use crate::{
    http2::{Connection, Said, body, head},
    names::Asked,
    pattern,
    transport::Transport,
};

/// Bytes of one frame of a body.
const STEP: u64 = 16_384;

/// One connection.
pub struct Server {
    connection: Connection,
    asking: BTreeMap<u32, Asking>,
    sending: VecDeque<Sending>,
    /// Bytes that each stream may send; streams without an entry have the initial window.
    windows: BTreeMap<u32, i64>,
    window: i64,
}

/// A request whose body comes.
struct Asking {
    asked: Option<Asked>,
    place: u64,
    is_corrupted: bool,
}

/// An answer whose body leaves.
struct Sending {
    stream: u32,
    tag: u32,
    place: u64,
    end: u64,
}

impl Server {
    /// A connection whose handshake chose HTTP/2.
    ///
    /// # Errors
    /// Those of TLS.
    pub fn new(transport: &mut Transport) -> io::Result<Self> {
        let mut out = Vec::new();
        let connection = Connection::server(&mut out);
        transport.queue(&out)?;
        Ok(Self {
            connection,
            asking: BTreeMap::new(),
            sending: VecDeque::new(),
            windows: BTreeMap::new(),
            window: 65_535,
        })
    }

    /// Takes bytes from the gateway.
    ///
    /// # Errors
    /// When they are no HTTP/2.
    pub fn received(
        &mut self,
        bytes: &[u8],
        judge: &Judge,
        bench: &Bench,
        transport: &mut Transport,
    ) -> io::Result<()> {
        let (mut out, mut said) = (Vec::new(), Vec::new());
        self.connection.receive(bytes, &mut out, &mut said).map_err(io::Error::other)?;
        for said in said {
            match said {
                Said::Head { stream, fields, ends } => {
                    let field = |wanted: &[u8]| {
                        fields.iter().find(|(name, _)| name == wanted).map_or(&b""[..], |(_, value)| value)
                    };
                    let all = fields.iter().map(|(name, value)| (name.as_slice(), value.as_slice()));
                    let asked = judge.head(bench, field(b":path"), field(b":authority"), all);
                    self.asking.insert(stream, Asking { asked, place: 0, is_corrupted: false });
                    if ends {
                        self.end(stream, judge, &mut out);
                    }
                }
                Said::Body { stream, bytes, ends } => {
                    if let Some(asking) = self.asking.get_mut(&stream) {
                        let tag = asking.asked.map_or(0, |asked| asked.tag);
                        asking.is_corrupted |= !pattern::matches(tag, asking.place, &bytes);
                        asking.place += bytes.len() as u64;
                    }
                    if ends {
                        self.end(stream, judge, &mut out);
                    }
                }
                Said::Broken { stream, .. } => {
                    self.asking.remove(&stream);
                    self.windows.remove(&stream);
                    self.sending.retain(|sending| sending.stream != stream);
                }
                Said::Window { stream: 0, more } => self.window += i64::from(more),
                // Of a stream that has ended, nothing is to be kept.
                Said::Window { stream, .. } if !self.is_open(stream) => {}
                Said::Window { stream, more } => {
                    let initial = self.connection.initial_window;
                    *self.windows.entry(stream).or_insert(initial) += i64::from(more);
                }
            }
        }
        transport.queue(&out)
    }

    fn is_open(&self, stream: u32) -> bool {
        self.asking.contains_key(&stream) || self.sending.iter().any(|sending| sending.stream == stream)
    }

    fn end(&mut self, stream: u32, judge: &Judge, out: &mut Vec<u8>) {
        let Some(asking) = self.asking.remove(&stream) else { return };
        judge.counts.requests.fetch_add(1, Ordering::Relaxed);
        if asking.is_corrupted {
            judge.counts.corrupted.fetch_add(1, Ordering::Relaxed);
        }
        let (tag, end) = asking.asked.map_or((0, 0), |asked| (asked.tag, asked.down));
        let length = end.to_string();
        head(out, stream, end == 0, [(&b":status"[..], &b"200"[..]), (b"content-length", length.as_bytes())]);
        if end > 0 {
            self.sending.push_back(Sending { stream, tag, place: 0, end });
        }
    }

    /// Queues more of the bodies that leave, each in its turn. Answers whether something was queued.
    ///
    /// # Errors
    /// Those of TLS.
    pub fn pump(&mut self, transport: &mut Transport) -> io::Result<bool> {
        let (mut out, room) = (Vec::new(), transport.room());
        for _ in 0..self.sending.len() {
            let Some(mut sending) = self.sending.pop_front() else { break };
            let initial = self.connection.initial_window;
            let window = self.windows.entry(sending.stream).or_insert(initial);
            let may = (*window).min(self.window).max(0) as u64;
            let n = (sending.end - sending.place).min(STEP).min(may);
            if n > 0 && out.len() < room {
                let ends = sending.place + n == sending.end;
                // A frame is never longer than the period of a body.
                body(&mut out, sending.stream, ends, &pattern::at(sending.tag, sending.place)[..n as usize]);
                *window -= n as i64;
                self.window -= n as i64;
                sending.place += n;
                if ends {
                    self.windows.remove(&sending.stream);
                    continue;
                }
            }
            self.sending.push_back(sending);
        }
        transport.queue(&out)?;
        Ok(!out.is_empty())
    }
}
