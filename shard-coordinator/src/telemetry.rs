//! Logs and metrics of this process. Labels are bounded: never a node or shard id.

use std::io;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use prometheus::{
    Histogram, HistogramOpts, IntCounter, IntGauge, Registry, TextEncoder, core::Collector,
};
use tracing_subscriber::EnvFilter;

use crate::config::{Config, LogFormat};
use crate::error::{Error, Result};

/// A process whose last good round is older than this is not ready.
const READY: Duration = Duration::from_secs(5);

/// Starts logging to stderr.
///
/// Errors: a `RUST_LOG` that is none.
pub fn log_to_stderr(config: &Config) -> Result<()> {
    let filter = EnvFilter::try_new(&config.log_filter)
        .map_err(|error| Error::setting("RUST_LOG", error))?;
    let logs = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr);
    match config.log_format {
        LogFormat::Text => logs.init(),
        LogFormat::Json => logs.json().init(),
    }
    Ok(())
}

/// Every metric of a coordinator; one that is not here is not shown either.
pub fn collectors() -> Vec<Box<dyn Collector>> {
    Metrics::new().collectors()
}

/// Numbers for operators, and what `/ready` needs. Each help says what is counted and, after
/// `Normal:`, what to expect of it: `docs/metrics.md` is made of them.
pub(crate) struct Metrics {
    registry: Registry,
    pub(crate) leading: IntGauge,
    pub(crate) term: IntGauge,
    pub(crate) map_version: IntGauge,
    pub(crate) nodes_live: IntGauge,
    pub(crate) frozen: IntGauge,
    pub(crate) rounds_failed: IntCounter,
    pub(crate) maps_published: IntCounter,
    pub(crate) shards_moved: IntCounter,
    pub(crate) steps: IntCounter,
    pub(crate) steps_timed_out: IntCounter,
    pub(crate) shards_unowned: IntGauge,
    pub(crate) moves_left: IntGauge,
    pub(crate) plan_pending: IntGauge,
    pub(crate) paused: IntGauge,
    pub(crate) imbalance: IntGauge,
    pub(crate) load_imbalance: IntGauge,
    pub(crate) plan_seconds: Histogram,
    last_round: Mutex<Option<Instant>>,
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let gauge =
            |name: &str, help: &str| IntGauge::new(name, help).expect("the name is a valid one");
        let counter =
            |name: &str, help: &str| IntCounter::new(name, help).expect("the name is a valid one");
        let plan_seconds = HistogramOpts::new(
            "coordinator_plan_seconds",
            "Time to make a plan, by the leader, once a round. \
             Normal: far below the second of a round.",
        )
        .buckets(vec![0.0005, 0.001, 0.005, 0.02, 0.1, 0.5, 2.0]);
        let metrics = Self {
            leading: gauge(
                "coordinator_leading",
                "1 while this process leads, else 0. \
                 Normal: 1 at one of the coordinators.",
            ),
            term: gauge(
                "coordinator_term",
                "Term in which this process leads, or led last; 0: it never did. \
                 Normal: stands still; each take-over of the lead has a higher one.",
            ),
            map_version: gauge(
                "coordinator_map_version",
                "Version of the newest map that this process knows. \
                 Normal: node_map_version of all gateways.",
            ),
            nodes_live: gauge(
                "coordinator_nodes_live",
                "Gateways that count as live by their heartbeats. \
                 Normal: as many as run.",
            ),
            frozen: gauge(
                "coordinator_frozen",
                "1 while placement stands still, because many gateways fell silent at once, or \
                 Redis did; else 0. \
                 Normal: 0.",
            ),
            rounds_failed: counter(
                "coordinator_rounds_failed_total",
                "Rounds (each second: look, plan, publish) that failed; the next one starts afresh. \
                 Normal: 0.",
            ),
            maps_published: counter(
                "coordinator_maps_published_total",
                "Maps that this process published. \
                 Normal: stands still while no gateway comes or goes and nothing is moved.",
            ),
            shards_moved: counter(
                "coordinator_shards_moved_total",
                "Shards that changed owner in a published map. \
                 Normal: as coordinator_maps_published_total.",
            ),
            steps: counter(
                "coordinator_steps_total",
                "Maps that moved shards with open realms, few of each gateway at a time. \
                 Normal: as coordinator_maps_published_total.",
            ),
            steps_timed_out: counter(
                "coordinator_steps_timed_out_total",
                "Steps that gateways had not followed after 5 s; the next one went ahead. \
                 Normal: 0.",
            ),
            shards_unowned: gauge(
                "coordinator_shards_unowned",
                "Shards without an owner in the map in use: each gateway serves them to its own \
                 clients; 0 of who does not lead. \
                 Normal: 0.",
            ),
            moves_left: gauge(
                "coordinator_moves_left",
                "Shards that are to move and wait for their turn; 0 of who does not lead. \
                 Normal: 0 but while shards move.",
            ),
            plan_pending: gauge(
                "coordinator_plan_pending",
                "1 while a plan of an operator runs; 0 of who does not lead. \
                 Normal: 0 but while shards move and sessions leave.",
            ),
            paused: gauge(
                "coordinator_paused",
                "1 while an operator holds moves back; 0 of who does not lead. \
                 Normal: 0.",
            ),
            imbalance: gauge(
                "coordinator_imbalance_per_mille",
                "Shards of the fullest gateway against its share by weight: 1000 is even; 0 of who \
                 does not lead. \
                 Normal: up to 1050; more where pins want it.",
            ),
            load_imbalance: gauge(
                "coordinator_load_imbalance_per_mille",
                "Load of the fullest gateway against its share by weight: 1000 is even; 0 of who \
                 does not lead, and while no load is reported. \
                 Normal: whatever busy guilds make of it; a gateway that is too busy gets less by \
                 guildctl weight or move.",
            ),
            plan_seconds: Histogram::with_opts(plan_seconds)
                .expect("the name and buckets are valid ones"),
            last_round: Mutex::new(None),
            registry: Registry::new(),
        };
        for each in metrics.collectors() {
            let registered = metrics.registry.register(each);
            registered.expect("each name is registered once");
        }
        metrics
    }

    fn collectors(&self) -> Vec<Box<dyn Collector>> {
        vec![
            Box::new(self.leading.clone()),
            Box::new(self.term.clone()),
            Box::new(self.map_version.clone()),
            Box::new(self.nodes_live.clone()),
            Box::new(self.frozen.clone()),
            Box::new(self.rounds_failed.clone()),
            Box::new(self.plan_seconds.clone()),
            Box::new(self.maps_published.clone()),
            Box::new(self.shards_moved.clone()),
            Box::new(self.steps.clone()),
            Box::new(self.steps_timed_out.clone()),
            Box::new(self.shards_unowned.clone()),
            Box::new(self.moves_left.clone()),
            Box::new(self.plan_pending.clone()),
            Box::new(self.paused.clone()),
            Box::new(self.imbalance.clone()),
            Box::new(self.load_imbalance.clone()),
        ]
    }

    /// What only a leader knows, others do not go on telling.
    pub(crate) fn follows(&self) {
        for of_leader in [
            &self.shards_unowned,
            &self.moves_left,
            &self.plan_pending,
            &self.paused,
            &self.imbalance,
            &self.load_imbalance,
        ] {
            of_leader.set(0);
        }
    }

    pub(crate) fn round_succeeded(&self, now: Instant) {
        if let Ok(mut last) = self.last_round.lock() {
            *last = Some(now);
        }
    }

    /// True while this process sees Postgres and Redis, leading or not.
    pub(crate) fn is_ready(&self, now: Instant) -> bool {
        let last = self.last_round.lock().ok().and_then(|last| *last);
        last.is_some_and(|last| now.saturating_duration_since(last) < READY)
    }

    /// In Prometheus' text format.
    pub(crate) fn to_text(&self) -> String {
        TextEncoder::new()
            .encode_to_string(&self.registry.gather())
            .unwrap_or_else(|error| format!("# {error}\n"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readiness_follows_the_rounds() {
        let metrics = Metrics::new();
        let now = Instant::now();
        assert!(!metrics.is_ready(now));
        metrics.round_succeeded(now);
        assert!(metrics.is_ready(now));
        assert!(!metrics.is_ready(now + READY));
    }

    #[test]
    fn every_metric_is_printed() {
        let text = Metrics::new().to_text();
        for name in ["coordinator_leading", "coordinator_plan_seconds_bucket"] {
            assert!(text.contains(name), "{text}");
        }
    }
}
