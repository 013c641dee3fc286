//! What operators set, and how a change changes it. Owns `cluster_node`, `cluster_pin`,
//! `cluster_move` and `cluster_pause`. Decides nothing about shards.

use std::collections::BTreeMap;

use guildhall_shared::cluster_map::{Drain, NodeState, Nodes};
use guildhall_shared::operator::{
    CHANGES_MAX, Change, DRAIN_OVER_S_MAX, Pause, ProblemCode, WEIGHT,
};
use guildhall_shared::shard::ShardId;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sqlx::{PgConnection, PgPool};

use crate::error::Result;
use crate::node::{NodeSetting, Standing, Weight};
use crate::refusal::Refusal;

/// Settings that placement works with. Nodes without an entry have the default.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct Settings {
    pub(crate) nodes: BTreeMap<String, NodeSetting>,
    pub(crate) pins: BTreeMap<ShardId, String>,
    /// Single moves that are not over.
    pub(crate) moves: BTreeMap<ShardId, String>,
}

/// Settings, and what holds them up or drives them.
#[derive(Debug, Clone)]
pub(crate) struct Orders {
    pub(crate) settings: Settings,
    pub(crate) pause: Option<Pause>,
    /// The plan that runs.
    pub(crate) plan: Option<i64>,
    /// Postgres' clock, Unix milliseconds.
    pub(crate) now_ms: u64,
}

/// What a change is checked against.
#[derive(Debug, Clone, Copy)]
pub(crate) struct World<'a> {
    pub(crate) live: &'a Nodes,
    pub(crate) shards: u16,
    pub(crate) now_ms: u64,
}

/// Reads everything. The plan first: whoever sees it running sees what it set as well.
pub(crate) async fn read(db: &mut PgConnection) -> Result<Orders> {
    let head = sqlx::query!(
        r#"select (extract(epoch from clock_timestamp()) * 1000)::bigint as "now_ms!",
             (select plan_id from cluster_plan where state = 'applying') as plan"#
    )
    .fetch_one(&mut *db)
    .await?;
    let pause = sqlx::query!(
        r#"select (extract(epoch from since) * 1000)::bigint as "since_ms!", who
           from cluster_pause"#
    )
    .fetch_optional(&mut *db)
    .await?;
    let nodes = sqlx::query!(
        "select node_id, weight, state, drain_over_ms,
           (extract(epoch from drain_since) * 1000)::bigint as drain_since_ms
         from cluster_node"
    )
    .fetch_all(&mut *db)
    .await?;
    let nodes = nodes.into_iter().map(|row| {
        let state = node_state(&row.state);
        let drain = row.drain_since_ms.zip(row.drain_over_ms);
        let drain = drain.filter(|_| state == NodeState::Draining);
        let setting = NodeSetting {
            weight: Weight::new(row.weight),
            state,
            drain: drain.map(|(since, over)| Drain {
                since_ms: since.unsigned_abs(),
                over_ms: over.unsigned_abs(),
            }),
        };
        (row.node_id, setting)
    });
    let pins = sqlx::query!("select shard, node_id from cluster_pin")
        .fetch_all(&mut *db)
        .await?;
    let moves = sqlx::query!("select shard, node_id from cluster_move")
        .fetch_all(&mut *db)
        .await?;
    let shard = |shard: i32| u16::try_from(shard).ok().map(ShardId);
    Ok(Orders {
        settings: Settings {
            nodes: nodes.collect(),
            pins: pins
                .into_iter()
                .filter_map(|row| Some((shard(row.shard)?, row.node_id)))
                .collect(),
            moves: moves
                .into_iter()
                .filter_map(|row| Some((shard(row.shard)?, row.node_id)))
                .collect(),
        },
        pause: pause.map(|row| Pause {
            since_ms: row.since_ms.unsigned_abs(),
            by: row.who,
        }),
        plan: head.plan,
        now_ms: head.now_ms.unsigned_abs(),
    })
}

/// [`read`] on a connection of the pool.
pub(crate) async fn read_from(db: &PgPool) -> Result<Orders> {
    read(&mut *db.acquire().await?).await
}

/// An unknown word moves nothing in either direction.
fn node_state(word: &str) -> NodeState {
    match word {
        "active" => NodeState::Active,
        "draining" => NodeState::Draining,
        "cordoned" => NodeState::Cordoned,
        _ => {
            tracing::warn!(
                state = word,
                "unknown state in cluster_node, read as cordoned"
            );
            NodeState::Cordoned
        }
    }
}

fn word(state: NodeState) -> &'static str {
    match state {
        NodeState::Active => "active",
        NodeState::Cordoned => "cordoned",
        NodeState::Draining => "draining",
    }
}

