//! What shards cost and which are open, from what nodes report. `now` is passed in.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use guildhall_shared::cluster_map::{ClusterMap, NodeState, Nodes, ShardLoad};
use guildhall_shared::operator::Move;
use guildhall_shared::shard::{ShardId, ShardSet};

use crate::node::NodeSetting;
use crate::placement;

/// A shard that moved is not moved for its load again so soon.
const REST: Duration = Duration::from_secs(60);

/// Load per shard. A shard that has just moved is new to its owner, which reports little of it
/// yet: until it has rested, it counts as much as it did before.
#[derive(Debug, Default)]
pub(crate) struct Loads {
    by_shard: Vec<u32>,
    resting: BTreeSet<ShardId>,
    moved: BTreeMap<ShardId, Moved>,
}

#[derive(Debug)]
struct Moved {
    at: Instant,
    load: u32,
}

impl Loads {
    /// Only what is reported now.
    pub(crate) fn reported(shards: u16, live: &Nodes, map: Option<&ClusterMap>) -> Self {
        let mut loads = Self::default();
        loads.take_in(shards, live, map);
        loads
    }

    /// What nodes report of the shards they own, in the place of what they did before.
    pub(crate) fn observe(
        &mut self,
        now: Instant,
        shards: u16,
        live: &Nodes,
        map: Option<&ClusterMap>,
    ) {
        self.moved
            .retain(|_, moved| now.saturating_duration_since(moved.at) < REST);
        self.resting = self.moved.keys().copied().collect();
        self.take_in(shards, live, map);
    }

    fn take_in(&mut self, shards: u16, live: &Nodes, map: Option<&ClusterMap>) {
        self.by_shard.clear();
        let reported = live.values().flat_map(|status| {
            let owned = |load: &&ShardLoad| {
                map.is_some_and(|map| map.owner(load.shard) == Some(&status.id))
            };
            status.shards.iter().filter(owned)
        });
        for load in reported {
            if load.shard.0 < shards {
                self.by_shard.resize(usize::from(shards), 0);
                self.by_shard[usize::from(load.shard.0)] = load.load;
            }
        }
        if self.by_shard.is_empty() {
            return;
        }
        for (shard, moved) in &self.moved {
            if let Some(load) = self.by_shard.get_mut(usize::from(shard.0)) {
                *load = moved.load.max(*load);
            }
        }
    }

    /// These shards have just moved. Those that had no owner before are new to nobody.
    pub(crate) fn moved(&mut self, now: Instant, moves: &[Move]) {
        for go in moves.iter().filter(|go| go.from.is_some()) {
            let load = self.by_shard.get(usize::from(go.shard.0));
            let load = load.copied().unwrap_or(0);
            self.moved.insert(go.shard, Moved { at: now, load });
        }
    }

    /// Empty while nothing is reported.
    pub(crate) fn by_shard(&self) -> &[u32] {
        &self.by_shard
    }

    pub(crate) fn resting(&self) -> &BTreeSet<ShardId> {
        &self.resting
    }
}

/// Per shard, whether its owner has any realm of it open, or does not say.
pub(crate) fn open_shards(shards: u16, live: &Nodes, map: Option<&ClusterMap>) -> Vec<bool> {
    let (nodes, owners) = map.map_or((&[][..], &[][..]), |map| (&map.nodes[..], &map.shards[..]));
    // Once for each node, not for each of its shards.
    let said: Vec<Option<&ShardSet>> = nodes
        .iter()
        .map(|id| live.get(id)?.shards_open.as_ref())
        .collect();
    let is_open = |shard: ShardId| {
        let owner = owners.get(usize::from(shard.0)).and_then(|at| at.owner);
        let said = owner.and_then(|owner| *said.get(usize::from(owner))?);
        said.is_none_or(|open| open.contains(shard))
    };
    (0..shards).map(ShardId).map(is_open).collect()
}

/// How even a map is, in thousandths; 1000 is even.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Balance {
    pub(crate) shards_milli: u32,
    /// Absent while no load is reported.
    pub(crate) load_milli: Option<u32>,
}

