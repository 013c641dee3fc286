//! Properties of steps (I9, I10): from any cluster to its target.

use std::collections::{BTreeMap, BTreeSet};

use guildhall_shared::cluster_map::NodeStatus;
use proptest::prelude::*;
use proptest::sample::{Index, select};

use super::*;
use crate::node::{Node, Weight};
use crate::placement;

fn equal(count: usize) -> Vec<Node> {
    let node = |n| Node {
        id: format!("node-{n:02}"),
        relay_addr: format!("node-{n:02}:1"),
        weight: Weight::NORMAL,
        standing: Standing::Accepting,
        drain: None,
    };
    (0..count).map(node).collect()
}

fn cluster(shards: u16, nodes: Vec<Node>) -> Observed {
    Observed {
        shards,
        nodes,
        pins: BTreeMap::new(),
        moves: BTreeMap::new(),
        loads: Vec::new(),
        resting: BTreeSet::new(),
        previous: None,
    }
}

/// The cluster with its first map.
fn settled(shards: u16, count: usize) -> Observed {
    let mut seen = cluster(shards, equal(count));
    let layout = placement::plan(&seen).layout;
    seen.previous = Some(layout.into_map(MapVersion::default()));
    seen
}

/// A settled cluster to which anything may have happened since.
fn disturbed() -> impl Strategy<Value = Observed> {
    let standing = select(vec![
        Standing::Accepting,
        Standing::Accepting,
        Standing::Cordoned,
        Standing::Draining,
        Standing::Stopping,
    ]);
    let wishes = || prop::collection::btree_map(0u16..400, 0usize..12, 0..20);
    let nodes = (2usize..9, 0usize..3, any::<Index>(), any::<bool>());
    let standings = prop::collection::vec(standing, 12);
    (1u16..400, nodes, standings, wishes(), wishes()).prop_map(
        |(shards, (count, joined, dead, dies), standings, pins, moves)| {
            let mut seen = settled(shards, count);
            seen.nodes = equal(count + joined);
            for (node, standing) in seen.nodes.iter_mut().zip(standings).skip(1) {
                node.standing = standing;
            }
            if dies {
                seen.nodes.remove(dead.index(count));
            }
            let named = |wishes: BTreeMap<u16, usize>| {
                let wish = |(shard, node)| (ShardId(shard), format!("node-{node:02}"));
                wishes.into_iter().map(wish).collect()
            };
            seen.pins = named(pins);
            seen.moves = named(moves);
            seen
        },
    )
}

fn of<'a>(seen: &'a Observed, id: &str) -> Option<&'a Node> {
    seen.nodes.iter().find(|node| node.id == id)
}

/// Shards in motion per node.
fn counts(moves: &[Move]) -> BTreeMap<&str, usize> {
    let mut counts = BTreeMap::new();
    for go in moves {
        for node in go.from.iter().chain(&go.to) {
            *counts.entry(node.as_str()).or_default() += 1;
        }
    }
    counts
}

fn is_voluntary(go: &Move) -> bool {
    !matches!(
        go.cause,
        Cause::Unowned | Cause::OwnerLost | Cause::OwnerStopping
    )
}

