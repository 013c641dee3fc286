//! Terms, take-over, and the map's way through joins, deaths and a flushed Redis.

use std::time::Duration;

use guildhall_shared::cluster_map::{ClusterMap, MapVersion};
use guildhall_shared::keys;
use guildhall_shared::shard::ShardId;
use sqlx::PgPool;

use crate::harness::{SHARDS, START, TAKE_OVER, TestCluster, leader_first, owned};

/// A change that waits for a heartbeat to expire and a round.
const CHANGE: Duration = Duration::from_secs(5);

fn all_owned_by(map: &ClusterMap, nodes: &[&str]) -> bool {
    let owned: usize = nodes.iter().map(|node| owned(map, node)).sum();
    owned == usize::from(SHARDS) && nodes.iter().all(|node| self::owned(map, node) > 0)
}

#[sqlx::test(migrations = "../migrations")]
async fn one_of_two_leads_and_the_other_takes_over(db: PgPool) {
    let mut cluster = TestCluster::new(db, 12).await;
    let _gateways = cluster.start_gateways();
    let one = cluster.start_coordinator("one");
    let two = cluster.start_coordinator("two");
    let first = cluster
        .map_with(START, "the first map", |map| {
            all_owned_by(map, &["gateway-1", "gateway-2"])
        })
        .await;
    assert_eq!(cluster.term().await, 1);
    assert_eq!(first.version.term, 1);
    let (leader, follower) = leader_first(one, two).await;
    for coordinator in [&leader, &follower] {
        assert!(coordinator.get("/ready").await.starts_with("HTTP/1.1 200"));
        assert!(coordinator.get("/health").await.starts_with("HTTP/1.1 200"));
    }
    let published = follower.get("/metrics").await;
    assert!(
        published.contains("coordinator_maps_published_total 0"),
        "{published}"
    );

    leader.kill().await;
    let second = cluster
        .map_with(TAKE_OVER, "a map of the next term", |map| {
            map.version.term > 1
        })
        .await;
    assert_eq!(
        second.version,
        MapVersion {
            term: 2,
            ..first.version
        }
    );
    assert_eq!(second.shards, first.shards, "a take-over moves nothing");
    assert!(follower.leads().await);

    // One that stops says so: the next need not wait for the lease to run out.
    let third = cluster.start_coordinator("three");
    follower.stop().await;
    let released = cluster.map_with(CHANGE, "a map after the release", |map| {
        map.version.term > 2
    });
    assert_eq!(
        released.await.version,
        MapVersion {
            term: 3,
            ..first.version
        }
    );
    third.stop().await;
}

#[sqlx::test(migrations = "../migrations")]
async fn a_flushed_redis_has_its_map_again_within_two_seconds(db: PgPool) {
    let mut cluster = TestCluster::new(db, 13).await;
    let _gateway = cluster.start_gateway("gateway-1", "127.0.0.1:1");
    let coordinator = cluster.start_coordinator("one");
    let before = cluster.map_with(START, "the first map", |_| true).await;
    for _ in 0..3 {
        cluster.flush().await;
        let within = Duration::from_secs(2);
        let again = cluster
            .map_with(within, "the map after the flush", |_| true)
            .await;
        assert_eq!(again, before);
    }
    coordinator.stop().await;
}

#[sqlx::test(migrations = "../migrations")]
async fn the_map_follows_joins_deaths_restarts_and_operators(db: PgPool) {
    let mut cluster = TestCluster::new(db, 14).await;
    assert!(
        !cluster.run(&["map"]).status.success(),
        "there is no map yet"
    );
    let coordinator = cluster.start_coordinator("one");
    let one = cluster.start_gateway("gateway-1", "127.0.0.1:1");
    let alone = cluster.map_with(START, "the first map", |_| true).await;
    assert_eq!(owned(&alone, "gateway-1"), usize::from(SHARDS));
    assert_eq!(alone.standby(ShardId(0)), None);

    let two = cluster.start_gateway("gateway-2", "127.0.0.1:2");
    let both = |map: &ClusterMap| all_owned_by(map, &["gateway-1", "gateway-2"]);
    let shared = cluster.map_with(CHANGE, "two share", both).await;
    assert!(owned(&shared, "gateway-1") <= 134, "128 and 5 %");
    let next = |map: &ClusterMap| MapVersion {
        version: map.version.version + 1,
        ..map.version
    };
    assert_eq!(shared.version, next(&alone));

    let map = cluster.run(&["map", "--json"]);
    let map: serde_json::Value = serde_json::from_slice(&map.stdout).unwrap();
    assert_eq!(map["map"]["version"], shared.version.version);
    assert_eq!(map["loads"][1]["owner"], owned(&shared, "gateway-2"));
    let nodes = cluster.run(&["nodes"]);
    let nodes = String::from_utf8(nodes.stdout).unwrap();
    assert!(nodes.contains("gateway-2  active  1"), "{nodes}");

    drop(two);
    let two = cluster.start_gateway("gateway-2", "127.0.0.1:22");
    let restarted = cluster
        .map_with(CHANGE, "the new address", |map| {
            map.relay_addr("gateway-2") == Some("127.0.0.1:22")
        })
        .await;
    assert_eq!(restarted.version, next(&shared));
    assert_eq!(restarted.shards, shared.shards);

    sqlx::query(
        "insert into cluster_pin (shard, node_id) values (0, 'gateway-1'), (1, 'gateway-2')",
    )
    .execute(&cluster.db)
    .await
    .unwrap();
    let pins_hold = |map: &ClusterMap| {
        map.owner(ShardId(0)) == Some("gateway-1") && map.owner(ShardId(1)) == Some("gateway-2")
    };
    let pinned = cluster.map_with(CHANGE, "pins", pins_hold).await;

    sqlx::query("insert into cluster_node (node_id, state) values ('gateway-1', 'draining')")
        .execute(&cluster.db)
        .await
        .unwrap();
    let drained = cluster
        .map_with(CHANGE, "the drain", |map| all_owned_by(map, &["gateway-2"]))
        .await;
    assert_eq!(
        drained.version,
        next(&pinned),
        "nothing is open, so it is one step"
    );

    sqlx::query("delete from cluster_node")
        .execute(&cluster.db)
        .await
        .unwrap();
    cluster.map_with(CHANGE, "the end of the drain", both).await;
    drop(two);
    let survivor = cluster
        .map_with(CHANGE, "the death", |map| all_owned_by(map, &["gateway-1"]))
        .await;
    assert_eq!(survivor.nodes, ["gateway-1"]);
    drop(one);
    coordinator.stop().await;
}

