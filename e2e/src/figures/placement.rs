//! The planner itself: how even it is, what it moves, how long it takes. No process runs.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use guildhall_shared::cluster_map::ClusterMap;
use guildhall_shared::shard::ShardId;
use shard_coordinator::node::{Node, Standing, Weight};
use shard_coordinator::placement::{EXCESS_PERCENT, Observed, plan};

use super::table::{Row, Wrong, ms, quantile};

/// Nodes and shards; at least 16 shards per node, as the design wants of large clusters.
const CLUSTERS: [(usize, u16); 5] = [
    (10, 4_096),
    (50, 4_096),
    (200, 4_096),
    (800, 16_384),
    (1_000, 16_384),
];
const EQUAL: &[f32] = &[1.0];
/// Of clusters in which nodes differ, in turns.
const WEIGHTS: &[f32] = &[0.5, 1.0, 1.0, 2.0];
/// Nodes of such clusters: of a share below 20 shards, one whole shard is more than the excess.
const WEIGHTED_MAX: usize = 50;
const LARGEST: (usize, u16) = (1_000, 16_384);
/// Plans of each kind, of which the median counts.
const TIMES: usize = if cfg!(debug_assertions) { 1 } else { 7 };
const EVEN_AIM: f64 = 1.05;
const MOVES_AIM: f64 = 1.02;
const TIME_AIM_MS: f64 = 200.0;

/// What comes to a settled cluster.
#[derive(Debug, Clone, Copy)]
enum Change {
    Join,
    Leave,
    Heavier,
    Lighter,
}

pub(super) fn run() -> Result<Vec<Row>> {
    let mut even: Vec<f64> = Vec::new();
    let mut ratios: Vec<f64> = Vec::new();
    let mut wrong = Wrong::default();
    let weighted = CLUSTERS.iter().filter(|(count, _)| *count <= WEIGHTED_MAX);
    let equal = CLUSTERS.iter().map(|&cluster| (cluster, EQUAL));
    let all = equal.chain(weighted.map(|&cluster| (cluster, WEIGHTS)));
    for ((count, shards), weights) in all {
        let settled = settled(count, shards, weights)?;
        even.push(fullest(&settled)?);
        for change in [
            Change::Join,
            Change::Leave,
            Change::Heavier,
            Change::Lighter,
        ] {
            let before = map(&settled)?;
            let seen = changed(&settled, change);
            let least = least(&seen)?;
            let seen = after(&seen);
            let moved = moves(before, map(&seen)?);
            even.push(fullest(&seen)?);
            match least {
                0 if moved > 0 => wrong.find(format!(
                    "{count} nodes, {shards} shards, {change:?}: {moved} moves, none needed"
                )),
                0 => {}
                least => ratios.push(moved as f64 / least as f64),
            }
        }
    }
    let most = |values: &[f64]| values.iter().copied().fold(0.0, f64::max);
    let (even, moved) = (most(&even), most(&ratios));
    let (slowest, took_ms) = time()?;
    let row = |what: &str, measured: String, number: (&'static str, f64), aim, is_met| Row {
        figure: "placement",
        what: what.to_owned(),
        measured,
        numbers: BTreeMap::from([number]),
        aim,
        is_met,
        wrong: Wrong::default(),
    };
    let mut moves_row = row(
        "moves at a join, a leave, another weight: against the fewest that keep the bound",
        format!("{moved:.3}, the worst of {}", ratios.len()),
        ("moves_ratio", moved),
        "<= 1.02",
        moved <= MOVES_AIM,
    );
    moves_row.wrong = wrong;
    Ok(vec![
        row(
            "fullest node against its weighted share, 10 to 1,000 nodes, before and after changes",
            format!("{even:.3}"),
            ("max_to_mean", even),
            "<= 1.05",
            even <= EVEN_AIM,
        ),
        moves_row,
        row(
            "a plan of 1,000 nodes and 16,384 shards, the slowest kind",
            format!(
                "{took_ms:.0} ms ({slowest}{})",
                if cfg!(debug_assertions) {
                    "; NOT OPTIMISED"
                } else {
                    ""
                }
            ),
            ("plan_ms", took_ms),
            "< 200 ms",
            took_ms < TIME_AIM_MS,
        ),
    ])
}

fn node(number: usize, weight: f32) -> Node {
    Node {
        id: format!("node-{number:04}"),
        relay_addr: format!("node-{number:04}:1"),
        weight: Weight::new(weight),
        standing: Standing::Accepting,
        drain: None,
    }
}

/// A cluster that has its plan.
fn settled(count: usize, shards: u16, weights: &[f32]) -> Result<Observed> {
    ensure!(!weights.is_empty(), "no weights");
    let nodes = (0..count).map(|number| node(number, weights[number % weights.len()]));
    Ok(after(&Observed {
        shards,
        nodes: nodes.collect(),
        pins: BTreeMap::new(),
        moves: BTreeMap::new(),
        loads: Vec::new(),
        resting: BTreeSet::new(),
        previous: None,
    }))
}

