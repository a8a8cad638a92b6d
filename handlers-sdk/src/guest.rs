//! The WebAssembly side: memory, exports, and the way a panic's message leaves the guest.
#![allow(
    unsafe_code,
    reason = "the exports take raw offsets from the host, and an allocator is unsafe by its trait"
)]

use core::alloc::{GlobalAlloc, Layout};
use core::cell::UnsafeCell;
use std::sync::Once;

use handlers_sdk_abi::limits::PANIC_BYTES_MAX;
use handlers_sdk_abi::{Answer, limits};

use crate::outcome::clip;
use crate::runtime::{self, Handler, Reply};

#[link(wasm_import_module = "outgate")]
unsafe extern "C" {
    #[link_name = "panic"]
    fn outgate_panic(ptr: *const u8, len: usize);
}

// Apart from the imports: from Rust 1.96 on, names in a block with an import module belong to that module, and the
// linker would not find its own symbol.
unsafe extern "C" {
    static __heap_base: u8;
}

const PAGE_BYTES: usize = 65_536;

/// An allocator for exchanges, after each of which the host puts memory back. It moves forward; giving back or growing
/// the newest region moves the mark, so a growing `Vec` does not leave copies behind. Other regions that are given back
/// are kept by size, so a handler that sees a long body needs no more memory for each piece of it.
struct Bump {
    next: UnsafeCell<usize>,
    /// For each size of [`Size`]: the first of the regions that were given back, 0 for none. Each begins with the offset
    /// of the next one.
    free: UnsafeCell<[usize; Size::COUNT]>,
}

// SAFETY: a guest has one thread (the host refuses modules with threads), so nothing is ever shared.
unsafe impl Sync for Bump {}

#[global_allocator]
static BUMP: Bump = Bump { next: UnsafeCell::new(0), free: UnsafeCell::new([0; Size::COUNT]) };

/// The size of a region: four between two powers of two, so that a region fits whatever has its size, and a quarter at
/// most is lost.
#[derive(Clone, Copy)]
struct Size {
    bytes: usize,
    list: usize,
}

impl Size {
    const COUNT: usize = 4 * (usize::BITS as usize - 4);

    /// Nothing where it is larger than any memory.
    fn of(bytes: usize) -> Option<Self> {
        let step = 1 << bytes.max(16).ilog2().saturating_sub(2);
        let bytes = bytes.max(16).checked_next_multiple_of(step)?;
        let power = bytes.ilog2() as usize;
        Some(Self { bytes, list: 4 * (power - 4) + (bytes >> (power - 2)) - 4 })
    }
}

/// Every region is aligned to this at least, so that nearly every one fits whatever has its size.
const ALIGNMENT: usize = 8;

impl Bump {
    fn next(&self) -> usize {
        // SAFETY: one thread, and no reference into the cell is ever handed out.
        let next = unsafe { *self.next.get() };
        if next == 0 { (&raw const __heap_base).addr() } else { next }
    }

    fn set_next(&self, next: usize) {
        // SAFETY: as in `next`.
        unsafe { *self.next.get() = next };
    }

    fn first(&self, size: Size) -> usize {
        // SAFETY: as in `next`.
        unsafe { (*self.free.get())[size.list] }
    }

    fn set_first(&self, size: Size, at: usize) {
        // SAFETY: as in `next`.
        unsafe { (*self.free.get())[size.list] = at };
    }

    /// A region of this size that was given back.
    fn kept(&self, size: Size, align: usize) -> Option<usize> {
        let at = self.first(size);
        if at == 0 || !at.is_multiple_of(align) {
            return None;
        }
        // SAFETY: `dealloc` wrote the offset there, aligned as every region is, and nobody has had the region since.
        self.set_first(size, unsafe { *(at as *const usize) });
        Some(at)
    }

    /// Makes memory reach up to an offset.
    fn reach(&self, end: usize) -> bool {
        let have = core::arch::wasm32::memory_size::<0>() * PAGE_BYTES;
        end <= have || {
            let pages = (end - have).div_ceil(PAGE_BYTES);
            core::arch::wasm32::memory_grow::<0>(pages) != usize::MAX
        }
    }
}

