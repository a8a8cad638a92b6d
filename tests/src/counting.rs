//! An allocator that counts the bytes that are alive, for tests that must end where they began.
#![allow(
    unsafe_code,
    reason = "an allocator is unsafe by its trait; this one hands everything to the system's"
)]

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
    sync::atomic::{AtomicUsize, Ordering},
};

/// Sizes that are told apart, in steps of [`STEP`] bytes; larger ones are one class.
const CLASSES: usize = 4096;
const STEP: usize = 16;

thread_local! {
    static EXCLUDED: Cell<bool> = const { Cell::new(false) };
}

/// Leaves out what this thread allocates and frees from now on: it plays the other side.
pub fn exclude_this_thread() {
    EXCLUDED.set(true);
}

/// Counts on top of the system's allocator.
pub struct Counting {
    live: AtomicUsize,
    /// Living allocations by size.
    sizes: [AtomicUsize; CLASSES],
}

impl Counting {
    /// Nothing is alive yet.
    pub const fn new() -> Self {
        Self { live: AtomicUsize::new(0), sizes: [const { AtomicUsize::new(0) }; CLASSES] }
    }

    /// Bytes that are alive now.
    pub fn live(&self) -> usize {
        self.live.load(Ordering::SeqCst)
    }

    /// Sizes, rounded up to 16 bytes, and how many allocations of each are alive now.
    pub fn sizes(&self) -> Vec<(usize, usize)> {
        let counts = self.sizes.iter().map(|count| count.load(Ordering::SeqCst));
        counts.enumerate().map(|(class, count)| (class * STEP, count)).collect()
    }

    fn class(&self, layout: Layout) -> Option<&AtomicUsize> {
        // A thread that is ending has no flag any more; what it does then counts.
        let excluded = EXCLUDED.try_with(Cell::get).unwrap_or(false);
        if excluded { None } else { self.sizes.get(layout.size().div_ceil(STEP).min(CLASSES - 1)) }
    }
}

impl Default for Counting {
    fn default() -> Self {
        Self::new()
    }
}

// SAFETY: every call goes to the system's allocator with the arguments as they came; counting touches no memory of it.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if let Some(class) = self.class(layout) {
            class.fetch_add(1, Ordering::Relaxed);
            self.live.fetch_add(layout.size(), Ordering::Relaxed);
        }
        // SAFETY: the caller keeps the contract of `alloc`, which is the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        if let Some(class) = self.class(layout) {
            class.fetch_sub(1, Ordering::Relaxed);
            self.live.fetch_sub(layout.size(), Ordering::Relaxed);
        }
        // SAFETY: the pointer came from `alloc` above, with this layout.
        unsafe { System.dealloc(pointer, layout) }
    }
}
