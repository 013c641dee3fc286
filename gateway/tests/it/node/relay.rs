//! Realms of other nodes: links, new maps, owners that die.

use tokio::{io::AsyncReadExt, net::TcpStream};

use super::{way::Way, *};

#[sqlx::test(migrations = "../migrations")]
async fn the_relay_carries_another_nodes_realms(db: PgPool) {
    let world = World::new(db).await;
    let (a, b) = (Node::start(&world, "a"), Node::start(&world, "b"));
    world.publish_map(1, &[&a, &b], 1, Some(0)).await;
    // Two looks at the map: the first may have been under way.
    tokio::time::sleep(Duration::from_millis(2500)).await;
    let subscribed = a
        .enter(world.subscription(&[world.owner, world.member], None))
        .await;
    assert_eq!(subscribed.snapshots.len(), 2);
    assert_eq!(b.metric("node_links"), 1.0);
    for expected in 1..=10 {
        world.post().await;
        assert_eq!(seq(&*a.event().await), expected);
    }
    b.quiet().await;
    // Typing is passed on as well.
    let typing = world.typing();
    world.publish(&typing).await;
    assert_eq!(*a.event().await, typing);
}

#[sqlx::test(migrations = "../migrations")]
async fn when_the_owner_dies_the_standby_goes_on(db: PgPool) {
    let world = World::new(db).await;
    let a = Node::start(&world, "a");
    let mut b = Node::start(&world, "b");
    let c = Node::start(&world, "c");
    world.publish_map(1, &[&a, &b, &c], 1, Some(2)).await;
    tokio::time::sleep(Duration::from_millis(2500)).await;
    a.enter(world.subscription(&[world.owner], None)).await;
    for expected in 1..=5 {
        world.post().await;
        assert_eq!(seq(&*a.event().await), expected);
    }
    b.stop();
    // The stream goes on meanwhile; every number comes once, replayed or live.
    for _ in 0..20 {
        world.post().await;
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let mut at = 5;
    while at < 25 {
        match a.next().await {
            ToCore::Event(event) => {
                at += 1;
                assert_eq!(seq(&event), at);
            }
            ToCore::Subscribed(subscribed) => {
                assert_eq!(subscribed.lost, None);
                assert_eq!(subscribed.view.users.len(), 1);
                for event in &subscribed.replay {
                    at += 1;
                    assert_eq!(seq(event), at);
                }
                assert_eq!(subscribed.position.seq, at);
            }
            other => panic!("unexpected {other:?}"),
        }
    }
    a.quiet().await;
    assert_eq!(c.metric("node_links"), 1.0);
}

/// Realms that a node has open, by a heartbeat from now on.
async fn realms_open(world: &World, node: &str) -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let is_new = |status: &NodeStatus| u128::from(status.at_ms) >= now.as_millis();
    status::heartbeat(world, node, is_new).await.realms_owned
}

