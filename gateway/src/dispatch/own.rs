//! Dispatches that are one session's alone: what all those of a core take, for as long as anything
//! holds them.

use std::{cell::Cell, rc::Rc};

/// Bytes of a core's dispatches. Clones count the same ones.
#[derive(Debug, Clone, Default)]
pub struct Tally(Rc<Cell<usize>>);

/// One dispatch among them.
#[derive(Debug)]
pub(super) struct Counted {
    bytes: usize,
    tally: Tally,
}

impl Tally {
    pub fn bytes(&self) -> usize {
        self.0.get()
    }

    pub(super) fn count(&self, bytes: usize) -> Counted {
        self.0.set(self.0.get() + bytes);
        Counted {
            bytes,
            tally: self.clone(),
        }
    }
}

impl Counted {
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let all = &self.tally.0;
        all.set(all.get() - self.bytes);
    }
}
