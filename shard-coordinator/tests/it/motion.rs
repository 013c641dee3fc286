//! Moves in steps: how many at once, what holds them, who drives them.

use std::time::Duration;

use guildhall_shared::cluster_map::{ClusterMap, ShardLoad};
use guildhall_shared::shard::ShardId;
use serde_json::{Value, json};
use sqlx::PgPool;

use crate::harness::{
    SHARDS, START, TAKE_OVER, TestCluster, TestCoordinator, TestGateway, both, leader_first, owned,
    until,
};

/// A change that waits for a round, or for a step before it.
const CHANGE: Duration = Duration::from_secs(8);
/// Sixteen steps, each a heartbeat and a glance.
const STEPS: Duration = Duration::from_secs(60);

/// A plan of two coordinators in the middle of a step, which goes on for as long as `gateways[0]`
/// has realms on their way.
struct Midway {
    gateways: [TestGateway; 2],
    leader: TestCoordinator,
    follower: TestCoordinator,
    /// The map before it.
    first: ClusterMap,
    /// Of the plan, for [`TestCoordinator::ask`].
    path: String,
}

impl Midway {
    /// `gateway-2` is drained.
    async fn new(cluster: &mut TestCluster) -> Self {
        let gateways = cluster.start_busy_gateways();
        let one = cluster.start_coordinator("one");
        let two = cluster.start_coordinator("two");
        let first = cluster.map_with(START, "the first map", both).await;
        let (leader, follower) = leader_first(one, two).await;
        let change = json!({ "change": "drain", "node": "gateway-2", "over_s": 0 });
        let plan = follower
            .does("POST", "plan", json!({ "changes": [change] }))
            .await;
        let path = format!("plan/{}", plan["id"]);
        gateways[0].report(|status| status.realms_moving = 3);
        follower
            .does("POST", &format!("{path}/apply"), Value::Null)
            .await;
        let in_motion = |moves: &Value| {
            let shards = moves["progress"]["in_motion"].as_array();
            shards.is_some_and(|shards| !shards.is_empty())
        };
        follower.until("moves", CHANGE, in_motion).await;
        Self {
            gateways,
            leader,
            follower,
            first,
            path,
        }
    }
}

/// Who did this, in the order in which it was done.
async fn who_did(db: &PgPool, action: &str) -> Vec<String> {
    let rows = "select who from cluster_audit where action = $1 order by audit_id";
    let rows = sqlx::query_scalar(rows).bind(action);
    rows.fetch_all(db).await.unwrap()
}

/// The plan was ended once, by another coordinator than the one that led first; who led.
async fn done_by_the_other(db: &PgPool) -> Vec<String> {
    let leaders = who_did(db, "lead_taken").await;
    let (first, last) = (leaders.first().unwrap(), leaders.last().unwrap());
    assert_ne!(first, last);
    assert_eq!(who_did(db, "plan_done").await, [last.as_str()]);
    leaders
}

fn moved(before: &ClusterMap, after: &ClusterMap) -> usize {
    let shards = (0..SHARDS).map(ShardId);
    shards
        .filter(|shard| before.owner(*shard) != after.owner(*shard))
        .count()
}

#[sqlx::test(migrations = "../migrations")]
async fn a_drain_moves_eight_shards_at_a_time_by_whichever_coordinator(db: PgPool) {
    let mut cluster = TestCluster::new(db, 5).await;
    let _gateways = cluster.start_busy_gateways();
    let coordinators = [
        cluster.start_coordinator("one"),
        cluster.start_coordinator("two"),
    ];
    let first = cluster.map_with(START, "the first map", both).await;
    let follower = match coordinators[0].leads().await {
        true => &coordinators[1],
        false => &coordinators[0],
    };

    follower
        .does("POST", "nodes/gateway-2/drain", json!({ "over_s": 0 }))
        .await;
    let (mut last, mut steps) = (first, 0);
    while owned(&last, "gateway-2") > 0 {
        let next = |map: &ClusterMap| map.version > last.version;
        let map = cluster.map_with(CHANGE, "the next step", next).await;
        assert_eq!(
            map.version.version,
            last.version.version + 1,
            "each step was seen"
        );
        assert!(moved(&last, &map) <= 8, "{} moved", moved(&last, &map));
        assert!(map.drains.contains_key("gateway-2"));
        (last, steps) = (map, steps + 1);
    }
    assert!(steps >= 14, "{steps} steps");
    let over = |moves: &Value| moves["progress"].is_null();
    follower.until("moves", CHANGE, over).await;
    for coordinator in coordinators {
        coordinator.stop().await;
    }
}

