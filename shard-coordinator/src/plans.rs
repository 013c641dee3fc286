//! Plans: changes that are tried before they are made. Owns `cluster_plan`, and the rule that
//! settings change by one plan at a time.

use std::sync::Arc;

use guildhall_shared::cluster_map::{ClusterMap, MapVersion, NodeState, Nodes};
use guildhall_shared::keys;
use guildhall_shared::operator::{
    Change, Move, Outcome, PlanInfo, PlanRequest, PlanState, ProblemCode,
};
use guildhall_shared::shard::ShardId;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use sqlx::{PgConnection, PgPool};

use crate::audit::{self, Deed};
use crate::error::Result;
use crate::loads::{self, Loads};
use crate::motion::{self, Inputs, Voluntary};
use crate::node;
use crate::observe::Shown;
use crate::placement::{self, Observed};
use crate::refusal::Refusal;
use crate::settings::{self, Orders, Settings, World};

/// Key of the advisory lock under which operators' changes are made one after the other. The API
/// has locks of its own in the same database.
const CHANGE_LOCK: i64 = i64::from_be_bytes(*b"guildctl");
/// A step that settles as fast as gateways report takes about this long.
const STEP_EXPECTED_MS: u64 = 1_000;
/// What a gateway is behind with a drain at most: it looks at the map, and tells how many sessions
/// are left, as often as it sends heartbeats.
const DRAIN_BEHIND_MS: u64 = 2 * keys::NODE_HEARTBEAT_MS;
/// Drafts and ended plans are forgotten after this many days, when another is made.
const KEPT_DAYS: f64 = 30.0;

/// The cluster as it shows, for a plan or a change.
#[derive(Debug, Clone)]
pub(crate) struct Scene {
    pub(crate) shown: Arc<Shown>,
    pub(crate) shards: u16,
    /// Shards a node may have in motion.
    pub(crate) per_node_max: usize,
}

impl Scene {
    pub(crate) fn live(&self) -> &Nodes {
        &self.shown.live
    }

    pub(crate) fn map(&self) -> Option<&ClusterMap> {
        self.shown.map.as_ref()
    }

    pub(crate) fn version(&self) -> MapVersion {
        self.map().map(|map| map.version).unwrap_or_default()
    }

    pub(crate) fn world(&self, now_ms: u64) -> World<'_> {
        World {
            live: self.live(),
            shards: self.shards,
            now_ms,
        }
    }

    /// What placement would see with these settings.
    fn seen(&self, settings: &Settings) -> Observed {
        observed(
            self.shards,
            node::nodes(self.live(), &settings.nodes),
            settings,
            self.map(),
            &Loads::reported(self.shards, self.live(), self.map()),
        )
    }
}

/// The input of placement.
pub(crate) fn observed(
    shards: u16,
    nodes: Vec<node::Node>,
    settings: &Settings,
    map: Option<&ClusterMap>,
    loads: &Loads,
) -> Observed {
    Observed {
        shards,
        nodes,
        pins: settings.pins.clone(),
        moves: settings.moves.clone(),
        loads: loads.by_shard().to_vec(),
        resting: loads.resting().clone(),
        previous: map
            .filter(|map| map.shards.len() == usize::from(shards))
            .cloned(),
    }
}

/// Opens a transaction in which nobody else changes what operators set.
async fn begin(db: &PgPool) -> Result<(sqlx::Transaction<'static, sqlx::Postgres>, Orders)> {
    let mut tx = db.begin().await?;
    sqlx::query!("select pg_advisory_xact_lock($1)", CHANGE_LOCK)
        .execute(&mut *tx)
        .await?;
    let orders = settings::read(&mut tx).await?;
    Ok((tx, orders))
}

fn refuse_while_running(orders: &Orders) -> Result<(), Refusal> {
    match orders.plan {
        Some(id) => Err(Refusal::new(
            ProblemCode::PlanRunning,
            format!("plan {id} runs; wait for its end or abort it"),
        )),
        None => Ok(()),
    }
}

