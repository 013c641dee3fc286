//! The loop: observe, plan, step, publish. Each round looks at the whole state, so restart,
//! take-over, drain and a flush of Redis share one path.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use guildhall_redis::Connection;
use guildhall_shared::cluster_map::{ClusterMap, MapVersion, Nodes};
use guildhall_shared::shard::ShardId;
use serde_json::json;
use sqlx::PgPool;
use tokio::time::{sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use crate::apply;
use crate::config::{Config, POSTGRES_ANSWER_MAX};
use crate::error::{Error, Result};
use crate::journal::Journal;
use crate::leader::{Lead, Lease};
use crate::loads::{self, Balance, Loads};
use crate::motion::{self, Ended, Inputs, Motion, Step, Voluntary};
use crate::node::{self, Liveness, Node, Standing};
use crate::observe::{self, Shown};
use crate::placement::{self, Layout, Observed};
use crate::plans::{self, Finished};
use crate::settings::{self, Orders};
use crate::telemetry::Metrics;

/// Time between rounds. With a heartbeat's life of 6 s it decides how late a dead gateway
/// is noticed, and how long a flushed Redis has no map.
pub const ROUND: Duration = Duration::from_secs(1);
/// Time between looks at whether the step under way is over.
pub const GLANCE: Duration = Duration::from_millis(200);
/// A look at Redis that takes longer has failed.
const LOOK_MAX: Duration = Duration::from_secs(2);

/// Runs in every coordinator; those that do not lead only look, to know the map and the
/// nodes when they take over.
pub(crate) struct Reconciler {
    db: PgPool,
    redis: Connection,
    shards: u16,
    per_node_max: usize,
    /// `coordinator/<id>`.
    who: String,
    lead: Lead,
    /// Term of the last round that this process led.
    term: Option<u64>,
    liveness: Liveness,
    /// The newest map seen, also after Redis has lost it.
    last_known: Option<ClusterMap>,
    /// Version of the last map sent to Redis, whether or not it got there.
    tried: MapVersion,
    loads: Loads,
    motion: Motion,
    journal: Journal,
    metrics: Arc<Metrics>,
}

impl Reconciler {
    pub(crate) fn new(
        config: &Config,
        db: PgPool,
        redis: Connection,
        lead: Lead,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self {
            journal: Journal::new(db.clone(), &config.id),
            db,
            redis,
            shards: config.shards,
            per_node_max: usize::from(config.moves_per_node_max),
            who: format!("coordinator/{}", config.id),
            lead,
            term: None,
            liveness: Liveness::new(Instant::now()),
            last_known: None,
            tried: MapVersion::default(),
            loads: Loads::default(),
            motion: Motion::default(),
            metrics,
        }
    }

    /// Runs until `stop`.
    pub(crate) async fn run(&mut self, stop: &CancellationToken) {
        loop {
            let next = Instant::now() + ROUND;
            match self.round().await {
                Ok(()) => self.metrics.round_succeeded(Instant::now()),
                Err(error) => {
                    self.metrics.rounds_failed.inc();
                    tracing::warn!(%error, "round failed; the next one starts afresh");
                }
            }
            if self.lead.current(Instant::now()).is_none() {
                self.metrics.follows();
            }
            // What a round noted that did not come so far.
            self.journal.write().await;
            // A round is never cut short: what it publishes is under way no longer than that.
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.wait(next) => {}
            }
        }
    }

    /// Until the next round is due: sooner once the step under way is over.
    async fn wait(&mut self, next: Instant) {
        while self.motion.is_under_way() && Instant::now() + GLANCE < next {
            sleep_until((Instant::now() + GLANCE).into()).await;
            let live = match timeout(
                LOOK_MAX,
                observe::again(&mut self.redis, self.liveness.known()),
            )
            .await
            {
                // Of nodes that do not show nobody knows whether they have followed.
                Ok(Ok(live)) if self.liveness.are_all(&live) => live,
                Ok(_) | Err(_) => break, // the round will say so
            };
            if self.look_at_motion(&live) {
                return;
            }
        }
        sleep_until(next.into()).await;
    }

    async fn round(&mut self) -> Result<()> {
        let shown = match look(&mut self.redis).await {
            Ok(shown) => shown,
            Err(error) => {
                self.liveness.blind(Instant::now());
                return Err(error);
            }
        };
        let orders = timeout(POSTGRES_ANSWER_MAX, settings::read_from(&self.db))
            .await
            .map_err(|_| Error::Silent("Postgres"))??;

        let in_redis = shown.map.as_ref().map(|map| map.version);
        let now = Instant::now();
        // They refuse what is below their map, whatever Redis and Postgres have forgotten of it.
        for status in shown.live.values() {
            self.lead.saw_term(status.map.term);
        }
        self.remember(now, shown.map);
        let live = self.liveness.admit(now, shown.live).cloned();
        self.note(now, live.as_ref().map_or(0, Nodes::len));

        let lease = self.lead.current(now);
        self.take_term(now, lease);
        let (Some(live), Some(lease)) = (live, lease) else {
            return Ok(());
        };
        if live.is_empty() && self.last_known.is_none() {
            return Ok(()); // a cluster before its first gateway
        }
        let frozen = self.liveness.is_frozen(now);
        let ids: BTreeSet<String> = live.keys().cloned().collect();
        self.journal.compare(ids, frozen, self.version());
        let version = self.version();
        if let Some(step) = self.motion.shown(now, version) {
            self.arrived(&step, version).await;
        }
        self.look_at_motion(&live);

        let known = self.last_known.as_ref();
        self.loads.observe(now, self.shards, &live, known);
        let nodes = node::nodes(&live, &orders.settings.nodes);
        let seen = plans::observed(self.shards, nodes, &orders.settings, known, &self.loads);
        let held = orders.pause.is_some() || frozen || self.motion.is_under_way();
        let step = self.step(
            &seen,
            &live,
            if held { Voluntary::Hold } else { Voluntary::Go },
        );
        self.measure(&orders, &seen, &step);

        match next_map(lease.term, step.layout.clone(), known, in_redis, self.tried)? {
            // The plan took its time. A lease that was renewed meanwhile is still this term's.
            Some(_)
                if self.lead.current(Instant::now()).map(|now| now.term) != Some(lease.term) =>
            {
                return Ok(());
            }
            Some(map) => {
                let version = map.version;
                self.motion.sent(orders.now_ms, version, &step);
                self.publish(map).await?;
                self.motion
                    .began(Instant::now(), orders.now_ms, version, &step);
                self.arrived(&step, version).await;
            }
            None => {}
        }
        self.motion.rest(step.left);
        self.journal.write().await;
        self.journal
            .progress(lease.term, self.motion.progress())
            .await;
        self.finish(&orders, &live, &seen.nodes, &step).await
    }

    fn step(&self, seen: &Observed, live: &Nodes, voluntary: Voluntary) -> Step {
        self.metrics.plan_seconds.observe_closure_duration(|| {
            motion::step(&Inputs {
                seen,
                target: &placement::plan(seen),
                open: &loads::open_shards(self.shards, live, seen.previous.as_ref()),
                per_node_max: self.per_node_max,
                voluntary,
            })
        })
    }

    /// A leader of a new term knows nothing of the steps of the one before.
    fn take_term(&mut self, now: Instant, lease: Option<Lease>) {
        let term = lease.map(|lease| lease.term);
        if self.term == term {
            return;
        }
        self.term = term;
        self.journal.start_afresh();
        self.motion = match &self.last_known {
            Some(map) if lease.is_some() => Motion::inherit(now, map.version),
            _ => Motion::default(),
        };
        if let Some(term) = term {
            let version = self.version();
            self.journal
                .note("lead_taken", json!({ "term": term }), version);
        }
    }

    /// True if the step under way has ended by now.
    fn look_at_motion(&mut self, live: &Nodes) -> bool {
        let Some(ended) = self.motion.look(Instant::now(), live) else {
            return false;
        };
        if ended == Ended::TimedOut {
            let version = self.version();
            self.metrics.steps_timed_out.inc();
            tracing::warn!(
                term = version.term,
                version = version.version,
                "a step has not settled; the next one goes ahead"
            );
            self.journal.note("step_timed_out", json!({}), version);
        }
        true
    }

    /// Keeps the newest map, and notices when Redis has forgotten everything.
    fn remember(&mut self, now: Instant, shown: Option<ClusterMap>) {
        match (shown, &self.last_known) {
            (Some(map), known) => {
                self.liveness.map_shown();
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
        self.tried = map.version;
        match apply::publish(&mut self.redis, &map).await {
            Ok(()) => {}
            Err(error) => {
                if let Error::LaterTerm(newer) = error {
                    self.lead.saw_term(newer.term);
                }
                return Err(error);
            }
        }
        self.last_known = Some(map);
        Ok(())
    }

    /// Redis has the map of a step, as it said or as it shows.
    async fn arrived(&mut self, step: &Step, version: MapVersion) {
        let moved = step.moves.len();
        self.metrics.maps_published.inc();
        self.metrics.shards_moved.inc_by(moved as u64);
        let nodes = step.layout.nodes.len();
        tracing::info!(
            term = version.term,
            version = version.version,
            nodes,
            moved,
            "published the map"
        );
        self.loads.moved(Instant::now(), &step.moves);
        self.tell(step, version).await;
    }

    fn version(&self) -> MapVersion {
        let known = self.last_known.as_ref();
        known.map(|map| map.version).unwrap_or_default()
    }

    fn measure(&self, orders: &Orders, seen: &Observed, step: &Step) {
        let metrics = &self.metrics;
        let flag = |flag: bool| i64::from(flag);
        metrics.plan_pending.set(flag(orders.plan.is_some()));
        metrics.paused.set(flag(orders.pause.is_some()));
        metrics.moves_left.set(i64::from(step.left));
        if let Some(map) = &seen.previous {
            let unowned = i64::try_from(map.unowned()).unwrap_or(i64::MAX);
            metrics.shards_unowned.set(unowned);
            let balance = Balance::of(map, &orders.settings.nodes, &seen.loads);
            metrics.imbalance.set(i64::from(balance.shards_milli));
            let load = balance.load_milli.map_or(0, i64::from);
            metrics.load_imbalance.set(load);
        }
    }

    /// Writes down what this map moved.
    async fn tell(&mut self, step: &Step, version: MapVersion) {
        if step.moves.is_empty() {
            return;
        }
        if !step.in_motion.is_empty() {
            self.metrics.steps.inc();
        }
        self.journal.moved(&step.moves, version).await;
        let detail = json!({
            "moved": step.moves.len(),
            "in_motion": step.in_motion.len(),
            "left": step.left,
        });
        self.journal.note("step", detail, version);
    }

    /// Ends what has come true: single moves and the plan that runs.
    async fn finish(
        &self,
        orders: &Orders,
        live: &Nodes,
        nodes: &[Node],
        step: &Step,
    ) -> Result<()> {
        let rests = step.left == 0 && !self.motion.is_under_way();
        let accepts = |id: &String| {
            let mut accepting = nodes
                .iter()
                .filter(|node| node.standing == Standing::Accepting);
            accepting.any(|node| node.id == *id)
        };
        let map = self.last_known.as_ref();
        let named = |(shard, node): (&ShardId, &String)| (*shard, node.clone());
        let (there, others): (Vec<_>, Vec<_>) =
            orders.settings.moves.iter().partition(|(shard, node)| {
                map.is_some_and(|map| map.owner(**shard) == Some(node.as_str()))
            });
        // Until all is at rest, a move keeps its shard from being taken away again.
        let arrived: Vec<_> = there.into_iter().filter(|_| rests).map(named).collect();
        let dropped: Vec<_> = others
            .into_iter()
            .filter(|(_, node)| !accepts(node))
            .map(named)
            .collect();
        let plan = match orders.plan.filter(|_| rests) {
            Some(id) => (!self.are_leaving(id, orders, live).await?).then_some(id),
            None => None,
        };
        if arrived.is_empty() && dropped.is_empty() && plan.is_none() {
            return Ok(());
        }
        let done = Finished {
            arrived: &arrived,
            dropped: &dropped,
            plan,
            version: self.version(),
        };
        timeout(
            POSTGRES_ANSWER_MAX,
            plans::finish(&self.db, &self.who, done),
        )
        .await
        .map_err(|_| Error::Silent("Postgres"))?
    }

    /// Whether sessions are yet to leave a node that this plan drains.
    async fn are_leaving(&self, plan: i64, orders: &Orders, live: &Nodes) -> Result<bool> {
        let drained = timeout(POSTGRES_ANSWER_MAX, plans::drained_by(&self.db, plan))
            .await
            .map_err(|_| Error::Silent("Postgres"))??;
        let (settings, now_ms) = (&orders.settings, orders.now_ms);
        Ok(plans::are_leaving(&drained, settings, live, now_ms))
    }
}

async fn look(redis: &mut Connection) -> Result<Shown> {
    let shown = timeout(LOOK_MAX, observe::shown(redis)).await;
    shown.map_err(|_| Error::Silent("Redis"))?
}

/// The map to publish, if any: under a new version if anything changed, under the old one if
/// the term is new or Redis does not hold it.
///
/// A map that was `tried` and is not known may have reached nodes before Redis lost it: its
/// version is used up (I9).
///
/// Errors: [`Error::LaterTerm`] if the known map is of a later term than ours.
pub(crate) fn next_map(
    term: u64,
    layout: Layout,
    known: Option<&ClusterMap>,
    in_redis: Option<MapVersion>,
    tried: MapVersion,
) -> Result<Option<ClusterMap>> {
    if let Some(known) = known.filter(|known| known.version.term > term) {
        return Err(Error::LaterTerm(known.version));
    }
    let before = known.map(|known| known.version);
    let unsure = tried.term == term && before.is_none_or(|before| tried > before);
    let same = !unsure && known.is_some_and(|known| layout.is_that_of(known));
    let before = if unsure {
        tried.version
    } else {
        before.map_or(0, |before| before.version)
    };
    let version = if same { before } else { before + 1 };
    let version = MapVersion { term, version };
    if same && in_redis == Some(version) {
        return Ok(None);
    }
    Ok(Some(layout.into_map(version)))
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
            drains: Default::default(),
            stopping: Default::default(),
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
        let tried = MapVersion::default();
        let next = next_map(term, layout(relay), known.as_ref(), in_redis, tried).unwrap();
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
    fn a_version_that_may_have_reached_nodes_is_not_used_again() {
        let known = map(version(4, 9), "a:1");
        for relay in ["a:1", "a:2"] {
            let next = next_map(4, layout(relay), Some(&known), None, version(4, 10));
            let next = next.unwrap().map(|map| map.version);
            assert_eq!(next, Some(version(4, 11)));
        }
        let next = next_map(5, layout("a:2"), Some(&known), None, version(4, 10));
        let next = next.unwrap().map(|map| map.version);
        assert_eq!(next, Some(version(5, 10)), "a new term is above all before");
    }

    #[test]
    fn a_map_of_a_later_term_is_never_replaced() {
        let known = map(version(5, 1), "a:1");
        let tried = MapVersion::default();
        let next = next_map(4, layout("a:2"), Some(&known), Some(known.version), tried);
        assert!(matches!(next, Err(Error::LaterTerm(later)) if later == known.version));
    }
}
