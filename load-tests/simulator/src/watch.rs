//! What is measured, and the invariants that every map is held to.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use anyhow::{Result, ensure};
use guildhall_shared::cluster_map::{ClusterMap, MapVersion};
use guildhall_shared::keys;
use guildhall_shared::operator::{Cause, Move};
use shard_coordinator::placement::{EXCESS_PERCENT, imbalance};
use shard_coordinator::simulated::{FREEZE, Proposal};

use crate::coordinator::millis;
use crate::faults::QUIET_MS;
use crate::gateway::Gateway;

/// The longest outage of Redis that is ever drawn; a coordinator that saw nothing believes
/// that all live.
const OUTAGE_MAX_MS: u64 = 15_000;
/// Rounds, heartbeats and writes between what is and a map that says so.
const SLACK_MS: u64 = 5_000;

/// Times are virtual milliseconds.
#[derive(Debug)]
pub(crate) struct Watch {
    per_node_max: usize,
    /// Of the newest map that Redis took.
    pub(crate) newest: MapVersion,
    pub(crate) newest_at: u64,
    contents: BTreeMap<MapVersion, u64>,
    shards: Vec<Shard>,
    /// Shards per node, by that map.
    owned: Vec<usize>,
    pub(crate) no_owner_ms: Vec<u64>,
    pub(crate) nobody_ms: Vec<u64>,
    pub(crate) moves: BTreeMap<Cause, u64>,
    pub(crate) maps: u64,
    pub(crate) imbalance_max: f64,
    pub(crate) imbalance_at_rest_max: f64,
    pub(crate) rests: u64,
    /// How late nodes took the newest map, in steps of [`LAG_STEP_MS`].
    lags: Vec<u64>,
}

const LAG_STEP_MS: u64 = 10;
const LAG_STEPS: usize = 2_000;

#[derive(Debug, Clone, Copy, Default)]
struct Shard {
    owner: Option<usize>,
    standby: Option<usize>,
    had_owner: bool,
    /// Since when its owner is dead, and since when its standby is too.
    no_owner_since: Option<u64>,
    nobody_since: Option<u64>,
}

impl Watch {
    pub(crate) fn new(shards: u16, nodes: usize, per_node_max: usize) -> Self {
        Self {
            per_node_max,
            newest: MapVersion::default(),
            newest_at: 0,
            contents: BTreeMap::new(),
            shards: vec![Shard::default(); usize::from(shards)],
            owned: vec![0; nodes],
            no_owner_ms: Vec::new(),
            nobody_ms: Vec::new(),
            moves: BTreeMap::new(),
            maps: 0,
            imbalance_max: 1.0,
            imbalance_at_rest_max: 1.0,
            rests: 0,
            lags: vec![0; LAG_STEPS],
        }
    }

    /// Redis took this map.
    ///
    /// Errors: it breaks I9 or I10.
    pub(crate) fn published(
        &mut self,
        now: u64,
        proposal: &Proposal,
        gateways: &[Gateway],
    ) -> Result<()> {
        let map = &proposal.map;
        self.same_content(map)?;
        self.owners_live(now, map, gateways)?;
        self.few_in_motion(proposal.in_motion())?;
        self.maps += 1;
        // A cluster that forms moves shards for every node that comes.
        for go in proposal.moves().iter().filter(|_| now >= QUIET_MS) {
            *self.moves.entry(go.cause).or_default() += 1;
        }
        if map.version < self.newest {
            return Ok(()); // Redis had forgotten the newer one; nodes have not
        }
        if map.version > self.newest {
            (self.newest, self.newest_at) = (map.version, now);
        }
        let places: Vec<usize> = map.nodes.iter().map(|id| place(id)).collect();
        let of = |at: Option<u16>| Some(places[usize::from(at?)]);
        self.owned.fill(0);
        for (shard, assignment) in self.shards.iter_mut().zip(&map.shards) {
            shard.owner = of(assignment.owner);
            shard.had_owner |= shard.owner.is_some();
            shard.standby = of(assignment.standby);
            if let Some(owner) = shard.owner {
                self.owned[owner] += 1;
            }
        }
        let loads: Vec<usize> = places.iter().map(|place| self.owned[*place]).collect();
        let even = imbalance(&loads, &vec![1_000; loads.len()]);
        if now >= QUIET_MS {
            self.imbalance_max = self.imbalance_max.max(even);
        }
        self.look(now, gateways);
        Ok(())
    }

    /// Somebody came, went, or a map changed.
    pub(crate) fn look(&mut self, now: u64, gateways: &[Gateway]) {
        let lives = |node: Option<usize>| node.is_some_and(|node| gateways[node].is_running());
        let formed = self.shards.iter_mut().filter(|shard| shard.had_owner);
        for shard in formed {
            let owner = lives(shard.owner);
            let anybody = owner || lives(shard.standby);
            note(now, owner, &mut shard.no_owner_since, &mut self.no_owner_ms);
            note(now, anybody, &mut shard.nobody_since, &mut self.nobody_ms);
        }
    }

