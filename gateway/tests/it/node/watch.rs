//! Lists of members that sessions look at, over nodes.

use guildhall_gateway::{
    ask::{Watch, WatchChange},
    names::Address,
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

/// A new owner hears from each core what its sessions look at, when it knows their users.
#[sqlx::test(migrations = "../migrations")]
async fn lists_go_on_for_all_cores_after_a_move(db: PgPool) {
    let world = World::new(db).await;
    let (a, b) = two_nodes(&world).await;
    for (core, user) in [(0, world.owner), (1, world.member)] {
        a.subscribe_core(core, world.subscription(&[user], None))
            .await;
        let change = WatchChange {
            guild: world.guild,
            from: Address {
                core,
                session: session(1),
            },
            user,
            watch: Some(Watch {
                channels: vec![(world.open, vec![0])],
                members: Vec::new(),
            }),
        };
        let watch = ToNode::Watch(Box::new(change));
        a.requests.send(watch).await.unwrap();
    }
    let list = EventKind::GuildMemberListUpdate;
    tokio::join!(told(&a.inbox, list), told(&a.second, list));
    world.publish_map(2, &[&a, &b], 1, Some(0)).await;
    tokio::join!(told(&a.inbox, list), told(&a.second, list));
}