#[sqlx::test(migrations = "../migrations")]
async fn a_running_plan_can_be_paused_and_aborted_and_lets_nobody_else_in(db: PgPool) {
    let mut cluster = TestCluster::new(db, 6).await;
    let gateways = cluster.start_busy_gateways();
    let coordinator = cluster.start_coordinator("one");
    let first = cluster.map_with(START, "the first map", both).await;
    let change = json!({ "change": "drain", "node": "gateway-2" });
    let plan = coordinator
        .does("POST", "plan", json!({ "changes": [change] }))
        .await;
    assert!(plan["outcome"]["steps"].as_u64().unwrap() >= 14);
    let other = coordinator
        .does("POST", "plan", json!({ "changes": [change] }))
        .await;
    // Realms that are on their way keep the step from ending.
    gateways[0].report(|status| status.realms_moving = 3);
    coordinator
        .does("POST", &format!("plan/{}/apply", plan["id"]), Value::Null)
        .await;
    let begun = |map: &ClusterMap| map.version > first.version;
    let begun = cluster.map_with(CHANGE, "the first step", begun).await;
    let in_motion = |moves: &Value| {
        let shards = moves["progress"]["in_motion"].as_array();
        shards.is_some_and(|shards| !shards.is_empty())
    };
    let moves = coordinator.until("moves", CHANGE, in_motion).await;
    assert_eq!(moves["plan"]["id"], plan["id"]);
    let progress = &moves["progress"];
    let left = progress["left"].as_u64().unwrap() + progress["done"].as_u64().unwrap();
    let in_motion = progress["in_motion"].as_array().unwrap().len();
    assert_eq!(left as usize + in_motion, owned(&first, "gateway-2"));

    let cordon = coordinator
        .refuses("POST", "nodes/gateway-1/cordon", Value::Null)
        .await;
    assert_eq!(cordon, "409 plan_running");
    let apply = format!("plan/{}/apply", other["id"]);
    assert_eq!(
        coordinator.refuses("POST", &apply, Value::Null).await,
        "409 plan_running"
    );

    coordinator.does("POST", "pause", Value::Null).await;
    coordinator.metric("coordinator_paused 1", CHANGE).await;
    gateways[0].report(|status| status.realms_moving = 0);
    let settled = |moves: &Value| moves["progress"]["in_motion"] == json!([]);
    let paused = coordinator.until("moves", CHANGE, settled).await;
    assert_eq!(paused["paused"]["by"], "ann");
    let held = cluster.map().await.unwrap();
    assert!(owned(&held, "gateway-2") > 0);
    assert!(held.version >= begun.version);

    coordinator.does("POST", "abort", Value::Null).await;
    let undone = |map: &ClusterMap| map.drains.is_empty();
    let undone = cluster.map_with(CHANGE, "the abort", undone).await;
    assert_eq!(moved(&held, &undone), 0, "paused, nothing moves");
    let path = format!("plan/{}", plan["id"]);
    coordinator
        .until(&path, CHANGE, |plan| plan["state"] == "aborted")
        .await;
    coordinator.does("POST", "resume", Value::Null).await;
    coordinator.metric("coordinator_paused 0", CHANGE).await;
    let rest = |moves: &Value| moves["progress"].is_null();
    coordinator.until("moves", STEPS, rest).await;
    let end = cluster.map().await.unwrap();
    assert!(owned(&end, "gateway-1") <= 134, "128 and 5 %");
    an_abort_that_comes_too_late_says_so(&coordinator, &cluster.db).await;
    coordinator.stop().await;
}

