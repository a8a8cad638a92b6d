//! Memory of what has ended goes back to the system, also where nothing happens any more.
#![allow(unsafe_code)] // The allocator's bindings have no safe form of the one call.

/// Gives back the pages of this thread that hold nothing any more. Nothing where another allocator is in force.
///
/// The allocator does so by itself each ten thousandth time that it has to look for a page, and where all connections of
/// a shard end at once, nobody looks. What it has set free it gives back no earlier than a second later, with the next
/// call.
pub(super) fn give_back() {
    // SAFETY: it takes no memory of ours, and looks only at what the calling thread and nobody else has freed.
    unsafe { libmimalloc_sys::mi_collect(false) };
}
