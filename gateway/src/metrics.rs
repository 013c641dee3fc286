//! Every metric of a gateway: what `/metrics` shows and `docs/metrics.md` is made of.

use prometheus::core::Collector;

use crate::{node::metrics::Metrics, telemetry::CoreMetrics};

/// Labels of a gateway's metrics and their values, for `docs/metrics.md`.
pub const LABELS: &[(&str, &str)] = &[
    ("core", "number of a thread that serves clients, from `0`"),
    (
        "code",
        "close code: `4000` (a missed heartbeat, a slow reader, a drain, a fault of ours), `4001` to \
         `4014` as the protocol has them, `4015` (too many sessions), `1002` and `1007` (no WebSocket)",
    ),
    (
        "outcome",
        "`same_core`, `same_node`: the session was at this gateway. `moved`: another one handed it \
         over. `recovered`: put together from what one that is gone had left. `refused`: op 9, the \
         client identifies",
    ),
    (
        "queue",
        "`replay`: kept for RESUME. `unsent`: of these, what sockets have still to take. `own`: of \
         these, what was made for one session alone (READY, GUILD_CREATE, answers), with what holds it",
    ),
    (
        "source",
        "`stream`: the shard's stream in Redis. `postgres`: the event log, if the stream had not all",
    ),
    (
        "result",
        "`ok`. `later`: op 9, the client tries again (limits, a queue, a store that is away). \
         `closed`: with a close code (token, intents, shard)",
    ),
];

/// Every metric of a gateway; one that is not here is not shown either.
///
/// # Errors
/// A name or a label that cannot be one.
pub fn collectors() -> prometheus::Result<Vec<Box<dyn Collector>>> {
    let mut all = CoreMetrics::unregistered()?.collectors();
    all.extend(Metrics::unregistered()?.collectors());
    Ok(all)
}
