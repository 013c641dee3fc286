//! Making snowflakes.

use crate::id::{DISCORD_EPOCH_MS, Id};

/// Numbers that [`Snowflakes`] may hold as their worker: 5 bits of worker and 5 of process.
pub const WORKERS: u16 = 1024;

const SEQUENCE_BITS: u32 = 12;
const WORKER_SHIFT: u32 = SEQUENCE_BITS;
const TIME_SHIFT: u32 = 22;

/// Makes rising, unique ids for one worker number.
///
/// A clock that steps back does not repeat an id: time inside ids never falls.
/// More than 4096 ids in a millisecond borrow from the following ones.
#[derive(Debug)]
pub struct Snowflakes {
    worker: u16,
    /// Time and counter of the newest id: `ms since the epoch << 12 | counter`.
    last: u64,
}

impl Snowflakes {
    /// # Panics
    /// If `worker` is not below [`WORKERS`].
    pub fn new(worker: u16) -> Self {
        assert!(worker < WORKERS, "a worker number has 10 bits");
        Self { worker, last: 0 }
    }

    /// The next id; `now_ms` counts from the Unix epoch.
    pub fn next<T>(&mut self, now_ms: u64) -> Id<T> {
        let now = now_ms.saturating_sub(DISCORD_EPOCH_MS) << SEQUENCE_BITS;
        self.last = now.max(self.last + 1);
        let time = self.last >> SEQUENCE_BITS;
        let counter = self.last & ((1 << SEQUENCE_BITS) - 1);
        let value = time << TIME_SHIFT | u64::from(self.worker) << WORKER_SHIFT | counter;
        Id::new(value).expect("42 bits of milliseconds last until 2084, and `last` starts above 0")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::id::marker::Message;

    proptest! {
        #[test]
        fn ids_rise_whatever_the_clock_does(
            worker in 0..WORKERS,
            clock in prop::collection::vec(DISCORD_EPOCH_MS..DISCORD_EPOCH_MS + 100_000, 1..5000),
        ) {
            let mut snowflakes = Snowflakes::new(worker);
            let mut before = 0;
            for now in clock {
                let id: Id<Message> = snowflakes.next(now);
                prop_assert!(id.get() > before);
                prop_assert!(id.created_ms() >= now);
                prop_assert_eq!((id.get() >> WORKER_SHIFT) & 0x3FF, u64::from(worker));
                before = id.get();
            }
        }

        #[test]
        fn workers_never_meet(a in 0..WORKERS, b in 0..WORKERS, now in DISCORD_EPOCH_MS + 1..DISCORD_EPOCH_MS * 2) {
            prop_assume!(a != b);
            let (mut a, mut b) = (Snowflakes::new(a), Snowflakes::new(b));
            let left: Vec<u64> = (0..50).map(|_| a.next::<Message>(now).get()).collect();
            let right: Vec<u64> = (0..50).map(|_| b.next::<Message>(now).get()).collect();
            prop_assert!(left.iter().all(|id| !right.contains(id)));
        }
    }

    #[test]
    fn a_full_millisecond_runs_over_into_the_next() {
        let now = DISCORD_EPOCH_MS + 5;
        let mut snowflakes = Snowflakes::new(1);
        let ids: Vec<Id<Message>> = (0..4097).map(|_| snowflakes.next(now)).collect();
        assert_eq!(ids[4095].created_ms(), now);
        assert_eq!(ids[4096].created_ms(), now + 1);
    }
}
