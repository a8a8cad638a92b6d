//! An allocator that counts the bytes that are alive, for tests that must end where they began.
#![allow(
    unsafe_code,
    reason = "an allocator is unsafe by its trait; this one hands everything to the system's"
)]

use std::{
    alloc::{GlobalAlloc, Layout, System},
    sync::atomic::{AtomicUsize, Ordering},
};

/// Counts on top of the system's allocator.
pub struct Counting(AtomicUsize);

impl Counting {
    /// Nothing is alive yet.
    pub const fn new() -> Self {
        Self(AtomicUsize::new(0))
    }

    /// Bytes that are alive now.
    pub fn live(&self) -> usize {
        self.0.load(Ordering::SeqCst)
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
        self.0.fetch_add(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller keeps the contract of `alloc`, which is the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        self.0.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the pointer came from `alloc` above, with this layout.
        unsafe { System.dealloc(pointer, layout) }
    }
}
