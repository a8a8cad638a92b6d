//! Undoes the codings of a body as it arrives: a bounded step at a time, and never much more than was sent.

use std::cell::Cell;

use brotli_decompressor::{BrotliDecompressStream, BrotliResult, BrotliState, StandardAlloc};

use super::{codings::Coding, deflate::Deflate, zstd::Zstd};
use crate::limits::{
    REDACT_EXPANSION_FREE_BYTES, REDACT_EXPANSION_MAX, REDACT_STEP_BYTES, REDACT_WIDE_DECODERS_MAX,
};

/// Why a body is not decoded further. The client must not take what it has for the whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CodingError {
    /// It is not what its coding says.
    #[error("the answer is not what its coding `{0}` says")]
    Malformed(&'static str),
    /// It ended within its coding.
    #[error("the answer ended within its coding `{0}`")]
    Truncated(&'static str),
    /// It says far more than was sent.
    #[error(
        "the answer decodes to more than {REDACT_EXPANSION_MAX} times what was sent, \
         beyond {REDACT_EXPANSION_FREE_BYTES} bytes"
    )]
    Expands,
}

/// Too many answers are decoded from codings with large windows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Busy;

/// The codings of one body.
pub struct Decoding {
    /// In the order in which they are undone.
    stages: Vec<Stage>,
    sent: u64,
    _wide: Option<Wide>,
}

struct Stage {
    coding: Coding,
    decoder: Decoder,
    /// What it has not taken yet.
    input: Vec<u8>,
    at: usize,
    /// Bytes that it has said.
    said: u64,
}

enum Decoder {
    Deflate(Deflate),
    Brotli(Box<Brotli>),
    Zstd(Box<Zstd>),
}

impl Decoding {
    /// Undoes these codings, which were applied in this order.
    ///
    /// # Errors
    /// `Busy`, where that would take too much memory now.
    pub fn new(codings: &[Coding]) -> Result<Self, Busy> {
        let wide = codings.iter().any(|coding| matches!(coding, Coding::Brotli | Coding::Zstd));
        let wide = wide.then(Wide::enter).transpose()?;
        let stages = codings.iter().rev().map(|coding| Stage {
            coding: *coding,
            decoder: match coding {
                Coding::Gzip => Decoder::Deflate(Deflate::gzip()),
                Coding::Deflate => Decoder::Deflate(Deflate::zlib_or_bare()),
                Coding::Brotli => Decoder::Brotli(Box::new(Brotli::new())),
                Coding::Zstd => Decoder::Zstd(Box::new(Zstd::new())),
            },
            input: Vec::new(),
            at: 0,
            said: 0,
        });
        Ok(Self { stages: stages.collect(), sent: 0, _wide: wide })
    }

    /// Takes the next piece. [`Decoding::more`] must have said before that there is nothing more.
    pub fn feed(&mut self, piece: &[u8]) {
        self.sent += piece.len() as u64;
        if let Some(first) = self.stages.first_mut() {
            first.input.clear();
            first.input.extend_from_slice(piece);
            first.at = 0;
        }
    }

    /// What the pieces so far say, a step at a time; nothing when the next piece is needed.
    ///
    /// # Errors
    /// [`CodingError::Malformed`], [`CodingError::Expands`].
    pub fn more(&mut self) -> Result<Option<Vec<u8>>, CodingError> {
        let mut out = vec![0; REDACT_STEP_BYTES];
        let written = pull(&mut self.stages, self.sent, &mut out)?;
        out.truncate(written);
        Ok(Some(out).filter(|out| !out.is_empty()))
    }

    /// The body has ended. A body of no bytes is one in every coding: there are servers that name one and send none.
    ///
    /// # Errors
    /// [`CodingError::Truncated`].
    pub fn end(&self) -> Result<(), CodingError> {
        if self.sent == 0 {
            return Ok(());
        }
        match self.stages.iter().find(|stage| !stage.decoder.is_ended()) {
            Some(stage) => Err(CodingError::Truncated(stage.coding.name())),
            None => Ok(()),
        }
    }
}

/// What the last of some stages says next; nothing when the first needs more.
fn pull(stages: &mut [Stage], sent: u64, out: &mut [u8]) -> Result<usize, CodingError> {
    let Some((stage, before)) = stages.split_last_mut() else { return Ok(0) };
    loop {
        let input = &stage.input[stage.at..];
        let (starved, malformed) = (input.is_empty(), CodingError::Malformed(stage.coding.name()));
        let (taken, written) = stage.decoder.step(input, out).map_err(|()| malformed)?;
        stage.at += taken;
        stage.said += written as u64;
        if stage.said > REDACT_EXPANSION_FREE_BYTES.saturating_add(sent.saturating_mul(REDACT_EXPANSION_MAX))
        {
            return Err(CodingError::Expands);
        }
        match (starved, taken, written) {
            (_, _, 1..) => return Ok(written),
            (false, 0, 0) => return Err(malformed),
            (false, ..) => continue,
            (true, ..) => {}
        }
        if before.is_empty() {
            return Ok(0);
        }
        stage.input.resize(REDACT_STEP_BYTES, 0);
        stage.at = 0;
        let found = pull(before, sent, &mut stage.input);
        stage.input.truncate(*found.as_ref().unwrap_or(&0));
        if found? == 0 {
            return Ok(0);
        }
    }
}