/// Makes one change now; its row in the history.
///
/// Errors: what is wrong with it, or [`ProblemCode::PlanRunning`].
pub(crate) async fn change(
    db: &PgPool,
    who: &str,
    action: &str,
    change: Change,
    scene: &Scene,
) -> Result<i64, Refusal> {
    let (mut tx, orders) = begin(db).await?;
    refuse_while_running(&orders)?;
    let mut new = orders.settings.clone();
    new.change(std::slice::from_ref(&change), scene.world(orders.now_ms))?;
    settings::write(&mut tx, &orders.settings, &new).await?;
    let mut detail = serde_json::to_value(&change)?;
    if let Some(was) = orders.settings.replaced_by(&change) {
        detail["was"] = was;
    }
    let deed = Deed {
        who,
        action,
        detail,
        version: scene.version(),
    };
    let id = audit::record(&mut tx, deed).await?;
    tx.commit().await?;
    Ok(id)
}

/// Stores a plan and what it would lead to. Changes nothing else.
pub(crate) async fn make(
    db: &PgPool,
    who: &str,
    request: PlanRequest,
    scene: &Scene,
) -> Result<PlanInfo, Refusal> {
    let orders = settings::read_from(db).await?;
    let mut new = orders.settings.clone();
    new.change(&request.changes, scene.world(orders.now_ms))?;
    let fingerprint = fingerprint(&orders.settings, scene)?;
    let (trial, before) = (scene.clone(), orders.settings);
    // A plan of a large cluster takes a while, and the leader's rounds share this thread.
    let outcome = tokio::task::spawn_blocking(move || outcome(&trial, &before, &new))
        .await
        .map_err(|error| Refusal::new(ProblemCode::Internal, error.to_string()))?
        .ok_or_else(|| Refusal::new(ProblemCode::NoMap, "there is no map yet"))?;

    let mut tx = db.begin().await?;
    sqlx::query!(
        "delete from cluster_plan
         where state <> 'applying' and made_at < now() - $1::float8 * interval '1 day'",
        KEPT_DAYS,
    )
    .execute(&mut *tx)
    .await?;
    let id = sqlx::query_scalar!(
        "insert into cluster_plan (made_by, changes, fingerprint, outcome)
         values ($1, $2, $3, $4) returning plan_id",
        who,
        serde_json::to_value(&request.changes)?,
        fingerprint,
        serde_json::to_value(&outcome)?,
    )
    .fetch_one(&mut *tx)
    .await?;
    let deed = Deed {
        who,
        action: "plan",
        detail: json!({ "plan": id, "changes": request.changes, "moves": outcome.moves.len() }),
        version: scene.version(),
    };
    audit::record(&mut tx, deed).await?;
    let plan = read(&mut tx, id).await?.ok_or_else(unknown)?;
    tx.commit().await?;
    Ok(plan)
}

/// Makes a plan's changes, if everything is still as when it was made.
///
/// Errors: [`ProblemCode::UnknownPlan`], [`ProblemCode::PlanNotDraft`],
/// [`ProblemCode::PlanRunning`], [`ProblemCode::PlanStale`].
pub(crate) async fn apply(
    db: &PgPool,
    who: &str,
    id: i64,
    scene: &Scene,
) -> Result<PlanInfo, Refusal> {
    let (mut tx, orders) = begin(db).await?;
    let plan = read(&mut tx, id).await?.ok_or_else(unknown)?;
    if plan.state != PlanState::Draft {
        let message = "the plan was applied before";
        return Err(Refusal::new(ProblemCode::PlanNotDraft, message));
    }
    refuse_while_running(&orders)?;
    let made_from = sqlx::query_scalar!(
        "select fingerprint from cluster_plan where plan_id = $1",
        id
    )
    .fetch_one(&mut *tx)
    .await?;
    if made_from != fingerprint(&orders.settings, scene)? {
        let message = "nodes, settings or the map have changed since; make a new plan";
        return Err(Refusal::new(ProblemCode::PlanStale, message));
    }
    let mut new = orders.settings.clone();
    new.change(&plan.changes, scene.world(orders.now_ms))?;
    settings::write(&mut tx, &orders.settings, &new).await?;
    sqlx::query!(
        "update cluster_plan
         set state = 'applying', applied_at = now(), applied_by = $2, settings_before = $3
         where plan_id = $1",
        id,
        who,
        serde_json::to_value(&orders.settings)?,
    )
    .execute(&mut *tx)
    .await?;
    let deed = Deed {
        who,
        action: "plan_apply",
        detail: json!({ "plan": id, "changes": plan.changes }),
        version: scene.version(),
    };
    audit::record(&mut tx, deed).await?;
    // One that is forgotten at this moment is not applied.
    let plan = read(&mut tx, id).await?.ok_or_else(unknown)?;
    tx.commit().await?;
    Ok(plan)
}

