//! Metrics of this process. Labels are bounded: never a user, a channel or a guild.

use std::cell::Cell;

use prometheus::{
    Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
    core::Collector,
};

use crate::names::CoreId;

/// What cores count. Shared by all of them: they add in batches. Each help says what is counted
/// and, after `Normal:`, what to expect of it: `docs/metrics.md` is made of them.
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
    queue_bytes: IntGaugeVec,
    replay_bytes: IntGauge,
    unsent_bytes: IntGauge,
    own_bytes: IntGauge,
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
    /// Of those kept for RESUME, what was made for one session alone.
    pub own_bytes: u64,
}

/// A histogram of how long a thread was busy with one thing, milliseconds.
pub(crate) fn lag_histogram(name: &str, help: &str) -> prometheus::Result<Histogram> {
    Histogram::with_opts(HistogramOpts::new(name, help).buckets(vec![
        1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0, 5000.0,
    ]))
}

thread_local! {
    /// What this core last added to the gauges.
    static SIZES: [Cell<i64>; 6] = const { [const { Cell::new(0) }; 6] };
}

impl CoreMetrics {
    /// # Errors
    /// If a metric of the same name is registered already.
    pub fn new(registry: &Registry) -> prometheus::Result<Self> {
        let metrics = Self::unregistered()?;
        for each in metrics.collectors() {
            registry.register(each)?;
        }
        Ok(metrics)
    }

    pub(crate) fn unregistered() -> prometheus::Result<Self> {
        let closes = IntCounterVec::new(
            Opts::new(
                "gateway_closes_total",
                "Connections that the gateway closed; those that clients close do not count. \
                 Normal: some 4000, of clients that went without a word. Others are faults of clients.",
            ),
            &["code"],
        )?;
        let append_to_socket_ms = Histogram::with_opts(
            HistogramOpts::new(
                "gateway_append_to_socket_ms",
                "Time from the storing of an event, by the clock of Postgres, to its write to \
                 sockets, by this machine's; one sample per flush of a core, of the oldest event in it. \
                 Normal: some ms, p99 far below the second of the alert. A sudden step is a clock.",
            )
            .buckets(vec![
                1.0, 2.0, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0, 1000.0, 2500.0, 5000.0,
                10_000.0,
            ]),
        )?;
        let resumes = IntCounterVec::new(
            Opts::new(
                "gateway_resumes_total",
                "RESUMEs answered, by what became of them. \
                 Normal: hardly any refused. The stop of a gateway or of a proxy shows as a peak of \
                 the others.",
            ),
            &["outcome"],
        )?;
        for outcome in Resumed::ALL {
            resumes.with_label_values(&[outcome.label()]);
        }
        let busy = IntGaugeVec::new(
            Opts::new(
                "gateway_core_busy_permille",
                "Part of the last second in which a core's thread was busy. \
                 Normal: below 700, so that there is room for the clients of a gateway that dies; \
                 alike on all cores.",
            ),
            &["core"],
        )?;
        let queue_bytes = IntGaugeVec::new(
            Opts::new(
                "gateway_queue_bytes",
                "Bodies of events that sessions hold. One that several sessions hold counts for \
                 each, so they take less memory than this. \
                 Normal: `replay` follows sessions and events; `unsent` is a small part of it; `own` \
                 is below GATEWAY_REPLAY_BYTES_MAX.",
            ),
            &["queue"],
        )?;
        Ok(Self {
            dispatches: IntCounter::new(
                "gateway_dispatches_total",
                "Dispatches written to sockets: an event counts once for each session that gets it. \
                 Normal: follows the events and how many see them.",
            )?,
            identifies: IntCounter::new(
                "gateway_identifies_total",
                "Sessions that began with IDENTIFY. \
                 Normal: few but when many clients come at once; steadily many are clients that \
                 do not resume.",
            )?,
            resumes,
            resubscriptions: IntCounter::new(
                "gateway_resubscriptions_total",
                "Subscriptions to a realm that a core made again from where it stood, because an \
                 event was missing. \
                 Normal: near 0; peaks when owners change or an inbox was full.",
            )?,
            slow_readers: IntCounter::new(
                "gateway_slow_readers_total",
                "Connections closed, with 4000, because their client did not take what waited for \
                 it; the sessions can be resumed. \
                 Normal: near 0.",
            )?,
            closes,
            lag_ms: lag_histogram(
                "gateway_core_lag_ms",
                "Time for which a core did one thing and everything else on it waited; one sample \
                 for each thing. \
                 Normal: below 50 ms; now and then more.",
            )?,
            append_to_socket_ms,
            busy,
            sessions: IntGauge::new(
                "gateway_sessions",
                "Sessions held, also those without a connection, which may be resumed for 180 s. \
                 Normal: somewhat above gateway_connections.",
            )?,
            connections: IntGauge::new(
                "gateway_connections",
                "Open connections of clients. \
                 Normal: below GATEWAY_CONNECTIONS_MAX; alike at gateways that started together.",
            )?,
            realms: IntGauge::new(
                "gateway_realms",
                "Realms (guilds, users) with a session here; counted for each core that has one. \
                 Normal: follows gateway_sessions.",
            )?,
            replay_bytes: queue_bytes.with_label_values(&["replay"]),
            unsent_bytes: queue_bytes.with_label_values(&["unsent"]),
            own_bytes: queue_bytes.with_label_values(&["own"]),
            queue_bytes,
        })
    }

    pub(crate) fn collectors(&self) -> Vec<Box<dyn Collector>> {
        vec![
            Box::new(self.connections.clone()),
            Box::new(self.sessions.clone()),
            Box::new(self.realms.clone()),
            Box::new(self.identifies.clone()),
            Box::new(self.resumes.clone()),
            Box::new(self.closes.clone()),
            Box::new(self.slow_readers.clone()),
            Box::new(self.dispatches.clone()),
            Box::new(self.append_to_socket_ms.clone()),
            Box::new(self.resubscriptions.clone()),
            Box::new(self.queue_bytes.clone()),
            Box::new(self.busy.clone()),
            Box::new(self.lag_ms.clone()),
        ]
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
                (&self.own_bytes, sizes.own_bytes),
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
