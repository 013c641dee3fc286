//! Where every shard is to be: `plan()`, a pure function of what is. Never looks at a clock,
//! a database or chance; the same input gives the same bytes (I10).

mod load;

use std::collections::{BTreeMap, BTreeSet, HashMap};

use guildhall_shared::cluster_map::{Assignment, ClusterMap, Drain, MapVersion};
use guildhall_shared::shard::ShardId;

use crate::node::{Node, Standing};
use crate::ring::{Place, Ring};

/// A node may exceed its weighted share by this much (ε), or to the next whole shard.
pub const EXCESS_PERCENT: u64 = 5;
/// Attempts on the ring before the emptiest node is taken instead.
const ATTEMPTS_MAX: u32 = 64;

/// What placement knows of the cluster.
#[derive(Debug, Clone)]
pub struct Observed {
    /// S, fixed when the cluster was created.
    pub shards: u16,
    /// Live nodes; the order does not matter.
    pub nodes: Vec<Node>,
    /// Shards that operators tied to a node id.
    pub pins: BTreeMap<ShardId, String>,
    /// Shards that are to go to a node id once; as pins until they are there, but below them.
    pub moves: BTreeMap<ShardId, String>,
    /// What each shard costs its owner, per shard: events times subscribed nodes, per minute.
    /// Empty while nothing is reported; what is missing is 0.
    pub loads: Vec<u32>,
    /// Shards that moved lately, which load does not move again.
    pub resting: BTreeSet<ShardId>,
    /// The map in use, if there is one for this S.
    pub previous: Option<ClusterMap>,
}

/// A map without its version: what is compared to tell whether anything changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    /// Ids of all live nodes, ascending.
    pub nodes: Vec<String>,
    /// Relay addresses, in the order of `nodes`.
    pub relay_addrs: Vec<String>,
    /// Per shard, places in `nodes`.
    pub shards: Vec<Assignment>,
    /// Nodes whose sessions leave.
    pub drains: BTreeMap<String, Drain>,
    /// Nodes whose processes are leaving.
    pub stopping: BTreeSet<String>,
}

/// Where every shard is to be in the end, and why some are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    pub layout: Layout,
    /// Shards that move because of their load, or for one that does.
    pub for_load: BTreeSet<ShardId>,
}

impl Layout {
    pub fn into_map(self, version: MapVersion) -> ClusterMap {
        ClusterMap {
            version,
            nodes: self.nodes,
            relay_addrs: self.relay_addrs,
            shards: self.shards,
            drains: self.drains,
            stopping: self.stopping,
        }
    }

    /// True if the map says the same, whatever its version.
    pub fn is_that_of(&self, map: &ClusterMap) -> bool {
        self.nodes == map.nodes
            && self.relay_addrs == map.relay_addrs
            && self.shards == map.shards
            && self.drains == map.drains
            && self.stopping == map.stopping
    }
}

/// Decides owner and standby of every shard.
///
/// A shard stays where it is unless its node left or is leaving, a pin calls it elsewhere, or
/// the node holds more than [`EXCESS_PERCENT`] above its weighted share. A shard whose owner
/// left goes to its standby, where the edges already are; any other homeless shard, and one
/// whose standby is full, to its first choice on the ring that has room. The standby is the
/// next choice on another node. A pin to a node that may not take the shard waits. Without an
/// accepting node a shard whose owner left goes to its standby if that one is cordoned, and any
/// other homeless shard has no owner. Last, shards go from nodes whose load is far above the
/// others' to those below, within the same limits.
pub fn plan(seen: &Observed) -> Target {
    let mut nodes: Vec<&Node> = seen.nodes.iter().collect();
    nodes.sort_unstable_by(|a, b| a.id.cmp(&b.id));
    nodes.dedup_by(|a, b| a.id == b.id);
    nodes.truncate(usize::from(Place::MAX)); // more cannot be named in a map

    let mut draft = Draft::new(seen, &nodes);
    draft.settle();
    draft.shed_excess();
    draft.house_homeless();
    let for_load = load::balance(&mut draft, &seen.loads, &seen.resting);
    let layout = Layout {
        nodes: nodes.iter().map(|node| node.id.clone()).collect(),
        relay_addrs: nodes.iter().map(|node| node.relay_addr.clone()).collect(),
        shards: draft.with_standbys(),
        drains: nodes
            .iter()
            .filter_map(|node| Some((node.id.clone(), node.drain?)))
            .collect(),
        stopping: nodes
            .iter()
            .filter(|node| node.standing == Standing::Stopping)
            .map(|node| node.id.clone())
            .collect(),
    };
    Target { layout, for_load }
}

/// A plan in the making.
struct Draft<'a> {
    nodes: &'a [&'a Node],
    /// All nodes that are not leaving.
    ring: Ring<'a>,
    /// Places the previous map gave, in terms of today's `nodes`.
    before: Vec<Assignment>,
    /// Where pins and single moves want shards, as far as the node is live.
    pinned: Vec<Option<Place>>,
    owners: Vec<Option<Place>>,
    /// Shards per node.
    loads: Vec<u64>,
    /// Shards a node may hold; pins and cordoned nodes may exceed it.
    limits: Vec<u64>,
}

