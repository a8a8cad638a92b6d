//! Memories of guests: slots back to back in one reservation per shard, and the restoring of their contents.
//!
//! One mapping holds all slots, readable and writable from the start, so a shard costs one map however many instances
//! it holds, and growth only moves a number. The code itself checks every access against that number (style Dynamic
//! without guard); `tunables` refuses code of any other style, which would read into the neighbouring slot.
#![allow(
    unsafe_code,
    reason = "maps memory and hands raw pointers to compiled code, which no safe interface of Wasmer can do"
)]

use std::cell::{Cell, RefCell};
use std::io;
use std::ptr::NonNull;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use wasmer_types::{MemoryError, MemoryStyle, MemoryType, Pages};
use wasmer_vm::{LinearMemory, VMMemoryDefinition};

use super::tunables::STYLE;

/// Bytes of one page of WebAssembly.
pub(super) const PAGE_BYTES: usize = 65_536;

/// The reservation of one shard.
pub(super) struct Slots {
    base: NonNull<u8>,
    slot_bytes: usize,
    count: usize,
    free: RefCell<Vec<usize>>,
}

impl Slots {
    /// Reserves `count` slots of `slot_bytes`, a multiple of the page size, and nothing of it is resident yet.
    pub(super) fn reserve(count: usize, slot_bytes: usize) -> io::Result<Rc<Self>> {
        let whole =
            slot_bytes.checked_mul(count).filter(|bytes| *bytes > 0 && slot_bytes.is_multiple_of(PAGE_BYTES));
        let bytes = whole.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
        // SAFETY: a new private mapping at an address of the kernel's choice touches nothing that exists; safe code
        // cannot reserve memory without making it resident.
        let base = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                bytes,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
                -1,
                0,
            )
        };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let base =
            NonNull::new(base.cast::<u8>()).ok_or_else(|| io::Error::from(io::ErrorKind::OutOfMemory))?;
        Ok(Rc::new(Self { base, slot_bytes, count, free: RefCell::new((0..count).rev().collect()) }))
    }

    /// Takes a slot whose bytes are all zero, if one is free.
    pub(super) fn take(self: &Rc<Self>) -> Option<Slot> {
        let index = self.free.borrow_mut().pop()?;
        Some(Slot { slots: self.clone(), index, high_water: Cell::new(0) })
    }

    fn address(&self, index: usize) -> NonNull<u8> {
        assert!(index < self.count, "slots are numbered below their count");
        // SAFETY: `index < count`, so the result lies inside the one mapping that `reserve` made; kept by the assertion
        // above. Pointer arithmetic has no safe form.
        unsafe { self.base.add(index * self.slot_bytes) }
    }
}

impl Drop for Slots {
    fn drop(&mut self) {
        // SAFETY: base and length are those of the mapping made in `reserve`, and every `Slot` holds an `Rc` of this,
        // so none is left that could use it. A mapping has no safe owner in std.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.slot_bytes * self.count) };
    }
}

/// One slot, from taking to giving back.
pub(super) struct Slot {
    slots: Rc<Slots>,
    index: usize,
    /// Bytes from the front that may differ from zero.
    high_water: Cell<usize>,
}

impl Slot {
    fn base(&self) -> NonNull<u8> {
        self.slots.address(self.index)
    }

