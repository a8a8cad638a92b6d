//! Provided buffers: pools from which the kernel takes a buffer only when data is there.
#![allow(unsafe_code)] // The memory is shared with the kernel: mapped pages, an atomic tail, slices into the pool.

use std::{
    cell::{Cell, RefCell},
    fmt, io,
    ops::{Deref, DerefMut},
    ptr::NonNull,
    rc::Rc,
    sync::atomic::{AtomicU16, Ordering},
};

use io_uring::types::BufRingEntry;

use crate::limits::BUFFERS_OFFERED;

/// Anonymous pages, unmapped on drop.
struct Pages {
    start: NonNull<u8>,
    bytes: usize,
}

impl Pages {
    fn map(bytes: usize) -> io::Result<Self> {
        // SAFETY: an anonymous private mapping at an address of the kernel's choice touches no existing memory.
        // The standard allocator gives no page-aligned memory that is untouched until it is used.
        let start = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                bytes,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        NonNull::new(start.cast()).map(|start| Self { start, bytes }).ok_or_else(io::Error::last_os_error)
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        // SAFETY: exactly this range was mapped by `map`, and no slice into it outlives its owner: each `Buf` holds
        // the pool. The kernel is done with it: `Core` leaks the pool where it cannot know that.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.bytes) };
    }
}

/// A pool of equal buffers and the ring by which they are lent to the kernel.
///
/// The kernel takes buffers in the order in which they were offered. Were all of them on offer, every one would be
/// touched in turn: the whole pool would be in memory and out of the caches for one busy connection. So a few are on
/// offer, and the one that came back last is offered next; a burst that finds none widens the offer for good.
pub(super) struct Pool {
    ring: Pages,
    data: Pages,
    group: u16,
    count: u16,
    bytes: u32,
    tail: Cell<u16>,
    out: Cell<u16>,
    /// Buffers in the ring.
    offered: Cell<u16>,
    /// Buffers that are to be in the ring while there are any.
    offer: Cell<u16>,
    /// Neither in the ring nor lent, the one that came back last on top.
    spare: RefCell<Vec<u16>>,
}

impl Pool {
    /// Maps a pool and offers its first buffers. `count` is a power of two up to 32,768.
    ///
    /// # Errors
    /// `ENOMEM` from the mapping.
    pub fn new(group: u16, count: u16, bytes: u32) -> io::Result<Rc<Self>> {
        let ring = Pages::map(usize::from(count) * size_of::<BufRingEntry>())?;
        let data = Pages::map(usize::from(count) * bytes as usize)?;
        let pool = Self {
            ring,
            data,
            group,
            count,
            bytes,
            tail: Cell::new(0),
            out: Cell::new(0),
            offered: Cell::new(0),
            offer: Cell::new(BUFFERS_OFFERED.min(count)),
            spare: RefCell::new((0..count).rev().collect()),
        };
        pool.fill();
        Ok(Rc::new(pool))
    }

    /// The address that is registered with the kernel.
    pub fn ring_address(&self) -> u64 {
        self.ring.start.as_ptr().expose_provenance() as u64
    }

    /// The number of buffers.
    pub fn count(&self) -> u16 {
        self.count
    }

    /// The group by which operations name this pool.
    pub fn group(&self) -> u16 {
        self.group
    }

    /// Buffers that are lent to tasks.
    pub fn out(&self) -> u16 {
        self.out.get()
    }

    /// Buffers that are not lent to tasks.
    pub fn free(&self) -> u16 {
        self.count - self.out.get()
    }

    /// Free buffers at which starved receives are armed again: an eighth, so that they do not fail by turns.
    pub fn low_water(&self) -> u16 {
        (self.count / 8).max(1)
    }

    /// A receive found no buffer: where there are any, more are offered from now on.
    pub fn widen(&self) {
        self.offer.set(self.offer.get().saturating_mul(2).min(self.count));
        self.fill();
    }

    /// The buffer that a completion named, with `length` bytes of data. Called once for each such completion.
    pub fn take(self: &Rc<Self>, id: u16, length: u32) -> Buf {
        assert!(id < self.count && length <= self.bytes, "the kernel names a buffer of the pool");
        self.out.set(self.out.get() + 1);
        self.offered.set(self.offered.get() - 1);
        self.fill();
        Buf(Memory::Pool { pool: Rc::clone(self), id, length })
    }

