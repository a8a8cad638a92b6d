//! Undoes gzip and deflate.

use flate2::{Decompress, FlushDecompress, Status};

/// A stream of one of the forms of deflate; gzip's members may follow each other (RFC 1952 §2.2).
pub(super) struct Deflate {
    form: Form,
    stream: Option<Decompress>,
    /// The first bytes, until they tell the form.
    start: Vec<u8>,
    ended: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    Gzip,
    /// RFC 1950 if the first two bytes say so (§2.2), else bare.
    ZlibOrBare,
}

/// RFC 1951 §2.
const WINDOW_BITS: u8 = 15;

impl Deflate {
    pub(super) fn gzip() -> Self {
        Self { form: Form::Gzip, stream: None, start: Vec::new(), ended: false }
    }

    pub(super) fn zlib_or_bare() -> Self {
        Self { form: Form::ZlibOrBare, ..Self::gzip() }
    }

    pub(super) fn is_ended(&self) -> bool {
        self.ended
    }

    /// Takes bytes and writes what they say; gives the numbers of both.
    pub(super) fn step(&mut self, input: &[u8], out: &mut [u8]) -> Result<(usize, usize), ()> {
        if self.ended && !input.is_empty() {
            if self.form != Form::Gzip {
                return Err(());
            }
            (self.stream, self.ended) = (None, false);
        }
        let mut taken = 0;
        if self.stream.is_none() {
            taken = input.len().min(2 - self.start.len());
            self.start.extend_from_slice(&input[..taken]);
            let [first, second] = self.start[..] else { return Ok((taken, 0)) };
            self.stream = Some(match self.form {
                Form::Gzip => Decompress::new_gzip(WINDOW_BITS),
                Form::ZlibOrBare => {
                    let zlib = first & 15 == 8 && u16::from_be_bytes([first, second]) % 31 == 0;
                    Decompress::new(zlib)
                }
            });
        }
        let Some(stream) = &mut self.stream else { return Err(()) };
        // The two bytes that told the form come first.
        let source = if self.start.is_empty() { &input[taken..] } else { &self.start[..] };
        let (in_before, out_before) = (stream.total_in(), stream.total_out());
        let status = stream.decompress(source, out, FlushDecompress::None).map_err(|_| ())?;
        let used = usize::try_from(stream.total_in() - in_before).map_err(|_| ())?;
        let written = usize::try_from(stream.total_out() - out_before).map_err(|_| ())?;
        if self.start.is_empty() {
            taken += used;
        } else {
            self.start.drain(..used);
        }
        if status == Status::StreamEnd {
            self.ended = true;
            // Two bytes hold no whole stream of gzip or zlib, and a bare one ends before nothing.
            if !self.start.is_empty() {
                return Err(());
            }
        }
        Ok((taken, written))
    }
}
