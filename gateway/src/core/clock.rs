//! The time as a core sees it. Tests put it forward.

pub(super) use crate::clock::random;
#[cfg(not(test))]
pub(super) use crate::clock::{now, unix_ms as now_ms};
#[cfg(test)]
pub(super) use tests::{forward, now, now_ms};

#[cfg(test)]
mod tests {
    use std::{
        cell::Cell,
        time::{Duration, Instant},
    };

    /// What clients read as the time at first.
    const START_MS: u64 = 1_700_000_000_000;

    thread_local! {
        static START: Instant = Instant::now();
        static PASSED: Cell<Duration> = const { Cell::new(Duration::ZERO) };
    }

    /// Stands still but for [`forward`].
    pub(crate) fn now() -> Instant {
        START.with(|start| *start) + PASSED.get()
    }

    pub(crate) fn now_ms() -> u64 {
        START_MS + PASSED.get().as_millis() as u64
    }

    pub(crate) fn forward(time: Duration) {
        PASSED.set(PASSED.get() + time);
    }
}