/// Each node that comes is written down, and Postgres does not answer for as long as is waited.
#[sqlx::test(migrations = "../migrations")]
async fn no_map_waits_for_what_is_written_down(db: PgPool) {
    let mut cluster = TestCluster::new(db, 9).await;
    let coordinator = cluster.start_coordinator("one");
    let _first = cluster.start_gateway("gateway-1", "127.0.0.1:1");
    cluster.map_with(START, "the first map", |_| true).await;
    let mut held = cluster.db.begin().await.unwrap();
    sqlx::query("lock table cluster_audit in exclusive mode")
        .execute(&mut *held)
        .await
        .unwrap();
    let _others: Vec<_> = (2..=7)
        .map(|node| cluster.start_gateway(&format!("gateway-{node}"), &format!("127.0.0.1:{node}")))
        .collect();
    cluster
        .map_with(CHANGE, "a map with all", |map| map.nodes.len() == 7)
        .await;
    held.rollback().await.unwrap();
    coordinator.stop().await;
}

#[sqlx::test(migrations = "../migrations")]
async fn two_of_three_nodes_silent_at_once_keep_their_shards(db: PgPool) {
    let mut cluster = TestCluster::new(db, 10).await;
    let all = ["gateway-1", "gateway-2", "gateway-3"];
    let _first = cluster.start_gateway(all[0], "127.0.0.1:1");
    let others = [
        cluster.start_gateway(all[1], "127.0.0.1:2"),
        cluster.start_gateway(all[2], "127.0.0.1:3"),
    ];
    let coordinator = cluster.start_coordinator("one");
    let before = cluster
        .map_with(START, "the first map", |map| all_owned_by(map, &all))
        .await;

    drop(others);
    coordinator.metric("coordinator_frozen 1", CHANGE).await;
    assert_eq!(cluster.map().await.as_ref(), Some(&before));

    let _again = [
        cluster.start_gateway(all[1], "127.0.0.1:2"),
        cluster.start_gateway(all[2], "127.0.0.1:3"),
    ];
    coordinator.metric("coordinator_frozen 0", CHANGE).await;
    assert_eq!(cluster.map().await, Some(before));
    coordinator.stop().await;
}

#[sqlx::test(migrations = "../migrations")]
async fn a_map_of_a_later_term_gives_way_only_to_a_later_one(db: PgPool) {
    let mut cluster = TestCluster::new(db, 15).await;
    let later = ClusterMap {
        version: MapVersion {
            term: 70,
            version: 5,
        },
        nodes: vec!["long-gone".to_owned()],
        relay_addrs: vec!["127.0.0.1:1".to_owned()],
        shards: vec![Default::default(); usize::from(SHARDS)],
        drains: Default::default(),
        stopping: Default::default(),
    };
    let () = redis::cmd("SET")
        .arg(keys::MAP)
        .arg(serde_json::to_string(&later).unwrap())
        .query_async(&mut cluster.redis)
        .await
        .unwrap();
    let gateway = cluster.start_gateway("gateway-1", "127.0.0.1:1");
    let coordinator = cluster.start_coordinator("one");
    let map = cluster
        .map_with(TAKE_OVER, "a map above the old one", |map| *map != later)
        .await;
    assert_eq!(
        map.version,
        MapVersion {
            term: 71,
            version: 6
        }
    );
    assert_eq!(cluster.term().await, 71);
    gateway.has(map.version, TAKE_OVER).await;
    coordinator.stop().await;

    // Postgres fails over with loss, and Redis is emptied: the gateway alone still knows.
    sqlx::query("update cluster_term set term = 1")
        .execute(&cluster.db)
        .await
        .unwrap();
    cluster.flush().await;
    let coordinator = cluster.start_coordinator("two");
    cluster
        .map_with(TAKE_OVER, "a map that the gateway takes", |map| {
            map.version.term == 72
        })
        .await;
    coordinator.stop().await;
}

#[sqlx::test(migrations = "../migrations")]
async fn a_cluster_of_another_number_of_shards_is_refused(db: PgPool) {
    let cluster = TestCluster::new(db, 11).await;
    sqlx::query("insert into cluster_setting (key, value) values ('shards', '4096')")
        .execute(&cluster.db)
        .await
        .unwrap();
    let refused = cluster.run(&["serve"]);
    assert!(!refused.status.success());
    let error = String::from_utf8(refused.stderr).unwrap();
    assert!(error.contains("CLUSTER_SHARDS"), "{error}");
}

#[sqlx::test(migrations = false)]
async fn a_database_without_the_schema_is_refused_with_what_makes_it(db: PgPool) {
    let cluster = TestCluster::new(db, 11).await;
    let refused = cluster.run(&["serve"]);
    assert!(!refused.status.success());
    let error = String::from_utf8(refused.stderr).unwrap();
    assert!(error.contains("guildhall-api migrate"), "{error}");
}