/// Paused, so that what runs does so for as long as the test wants.
async fn an_abort_that_comes_too_late_says_so(coordinator: &TestCoordinator, db: &PgPool) {
    coordinator.does("POST", "pause", Value::Null).await;
    let change = json!({ "change": "drain", "node": "gateway-1" });
    let plan = coordinator
        .does("POST", "plan", json!({ "changes": [change] }))
        .await;
    let path = format!("plan/{}", plan["id"]);
    coordinator
        .does("POST", &format!("{path}/apply"), Value::Null)
        .await;
    let done = "update cluster_plan set state = 'done' where state = 'applying'";
    aborted_while(coordinator, db, done).await;
    let plan = coordinator.does("GET", &path, Value::Null).await;
    assert_eq!(plan["state"], "done");
    let nodes = coordinator.does("GET", "nodes", Value::Null).await;
    assert_eq!(nodes["nodes"][0]["state"], "draining", "what it set stays");

    let all: Vec<u16> = (0..SHARDS).collect();
    let to_other = json!({ "shards": all, "to": "gateway-2" });
    coordinator.does("POST", "moves", to_other).await;
    aborted_while(coordinator, db, "delete from cluster_move").await;
}

/// An abort that comes while the leader has done this and has not committed it yet.
async fn aborted_while(coordinator: &TestCoordinator, db: &PgPool, ends: &'static str) {
    let mut tx = db.begin().await.unwrap();
    sqlx::query(ends).execute(&mut *tx).await.unwrap();
    let commit = async {
        let waiting = "select count(*) from pg_stat_activity
                       where datname = current_database() and wait_event_type = 'Lock'";
        until("the abort waits", CHANGE, async || {
            let count: i64 = sqlx::query_scalar(waiting).fetch_one(db).await.unwrap();
            if count > 0 { Ok(()) } else { Err(count) }
        })
        .await;
        tx.commit().await.unwrap();
    };
    let abort = coordinator.refuses("POST", "abort", Value::Null);
    let (refused, ()) = tokio::join!(abort, commit);
    assert_eq!(refused, "409 nothing_to_abort", "{ends}");
}

#[sqlx::test(migrations = "../migrations")]
async fn a_plan_that_drains_runs_until_the_sessions_have_left(db: PgPool) {
    let mut cluster = TestCluster::new(db, 13).await;
    let gateways = cluster.start_gateways();
    gateways[1].keep_sessions(true);
    let coordinator = cluster.start_coordinator("one");
    cluster.map_with(START, "the first map", both).await;
    let gone = |map: &ClusterMap| owned(map, "gateway-2") == 0;

    // All shards have left, and nothing is in motion.
    let path = drains_by_plan(&coordinator, "gateway-2").await;
    cluster.map_with(CHANGE, "the plan", gone).await;
    two_rounds(&coordinator).await;
    let plan = coordinator.does("GET", &path, Value::Null).await;
    assert_eq!(plan["state"], "applying", "its sessions are yet to leave");
    let cordon = "nodes/gateway-1/cordon";
    let refused = coordinator.refuses("POST", cordon, Value::Null).await;
    assert_eq!(refused, "409 plan_running");
    coordinator.does("POST", "abort", Value::Null).await;
    let back = |map: &ClusterMap| map.drains.is_empty() && both(map);
    cluster.map_with(CHANGE, "the abort", back).await;
    let plan = coordinator.does("GET", &path, Value::Null).await;
    assert_eq!(plan["state"], "aborted");

    // The next one is not held up by it; a pause holds shards, not sessions.
    let path = drains_by_plan(&coordinator, "gateway-2").await;
    cluster.map_with(CHANGE, "the second plan", gone).await;
    coordinator.does("POST", "pause", Value::Null).await;
    two_rounds(&coordinator).await;
    let plan = coordinator.does("GET", &path, Value::Null).await;
    assert_eq!(plan["state"], "applying");
    gateways[1].keep_sessions(false);
    let done = |plan: &Value| plan["state"] == "done";
    coordinator.until(&path, CHANGE, done).await;
    coordinator.stop().await;
}

/// Applies a plan that drains a node over ten minutes: its path.
async fn drains_by_plan(coordinator: &TestCoordinator, node: &str) -> String {
    let change = json!({ "change": "drain", "node": node, "over_s": 600 });
    let changes = json!({ "changes": [change] });
    let plan = coordinator.does("POST", "plan", changes).await;
    let path = format!("plan/{}", plan["id"]);
    let apply = format!("{path}/apply");
    coordinator.does("POST", &apply, Value::Null).await;
    path
}