    pub(crate) fn owned(&self, node: usize) -> usize {
        self.owned[node]
    }

    pub(crate) fn all_owned(&self) -> bool {
        let served = |shard: &Shard| shard.had_owner && shard.no_owner_since.is_none();
        self.shards.iter().all(served)
    }

    /// A node has taken the newest map.
    pub(crate) fn adopted(&mut self, now: u64) {
        let step = (now - self.newest_at) / LAG_STEP_MS;
        let step = usize::try_from(step)
            .unwrap_or(usize::MAX)
            .min(LAG_STEPS - 1);
        self.lags[step] += 1;
    }

    /// How late the given part of a thousand of all adoptions was at most, and the latest.
    pub(crate) fn lag_ms(&self, part: u64) -> u64 {
        let all: u64 = self.lags.iter().sum();
        let mut left = (all * part).div_ceil(1_000);
        for (step, count) in (1..).zip(&self.lags) {
            if left <= *count {
                return step * LAG_STEP_MS;
            }
            left -= count;
        }
        LAG_STEPS as u64 * LAG_STEP_MS
    }

    /// A leader has nothing to move: its map is within the bound.
    pub(crate) fn at_rest(&mut self, map: &ClusterMap, accepting: usize) -> Result<()> {
        let mut loads = vec![0_usize; map.nodes.len()];
        for owner in map.shards.iter().filter_map(|shard| shard.owner) {
            loads[usize::from(owner)] += 1;
        }
        if accepting == 0 {
            return Ok(());
        }
        let all = map.shards.len();
        let most = loads.iter().max().copied().unwrap_or(0);
        // max((1+ε)·share, the whole shard above the share).
        let bound = all * (100 + EXCESS_PERCENT as usize) / (accepting * 100);
        let bound = bound.max(all / accepting + 1);
        ensure!(
            most <= bound,
            "I10: {most} shards on one node, at most {bound} are its share"
        );
        let even = most as f64 * accepting as f64 / all as f64;
        self.imbalance_at_rest_max = self.imbalance_at_rest_max.max(even);
        self.rests += 1;
        Ok(())
    }

    /// I9: a version says one thing for ever.
    fn same_content(&mut self, map: &ClusterMap) -> Result<()> {
        let mut hasher = DefaultHasher::new();
        (&map.nodes, &map.relay_addrs).hash(&mut hasher);
        for shard in &map.shards {
            (shard.owner, shard.standby).hash(&mut hasher);
        }
        let content = hasher.finish();
        let before = self.contents.entry(map.version).or_insert(content);
        ensure!(*before == content, "I9: two maps are {:?}", map.version);
        Ok(())
    }

    /// I9: owners are nodes that lived as far as a coordinator could know.
    fn owners_live(&self, now: u64, map: &ClusterMap, gateways: &[Gateway]) -> Result<()> {
        let late = keys::NODE_TTL_MS + millis(FREEZE) + OUTAGE_MAX_MS + SLACK_MS;
        for id in &map.nodes {
            let gateway = &gateways[place(id)];
            let dead_for = now - gateway.seen_up.min(now);
            ensure!(
                gateway.is_running() || dead_for <= late,
                "I9: {id} is in a map {dead_for} ms after its death"
            );
        }
        Ok(())
    }

    /// The operators' bound: few shards of a node move at once by placement's own will.
    fn few_in_motion(&self, in_motion: &[Move]) -> Result<()> {
        let mut of_node: BTreeMap<&str, usize> = BTreeMap::new();
        let forced = [Cause::Unowned, Cause::OwnerLost, Cause::OwnerStopping];
        let wished = in_motion.iter().filter(|go| !forced.contains(&go.cause));
        for node in wished.flat_map(|go| go.from.iter().chain(&go.to)) {
            *of_node.entry(node).or_default() += 1;
        }
        let most = of_node.into_values().max().unwrap_or(0);
        ensure!(
            most <= self.per_node_max,
            "{most} shards of one node are in motion, at most {}",
            self.per_node_max
        );
        Ok(())
    }
}

/// Notes how long something was not the case once it is again.
fn note(now: u64, is: bool, since: &mut Option<u64>, ended: &mut Vec<u64>) {
    match (is, *since) {
        (false, None) => *since = Some(now),
        (true, Some(began)) => {
            ended.push(now - began);
            *since = None;
        }
        _ => {}
    }
}

/// Of a node's id.
fn place(id: &str) -> usize {
    let number = id.rsplit('-').next().and_then(|number| number.parse().ok());
    number.expect("ids are made by Gateway::new")
}