impl Balance {
    pub(crate) fn of(
        map: &ClusterMap,
        settings: &BTreeMap<String, NodeSetting>,
        loads: &[u32],
    ) -> Self {
        let weight = |id: &String| {
            let setting = settings.get(id).copied().unwrap_or_default();
            match setting.state {
                NodeState::Draining => 0,
                NodeState::Active | NodeState::Cordoned => setting.weight.milli(),
            }
        };
        let weights: Vec<u32> = map.nodes.iter().map(weight).collect();
        let mut shards = vec![0_usize; map.nodes.len()];
        let mut costs = vec![0_usize; map.nodes.len()];
        for (shard, assignment) in map.shards.iter().enumerate() {
            let Some(owner) = assignment.owner.map(usize::from) else {
                continue;
            };
            if owner < shards.len() {
                shards[owner] += 1;
                costs[owner] += loads.get(shard).copied().unwrap_or(0) as usize;
            }
        }
        // In range: a ratio of a node's share to its weighted one, far below 4 million.
        let milli = |of: &[usize]| (placement::imbalance(of, &weights) * 1_000.0).round() as u32;
        Self {
            shards_milli: milli(&shards),
            load_milli: costs.iter().any(|&cost| cost > 0).then(|| milli(&costs)),
        }
    }
}

#[cfg(test)]
mod tests {
    use guildhall_shared::cluster_map::{Assignment, MapVersion, NodeStatus};
    use guildhall_shared::operator::Cause;
    use serde_json::json;

    use super::*;

    fn node(id: &str, shards: &[(u16, u32)], open: Option<&[u16]>) -> (String, NodeStatus) {
        let load = |&(shard, load): &(u16, u32)| json!({ "shard": shard, "load": load });
        let status = json!({
            "id": id, "boot_id": "b", "relay_addr": "h:1", "gateway_url": "", "stopping": false,
            "map": MapVersion::default(), "sessions": 0, "realms_owned": 0,
            "dispatches_per_s": 0, "at_ms": 0,
            "shards": shards.iter().map(load).collect::<Vec<_>>(),
        });
        let mut status: NodeStatus = serde_json::from_value(status).unwrap();
        status.shards_open = open.map(|open| open.iter().copied().map(ShardId).collect());
        (id.to_owned(), status)
    }

    /// Shards 0 and 1 on a, 2 on b.
    fn map() -> ClusterMap {
        let on = |owner| Assignment {
            owner: Some(owner),
            standby: None,
        };
        ClusterMap {
            nodes: vec!["a".to_owned(), "b".to_owned()],
            shards: vec![on(0), on(0), on(1)],
            ..ClusterMap::default()
        }
    }

    #[test]
    fn only_an_owner_says_what_a_shard_costs() {
        let live = Nodes::from([node("a", &[(0, 7), (2, 90)], None), node("b", &[], None)]);
        let loads = Loads::reported(3, &live, Some(&map()));
        assert_eq!(loads.by_shard(), [7, 0, 0]);
        assert!(
            Loads::reported(3, &Nodes::new(), Some(&map()))
                .by_shard()
                .is_empty()
        );
    }

    #[test]
    fn a_shard_that_moved_rests_and_weighs_what_it_did() {
        let now = Instant::now();
        let mut loads = Loads::default();
        let before = Nodes::from([node("a", &[(0, 7), (1, 50)], None), node("b", &[], None)]);
        loads.observe(now, 3, &before, Some(&map()));
        let go = Move {
            shard: ShardId(1),
            from: Some("a".to_owned()),
            to: Some("b".to_owned()),
            cause: Cause::Load,
        };
        loads.moved(now, &[go]);
        let mut after = map();
        after.shards[1].owner = Some(1);
        let live = Nodes::from([node("a", &[(0, 7)], None), node("b", &[(1, 2)], None)]);
        loads.observe(now, 3, &live, Some(&after));
        assert_eq!(loads.by_shard(), [7, 50, 0]);
        assert!(loads.resting().contains(&ShardId(1)));
        loads.observe(now + REST, 3, &live, Some(&after));
        assert_eq!(loads.by_shard(), [7, 2, 0]);
        assert!(loads.resting().is_empty());
    }

    #[test]
    fn a_shard_is_open_unless_its_owner_says_it_is_not() {
        let live = Nodes::from([node("a", &[], Some(&[1])), node("b", &[], None)]);
        assert_eq!(open_shards(3, &live, Some(&map())), [false, true, true]);
        assert_eq!(open_shards(3, &live, None), [true; 3]);
        let mut odd = map();
        odd.shards[0].owner = None;
        odd.shards[1].owner = Some(7);
        odd.shards.truncate(2);
        assert_eq!(open_shards(3, &live, Some(&odd)), [true; 3]);
    }

    #[test]
    fn balance_is_the_fullest_node_in_thousandths() {
        let balance = Balance::of(&map(), &BTreeMap::new(), &[10, 10, 60]);
        assert_eq!(balance.shards_milli, 1_333);
        assert_eq!(balance.load_milli, Some(1_500));
        assert_eq!(Balance::of(&map(), &BTreeMap::new(), &[]).load_milli, None);
    }
}