    /// Makes `from..to` zero and not resident. Both are page multiples within the slot.
    fn clear(&self, from: usize, to: usize) {
        assert!(from <= to && to <= self.slots.slot_bytes, "only a slot's own bytes are cleared");
        if from == to {
            return;
        }
        // SAFETY: the range lies inside this slot, kept by the assertion above.
        let start = unsafe { self.base().add(from) };
        // SAFETY: the range lies inside this slot of a private anonymous mapping, and `&self` is used only on its shard
        // while no guest runs, so nobody reads the bytes meanwhile. There is no safe madvise.
        let cleared = unsafe { libc::madvise(start.as_ptr().cast(), to - from, libc::MADV_DONTNEED) };
        if cleared != 0 {
            // SAFETY: as above; zeroing by hand where the kernel refuses keeps the promise at the cost of residency.
            unsafe { start.as_ptr().write_bytes(0, to - from) };
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.clear(0, self.high_water.get());
        self.slots.free.borrow_mut().push(self.index);
    }
}

thread_local! {
    /// Where the instance that this thread is making puts its memory.
    static NEXT: RefCell<Option<Place>> = const { RefCell::new(None) };
}

/// An address for the memory that Wasmer is about to create, and what it learns about it.
struct Place {
    base: NonNull<u8>,
    bytes_max: usize,
    refused: Arc<AtomicBool>,
    definition: Option<NonNull<VMMemoryDefinition>>,
}

/// A slot with a live instance in it.
pub(super) struct Placed {
    definition: NonNull<VMMemoryDefinition>,
    refused: Arc<AtomicBool>,
    slot: Slot,
}

impl Placed {
    /// Runs `instantiate`, whose memory goes into the slot. The slot is given back where that fails.
    ///
    /// The caller drops the instance before what is returned here, because the length lies inside the instance.
    pub(super) fn instantiate<T, E>(
        slot: Slot,
        instantiate: impl FnOnce() -> Result<T, E>,
    ) -> Result<Option<(T, Self)>, E> {
        let refused = Arc::new(AtomicBool::new(false));
        let place = Place {
            base: slot.base(),
            bytes_max: slot.slots.slot_bytes,
            refused: refused.clone(),
            definition: None,
        };
        NEXT.with(|next| *next.borrow_mut() = Some(place));
        // Data segments may fill the whole of it, and a failure after that must not leave them behind.
        slot.high_water.set(slot.slots.slot_bytes);
        let made = instantiate();
        let place = NEXT.with(|next| next.borrow_mut().take());
        let Some(definition) = place.and_then(|place| place.definition) else {
            return made.map(|_| None);
        };
        let made = made?;
        let placed = Self { definition, refused, slot };
        placed.slot.high_water.set(placed.len());
        Ok(Some((made, placed)))
    }

    /// Bytes that the guest may use now.
    pub(super) fn len(&self) -> usize {
        // SAFETY: the definition lies in the instance, which outlives this by the contract of `instantiate`, and nobody
        // writes it while no guest runs on this thread. Wasmer's view of a memory cannot set it, so both go this way.
        unsafe { self.definition.as_ref() }.current_length
    }

    /// The guest's memory.
    pub(super) fn bytes(&self) -> &[u8] {
        // SAFETY: the first `len` bytes of the slot are mapped and initialised, nothing else refers to them while no
        // guest runs on this thread, and `&self` keeps the slot. Wasmer's own view copies byte by byte.
        unsafe { std::slice::from_raw_parts(self.slot.base().as_ptr(), self.len()) }
    }

    /// The guest's memory, to be written by the host.
    pub(super) fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as for `bytes`, and `&mut self` makes this the only reference.
        unsafe { std::slice::from_raw_parts_mut(self.slot.base().as_ptr(), self.len()) }
    }

    /// Sets the length to `len`, a page multiple. Growth shows zeroes; what is cut off is zero when it grows again.
    pub(super) fn resize(&mut self, len: usize) {
        assert!(
            len <= self.slot.slots.slot_bytes && len.is_multiple_of(PAGE_BYTES),
            "a length of whole pages in the slot"
        );
        let current = self.len();
        if current > len {
            self.slot.clear(len, current);
        }
        // SAFETY: as in `len`; `&mut self`, and the new length lies inside the slot, kept by the assertion above.
        unsafe { self.definition.as_mut() }.current_length = len;
        self.slot.high_water.set(len);
    }

    /// Notes how far the guest has grown, so that giving the slot back clears it all. Call after each run.
    pub(super) fn note_growth(&self) {
        self.slot.high_water.set(self.slot.high_water.get().max(self.len()));
    }

    /// Whether a growth was refused since the last question.
    pub(super) fn take_refused(&self) -> bool {
        self.refused.swap(false, Ordering::Relaxed)
    }
}

impl Drop for Placed {
    fn drop(&mut self) {
        // The length may be gone with its instance by now, so everything that a guest could have touched is cleared.
        self.slot.high_water.set(self.slot.slots.slot_bytes);
    }
}

/// A guest's memory as Wasmer sees it: a window on the slot.
#[derive(Debug)]
pub(super) struct SlotMemory {
    kind: MemoryType,
    pages_max: Pages,
    refused: Arc<AtomicBool>,
    definition: NonNull<VMMemoryDefinition>,
}

