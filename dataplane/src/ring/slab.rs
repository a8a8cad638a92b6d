//! Slots of operations: generations, orphans and the completions that wait for their owner.

use std::{collections::VecDeque, os::fd::OwnedFd, task::Waker};

use super::{
    buffers::Buf,
    sys::{Kept, Request},
};

/// Names one operation: a slot and which of its lives. The kernel carries it as user data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Key {
    index: u32,
    generation: u32,
}

impl Key {
    /// The key as user data.
    pub fn to_data(self) -> u64 {
        u64::from(self.generation) << 32 | u64::from(self.index)
    }

    /// The key in user data.
    pub fn from_data(data: u64) -> Self {
        Self { index: data as u32, generation: (data >> 32) as u32 }
    }
}

/// What an operation brought. Dropping it gives the buffer back or closes the descriptor.
#[derive(Debug)]
pub(super) enum Outcome {
    /// Received bytes.
    Data(Buf),
    /// An accepted connection.
    Descriptor(OwnedFd),
    /// Success without either: end of stream, connected, ready.
    Done,
    /// A positive error number.
    Failed(i32),
}

/// One completion for the owner of an operation.
#[derive(Debug)]
pub(super) struct Completion {
    /// What it brought.
    pub outcome: Outcome,
    /// Whether the operation has ended with it.
    pub last: bool,
}

/// A running operation.
pub(super) struct Busy {
    /// What was asked for; asked again when a receive found no buffer.
    pub request: Request,
    /// Memory that the kernel may read.
    pub kept: Kept,
    /// The kernel has it: its last completion has not come.
    pub live: bool,
    /// Its owner is gone.
    pub orphan: bool,
    /// A cancel is on its way.
    pub cancelling: bool,
    /// It waits for a buffer, not in the kernel.
    pub starved: bool,
    /// Who waits for a completion.
    pub waker: Option<Waker>,
    /// Completions that the owner has not seen.
    pub queue: VecDeque<Completion>,
}

struct Slot {
    generation: u32,
    busy: Option<Busy>,
    /// The allocation of the last life's queue.
    spare: VecDeque<Completion>,
}

/// All operations of one ring.
#[derive(Default)]
pub(super) struct Slab {
    slots: Vec<Slot>,
    free: Vec<u32>,
}

impl Slab {
    /// Makes a slot for an operation that is about to be queued.
    pub fn insert(&mut self, request: Request, kept: Kept) -> Key {
        let index = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot { generation: 0, busy: None, spare: VecDeque::new() });
            u32::try_from(self.slots.len() - 1).expect("fewer operations than four thousand million")
        });
        let slot = &mut self.slots[index as usize];
        slot.busy = Some(Busy {
            request,
            kept,
            live: true,
            orphan: false,
            cancelling: false,
            starved: false,
            waker: None,
            queue: std::mem::take(&mut slot.spare),
        });
        Key { index, generation: slot.generation }
    }

    /// The operation of that name, unless its slot has been freed since.
    pub fn get_mut(&mut self, key: Key) -> Option<&mut Busy> {
        let slot = self.slots.get_mut(key.index as usize)?;
        if slot.generation == key.generation { slot.busy.as_mut() } else { None }
    }

    /// Frees a slot; from now on its name means nothing.
    pub fn remove(&mut self, key: Key) -> Option<Busy> {
        let slot = self.slots.get_mut(key.index as usize)?;
        if slot.generation != key.generation {
            return None;
        }
        let mut busy = slot.busy.take()?;
        debug_assert!(!busy.live, "a slot is freed by its last completion");
        if busy.queue.is_empty() {
            slot.spare = std::mem::take(&mut busy.queue);
        }
        // The reserved user data of cancels is never a slot's: its index would be the last of four thousand million.
        slot.generation = slot.generation.wrapping_add(1);
        self.free.push(key.index);
        Some(busy)
    }

    /// Slots in use.
    pub fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// One line for each operation.
    #[cfg(test)]
    pub fn report(&self) -> String {
        let busy = self.slots.iter().filter_map(|slot| slot.busy.as_ref());
        let lines = busy.map(|busy| {
            let flags = [
                (busy.live, "live"),
                (busy.orphan, "orphan"),
                (busy.cancelling, "cancelling"),
                (busy.starved, "starved"),
                (busy.waker.is_some(), "awaited"),
            ];
            let set: Vec<_> = flags.iter().filter(|(set, _)| *set).map(|(_, name)| *name).collect();
            format!("{:?} {} with {} unseen\n", busy.request, set.join(" "), busy.queue.len())
        });
        lines.collect()
    }

    /// Every waker of every operation, taken out.
    pub fn take_wakers(&mut self) -> Vec<Waker> {
        self.slots
            .iter_mut()
            .filter_map(|slot| slot.busy.as_mut())
            .filter_map(|busy| busy.waker.take())
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REQUEST: Request = Request::Accept { fd: -1 };

    #[test]
    fn a_freed_name_does_not_reach_the_next_life_of_its_slot() {
        let mut slab = Slab::default();
        let first = slab.insert(REQUEST, Kept::Nothing);
        slab.get_mut(first).unwrap().live = false;
        assert!(slab.remove(first).is_some());
        let second = slab.insert(REQUEST, Kept::Nothing);
        assert_eq!(first.index, second.index);
        assert_ne!(first, second);
        assert!(slab.get_mut(first).is_none());
        assert!(slab.remove(first).is_none());
        assert!(slab.get_mut(second).is_some());
        assert_eq!(slab.len(), 1);
    }

    #[test]
    fn a_key_survives_the_way_through_user_data() {
        let key = Key { index: 0xdead_beef, generation: 0x0102_0304 };
        assert_eq!(Key::from_data(key.to_data()), key);
    }
}
