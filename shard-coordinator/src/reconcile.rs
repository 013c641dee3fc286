//! The loop: observe, plan, publish. Each round looks at the whole state, so restart,
//! take-over, drain and a flush of Redis share one path.

use std::sync::Arc;
use std::time::{Duration, Instant};

use guildhall_shared::cluster_map::{ClusterMap, MapVersion};
use guildhall_shared::shard::ShardId;
use redis::aio::ConnectionManager;
use sqlx::PgPool;
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;

use crate::apply;
use crate::config::POSTGRES_ANSWER_MAX;
use crate::error::{Error, Result};
use crate::leader::Lead;
use crate::node::{self, Liveness};
use crate::observe::{self, Shown};
use crate::placement::{self, Layout, Observed};
use crate::telemetry::Metrics;

/// Time between rounds. With a heartbeat's life of 6 s it decides how late a dead gateway
/// is noticed, and how long a flushed Redis has no map.
const ROUND: Duration = Duration::from_secs(1);
/// A look at Redis that takes longer has failed.
const LOOK_MAX: Duration = Duration::from_secs(2);

/// Runs in every coordinator; those that do not lead only look, to know the map and the
/// nodes when they take over.
pub(crate) struct Reconciler {
    db: PgPool,
    redis: ConnectionManager,
    shards: u16,
    lead: Lead,
    liveness: Liveness,
    /// The newest map seen, also after Redis has lost it.
    last_known: Option<ClusterMap>,
    metrics: Arc<Metrics>,
}

impl Reconciler {
    pub(crate) fn new(
        db: PgPool,
        redis: ConnectionManager,
        shards: u16,
        lead: Lead,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self {
            db,
            redis,
            shards,
            lead,
            liveness: Liveness::new(Instant::now()),
            last_known: None,
            metrics,
        }
    }

    /// Runs until `stop`.
    pub(crate) async fn run(&mut self, stop: &CancellationToken) {
        let mut tick = interval(ROUND);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = tick.tick() => {}
            }
            match self.round().await {
                Ok(()) => self.metrics.round_succeeded(Instant::now()),
                Err(error) => {
                    self.metrics.rounds_failed.inc();
                    tracing::warn!(%error, "round failed; the next one starts afresh");
                }
            }
        }
    }

    async fn round(&mut self) -> Result<()> {
        let shown = match look(&mut self.redis).await {
            Ok(shown) => shown,
            Err(error) => {
                self.liveness.blind(Instant::now());
                return Err(error);
            }
        };
        let settings = timeout(POSTGRES_ANSWER_MAX, observe::settings(&self.db))
            .await
            .map_err(|_| Error::Silent("Postgres"))??;

        let in_redis = shown.map.as_ref().map(|map| map.version);
        let now = Instant::now();
        self.remember(now, shown.map);
        let nodes = self
            .liveness
            .admit(now, shown.live)
            .map(|live| node::nodes(live, &settings.nodes));
        self.note(now, nodes.as_ref().map_or(0, Vec::len));

        let (Some(nodes), Some(lease)) = (nodes, self.lead.current(now)) else {
            return Ok(());
        };
        if nodes.is_empty() && self.last_known.is_none() {
            return Ok(()); // a cluster before its first gateway
        }
        let previous = self.last_known.as_ref();
        let seen = Observed {
            shards: self.shards,
            nodes,
            pins: settings.pins,
            previous: previous
                .filter(|map| map.shards.len() == usize::from(self.shards))
                .cloned(),
        };
        let layout = self
            .metrics
            .plan_seconds
            .observe_closure_duration(|| placement::plan(&seen));
        let Some(map) = next_map(lease.term, layout, previous, in_redis)? else {
            return Ok(());
        };
        // The plan took its time.
        if self.lead.current(Instant::now()) != Some(lease) {
            return Ok(());
        }
        self.publish(map).await
    }

    /// Keeps the newest map, and notices when Redis has forgotten everything.
    fn remember(&mut self, now: Instant, shown: Option<ClusterMap>) {
        match (shown, &self.last_known) {
            (Some(map), known) => {
                self.lead.saw_term(map.version.term);
                if known
                    .as_ref()
                    .is_none_or(|known| map.version > known.version)
                {
                    self.last_known = Some(map);
                }
            }
            (None, Some(_)) => self.liveness.flushed(now),
            (None, None) => {}
        }
    }

    fn note(&self, now: Instant, nodes: usize) {
        let version = self
            .last_known
            .as_ref()
            .map_or(0, |map| map.version.version);
        let metrics = &self.metrics;
        metrics
            .nodes_live
            .set(i64::try_from(nodes).unwrap_or(i64::MAX));
        metrics
            .map_version
            .set(i64::try_from(version).unwrap_or(i64::MAX));
        let frozen = self.liveness.is_frozen(now);
        if frozen && nodes > 0 && metrics.frozen.get() == 0 {
            tracing::warn!("placement stands still: too many nodes fell silent, or Redis did");
        }
        metrics.frozen.set(i64::from(frozen));
    }

    async fn publish(&mut self, map: ClusterMap) -> Result<()> {
        match apply::publish(&mut self.redis, &map).await {
            Ok(()) => {}
            Err(error) => {
                if let Error::LaterTerm(newer) = error {
                    self.lead.saw_term(newer.term);
                }
                return Err(error);
            }
        }
        let moved = moved(self.last_known.as_ref(), &map);
        self.metrics.maps_published.inc();
        self.metrics.shards_moved.inc_by(moved);
        let MapVersion { term, version } = map.version;
        let nodes = map.nodes.len();
        tracing::info!(term, version, nodes, moved, "published the map");
        self.last_known = Some(map);
        Ok(())
    }
}

