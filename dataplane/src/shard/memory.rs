//! Memory of what has ended goes back to the system, also where nothing happens any more.
#![allow(unsafe_code)] // The allocator's bindings have no safe form of the one call.

/// Sets free the pages of this thread that hold nothing any more, and gives back what has been free for a second. Does
/// nothing where another allocator is in force.
///
/// The allocator does the one by itself each ten thousandth time that it has to look for a page, and the other when a page
/// becomes free: where all connections of a shard end at once, nobody does either for long.
pub(super) fn give_back() {
    // SAFETY: it touches only memory that has been freed, takes what other threads freed by atomic operations, and returns
    // at once on a thread that never allocated.
    unsafe { libmimalloc_sys::mi_collect(false) };
}