impl<'a> Draft<'a> {
    fn new(seen: &Observed, nodes: &'a [&'a Node]) -> Self {
        // Fits: `plan` has cut the list to what a place can name.
        let places: HashMap<&str, Place> = (0..).zip(nodes).map(|(p, n)| (&*n.id, p)).collect();
        let place_of = |id: &str| places.get(id).copied();

        let ring = Ring::new(
            (0..)
                .zip(nodes)
                .filter(|(_, node)| !node.standing.is_leaving())
                .map(|(place, node)| (place, &*node.id, node.weight.milli())),
        );

        let shards = usize::from(seen.shards);
        let mut before = vec![Assignment::default(); shards];
        if let Some(previous) = &seen.previous {
            let moved: Vec<Option<Place>> = previous.nodes.iter().map(|id| place_of(id)).collect();
            let today = |place: Option<u16>| moved.get(usize::from(place?)).copied().flatten();
            for (now, then) in before.iter_mut().zip(&previous.shards) {
                now.owner = today(then.owner);
                now.standby = today(then.standby);
            }
        }
        let mut pinned = vec![None; shards];
        for (shard, id) in seen.moves.iter().chain(&seen.pins) {
            if let Some(pin) = pinned.get_mut(usize::from(shard.0)) {
                *pin = place_of(id);
            }
        }

        Self {
            nodes,
            ring,
            before,
            pinned,
            owners: vec![None; shards],
            loads: vec![0; nodes.len()],
            limits: vec![0; nodes.len()],
        }
    }

    fn standing(&self, place: Place) -> Standing {
        self.nodes[usize::from(place)].standing
    }

    fn accepts(&self, place: Place) -> bool {
        self.standing(place) == Standing::Accepting
    }

    fn has_room(&self, place: Place) -> bool {
        let place = usize::from(place);
        self.loads[place] < self.limits[place]
    }

    fn give(&mut self, shard: usize, place: Place) {
        self.owners[shard] = Some(place);
        self.loads[usize::from(place)] += 1;
    }

    /// Keeps every shard on a node that may keep it, and sends pinned ones home.
    fn settle(&mut self) {
        for shard in 0..self.owners.len() {
            let held = self.before[shard]
                .owner
                .filter(|&place| !self.standing(place).is_leaving());
            let home = self.pinned[shard].filter(|&pin| self.accepts(pin) || held == Some(pin));
            if let Some(place) = home.or(held) {
                self.give(shard, place);
            }
        }
        self.limits = limits(self.nodes, &self.loads, self.owners.len() as u64);
    }

    /// Takes from overfull nodes what is above their limit; first what the ring would not
    /// have placed there.
    fn shed_excess(&mut self) {
        let mut excess: Vec<u64> = (0..)
            .zip(self.loads.iter().zip(&self.limits))
            .map(|(place, (load, limit))| match self.accepts(place) {
                true => load.saturating_sub(*limit),
                false => 0, // cordoned: keeps what it has
            })
            .collect();
        if excess.iter().all(|&excess| excess == 0) {
            return;
        }
        for keep_first_choices in [true, false] {
            for shard in 0..self.owners.len() {
                let Some(place) = self.owners[shard] else {
                    continue;
                };
                let left = &mut excess[usize::from(place)];
                if *left == 0 || self.pinned[shard] == Some(place) {
                    continue;
                }
                if keep_first_choices && self.ring.get(id(shard), 0) == Some(place) {
                    continue;
                }
                *left -= 1;
                self.owners[shard] = None;
                self.loads[usize::from(place)] -= 1;
            }
        }
    }

    /// Finds a node for each shard without one, in the order of the shards.
    fn house_homeless(&mut self) {
        let accepting: Vec<Place> = self.accepting().collect();
        if accepting.is_empty() {
            return self.leave_to_standbys();
        }
        for shard in 0..self.owners.len() {
            if self.owners[shard].is_some() {
                continue;
            }
            let orphaned = self.before[shard]
                .owner
                .is_none_or(|owner| !self.accepts(owner));
            let place = self.before[shard]
                .standby
                .filter(|&standby| orphaned && self.accepts(standby) && self.has_room(standby))
                .or_else(|| self.first_choice(id(shard)))
                .or_else(|| self.emptiest(&accepting));
            if let Some(place) = place {
                self.give(shard, place);
            }
        }
    }

    /// With no node that accepts: gives what is served no more to its standby, where the edges
    /// already are, although that one is cordoned. An owner that drains serves its shards on.
    fn leave_to_standbys(&mut self) {
        for shard in 0..self.owners.len() {
            let Assignment { owner, standby } = self.before[shard];
            let serves = |owner| self.standing(owner) != Standing::Stopping;
            if self.owners[shard].is_some() || owner.is_some_and(serves) {
                continue;
            }
            if let Some(place) = standby.filter(|&it| self.standing(it) == Standing::Cordoned) {
                self.give(shard, place);
            }
        }
    }

    /// The first node on the ring, starting at `shard`, that accepts and has room.
    fn first_choice(&self, shard: ShardId) -> Option<Place> {
        (0..ATTEMPTS_MAX)
            .filter_map(|attempt| self.ring.get(shard, attempt))
            .find(|&place| self.accepts(place) && self.has_room(place))
    }

    /// The accepting node furthest below its limit, for its weight.
    fn emptiest(&self, accepting: &[Place]) -> Option<Place> {
        let filled = |&place: &Place| {
            let node = usize::from(place);
            // Parts per million of the limit, which is never 0 for an accepting node.
            self.loads[node] * 1_000_000 / self.limits[node].max(1)
        };
        accepting.iter().copied().min_by_key(filled)
    }

    /// Adds the standbys: not limited, for they hold no shard before its owner dies.
    fn with_standbys(self) -> Vec<Assignment> {
        let accepting: Vec<Place> = self.accepting().collect();
        let alone = self.nodes.len() < 2; // spares a lone node the search in vain
        let assign = |(shard, &owner): (usize, &Option<Place>)| {
            let may_stand_by = |&place: &Place| {
                let stood_by = self.before[shard].standby == Some(place);
                Some(place) != owner && (self.accepts(place) || stood_by)
            };
            let on_ring = || {
                (0..ATTEMPTS_MAX)
                    .filter_map(|attempt| self.ring.get(id(shard), attempt))
                    .find(may_stand_by)
            };
            let any = || {
                let start = shard % accepting.len().max(1);
                let others = accepting[start..].iter().chain(&accepting[..start]);
                others.copied().find(may_stand_by)
            };
            let standby = match owner {
                Some(_) if !alone => on_ring().or_else(any),
                _ => None,
            };
            Assignment { owner, standby }
        };
        self.owners.iter().enumerate().map(assign).collect()
    }

    fn accepting(&self) -> impl Iterator<Item = Place> {
        (0..)
            .zip(self.nodes)
            .filter(|(_, node)| node.standing == Standing::Accepting)
            .map(|(place, _)| place)
    }
}