async fn look(redis: &mut ConnectionManager) -> Result<Shown> {
    let shown = timeout(LOOK_MAX, observe::shown(redis)).await;
    shown.map_err(|_| Error::Silent("Redis"))?
}

/// The map to publish, if any: under a new version if anything changed, under the old one if
/// the term is new or Redis does not hold it.
///
/// Errors: [`Error::LaterTerm`] if the known map is of a later term than ours.
fn next_map(
    term: u64,
    layout: Layout,
    known: Option<&ClusterMap>,
    in_redis: Option<MapVersion>,
) -> Result<Option<ClusterMap>> {
    if let Some(known) = known.filter(|known| known.version.term > term) {
        return Err(Error::LaterTerm(known.version));
    }
    let same = known.is_some_and(|known| layout.is_that_of(known));
    let before = known.map_or(0, |known| known.version.version);
    let version = if same { before } else { before + 1 };
    let version = MapVersion { term, version };
    if same && in_redis == Some(version) {
        return Ok(None);
    }
    Ok(Some(layout.into_map(version)))
}

/// Shards with another owner than before.
fn moved(before: Option<&ClusterMap>, now: &ClusterMap) -> u64 {
    let shards = (0..=u16::MAX).map(ShardId).take(now.shards.len());
    let owner_changed =
        |shard: &ShardId| before.and_then(|map| map.owner(*shard)) != now.owner(*shard);
    shards.filter(owner_changed).count() as u64
}

#[cfg(test)]
mod tests {
    use guildhall_shared::cluster_map::Assignment;

    use super::*;

    fn version(term: u64, version: u64) -> MapVersion {
        MapVersion { term, version }
    }

    fn layout(relay: &str) -> Layout {
        Layout {
            nodes: vec!["a".to_owned()],
            relay_addrs: vec![relay.to_owned()],
            shards: vec![Assignment {
                owner: Some(0),
                standby: None,
            }],
        }
    }

    fn map(version: MapVersion, relay: &str) -> ClusterMap {
        layout(relay).into_map(version)
    }

    /// Version of the map to publish, for a layout at this relay address.
    fn next(
        term: u64,
        relay: &str,
        known: Option<MapVersion>,
        in_redis: Option<MapVersion>,
    ) -> Option<MapVersion> {
        let known = known.map(|known| map(known, "a:1"));
        let next = next_map(term, layout(relay), known.as_ref(), in_redis).unwrap();
        next.map(|map| map.version)
    }

    #[test]
    fn the_first_map_is_version_1() {
        assert_eq!(next(4, "a:1", None, None), Some(version(4, 1)));
    }

    #[test]
    fn an_unchanged_map_is_left_alone() {
        let held = Some(version(4, 9));
        assert_eq!(next(4, "a:1", held, held), None);
    }

    #[test]
    fn a_change_raises_the_version() {
        let held = Some(version(4, 9));
        assert_eq!(next(4, "a:2", held, held), Some(version(4, 10)));
        assert_eq!(next(5, "a:2", held, held), Some(version(5, 10)));
    }

    #[test]
    fn a_new_term_publishes_the_same_map_again() {
        let held = Some(version(4, 9));
        assert_eq!(next(5, "a:1", held, held), Some(version(5, 9)));
    }

    #[test]
    fn a_lost_or_rewound_map_is_published_again_under_its_version() {
        let known = Some(version(4, 9));
        assert_eq!(next(4, "a:1", known, None), known);
        assert_eq!(next(4, "a:1", known, Some(version(4, 8))), known);
    }

    #[test]
    fn a_map_of_a_later_term_is_never_replaced() {
        let known = map(version(5, 1), "a:1");
        let next = next_map(4, layout("a:2"), Some(&known), Some(known.version));
        assert!(matches!(next, Err(Error::LaterTerm(later)) if later == known.version));
    }

    #[test]
    fn moves_are_counted_by_owner() {
        let before = map(version(1, 1), "a:1");
        assert_eq!(moved(Some(&before), &before), 0);
        assert_eq!(moved(None, &before), 1);
    }
}