/// Writes what differs.
pub(crate) async fn write(db: &mut PgConnection, old: &Settings, new: &Settings) -> Result<()> {
    for (id, setting) in &new.nodes {
        if old.nodes.get(id) == Some(setting) {
            continue;
        }
        let drain = setting.drain;
        sqlx::query!(
            "insert into cluster_node (node_id, weight, state, drain_since, drain_over_ms)
             values ($1, $2::float8::real, $3, to_timestamp($4::float8 / 1000), $5)
             on conflict (node_id) do update
             set weight = excluded.weight, state = excluded.state,
                 drain_since = excluded.drain_since, drain_over_ms = excluded.drain_over_ms",
            id,
            setting.weight.number(),
            word(setting.state),
            drain.map(|drain| drain.since_ms as f64),
            drain.map(|drain| i64::try_from(drain.over_ms).unwrap_or(i64::MAX)),
        )
        .execute(&mut *db)
        .await?;
    }
    for id in old.nodes.keys().filter(|id| !new.nodes.contains_key(*id)) {
        sqlx::query!("delete from cluster_node where node_id = $1", id)
            .execute(&mut *db)
            .await?;
    }
    let (gone, come) = differences(&old.pins, &new.pins);
    sqlx::query!("delete from cluster_pin where shard = any($1)", &gone)
        .execute(&mut *db)
        .await?;
    sqlx::query!(
        "insert into cluster_pin (shard, node_id) select * from unnest($1::int[], $2::text[])",
        &come.0,
        &come.1,
    )
    .execute(&mut *db)
    .await?;
    let (gone, come) = differences(&old.moves, &new.moves);
    sqlx::query!("delete from cluster_move where shard = any($1)", &gone)
        .execute(&mut *db)
        .await?;
    sqlx::query!(
        "insert into cluster_move (shard, node_id) select * from unnest($1::int[], $2::text[])",
        &come.0,
        &come.1,
    )
    .execute(&mut *db)
    .await?;
    Ok(())
}

/// Rows to delete, and rows to insert after that.
fn differences(
    old: &BTreeMap<ShardId, String>,
    new: &BTreeMap<ShardId, String>,
) -> (Vec<i32>, (Vec<i32>, Vec<String>)) {
    let differs = |(shard, node): &(&ShardId, &String), other: &BTreeMap<ShardId, String>| {
        other.get(shard) != Some(*node)
    };
    let gone = old.iter().filter(|entry| differs(entry, new));
    let come = new.iter().filter(|entry| differs(entry, old));
    (
        gone.map(|(shard, _)| i32::from(shard.0)).collect(),
        come.map(|(shard, node)| (i32::from(shard.0), node.clone()))
            .unzip(),
    )
}

impl Settings {
    /// Makes the changes one after the other.
    ///
    /// Errors: what is wrong with the first that cannot be made; some may have been made then.
    pub(crate) fn change(&mut self, changes: &[Change], world: World<'_>) -> Result<(), Refusal> {
        if changes.is_empty() || changes.len() > CHANGES_MAX {
            let message = format!("a plan has 1 to {CHANGES_MAX} changes");
            return Err(Refusal::new(ProblemCode::BadRequest, message));
        }
        changes
            .iter()
            .try_for_each(|change| self.change_one(change, world))?;
        // A node that is gone is forgotten once nothing is set for it.
        self.nodes
            .retain(|_, setting| *setting != NodeSetting::default());
        Ok(())
    }

    /// What a change replaces, for who wants it back; `None` of moves, which replace nothing that
    /// is set.
    pub(crate) fn replaced_by(&self, change: &Change) -> Option<Value> {
        let setting = |node: &String| self.nodes.get(node).copied().unwrap_or_default();
        Some(match change {
            Change::Cordon { node }
            | Change::Uncordon { node }
            | Change::Drain { node, .. }
            | Change::Undrain { node } => json!(setting(node).state),
            Change::Weight { node, .. } => json!(setting(node).weight.number()),
            Change::Pin { shard, .. } | Change::Unpin { shard } => json!(self.pins.get(shard)),
            Change::Move { .. } => return None,
        })
    }

