//! A table of which a copy is cheap, and so is a change of the copy: it lies in segments that copies share.

use std::{
    borrow::Borrow,
    collections::HashMap,
    hash::{BuildHasher, Hash},
    sync::Arc,
};

use foldhash::{fast::RandomState, quality};

/// More of them make a copy dearer (one reference count each), fewer a change (it copies one segment).
const SEGMENTS: usize = 256;

/// A map that shares its segments with its copies.
pub(super) struct Segments<K, V> {
    /// With a seed of the process, so that nobody can aim at one segment; good in each bit, since a few choose one.
    hasher: quality::RandomState,
    segments: Box<[Arc<HashMap<K, V, RandomState>>]>,
    len: usize,
}

impl<K, V> Default for Segments<K, V> {
    fn default() -> Self {
        let empty = Arc::new(HashMap::default());
        Self { hasher: quality::RandomState::default(), segments: vec![empty; SEGMENTS].into(), len: 0 }
    }
}

impl<K, V> Clone for Segments<K, V> {
    fn clone(&self) -> Self {
        Self { hasher: self.hasher.clone(), segments: self.segments.clone(), len: self.len }
    }
}

impl<K: Hash + Eq + Clone, V: Clone> Segments<K, V> {
    fn place<Q: Hash + ?Sized>(&self, key: &Q) -> usize {
        // The maps inside take other seeds, so their buckets are used evenly nonetheless.
        usize::try_from(self.hasher.hash_one(key) % SEGMENTS as u64).unwrap_or(0)
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn get<Q: Hash + Eq + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        self.segments[self.place(key)].get(key)
    }

    pub(super) fn get_key_value<Q: Hash + Eq + ?Sized>(&self, key: &Q) -> Option<(&K, &V)>
    where
        K: Borrow<Q>,
    {
        self.segments[self.place(key)].get_key_value(key)
    }

    pub(super) fn insert(&mut self, key: K, value: V) -> Option<V> {
        let place = self.place(&key);
        let before = Arc::make_mut(&mut self.segments[place]).insert(key, value);
        self.len += usize::from(before.is_none());
        before
    }

    pub(super) fn remove<Q: Hash + Eq + ?Sized>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
    {
        let place = self.place(key);
        // A segment is copied only when there is something to take out of it.
        let before = self.segments[place].contains_key(key).then(|| Arc::make_mut(&mut self.segments[place]));
        let before = before?.remove(key);
        self.len -= usize::from(before.is_some());
        before
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shared(one: &Segments<u64, u64>, other: &Segments<u64, u64>) -> usize {
        one.segments.iter().zip(&other.segments).filter(|(one, other)| Arc::ptr_eq(one, other)).count()
    }

    #[test]
    fn a_change_copies_one_segment_and_leaves_the_original() {
        let mut table = Segments::default();
        for number in 0..10_000 {
            assert_eq!(table.insert(number, number), None);
        }
        let before = table.clone();
        assert_eq!(table.remove(&77), Some(77));
        assert_eq!(table.remove(&77), None);
        assert_eq!(shared(&before, &table), SEGMENTS - 1);
        assert_eq!(table.insert(77, 1), None);
        assert_eq!(table.insert(77, 2), Some(1));
        assert_eq!((table.len(), before.len()), (10_000, 10_000));
        assert_eq!((table.get(&77), before.get(&77)), (Some(&2), Some(&77)));
    }

    #[test]
    fn taking_out_what_is_not_there_copies_nothing() {
        let mut table = Segments::default();
        table.insert(1, 1);
        let before = table.clone();
        assert_eq!(table.remove(&2), None);
        assert_eq!(shared(&before, &table), SEGMENTS);
    }

    #[test]
    fn keys_spread_over_the_segments() {
        let mut table = Segments::default();
        for number in 0..25_600_u64 {
            table.insert(number, number);
        }
        let fullest = table.segments.iter().map(|segment| segment.len()).max().unwrap();
        assert!(fullest < 200, "{fullest} of 25600 in one of 256");
    }
}
