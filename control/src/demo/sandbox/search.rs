//! Looks for texts in everything that a program can see: environments, command lines and memory of every process that
//! it may open, every file below its root, and everything that it was ever answered.
//!
//! The texts come masked and are unmasked byte by byte while they are compared: who looks for a credential must not be
//! the one that holds it.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

use crate::demo::word::{Found, Masked, Place};

/// Bytes of memory or of a file that are looked at in one piece.
const PIECE_BYTES: usize = 1 << 20;
/// Bits of an entry of `/proc/PID/pagemap`: in memory, in swap.
const PAGE_THERE: u64 = 0b11 << 62;

impl Masked {
    /// Masks a text with random bytes of the same length.
    pub fn new(text: &str, pad: Vec<u8>) -> Self {
        let text = text.bytes().zip(&pad).map(|(byte, pad)| byte ^ pad).collect();
        Self { pad, text }
    }

    /// How often the text is in these bytes.
    pub fn count(&self, bytes: &[u8]) -> usize {
        let [Some(pad), Some(text)] = [self.pad.first(), self.text.first()] else { return 0 };
        let first = pad ^ text;
        let mut found = 0;
        let mut rest = bytes;
        while let Some(at) = rest.iter().position(|byte| *byte == first) {
            rest = &rest[at..];
            let whole = rest.len() >= self.text.len();
            found += usize::from(whole && self.begins(rest));
            rest = &rest[1..];
        }
        found
    }

    fn begins(&self, bytes: &[u8]) -> bool {
        bytes.iter().zip(&self.pad).zip(&self.text).all(|((byte, pad), text)| byte ^ pad == *text)
    }
}

/// Looks everywhere. Where the program does not stand apart from the machine (`alone`), only at itself.
pub fn search(needles: &[Masked], heard: &[u8], alone: bool) -> Found {
    let started = Instant::now();
    let processes = if alone { vec![PathBuf::from("/proc/self")] } else { processes() };
    let mut environment = Counter::new("environment", needles);
    let mut command = Counter::new("command line", needles);
    let mut memory = Counter::new("memory", needles);
    for process in &processes {
        environment.whole(fs::read(process.join("environ")));
        command.whole(fs::read(process.join("cmdline")));
        // A process that ends meanwhile, or that may not be opened, shows nothing.
        let _ = pages(process, &mut memory);
    }
    let mut files = Counter::new("files", needles);
    let root = if alone { std::env::current_dir().unwrap_or_default() } else { PathBuf::from("/") };
    walk(&root, &mut files);
    let mut answers = Counter::new("answers", needles);
    answers.whole(Ok(heard.to_vec()));
    let places = [environment, command, memory, files, answers].map(|counter| counter.place);
    Found { places: places.into(), micros: u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX) }
}

struct Counter<'a> {
    needles: &'a [Masked],
    place: Place,
}

impl<'a> Counter<'a> {
    fn new(name: &str, needles: &'a [Masked]) -> Self {
        Self { needles, place: Place { name: name.into(), hits: vec![0; needles.len()], ..Place::default() } }
    }

    /// One place that can be read at once; what cannot be read cannot be seen.
    fn whole(&mut self, bytes: io::Result<Vec<u8>>) {
        if let Ok(bytes) = bytes {
            self.place.count += 1;
            self.add(&bytes, bytes.len());
        }
    }

    /// A piece of a place, whose last `fresh` bytes were not in the piece before. What lies wholly before them was
    /// counted then.
    fn add(&mut self, bytes: &[u8], fresh: usize) {
        self.place.bytes += fresh as u64;
        for (hits, needle) in self.place.hits.iter_mut().zip(self.needles) {
            let start = (bytes.len() - fresh).saturating_sub(needle.text.len().saturating_sub(1));
            *hits += needle.count(&bytes[start..]);
        }
    }

    /// Bytes that two pieces share, so that a text over their border is found, once.
    fn overlap(&self) -> usize {
        self.needles.iter().map(|needle| needle.text.len()).max().unwrap_or(1).saturating_sub(1)
    }

    /// A stretch of a file, piece by piece, up to its end or the first byte that cannot be read.
    fn stretch(&mut self, file: &File, start: u64, end: u64) {
        let mut piece = vec![0; PIECE_BYTES];
        let (mut at, mut kept) = (start, 0);
        while at < end {
            let room = (PIECE_BYTES - kept).min(usize::try_from(end - at).unwrap_or(usize::MAX));
            let Ok(count @ 1..) = file.read_at(&mut piece[kept..kept + room], at) else { return };
            self.add(&piece[..kept + count], count);
            let next = self.overlap().min(kept + count);
            piece.copy_within(kept + count - next..kept + count, 0);
            kept = next;
            at += count as u64;
        }
    }
}

fn processes() -> Vec<PathBuf> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let is_process = |path: &PathBuf| {
        path.file_name().is_some_and(|name| name.as_encoded_bytes().iter().all(u8::is_ascii_digit))
    };
    entries.map(|entry| entry.path()).filter(is_process).collect()
}

