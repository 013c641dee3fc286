//! What cores keep of their deliveries, and what they read again.

use std::collections::BTreeSet;

use bytes::Bytes;
use guildhall_gateway::{codec::Resume, names::SessionId};
use guildhall_store::events::Span;

use super::{running::boot_of, *};

#[sqlx::test(migrations = "../migrations")]
async fn messages_between_a_read_and_a_snapshot_are_looked_up(db: PgPool) {
    let world = World::new(db).await;
    let node = Node::start(&world, "a");
    for _ in 0..3 {
        world.store_message().await;
    }
    let vis = Visibility::realm(Intents::GUILDS);
    world.store(EventKind::GuildUpdate, vis, &json!({})).await;
    world.store_message().await;
    let session = session(3);
    let between = async |era, after, up_to| {
        let span = Span {
            realm: world.realm(),
            after: Position { era, seq: after },
            up_to,
        };
        let request = ToNode::Missed {
            core: 0,
            session,
            spans: vec![span],
        };
        node.requests.send(request).await.unwrap();
        match node.next().await {
            ToCore::Missed {
                session: of,
                messages,
            } => {
                assert_eq!(of, session);
                let mut seqs: Vec<u64> = messages.iter().map(seq).collect();
                seqs.sort_unstable();
                seqs
            }
            other => panic!("no messages, but {other:?}"),
        }
    };
    assert_eq!(between(1, 1, 5).await, [2, 3, 5]);
    assert_eq!(between(1, 0, 4).await, [1, 2, 3]);
    assert!(between(2, 0, 5).await.is_empty());
    node.quiet().await;
}

/// Chunks of the delivery log that Redis has, as strings.
async fn log_in_redis(world: &World) -> Vec<String> {
    let mut redis = world.redis.clone();
    let log: redis::streams::StreamRangeReply = redis::cmd("XRANGE")
        .arg(keys::delivery_log(boot_of("a"), 0))
        .arg("-")
        .arg("+")
        .query_async(&mut redis)
        .await
        .unwrap();
    let chunks = log.ids.iter().map(|entry| entry.get(keys::STREAM_FIELD));
    chunks.map(Option::unwrap).collect()
}

#[sqlx::test(migrations = "../migrations")]
async fn a_delivery_log_that_redis_lost_is_begun_anew_and_its_core_is_told(db: PgPool) {
    let world = World::new(db).await;
    let node = Node::start(&world, "a");
    let deliver = async |number: u64, chunk: &'static str| {
        let delivered = ToNode::Delivered {
            core: 0,
            number,
            chunk: Bytes::from_static(chunk.as_bytes()),
            loss: 0,
        };
        node.requests.send(delivered).await.unwrap();
        until(&format!("{chunk} is in the log"), async || {
            let log = log_in_redis(&world).await;
            (log.last().map(String::as_str) == Some(chunk)).then_some(())
        })
        .await;
    };
    deliver(0, "first").await;
    deliver(1, "second").await;
    let mut redis = world.redis.clone();
    empty(&mut redis).await;
    deliver(2, "third").await;
    assert_eq!(log_in_redis(&world).await, ["third"]);
    assert!(matches!(
        node.next().await,
        ToCore::RedisForgot {
            doubt: false,
            loss: 1
        }
    ));
    let lives: i64 = redis::cmd("PTTL")
        .arg(keys::delivery_log(boot_of("a"), 0))
        .query_async(&mut redis)
        .await
        .unwrap();
    assert!(lives > 0, "it would stay for ever");
    deliver(3, "fourth").await;
    assert_eq!(log_in_redis(&world).await, ["third", "fourth"]);
    node.quiet().await;
}

/// All sessions of a node that hung were taken over meanwhile.
#[sqlx::test(migrations = "../migrations")]
async fn copies_of_many_sessions_end(db: PgPool) {
    const MANY: usize = 2500;
    let world = World::new(db).await;
    let node = Node::start(&world, "a");
    let mut redis = world.redis.clone();
    let mut pipeline = redis::pipe();
    for n in 0..MANY {
        let session = format!("{:08x}{n:024x}", boot_of("a"));
        let command = pipeline.cmd("XADD").arg(keys::taken(boot_of("a"))).arg("*");
        command.arg(keys::STREAM_FIELD).arg(session).ignore();
    }
    let () = pipeline.query_async(&mut redis).await.unwrap();
    let mut ended = BTreeSet::new();
    while ended.len() < MANY {
        if let ToCore::Taken(session) = node.next().await {
            assert!(ended.insert(session.bytes()), "{session} has ended twice");
        }
    }
}

/// Redis did what a gateway asked, and the answer was lost: that is no other gateway.
#[sqlx::test(migrations = "../migrations")]
async fn an_attempt_to_resume_whose_answer_was_lost_takes_the_session_from_nobody(db: PgPool) {
    let world = World::new(db).await;
    let node = Node::start(&world, "a");
    let boot = boot_of("a");
    let session_id = SessionId::new(boot, 0, [5; 10]).to_string();
    let (key, mut redis) = (keys::session(&session_id), world.redis.clone());
    let () = redis::cmd("SET")
        .arg(&key)
        .arg(format!("1 {boot:08x} 0"))
        .query_async(&mut redis)
        .await
        .unwrap();
    let resume = Resume {
        token: world.make_token(world.owner, 1).await,
        session_id,
        seq: 3,
    };
    let connection = session(1);
    let stay = ToNode::Stay {
        core: 0,
        connection,
        resume: Box::new(resume),
    };
    node.requests.send(stay).await.unwrap();
    match node.next().await {
        ToCore::Stays { connection: to, .. } => assert_eq!(to, connection),
        other => panic!("it does not stay, but {other:?}"),
    }
    let holder: String = redis::cmd("GET")
        .arg(&key)
        .query_async(&mut redis)
        .await
        .unwrap();
    assert_eq!(holder, format!("2 {boot:08x} 0"));
    node.quiet().await;
}