    /// Takes a buffer back.
    fn give(&self, id: u16) {
        self.spare.borrow_mut().push(id);
        self.fill();
        self.out.set(self.out.get() - 1);
    }

    /// Offers spare buffers until as many are in the ring as should be.
    fn fill(&self) {
        while self.offered.get() < self.offer.get() {
            let Some(id) = self.spare.borrow_mut().pop() else { return };
            self.offer_one(id);
        }
    }

    /// Writes a buffer into the ring: the entry first, then the tail with release order.
    fn offer_one(&self, id: u16) {
        let tail = self.tail.get();
        let base: *mut BufRingEntry = self.ring.start.as_ptr().cast();
        // SAFETY: the index is masked below the number of entries that the mapping was made for.
        let entry = unsafe { base.add(usize::from(tail & (self.count - 1))) };
        // SAFETY: the kernel reads an entry only between head and tail; this one lies outside until the tail moves.
        // A field is written, not the whole entry: the first entry's last two bytes are the tail.
        let entry = unsafe { &mut *entry };
        entry.set_addr(self.address(id).as_ptr().expose_provenance() as u64);
        entry.set_len(self.bytes);
        entry.set_bid(id);
        let next = tail.wrapping_add(1);
        self.tail.set(next);
        // SAFETY: `base` is the first entry of a ring that was zeroed by the mapping.
        let shared = unsafe { BufRingEntry::tail(base) };
        // SAFETY: the tail is two bytes, aligned, mapped as long as `self`, and written only here by this thread.
        let shared = unsafe { AtomicU16::from_ptr(shared.cast_mut()) };
        shared.store(next, Ordering::Release);
        self.offered.set(self.offered.get() + 1);
    }

    fn address(&self, id: u16) -> NonNull<u8> {
        // SAFETY: ids are below `count`, for which the mapping was made.
        unsafe { self.data.start.add(usize::from(id) * self.bytes as usize) }
    }
}

enum Memory {
    Pool { pool: Rc<Pool>, id: u16, length: u32 },
    Heap(Vec<u8>),
}

/// Received bytes. A buffer of the pool goes back when this is dropped; it never leaves its shard.
pub struct Buf(Memory);

impl Buf {
    /// The same bytes outside the pool; the buffer goes back at once.
    pub(super) fn into_heap(self) -> Self {
        match &self.0 {
            Memory::Pool { .. } => Self(Memory::Heap(self.to_vec())),
            Memory::Heap(_) => self,
        }
    }

    /// Forgets everything after the first `length` bytes.
    pub fn truncate(&mut self, length: usize) {
        match &mut self.0 {
            Memory::Pool { length: now, .. } => {
                *now = u32::try_from(length).map_or(*now, |length| length.min(*now));
            }
            Memory::Heap(bytes) => bytes.truncate(length),
        }
    }
}

impl From<Vec<u8>> for Buf {
    fn from(bytes: Vec<u8>) -> Self {
        Self(Memory::Heap(bytes))
    }
}

impl Deref for Buf {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.0 {
            // SAFETY: the buffer is out of the ring, so the kernel does not write to it, and only this `Buf` names
            // it; its memory is mapped while `pool` lives and was zeroed by the mapping.
            Memory::Pool { pool, id, length } => unsafe {
                std::slice::from_raw_parts(pool.address(*id).as_ptr(), *length as usize)
            },
            Memory::Heap(bytes) => bytes,
        }
    }
}

impl DerefMut for Buf {
    fn deref_mut(&mut self) -> &mut [u8] {
        match &mut self.0 {
            // SAFETY: as in `deref`; `&mut self` makes this the only slice.
            Memory::Pool { pool, id, length } => unsafe {
                std::slice::from_raw_parts_mut(pool.address(*id).as_ptr(), *length as usize)
            },
            Memory::Heap(bytes) => bytes,
        }
    }
}

impl fmt::Debug for Buf {
    /// The length only: these are a sandbox's bytes.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Buf({} bytes)", self.len())
    }
}

impl Drop for Buf {
    fn drop(&mut self) {
        if let Memory::Pool { pool, id, .. } = &self.0 {
            pool.give(*id);
        }
    }
}