// SAFETY: regions are cut from the unused end of memory or were given back, and never overlap; layouts are honoured by
// rounding up, and the size of a region follows from its layout.
unsafe impl GlobalAlloc for Bump {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let Some(size) = Size::of(layout.size()) else { return core::ptr::null_mut() };
        if let Some(at) = self.kept(size, layout.align()) {
            return at as *mut u8;
        }
        let start = self.next().next_multiple_of(layout.align().max(ALIGNMENT));
        match start.checked_add(size.bytes) {
            Some(end) if self.reach(end) => {
                self.set_next(end);
                start as *mut u8
            }
            _ => core::ptr::null_mut(),
        }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        let Some(size) = Size::of(layout.size()) else { return };
        if ptr.addr() + size.bytes == self.next() {
            self.set_next(ptr.addr());
            return;
        }
        // SAFETY: the region was given back, so it is nobody's; it is aligned and has room for an offset.
        unsafe { *ptr.cast::<usize>() = self.first(size) };
        self.set_first(size, ptr.addr());
    }

    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, bytes: usize) -> *mut u8 {
        let (Some(had), Some(wanted)) = (Size::of(layout.size()), Size::of(bytes)) else {
            return core::ptr::null_mut();
        };
        if had.bytes == wanted.bytes {
            return ptr;
        }
        if ptr.addr() + had.bytes == self.next() {
            return match ptr.addr().checked_add(wanted.bytes) {
                Some(end) if self.reach(end) => {
                    self.set_next(end);
                    ptr
                }
                _ => core::ptr::null_mut(),
            };
        }
        let Ok(other) = Layout::from_size_align(bytes, layout.align()) else { return core::ptr::null_mut() };
        // SAFETY: the size is not zero, which the caller of `realloc` promises.
        let new = unsafe { self.alloc(other) };
        if !new.is_null() {
            // SAFETY: both regions hold the smaller size, and a fresh region overlaps none that is in use.
            unsafe { core::ptr::copy_nonoverlapping(ptr, new, layout.size().min(bytes)) };
            // SAFETY: the caller gives the old region up.
            unsafe { self.dealloc(ptr, layout) };
        }
        new
    }
}

/// A panic ends in a trap that carries no message, so the message leaves first.
fn install_panic_hook() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        std::panic::set_hook(Box::new(|panic| {
            let text = panic.to_string();
            let text = clip(&text, PANIC_BYTES_MAX);
            // SAFETY: the host reads `len` bytes at `ptr`, which the text holds for the time of the call.
            unsafe { outgate_panic(text.as_ptr(), text.len()) };
        }));
    });
}

/// `og_alloc`: space that is the host's for ever; 0 where there is none.
pub fn alloc(len: u32) -> u32 {
    install_panic_hook();
    if len as usize > limits::VIEW_BYTES_MAX {
        return 0;
    }
    let mut space = Vec::<u8>::new();
    if space.try_reserve_exact(len as usize).is_err() {
        return 0;
    }
    space.leak().as_ptr().addr() as u32
}

/// `og_init`: parameters as JSON; 0, or a list with an error.
pub fn init<H: Handler>(ptr: u32, len: u32) -> i64 {
    install_panic_hook();
    match runtime::init::<H>(payload(ptr, len)) {
        Ok(()) => 0,
        Err(message) => answer(runtime::failure(&message), false),
    }
}

/// `og_event`: one event, one answer.
pub fn event<H: Handler>(kind: u32, ptr: u32, len: u32) -> i64 {
    match runtime::event::<H>(kind, payload(ptr, len)) {
        Reply::List(list, pending) => answer(list, pending),
        Reply::NotHandled => Answer::NOT_HANDLED,
    }
}

fn payload<'a>(ptr: u32, len: u32) -> &'a [u8] {
    if len == 0 {
        return &[];
    }
    // SAFETY: the host wrote `len` bytes at `ptr`, in space that it had from `alloc`, and writes nothing during a call.
    unsafe { core::slice::from_raw_parts(ptr as *const u8, len as usize) }
}

/// The list stays where it is until the host has read it, which it has when the next event comes.
fn answer(list: Vec<u8>, pending: bool) -> i64 {
    let answer = Answer { pointer: list.as_ptr().addr() as u32, len: list.len() as u32, pending }.encode();
    runtime::recycle(list);
    answer
}