/// Ends the plan that runs and puts back what was set before it, or, without one, drops single
/// moves that are not over. Shards that have moved stay, as far as the settings let them.
///
/// Errors: [`ProblemCode::NothingToAbort`], also if the plan has just come to its end.
pub(crate) async fn abort(db: &PgPool, who: &str, version: MapVersion) -> Result<i64, Refusal> {
    let (mut tx, orders) = begin(db).await?;
    let mut new = orders.settings.clone();
    let detail = if let Some(id) = orders.plan {
        // The leader may end it at the same moment: whichever of these statements is first.
        let before = sqlx::query_scalar!(
            "update cluster_plan set state = 'aborted', ended_at = now()
             where plan_id = $1 and state = 'applying' returning settings_before",
            id,
        )
        .fetch_optional(&mut *tx)
        .await?;
        let Some(before) = before else {
            let message = format!("plan {id} was done before it could be aborted");
            return Err(Refusal::new(ProblemCode::NothingToAbort, message));
        };
        let before: Settings = serde_json::from_value(before.unwrap_or(Value::Null))?;
        let current = std::mem::replace(&mut new, before);
        // Those that have arrived meanwhile are over.
        new.moves
            .retain(|shard, _| current.moves.contains_key(shard));
        json!({ "plan": id })
    } else {
        new.moves.clear();
        // Not what was read: some may have arrived meanwhile.
        let mut shards = sqlx::query_scalar!("delete from cluster_move returning shard")
            .fetch_all(&mut *tx)
            .await?;
        if shards.is_empty() {
            let message = "no plan runs and no move is requested";
            return Err(Refusal::new(ProblemCode::NothingToAbort, message));
        }
        shards.sort_unstable();
        json!({ "shards": shards })
    };
    settings::write(&mut tx, &orders.settings, &new).await?;
    let deed = Deed {
        who,
        action: "abort",
        detail,
        version,
    };
    let id = audit::record(&mut tx, deed).await?;
    tx.commit().await?;
    Ok(id)
}

/// Stops voluntary moves, or lets them go on; the row in the history.
pub(crate) async fn pause(
    db: &PgPool,
    who: &str,
    pause: Pausing,
    version: MapVersion,
) -> Result<i64, Refusal> {
    let mut tx = db.begin().await?;
    let action = match pause {
        Pausing::Pause => {
            sqlx::query!(
                "insert into cluster_pause (who) values ($1) on conflict do nothing",
                who
            )
            .execute(&mut *tx)
            .await?;
            "pause"
        }
        Pausing::Resume => {
            sqlx::query!("delete from cluster_pause")
                .execute(&mut *tx)
                .await?;
            "resume"
        }
    };
    let deed = Deed {
        who,
        action,
        detail: json!({}),
        version,
    };
    let id = audit::record(&mut tx, deed).await?;
    tx.commit().await?;
    Ok(id)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pausing {
    Pause,
    Resume,
}

/// Everything is where it is to be: single moves are over, and so is the plan that runs.
/// Single moves whose node no longer takes shards can never be, and are dropped.
pub(crate) async fn finish(db: &PgPool, who: &str, done: Finished<'_>) -> Result<()> {
    let mut tx = db.begin().await?;
    // The plan before the moves, as an abort does it: neither waits for what the other has.
    let ended = match done.plan {
        Some(id) => {
            let ended = sqlx::query!(
                "update cluster_plan set state = 'done', ended_at = now()
                 where plan_id = $1 and state = 'applying'",
                id,
            )
            .execute(&mut *tx)
            .await?;
            // Else it was aborted meanwhile.
            (ended.rows_affected() > 0).then_some(id)
        }
        None => None,
    };
    let over = || done.arrived.iter().chain(done.dropped);
    let shards: Vec<i32> = over().map(|(shard, _)| i32::from(shard.0)).collect();
    let nodes: Vec<String> = over().map(|(_, node)| node.clone()).collect();
    // What was asked again since, for another node, stays.
    sqlx::query!(
        "delete from cluster_move using unnest($1::int[], $2::text[]) as over (shard, node_id)
         where cluster_move.shard = over.shard and cluster_move.node_id = over.node_id",
        &shards,
        &nodes,
    )
    .execute(&mut *tx)
    .await?;
    let mut deeds = Vec::new();
    if !done.dropped.is_empty() {
        deeds.push(("move_dropped", json!({ "moves": done.dropped })));
    }
    if let Some(id) = ended {
        deeds.push(("plan_done", json!({ "plan": id })));
    }
    for (action, detail) in deeds {
        let deed = Deed {
            who,
            action,
            detail,
            version: done.version,
        };
        audit::record(&mut tx, deed).await?;
    }
    tx.commit().await?;
    Ok(())
}

#[derive(Debug)]
pub(crate) struct Finished<'a> {
    pub(crate) arrived: &'a [(ShardId, String)],
    pub(crate) dropped: &'a [(ShardId, String)],
    pub(crate) plan: Option<i64>,
    pub(crate) version: MapVersion,
}

