//! Rows by name in 1,024 shared segments.

use std::{collections::HashMap, sync::Arc};

/// Segments of one table. More: each revision clones a longer list of references. Fewer: each change copies more rows.
const SEGMENTS: usize = 1024;

type Segment<V> = HashMap<Arc<str>, Arc<V>, foldhash::fast::RandomState>;

/// Rows by name. A clone is one reference; a write copies one segment.
#[derive(Debug)]
pub struct Table<V> {
    segments: Arc<[Arc<Segment<V>>]>,
    hasher: foldhash::quality::FixedState,
    rows: usize,
}

impl<V> Clone for Table<V> {
    fn clone(&self) -> Self {
        Self { segments: Arc::clone(&self.segments), hasher: self.hasher.clone(), rows: self.rows }
    }
}

impl<V> Default for Table<V> {
    fn default() -> Self {
        let empty = Arc::new(Segment::default());
        let segments = std::iter::repeat_n(empty, SEGMENTS).collect();
        Self { segments, hasher: foldhash::quality::FixedState::default(), rows: 0 }
    }
}

impl<V> Table<V> {
    fn place(&self, key: &str) -> usize {
        let hash = std::hash::BuildHasher::hash_one(&self.hasher, key);
        // The remainder is below 1,024, so it fits every `usize`.
        (hash % SEGMENTS as u64) as usize
    }

    /// The row of that name.
    pub fn get(&self, key: &str) -> Option<&Arc<V>> {
        self.segments[self.place(key)].get(key)
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.rows
    }

    /// There are no rows.
    pub fn is_empty(&self) -> bool {
        self.rows == 0
    }

    /// All rows, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (&Arc<str>, &Arc<V>)> {
        self.segments.iter().flat_map(|segment| segment.iter())
    }

    fn change<T>(&mut self, key: &str, edit: impl FnOnce(&mut Segment<V>) -> T) -> T {
        let place = self.place(key);
        let segment = &mut Arc::make_mut(&mut self.segments)[place];
        let before = segment.len();
        // `Segment` is cloned only where an older revision still holds it; its rows are references.
        let segment = Arc::make_mut(segment);
        let value = edit(segment);
        self.rows = self.rows + segment.len() - before;
        value
    }

    pub(super) fn insert(&mut self, key: &str, row: V) {
        self.insert_shared(key, Arc::new(row));
    }

    pub(super) fn insert_shared(&mut self, key: &str, row: Arc<V>) {
        self.change(key, |segment| segment.insert(key.into(), row));
    }

    pub(super) fn remove(&mut self, key: &str) -> Option<Arc<V>> {
        self.change(key, |segment| segment.remove(key))
    }
}
