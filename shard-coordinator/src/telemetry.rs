//! Logs and metrics of this process. Labels are bounded: never a node or shard id.

use std::io;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use prometheus::{Histogram, HistogramOpts, IntCounter, IntGauge, Registry, TextEncoder};
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

/// Numbers for operators, and what `/ready` needs.
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
        let registry = Registry::new();
        let gauge = |name: &str, help: &str| {
            let gauge = IntGauge::new(name, help).expect("the name is a valid one");
            let registered = registry.register(Box::new(gauge.clone()));
            registered.expect("each name is registered once");
            gauge
        };
        let counter = |name: &str, help: &str| {
            let counter = IntCounter::new(name, help).expect("the name is a valid one");
            let registered = registry.register(Box::new(counter.clone()));
            registered.expect("each name is registered once");
            counter
        };
        let plan_seconds = HistogramOpts::new("coordinator_plan_seconds", "Time to make a plan.")
            .buckets(vec![0.0005, 0.001, 0.005, 0.02, 0.1, 0.5, 2.0]);
        let plan_seconds =
            Histogram::with_opts(plan_seconds).expect("the name and buckets are valid ones");
        registry
            .register(Box::new(plan_seconds.clone()))
            .expect("each name is registered once");
        Self {
            leading: gauge("coordinator_leading", "1 while this process leads."),
            term: gauge("coordinator_term", "Term of this process, or its last one."),
            map_version: gauge("coordinator_map_version", "Version of the newest map."),
            nodes_live: gauge("coordinator_nodes_live", "Gateways that count as live."),
            frozen: gauge("coordinator_frozen", "1 while placement stands still."),
            rounds_failed: counter("coordinator_rounds_failed_total", "Rounds that failed."),
            maps_published: counter("coordinator_maps_published_total", "Maps published."),
            shards_moved: counter(
                "coordinator_shards_moved_total",
                "Shards that changed owner in a published map.",
            ),
            steps: counter(
                "coordinator_steps_total",
                "Maps that moved shards with open realms.",
            ),
            steps_timed_out: counter(
                "coordinator_steps_timed_out_total",
                "Steps that gateways did not follow in time.",
            ),
            moves_left: gauge(
                "coordinator_moves_left",
                "Shards that wait for their turn to move.",
            ),
            plan_pending: gauge("coordinator_plan_pending", "1 while a plan runs."),
            paused: gauge("coordinator_paused", "1 while operators hold moves back."),
            imbalance: gauge(
                "coordinator_imbalance_per_mille",
                "Shards of the fullest node against its share; 1000 is even, 0 of who does not lead.",
            ),
            load_imbalance: gauge(
                "coordinator_load_imbalance_per_mille",
                "Load of the fullest node against its share; 0 while none is reported.",
            ),
            plan_seconds,
            last_round: Mutex::new(None),
            registry,
        }
    }

    /// What only a leader knows, others do not go on telling.
    pub(crate) fn follows(&self) {
        for of_leader in [
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
