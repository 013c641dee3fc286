//! Metrics of this process. Labels are bounded: never a user, a channel or a guild.

use std::cell::Cell;

use prometheus::{
    Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
};

use crate::names::CoreId;

/// What cores count. Shared by all of them: they add in batches.
#[derive(Debug)]
pub struct CoreMetrics {
    pub dispatches: IntCounter,
    pub identifies: IntCounter,
    resumes: IntCounterVec,
    pub resubscriptions: IntCounter,
    pub slow_readers: IntCounter,
    /// By close code.
    pub closes: IntCounterVec,
    /// Milliseconds for which a core did one thing, and everything else on it waited.
    pub lag_ms: Histogram,
    /// Milliseconds from storing an event to its write to sockets; one sample per flush, of the
    /// oldest event in it. Two machines' clocks are compared.
    pub append_to_socket_ms: Histogram,
    busy: IntGaugeVec,
    sessions: IntGauge,
    connections: IntGauge,
    realms: IntGauge,
    replay_bytes: IntGauge,
    unsent_bytes: IntGauge,
}

/// What came of a RESUME.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resumed {
    /// Its connection came to the core that has the session.
    SameCore,
    /// It came to another core of this node.
    SameNode,
    /// The session was another node's, which handed it over.
    Moved,
    /// The session's node is gone; it was put together from what that node left behind.
    Recovered,
    /// Answered by op 9.
    Refused,
}

impl Resumed {
    const ALL: [Self; 5] = [
        Self::SameCore,
        Self::SameNode,
        Self::Moved,
        Self::Recovered,
        Self::Refused,
    ];

    fn label(self) -> &'static str {
        match self {
            Self::SameCore => "same_core",
            Self::SameNode => "same_node",
            Self::Moved => "moved",
            Self::Recovered => "recovered",
            Self::Refused => "refused",
        }
    }
}

/// What a core holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sizes {
    pub sessions: usize,
    pub connections: usize,
    pub realms: usize,
    /// Bodies kept for RESUME; one that several sessions keep counts for each.
    pub replay_bytes: u64,
    /// Of these, bodies that sockets have still to take.
    pub unsent_bytes: u64,
}

/// A histogram of how long a thread was busy with one thing, milliseconds.
pub(crate) fn lag_histogram(name: &str, help: &str) -> prometheus::Result<Histogram> {
    Histogram::with_opts(HistogramOpts::new(name, help).buckets(vec![
        1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0, 5000.0,
    ]))
}

thread_local! {
    /// What this core last added to the gauges.
    static SIZES: [Cell<i64>; 5] = const { [const { Cell::new(0) }; 5] };
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
        let append_to_socket_ms = Histogram::with_opts(
            HistogramOpts::new(
                "gateway_append_to_socket_ms",
                "Milliseconds from storing an event to its write to sockets, once per flush.",
            )
            .buckets(vec![
                1.0, 2.0, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0, 1000.0, 2500.0, 5000.0,
                10_000.0,
            ]),
        )?;
        registry.register(Box::new(append_to_socket_ms.clone()))?;
        let resumes = IntCounterVec::new(
            Opts::new("gateway_resumes_total", "RESUMEs, by what came of them."),
            &["outcome"],
        )?;
        for outcome in Resumed::ALL {
            resumes.with_label_values(&[outcome.label()]);
        }
        registry.register(Box::new(resumes.clone()))?;
        let busy = IntGaugeVec::new(
            Opts::new(
                "gateway_core_busy_permille",
                "Parts per thousand of the last second that a core's thread was busy.",
            ),
            &["core"],
        )?;
        registry.register(Box::new(busy.clone()))?;
        let queue_bytes = IntGaugeVec::new(
            Opts::new(
                "gateway_queue_bytes",
                "Bodies that sessions hold: for RESUME, and of these not yet taken by sockets.",
            ),
            &["queue"],
        )?;
        registry.register(Box::new(queue_bytes.clone()))?;
        Ok(Self {
            dispatches: counter("gateway_dispatches_total", "Dispatches written to sockets.")?,
            identifies: counter("gateway_identifies_total", "Sessions opened.")?,
            resumes,
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
            append_to_socket_ms,
            busy,
            sessions: gauge("gateway_sessions", "Sessions, detached ones included.")?,
            connections: gauge("gateway_connections", "Open connections.")?,
            realms: gauge(
                "gateway_realms",
                "Realms with a session, summed over cores.",
            )?,
            replay_bytes: queue_bytes.with_label_values(&["replay"]),
            unsent_bytes: queue_bytes.with_label_values(&["unsent"]),
        })
    }

    /// Reports the sizes of the calling thread's core.
    pub fn set_sizes(&self, sizes: Sizes) {
        SIZES.with(|last| {
            let gauges = [
                (&self.sessions, sizes.sessions as u64),
                (&self.connections, sizes.connections as u64),
                (&self.realms, sizes.realms as u64),
                (&self.replay_bytes, sizes.replay_bytes),
                (&self.unsent_bytes, sizes.unsent_bytes),
            ];
            for ((gauge, now), last) in gauges.into_iter().zip(last) {
                let now = now as i64;
                gauge.add(now - last.replace(now));
            }
        });
    }

    /// A RESUME was answered.
    pub fn resumed(&self, outcome: Resumed) {
        self.resumes.with_label_values(&[outcome.label()]).inc();
    }

    /// How busy a core was in the last second.
    pub fn set_busy(&self, core: CoreId, permille: u16) {
        let core = core.to_string();
        let busy = self.busy.with_label_values(&[core.as_str()]);
        busy.set(i64::from(permille));
    }

    /// Sessions of all cores.
    pub fn sessions(&self) -> u64 {
        self.sessions.get().unsigned_abs()
    }
}
