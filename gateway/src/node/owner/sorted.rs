//! A sorted list that knows the place of each of its items.
//!
//! Chunks of bounded length: an insertion moves one chunk's items, a place is the sum of the
//! lengths of the chunks before. Enough for a hundred thousand items, and no pointers to chase.

/// Items of a chunk before it is split in two.
const CHUNK_MAX: usize = 512;

#[derive(Debug)]
pub(crate) struct Sorted<K> {
    /// None is empty.
    chunks: Vec<Vec<K>>,
    len: usize,
}

impl<K> Default for Sorted<K> {
    fn default() -> Self {
        Self {
            chunks: Vec::new(),
            len: 0,
        }
    }
}

impl<K: Ord> Sorted<K> {
    /// From items in any order, each there once.
    pub(crate) fn of(mut items: Vec<K>) -> Self {
        items.sort_unstable();
        let len = items.len();
        let mut chunks = Vec::with_capacity(len.div_ceil(CHUNK_MAX / 2));
        let mut items = items.into_iter().peekable();
        while items.peek().is_some() {
            chunks.push(items.by_ref().take(CHUNK_MAX / 2).collect());
        }
        Self { chunks, len }
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Puts an item in its place. One that is there already is not put in again.
    pub(crate) fn insert(&mut self, item: K) {
        if self.chunks.is_empty() {
            self.chunks.push(Vec::new());
        }
        let at = self.chunk_of(&item).min(self.chunks.len() - 1);
        let chunk = &mut self.chunks[at];
        let Err(place) = chunk.binary_search(&item) else {
            return;
        };
        chunk.insert(place, item);
        self.len += 1;
        if chunk.len() > CHUNK_MAX {
            let rest = chunk.split_off(CHUNK_MAX / 2);
            self.chunks.insert(at + 1, rest);
        }
    }

    /// Takes an item out; false if it was not there.
    pub(crate) fn remove(&mut self, item: &K) -> bool {
        let at = self.chunk_of(item);
        let Some(chunk) = self.chunks.get_mut(at) else {
            return false;
        };
        let Ok(place) = chunk.binary_search(item) else {
            return false;
        };
        chunk.remove(place);
        self.len -= 1;
        if chunk.is_empty() {
            self.chunks.remove(at);
        }
        true
    }

    /// The items from a place on.
    pub(crate) fn from(&self, place: usize) -> impl Iterator<Item = &K> {
        let mut skipped = place;
        let mut first = self.chunks.len();
        for (at, chunk) in self.chunks.iter().enumerate() {
            if skipped < chunk.len() {
                first = at;
                break;
            }
            skipped -= chunk.len();
        }
        self.chunks[first..].iter().flatten().skip(skipped)
    }

    /// The first chunk whose last item is not before this one.
    fn chunk_of(&self, item: &K) -> usize {
        self.chunks
            .partition_point(|chunk| chunk.last().is_some_and(|last| last < item))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_is_a_sorted_set_with_places(
            start in prop::collection::btree_set(0u32..3000, 0..1500),
            steps in prop::collection::vec((0u32..3000, any::<bool>()), 0..1500),
            place in 0usize..3000,
        ) {
            let mut model: BTreeSet<u32> = start.clone();
            let mut sorted = Sorted::of(start.into_iter().rev().collect());
            for (item, insert) in steps {
                if insert {
                    sorted.insert(item);
                    model.insert(item);
                } else {
                    prop_assert_eq!(sorted.remove(&item), model.remove(&item));
                }
            }
            prop_assert_eq!(sorted.len(), model.len());
            prop_assert!(sorted.chunks.iter().all(|chunk| (1..=CHUNK_MAX).contains(&chunk.len())));
            let all: Vec<u32> = model.into_iter().collect();
            let from: Vec<u32> = sorted.from(place).copied().collect();
            prop_assert_eq!(&from[..], all.get(place..).unwrap_or(&[]));
        }
    }
}