/// Waits until a round has begun and come to its end.
async fn two_rounds(coordinator: &TestCoordinator) {
    let rounds = async || {
        let metrics = coordinator.get("/metrics").await;
        let mut lines = metrics.lines();
        let count = lines.find_map(|line| line.strip_prefix("coordinator_plan_seconds_count "));
        count.map_or(0, |count| count.parse::<u64>().unwrap())
    };
    let before = rounds().await;
    until("two rounds", CHANGE, async || {
        let now = rounds().await;
        if now >= before + 2 { Ok(()) } else { Err(now) }
    })
    .await;
}

#[sqlx::test(migrations = "../migrations")]
async fn a_node_that_never_settles_and_one_that_dies_do_not_stop_the_moves(db: PgPool) {
    let mut cluster = TestCluster::new(db, 7).await;
    let stuck = cluster.start_busy_gateway("gateway-1", "127.0.0.1:1");
    let dying = cluster.start_busy_gateway("gateway-2", "127.0.0.1:2");
    let coordinator = cluster.start_coordinator("one");
    cluster.map_with(START, "the first map", both).await;
    stuck.report(|status| status.realms_moving = 1);
    coordinator
        .does("POST", "nodes/gateway-2/drain", Value::Null)
        .await;
    coordinator
        .metric("coordinator_steps_timed_out_total 1", 2 * CHANGE)
        .await;
    drop(dying);
    let all = |map: &ClusterMap| owned(map, "gateway-1") == usize::from(SHARDS);
    cluster.map_with(CHANGE, "the death", all).await;
    let lost = |history: &Value| {
        let rows = history["entries"].as_array().unwrap();
        rows.iter().any(|row| row["action"] == "node_lost")
    };
    coordinator.until("history", CHANGE, lost).await;
    coordinator.stop().await;
}

#[sqlx::test(migrations = "../migrations")]
async fn with_all_nodes_cordoned_standbys_serve_on_and_what_has_none_is_counted(db: PgPool) {
    let mut cluster = TestCluster::new(db, 12).await;
    let [dying, last] = cluster.start_gateways();
    let coordinator = cluster.start_coordinator("one");
    cluster.map_with(START, "the first map", both).await;
    for node in ["gateway-1", "gateway-2"] {
        let path = format!("nodes/{node}/cordon");
        coordinator.does("POST", &path, Value::Null).await;
    }
    drop(dying);
    let all = |map: &ClusterMap| owned(map, "gateway-2") == usize::from(SHARDS);
    cluster.map_with(CHANGE, "the death", all).await;
    coordinator
        .metric("coordinator_shards_unowned 0", CHANGE)
        .await;

    last.report(|status| status.stopping = true);
    let nobody = |map: &ClusterMap| map.unowned() == usize::from(SHARDS);
    cluster.map_with(CHANGE, "the stop", nobody).await;
    coordinator
        .metric("coordinator_shards_unowned 256", CHANGE)
        .await;
    last.report(|status| status.stopping = false);
    let path = "nodes/gateway-2/uncordon";
    coordinator.does("POST", path, Value::Null).await;
    cluster.map_with(CHANGE, "a node that accepts", all).await;
    coordinator
        .metric("coordinator_shards_unowned 0", CHANGE)
        .await;
    coordinator.stop().await;
}

#[sqlx::test(migrations = "../migrations")]
async fn a_plan_whose_leader_is_killed_is_finished_by_the_other(db: PgPool) {
    let mut cluster = TestCluster::new(db, 5).await;
    let Midway {
        gateways,
        leader,
        follower,
        first,
        path,
    } = Midway::new(&mut cluster).await;
    leader.kill().await;
    let next_term = |map: &ClusterMap| map.version.term > first.version.term;
    let taken = cluster.map_with(TAKE_OVER, "a map of the next term", next_term);
    let taken = taken.await;
    assert!(
        (1..owned(&first, "gateway-2")).contains(&owned(&taken, "gateway-2")),
        "it was killed in the middle"
    );
    assert!(taken.drains.contains_key("gateway-2"));
    let plan = follower.does("GET", &path, Value::Null).await;
    assert_eq!(plan["state"], "applying");

    gateways[0].report(|status| status.realms_moving = 0);
    let done = |plan: &Value| plan["state"] == "done";
    follower.until(&path, STEPS, done).await;
    let end = cluster.map().await.unwrap();
    assert_eq!(owned(&end, "gateway-1"), usize::from(SHARDS));
    let leaders = done_by_the_other(&cluster.db).await;
    let steps = who_did(&cluster.db, "step").await;
    assert!(leaders.iter().all(|leader| steps.contains(leader)));
    let most = "select max((detail->>'in_motion')::int) from cluster_audit where action = 'step'";
    let most: Option<i32> = sqlx::query_scalar(most)
        .fetch_one(&cluster.db)
        .await
        .unwrap();
    assert_eq!(most, Some(8), "under both, eight at a time");
    follower.stop().await;
}

