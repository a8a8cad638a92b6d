//! Counts the allocations of one thread and says where they were made.
#![allow(unsafe_code, reason = "an allocator is unsafe by its trait")]

use std::{
    alloc::{GlobalAlloc, Layout, System},
    backtrace::Backtrace,
    cell::{Cell, RefCell},
};

thread_local! {
    static SEEN: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
    static WATCHING: Cell<bool> = const { Cell::new(false) };
}

/// The system's allocator, watched. A test makes it the global one.
pub struct Watched;

/// Where `work` allocates on this thread: one backtrace for each allocation, in order. Growing a block is one too.
pub fn of<T>(work: impl FnOnce() -> T) -> Vec<String> {
    SEEN.take();
    WATCHING.set(true);
    let result = work();
    WATCHING.set(false);
    drop(result);
    SEEN.take()
}

fn note() {
    if WATCHING.replace(false) {
        let trace = Backtrace::force_capture().to_string();
        SEEN.with_borrow_mut(|seen| seen.push(trace));
        WATCHING.set(true);
    }
}

// SAFETY: every call goes to the system's allocator unchanged; noting allocates with the watch put down, so it does
// not recurse.
unsafe impl GlobalAlloc for Watched {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        note();
        // SAFETY: the caller's promises are those of the trait, which are the system allocator's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: the block came from the system's allocator with this layout.
        unsafe { System.dealloc(block, layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, bytes: usize) -> *mut u8 {
        note();
        // SAFETY: the block came from the system's allocator with this layout; the rest the caller promises.
        unsafe { System.realloc(block, layout, bytes) }
    }
}