// SAFETY: Wasmer asks for `Send`, but the value lives in a `Store` that is used on one shard only and is not `Send`
// itself; its pointer is followed on that thread alone.
unsafe impl Send for SlotMemory {}
// SAFETY: as above; there is one thread.
unsafe impl Sync for SlotMemory {}

impl SlotMemory {
    /// Puts a memory into the place that this thread has prepared.
    ///
    /// # Safety
    /// `definition` points to writable space for a definition that lives as long as the memory.
    pub(super) unsafe fn create(
        kind: &MemoryType,
        definition: NonNull<VMMemoryDefinition>,
    ) -> Result<Self, MemoryError> {
        NEXT.with(|next| {
            let mut next = next.borrow_mut();
            let place = next
                .as_mut()
                .filter(|place| place.definition.is_none())
                .ok_or_else(|| MemoryError::Generic("no slot was prepared for this memory".into()))?;
            let pages_max = Pages((place.bytes_max / PAGE_BYTES) as u32);
            if kind.minimum > pages_max {
                return Err(MemoryError::MinimumMemoryTooLarge {
                    min_requested: kind.minimum,
                    max_allowed: pages_max,
                });
            }
            let pages_max = kind.maximum.map_or(pages_max, |maximum| maximum.min(pages_max));
            let start = VMMemoryDefinition {
                base: place.base.as_ptr(),
                current_length: kind.minimum.0 as usize * PAGE_BYTES,
            };
            // SAFETY: the caller promises writable space; Wasmer gives it uninitialised, so it is written, not assigned.
            unsafe { definition.write(start) };
            place.definition = Some(definition);
            Ok(Self { kind: *kind, pages_max, refused: place.refused.clone(), definition })
        })
    }
}

impl LinearMemory for SlotMemory {
    fn ty(&self) -> MemoryType {
        MemoryType { minimum: self.size(), ..self.kind }
    }

    fn size(&self) -> Pages {
        // SAFETY: the definition lives as long as this memory, by the promise made to `create`; same thread as its
        // only writers.
        let bytes = unsafe { self.definition.as_ref() }.current_length;
        Pages((bytes / PAGE_BYTES) as u32)
    }

    fn style(&self) -> MemoryStyle {
        STYLE
    }

    fn grow(&mut self, delta: Pages) -> Result<Pages, MemoryError> {
        let current = self.size();
        let grown = current.checked_add(delta).filter(|grown| *grown <= self.pages_max);
        let Some(grown) = grown else {
            self.refused.store(true, Ordering::Relaxed);
            return Err(MemoryError::CouldNotGrow { current, attempted_delta: delta });
        };
        // SAFETY: as in `size`; the new length is at most the slot's, and the bytes up to there are mapped and zero.
        unsafe { self.definition.as_mut() }.current_length = grown.0 as usize * PAGE_BYTES;
        Ok(current)
    }

    fn vmmemory(&self) -> NonNull<VMMemoryDefinition> {
        self.definition
    }

    fn try_clone(&self) -> Result<Box<dyn LinearMemory + Send + Sync + 'static>, MemoryError> {
        Err(MemoryError::Generic("a slot has one owner".into()))
    }

    fn copy(&self) -> Result<Box<dyn LinearMemory + Send + Sync + 'static>, MemoryError> {
        Err(MemoryError::Generic("a slot has one owner".into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_run_out_and_come_back_clean() {
        let slots = Slots::reserve(2, PAGE_BYTES).expect("a reservation");
        let first = slots.take().expect("a slot");
        let second = slots.take().expect("a slot");
        assert!(slots.take().is_none());
        first.high_water.set(PAGE_BYTES);
        // SAFETY: the slot is this test's own.
        unsafe { first.base().as_ptr().write(7) };
        let address = first.base();
        drop(first);
        let again = slots.take().expect("the slot that came back");
        assert_eq!(again.base(), address);
        // SAFETY: the slot is this test's own.
        assert_eq!(unsafe { again.base().as_ptr().read() }, 0);
        drop(second);
    }

    #[test]
    fn slots_of_odd_size_are_refused() {
        assert!(Slots::reserve(1, 1000).is_err());
        assert!(Slots::reserve(0, PAGE_BYTES).is_err());
        assert!(Slots::reserve(usize::MAX, PAGE_BYTES).is_err());
    }
}
