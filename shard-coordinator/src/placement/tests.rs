//! Properties of `plan` (I9, I10), over clusters that joined, left and drained before.

use proptest::prelude::*;
use proptest::sample::{Index, select};

use super::*;
use crate::node::Weight;

/// Where everything is to be.
fn plan(seen: &Observed) -> Layout {
    super::plan(seen).layout
}

fn node(id: &str) -> Node {
    Node {
        id: id.to_owned(),
        relay_addr: format!("{id}:1"),
        weight: Weight::NORMAL,
        standing: Standing::Accepting,
        drain: None,
    }
}

/// `count` equal nodes.
fn equal(count: usize) -> Vec<Node> {
    (0..count).map(|n| node(&format!("node-{n:04}"))).collect()
}

fn seen(shards: u16, nodes: Vec<Node>) -> Observed {
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

fn as_map(layout: Layout) -> ClusterMap {
    layout.into_map(MapVersion::default())
}

/// The same cluster after this plan came true.
fn after(seen: &Observed, layout: Layout) -> Observed {
    let mut next = seen.clone();
    next.previous = Some(as_map(layout));
    next
}

/// Owner of every shard, by id.
fn owners(layout: &Layout) -> Vec<Option<String>> {
    let name = |place: u16| layout.nodes[usize::from(place)].clone();
    let owners = layout.shards.iter().map(|shard| shard.owner.map(name));
    owners.collect()
}

fn moves(before: &Layout, after: &Layout) -> usize {
    let (before, after) = (owners(before), owners(after));
    before.iter().zip(&after).filter(|(a, b)| a != b).count()
}

fn loads(layout: &Layout) -> Vec<u64> {
    let mut loads = vec![0; layout.nodes.len()];
    for shard in &layout.shards {
        if let Some(owner) = shard.owner {
            loads[usize::from(owner)] += 1;
        }
    }
    loads
}

fn of<'a>(seen: &'a Observed, id: &str) -> &'a Node {
    let node = seen.nodes.iter().find(|node| node.id == id);
    node.expect("the layout names live nodes only")
}

/// max((1+ε)·share, share+1) as a float, computed apart from the planner's integers.
fn bound(seen: &Observed, node: &Node, shards: f64) -> f64 {
    let accepting = |n: &&Node| n.standing == Standing::Accepting;
    let all: u32 = seen
        .nodes
        .iter()
        .filter(accepting)
        .map(|n| n.weight.milli())
        .sum();
    let share = shards * f64::from(node.weight.milli()) / f64::from(all);
    (share * 1.05).max(share + 1.0) + 1e-6
}

fn weight() -> impl Strategy<Value = Weight> {
    select(vec![0.25, 0.5, 1.0, 1.0, 1.0, 1.5, 2.0, 4.0]).prop_map(Weight::new)
}

/// A cluster of up to 30 accepting nodes of any weight, settled after a node joined and
/// another one left.
fn settled() -> impl Strategy<Value = (Observed, Layout)> {
    let nodes = prop::collection::vec(weight(), 1..30);
    (nodes, 1u16..2048, any::<Index>(), any::<Index>()).prop_map(|(weights, shards, late, dead)| {
        let mut all = equal(weights.len());
        for (node, weight) in all.iter_mut().zip(weights) {
            node.weight = weight;
        }
        let late = late.get(&all).id.clone();
        let mut early = seen(shards, all.clone());
        early.nodes.retain(|node| node.id != late);
        let first = plan(&early);
        let mut joined = after(&early, first);
        joined.nodes = all;
        let second = plan(&joined);
        let mut left = after(&joined, second);
        if left.nodes.len() > 1 {
            let dead = dead.index(left.nodes.len());
            left.nodes.remove(dead);
        }
        let third = plan(&left);
        (after(&left, third.clone()), third)
    })
}

