//! Tokens, and what clients are told that identify with them.

use std::collections::BTreeMap;

use guildhall_gateway::identity::{Identity, Refused};
use guildhall_shared::gateway::{CloseCode, session_starts::PERSON_SESSIONS_MAX};

use super::{feed::NOBODY, *};

/// Who was let in; `None`: the client is to come again.
async fn let_in(node: &Node) -> Option<Id<User>> {
    match node.identified().await {
        Ok(identity) => Some(identity.user.user.id),
        Err(Refused::TryLater) => None,
        Err(refused) => panic!("never let in: {refused:?}"),
    }
}

#[sqlx::test(migrations = "../migrations")]
async fn identify_knows_its_tokens(db: PgPool) {
    let world = World::new(db).await;
    let node = Node::start(&world, "a");
    let token = world.make_bot(7).await;
    let identify = async |token: &Token, intents| {
        let session = session(3);
        node.identify_as(session, token, intents).await;
        match node.next().await {
            ToCore::Identified {
                session: of,
                result,
            } => {
                assert_eq!(of, session);
                result
            }
            other => panic!("not identified, but {other:?}"),
        }
    };
    let guilds = Some(Intents::GUILDS);
    let wrong = Token::mint(world.member, 1_767_323_045_678, [8; 32]);
    let close = |result: Result<_, Refused>| result.map(|_: Box<Identity>| ()).unwrap_err();
    assert_eq!(
        close(identify(&wrong, guilds).await),
        Refused::Close(CloseCode::AuthenticationFailed)
    );
    assert_eq!(
        close(identify(&token, None).await),
        Refused::Close(CloseCode::InvalidIntents)
    );
    assert_eq!(
        close(identify(&token, Some(Intents::MESSAGE_CONTENT)).await),
        Refused::Close(CloseCode::DisallowedIntents)
    );
    let identity = identify(&token, guilds).await.unwrap();
    assert_eq!(identity.guilds, [world.guild]);
    assert_eq!(identity.user.user.id, world.member);
    assert_eq!(close(identify(&token, guilds).await), Refused::TryLater);
}

#[sqlx::test(migrations = "../migrations")]
async fn clients_that_identify_at_once_are_each_told_their_own(db: PgPool) {
    let world = World::new(db).await;
    let node = Node::start(&world, "a");
    let bot = world.make_bot(7).await;
    let person = world.make_token(world.owner, 8).await;
    let wrong = Token::mint(world.member, 1_767_323_045_678, [9; 32]);
    let guilds = Some(Intents::GUILDS);
    let too_much = Some(Intents::MESSAGE_CONTENT);
    let asked = [
        (&wrong, guilds),
        (&bot, guilds),
        (&bot, too_much),
        (&person, guilds),
        (&person, None),
        (&bot, guilds),
    ];
    for (slot, (token, intents)) in (0..).zip(asked) {
        node.identify_as(session(slot), token, intents).await;
    }
    let mut told = BTreeMap::new();
    while told.len() < asked.len() {
        match node.next().await {
            ToCore::Identified { session, result } => {
                let who = result.map(|identity| identity.user.user.id);
                assert_eq!(told.insert(session.slot, who), None);
            }
            other => panic!("not identified, but {other:?}"),
        }
    }
    let told: Vec<_> = told.into_values().collect();
    assert_eq!(
        told,
        [
            Err(Refused::Close(CloseCode::AuthenticationFailed)),
            Ok(world.member),
            Err(Refused::Close(CloseCode::DisallowedIntents)),
            Ok(world.owner),
            Ok(world.owner),
            Err(Refused::TryLater),
        ]
    );
    node.quiet().await;
}

#[sqlx::test(migrations = "../migrations")]
async fn a_token_is_known_before_shard_and_intents_count(db: PgPool) {
    let world = World::new(db).await;
    let node = Node::start(&world, "a");
    let bot = world.make_bot(7).await;
    let person = world.make_token(world.owner, 8).await;
    let wrong = Token::mint(world.member, 1_767_323_045_678, [9; 32]);
    for code in [CloseCode::InvalidShard, CloseCode::InvalidIntents] {
        for (token, refused) in [
            (&wrong, CloseCode::AuthenticationFailed),
            (&bot, code),
            (&person, code),
        ] {
            let client = session(3);
            node.identify_with(client, token, None, Some(code)).await;
            let told = node.identified().await.map(|identity| identity.token);
            assert_eq!(told, Err(Refused::Close(refused)));
        }
    }
    // It cost them none of their starts.
    let guilds = Some(Intents::GUILDS);
    node.identify_as(session(3), &bot, guilds).await;
    assert!(node.identified().await.is_ok());
}