    fn change_one(&mut self, change: &Change, world: World<'_>) -> Result<(), Refusal> {
        match change {
            Change::Cordon { node } => {
                let setting = self.node(node, world)?;
                if setting.state == NodeState::Draining {
                    // It would end a drain that somebody else may have begun.
                    let message = format!("{node:?} is draining: undrain it first");
                    return Err(Refusal::new(ProblemCode::BadRequest, message));
                }
                (setting.state, setting.drain) = (NodeState::Cordoned, None);
            }
            Change::Uncordon { node } => self.activate(node, NodeState::Cordoned, world)?,
            Change::Drain { node, over_s } => {
                if *over_s > DRAIN_OVER_S_MAX {
                    let message = format!("over_s: at most {DRAIN_OVER_S_MAX}");
                    return Err(Refusal::new(ProblemCode::BadRequest, message));
                }
                let setting = self.node(node, world)?;
                setting.state = NodeState::Draining;
                setting.drain = Some(Drain {
                    since_ms: world.now_ms,
                    over_ms: u64::from(*over_s) * 1_000,
                });
            }
            Change::Undrain { node } => self.activate(node, NodeState::Draining, world)?,
            Change::Weight { node, weight } => {
                if !WEIGHT.contains(weight) {
                    let message = format!("weight: {} to {}", WEIGHT.start(), WEIGHT.end());
                    return Err(Refusal::new(ProblemCode::BadRequest, message));
                }
                // Within bounds, so narrowing loses no more than digits nobody sees.
                self.node(node, world)?.weight = Weight::new(*weight as f32);
            }
            Change::Pin { shard, node } => {
                known_shard(*shard, world)?;
                self.node(node, world)?;
                self.pins.insert(*shard, node.clone());
                self.moves.remove(shard);
            }
            Change::Unpin { shard } => {
                known_shard(*shard, world)?;
                self.pins.remove(shard);
            }
            Change::Move { shards, guild, to } => {
                let of_guild = guild.map(|guild| ShardId::of(guild, world.shards));
                let shards: Vec<ShardId> = shards.iter().copied().chain(of_guild).collect();
                self.move_shards(&shards, to, world)?;
            }
        }
        Ok(())
    }

    /// The setting of a node that is live or set up.
    fn node(&mut self, id: &str, world: World<'_>) -> Result<&mut NodeSetting, Refusal> {
        if !world.live.contains_key(id) && !self.nodes.contains_key(id) {
            let message = format!("no gateway {id:?} is live or set up");
            return Err(Refusal::new(ProblemCode::UnknownNode, message));
        }
        Ok(self.nodes.entry(id.to_owned()).or_default())
    }

    /// Ends a state; one that does not hold is no error unless another does.
    fn activate(&mut self, id: &str, ends: NodeState, world: World<'_>) -> Result<(), Refusal> {
        let setting = self.node(id, world)?;
        if setting.state != ends && setting.state != NodeState::Active {
            let message = format!("{id:?} is {}, not {}", word(setting.state), word(ends));
            return Err(Refusal::new(ProblemCode::BadRequest, message));
        }
        (setting.state, setting.drain) = (NodeState::Active, None);
        Ok(())
    }

    fn move_shards(
        &mut self,
        shards: &[ShardId],
        to: &str,
        world: World<'_>,
    ) -> Result<(), Refusal> {
        if shards.is_empty() {
            let message = "a move names shards or a guild".to_owned();
            return Err(Refusal::new(ProblemCode::BadRequest, message));
        }
        let state = self.node(to, world)?.state;
        let stopping = world.live.get(to).map(|status| status.stopping);
        let standing = stopping.map(|stopping| Standing::of(state, stopping));
        if standing != Some(Standing::Accepting) {
            let message = format!("{to:?} is not live or takes no shards");
            return Err(Refusal::new(ProblemCode::NodeNotAccepting, message));
        }
        for shard in shards {
            known_shard(*shard, world)?;
            if self.pins.contains_key(shard) {
                let message = format!("shard {} is pinned", shard.0);
                return Err(Refusal::new(ProblemCode::ShardPinned, message));
            }
            self.moves.insert(*shard, to.to_owned());
        }
        Ok(())
    }
}

