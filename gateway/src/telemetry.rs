//! Metrics of this process. Labels are bounded: never a user, a channel or a guild.

use std::cell::Cell;

use prometheus::{IntCounter, IntCounterVec, IntGauge, Opts, Registry};

/// What cores count. Shared by all of them: they add in batches.
#[derive(Debug)]
pub struct CoreMetrics {
    pub dispatches: IntCounter,
    pub identifies: IntCounter,
    pub resumes: IntCounter,
    pub resumes_refused: IntCounter,
    pub resubscriptions: IntCounter,
    pub slow_readers: IntCounter,
    /// By close code.
    pub closes: IntCounterVec,
    sessions: IntGauge,
    connections: IntGauge,
    realms: IntGauge,
}

thread_local! {
    /// What this core last added to the gauges.
    static SIZES: [Cell<i64>; 3] = const { [Cell::new(0), Cell::new(0), Cell::new(0)] };
}

impl CoreMetrics {
    /// # Errors
    /// If a metric of the same name is registered already.
    pub fn new(registry: &Registry) -> prometheus::Result<Self> {
        let counter = |name: &str, help: &str| -> prometheus::Result<IntCounter> {
            let counter = IntCounter::new(name, help)?;
            registry.register(Box::new(counter.clone()))?;
            Ok(counter)
        };
        let gauge = |name: &str, help: &str| -> prometheus::Result<IntGauge> {
            let gauge = IntGauge::new(name, help)?;
            registry.register(Box::new(gauge.clone()))?;
            Ok(gauge)
        };
        let closes = IntCounterVec::new(
            Opts::new("gateway_closes_total", "Connections closed by us, by code."),
            &["code"],
        )?;
        registry.register(Box::new(closes.clone()))?;
        Ok(Self {
            dispatches: counter("gateway_dispatches_total", "Dispatches written to sockets.")?,
            identifies: counter("gateway_identifies_total", "Sessions opened.")?,
            resumes: counter("gateway_resumes_total", "Sessions resumed.")?,
            resumes_refused: counter("gateway_resumes_refused_total", "RESUMEs answered by op 9.")?,
            resubscriptions: counter(
                "gateway_resubscriptions_total",
                "Realms asked for again after a gap.",
            )?,
            slow_readers: counter(
                "gateway_slow_readers_total",
                "Connections closed because their client did not read.",
            )?,
            closes,
            sessions: gauge("gateway_sessions", "Sessions, detached ones included.")?,
            connections: gauge("gateway_connections", "Open connections.")?,
            realms: gauge(
                "gateway_realms",
                "Realms with a session, summed over cores.",
            )?,
        })
    }

    /// Reports the sizes of the calling thread's core.
    pub fn set_sizes(&self, sessions: usize, connections: usize, realms: usize) {
        SIZES.with(|last| {
            let gauges = [
                (&self.sessions, sessions),
                (&self.connections, connections),
                (&self.realms, realms),
            ];
            for ((gauge, now), last) in gauges.into_iter().zip(last) {
                let now = now as i64;
                gauge.add(now - last.replace(now));
            }
        });
    }

    /// Sessions of all cores.
    pub fn sessions(&self) -> u64 {
        self.sessions.get().unsigned_abs()
    }
}
