//! Counts the allocations of a thread and says where they were made.
#![allow(unsafe_code, reason = "an allocator is unsafe by its trait")]

use std::{
    alloc::{GlobalAlloc, Layout, System},
    backtrace::Backtrace,
    cell::{Cell, RefCell},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

thread_local! {
    static SEEN: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
    static WATCHING: Cell<bool> = const { Cell::new(false) };
    static NOTING: Cell<bool> = const { Cell::new(false) };
}

static SHARDS_WATCHED: AtomicBool = AtomicBool::new(false);
static SEEN_ON_SHARDS: Mutex<Vec<String>> = Mutex::new(Vec::new());

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

/// Where shards allocate while `work` runs on this thread. One caller at a time.
pub fn on_shards<T>(work: impl FnOnce() -> T) -> Vec<String> {
    SHARDS_WATCHED.store(true, Ordering::SeqCst);
    let result = work();
    SHARDS_WATCHED.store(false, Ordering::SeqCst);
    drop(result);
    std::mem::take(&mut *SEEN_ON_SHARDS.lock().unwrap_or_else(PoisonError::into_inner))
}

fn note() {
    // A thread that is ending has no cells any more.
    let Ok(false) = NOTING.try_with(|noting| noting.replace(true)) else { return };
    if WATCHING.get() {
        SEEN.with_borrow_mut(|seen| seen.push(Backtrace::force_capture().to_string()));
    }
    if SHARDS_WATCHED.load(Ordering::Relaxed)
        && std::thread::current().name().is_some_and(|name| name.starts_with("shard-"))
    {
        let trace = Backtrace::force_capture().to_string();
        SEEN_ON_SHARDS.lock().unwrap_or_else(PoisonError::into_inner).push(trace);
    }
    NOTING.set(false);
}

// SAFETY: every call goes to the system's allocator unchanged; what noting allocates is not noted, so it does
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
