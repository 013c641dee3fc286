//! What a core tells of its load, once a second.

use std::{
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use tokio::runtime::Handle;

use super::{Core, clock};
use crate::telemetry::Sizes;

/// How busy the thread was when it was looked at last.
#[derive(Debug)]
pub(super) struct Busy {
    at: Instant,
    total: Duration,
}

impl Busy {
    pub(super) fn new() -> Self {
        Self {
            at: clock::now(),
            total: Duration::ZERO,
        }
    }

    /// Parts per thousand of the time since the last look.
    fn look(&mut self, now: Instant, total: Duration) -> u16 {
        let passed = now.duration_since(self.at).as_micros().max(1);
        let busy = total.saturating_sub(self.total).as_micros();
        *self = Self { at: now, total };
        (busy * 1000 / passed).min(1000) as u16
    }
}

impl Core {
    /// Sets the gauges of this core.
    pub(super) fn report_load(&mut self) {
        self.config.metrics.set_sizes(self.sizes());
        self.bell
            .connections
            .store(self.connections.len() as u64, Ordering::Relaxed);
        // A test drives its cores without a runtime.
        if let Ok(runtime) = Handle::try_current() {
            // Of a runtime with one thread: its own.
            let total = runtime.metrics().worker_total_busy_duration(0);
            let permille = self.busy.look(clock::now(), total);
            self.config.metrics.set_busy(self.config.id, permille);
            self.bell.busy_permille.store(permille, Ordering::Relaxed);
        }
    }

    fn sizes(&self) -> Sizes {
        let (mut replay_bytes, mut unsent_bytes) = (0, 0);
        for (_, session) in &self.sessions {
            let held = session.replay.bytes() as u64;
            if held == 0 {
                continue;
            }
            replay_bytes += held;
            if let Some(connection) = session.connection {
                let sent = self.sent_bytes(connection);
                unsent_bytes += session.replay.pushed_bytes().saturating_sub(sent);
            }
        }
        Sizes {
            sessions: self.sessions.len(),
            connections: self.connections.len(),
            realms: self.hub.realms(),
            replay_bytes,
            unsent_bytes,
            own_bytes: self.budget.tally.bytes() as u64,
        }
    }

    /// Sessions wait for an event that was stored then: the flush that has written to all of
    /// them is a sample of how long it took.
    pub(super) fn sample_from(&mut self, at_ms: u64) {
        if !self.dirty.is_empty() {
            let oldest = self.sampled_from_ms.get_or_insert(at_ms);
            *oldest = at_ms.min(*oldest);
        }
    }

    /// Everything that waited was given to sockets.
    pub(super) fn sample(&mut self) {
        if let Some(at_ms) = self.sampled_from_ms.take() {
            let took_ms = clock::now_ms().saturating_sub(at_ms);
            let metrics = &self.config.metrics;
            metrics.append_to_socket_ms.observe(took_ms as f64);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_is_busy_for_its_share_of_the_time_that_passed() {
        let start = Instant::now();
        let mut busy = Busy {
            at: start,
            total: Duration::from_secs(7),
        };
        let second = |n| start + Duration::from_secs(n);
        assert_eq!(busy.look(second(1), Duration::from_millis(7_250)), 250);
        assert_eq!(busy.look(second(3), Duration::from_millis(9_250)), 1000);
        assert_eq!(busy.look(second(4), Duration::from_millis(9_250)), 0);
    }
}