#[sqlx::test(migrations = "../migrations")]
async fn a_dead_owner_is_not_turned_back_to(db: PgPool) {
    let world = World::new(db).await;
    let a = Node::start(&world, "a");
    let mut b = Node::start(&world, "b");
    let c = Node::start(&world, "c");
    world.publish_map(1, &[&a, &b, &c], 1, Some(2)).await;
    status::heartbeat(&world, "a", |status| status.map.version == 1).await;
    a.enter(world.subscription(&[world.owner], None)).await;
    let posts = async {
        for number in 0..300 {
            if number == 20 {
                b.shutdown.cancel();
            }
            world.post().await;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let ((), subscribed) = tokio::join!(posts, follow(&a.inbox, 300));
    // At the standby, and nowhere after that.
    assert_eq!(subscribed, 1);
    assert_eq!(realms_open(&world, "a").await, 0);
    assert_eq!(c.metric("node_links"), 1.0);
    b.stop();
}

#[sqlx::test(migrations = "../migrations")]
async fn an_owner_gets_its_realms_back_when_it_answers_again(db: PgPool) {
    let world = World::new(db).await;
    let (a, b) = (Node::start(&world, "a"), Node::start(&world, "b"));
    let c = Node::start(&world, "c");
    let mut way = Way::to(b.relay()).await;
    let relays = [a.relay(), way.addr(), c.relay()];
    world
        .publish_map_with(1, &[&a, &b, &c], &relays, (1, Some(2)))
        .await;
    status::heartbeat(&world, "a", |status| status.map.version == 1).await;
    a.enter(world.subscription(&[world.owner], None)).await;
    way.cut().await;
    a.subscribed().await;
    assert_eq!(c.metric("node_links"), 1.0);
    // Links to the owner are made and say nothing: nobody waits for them.
    if let Some(message) = a.next_within(Duration::from_secs(5)).await {
        panic!("unexpected {message:?}");
    }
    assert_eq!(world.post().await, 1);
    a.gets([1]).await;
    way.open();
    let back = a.subscribed().await;
    assert!(back.lost.is_none() && back.replay.is_empty());
    assert_eq!(b.metric("node_links"), 1.0);
    assert_eq!(world.post().await, 2);
    a.gets([2]).await;
    assert_eq!(realms_open(&world, "a").await, 0);
    way.cut().await;
}

/// The first of two users of a core leaves while the owner reads the guild for it.
#[sqlx::test(migrations = "../migrations")]
async fn who_waits_behind_one_that_left_is_answered_by_the_same_owner(db: PgPool) {
    let world = World::new(db).await;
    let (a, b) = (Node::start(&world, "a"), Node::start(&world, "b"));
    world.publish_map(1, &[&a, &b], 1, None).await;
    status::heartbeat(&world, "a", |status| status.map.version == 1).await;
    let mut held = world.db.begin().await.unwrap();
    sqlx::query("lock table realm_head in access exclusive mode")
        .execute(&mut *held)
        .await
        .unwrap();
    a.subscribe(world.subscription(&[world.owner], None)).await;
    a.subscribe(world.subscription(&[world.member], None)).await;
    let waiting = "select exists (
        select from pg_locks
        where relation = 'realm_head'::regclass and not granted
            and database = (select oid from pg_database where datname = current_database())
    )";
    until("the guild is read", async || {
        let waits = sqlx::query_scalar::<_, bool>(waiting);
        let waits = waits.fetch_one(&mut *held).await.unwrap();
        waits.then_some(())
    })
    .await;
    a.requests
        .send(ToNode::Unsubscribe {
            core: 0,
            realm: world.realm(),
            users: vec![world.owner],
        })
        .await
        .unwrap();
    a.quiet().await;
    held.rollback().await.unwrap();
    let subscribed = a.subscribed().await;
    let named: Vec<_> = subscribed
        .view
        .users
        .iter()
        .map(|(user, _)| *user)
        .collect();
    assert_eq!(named, [world.member]);
    assert_eq!(subscribed.snapshots.len(), 1);
    assert_eq!(realms_open(&world, "a").await, 0);
    assert_eq!(realms_open(&world, "b").await, 1);
}

#[sqlx::test(migrations = "../migrations")]
async fn a_new_map_moves_realms_without_a_break(db: PgPool) {
    let world = World::new(db).await;
    let (a, b) = (Node::start(&world, "a"), Node::start(&world, "b"));
    a.enter(world.subscription(&[world.owner], None)).await;
    world.post().await;
    a.gets([1]).await;
    world.publish_map(1, &[&a, &b], 1, Some(0)).await;
    let mut at = 1;
    for _ in 0..100 {
        world.post().await;
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let mut moved = false;
    while at < 101 || !moved {
        match a.next().await {
            ToCore::Event(event) => {
                at += 1;
                assert_eq!(seq(&event), at);
            }
            ToCore::Subscribed(subscribed) => {
                moved = true;
                for event in &subscribed.replay {
                    at += 1;
                    assert_eq!(seq(event), at);
                }
                assert_eq!(subscribed.position.seq, at);
            }
            other => panic!("unexpected {other:?}"),
        }
    }
    assert_eq!(b.metric("node_links"), 1.0);
}

/// What a core has got of the realm, checked to be dense: events and replays.
async fn follow(inbox: &Inbox, last: u64) -> u32 {
    let (mut at, mut subscribed) = (0, 0);
    while at < last {
        match running::next(inbox).await {
            ToCore::Event(event) => {
                at += 1;
                assert_eq!(seq(&event), at);
            }
            ToCore::Subscribed(ok) => {
                assert_eq!(ok.lost, None);
                subscribed += 1;
                for event in &ok.replay {
                    at += 1;
                    assert_eq!(seq(event), at);
                }
                assert_eq!(ok.position.seq, at);
            }
            other => panic!("unexpected {other:?}"),
        }
    }
    subscribed
}

#[sqlx::test(migrations = "../migrations")]
async fn all_cores_follow_a_realm_through_a_move_and_a_death(db: PgPool) {
    let world = World::new(db).await;
    let a = Node::start(&world, "a");
    let mut b = Node::start(&world, "b");
    let c = Node::start(&world, "c");
    for (core, user) in [(0, world.owner), (1, world.member)] {
        a.subscribe_core(core, world.subscription(&[user], None))
            .await;
    }
    let posts = async {
        tokio::time::sleep(QUIET).await;
        for number in 0..150 {
            if number == 20 {
                world.publish_map(1, &[&a, &b, &c], 1, Some(2)).await;
            }
            if number == 90 {
                b.shutdown.cancel();
            }
            world.post().await;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let ((), first, second) = tokio::join!(posts, follow(&a.inbox, 150), follow(&a.second, 150),);
    assert!(first >= 2 && second >= 2, "moved: {first} and {second}");
    assert_eq!(c.metric("node_links"), 1.0);
    b.stop();
}

#[sqlx::test(migrations = "../migrations")]
async fn a_node_with_another_key_is_not_let_in(db: PgPool) {
    let world = World::new(db).await;
    let a = Node::start(&world, "a");
    let b = Node::start_with(&world, "b", &world.redis_url, "another key");
    world.publish_map(1, &[&a, &b], 1, None).await;
    tokio::time::sleep(Duration::from_millis(2500)).await;
    // It serves the realm itself rather than not at all.
    a.enter(world.subscription(&[world.owner], None)).await;
    assert_eq!(b.metric("node_links"), 0.0);

    // Junk is answered with the end of the connection.
    let mut stream = TcpStream::connect(a.relay()).await.unwrap();
    tokio::io::AsyncWriteExt::write_all(&mut stream, &[0xFF; 64])
        .await
        .unwrap();
    let mut rest = Vec::new();
    let _ = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut rest))
        .await
        .expect("the connection ends");
}