#[sqlx::test(migrations = "../migrations")]
async fn what_was_paused_stays_so_under_the_next_leader_until_it_is_told_to_go_on(db: PgPool) {
    let mut cluster = TestCluster::new(db, 7).await;
    let Midway {
        gateways,
        leader,
        follower,
        first,
        path,
    } = Midway::new(&mut cluster).await;
    leader.does("POST", "pause", Value::Null).await;
    leader.metric("coordinator_paused 1", CHANGE).await;
    gateways[0].report(|status| status.realms_moving = 0);
    let settled = |moves: &Value| moves["progress"]["in_motion"] == json!([]);
    follower.until("moves", CHANGE, settled).await;
    let held = cluster.map().await.unwrap();
    leader.kill().await;

    let next_term = |map: &ClusterMap| map.version.term > first.version.term;
    let taken = cluster.map_with(TAKE_OVER, "a map of the next term", next_term);
    let taken = taken.await;
    assert_eq!(moved(&held, &taken), 0, "a take-over moves nothing");
    follower.metric("coordinator_paused 1", CHANGE).await;
    // All follow it, so nothing but the pause holds the next step; and a round is seen that could
    // have made it.
    for gateway in &gateways {
        gateway.has(taken.version, CHANGE).await;
    }
    let _third = cluster.start_busy_gateway("gateway-3", "127.0.0.1:3");
    let joined = |map: &ClusterMap| map.nodes.len() == 3;
    let joined = cluster.map_with(CHANGE, "a third node", joined).await;
    assert_eq!(moved(&held, &joined), 0, "paused, nothing moves");
    assert!(owned(&joined, "gateway-2") > 0);
    let moves = follower.does("GET", "moves", Value::Null).await;
    assert_eq!(moves["paused"]["by"], "ann");
    assert_eq!(moves["plan"]["state"], "applying");

    follower.does("POST", "resume", Value::Null).await;
    let done = |plan: &Value| plan["state"] == "done";
    follower.until(&path, STEPS, done).await;
    let end = cluster.map().await.unwrap();
    assert_eq!(owned(&end, "gateway-2"), 0);
    done_by_the_other(&cluster.db).await;
    follower.stop().await;
}

/// Paused, so that the move has not arrived when its node is cordoned. One whose shard was there
/// before is over as any other.
#[sqlx::test(migrations = "../migrations")]
async fn a_move_whose_node_takes_no_more_shards_is_dropped_and_written_down(db: PgPool) {
    let mut cluster = TestCluster::new(db, 8).await;
    let _gateways = cluster.start_busy_gateways();
    let coordinator = cluster.start_coordinator("one");
    let first = cluster.map_with(START, "the first map", both).await;
    let shard_of = |node: &str| {
        let mut shards = (0..SHARDS).map(ShardId);
        let shard = shards.find(|shard| first.owner(*shard) == Some(node));
        shard.unwrap()
    };
    // To the emptier one, which then has nothing to give back.
    let (from, to) = match owned(&first, "gateway-1") < owned(&first, "gateway-2") {
        true => ("gateway-2", "gateway-1"),
        false => ("gateway-1", "gateway-2"),
    };
    let (away, there) = (shard_of(from), shard_of(to));
    coordinator.does("POST", "pause", Value::Null).await;
    coordinator.metric("coordinator_paused 1", CHANGE).await;
    let request = json!({ "shards": [away, there], "to": to });
    coordinator.does("POST", "moves", request).await;
    coordinator.metric("coordinator_moves_left 1", CHANGE).await;
    let moves = coordinator.does("GET", "moves", Value::Null).await;
    assert_eq!(moves["requested"].as_array().unwrap().len(), 2);

    coordinator
        .does("POST", &format!("nodes/{to}/cordon"), Value::Null)
        .await;
    let over = |moves: &Value| moves["requested"] == json!([]);
    coordinator.until("moves", CHANGE, over).await;
    let history = coordinator.does("GET", "history", Value::Null).await;
    let rows = history["entries"].as_array().unwrap();
    let dropped: Vec<&Value> = rows
        .iter()
        .filter(|row| row["action"] == "move_dropped")
        .collect();
    let [dropped] = &dropped[..] else {
        panic!("one was dropped, not {dropped:?}");
    };
    assert_eq!(dropped["who"], "coordinator/one");
    assert_eq!(dropped["detail"], json!({ "moves": [[away, to]] }));
    let after = cluster.map().await.unwrap();
    assert_eq!(moved(&first, &after), 0);
    coordinator.stop().await;
}

