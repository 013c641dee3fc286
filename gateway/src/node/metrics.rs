//! What the node counts. Labels never hold ids.

use std::time::Duration;

use prometheus::{
    Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, Opts, Registry, core::Collector,
};
use tokio::time::{Instant, sleep_until};

use crate::telemetry::lag_histogram;

/// Time between looks at the clock: what is shorter goes unnoticed.
const LAG_PERIOD: Duration = Duration::from_millis(20);

/// The node's counters, registered once per process. Help as of
/// [`CoreMetrics`](crate::telemetry::CoreMetrics).
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
    /// Heartbeats of another process that has this node's id.
    pub(crate) id_shared: IntCounter,
    /// Bytes that wait for links to other nodes.
    pub(crate) link_queue_bytes: IntGauge,
    /// 1 while the database answers, 1 while Redis brings events.
    pub(crate) postgres_up: IntGauge,
    pub(crate) redis_up: IntGauge,
}

impl Metrics {
    /// Errors: a name is registered already.
    pub(crate) fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let metrics = Self::unregistered()?;
        for each in metrics.collectors() {
            registry.register(each)?;
        }
        Ok(metrics)
    }

    pub(crate) fn unregistered() -> Result<Self, prometheus::Error> {
        let gap_fetches = IntCounterVec::new(
            Opts::new(
                "node_gap_fetches_total",
                "Looks for events that an owner lacks, by where; each gap begins with the stream. \
                 Normal: near 0; peaks after a fail-over of Redis or the end of an API process.",
            ),
            &["source"],
        )?;
        let identifies = IntCounterVec::new(
            Opts::new(
                "node_identifies_total",
                "IDENTIFYs decided, by result. \
                 Normal: nearly all `ok`; `later` while large bots start or very many clients come.",
            ),
            &["result"],
        )?;
        // So that they are there, with 0, before the first one.
        for source in ["stream", "postgres"] {
            gap_fetches.with_label_values(&[source]);
        }
        for result in ["ok", "later", "closed"] {
            identifies.with_label_values(&[result]);
        }
        Ok(Self {
            events_in: IntCounter::new(
                "node_events_total",
                "Events that came to the realms which this node serves as their owner: by push, \
                 from streams or from Postgres, repeats included. \
                 Normal: follows guildhall_api_events_published_total.",
            )?,
            repeats: IntCounter::new(
                "node_repeats_total",
                "Events that came to their owner again and were dropped. \
                 Normal: few; peaks with new connections to Redis and with fetched gaps.",
            )?,
            gap_fetches,
            feed_lag_ms: Histogram::with_opts(
                HistogramOpts::new(
                    "node_feed_lag_ms",
                    "Time from the storing of an event, by the clock of Postgres, to its push from \
                     Redis to its owner, by this machine's. \
                     Normal: some ms, p99 far below the 500 ms of the alert. A sudden step is a clock.",
                )
                .buckets(vec![
                    1.0, 2.0, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 1000.0, 5000.0,
                ]),
            )?,
            pushes_dropped: IntCounter::new(
                "node_pushes_dropped_total",
                "Pushes of Redis that found no room in the owner's queue; their events are fetched. \
                 Normal: 0.",
            )?,
            realms_open: IntGauge::new(
                "node_realms_open",
                "Realms that this node serves as their owner, those included that nobody has used \
                 for less than 30 s. \
                 Normal: alike at gateways of the same weight.",
            )?,
            links: IntGauge::new(
                "node_links",
                "Open links to other gateways, which own realms, and from them. \
                 Normal: at most two for each other gateway; 0 where there is none.",
            )?,
            resubscriptions: IntCounter::new(
                "node_resubscriptions_total",
                "Subscriptions of cores to realms that this node made again: another owner has the \
                 realm, or the core fell behind. \
                 Normal: near 0; peaks when shards move.",
            )?,
            inbox_full: IntCounter::new(
                "node_inbox_full_total",
                "Messages for a core that found its inbox full; it subscribes again and catches up. \
                 Normal: 0.",
            )?,
            identifies,
            questions: IntCounter::new(
                "node_questions_total",
                "Questions of sessions (for members, for one) that this node answered as owner. \
                 Normal: follows what clients ask; peaks when bots start that want all members.",
            )?,
            questions_dropped: IntCounter::new(
                "node_questions_dropped_total",
                "Questions of sessions that found no room at their owner and are asked again. \
                 Normal: 0.",
            )?,
            friends_untold: IntCounter::new(
                "node_friends_untold_total",
                "Attempts to tell friends what somebody shows that failed and are made again. \
                 Normal: 0; grows while Redis is away.",
            )?,
            lag_ms: lag_histogram(
                "node_lag_ms",
                "Time by which the node's thread was late for a timer of 20 ms, being busy with \
                 one thing. \
                 Normal: below 50 ms; now and then more.",
            )?,
            map_term: IntGauge::new(
                "node_map_term",
                "Term of the map in use: that of the coordinator which made it. \
                 Normal: the same at all gateways.",
            )?,
            map_version: IntGauge::new(
                "node_map_version",
                "Version of the map in use, within its term. \
                 Normal: the same at all gateways within a second.",
            )?,
            map_read_at_s: IntGauge::new(
                "node_map_read_timestamp_seconds",
                "When the map was last read from Redis; 0: never. \
                 Normal: a few seconds ago.",
            )?,
            realms_moving: IntGauge::new(
                "node_realms_moving",
                "Realms with sessions here that another node serves than the one that should. \
                 Normal: 0 but for seconds while shards move.",
            )?,
            id_shared: IntCounter::new(
                "node_id_shared_total",
                "Heartbeats of another live gateway that were found in Redis under this one's \
                 NODE_ID. \
                 Normal: 0.",
            )?,
            link_queue_bytes: IntGauge::new(
                "node_link_queue_bytes",
                "Bytes that wait for links to other gateways, over all of them. \
                 Normal: near 0. At 64 MiB a link is reset.",
            )?,
            postgres_up: IntGauge::new(
                "node_postgres_up",
                "1 while Postgres answers this gateway, else 0. \
                 Normal: 1.",
            )?,
            redis_up: IntGauge::new(
                "node_redis_up",
                "1 while Redis, of a cluster each primary, brings events to this gateway, else 0. \
                 Normal: 1.",
            )?,
        })
    }

    pub(crate) fn collectors(&self) -> Vec<Box<dyn Collector>> {
        vec![
            Box::new(self.events_in.clone()),
            Box::new(self.repeats.clone()),
            Box::new(self.gap_fetches.clone()),
            Box::new(self.feed_lag_ms.clone()),
            Box::new(self.pushes_dropped.clone()),
            Box::new(self.realms_open.clone()),
            Box::new(self.links.clone()),
            Box::new(self.link_queue_bytes.clone()),
            Box::new(self.resubscriptions.clone()),
            Box::new(self.inbox_full.clone()),
            Box::new(self.identifies.clone()),
            Box::new(self.questions.clone()),
            Box::new(self.questions_dropped.clone()),
            Box::new(self.friends_untold.clone()),
            Box::new(self.lag_ms.clone()),
            Box::new(self.map_term.clone()),
            Box::new(self.map_version.clone()),
            Box::new(self.map_read_at_s.clone()),
            Box::new(self.realms_moving.clone()),
            Box::new(self.id_shared.clone()),
            Box::new(self.postgres_up.clone()),
            Box::new(self.redis_up.clone()),
        ]
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