/// Shards each accepting node may hold: its weighted share and [`EXCESS_PERCENT`], at least
/// one whole shard above it; together always room for every shard. 0 for all other nodes.
///
/// Cordoned nodes count by their weight, so that cordoning one moves nothing. If they hold
/// less than that, the others share what is left.
fn limits(nodes: &[&Node], loads: &[u64], shards: u64) -> Vec<u64> {
    let with = |standing: Standing| {
        let chosen = nodes.iter().zip(loads);
        chosen.filter(move |(node, _)| node.standing == standing)
    };
    let weight = |standing| -> u64 {
        let weights = with(standing).map(|(node, _)| u64::from(node.weight.milli()));
        weights.sum()
    };
    let accepting = weight(Standing::Accepting);
    let serving = accepting + weight(Standing::Cordoned);
    let kept: u64 = with(Standing::Cordoned).map(|(_, load)| load).sum();
    let free = shards.saturating_sub(kept);

    let limit = |node: &&Node| match node.standing {
        Standing::Accepting => {
            let weight = u64::from(node.weight.milli());
            above_share(shards, weight, serving).max(above_share(free, weight, accepting))
        }
        Standing::Cordoned | Standing::Draining | Standing::Stopping => 0,
    };
    nodes.iter().map(limit).collect()
}

/// The bound on a share of `shards` by `weight` of `all`, which is not 0.
fn above_share(shards: u64, weight: u64, all: u64) -> u64 {
    let with_excess = shards * weight * (100 + EXCESS_PERCENT) / (all * 100);
    let next_whole = shards * weight / all + 1;
    with_excess.max(next_whole)
}

/// Of a place in the list of shards, which is never longer than `u16` counts.
fn id(shard: usize) -> ShardId {
    ShardId(shard as u16)
}

/// How full the fullest node is against its weighted share of the shards that have an owner:
/// 1.0 is perfect, 1.05 what [`plan`] allows. `weights` in the order of the map's nodes, 0 for
/// nodes that take no shards.
pub fn imbalance(loads: &[usize], weights: &[u32]) -> f64 {
    let shards: usize = loads.iter().sum();
    let all: u64 = weights.iter().map(|&weight| u64::from(weight)).sum();
    if shards == 0 || all == 0 {
        return 1.0;
    }
    let ratio = |(&load, &weight): (&usize, &u32)| {
        let share = shards as f64 * f64::from(weight) / all as f64;
        if weight == 0 {
            0.0
        } else {
            load as f64 / share
        }
    };
    loads.iter().zip(weights).map(ratio).fold(0.0, f64::max)
}

#[cfg(test)]
mod tests;