#[sqlx::test(migrations = "../migrations")]
async fn load_moves_shards_from_a_hot_node(db: PgPool) {
    let mut cluster = TestCluster::new(db, 8).await;
    let hot = cluster.start_gateway("gateway-1", "127.0.0.1:1");
    let cold = cluster.start_gateway("gateway-2", "127.0.0.1:2");
    let coordinator = cluster.start_coordinator("one");
    let first = cluster.map_with(START, "the first map", both).await;
    let load = |node: &str, load| -> Vec<ShardLoad> {
        let shards = (0..SHARDS).map(ShardId);
        let on_node = shards.filter(|shard| first.owner(*shard) == Some(node));
        on_node.map(|shard| ShardLoad { shard, load }).collect()
    };
    cold.report(|status| status.shards = load("gateway-2", 100));
    hot.report(|status| status.shards = load("gateway-1", 300));
    let gone = |map: &ClusterMap| moved(&first, map) > 0;
    let after = cluster.map_with(CHANGE, "a move for load", gone).await;
    assert!(moved(&first, &after) < 40, "a part at a time");
    let written = |history: &Value| {
        let rows = history["entries"].as_array().unwrap();
        let of_map = |row: &&Value| row["version"]["version"] == after.version.version;
        rows.iter()
            .filter(of_map)
            .any(|row| row["action"] == "step")
    };
    coordinator.until("history", CHANGE, written).await;
    let causes = "select distinct cause from cluster_shard_move where version > $1";
    let causes: Vec<String> = sqlx::query_scalar(causes)
        .bind(first.version.version as i64)
        .fetch_all(&cluster.db)
        .await
        .unwrap();
    assert_eq!(causes, ["load"]);
    coordinator.stop().await;
}

#[sqlx::test(migrations = "../migrations")]
async fn while_nobody_leads_changes_say_that_they_wait_and_nobody_tells_of_moves(db: PgPool) {
    let mut cluster = TestCluster::new(db, 11).await;
    let _gateways = cluster.start_gateways();
    let coordinator = cluster.start_coordinator("one");
    cluster.map_with(START, "the first map", both).await;
    let paused = coordinator.does("POST", "pause", Value::Null).await;
    assert_eq!(paused["led"], true);
    coordinator.metric("coordinator_paused 1", CHANGE).await;

    // Nobody can renew the lead or take it.
    let mut tx = cluster.db.begin().await.unwrap();
    sqlx::query("select 1 from cluster_term for update")
        .execute(&mut *tx)
        .await
        .unwrap();
    let nobody = |moves: &Value| moves["led"] == json!(false);
    coordinator.until("moves", 2 * CHANGE, nobody).await;
    coordinator.metric("coordinator_paused 0", CHANGE).await;
    let path = "nodes/gateway-1/cordon";
    let cordon = coordinator.does("POST", path, Value::Null).await;
    assert_eq!(cordon["led"], false);
    tx.rollback().await.unwrap();

    coordinator.metric("coordinator_paused 1", 2 * CHANGE).await;
    let moves = coordinator.does("GET", "moves", Value::Null).await;
    assert_eq!(moves["led"], true);
    coordinator.stop().await;
}