/// Every page of a process that is in memory or in swap. Others hold zeros, or what a file holds.
fn pages(process: &Path, memory: &mut Counter<'_>) -> io::Result<()> {
    let (maps, pagemap) = (fs::read_to_string(process.join("maps"))?, File::open(process.join("pagemap"))?);
    let contents = File::open(process.join("mem"))?;
    memory.place.count += 1;
    let page = page_bytes()?;
    for (start, end) in maps.lines().filter_map(readable) {
        let mut entries = vec![0; usize::try_from((end - start) / page * 8).unwrap_or(0)];
        if pagemap.read_exact_at(&mut entries, start / page * 8).is_err() {
            continue;
        }
        for (first, count) in runs(&entries) {
            memory.stretch(&contents, start + first * page, start + (first + count) * page);
        }
    }
    Ok(())
}

/// Bounds of a mapping that may be read (proc_pid_maps(5)).
fn readable(line: &str) -> Option<(u64, u64)> {
    let mut words = line.split(' ');
    let (start, end) = words.next()?.split_once('-')?;
    let bounds = (u64::from_str_radix(start, 16).ok()?, u64::from_str_radix(end, 16).ok()?);
    words.next()?.starts_with('r').then_some(bounds)
}

/// Stretches of pages that are there: the first page's number, and how many.
fn runs(entries: &[u8]) -> Vec<(u64, u64)> {
    let mut runs: Vec<(u64, u64)> = Vec::new();
    for (number, entry) in (0..).zip(entries.as_chunks().0) {
        match runs.last_mut() {
            _ if u64::from_ne_bytes(*entry) & PAGE_THERE == 0 => {}
            Some((first, count)) if *first + *count == number => *count += 1,
            _ => runs.push((number, 1)),
        }
    }
    runs
}

/// `AT_PAGESZ` of what the kernel told this program (getauxval(3)).
fn page_bytes() -> io::Result<u64> {
    const PAGE_SIZE: usize = 6;
    let vector = fs::read("/proc/self/auxv")?;
    let mut words = vector.as_chunks().0.iter().map(|word| usize::from_ne_bytes(*word));
    while let (Some(key), Some(value)) = (words.next(), words.next()) {
        if key == PAGE_SIZE {
            return Ok(value as u64);
        }
    }
    Err(io::Error::other("the kernel tells no size of pages"))
}

/// Every file below a folder, but for `/proc`, which is looked at by process.
fn walk(folder: &Path, files: &mut Counter<'_>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let (path, kind) = (entry.path(), entry.file_type());
        match kind {
            Ok(kind) if kind.is_dir() && path != Path::new("/proc") => walk(&path, files),
            Ok(kind) if kind.is_file() => {
                let Ok(file) = File::open(&path) else { continue };
                files.place.count += 1;
                files.stretch(&file, 0, u64::MAX);
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn needle(text: &str) -> Masked {
        Masked::new(text, (0..text.len()).map(|at| u8::try_from(at * 37 % 251).unwrap()).collect())
    }

    #[test]
    fn a_masked_text_is_found_wherever_it_stands() {
        let needle = needle("token-1");
        assert!(!needle.text.windows(7).any(|bytes| bytes == b"token-1"));
        for (text, count) in
            [("token-1", 1), ("ttoken-1", 1), ("token-1token-1", 2), ("token-", 0), ("token-2", 0), ("", 0)]
        {
            assert_eq!(needle.count(text.as_bytes()), count, "{text}");
        }
    }

    #[test]
    fn a_text_over_the_border_of_two_pieces_is_found_once() {
        let folder = tempfile::tempdir().unwrap();
        for shift in 0..8 {
            let mut bytes = vec![b'.'; PIECE_BYTES + 100];
            bytes[PIECE_BYTES - shift..][..7].copy_from_slice(b"token-1");
            fs::write(folder.path().join("file"), &bytes).unwrap();
            let needles = [needle("token-1"), needle("longer-than-that")];
            let mut files = Counter::new("files", &needles);
            walk(folder.path(), &mut files);
            assert_eq!((files.place.count, files.place.bytes), (1, bytes.len() as u64));
            assert_eq!(files.place.hits, [1, 0], "shift {shift}");
        }
    }

    #[test]
    fn what_this_process_holds_is_found_in_its_memory() {
        let planted = std::hint::black_box(format!("planted-{}", std::process::id()));
        let absent = needle(&format!("nowhere-{}", 7_u64.pow(20)));
        let found = search(&[needle(&planted), absent], planted.as_bytes(), true);
        let hits = |name: &str| found.places.iter().find(|place| place.name == name).unwrap().hits.clone();
        assert!(hits("memory")[0] > 0, "{found:?}");
        assert_eq!(hits("answers"), [1, 0]);
        assert_eq!(hits("environment"), [0, 0]);
    }

    #[test]
    fn stretches_of_pages_that_are_there_are_joined() {
        let entries: Vec<u8> = [0, 1 << 63, 1 << 62, 0, 1 << 63, 7].map(u64::to_ne_bytes).concat();
        assert_eq!(runs(&entries), [(1, 2), (4, 1)]);
        assert_eq!(readable("1000-3000 r--p 0 0:0 0 /x"), Some((0x1000, 0x3000)));
        assert_eq!(readable("1000-3000 ---p 0 0:0 0"), None);
    }
}
