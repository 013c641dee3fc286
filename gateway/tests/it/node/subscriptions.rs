//! What a subscription is answered with, and who sees what.

use super::*;

#[sqlx::test(migrations = "../migrations")]
async fn a_core_that_fell_behind_gets_what_it_lacks(db: PgPool) {
    let world = World::new(db).await;
    let node = Node::start(&world, "a");
    for _ in 0..5 {
        world.store_message().await;
    }
    let from = Position { era: 1, seq: 2 };
    let subscribed = node
        .enter(world.subscription(&[world.owner], Some(from)))
        .await;
    assert_eq!(subscribed.lost, None);
    assert_eq!(subscribed.position.seq, 5);
    let replayed: Vec<u64> = subscribed.replay.iter().map(|event| seq(event)).collect();
    assert_eq!(replayed, [3, 4, 5]);

    // From another era, or from events that are gone, only a snapshot helps.
    sqlx::query("delete from realm_event where seq = 1")
        .execute(&world.db)
        .await
        .unwrap();
    for (from, lost) in [((0, 2), (1, 0)), ((1, 0), (1, 1))] {
        let [from, lost] = [from, lost].map(|(era, seq)| Position { era, seq });
        node.subscribe(world.subscription(&[world.owner], Some(from)))
            .await;
        assert_eq!(node.subscribed().await.lost, Some(lost), "{from:?}");
    }
}

/// From memory and from Postgres: what is lacking comes in portions that a link takes.
#[sqlx::test(migrations = "../migrations")]
async fn a_core_that_lacks_large_events_gets_them_in_portions(db: PgPool) {
    const EVENTS: u64 = 12;
    let world = World::new(db).await;
    let node = Node::start(&world, "a");
    let pad = "x".repeat(400 * 1024);
    let large = json!({"id": "77", "channel_id": world.open, "pad": pad});
    let store = async || {
        let vis = Visibility::channel(world.open, Intents::GUILD_MESSAGES);
        world.store(EventKind::MessageCreate, vis, &large).await
    };
    for _ in 0..EVENTS / 2 {
        store().await;
    }
    node.subscribe(world.subscription(&[world.owner], None))
        .await;
    node.subscribed().await;
    for _ in 0..EVENTS / 2 {
        world.publish(&store().await).await;
        node.event().await;
    }
    for from in [0, EVENTS / 2] {
        let mut at = from;
        while at < EVENTS {
            let position = Position { era: 1, seq: at };
            node.subscribe(world.subscription(&[world.owner], Some(position)))
                .await;
            let subscribed = node.subscribed().await;
            assert_eq!(subscribed.lost, None);
            assert_eq!(subscribed.position.seq, EVENTS);
            let bytes = subscribed.replay.iter().map(|event| event.body.len());
            assert!(bytes.sum::<usize>() < 1536 * 1024);
            assert!(!subscribed.replay.is_empty());
            for event in &subscribed.replay {
                at += 1;
                assert_eq!(seq(event), at);
            }
        }
    }
}

#[sqlx::test(migrations = "../migrations")]
async fn a_revocation_comes_before_its_event(db: PgPool) {
    let world = World::new(db).await;
    let node = Node::start(&world, "a");
    node.enter(world.subscription(&[world.owner, world.member], None))
        .await;
    let update = json!({
        "id": world.open, "type": 0, "guild_id": world.guild, "name": "open", "position": 0,
        "parent_id": null, "flags": 0, "last_message_id": null,
        "permission_overwrites": world.hidden(),
    });
    let vis = Visibility::channel(world.open, Intents::GUILDS);
    let event = world.store(EventKind::ChannelUpdate, vis, &update).await;
    world.publish(&event).await;
    let view = node.view().await;
    assert_eq!(view.users, [(world.member, Some(Vec::new()))]);
    node.gets([1]).await;
    for kind in [EventKind::ChannelUpdate, EventKind::ChannelDelete] {
        let event = node.event().await;
        assert_eq!(event.kind, kind);
        assert_eq!(event.durability, Durability::Ephemeral);
        assert_eq!(event.vis.scope, Scope::Users([world.member].into()));
    }
}

