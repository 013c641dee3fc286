//! Sessions that several clients, or gateways, ask for at once.

use guildhall_gateway::{
    bus::{Claim, Claimed},
    codec::Resume,
    names::SessionId,
    session::record::Travelling,
};
use guildhall_shared::model::{Platform, Status};

use super::{running::boot_of, *};

/// A session of node `b`, and how its client goes on with it.
struct Session {
    id: SessionId,
    resume: Resume,
    owner: Id<User>,
}

impl Session {
    async fn new(world: &World) -> Self {
        let id = SessionId::new(boot_of("b"), 0, [5; 10]);
        Self {
            id,
            resume: Resume {
                token: world.make_token(world.owner, 1).await,
                session_id: id.to_string(),
                seq: 3,
            },
            owner: world.owner,
        }
    }

    /// A client at a node resumes it, over the connection in this slot.
    async fn resume_at(&self, node: &Node, slot: u32) {
        let find = ToNode::Find {
            core: 0,
            connection: SessionKey {
                slot,
                generation: 1,
            },
            resume: Box::new(self.resume.clone()),
        };
        node.requests.send(find).await.unwrap();
    }

    /// A node's core gives it up.
    async fn give_up(&self, node: &Node, claim: &Claim) {
        assert_eq!(claim.session, self.id);
        let record = json!({
            "id": self.id, "user": self.owner, "token": self.resume.token.hash(), "bot": true,
            "seat": null, "intents": 0, "shard": [0, 1], "large_threshold": 50,
            "capabilities": 0, "compress": false, "platform": Platform::Web,
            "status": Status::Online, "activities": null, "voice": [], "watches": [],
            "home": Position { era: 1, seq: 0 }, "guilds": [],
        });
        let session = Travelling {
            record: serde_json::from_value(record).unwrap(),
            s: claim.s,
            dispatches: Vec::new(),
        };
        let claimed = ToNode::Claimed {
            number: claim.number,
            result: Box::new(Claimed::Session(Box::new(session))),
        };
        node.requests.send(claimed).await.unwrap();
    }
}

/// A node's core is asked for a session.
async fn claim(node: &Node) -> Claim {
    match node.next().await {
        ToCore::Claim(claim) => *claim,
        other => panic!("not asked for a session, but {other:?}"),
    }
}

/// The slot of the connection that a session comes to.
async fn arrival(node: &Node) -> u32 {
    match node.next().await {
        ToCore::Arrived { connection, .. } => connection.slot,
        other => panic!("no session, but {other:?}"),
    }
}

/// Nodes that know each other.
async fn nodes<const N: usize>(world: &World, ids: [&str; N]) -> [Node; N] {
    let nodes = ids.map(|id| Node::start(world, id));
    let all: Vec<&Node> = nodes.iter().collect();
    world.publish_map(1, &all, 0, None).await;
    for id in ids {
        status::heartbeat(world, id, |status| status.map.version == 1).await;
    }
    nodes
}

/// A client that gave up waiting comes again while its session is still on its way.
#[sqlx::test(migrations = "../migrations")]
async fn of_two_attempts_to_resume_the_last_one_has_the_session(db: PgPool) {
    let world = World::new(db).await;
    let [a, b] = nodes(&world, ["a", "b"]).await;
    let session = Session::new(&world).await;
    session.resume_at(&a, 1).await;
    let first = claim(&b).await;
    session.resume_at(&a, 2).await;
    session.give_up(&b, &first).await;
    assert_eq!(arrival(&a).await, 1);
    let second = claim(&a).await;
    session.give_up(&a, &second).await;
    assert_eq!(arrival(&a).await, 2);
    b.quiet().await;
}

/// The client came there before, or meanwhile: only its core knows whether it still waits here.
#[sqlx::test(migrations = "../migrations")]
async fn a_session_that_another_gateway_was_faster_with_is_found_there(db: PgPool) {
    let world = World::new(db).await;
    let [a, b, c] = nodes(&world, ["a", "b", "c"]).await;
    let session = Session::new(&world).await;
    session.resume_at(&a, 1).await;
    let first = claim(&b).await;
    let (key, mut redis) = (keys::session(&session.id.to_string()), world.redis.clone());
    let () = redis::cmd("SET")
        .arg(&key)
        .arg(format!("1 {:08x} 0", boot_of("c")))
        .query_async(&mut redis)
        .await
        .unwrap();
    session.give_up(&b, &first).await;
    match a.next().await {
        ToCore::Overtaken { connection, resume } => {
            assert_eq!(connection.slot, 1);
            assert_eq!(resume.session_id, session.resume.session_id);
        }
        other => panic!("not overtaken, but {other:?}"),
    }
    session.resume_at(&a, 1).await;
    let second = claim(&c).await;
    session.give_up(&c, &second).await;
    assert_eq!(arrival(&a).await, 1);
    let holder: String = redis::cmd("GET")
        .arg(&key)
        .query_async(&mut redis)
        .await
        .unwrap();
    assert_eq!(holder, format!("2 {:08x} 0", boot_of("a")));
}
