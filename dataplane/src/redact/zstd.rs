//! Undoes zstd, a block at a time: a source of many small blocks that each say much must not be decoded at once.

use std::io::Read;

use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};

use crate::limits::REDACT_ZSTD_WINDOW_BYTES_MAX;

/// Frames of zstd, which may follow each other (RFC 8878 §3).
pub(super) struct Zstd {
    decoder: FrameDecoder,
    gathered: Vec<u8>,
    part: Part,
}

/// What comes next.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    Header,
    /// So many bytes that say nothing (RFC 8878 §3.1.2).
    Skipped(u64),
    Block {
        checked: bool,
    },
    /// What the decoder holds is given out; then a frame may follow.
    Rest {
        checked: bool,
    },
}

/// RFC 8878 §3.1.1.2.3: no block says or takes more.
const BLOCK_BYTES_MAX: usize = 128 << 10;
const MAGIC: [u8; 4] = 0xFD2F_B528_u32.to_le_bytes();

impl Zstd {
    pub(super) fn new() -> Self {
        let mut decoder = FrameDecoder::new();
        decoder.set_max_window_size(REDACT_ZSTD_WINDOW_BYTES_MAX);
        Self { decoder, gathered: Vec::new(), part: Part::Header }
    }

    pub(super) fn is_ended(&self) -> bool {
        self.part == Part::Header && self.gathered.is_empty()
    }

    /// Takes bytes and writes what they say; gives the numbers of both.
    pub(super) fn step(&mut self, input: &[u8], out: &mut [u8]) -> Result<(usize, usize), ()> {
        if let Part::Block { .. } | Part::Rest { .. } = self.part {
            let written = self.decoder.read(out).map_err(|_| ())?;
            if written > 0 {
                return Ok((0, written));
            }
        }
        match self.part {
            Part::Skipped(due) => {
                let taken = usize::try_from(due).unwrap_or(usize::MAX).min(input.len());
                let due = due - taken as u64;
                self.part = if due == 0 { Part::Header } else { Part::Skipped(due) };
                Ok((taken, 0))
            }
            Part::Rest { checked } => {
                let said = self.decoder.get_checksum_from_data();
                if checked && said != self.decoder.get_calculated_checksum() {
                    return Err(());
                }
                self.part = Part::Header;
                self.header(input).map(|taken| (taken, 0))
            }
            Part::Header => self.header(input).map(|taken| (taken, 0)),
            Part::Block { checked } => self.block(input, checked).map(|taken| (taken, 0)),
        }
    }

    /// Gathers up to so many bytes; gives how many it took, and whether they are there.
    fn gather(&mut self, input: &[u8], wanted: usize) -> (usize, bool) {
        let taken = input.len().min(wanted.saturating_sub(self.gathered.len()));
        self.gathered.extend_from_slice(&input[..taken]);
        (taken, self.gathered.len() >= wanted)
    }

    fn header(&mut self, input: &[u8]) -> Result<usize, ()> {
        let (mut taken, enough) = self.gather(input, 5);
        if !enough {
            return Ok(taken);
        }
        let skippable = self.gathered[0] & 0xF0 == 0x50 && self.gathered[1..4] == [0x2A, 0x4D, 0x18];
        let descriptor = self.gathered[4];
        let length = match skippable {
            true => 8,
            false if self.gathered[..4] != MAGIC => return Err(()),
            false => 5 + header_behind(descriptor),
        };
        let (more, enough) = self.gather(&input[taken..], length);
        taken += more;
        if !enough {
            return Ok(taken);
        }
        let header = std::mem::take(&mut self.gathered);
        self.part = match skippable {
            true => {
                let bytes = header[4..8].try_into().map_err(|_| ())?;
                match u32::from_le_bytes(bytes) {
                    0 => Part::Header,
                    length => Part::Skipped(length.into()),
                }
            }
            false => {
                self.decoder.init(&header[..]).map_err(|_| ())?;
                Part::Block { checked: descriptor & 4 != 0 }
            }
        };
        Ok(taken)
    }

    fn block(&mut self, input: &[u8], checked: bool) -> Result<usize, ()> {
        let (mut taken, enough) = self.gather(input, 3);
        if !enough {
            return Ok(taken);
        }
        // RFC 8878 §3.1.1.2.
        let said = u32::from_le_bytes([self.gathered[0], self.gathered[1], self.gathered[2], 0]);
        let (last, kind, size) = (said & 1 == 1, said >> 1 & 3, (said >> 3) as usize);
        if size > BLOCK_BYTES_MAX {
            return Err(());
        }
        let content = if kind == 1 { 1 } else { size };
        let checksum = if last && checked { 4 } else { 0 };
        let (more, enough) = self.gather(&input[taken..], 3 + content + checksum);
        taken += more;
        if enough {
            let block = std::mem::take(&mut self.gathered);
            let one = BlockDecodingStrategy::UptoBlocks(1);
            self.decoder.decode_blocks(&block[..], one).map_err(|_| ())?;
            self.part = if last { Part::Rest { checked } } else { Part::Block { checked } };
        }
        Ok(taken)
    }
}

/// Bytes of a header behind its descriptor (RFC 8878 §3.1.1.1).
fn header_behind(descriptor: u8) -> usize {
    let single = descriptor >> 5 & 1;
    let window = usize::from(1 - single);
    let dictionary = [0, 1, 2, 4][usize::from(descriptor & 3)];
    let size = match descriptor >> 6 {
        0 => usize::from(single),
        1 => 2,
        2 => 4,
        _ => 8,
    };
    window + dictionary + size
}
