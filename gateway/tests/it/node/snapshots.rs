//! Snapshots of large guilds over a link.

use std::collections::BTreeSet;

use super::*;

/// Members with nicknames: about a third of a kilobyte each in a snapshot that lists them.
const MEMBERS: i64 = 3000;
const SESSIONS: u32 = 20;
/// What one answer may hold, and no more than one snapshot besides.
const ANSWER_BYTES: usize = 1024 * 1024;

#[sqlx::test(migrations = "../migrations")]
async fn many_snapshots_of_a_large_guild_come_in_portions(db: PgPool) {
    let world = World::new(db).await;
    world.crowd(MEMBERS).await;
    let (a, b) = (Node::start(&world, "a"), Node::start(&world, "b"));
    world.publish_map(1, &[&a, &b], 1, None).await;
    status::heartbeat(&world, "a", |status| status.map.version == 1).await;
    let asking = (1..=SESSIONS).map(|slot| {
        let request = SnapshotRequest {
            session: session(slot),
            members: false,
            presences: true,
            ..SNAPSHOT
        };
        // Some have several sessions.
        let user = world.guild.get() + 100 + u64::from(slot.div_ceil(2));
        Subscriber::new(Id::new(user).unwrap(), vec![request])
    });
    a.subscribe(Subscription {
        realm: world.realm(),
        from: None,
        users: asking.collect(),
    })
    .await;
    let (mut sessions, mut answers) = (BTreeSet::new(), 0);
    while sessions.len() < SESSIONS as usize {
        let subscribed = a.subscribed().await;
        answers += 1;
        assert!(subscribed.lost.is_none() && subscribed.replay.is_empty());
        let named = &subscribed.view.users;
        assert!(!named.is_empty() && named.iter().all(|(_, seen)| seen.is_some()));
        let sizes = subscribed.snapshots.iter().map(|(_, d)| d.len());
        let sizes: Vec<usize> = sizes.collect();
        let (bytes, largest) = (
            sizes.iter().sum::<usize>(),
            sizes.into_iter().max().unwrap(),
        );
        assert!(largest > ANSWER_BYTES / 2, "{largest}");
        assert!(bytes < ANSWER_BYTES + largest, "{bytes}");
        for (session, _) in &subscribed.snapshots {
            assert!(sessions.insert(*session), "{session:?} has two");
        }
    }
    assert!(answers > 1);
    assert_eq!(b.metric("node_links"), 1.0);
    // All of them are in the realm, which goes on from there.
    assert_eq!(world.post().await, 1);
    a.gets([1]).await;
    a.quiet().await;
}
