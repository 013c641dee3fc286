//! What a node says of itself in its heartbeats.

use super::*;

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