impl Decoder {
    fn step(&mut self, input: &[u8], out: &mut [u8]) -> Result<(usize, usize), ()> {
        match self {
            Self::Deflate(stream) => stream.step(input, out),
            Self::Brotli(stream) => stream.step(input, out),
            Self::Zstd(stream) => stream.step(input, out),
        }
    }

    fn is_ended(&self) -> bool {
        match self {
            Self::Deflate(stream) => stream.is_ended(),
            Self::Brotli(stream) => stream.ended,
            Self::Zstd(stream) => stream.is_ended(),
        }
    }
}

/// A stream of brotli, without the larger windows that no coding of HTTP has.
struct Brotli {
    state: BrotliState<StandardAlloc, StandardAlloc, StandardAlloc>,
    ended: bool,
}

impl Brotli {
    fn new() -> Self {
        let alloc = StandardAlloc::default;
        Self { state: BrotliState::new_strict(alloc(), alloc(), alloc()), ended: false }
    }

    fn step(&mut self, input: &[u8], out: &mut [u8]) -> Result<(usize, usize), ()> {
        if self.ended {
            return if input.is_empty() { Ok((0, 0)) } else { Err(()) };
        }
        let (mut input_left, mut taken, mut room, mut written) = (input.len(), 0, out.len(), 0);
        let mut total = 0;
        let result = BrotliDecompressStream(
            &mut input_left,
            &mut taken,
            input,
            &mut room,
            &mut written,
            out,
            &mut total,
            &mut self.state,
        );
        match result {
            BrotliResult::ResultFailure => return Err(()),
            BrotliResult::ResultSuccess => self.ended = true,
            BrotliResult::NeedsMoreInput | BrotliResult::NeedsMoreOutput => {}
        }
        Ok((taken, written))
    }
}

/// A place among the decoders of this shard that have large windows.
struct Wide;

thread_local! {
    static WIDE: Cell<usize> = const { Cell::new(0) };
}

impl Wide {
    fn enter() -> Result<Self, Busy> {
        WIDE.with(|open| {
            if open.get() == REDACT_WIDE_DECODERS_MAX {
                return Err(Busy);
            }
            open.set(open.get() + 1);
            Ok(Self)
        })
    }
}