/// Nodes that a plan drains.
pub(crate) async fn drained_by(db: &PgPool, id: i64) -> Result<Vec<String>> {
    let nodes = sqlx::query_scalar!(
        r#"select change->>'node' as "node!"
           from cluster_plan, jsonb_array_elements(changes) as list (change)
           where plan_id = $1 and change->>'change' = 'drain'"#,
        id,
    )
    .fetch_all(db)
    .await?;
    Ok(nodes)
}

/// Whether sessions are yet to leave any of these nodes that drain. Whoever stays when the time of
/// the drain is over, or comes back, is not waited for.
pub(crate) fn are_leaving(
    drained: &[String],
    settings: &Settings,
    live: &Nodes,
    now_ms: u64,
) -> bool {
    drained.iter().any(|id| {
        let drain = settings.nodes.get(id).and_then(|setting| setting.drain);
        let is_over = drain.is_none_or(|drain| {
            let until_ms = drain.since_ms.saturating_add(drain.over_ms);
            now_ms >= until_ms.saturating_add(DRAIN_BEHIND_MS)
        });
        !is_over && live.get(id).is_some_and(|status| status.sessions > 0)
    })
}

/// A plan by its id.
pub(crate) async fn read(db: &mut PgConnection, id: i64) -> Result<Option<PlanInfo>> {
    let row = sqlx::query!(
        r#"select plan_id, state, made_by, applied_by, changes, outcome,
             (extract(epoch from made_at) * 1000)::bigint as "made_at_ms!",
             (extract(epoch from applied_at) * 1000)::bigint as applied_at_ms,
             (extract(epoch from ended_at) * 1000)::bigint as ended_at_ms
           from cluster_plan where plan_id = $1"#,
        id,
    )
    .fetch_optional(db)
    .await?;
    let Some(row) = row else {
        return Ok(None);
    };
    Ok(Some(PlanInfo {
        id: row.plan_id,
        state: serde_json::from_value(Value::String(row.state))?,
        changes: serde_json::from_value(row.changes)?,
        made_at_ms: row.made_at_ms.unsigned_abs(),
        made_by: row.made_by,
        applied_at_ms: row.applied_at_ms.map(i64::unsigned_abs),
        applied_by: row.applied_by,
        ended_at_ms: row.ended_at_ms.map(i64::unsigned_abs),
        outcome: serde_json::from_value(row.outcome)?,
    }))
}

fn unknown() -> Refusal {
    Refusal::new(ProblemCode::UnknownPlan, "there is no such plan")
}

/// Of all a plan is made from but the loads, which never stand still.
fn fingerprint(settings: &Settings, scene: &Scene) -> Result<String, Refusal> {
    let live: Vec<(&String, bool)> = scene
        .live()
        .iter()
        .map(|(id, status)| (id, status.stopping))
        .collect();
    let owners: Vec<Option<&str>> = scene.map().map_or(Vec::new(), |map| {
        let shards = (0..=u16::MAX).map(ShardId).take(map.shards.len());
        shards.map(|shard| map.owner(shard)).collect()
    });
    let inputs = serde_json::to_vec(&(settings, live, owners))?;
    Ok(hex::encode(Sha256::digest(inputs)))
}

