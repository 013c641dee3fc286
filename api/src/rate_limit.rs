//! Rate limits: buckets and their headers. Spec: limits-and-errors › Rate limits.

use std::time::Duration;

use axum::http::{HeaderMap, HeaderValue, header};
use redis::aio::ConnectionManager;

use crate::{config::RateLimits, telemetry::Metrics};

/// Headers that must come with every 429.
pub(crate) fn add_retry_headers(
    headers: &mut HeaderMap,
    retry_after: Duration,
    scope: &'static str,
) {
    let seconds = retry_after.as_secs_f64().ceil().max(1.0) as u64;
    headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    headers.insert(header::VIA, HeaderValue::from_static("1.1 guildhall"));
    headers.insert("x-ratelimit-scope", HeaderValue::from_static(scope));
}

/// Counts requests per bucket.
#[derive(Debug)]
pub(crate) struct Limiter {
    mode: RateLimits,
    redis: ConnectionManagerDebug,
    metrics: Metrics,
}

/// `ConnectionManager` prints nothing of itself.
struct ConnectionManagerDebug(ConnectionManager);

impl std::fmt::Debug for ConnectionManagerDebug {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ConnectionManager")
    }
}

impl Limiter {
    pub(crate) fn new(mode: RateLimits, redis: ConnectionManager, metrics: Metrics) -> Self {
        Self {
            mode,
            redis: ConnectionManagerDebug(redis),
            metrics,
        }
    }
}
