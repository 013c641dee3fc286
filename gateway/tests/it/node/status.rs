//! What a node says of itself in its heartbeats.

use super::{running::boot_of, *};

/// The first heartbeat of a node that is as wanted.
pub(super) async fn heartbeat(
    world: &World,
    node: &str,
    is: impl Fn(&NodeStatus) -> bool,
) -> NodeStatus {
    let mut redis = world.redis.clone();
    let started = Instant::now();
    loop {
        let json: Option<Vec<u8>> = redis::cmd("GET")
            .arg(keys::node(node))
            .query_async(&mut redis)
            .await
            .unwrap();
        let status = json.map(|json| serde_json::from_slice::<NodeStatus>(&json).unwrap());
        match status {
            Some(status) if is(&status) => return status,
            status => assert!(started.elapsed() < PATIENCE, "{status:?}"),
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[sqlx::test(migrations = "../migrations")]
async fn heartbeats_tell_of_the_map_in_use_and_of_what_shards_and_guilds_cost(db: PgPool) {
    let world = World::new(db).await;
    let (a, b) = (Node::start(&world, "a"), Node::start(&world, "b"));
    world.publish_map(1, &[&a, &b], 1, Some(0)).await;
    for node in ["a", "b"] {
        let status = heartbeat(&world, node, |status| status.map.version == 1).await;
        assert_eq!(status.realms_moving, 0);
        assert_eq!(status.cores_busy.len(), 2);
    }
    assert_eq!(a.metric("node_map_version"), 1.0);
    assert!(a.metric("node_map_read_timestamp_seconds") > 0.0);
    a.enter(world.subscription(&[world.owner, world.member], None))
        .await;
    for _ in 0..20 {
        world.post().await;
        a.event().await;
    }
    // Every event went to one node.
    let owner = heartbeat(&world, "b", |status| !status.guilds.is_empty()).await;
    let (shard, guild) = (owner.shards[0], &owner.guilds[0]);
    assert_eq!(shard.shard, ShardId::of(world.guild, SHARDS));
    assert_eq!(guild.guild, world.guild);
    assert_eq!(guild.online, 2);
    assert_eq!(
        (&*guild.edges, guild.edges_total),
        (&["a".to_owned()][..], 1)
    );
    let all = heartbeat(&world, "b", |status| status.guilds[0].load > 10).await;
    assert!(all.guilds[0].load <= 20, "{all:?}");
    let other = heartbeat(&world, "a", |_| true).await;
    assert!(other.shards.is_empty() && other.guilds.is_empty());
}

#[sqlx::test(migrations = "../migrations")]
async fn realms_are_moving_until_the_new_owner_has_answered(db: PgPool) {
    let world = World::new(db).await;
    let (a, b) = (Node::start(&world, "a"), Node::start(&world, "b"));
    world.publish_map(1, &[&a, &b], 0, Some(1)).await;
    heartbeat(&world, "a", |status| status.map.version == 1).await;
    a.enter(world.subscription(&[world.owner], None)).await;
    world.publish_map(2, &[&a, &b], 1, Some(0)).await;
    heartbeat(&world, "a", |status| {
        status.map.version == 2 && status.realms_moving == 0
    })
    .await;
    // Such a heartbeat follows the move: the link was made and the core told before.
    assert_eq!(b.metric("node_links"), 1.0);
    let told = a.next_within(Duration::ZERO).await;
    assert!(matches!(told, Some(ToCore::Subscribed(_))), "{told:?}");
}

/// What Redis has for a key.
async fn stored(world: &World, key: String) -> Option<String> {
    let mut redis = world.redis.clone();
    redis::cmd("GET")
        .arg(key)
        .query_async(&mut redis)
        .await
        .unwrap()
}

/// Another process writes a heartbeat under the name of this node: its own but for the start, the time
/// and that it stays.
async fn beat_as_another(world: &World, like: &NodeStatus, at_ms: u64) -> String {
    let status = NodeStatus {
        boot_id: "another".to_owned(),
        at_ms,
        stopping: false,
        ..like.clone()
    };
    let json = serde_json::to_string(&status).unwrap();
    let mut redis = world.redis.clone();
    let () = redis::cmd("SET")
        .arg(keys::node(&like.id))
        .arg(&json)
        .query_async(&mut redis)
        .await
        .unwrap();
    json
}

#[sqlx::test(migrations = "../migrations")]
async fn what_a_start_left_behind_is_no_other_process_but_what_follows_is(db: PgPool) {
    let world = World::new(db).await;
    let own = |status: &NodeStatus| status.boot_id == format!("{:08x}", boot_of("a"));
    let like = {
        let mut before = Node::start(&world, "a");
        let like = heartbeat(&world, "a", own).await;
        before.stop();
        like
    };
    beat_as_another(&world, &like, like.at_ms).await;
    let mut a = Node::start(&world, "a");
    heartbeat(&world, "a", own).await;
    // A Redis that has lost something comes up with what it had.
    for at_ms in [like.at_ms, like.at_ms - 1] {
        beat_as_another(&world, &like, at_ms).await;
        heartbeat(&world, "a", own).await;
    }
    assert_eq!(a.metric("node_id_shared_total"), 0.0);
    for later in 1..=2 {
        beat_as_another(&world, &like, like.at_ms + later).await;
        heartbeat(&world, "a", own).await;
        a.until("it counts", |a| {
            a.metric("node_id_shared_total") == later as f64
        })
        .await;
    }

    // It says no more that this name leaves, and takes away nothing but what is its own.
    a.status.stop();
    let mut left = String::new();
    for later in 3..=4 {
        left = beat_as_another(&world, &like, like.at_ms + later).await;
        a.until("it counts", |a| {
            a.metric("node_id_shared_total") == later as f64
        })
        .await;
    }
    a.stop();
    assert_eq!(stored(&world, keys::node("a")).await, Some(left));
    assert_eq!(stored(&world, keys::boot(boot_of("a"))).await, None);
}

#[sqlx::test(migrations = "../migrations")]
async fn two_nodes_of_one_name_notice_each_other(db: PgPool) {
    let world = World::new(db).await;
    let mut a = Node::start(&world, "a");
    let b = Node::start_namesake(&world, "a");
    for node in [&a, &b] {
        node.until("it counts", |node| {
            node.metric("node_id_shared_total") > 0.0
        })
        .await;
    }
    a.stop();
    // The other one stays.
    let is_others = |status: &NodeStatus| status.boot_id != format!("{:08x}", boot_of("a"));
    heartbeat(&world, "a", is_others).await;
}

#[sqlx::test(migrations = "../migrations")]
async fn a_node_that_ends_takes_its_heartbeat_with_it(db: PgPool) {
    let world = World::new(db).await;
    let mut a = Node::start(&world, "a");
    heartbeat(&world, "a", |_| true).await;
    a.stop();
    for key in [keys::node("a"), keys::boot(boot_of("a"))] {
        assert_eq!(stored(&world, key).await, None);
    }
}
