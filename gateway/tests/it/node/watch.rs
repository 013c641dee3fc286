//! Lists of members that sessions look at, over nodes.

use std::collections::BTreeSet;

use guildhall_gateway::{
    ask::{Watch, WatchChange},
    names::{Address, CoreId},
};

use super::{presence::two_nodes, *};

/// Waits until the owner tells a core something for one of its sessions.
async fn told(inbox: &Inbox, what: EventKind) {
    loop {
        if let ToCore::Tell { dispatches, .. } = running::next(inbox).await
            && dispatches.iter().any(|(kind, _)| *kind == what)
        {
            return;
        }
    }
}

impl World {
    /// A session of a core looks at blocks of the open channel's list.
    fn watch(&self, core: CoreId, slot: u32, user: Id<User>, blocks: &[u32]) -> ToNode {
        ToNode::Watch(Box::new(WatchChange {
            guild: self.guild,
            from: Address {
                core,
                session: session(slot),
            },
            user,
            watch: Some(Watch {
                channels: vec![(self.open, blocks.to_vec())],
                members: Vec::new(),
            }),
        }))
    }
}

/// Waits until sessions in so many slots were shown so many whole blocks.
async fn all_shown(inbox: &Inbox, count: usize, blocks: usize) {
    let (mut shown, mut checked) = (BTreeSet::new(), None);
    while shown.len() < count {
        let (slot, dispatches) = match running::next(inbox).await {
            ToCore::Tell {
                session,
                dispatches,
                ..
            } => (session.slot, dispatches),
            other => panic!("not shown, but {other:?}"),
        };
        let [(EventKind::GuildMemberListUpdate, body)] = &dispatches[..] else {
            panic!("{} shown something else", dispatches.len());
        };
        shown.insert(slot);
        // Mostly all are told the same.
        if checked.as_ref() != Some(body) {
            let d: Value = serde_json::from_slice(body).unwrap();
            let ops = d["ops"].as_array().unwrap();
            let is_whole = |op: &&Value| op["op"] == "SYNC" && op["items"][99].is_object();
            assert_eq!(ops.iter().filter(is_whole).count(), blocks);
            checked = Some(body.clone());
        }
    }
}

/// Each session's blocks alone are a few hundred kilobytes: more of them than a link holds.
#[sqlx::test(migrations = "../migrations")]
async fn many_who_look_at_a_list_move_to_a_new_owner_over_one_link(db: PgPool) {
    const WATCHERS: u32 = 1500;
    let world = World::new(db).await;
    world.crowd(600).await;
    let (a, b) = two_nodes(&world).await;
    a.enter(world.subscription(&[world.owner], None)).await;
    let blocks = [0, 1, 2, 3, 4];
    for slot in 1..=WATCHERS {
        let watch = world.watch(0, slot, world.owner, &blocks);
        a.requests.send(watch).await.unwrap();
    }
    all_shown(&a.inbox, WATCHERS as usize, blocks.len()).await;
    world.publish_map(2, &[&a, &b], 1, Some(0)).await;
    // If the link broke there would be a further one.
    a.subscribed().await;
    all_shown(&a.inbox, WATCHERS as usize, blocks.len()).await;
    a.quiet().await;
    assert_eq!(b.metric("node_links"), 1.0);
    // And it carries what follows.
    let last = world.watch(0, 1, world.owner, &[0]);
    a.requests.send(last).await.unwrap();
    all_shown(&a.inbox, 1, 1).await;
    world.post().await;
    a.gets([1]).await;
}

/// A new owner hears from each core what its sessions look at, when it knows their users.
#[sqlx::test(migrations = "../migrations")]
async fn lists_go_on_for_all_cores_after_a_move(db: PgPool) {
    let world = World::new(db).await;
    let (a, b) = two_nodes(&world).await;
    for (core, user) in [(0, world.owner), (1, world.member)] {
        a.subscribe_core(core, world.subscription(&[user], None))
            .await;
        let watch = world.watch(core, 1, user, &[0]);
        a.requests.send(watch).await.unwrap();
    }
    let list = EventKind::GuildMemberListUpdate;
    tokio::join!(told(&a.inbox, list), told(&a.second, list));
    world.publish_map(2, &[&a, &b], 1, Some(0)).await;
    tokio::join!(told(&a.inbox, list), told(&a.second, list));
}