fn known_shard(shard: ShardId, world: World<'_>) -> Result<(), Refusal> {
    if shard.0 < world.shards {
        return Ok(());
    }
    let message = format!("the cluster has {} shards", world.shards);
    Err(Refusal::new(ProblemCode::UnknownShard, message))
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: &str = "gateway-1";

    fn changed(changes: &[Change]) -> Result<Settings, Refusal> {
        let status = serde_json::json!({
            "id": A, "boot_id": "b", "relay_addr": "h:1", "gateway_url": "", "stopping": false,
            "map": { "term": 1, "version": 1 }, "sessions": 0, "realms_owned": 0,
            "dispatches_per_s": 0, "at_ms": 0,
        });
        let live = Nodes::from([(A.to_owned(), serde_json::from_value(status).unwrap())]);
        let world = World {
            live: &live,
            shards: 256,
            now_ms: 5,
        };
        let mut settings = Settings::default();
        settings.change(changes, world).map(|()| settings)
    }

    fn code(changes: &[Change]) -> ProblemCode {
        changed(changes).unwrap_err().0.code
    }

    fn drain() -> Change {
        Change::Drain {
            node: A.to_owned(),
            over_s: 30,
        }
    }

    fn move_to(to: &str, shards: &[u16]) -> Change {
        Change::Move {
            shards: shards.iter().copied().map(ShardId).collect(),
            guild: None,
            to: to.to_owned(),
        }
    }

    #[test]
    fn settings_survive_json() {
        let pin = Change::Pin {
            shard: ShardId(7),
            node: A.to_owned(),
        };
        let settings = changed(&[move_to(A, &[3]), pin, drain()]).unwrap();
        let json = serde_json::to_value(&settings).unwrap();
        assert_eq!(serde_json::from_value::<Settings>(json).unwrap(), settings);
        assert_eq!(
            settings.nodes[A].drain,
            Some(Drain {
                since_ms: 5,
                over_ms: 30_000
            })
        );
    }

    #[test]
    fn a_later_change_sees_those_before() {
        assert_eq!(
            code(&[drain(), move_to(A, &[3])]),
            ProblemCode::NodeNotAccepting
        );
        let undrain = Change::Undrain { node: A.to_owned() };
        let settings = changed(&[drain(), undrain, move_to(A, &[3])]).unwrap();
        assert!(settings.nodes.is_empty());
        assert_eq!(settings.moves[&ShardId(3)], A);
    }

    #[test]
    fn a_node_that_is_gone_is_forgotten_once_nothing_is_set_for_it() {
        let mut settings = changed(&[drain()]).unwrap();
        let live = Nodes::new();
        let world = World {
            live: &live,
            shards: 256,
            now_ms: 6,
        };
        let undrain = [Change::Undrain { node: A.to_owned() }];
        settings.change(&undrain, world).unwrap();
        assert_eq!(settings, Settings::default());
        let again = settings.change(&undrain, world).unwrap_err();
        assert_eq!(again.0.code, ProblemCode::UnknownNode);
    }

    #[test]
    fn what_cannot_be_is_refused_by_code() {
        let weight = |weight| Change::Weight {
            node: A.to_owned(),
            weight,
        };
        let pin = |shard, node: &str| Change::Pin {
            shard: ShardId(shard),
            node: node.to_owned(),
        };
        assert_eq!(code(&[]), ProblemCode::BadRequest);
        assert_eq!(code(&[weight(0.0)]), ProblemCode::BadRequest);
        assert_eq!(code(&[weight(f64::NAN)]), ProblemCode::BadRequest);
        assert_eq!(code(&[pin(256, A)]), ProblemCode::UnknownShard);
        assert_eq!(code(&[pin(0, "nobody")]), ProblemCode::UnknownNode);
        assert_eq!(code(&[move_to(A, &[])]), ProblemCode::BadRequest);
        let pinned = [pin(3, A), move_to(A, &[3])];
        assert_eq!(code(&pinned), ProblemCode::ShardPinned);
        let uncordon = Change::Uncordon { node: A.to_owned() };
        assert_eq!(code(&[drain(), uncordon]), ProblemCode::BadRequest);
        let cordon = || Change::Cordon { node: A.to_owned() };
        assert_eq!(code(&[drain(), cordon()]), ProblemCode::BadRequest);
        let settings = changed(&[cordon(), drain()]).unwrap();
        assert_eq!(settings.nodes[A].state, NodeState::Draining);
    }

    #[test]
    fn what_a_change_replaces_is_known() {
        let node = || A.to_owned();
        let shard = ShardId(7);
        let weight = Change::Weight {
            node: node(),
            weight: 2.0,
        };
        let pin = Change::Pin {
            shard,
            node: node(),
        };
        let before = Settings::default();
        assert_eq!(before.replaced_by(&weight), Some(json!(1.0)));
        assert_eq!(before.replaced_by(&pin), Some(Value::Null));
        assert_eq!(before.replaced_by(&drain()), Some(json!("active")));
        let after = changed(&[weight.clone(), pin, drain()]).unwrap();
        assert_eq!(after.replaced_by(&weight), Some(json!(2.0)));
        let unpin = Change::Unpin { shard };
        assert_eq!(after.replaced_by(&unpin), Some(json!(A)));
        let undrain = Change::Undrain { node: node() };
        assert_eq!(after.replaced_by(&undrain), Some(json!("draining")));
        assert_eq!(after.replaced_by(&move_to(A, &[3])), None);
    }

    #[test]
    fn only_what_differs_is_written() {
        let old = BTreeMap::from([(ShardId(1), "a".to_owned()), (ShardId(2), "a".to_owned())]);
        let new = BTreeMap::from([(ShardId(2), "b".to_owned()), (ShardId(3), "a".to_owned())]);
        let (gone, come) = differences(&old, &new);
        assert_eq!(gone, [1, 2]);
        assert_eq!(come, (vec![2, 3], vec!["b".to_owned(), "a".to_owned()]));
        assert_eq!(differences(&new, &new), (vec![], (vec![], vec![])));
    }
}
