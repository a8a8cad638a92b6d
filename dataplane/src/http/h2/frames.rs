//! Frames of HTTP/2 as they pass by, in whatever pieces: kind, flags, stream, length and the code that some carry
//! (RFC 9113 §4.1).

/// What a frame is (RFC 9113 §6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Data,
    Headers,
    Priority,
    Reset,
    Settings,
    Push,
    Ping,
    GoAway,
    WindowUpdate,
    Continuation,
    /// Of an extension.
    Other,
}

impl Kind {
    fn of(byte: u8) -> Self {
        const KINDS: [Kind; 10] = [
            Kind::Data,
            Kind::Headers,
            Kind::Priority,
            Kind::Reset,
            Kind::Settings,
            Kind::Push,
            Kind::Ping,
            Kind::GoAway,
            Kind::WindowUpdate,
            Kind::Continuation,
        ];
        KINDS.get(usize::from(byte)).copied().unwrap_or(Self::Other)
    }

    /// Its name in RFC 9113.
    pub fn name(self) -> &'static str {
        match self {
            Self::Data => "DATA",
            Self::Headers => "HEADERS",
            Self::Priority => "PRIORITY",
            Self::Reset => "RST_STREAM",
            Self::Settings => "SETTINGS",
            Self::Push => "PUSH_PROMISE",
            Self::Ping => "PING",
            Self::GoAway => "GOAWAY",
            Self::WindowUpdate => "WINDOW_UPDATE",
            Self::Continuation => "CONTINUATION",
            Self::Other => "unknown",
        }
    }
}

/// One frame, without its payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Frame {
    pub kind: Kind,
    flags: u8,
    /// Zero for the connection.
    pub stream: u32,
    pub length: usize,
    /// The first four bytes of the payload: why, in RST_STREAM.
    pub code: u32,
}

impl Frame {
    /// The last of its stream: END_STREAM, where the kind has that.
    pub fn ends_stream(&self) -> bool {
        matches!(self.kind, Kind::Data | Kind::Headers) && self.flags & 1 != 0
    }

    /// The last of its head (END_HEADERS).
    pub fn ends_head(&self) -> bool {
        self.flags & 4 != 0
    }

    /// Answers one of ours (ACK), where the kind has that.
    pub fn acknowledges(&self) -> bool {
        matches!(self.kind, Kind::Ping | Kind::Settings) && self.flags & 1 != 0
    }
}

/// Bytes before a frame's payload.
const HEAD_BYTES: usize = 9;
/// Bytes of a payload that are kept.
const KEPT_BYTES: usize = 4;

/// What passes by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Seen {
    /// A frame whose head is there.
    Begun(Frame),
    /// A whole frame.
    Whole(Frame),
}

/// Reads along.
pub(super) struct Frames {
    /// Bytes before the first frame that are not looked at.
    skip: usize,
    head: [u8; HEAD_BYTES],
    head_bytes: usize,
    /// Bytes of the payload that are still to come.
    left: usize,
    kept: [u8; KEPT_BYTES],
}

impl Frames {
    /// Frames after so many bytes of something else.
    pub fn after(skip: usize) -> Self {
        Self { skip, head: [0; HEAD_BYTES], head_bytes: 0, left: 0, kept: [0; KEPT_BYTES] }
    }

    /// Takes the next bytes, and tells what they begin and complete.
    pub fn pass(&mut self, mut bytes: &[u8], mut seen: impl FnMut(Seen)) {
        let skipped = self.skip.min(bytes.len());
        self.skip -= skipped;
        bytes = &bytes[skipped..];
        while !bytes.is_empty() {
            if self.head_bytes < HEAD_BYTES {
                let count = (HEAD_BYTES - self.head_bytes).min(bytes.len());
                self.head[self.head_bytes..self.head_bytes + count].copy_from_slice(&bytes[..count]);
                self.head_bytes += count;
                bytes = &bytes[count..];
                if self.head_bytes < HEAD_BYTES {
                    return;
                }
                self.kept = [0; KEPT_BYTES];
                self.left = self.frame().length;
                seen(Seen::Begun(self.frame()));
            } else {
                let count = self.left.min(bytes.len());
                let at = self.frame().length - self.left;
                for (place, byte) in self.kept.iter_mut().skip(at).zip(&bytes[..count]) {
                    *place = *byte;
                }
                self.left -= count;
                bytes = &bytes[count..];
            }
            if self.left == 0 {
                self.head_bytes = 0;
                seen(Seen::Whole(self.frame()));
            }
        }
    }

    fn frame(&self) -> Frame {
        let [a, b, c, kind, flags, stream @ ..] = self.head;
        Frame {
            kind: Kind::of(kind),
            flags,
            stream: u32::from_be_bytes(stream) & 0x7fff_ffff,
            length: u32::from_be_bytes([0, a, b, c]) as usize,
            code: u32::from_be_bytes(self.kept),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_seen_alike_in_whatever_pieces_they_come() {
        let bytes = [
            &b"preface"[..],
            b"\0\0\x05\x01\x05\0\0\0\x01hello",
            b"\0\0\0\x04\x01\0\0\0\0",
            b"\0\0\x04\x03\0\x80\0\0\x03\0\0\0\x08",
            b"\0\0\x01\x63\0\0\0\0\0x",
        ]
        .concat();
        let mut whole = Vec::new();
        Frames::after(7).pass(&bytes, |seen| whole.push(seen));
        for piece in 1..bytes.len() {
            let (mut frames, mut pieces) = (Frames::after(7), Vec::new());
            bytes.chunks(piece).for_each(|bytes| frames.pass(bytes, |seen| pieces.push(seen)));
            // What a begun frame carries may not be there yet; the rest is the same.
            assert_eq!(pieces.len(), whole.len(), "pieces of {piece}");
            for (one, other) in pieces.iter().zip(&whole) {
                if let (Seen::Whole(one), Seen::Whole(other)) = (one, other) {
                    assert_eq!(one, other, "pieces of {piece}");
                }
            }
        }
        let ends: Vec<Frame> = whole
            .into_iter()
            .filter_map(|seen| if let Seen::Whole(frame) = seen { Some(frame) } else { None })
            .collect();
        let [headers, settings, reset, other] = ends[..] else { panic!("four frames: {ends:?}") };
        assert!(headers.ends_head() && headers.ends_stream() && headers.stream == 1);
        assert!(settings.acknowledges() && settings.length == 0);
        assert_eq!((reset.kind, reset.stream, reset.code), (Kind::Reset, 3, 8));
        assert_eq!((other.kind, other.kind.name()), (Kind::Other, "unknown"));
    }
}
