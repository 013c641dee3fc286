//! Metrics of this process. Labels are bounded: never a user, a channel or a guild.

use std::cell::Cell;

use prometheus::{Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, Opts, Registry};

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
    /// Milliseconds for which a core did one thing, and everything else on it waited.
    pub lag_ms: Histogram,
    sessions: IntGauge,
    connections: IntGauge,
    realms: IntGauge,
}

/// A histogram of how long a thread was busy with one thing, milliseconds.
pub(crate) fn lag_histogram(name: &str, help: &str) -> prometheus::Result<Histogram> {
    Histogram::with_opts(HistogramOpts::new(name, help).buckets(vec![
        1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0, 5000.0,
    ]))
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
        let lag_ms = lag_histogram(
            "gateway_core_lag_ms",
            "Milliseconds for which a core did one thing and all else on it waited.",
        )?;
        registry.register(Box::new(lag_ms.clone()))?;
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
            lag_ms,
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