impl Drop for Wide {
    fn drop(&mut self) {
        WIDE.with(|open| open.set(open.get() - 1));
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::{
        Compression,
        write::{DeflateEncoder, GzEncoder, ZlibEncoder},
    };
    use ruzstd::encoding::{CompressionLevel, compress_to_vec};

    use super::*;

    fn gzip(text: &[u8]) -> Vec<u8> {
        let mut to = GzEncoder::new(Vec::new(), Compression::default());
        to.write_all(text).unwrap();
        to.finish().unwrap()
    }

    fn zlib(text: &[u8]) -> Vec<u8> {
        let mut to = ZlibEncoder::new(Vec::new(), Compression::default());
        to.write_all(text).unwrap();
        to.finish().unwrap()
    }

    fn bare(text: &[u8]) -> Vec<u8> {
        let mut to = DeflateEncoder::new(Vec::new(), Compression::default());
        to.write_all(text).unwrap();
        to.finish().unwrap()
    }

    fn brotli(text: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        brotli::CompressorWriter::new(&mut out, 4096, 5, 22).write_all(text).unwrap();
        out
    }

    fn zstd(text: &[u8]) -> Vec<u8> {
        compress_to_vec(text, CompressionLevel::Fastest)
    }

    fn decoded(codings: &[Coding], coded: &[u8], step: usize) -> Result<Vec<u8>, CodingError> {
        let mut decoding = Decoding::new(codings).unwrap();
        let mut out = Vec::new();
        for piece in coded.chunks(step) {
            decoding.feed(piece);
            while let Some(said) = decoding.more()? {
                assert!(said.len() <= REDACT_STEP_BYTES);
                out.extend(said);
            }
        }
        decoding.end().map(|()| out)
    }

    /// Compressible and long enough for several blocks and steps.
    fn text() -> Vec<u8> {
        (0..40_000u32)
            .flat_map(|at| format!("{} ", at.wrapping_mul(2_654_435_761) >> 12).into_bytes())
            .collect()
    }

    fn coded(text: &[u8]) -> Vec<(Vec<Coding>, Vec<u8>)> {
        use Coding::{Brotli, Deflate, Gzip, Zstd};
        vec![
            (vec![Gzip], gzip(text)),
            (vec![Gzip], [gzip(&text[..text.len() / 3]), gzip(&text[text.len() / 3..])].concat()),
            (vec![Deflate], zlib(text)),
            (vec![Deflate], bare(text)),
            (vec![Brotli], brotli(text)),
            (vec![Zstd], zstd(text)),
            (vec![Zstd], [zstd(b""), b"\x51\x2A\x4D\x18\x03\0\0\0abc".to_vec(), zstd(text)].concat()),
            (vec![Gzip, Brotli], brotli(&gzip(text))),
            (vec![Zstd, Gzip], gzip(&zstd(text))),
        ]
    }

    #[test]
    fn every_coding_is_undone_however_it_is_cut() {
        for text in [text(), b"short".to_vec(), Vec::new()] {
            for (codings, coded) in coded(&text) {
                for step in [1, 3, 1000, 65_536] {
                    assert!(
                        decoded(&codings, &coded, step) == Ok(text.clone()),
                        "{codings:?}, {} bytes in steps of {step}",
                        text.len()
                    );
                }
            }
        }
    }

    #[test]
    fn a_part_is_never_taken_for_the_whole() {
        let text = text();
        for (codings, coded) in coded(&text) {
            for cut in [1, 2, 4, 10, coded.len() / 2, coded.len() - 1] {
                // Whole members and frames may be followed by others.
                let found = decoded(&codings, &coded[..cut], 777);
                assert!(matches!(found, Err(CodingError::Truncated(_))), "{codings:?} cut at {cut}");
            }
            let surplus = decoded(&codings, &[&coded[..], b"more"].concat(), 777);
            assert!(surplus.is_err(), "{codings:?}");
        }
    }

    #[test]
    fn noise_is_refused_and_never_a_panic() {
        let mut noise = 7u64;
        for round in 0..2_000 {
            let coding = [Coding::Gzip, Coding::Deflate, Coding::Brotli, Coding::Zstd][round % 4];
            let mut bytes = coded(b"some text of some length, some text")[[0, 2, 4, 5][round % 4]].1.clone();
            for _ in 0..3 {
                noise = noise.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                let at = (noise >> 33) as usize % bytes.len();
                bytes[at] ^= 1 << (noise >> 61);
            }
            // Most are refused; some flips change what is not checked.
            let _any = decoded(&[coding], &bytes, 5);
        }
    }

    #[test]
    fn a_stream_is_said_as_far_as_it_was_flushed() {
        let mut to = GzEncoder::new(Vec::new(), Compression::default());
        to.write_all(b"data: 1\n\n").unwrap();
        to.flush().unwrap();
        let mut decoding = Decoding::new(&[Coding::Gzip]).unwrap();
        decoding.feed(to.get_ref());
        assert_eq!(decoding.more().unwrap().unwrap(), b"data: 1\n\n");
        let mut out = Vec::new();
        let mut to = brotli::CompressorWriter::new(&mut out, 4096, 5, 22);
        to.write_all(b"data: 1\n\n").unwrap();
        to.flush().unwrap();
        let so_far = to.get_ref().to_vec();
        let mut decoding = Decoding::new(&[Coding::Brotli]).unwrap();
        decoding.feed(&so_far);
        assert_eq!(decoding.more().unwrap().unwrap(), b"data: 1\n\n");
    }

    /// Blocks of zstd that each say 128 KiB in four bytes.
    fn zstd_bomb(blocks: usize) -> Vec<u8> {
        let header = [0x28, 0xB5, 0x2F, 0xFD, 0x00, 0x58];
        let block = ((128u32 << 10) << 3 | 1 << 1).to_le_bytes();
        [&header[..], &[block[0], block[1], block[2], 0].repeat(blocks)].concat()
    }

    #[test]
    fn a_bomb_is_cut_in_every_coding() {
        let zeros = vec![0; 8 << 20];
        let once = gzip(&zeros);
        let twice = gzip(&once.repeat(40));
        let many = gzip(&vec![0; 96 << 20]);
        for (codings, bomb) in [
            (vec![Coding::Gzip], many),
            (vec![Coding::Gzip, Coding::Gzip], twice),
            (vec![Coding::Brotli], brotli(&vec![0; 96 << 20])),
            (vec![Coding::Zstd], zstd_bomb(2_000)),
        ] {
            assert_eq!(decoded(&codings, &bomb, 4096), Err(CodingError::Expands), "{codings:?}");
        }
    }

    #[test]
    fn large_windows_are_counted_and_given_back() {
        let open: Vec<Decoding> =
            (0..REDACT_WIDE_DECODERS_MAX).map(|_| Decoding::new(&[Coding::Zstd]).unwrap()).collect();
        assert!(Decoding::new(&[Coding::Brotli]).is_err());
        assert!(Decoding::new(&[Coding::Gzip]).is_ok());
        drop(open);
        assert!(Decoding::new(&[Coding::Brotli]).is_ok());
        // A frame that wants a window of 128 MiB.
        let wants = [0x28, 0xB5, 0x2F, 0xFD, 0x00, 0x88, 0x01, 0x00, 0x00];
        assert_eq!(decoded(&[Coding::Zstd], &wants, 99), Err(CodingError::Malformed("zstd")));
    }
}