/// Any cluster: nodes of any standing, pins to live and dead nodes, a settled past.
fn any_cluster() -> impl Strategy<Value = Observed> {
    let standing = select(vec![
        Standing::Accepting,
        Standing::Accepting,
        Standing::Accepting,
        Standing::Cordoned,
        Standing::Draining,
        Standing::Stopping,
    ]);
    let pins = prop::collection::btree_map(0u16..2048, 0usize..40, 0..60);
    let standings = prop::collection::vec(standing, 30);
    (settled(), standings, pins).prop_map(|((mut seen, _), standings, pins)| {
        for (node, standing) in seen.nodes.iter_mut().zip(standings) {
            node.standing = standing;
        }
        let pin = |(shard, n)| (ShardId(shard), format!("node-{n:04}"));
        seen.pins = pins.into_iter().map(pin).collect();
        seen
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn the_same_input_gives_the_same_plan_in_any_order(seen in any_cluster()) {
        let mut shuffled = seen.clone();
        shuffled.nodes.reverse();
        prop_assert_eq!(plan(&seen), plan(&shuffled));
    }

    #[test]
    fn load_is_weighed_the_same_in_any_order_and_moves_within_the_limits(
        (seen, before) in settled(), loads in prop::collection::vec(0u32..5_000, 2_048),
    ) {
        let mut loaded = seen.clone();
        loaded.loads = loads;
        let target = super::plan(&loaded);
        loaded.nodes.reverse();
        prop_assert_eq!(&super::plan(&loaded), &target);
        prop_assert_eq!(moves(&before, &target.layout), target.for_load.len());
        for (id, load) in target.layout.nodes.iter().zip(self::loads(&target.layout)) {
            prop_assert!(load as f64 <= bound(&seen, of(&seen, id), f64::from(seen.shards)));
        }
    }

    #[test]
    fn a_plan_come_true_is_left_alone(seen in any_cluster()) {
        let layout = plan(&seen);
        prop_assert_eq!(plan(&after(&seen, layout.clone())), layout);
    }

    #[test]
    fn nobody_exceeds_the_bound((seen, layout) in settled()) {
        for (id, load) in layout.nodes.iter().zip(loads(&layout)) {
            let bound = bound(&seen, of(&seen, id), f64::from(seen.shards));
            prop_assert!(load as f64 <= bound, "{} has {} of at most {}", id, load, bound);
        }
    }

    #[test]
    fn every_shard_is_on_a_node_that_may_have_it(seen in any_cluster()) {
        let accepting = seen.nodes.iter().any(|node| node.standing == Standing::Accepting);
        let layout = plan(&seen);
        let before = seen.previous.clone().expect("a settled cluster has a map");
        prop_assert_eq!(layout.shards.len(), usize::from(seen.shards));
        for shard in (0..seen.shards).map(ShardId) {
            let assignment = layout.shards[usize::from(shard.0)];
            let name = |place: u16| layout.nodes[usize::from(place)].as_str();
            let (owner, standby) = (assignment.owner.map(name), assignment.standby.map(name));
            let (was, stood_by) = (before.owner(shard), before.standby(shard));
            let is_served = was.is_some_and(|id| of(&seen, id).standing != Standing::Stopping);
            let cordoned = stood_by.filter(|&id| of(&seen, id).standing == Standing::Cordoned);
            let left_to = cordoned.filter(|_| !accepting && !is_served);
            let may_be_unowned = !accepting && left_to.is_none();
            prop_assert!(owner.is_some() || may_be_unowned, "{} has no owner", shard);
            prop_assert!(owner.is_none() || owner != standby);
            prop_assert!(owner.is_some() || standby.is_none());
            for (id, had) in [(owner, [was, left_to]), (standby, [stood_by, None])] {
                let Some(id) = id else { continue };
                match of(&seen, id).standing {
                    Standing::Accepting => {}
                    Standing::Cordoned => {
                        prop_assert!(had.contains(&Some(id)), "{} is new on a cordoned node", shard);
                    }
                    Standing::Draining | Standing::Stopping => prop_assert!(false, "{} is on a leaving node", shard),
                }
            }
        }
    }

    #[test]
    fn there_is_a_standby_as_soon_as_there_is_a_second_node((seen, layout) in settled()) {
        let standbys = layout.shards.iter().filter(|shard| shard.standby.is_some()).count();
        let expected = if seen.nodes.len() > 1 { usize::from(seen.shards) } else { 0 };
        prop_assert_eq!(standbys, expected);
    }

    #[test]
    fn pins_to_accepting_nodes_are_honoured(seen in any_cluster()) {
        let layout = plan(&seen);
        let map = as_map(layout);
        for (shard, pin) in seen.pins.iter().filter(|(shard, _)| shard.0 < seen.shards) {
            let target = seen.nodes.iter().find(|node| node.id == *pin);
            if target.is_some_and(|node| node.standing == Standing::Accepting) {
                prop_assert_eq!(map.owner(*shard), Some(pin.as_str()));
            }
        }
    }

    #[test]
    fn a_leaving_node_moves_only_its_own_shards(
        (seen, before) in settled(), leaver in any::<Index>(), dies in any::<bool>(),
    ) {
        let leaver = leaver.index(seen.nodes.len());
        let id = seen.nodes[leaver].id.clone();
        let mut without = seen.clone();
        if dies {
            without.nodes.remove(leaver);
        } else {
            without.nodes[leaver].standing = Standing::Draining;
        }
        let now = plan(&without);
        for (was, is) in owners(&before).into_iter().zip(owners(&now)) {
            if was.as_ref() != Some(&id) {
                prop_assert_eq!(was, is);
            } else {
                prop_assert_ne!(Some(&id), is.as_ref());
            }
        }
    }

    #[test]
    fn a_dead_owner_is_followed_by_its_standby_while_that_has_room(
        (seen, before) in settled(), dead in any::<Index>(),
    ) {
        prop_assume!(seen.nodes.len() > 1);
        let mut without = seen.clone();
        let dead = without.nodes.remove(dead.index(seen.nodes.len())).id;
        let (before, after) = (as_map(before), as_map(plan(&without)));
        let after_loads = loads_by_id(&after);
        for shard in (0..seen.shards).map(ShardId) {
            if before.owner(shard) != Some(&dead) || after.owner(shard) == before.standby(shard) {
                continue;
            }
            let standby = before.standby(shard).expect("two nodes, so there is a standby");
            let full = bound(&without, of(&without, standby), f64::from(seen.shards)) - 1.0;
            prop_assert!(after_loads[standby] as f64 > full - 1e-3, "{} had room", standby);
        }
    }

    #[test]
    fn cordoning_moves_nothing((seen, before) in settled(), which in any::<Index>()) {
        let mut cordoned = seen.clone();
        let which = which.index(seen.nodes.len());
        cordoned.nodes[which].standing = Standing::Cordoned;
        prop_assert_eq!(moves(&before, &plan(&cordoned)), 0);
    }

    /// The least any planner must move so that the bound holds: what exceeds it now.
    #[test]
    fn a_join_moves_no_more_than_it_must((seen, before) in settled(), weight in weight()) {
        let mut joined = seen.clone();
        joined.nodes.push(Node { weight, ..node("newcomer") });
        let excess: f64 = before.nodes.iter().zip(loads(&before)).map(|(id, load)| {
            let bound = bound(&joined, of(&joined, id), f64::from(seen.shards)).floor();
            (load as f64 - bound).max(0.0)
        }).sum();
        let moved = moves(&before, &plan(&joined));
        prop_assert!(moved as f64 <= excess * 1.1, "{} moves, {} needed", moved, excess);
    }

    #[test]
    fn any_previous_map_is_survived(
        owners in prop::collection::vec((any::<Option<u16>>(), any::<Option<u16>>()), 0..300),
        named in 0usize..5,
        live in 0usize..5,
    ) {
        let mut seen = seen(200, equal(live));
        let shards = owners.into_iter().map(|(owner, standby)| Assignment { owner, standby });
        seen.previous = Some(ClusterMap {
            nodes: equal(named).into_iter().map(|node| node.id).collect(),
            shards: shards.collect(),
            ..ClusterMap::default()
        });
        let layout = plan(&seen);
        prop_assert_eq!(layout.shards.len(), 200);
        prop_assert_eq!(plan(&after(&seen, layout.clone())), layout);
    }
}

/// Shards per node id of a map.
fn loads_by_id(map: &ClusterMap) -> BTreeMap<&str, u64> {
    let mut loads: BTreeMap<&str, u64> = map.nodes.iter().map(|id| (&**id, 0)).collect();
    for shard in (0..map.shards.len()).map(id) {
        if let Some(load) = map.owner(shard).and_then(|owner| loads.get_mut(owner)) {
            *load += 1;
        }
    }
    loads
}

/// The share of a join or a leave is S ÷ nodes: what plain consistent hashing moves.
#[test]
fn joins_and_leaves_move_at_most_a_tenth_above_a_nodes_share() {
    for count in [2usize, 3, 5, 8, 10, 20, 50, 200] {
        let small = seen(4096, equal(count));
        let first = plan(&small);
        let mut big = after(&small, first.clone());
        big.nodes = equal(count + 1);
        let second = plan(&big);
        let share = 4096.0 / (count + 1) as f64;
        let joined = moves(&first, &second);
        assert!(
            joined as f64 <= share * 1.1,
            "{count} nodes: {joined} moves for {share}"
        );

        let mut left = after(&big, second.clone());
        left.nodes.remove(0);
        let gone = loads(&second)[0];
        assert_eq!(moves(&second, &plan(&left)) as u64, gone);
    }
}

#[test]
fn two_nodes_share_the_work_and_stand_by_for_each_other() {
    let layout = plan(&seen(4096, equal(2)));
    let loads = loads(&layout);
    assert!(
        loads.iter().all(|load| (1945..=2151).contains(load)),
        "{loads:?}"
    );
    for shard in &layout.shards {
        let mut both = [shard.owner, shard.standby];
        both.sort_unstable();
        assert_eq!(both, [Some(0), Some(1)]);
    }
}

#[test]
fn without_an_accepting_node_there_is_no_owner() {
    let mut cluster = seen(8, equal(1));
    let first = plan(&cluster);
    assert!(first.shards.iter().all(|shard| shard.owner == Some(0)));
    cluster = after(&cluster, first);
    cluster.nodes[0].standing = Standing::Draining;
    let nobody = plan(&cluster);
    assert_eq!(nobody.shards, vec![Assignment::default(); 8]);
    cluster.nodes.clear();
    assert_eq!(plan(&cluster).shards, vec![Assignment::default(); 8]);
}

/// A settled cluster of three nodes, all of them cordoned since, and its map.
fn all_cordoned() -> (Observed, ClusterMap) {
    let mut cluster = seen(64, equal(3));
    let first = plan(&cluster);
    cluster = after(&cluster, first.clone());
    for node in &mut cluster.nodes {
        node.standing = Standing::Cordoned;
    }
    (cluster, as_map(first))
}

#[test]
fn where_no_node_accepts_a_cordoned_standby_gets_what_its_owner_serves_no_more() {
    let (cluster, before) = all_cordoned();
    let mut stopping = cluster.clone();
    stopping.nodes[0].standing = Standing::Stopping;
    let mut dead = cluster;
    dead.nodes.remove(0);
    for left in [stopping, dead] {
        let layout = plan(&left);
        let map = as_map(layout.clone());
        for shard in (0..64).map(ShardId) {
            let expected = match before.owner(shard) {
                Some("node-0000") => before.standby(shard),
                owner => owner,
            };
            assert_eq!(map.owner(shard), expected, "{shard}");
        }
        assert_eq!(plan(&after(&left, layout.clone())), layout);
    }
}

#[test]
fn where_no_node_accepts_nothing_leaves_a_draining_owner_or_goes_to_a_draining_standby() {
    let (mut cluster, before) = all_cordoned();
    cluster.nodes[0].standing = Standing::Draining;
    let map = as_map(plan(&cluster));
    for shard in (0..64).map(ShardId) {
        let owner = before.owner(shard).filter(|&id| id != "node-0000");
        assert_eq!(map.owner(shard), owner, "{shard}");
    }

    cluster.nodes.remove(1);
    let map = as_map(plan(&cluster));
    let mut unowned = 0;
    for shard in (0..64).map(ShardId) {
        let expected = match (before.owner(shard), before.standby(shard)) {
            (Some("node-0001"), Some("node-0002")) | (Some("node-0002"), _) => Some("node-0002"),
            _ => None,
        };
        assert_eq!(map.owner(shard), expected, "{shard}");
        unowned += usize::from(expected.is_none());
    }
    assert_eq!(map.unowned(), unowned);
}

#[test]
fn a_lone_cordoned_node_keeps_its_shards() {
    let mut cluster = seen(8, equal(1));
    let first = plan(&cluster);
    cluster = after(&cluster, first.clone());
    cluster.nodes[0].standing = Standing::Cordoned;
    assert_eq!(plan(&cluster), first);
}

#[test]
fn a_new_relay_address_changes_the_layout_but_no_shard() {
    let mut cluster = seen(64, equal(3));
    let first = plan(&cluster);
    cluster = after(&cluster, first.clone());
    cluster.nodes[1].relay_addr = "elsewhere:2".to_owned();
    let second = plan(&cluster);
    assert_eq!(second.relay_addrs[1], "elsewhere:2");
    assert_eq!(second.shards, first.shards);
}

#[test]
fn a_node_that_begins_to_stop_changes_the_layout_though_it_has_no_shard() {
    let mut cluster = seen(64, equal(3));
    cluster.nodes[2].standing = Standing::Cordoned;
    let first = plan(&cluster);
    assert_eq!(loads(&first)[2], 0);
    assert_eq!(first.stopping, BTreeSet::new());
    cluster = after(&cluster, first.clone());
    cluster.nodes[2].standing = Standing::Stopping;
    let second = plan(&cluster);
    assert_eq!(second.stopping, BTreeSet::from(["node-0002".to_owned()]));
    assert_eq!(owners(&second), owners(&first));
    assert!(!second.is_that_of(&as_map(first)));
}

#[test]
fn a_map_of_a_large_cluster_is_balanced() {
    let layout = plan(&seen(16_384, equal(1_000)));
    let fullest = loads(&layout).into_iter().max();
    assert_eq!(fullest, Some(17)); // share 16.384
}

#[test]
fn imbalance_is_the_fullest_against_its_share() {
    assert_eq!(imbalance(&[50, 50], &[1000, 1000]), 1.0);
    assert_eq!(imbalance(&[75, 25], &[3000, 1000]), 1.0);
    assert_eq!(imbalance(&[60, 40], &[1000, 1000]), 1.2);
    assert_eq!(imbalance(&[], &[]), 1.0);
    assert_eq!(imbalance(&[0, 10], &[0, 1000]), 1.0);
}

/// A settled cluster in which the shards of `hot` nodes cost `load` each and all others 100.
fn loaded(count: usize, shards: u16, hot: &[u16], load: u32) -> Observed {
    let mut cluster = seen(shards, equal(count));
    let layout = plan(&cluster);
    let of_hot = |shard: &Assignment| shard.owner.is_some_and(|owner| hot.contains(&owner));
    let costs = layout
        .shards
        .iter()
        .map(|shard| if of_hot(shard) { load } else { 100 });
    cluster.loads = costs.collect();
    after(&cluster, layout)
}

/// Load per node.
fn costs(layout: &Layout, loads: &[u32]) -> Vec<u64> {
    let mut costs = vec![0; layout.nodes.len()];
    for (shard, load) in layout.shards.iter().zip(loads) {
        if let Some(owner) = shard.owner {
            costs[usize::from(owner)] += u64::from(*load);
        }
    }
    costs
}

#[test]
fn load_moves_until_no_node_carries_much_more_than_the_others() {
    let mut cluster = loaded(4, 512, &[2], 300);
    let (mut rounds, mut moved) = (0, BTreeSet::new());
    loop {
        let before = after(&cluster, plan(&seen_without_loads(&cluster))).previous;
        let target = super::plan(&cluster);
        if target.for_load.is_empty() {
            break;
        }
        let all: u64 = cluster.loads.iter().copied().map(u64::from).sum();
        let cost = |shard: &ShardId| u64::from(cluster.loads[usize::from(shard.0)]);
        let carried: u64 = target.for_load.iter().map(cost).sum();
        assert!(carried * 100 <= all * 9, "{carried} of {all} in one plan");
        let now = costs(&target.layout, &cluster.loads);
        let then = before
            .map(|map| costs(&layout_of(map), &cluster.loads))
            .unwrap();
        assert!(now.iter().max() < then.iter().max(), "{then:?} {now:?}");
        for (id, load) in target.layout.nodes.iter().zip(loads(&target.layout)) {
            assert!(load as f64 <= bound(&cluster, of(&cluster, id), 512.0));
        }
        assert!(moved.is_disjoint(&target.for_load), "what moved rests");
        moved.extend(target.for_load.iter().copied());
        cluster.resting = moved.clone();
        cluster = after(&cluster, target.layout);
        rounds += 1;
    }
    let layout = plan(&cluster);
    let costs = costs(&layout, &cluster.loads);
    let (max, mean) = (costs.iter().max().unwrap() * 4, costs.iter().sum::<u64>());
    assert!(max * 100 <= mean * 115, "{costs:?} after {rounds} rounds");
    assert!(rounds > 1, "one plan moves a part only");
}

fn seen_without_loads(cluster: &Observed) -> Observed {
    Observed {
        loads: Vec::new(),
        ..cluster.clone()
    }
}

fn layout_of(map: ClusterMap) -> Layout {
    Layout {
        nodes: map.nodes,
        relay_addrs: map.relay_addrs,
        shards: map.shards,
        drains: map.drains,
        stopping: map.stopping,
    }
}

#[test]
fn noise_and_trifles_move_nothing() {
    let slightly = loaded(4, 512, &[2], 115);
    assert_eq!(super::plan(&slightly).for_load, BTreeSet::new());
    let mut trifling = loaded(4, 512, &[2], 300);
    for load in &mut trifling.loads {
        *load /= 100;
    }
    assert_eq!(super::plan(&trifling).for_load, BTreeSet::new());
}

#[test]
fn load_moves_no_pinned_nor_resting_shard_and_none_of_cordoned_nodes() {
    let hot = loaded(4, 512, &[2], 300);
    let before = hot.previous.clone().unwrap();
    let on_hot: Vec<ShardId> = (0..512)
        .map(ShardId)
        .filter(|shard| before.owner(*shard) == Some("node-0002"))
        .collect();
    let mut resting = hot.clone();
    resting.resting = on_hot.iter().copied().collect();
    assert_eq!(super::plan(&resting).for_load, BTreeSet::new());
    let mut pinned = hot.clone();
    let pin = |shard: &ShardId| (*shard, "node-0002".to_owned());
    pinned.pins = on_hot.iter().map(pin).collect();
    assert_eq!(super::plan(&pinned).for_load, BTreeSet::new());
    let mut cordoned = hot;
    cordoned.nodes[2].standing = Standing::Cordoned;
    assert_eq!(super::plan(&cordoned).for_load, BTreeSet::new());
}

#[test]
fn a_single_move_takes_a_shard_there_and_placement_leaves_it_there() {
    let mut cluster = seen(64, equal(3));
    let first = plan(&cluster);
    cluster = after(&cluster, first.clone());
    let owner = as_map(first).owner(ShardId(5)).map(str::to_owned);
    let to = if owner.as_deref() == Some("node-0000") {
        "node-0001"
    } else {
        "node-0000"
    };
    cluster.moves.insert(ShardId(5), to.to_owned());
    let there = plan(&cluster);
    assert_eq!(as_map(there.clone()).owner(ShardId(5)), Some(to));
    cluster = after(&cluster, there.clone());
    cluster.moves.clear();
    assert_eq!(plan(&cluster), there);
    cluster.moves.insert(ShardId(5), "node-0002".to_owned());
    cluster.pins.insert(ShardId(5), to.to_owned());
    assert_eq!(plan(&cluster), there, "a pin is stronger");
}

/// Prints the figures too, see `benches/benches/placement.rs` for the time.
#[test]
fn a_thousand_nodes_are_even_and_move_the_minimum() {
    let first = plan(&seen(16_384, equal(1_000)));
    let mut joined = after(&seen(16_384, equal(1_000)), first.clone());
    joined.nodes = equal(1_050);
    let second = plan(&joined);
    let mut left = after(&joined, second.clone());
    let gone: u64 = loads(&second).iter().take(50).sum();
    left.nodes.drain(..50);
    let third = plan(&left);
    let moved = moves(&second, &third) as f64;
    println!("leave of 50 of 1050: {moved} moves, {gone} needed");
    let start = std::time::Instant::now();
    plan(&left);
    println!("planned in {:?}", start.elapsed());
    left.loads = (0..16_384u32)
        .map(|n| 500 + n * 7 % 1_000 + if n % 10 == 0 { 5_000 } else { 0 })
        .collect();
    let start = std::time::Instant::now();
    let target = super::plan(&left);
    println!(
        "with {} moves for load in {:?}",
        target.for_load.len(),
        start.elapsed()
    );
    assert!(moved <= gone as f64 * 1.02);
    for (count, shards) in [(10_usize, 4096_u16), (50, 4096), (200, 4096), (800, 16_384)] {
        let layout = plan(&seen(shards, equal(count)));
        let loads = loads(&layout);
        let max = *loads.iter().max().unwrap() as f64;
        let mean = f64::from(shards) / count as f64;
        println!("{count} nodes, {shards} shards: max/mean {:.4}", max / mean);
        assert!(max <= (mean * 1.05).max(mean + 1.0));
    }
}
