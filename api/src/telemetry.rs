//! Logs and metrics. Never a token, a message or a user's id in either.

use std::io::IsTerminal;

use prometheus::{
    Encoder, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, Opts,
    Registry, TextEncoder,
};
use tracing_subscriber::EnvFilter;

use crate::config::LogFormat;

/// Sends logs to stderr; `RUST_LOG` chooses what, default `info`.
pub fn init(format: LogFormat) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let logs = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr);
    match format {
        LogFormat::Text => logs.init(),
        LogFormat::Json => logs.json().init(),
    }
}

tokio::task_local! {
    /// Follows one request through the cluster's logs.
    pub(crate) static TRACE: u128;
}

/// The trace id of the request being served; 0 outside of one.
pub(crate) fn trace() -> u128 {
    TRACE.try_with(|trace| *trace).unwrap_or(0)
}

/// Everything this process counts.
#[derive(Debug, Clone)]
pub struct Metrics {
    registry: Registry,
    /// By method, route template and status.
    pub(crate) requests: IntCounterVec,
    /// Seconds, by group of routes and class of status (`2xx`).
    pub(crate) request_seconds: HistogramVec,
    /// Messages of one commit.
    pub(crate) message_batch_size: Histogram,
    pub(crate) events_published: IntCounter,
    /// Stored but not handed to Redis; the owners find them in Postgres.
    pub(crate) events_unpublished: IntCounter,
    /// Requests refused by a rate limit.
    pub(crate) rate_limited: IntCounter,
    /// Rate-limit decisions made without Redis.
    pub(crate) rate_limit_fallbacks: IntCounter,
    /// What only the previous cluster key opened, by `keys::Use`.
    pub(crate) previous_key_uses: IntCounterVec,
    /// Second factors that are not sealed with the current or the next cluster key.
    pub(crate) factors_to_seal: IntGauge,
}

impl Metrics {
    pub fn new() -> Result<Self, prometheus::Error> {
        let registry = Registry::new();
        let metrics = Self {
            requests: IntCounterVec::new(
                Opts::new("guildhall_api_requests_total", "Requests answered"),
                &["method", "route", "status"],
            )?,
            request_seconds: HistogramVec::new(
                HistogramOpts::new("guildhall_api_request_seconds", "Time to the reply's head")
                    .buckets(prometheus::exponential_buckets(0.0005, 2.0, 14)?),
                &["group", "class"],
            )?,
            message_batch_size: Histogram::with_opts(
                HistogramOpts::new(
                    "guildhall_api_message_batch_size",
                    "Messages stored by one transaction",
                )
                .buckets(prometheus::exponential_buckets(1.0, 2.0, 7)?),
            )?,
            events_published: IntCounter::new(
                "guildhall_api_events_published_total",
                "Events handed to Redis",
            )?,
            events_unpublished: IntCounter::new(
                "guildhall_api_events_unpublished_total",
                "Events stored or made but not handed to Redis",
            )?,
            rate_limited: IntCounter::new(
                "guildhall_api_rate_limited_total",
                "Requests refused by a rate limit",
            )?,
            rate_limit_fallbacks: IntCounter::new(
                "guildhall_api_rate_limit_fallbacks_total",
                "Rate-limit decisions made without Redis",
            )?,
            previous_key_uses: IntCounterVec::new(
                Opts::new(
                    "guildhall_api_previous_key_uses_total",
                    "What was taken only because of CLUSTER_KEY_PREVIOUS",
                ),
                &["what"],
            )?,
            factors_to_seal: IntGauge::new(
                "guildhall_api_factors_to_seal",
                "Second factors that were not sealed anew by the last round of housekeeping",
            )?,
            registry,
        };
        let registry = &metrics.registry;
        registry.register(Box::new(metrics.requests.clone()))?;
        registry.register(Box::new(metrics.request_seconds.clone()))?;
        registry.register(Box::new(metrics.message_batch_size.clone()))?;
        registry.register(Box::new(metrics.events_published.clone()))?;
        registry.register(Box::new(metrics.events_unpublished.clone()))?;
        registry.register(Box::new(metrics.rate_limited.clone()))?;
        registry.register(Box::new(metrics.rate_limit_fallbacks.clone()))?;
        registry.register(Box::new(metrics.previous_key_uses.clone()))?;
        registry.register(Box::new(metrics.factors_to_seal.clone()))?;
        Ok(metrics)
    }

    /// In Prometheus' text format.
    pub(crate) fn render(&self) -> Result<Vec<u8>, prometheus::Error> {
        let mut text = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut text)?;
        Ok(text)
    }
}