#[sqlx::test(migrations = "../migrations")]
async fn a_newcomer_is_named_alone_and_all_hear_what_follows(db: PgPool) {
    let world = World::new(db).await;
    let node = Node::start(&world, "a");
    for (user, complete) in [(world.owner, true), (world.member, false)] {
        let subscribed = node.enter(world.subscription(&[user], None)).await;
        assert_eq!(subscribed.complete, complete);
        let named: Vec<_> = subscribed
            .view
            .users
            .iter()
            .map(|(user, _)| *user)
            .collect();
        assert_eq!(named, [user]);
        assert!(!subscribed.view.channels.is_empty());
        assert_eq!(subscribed.snapshots.len(), 1);
    }
    // Who asks from a position has lost something: all are named again.
    let from = Position { era: 1, seq: 0 };
    let again = node
        .enter(world.subscription(&[world.owner], Some(from)))
        .await;
    assert!(again.complete);
    assert_eq!(again.view.users.len(), 2);
    assert_eq!(world.post().await, 1);
    node.gets([1]).await;
}

#[sqlx::test(migrations = "../migrations")]
async fn a_users_own_realm_needs_no_guild(db: PgPool) {
    let world = World::new(db).await;
    let node = Node::start(&world, "a");
    let realm: Id<Realm> = world.member.cast();
    let subscribed = node
        .enter(Subscription {
            realm,
            from: Some(Position { era: 1, seq: 0 }),
            users: vec![Subscriber::new(world.member, Vec::new())],
        })
        .await;
    assert_eq!(subscribed.realm, realm);
    assert_eq!(subscribed.view.users, [(world.member, Some(Vec::new()))]);
    assert_eq!(subscribed.lost, None);
}

#[sqlx::test(migrations = "../migrations")]
async fn a_strangers_subscription_shows_nothing(db: PgPool) {
    let world = World::new(db).await;
    let node = Node::start(&world, "a");
    let stranger = Id::new(999).unwrap();
    let subscribed = node.enter(world.subscription(&[stranger], None)).await;
    assert_eq!(subscribed.view.users, [(stranger, None)]);
    assert!(subscribed.snapshots.is_empty());
}

/// The event of a join goes to the guild's owner and to the joiner's own realm by different
/// ways: the joiner may ask for the guild before its owner has heard of it.
#[sqlx::test(migrations = "../migrations")]
async fn a_newcomer_is_known_before_the_owner_has_heard_of_it(db: PgPool) {
    let world = World::new(db).await;
    let node = Node::start(&world, "a");
    node.enter(world.subscription(&[world.owner], None)).await;
    let newcomer: Id<User> = Id::new(world.guild.get() + 100).unwrap();
    sqlx::query("insert into account (user_id, username) values ($1, 'newcomer')")
        .bind(newcomer.to_db())
        .execute(&world.db)
        .await
        .unwrap();
    sqlx::query("insert into member (guild_id, user_id) values ($1, $2)")
        .bind(world.guild.to_db())
        .bind(newcomer.to_db())
        .execute(&world.db)
        .await
        .unwrap();
    let body = json!({
        "guild_id": world.guild, "roles": [], "nick": null, "avatar": null, "banner": null,
        "joined_at": "2026-01-02T03:04:05.678000+00:00", "premium_since": null, "deaf": false,
        "mute": false, "flags": 0, "pending": false, "communication_disabled_until": null,
        "avatar_decoration_data": null, "collectibles": null,
        "user": {
            "id": newcomer, "username": "newcomer", "discriminator": "0", "global_name": null,
            "avatar": null, "public_flags": 0, "flags": 0, "banner": null, "accent_color": null,
            "avatar_decoration_data": null, "collectibles": null, "primary_guild": null,
        },
    });
    let join = world
        .store(
            EventKind::GuildMemberAdd,
            Visibility::realm(Intents::GUILD_MEMBERS),
            &body,
        )
        .await;
    node.subscribe(world.subscription(&[newcomer], None)).await;
    let subscribed = loop {
        if let ToCore::Subscribed(subscribed) = node.next().await {
            break subscribed;
        }
    };
    assert_eq!(subscribed.snapshots.len(), 1, "{:?}", subscribed.view);
    assert!(Some(subscribed.position) >= join.position());
}
