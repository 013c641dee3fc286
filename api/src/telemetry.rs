//! Logs and metrics. Never a token, a message or a user's id in either.

use std::io::IsTerminal;

use prometheus::{
    Encoder, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, Opts,
    Registry, TextEncoder, core::Collector,
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

/// Labels of these metrics and their values, for `docs/metrics.md`.
pub const LABELS: &[(&str, &str)] = &[
    (
        "method",
        "`GET`, `POST`, `PUT`, `PATCH`, `DELETE`, `HEAD`, `OPTIONS`, or `other`",
    ),
    (
        "route",
        "the template of the path without version, as `/channels/{channel_id}/messages`; \
         `unmatched` where no route fits",
    ),
    ("status", "of the answer, as `200`"),
    (
        "group",
        "the first part of the route, as `channels`; `unmatched` where no route fits",
    ),
    (
        "class",
        "of the status: `2xx`, `3xx`, `4xx`, `5xx`, or `1xx`",
    ),
    (
        "what",
        "`operator_token`, `second_factor_proof`, `second_factor`, `attachment`, `upload_slot`, \
         `interaction`; what each means is in [Renewing `CLUSTER_KEY`](operations.md#renewing-cluster_key)",
    ),
];

/// Everything this process counts. Each help says what is counted and, after `Normal:`, what to
/// expect of it: `docs/metrics.md` is made of them.
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
    /// Registered, so that [`Self::render`] shows them.
    pub fn new() -> Result<Self, prometheus::Error> {
        let metrics = Self {
            requests: IntCounterVec::new(
                Opts::new(
                    "guildhall_api_requests_total",
                    "Requests answered, refused ones and those that no route fits included. \
                     Normal: follows the clients; next to no 5xx.",
                ),
                &["method", "route", "status"],
            )?,
            request_seconds: HistogramVec::new(
                HistogramOpts::new(
                    "guildhall_api_request_seconds",
                    "Time from a request whose head was read to the head of its answer; its body, \
                     limits and Postgres included. \
                     Normal: p99 of 2xx far below the 2 s of the alert; more where files are uploaded.",
                )
                .buckets(prometheus::exponential_buckets(0.0005, 2.0, 14)?),
                &["group", "class"],
            )?,
            message_batch_size: Histogram::with_opts(
                HistogramOpts::new(
                    "guildhall_api_message_batch_size",
                    "Messages that one transaction stored: those that came while the one before \
                     was committed, 256 at most. \
                     Normal: 1 where little is written; grows with load, and with a disk that is \
                     slow to commit.",
                )
                .buckets(prometheus::exponential_buckets(1.0, 2.0, 7)?),
            )?,
            events_published: IntCounter::new(
                "guildhall_api_events_published_total",
                "Events handed to Redis, typing included. \
                 Normal: follows what clients change.",
            )?,
            events_unpublished: IntCounter::new(
                "guildhall_api_events_unpublished_total",
                "Events not handed to Redis, as it failed or took too long or the queue was full. \
                 Owners find the stored ones in Postgres, up to a second later; typing is lost. \
                 Normal: 0.",
            )?,
            rate_limited: IntCounter::new(
                "guildhall_api_rate_limited_total",
                "Requests answered 429: by a limit, or because their address is blocked for too \
                 many refusals. \
                 Normal: some, as clients find their limits. Where nearly all are refused, \
                 API_PROXIES is wrong and all clients count as one address.",
            )?,
            rate_limit_fallbacks: IntCounter::new(
                "guildhall_api_rate_limit_fallbacks_total",
                "Looks at a limit for which this process counted alone, as Redis did not answer in \
                 time. \
                 Normal: 0.",
            )?,
            previous_key_uses: IntCounterVec::new(
                Opts::new(
                    "guildhall_api_previous_key_uses_total",
                    "What was taken only because of CLUSTER_KEY_PREVIOUS. \
                     Normal: absent without such a key; it stands still before the last round of \
                     its renewal.",
                ),
                &["what"],
            )?,
            factors_to_seal: IntGauge::new(
                "guildhall_api_factors_to_seal",
                "Second factors that are sealed with neither CLUSTER_KEY nor CLUSTER_KEY_NEXT and \
                 could not be sealed anew by the last round of housekeeping. \
                 Normal: 0. What stays above it after a renewal needs a key that is gone.",
            )?,
            registry: Registry::new(),
        };
        for each in metrics.collectors() {
            metrics.registry.register(each)?;
        }
        Ok(metrics)
    }

    /// All of them; one that is not here is not shown either.
    pub fn collectors(&self) -> Vec<Box<dyn Collector>> {
        vec![
            Box::new(self.requests.clone()),
            Box::new(self.request_seconds.clone()),
            Box::new(self.message_batch_size.clone()),
            Box::new(self.events_published.clone()),
            Box::new(self.events_unpublished.clone()),
            Box::new(self.rate_limited.clone()),
            Box::new(self.rate_limit_fallbacks.clone()),
            Box::new(self.previous_key_uses.clone()),
            Box::new(self.factors_to_seal.clone()),
        ]
    }

    /// In Prometheus' text format.
    pub(crate) fn render(&self) -> Result<Vec<u8>, prometheus::Error> {
        let mut text = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut text)?;
        Ok(text)
    }
}
