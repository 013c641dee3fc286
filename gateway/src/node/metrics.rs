//! What the node counts. Labels never hold ids.

use std::time::Duration;

use prometheus::{Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, Opts, Registry};
use tokio::time::{Instant, sleep_until};

use crate::telemetry::lag_histogram;

/// Time between looks at the clock: what is shorter goes unnoticed.
const LAG_PERIOD: Duration = Duration::from_millis(20);

/// The node's counters, registered once per process.
#[derive(Debug, Clone)]
pub(crate) struct Metrics {
    /// Events that reached the owner, however they came.
    pub(crate) events_in: IntCounter,
    /// Events that had come before.
    pub(crate) repeats: IntCounter,
    /// Gaps asked for, by source: `stream`, `postgres`.
    pub(crate) gap_fetches: IntCounterVec,
    /// Milliseconds between an event's storing and its arrival at the owner.
    pub(crate) feed_lag_ms: Histogram,
    /// Pushes of Redis that found the queue full; fetched again later.
    pub(crate) pushes_dropped: IntCounter,
    pub(crate) realms_open: IntGauge,
    /// Links to and from other nodes; see [`Self::linked`].
    pub(crate) links: IntGauge,
    /// Realms turned to another owner, and cores that had to catch up.
    pub(crate) resubscriptions: IntCounter,
    /// Messages that found a core's inbox full.
    pub(crate) inbox_full: IntCounter,
    pub(crate) identifies: IntCounterVec,
    /// Questions of sessions that the owner answered.
    pub(crate) questions: IntCounter,
    /// Questions that found no room and are asked again.
    pub(crate) questions_dropped: IntCounter,
    /// Attempts to tell friends what somebody shows that failed and are made again.
    pub(crate) friends_untold: IntCounter,
    /// Milliseconds that the node's thread kept a timer waiting.
    pub(crate) lag_ms: Histogram,
    /// Which map this node uses.
    pub(crate) map_term: IntGauge,
    pub(crate) map_version: IntGauge,
    /// When it last read one from Redis: seconds since the Unix epoch.
    pub(crate) map_read_at_s: IntGauge,
    /// Realms on their way to another owner.
    pub(crate) realms_moving: IntGauge,
    /// Bytes that wait for links to other nodes.
    pub(crate) link_queue_bytes: IntGauge,
    /// 1 while the database answers, 1 while Redis brings events.
    pub(crate) postgres_up: IntGauge,
    pub(crate) redis_up: IntGauge,
}

impl Metrics {
    /// Errors: a name is registered already.
    pub(crate) fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let metrics = Self {
            events_in: IntCounter::new("node_events_total", "Events that reached the owner")?,
            repeats: IntCounter::new("node_repeats_total", "Events that had come before")?,
            gap_fetches: IntCounterVec::new(
                Opts::new("node_gap_fetches_total", "Gaps asked for, by source"),
                &["source"],
            )?,
            feed_lag_ms: Histogram::with_opts(
                HistogramOpts::new(
                    "node_feed_lag_ms",
                    "Milliseconds from storing an event to its owner",
                )
                .buckets(vec![
                    1.0, 2.0, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 1000.0, 5000.0,
                ]),
            )?,
            pushes_dropped: IntCounter::new(
                "node_pushes_dropped_total",
                "Redis pushes that found the queue full",
            )?,
            realms_open: IntGauge::new("node_realms_open", "Realms this node serves")?,
            links: IntGauge::new("node_links", "Links to and from other nodes")?,
            resubscriptions: IntCounter::new(
                "node_resubscriptions_total",
                "Subscriptions made again: another owner, or a core that fell behind",
            )?,
            inbox_full: IntCounter::new(
                "node_inbox_full_total",
                "Messages that found a core's inbox full",
            )?,
            identifies: IntCounterVec::new(
                Opts::new("node_identifies_total", "IDENTIFYs, by result"),
                &["result"],
            )?,
            questions: IntCounter::new(
                "node_questions_total",
                "Questions of sessions that the owner answered",
            )?,
            questions_dropped: IntCounter::new(
                "node_questions_dropped_total",
                "Questions of sessions that found no room and are asked again",
            )?,
            friends_untold: IntCounter::new(
                "node_friends_untold_total",
                "Attempts to tell friends what somebody shows that failed and are made again",
            )?,
            lag_ms: lag_histogram(
                "node_lag_ms",
                "Milliseconds that the node's thread kept a timer waiting",
            )?,
            map_term: IntGauge::new("node_map_term", "Term of the map in use")?,
            map_version: IntGauge::new("node_map_version", "Version of the map in use")?,
            map_read_at_s: IntGauge::new(
                "node_map_read_timestamp_seconds",
                "When the map was last read from Redis, Unix time; 0: never",
            )?,
            realms_moving: IntGauge::new(
                "node_realms_moving",
                "Realms that another node serves than the one that should",
            )?,
            link_queue_bytes: IntGauge::new(
                "node_link_queue_bytes",
                "Bytes that wait for links to other nodes",
            )?,
            postgres_up: IntGauge::new("node_postgres_up", "1 while Postgres answers")?,
            redis_up: IntGauge::new("node_redis_up", "1 while Redis brings events")?,
        };
        registry.register(Box::new(metrics.events_in.clone()))?;
        registry.register(Box::new(metrics.repeats.clone()))?;
        registry.register(Box::new(metrics.gap_fetches.clone()))?;
        registry.register(Box::new(metrics.feed_lag_ms.clone()))?;
        registry.register(Box::new(metrics.pushes_dropped.clone()))?;
        registry.register(Box::new(metrics.realms_open.clone()))?;
        registry.register(Box::new(metrics.links.clone()))?;
        registry.register(Box::new(metrics.resubscriptions.clone()))?;
        registry.register(Box::new(metrics.inbox_full.clone()))?;
        registry.register(Box::new(metrics.identifies.clone()))?;
        registry.register(Box::new(metrics.questions.clone()))?;
        registry.register(Box::new(metrics.questions_dropped.clone()))?;
        registry.register(Box::new(metrics.friends_untold.clone()))?;
        registry.register(Box::new(metrics.lag_ms.clone()))?;
        for gauge in [
            &metrics.map_term,
            &metrics.map_version,
            &metrics.map_read_at_s,
            &metrics.realms_moving,
            &metrics.link_queue_bytes,
            &metrics.postgres_up,
            &metrics.redis_up,
        ] {
            registry.register(Box::new(gauge.clone()))?;
        }
        Ok(metrics)
    }

    /// Counts a link, however it ends.
    pub(crate) fn linked(&self) -> Linked {
        self.links.inc();
        Linked(self.links.clone())
    }

    /// Measures how long the thread is busy with one thing, as long as the task lives.
    pub(crate) async fn watch_lag(self) {
        loop {
            let due = Instant::now() + LAG_PERIOD;
            sleep_until(due).await;
            let late = Instant::now().duration_since(due);
            self.lag_ms.observe(late.as_secs_f64() * 1e3);
        }
    }
}

/// A link, as long as it is held.
pub(crate) struct Linked(IntGauge);

impl Drop for Linked {
    fn drop(&mut self) {
        self.0.dec();
    }
}