fn one_step(seen: &Observed, open: &[bool], voluntary: Voluntary) -> Step {
    let target = placement::plan(seen);
    step(&Inputs {
        seen,
        target: &target,
        open,
        per_node_max: 8,
        voluntary,
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn steps_lead_to_the_target_within_the_limit(
        seen in disturbed(), open in prop::collection::vec(any::<bool>(), 0..400),
    ) {
        let target = placement::plan(&seen).layout;
        let before = seen.previous.clone().unwrap();
        let goal = target.clone().into_map(MapVersion::default());
        let shards = || (0..seen.shards).map(ShardId);
        let needed = shards().filter(|shard| before.owner(*shard) != goal.owner(*shard)).count();
        let accepting = seen.nodes.iter().any(|node| node.standing == Standing::Accepting);

        let (mut now, mut total, mut rounds) = (seen.clone(), 0, 0);
        loop {
            let step = one_step(&now, &open, Voluntary::Go);
            let map = step.layout.clone().into_map(MapVersion::default());
            let had = now.previous.clone().unwrap();
            for shard in shards() {
                let Some(owner) = map.owner(shard) else {
                    prop_assert!(!accepting, "{} has no owner", shard);
                    continue;
                };
                prop_assert_ne!(Some(owner), map.standby(shard));
                let node = of(&seen, owner).expect("the owner is live");
                let kept = had.owner(shard) == Some(owner);
                let left_to = had.standby(shard).filter(|_| !accepting);
                match node.standing {
                    Standing::Accepting => {}
                    Standing::Cordoned => prop_assert!(kept || left_to == Some(owner)),
                    Standing::Draining => prop_assert!(kept),
                    Standing::Stopping => prop_assert!(false, "{} is on its way out", owner),
                }
                let standby = map.standby(shard).and_then(|id| of(&seen, id));
                prop_assert!(standby.is_none_or(|node| !node.standing.is_leaving()));
            }
            let voluntary: Vec<Move> =
                step.in_motion.iter().filter(|go| is_voluntary(go)).cloned().collect();
            for (node, count) in counts(&voluntary) {
                prop_assert!(count <= 8, "{} has {} in motion", node, count);
            }
            total += step.moves.len();
            rounds += 1;
            prop_assert!(rounds < 400, "no end");
            now.previous = Some(map);
            if step.moves.is_empty() {
                prop_assert!(step.left == 0 || !accepting);
                break;
            }
        }
        if accepting {
            let end = placement::plan(&now).layout;
            prop_assert!(end.is_that_of(now.previous.as_ref().unwrap()));
            prop_assert!(total as f64 <= needed as f64 * 1.02 + 1.0, "{} for {}", total, needed);
        }
        for (shard, pin) in seen.pins.iter().filter(|(shard, _)| shard.0 < seen.shards) {
            if of(&seen, pin).is_some_and(|node| node.standing == Standing::Accepting) {
                prop_assert_eq!(now.previous.as_ref().unwrap().owner(*shard), Some(pin.as_str()));
            }
        }
    }

    #[test]
    fn while_moves_are_held_only_what_must_moves(seen in disturbed()) {
        let step = one_step(&seen, &[], Voluntary::Hold);
        prop_assert!(step.moves.iter().all(|go| !is_voluntary(go)));
        let lost = |go: &&Move| go.from.as_ref().is_some_and(|from| {
            of(&seen, from).is_none_or(|node| node.standing == Standing::Stopping)
        });
        prop_assert_eq!(step.moves.iter().filter(lost).count(), step.moves.len());
    }

    #[test]
    fn the_same_inputs_make_the_same_step(seen in disturbed()) {
        let mut shuffled = seen.clone();
        shuffled.nodes.reverse();
        prop_assert_eq!(
            one_step(&seen, &[], Voluntary::Go),
            one_step(&shuffled, &[], Voluntary::Go)
        );
    }
}

#[test]
fn a_first_map_and_the_shards_of_a_dead_node_are_placed_at_once() {
    let first = one_step(&cluster(256, equal(2)), &[], Voluntary::Hold);
    assert_eq!((first.moves.len(), first.left), (256, 0));
    assert_eq!(first.in_motion, [], "nothing leaves anybody");
    let mut seen = settled(256, 3);
    seen.nodes.remove(1);
    let step = one_step(&seen, &[], Voluntary::Hold);
    assert_eq!(step.left, 0);
    assert!(step.moves.len() > 60 && step.in_motion == step.moves);
    assert!(step.moves.iter().all(|go| go.cause == Cause::OwnerLost));
}

#[test]
fn a_shard_with_nothing_open_moves_without_counting() {
    let mut seen = settled(256, 3);
    seen.nodes[0].standing = Standing::Draining;
    let open: Vec<bool> = (0..256).map(|shard| shard < 60).collect();
    let step = one_step(&seen, &open, Voluntary::Go);
    assert!(step.in_motion.len() <= 8);
    assert!(step.moves.len() > 40);
    assert!(step.left > 0);
    assert!(step.moves.iter().all(|go| go.cause == Cause::Drain));
}

#[test]
fn a_drain_without_a_node_that_accepts_waits() {
    let mut seen = settled(8, 1);
    seen.nodes[0].standing = Standing::Draining;
    let step = one_step(&seen, &[], Voluntary::Go);
    assert_eq!((step.moves.len(), step.left), (0, 8));
    assert_eq!(step.layout.shards, seen.previous.unwrap().shards);
}

#[test]
fn where_no_node_accepts_a_drain_waits_and_what_stops_goes_to_its_cordoned_standby() {
    let mut seen = settled(64, 2);
    seen.nodes[0].standing = Standing::Draining;
    seen.nodes[1].standing = Standing::Cordoned;
    let before = seen.previous.clone().unwrap();
    let shards = || (0..64).map(ShardId);
    let waiting = shards().filter(|shard| before.owner(*shard) == Some("node-00"));
    let waiting = waiting.count();
    let step = one_step(&seen, &[], Voluntary::Go);
    assert_eq!((step.moves.len(), step.left as usize), (0, waiting));
    let map = step.layout.into_map(MapVersion::default());
    assert!(shards().all(|shard| map.owner(shard) == before.owner(shard)));

    seen.previous = Some(map);
    seen.nodes[0].standing = Standing::Stopping;
    let step = one_step(&seen, &[], Voluntary::Hold);
    assert_eq!((step.moves.len(), step.left), (waiting, 0));
    assert!(step.moves.iter().all(|go| go.cause == Cause::OwnerStopping));
    let map = step.layout.into_map(MapVersion::default());
    assert!(shards().all(|shard| map.owner(shard) == Some("node-01")));
}

#[test]
fn the_estimate_is_that_of_the_busiest_node() {
    let go = |shard, from: &str, to: &str| Move {
        shard: ShardId(shard),
        from: Some(from.to_owned()),
        to: Some(to.to_owned()),
        cause: Cause::Share,
    };
    let moves: Vec<Move> = (0..20)
        .map(|n| go(n, "a", if n % 2 == 0 { "b" } else { "c" }))
        .collect();
    assert_eq!(steps(&moves, &[], 8), 3);
    assert_eq!(steps(&moves, &[false; 20], 8), 0);
}

fn status(id: &str, version: u64, realms_moving: u64) -> (String, NodeStatus) {
    let json = serde_json::json!({
        "id": id, "boot_id": "b", "relay_addr": "h:1", "gateway_url": "", "stopping": false,
        "map": { "term": 1, "version": version }, "sessions": 0, "realms_owned": 0,
        "dispatches_per_s": 0, "at_ms": 0, "realms_moving": realms_moving,
    });
    (id.to_owned(), serde_json::from_value(json).unwrap())
}

#[test]
fn a_step_ends_when_all_nodes_have_followed_or_after_five_seconds() {
    let mut seen = settled(256, 3);
    seen.nodes[0].standing = Standing::Draining;
    let step = one_step(&seen, &[], Voluntary::Go);
    let start = Instant::now();
    let version = |version| MapVersion { term: 1, version };

    let mut motion = Motion::default();
    motion.began(start, 7, version(5), &step);
    motion.rest(step.left);
    assert!(motion.is_under_way());
    let nodes = |other, moving| Nodes::from([status("a", 5, 0), status("b", other, moving)]);
    assert_eq!(
        motion.look(start, &nodes(4, 0)),
        None,
        "b has not heard of it"
    );
    assert_eq!(
        motion.look(start, &nodes(5, 3)),
        None,
        "realms are on their way"
    );
    assert_eq!(motion.look(start, &nodes(5, 0)), Some(Ended::Settled));
    let progress = motion.progress().unwrap();
    assert_eq!(
        (progress.done, progress.left),
        (step.moves.len() as u32, step.left)
    );

    motion.began(start, 8, version(6), &step);
    let almost = start + SETTLE_MAX - Duration::from_millis(1);
    assert_eq!(motion.look(almost, &nodes(5, 0)), None);
    assert_eq!(
        motion.look(start + SETTLE_MAX, &nodes(5, 0)),
        Some(Ended::TimedOut)
    );
    assert_eq!(motion.progress().unwrap().timed_out, 1);
    motion.rest(0);
    assert_eq!(motion.progress(), None);
}

#[test]
fn a_step_whose_answer_got_lost_is_under_way_once_its_map_shows() {
    let mut seen = settled(256, 3);
    seen.nodes[0].standing = Standing::Draining;
    let step = one_step(&seen, &[], Voluntary::Go);
    let start = Instant::now();
    let version = |version| MapVersion { term: 1, version };

    let mut motion = Motion::default();
    motion.sent(7, version(5), &step);
    assert_eq!(motion.shown(start, version(4)), None, "it is not there yet");
    assert!(!motion.is_under_way());
    assert_eq!(motion.shown(start, version(5)).as_ref(), Some(&step));
    assert!(motion.is_under_way());
    assert_eq!(motion.progress().unwrap().started_at_ms, 7);
    assert_eq!(motion.shown(start, version(5)), None, "it began once");

    motion.sent(8, version(6), &step);
    motion.began(start, 8, version(6), &step);
    assert_eq!(motion.shown(start, version(6)), None, "it was answered");
    motion.sent(9, version(7), &step);
    motion.sent(10, version(8), &step);
    assert_eq!(
        motion.shown(start, version(7)),
        None,
        "another one was sent"
    );
}