#[sqlx::test(migrations = "../migrations")]
async fn a_person_who_identifies_too_soon_is_let_in_at_their_next_turn(db: PgPool) {
    let world = World::new(db).await;
    world.without_bots().await;
    let node = Node::start_limited(&world, "a", &world.redis_url);
    let token = world.make_token(world.owner, 7).await;
    let other = world.make_token(world.member, 8).await;
    for token in [&token, &token, &other] {
        node.identify(token).await;
    }
    let mut told = Vec::new();
    for _ in 0..3 {
        told.push(let_in(&node).await);
    }
    for one in [Some(world.owner), Some(world.member), None] {
        assert!(told.contains(&one), "{told:?}");
    }
    let started = Instant::now();
    loop {
        node.identify(&token).await;
        if let_in(&node).await.is_some() {
            break;
        }
        assert!(started.elapsed() < PATIENCE, "their turn never came");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// READY of people takes a lot: whoever comes before their turn is told so without it.
#[sqlx::test(migrations = "../migrations")]
async fn of_a_person_whose_turn_it_is_not_no_more_than_the_token_is_read(db: PgPool) {
    let world = World::new(db).await;
    let node = Node::start_limited(&world, "a", &world.redis_url);
    let token = world.make_token(world.owner, 7).await;
    let mut held = world.db.begin().await.unwrap();
    sqlx::query("lock table read_state in access exclusive mode")
        .execute(&mut *held)
        .await
        .unwrap();
    node.identify(&token).await;
    node.identify(&token).await;
    assert_eq!(let_in(&node).await, None);
    held.rollback().await.unwrap();
    assert_eq!(let_in(&node).await, Some(world.owner));
}

#[sqlx::test(migrations = "../migrations")]
async fn a_person_identifies_at_one_of_all_gateways_at_a_time(db: PgPool) {
    let world = World::new(db).await;
    let token = world.make_token(world.owner, 7).await;
    let a = Node::start_limited(&world, "a", &world.redis_url);
    let b = Node::start_limited(&world, "b", &world.redis_url);
    for node in [&a, &b] {
        node.identify(&token).await;
    }
    let told = [let_in(&a).await, let_in(&b).await];
    for one in [Some(world.owner), None] {
        assert!(told.contains(&one), "{told:?}");
    }
}

/// Whatever the gateways' own clocks say.
#[sqlx::test(migrations = "../migrations")]
async fn a_persons_sessions_count_until_their_time_by_the_clock_of_redis(db: PgPool) {
    let world = World::new(db).await;
    let node = Node::start(&world, "a");
    let token = world.make_token(world.owner, 7).await;
    let (key, mut redis) = (keys::sessions_of(world.owner), world.redis.clone());
    let (now_s, _): (u64, u64) = redis::cmd("TIME").query_async(&mut redis).await.unwrap();
    let mut pipeline = redis::pipe();
    for seat in 0..PERSON_SESSIONS_MAX {
        let until_s = if seat == 0 { now_s } else { now_s + 600 };
        let command = pipeline.cmd("ZADD").arg(&key);
        command.arg(until_s * 1000).arg(seat).ignore();
    }
    let () = pipeline.query_async(&mut redis).await.unwrap();
    node.identify(&token).await;
    assert!(node.identified().await.unwrap().seat.is_some());
    node.identify(&token).await;
    let refused = node.identified().await.map(|identity| identity.seat);
    assert_eq!(refused, Err(Refused::Close(CloseCode::TooManySessions)));
    let lasts: i64 = redis::cmd("PTTL")
        .arg(&key)
        .query_async(&mut redis)
        .await
        .unwrap();
    assert!(lasts > 0, "it would stay for ever");
}

#[sqlx::test(migrations = "../migrations")]
async fn without_redis_a_person_has_their_turn_at_each_gateway(db: PgPool) {
    let world = World::new(db).await;
    let token = world.make_token(world.owner, 7).await;
    for id in ["a", "b"] {
        let node = Node::start_limited(&world, id, NOBODY);
        for _ in 0..2 {
            node.identify(&token).await;
        }
        let told = [let_in(&node).await, let_in(&node).await];
        for one in [Some(world.owner), None] {
            assert!(told.contains(&one), "{told:?}");
        }
    }
}
