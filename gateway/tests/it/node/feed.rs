//! Events of a realm come once each and in order, whatever is lost on the way.

use super::*;

/// No Redis listens there.
pub(super) const NOBODY: &str = "redis://127.0.0.1:1";

#[sqlx::test(migrations = "../migrations")]
async fn a_published_event_reaches_the_core(db: PgPool) {
    let world = World::new(db).await;
    let node = Node::start(&world, "a");
    node.until("event feed", |node| node.status.is_ready())
        .await;
    let subscribed = node
        .enter(world.subscription(&[world.owner, world.member], None))
        .await;
    assert_eq!(subscribed.position, Position { era: 1, seq: 0 });
    assert_eq!(subscribed.lost, None);
    assert_eq!(subscribed.snapshots.len(), 2);
    let guild: Value = serde_json::from_slice(&subscribed.snapshots[0].1).unwrap();
    assert_eq!(guild["id"], world.guild.to_string());
    assert_eq!(guild["channels"][0]["id"], world.open.to_string());
    assert_eq!(subscribed.view.users.len(), 2);
    for expected in 1..=20 {
        assert_eq!(world.post().await, expected);
    }
    node.gets(1..=20).await;
    node.quiet().await;
}

#[sqlx::test(migrations = "../migrations")]
async fn an_event_that_was_never_published_is_found(db: PgPool) {
    let world = World::new(db).await;
    let node = Node::start(&world, "a");
    node.enter(world.subscription(&[world.owner], None)).await;
    world.store_message().await;
    node.gets([1]).await;
    // The next one, published, shows that two before it are lacking.
    world.store_message().await;
    world.store_message().await;
    world.post().await;
    node.gets(2..=4).await;
}

#[sqlx::test(migrations = "../migrations")]
async fn without_redis_events_still_come(db: PgPool) {
    let world = World::new(db).await;
    let node = Node::start_with(&world, "a", NOBODY, "key");
    node.enter(world.subscription(&[world.owner], None)).await;
    for expected in 1..=3 {
        world.store_message().await;
        assert_eq!(seq(&*node.event().await), expected);
    }
}

#[sqlx::test(migrations = "../migrations")]
async fn repeats_and_disorder_do_not_show(db: PgPool) {
    let world = World::new(db).await;
    let node = Node::start(&world, "a");
    node.enter(world.subscription(&[world.owner], None)).await;
    let mut events = Vec::new();
    for _ in 0..6 {
        events.push(world.store_message().await);
    }
    for place in [1, 0, 0, 3, 1, 5, 2, 0, 4, 4, 3] {
        world.publish(&events[place]).await;
    }
    node.gets(1..=6).await;
    node.quiet().await;
}

#[sqlx::test(migrations = "../migrations")]
async fn a_gap_that_cannot_be_filled_starts_the_realm_anew(db: PgPool) {
    let world = World::new(db).await;
    let node = Node::start(&world, "a");
    node.enter(world.subscription(&[world.owner], None)).await;
    world.store_message().await;
    sqlx::query("delete from realm_event")
        .execute(&world.db)
        .await
        .unwrap();
    world.post().await;
    let again = node.subscribed().await;
    assert_eq!(again.lost, Some(Position { era: 1, seq: 0 }));
    assert_eq!(again.position.seq, 2);
    assert_eq!(again.view.users.len(), 1);
    assert_eq!(world.post().await, 3);
    node.gets([3]).await;
}

#[sqlx::test(migrations = "../migrations")]
async fn a_feed_that_breaks_again_and_again_loses_nothing(db: PgPool) {
    let world = World::new(db).await;
    let node = Node::start(&world, "a");
    node.enter(world.subscription(&[world.owner], None)).await;
    let database = format!(" db={} ", world.redis_url.rsplit('/').next().unwrap());
    for _ in 0..4 {
        let mut redis = world.redis.clone();
        let clients: String = redis::cmd("CLIENT")
            .arg("LIST")
            .query_async(&mut redis)
            .await
            .unwrap();
        for client in clients
            .lines()
            .filter(|line| line.contains(&database) && !line.contains(" ssub=0 "))
        {
            let id = client.split([' ', '=']).nth(1).unwrap();
            let _: redis::RedisResult<u32> = redis::cmd("CLIENT")
                .arg("KILL")
                .arg("ID")
                .arg(id)
                .query_async(&mut redis)
                .await;
        }
        for _ in 0..20 {
            world.post().await;
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
    node.gets(1..=80).await;
    node.quiet().await;
}

#[sqlx::test(migrations = "../migrations")]
async fn cores_without_room_are_caught_up_later(db: PgPool) {
    let world = World::alone(db).await;
    let node = Node::start(&world, "a");
    for (core, user, inbox) in [
        (0, world.owner, &node.inbox),
        (1, world.member, &node.second),
    ] {
        let subscription = world.subscription(&[user], None);
        node.subscribe_core(core, subscription).await;
        running::next(inbox).await;
    }
    let (key, bytes) = (
        keys::shard_events(ShardId::of(world.realm(), SHARDS)),
        world.typing().encode().to_vec(),
    );
    let mut redis = world.redis.clone();
    while node.metric("node_inbox_full_total") < 2.0 {
        let mut pipeline = redis::pipe();
        for _ in 0..10_000 {
            pipeline.cmd("SPUBLISH").arg(&key).arg(&bytes).ignore();
        }
        let _: redis::RedisResult<()> = pipeline.query_async(&mut redis).await;
    }
    world.post().await;
    world.post().await;
    tokio::time::sleep(QUIET).await;
    for inbox in [&node.inbox, &node.second] {
        let mut at = 0;
        while at < 2 {
            match running::next(inbox).await {
                ToCore::Event(event) => {
                    if event.position().is_some() {
                        at += 1;
                        assert_eq!(seq(&event), at);
                    }
                }
                ToCore::Subscribed(subscribed) => {
                    assert_eq!(subscribed.lost, None);
                    for event in &subscribed.replay {
                        at += 1;
                        assert_eq!(seq(event), at);
                    }
                }
                other => panic!("unexpected {other:?}"),
            }
        }
    }
}