/// The same cluster once its plan has come true.
fn after(seen: &Observed) -> Observed {
    let layout = plan(seen).layout;
    Observed {
        previous: Some(layout.into_map(Default::default())),
        ..seen.clone()
    }
}

fn changed(settled: &Observed, change: Change) -> Observed {
    let mut seen = settled.clone();
    // In the middle, so that it has neighbours of every weight.
    let place = seen.nodes.len() / 2;
    match change {
        Change::Join => seen.nodes.push(node(seen.nodes.len(), 1.0)),
        Change::Leave => {
            seen.nodes.remove(place);
        }
        Change::Heavier => seen.nodes[place].weight = Weight::new(2.0),
        Change::Lighter => seen.nodes[place].weight = Weight::new(0.9),
    }
    seen
}

fn map(seen: &Observed) -> Result<&ClusterMap> {
    seen.previous.as_ref().context("a cluster without a map")
}

/// Shards of a node by its id.
fn held<'a>(map: &'a ClusterMap, seen: &Observed) -> BTreeMap<&'a str, u64> {
    let mut held = BTreeMap::new();
    for shard in (0..seen.shards).map(ShardId) {
        if let Some(owner) = map.owner(shard) {
            *held.entry(owner).or_default() += 1;
        }
    }
    held
}

/// Of all nodes, which all take shards here.
fn weight_sum(seen: &Observed) -> u64 {
    let weights = seen.nodes.iter().map(|node| u64::from(node.weight.milli()));
    weights.sum()
}

/// The fullest node against its weighted share.
fn fullest(seen: &Observed) -> Result<f64> {
    let (held, all) = (held(map(seen)?, seen), weight_sum(seen));
    let ratio = |node: &Node| {
        let share = f64::from(seen.shards) * f64::from(node.weight.milli()) / all as f64;
        held.get(node.id.as_str()).copied().unwrap_or(0) as f64 / share
    };
    Ok(seen.nodes.iter().map(ratio).fold(0.0, f64::max))
}

/// The fewest moves after which every node is within its bound, from the map before the change:
/// shards whose node has left, and what the others hold above the bound. Computed apart from the
/// planner.
fn least(seen: &Observed) -> Result<u64> {
    let (held, all) = (held(map(seen)?, seen), weight_sum(seen));
    let mut kept = 0;
    for node in &seen.nodes {
        let (shards, weight) = (u64::from(seen.shards), u64::from(node.weight.milli()));
        let excess = shards * weight * (100 + EXCESS_PERCENT) / (all * 100);
        let bound = excess.max(shards * weight / all + 1);
        kept += held.get(node.id.as_str()).copied().unwrap_or(0).min(bound);
    }
    Ok(u64::from(seen.shards).saturating_sub(kept))
}

/// Shards with another owner.
fn moves(before: &ClusterMap, after: &ClusterMap) -> u64 {
    let shards = (0..=u16::MAX).map(ShardId).take(before.shards.len());
    let moved = shards.filter(|shard| before.owner(*shard) != after.owner(*shard));
    moved.count() as u64
}

/// The slowest kind of plan of the largest cluster, and its median time in ms.
fn time() -> Result<(&'static str, f64)> {
    let (count, shards) = LARGEST;
    let steady = settled(count, shards, EQUAL)?;
    let first = Observed {
        previous: None,
        ..steady.clone()
    };
    let mut hot = steady.clone();
    hot.loads = (0..u32::from(shards))
        .map(|shard| 500 + shard * 7 % 1_000 + if shard % 10 == 0 { 5_000 } else { 0 })
        .collect();
    let kinds = [
        ("nothing changes", steady.clone()),
        ("the first plan", first),
        ("a node joins", changed(&steady, Change::Join)),
        ("a node leaves", changed(&steady, Change::Leave)),
        ("shards move for load", hot),
    ];
    let mut slowest = ("", 0.0);
    for (what, seen) in kinds {
        let mut times = Vec::new();
        for _ in 0..TIMES {
            let began = Instant::now();
            std::hint::black_box(plan(&seen));
            times.push(began.elapsed().as_micros() as i64);
        }
        let took_ms = ms(quantile(&mut times, 0.5));
        if took_ms > slowest.1 {
            slowest = (what, took_ms);
        }
    }
    Ok(slowest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_must_move_is_what_left_and_what_is_too_much() {
        let two = settled(2, 64, EQUAL).unwrap();
        let left = changed(&two, Change::Leave);
        let gone = held(map(&two).unwrap(), &two)["node-0001"];
        assert_eq!(least(&left).unwrap(), gone);
        assert_eq!(least(&two).unwrap(), 0);
        let after = after(&left);
        assert_eq!(moves(map(&two).unwrap(), map(&after).unwrap()), gone);
    }
}
