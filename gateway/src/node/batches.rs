//! Work that is done in batches: what comes while one is under way waits for the next.
//!
//! Nobody waits when there is nothing to wait for, and batches grow with what there is to do.

use std::collections::VecDeque;

/// What waits for the next batch.
#[derive(Debug)]
pub(crate) struct Batches<T> {
    waiting: VecDeque<T>,
    /// Somebody takes one batch after the other.
    served: bool,
}

impl<T> Default for Batches<T> {
    fn default() -> Self {
        Self {
            waiting: VecDeque::new(),
            served: false,
        }
    }
}

impl<T> Batches<T> {
    /// One more waits. True: nobody takes batches, and the caller has to see that somebody does.
    #[must_use]
    pub(crate) fn put(&mut self, one: T) -> bool {
        self.waiting.push_back(one);
        !std::mem::replace(&mut self.served, true)
    }

    /// The next batch, longest waiting first. `None`: nothing waits, and whoever took the batches
    /// is no longer expected to.
    pub(crate) fn take(&mut self, max: usize) -> Option<Vec<T>> {
        if self.waiting.is_empty() {
            // The memory of a storm is given back.
            *self = Self::default();
            return None;
        }
        let count = self.waiting.len().min(max);
        Some(self.waiting.drain(..count).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_during_a_batch_is_the_next_one() {
        let mut batches = Batches::default();
        assert!(batches.put(1));
        assert_eq!(batches.take(10), Some(vec![1]));
        assert!(!batches.put(2));
        assert!(!batches.put(3));
        assert_eq!(batches.take(10), Some(vec![2, 3]));
        assert_eq!(batches.take(10), None);
        assert!(batches.put(4));
        assert_eq!(batches.take(10), Some(vec![4]));
    }

    #[test]
    fn a_batch_has_its_bound_and_nobody_is_overtaken() {
        let mut batches = Batches::default();
        let asked: Vec<bool> = (0..5).map(|one| batches.put(one)).collect();
        assert_eq!(asked, [true, false, false, false, false]);
        assert_eq!(batches.take(2), Some(vec![0, 1]));
        assert!(!batches.put(5));
        assert_eq!(batches.take(2), Some(vec![2, 3]));
        assert_eq!(batches.take(2), Some(vec![4, 5]));
        assert_eq!(batches.take(2), None);
    }
}
