//! Tokens, and what clients are told that identify with them.

use std::collections::BTreeMap;

use guildhall_gateway::bus::{self, IdentifyRequest, Refused};
use guildhall_shared::gateway::CloseCode;

use super::*;

#[sqlx::test(migrations = "../migrations")]
async fn identify_knows_its_tokens(db: PgPool) {
    let world = World::new(db).await;
    let node = Node::start(&world, "a");
    let token = world.make_bot(7).await;
    let identify = async |token: &Token, intents, shard| {
        let session = SessionKey {
            slot: 3,
            generation: 4,
        };
        let request = IdentifyRequest {
            token: token.clone(),
            intents,
            shard,
        };
        node.requests
            .send(ToNode::Identify {
                core: 0,
                session,
                request,
            })
            .await
            .unwrap();
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
    let close = |result: Result<_, Refused>| result.map(|_: Box<bus::Identity>| ()).unwrap_err();
    assert_eq!(
        close(identify(&wrong, guilds, (0, 1)).await),
        Refused::Close(CloseCode::AuthenticationFailed)
    );
    assert_eq!(
        close(identify(&token, None, (0, 1)).await),
        Refused::Close(CloseCode::InvalidIntents)
    );
    assert_eq!(
        close(identify(&token, Some(Intents::MESSAGE_CONTENT), (0, 1)).await),
        Refused::Close(CloseCode::DisallowedIntents)
    );
    let identity = identify(&token, guilds, (0, 1)).await.unwrap();
    assert_eq!(identity.guilds, [world.guild]);
    assert_eq!(identity.user.user.id, world.member);
    assert_eq!(
        close(identify(&token, guilds, (0, 1)).await),
        Refused::TryLater
    );
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
        let session = SessionKey {
            slot,
            generation: 4,
        };
        let request = IdentifyRequest {
            token: token.clone(),
            intents,
            shard: (0, 1),
        };
        let core = 0;
        let identify = ToNode::Identify {
            core,
            session,
            request,
        };
        node.requests.send(identify).await.unwrap();
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
