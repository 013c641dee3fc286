//! Serving: the listener, what surrounds every request, and the drain.

use std::future::Future;

tokio::task_local! {
    /// Follows one request through the cluster's logs.
    static TRACE: u128;
}

/// The trace id of the request being served; 0 outside of one.
pub(crate) fn trace() -> u128 {
    TRACE.try_with(|trace| *trace).unwrap_or(0)
}

/// Runs `work` under a trace id.
pub(crate) async fn with_trace<F: Future>(trace: u128, work: F) -> F::Output {
    TRACE.scope(trace, work).await
}