/// What the settings lead to, against those before; `None` without a map.
fn outcome(scene: &Scene, before: &Settings, after: &Settings) -> Option<Outcome> {
    let map = scene.map()?;
    let seen = scene.seen(after);
    let target = placement::plan(&seen);
    let step = motion::step(&Inputs {
        seen: &seen,
        target: &target,
        open: &[],
        per_node_max: usize::MAX,
        voluntary: Voluntary::Go,
    });
    let now = loads::Balance::of(map, &before.nodes, &seen.loads);
    let then = target.layout.into_map(map.version);
    let then = loads::Balance::of(&then, &after.nodes, &seen.loads);
    let load = |go: &Move| {
        seen.loads
            .get(usize::from(go.shard.0))
            .copied()
            .map_or(0, u64::from)
    };

    let drains = |id: &String, settings: &Settings| {
        let setting = settings.nodes.get(id);
        setting.is_some_and(|setting| setting.state == NodeState::Draining)
    };
    let leaving = |id: &String| drains(id, after) && !drains(id, before);
    let gone = || scene.live().iter().filter(|(id, _)| leaving(id));
    // Else gateways keep their clients, who could only come back.
    let mut live = scene.live().iter();
    let somebody_stays = live.any(|(id, status)| !status.stopping && !drains(id, after));
    let sessions: u64 = gone().map(|(_, status)| status.sessions).sum();
    let drain_ms = gone()
        .filter_map(|(id, _)| after.nodes.get(id)?.drain)
        .map(|drain| drain.over_ms)
        .max()
        .unwrap_or(0);
    let open = loads::open_shards(scene.shards, scene.live(), Some(map));
    let steps = motion::steps(&step.moves, &open, scene.per_node_max);
    let moves_ms = u64::from(steps) * STEP_EXPECTED_MS;
    Some(Outcome {
        imbalance_before_milli: now.shards_milli,
        imbalance_after_milli: then.shards_milli,
        load_imbalance_before_milli: now.load_milli,
        load_imbalance_after_milli: then.load_milli,
        sessions: if somebody_stays { sessions } else { 0 },
        stuck: step.left,
        events_per_s: step.moves.iter().map(load).sum::<u64>() / 60,
        steps,
        seconds: u32::try_from(moves_ms.max(drain_ms).div_ceil(1_000)).unwrap_or(u32::MAX),
        moves: step.moves,
    })
}

#[cfg(test)]
mod tests {
    use guildhall_shared::cluster_map::{Drain, NodeStatus};

    use super::*;
    use crate::node::{NodeSetting, Weight};

    fn live(sessions: u64) -> Nodes {
        let status = json!({
            "id": "a", "boot_id": "b", "relay_addr": "h:1", "gateway_url": "", "stopping": false,
            "map": MapVersion::default(), "sessions": sessions, "realms_owned": 0,
            "dispatches_per_s": 0, "at_ms": 0,
        });
        let status: NodeStatus = serde_json::from_value(status).unwrap();
        Nodes::from([(status.id.clone(), status)])
    }

    #[test]
    fn sessions_of_a_drain_are_leaving_until_they_have_left_or_its_time_is_over() {
        let drained = ["a".to_owned()];
        let mut settings = Settings::default();
        let setting = NodeSetting {
            weight: Weight::NORMAL,
            state: NodeState::Draining,
            drain: Some(Drain {
                since_ms: 1_000,
                over_ms: 60_000,
            }),
        };
        settings.nodes.insert("a".to_owned(), setting);
        let end_ms = 61_000 + DRAIN_BEHIND_MS;
        assert!(are_leaving(&drained, &settings, &live(1), 1_000));
        assert!(are_leaving(&drained, &settings, &live(1), end_ms - 1));
        assert!(!are_leaving(&drained, &settings, &live(1), end_ms));
        assert!(!are_leaving(&drained, &settings, &live(0), 1_000));
        assert!(
            !are_leaving(&drained, &settings, &Nodes::new(), 1_000),
            "gone"
        );
        assert!(
            !are_leaving(&[], &settings, &live(1), 1_000),
            "a drain of before the plan"
        );
        assert!(
            !are_leaving(&drained, &Settings::default(), &live(1), 1_000),
            "the plan undrains it again"
        );
    }
}
