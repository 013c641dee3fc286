//! The queries on a real Postgres.

use std::time::Duration;

use guildhall_shared::{
    envelope::{Alt, Durability, Part, Visibility},
    gateway::{EventKind, Intents},
    id::{Id, marker::Realm},
    model::ChannelKind,
    shard::{Position, ShardId},
    token::TokenHash,
};
use guildhall_store::{
    account::{self, Identified},
    events, guild,
};
use sqlx::PgPool;

const ALICE: u64 = 10;
const BOT: u64 = 11;
const HALL: u64 = 100;

fn id<T>(value: u64) -> Id<T> {
    Id::new(value).expect("test ids are not zero")
}

async fn run(db: &PgPool, sql: &'static str) {
    sqlx::raw_sql(sql)
        .execute(db)
        .await
        .expect("the set-up is valid SQL");
}

/// Alice, who owns Hall, and a bot in it.
async fn hall(db: &PgPool) {
    run(
        db,
        "create table realm_event_rest partition of realm_event default;
         insert into account (user_id, username, email, locale) values (10, 'alice', 'a@example.org', 'de');
         insert into account (user_id, username, bot, public_flags) values (11, 'helper', true, 65536);
         insert into application (application_id, owner_id, name, flags, verify_key) values (11, 10, 'Helper', 32768, 'ab');
         insert into auth_token (token_hash, user_id) values ('\\x0a', 10), ('\\x0b', 11);
         insert into realm_head (realm_id, shard, era, seq, state_seq) values (10, 0, 1, 4, 2), (11, 0, 1, 1, 1), (100, 7, 1, 3, 2);
         insert into guild (guild_id, name, owner_id, member_count, settings) values (100, 'Hall', 10, 2, '{\"verification_level\": 2}');
         insert into role (guild_id, role_id, name, position, permissions, bot_id, managed) values
             (100, 100, '@everyone', 0, 1024, null, false), (100, 101, 'Helper', 1, 8, 11, true);
         insert into channel (channel_id, guild_id, kind, name, position, settings, overwrites) values
             (201, 100, 2, 'Voice', 1, '{\"bitrate\": 64000}', '[]'), (200, 100, 0, 'general', 0, '{\"topic\": null}', '[{\"id\":\"100\",\"type\":0,\"allow\":\"0\",\"deny\":\"1024\"}]'),
             (202, 100, 4, 'Text', 2, '{}', '[]');
         insert into message (channel_id, message_id, author_id, content) values (200, 300, 10, 'a'), (200, 301, 10, 'b');
         insert into member (guild_id, user_id, roles) values (100, 11, '{101}'), (100, 10, '{}');",
    )
    .await;
}

fn token(byte: u8) -> Vec<u8> {
    vec![byte]
}

#[sqlx::test(migrations = "../migrations")]
async fn identify_reads_account_position_and_guilds(db: PgPool) {
    hall(&db).await;
    let mut hash = [0; 32];
    hash[0] = 1;
    sqlx::query("update auth_token set token_hash = $1 where token_hash = $2")
        .bind(hash.as_slice())
        .bind(token(11))
        .execute(&db)
        .await
        .unwrap();
    let found = account::identify(&db, TokenHash(hash))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(found.user.user.id.get(), BOT);
    assert!(found.user.user.bot);
    assert_eq!(found.user.user.public_flags, 65536);
    assert_eq!(found.application, Some((id(BOT), 32768)));
    assert_eq!(found.position, Position { era: 1, seq: 1 });
    assert_eq!(found.guilds, [id(HALL)]);

    let unknown = account::identify(&db, TokenHash([9; 32])).await.unwrap();
    assert_eq!(unknown, None);
}

#[sqlx::test(migrations = "../migrations")]
async fn a_human_has_no_application(db: PgPool) {
    hall(&db).await;
    sqlx::query("update auth_token set token_hash = $1 where user_id = 10")
        .bind([3u8; 32].as_slice())
        .execute(&db)
        .await
        .unwrap();
    let found = account::by_token(&db, TokenHash([3; 32]))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(found.user.user.id.get(), ALICE);
    assert_eq!(found.user.email.as_deref(), Some("a@example.org"));
    assert_eq!(found.user.locale, "de");
    assert_eq!(found.application, None);
    assert_eq!(found.state_seq, 2);
}

#[sqlx::test(migrations = "../migrations")]
async fn many_tokens_are_read_at_once_as_one_by_one(db: PgPool) {
    hall(&db).await;
    let (alice, bot) = (TokenHash([3; 32]), TokenHash([4; 32]));
    for (token, user) in [(alice, 10_i64), (bot, 11)] {
        sqlx::query("update auth_token set token_hash = $1 where user_id = $2")
            .bind(token.0.as_slice())
            .bind(user)
            .execute(&db)
            .await
            .unwrap();
    }
    let tokens = [bot, TokenHash([9; 32]), alice, bot];
    let mut accounts = Vec::new();
    for token in tokens {
        accounts.push(account::by_token(&db, token).await.unwrap());
    }
    assert_eq!(account::by_tokens(&db, &tokens).await.unwrap(), accounts);
    let helper = account::identify(&db, bot).await.unwrap().unwrap();
    assert_eq!(helper.guilds, [id(HALL)]);
    let helper = Identified::Bot(Box::new(helper));
    assert_eq!(
        account::identify_many(&db, &tokens).await.unwrap(),
        [
            helper.clone(),
            Identified::Nobody,
            Identified::Person(id(ALICE)),
            helper
        ]
    );
    assert_eq!(account::by_tokens(&db, &[]).await.unwrap(), []);
}

#[sqlx::test(migrations = "../migrations")]
async fn a_snapshot_holds_the_whole_guild(db: PgPool) {
    hall(&db).await;
    let hall = guild::snapshot(&db, id(HALL)).await.unwrap().unwrap();
    assert_eq!(hall.position, Position { era: 1, seq: 3 });
    assert_eq!(hall.member_count, 2);
    assert_eq!(hall.guild.name, "Hall");
    assert_eq!(hall.guild.owner_id.get(), ALICE);
    assert_eq!(hall.guild.settings.verification_level, 2);
    assert_eq!(hall.guild.settings.max_members, 500_000);
    let roles: Vec<u64> = hall.guild.roles.iter().map(|role| role.id.get()).collect();
    assert_eq!(roles, [100, 101]);
    assert_eq!(
        hall.guild.roles[1].tags.and_then(|tags| tags.bot_id),
        Some(id(BOT))
    );
    let channels: Vec<u64> = hall
        .channels
        .iter()
        .map(|channel| channel.id.get())
        .collect();
    assert_eq!(channels, [200, 201, 202]);
    assert_eq!(hall.channels[0].last_message_id, Some(Some(id(301))));
    assert_eq!(hall.channels[0].settings.topic, Some(None));
    assert_eq!(hall.channels[0].permission_overwrites.len(), 1);
    assert_eq!(hall.channels[1].last_message_id, Some(None));
    assert_eq!(hall.channels[1].settings.bitrate, Some(64_000));
    assert_eq!(hall.channels[2].kind, ChannelKind::CATEGORY);
    assert_eq!(hall.channels[2].last_message_id, None);
    let members: Vec<u64> = hall
        .members
        .iter()
        .map(|member| member.user.as_ref().unwrap().id.get())
        .collect();
    assert_eq!(members, [ALICE, BOT]);
    assert_eq!(hall.members[1].roles, [id(101)]);

    assert_eq!(guild::snapshot(&db, id(999)).await.unwrap(), None);
}

#[sqlx::test(migrations = "../migrations")]
async fn events_come_back_as_they_were_stored(db: PgPool) {
    hall(&db).await;
    let realm: Id<Realm> = id(HALL);
    let vis = Visibility::channel(id(200), Intents::GUILD_MESSAGES);
    let alt = Alt {
        full_for: vec![id(ALICE)],
        body: "{}".into(),
        parts: vec![Part {
            users: vec![id(BOT)],
            body: "{\"n\":0}".into(),
        }],
    };
    for seq in 1..=3i64 {
        let (mut vis_bytes, mut alt_bytes) = (Vec::new(), Vec::new());
        let body = format!("{{\"n\":{seq}}}").into_bytes();
        vis.encode(&mut vis_bytes);
        alt.encode(&body, &mut alt_bytes);
        sqlx::query(
            "insert into realm_event (realm_id, seq, shard, era, kind, vis, body, alt)
             values ($1, $2, 7, 1, $3, $4, $5, $6)",
        )
        .bind(realm.to_db())
        .bind(seq)
        .bind(EventKind::MessageCreate.number() as i16)
        .bind(vis_bytes)
        .bind(body)
        .bind((seq == 2).then_some(alt_bytes))
        .execute(&db)
        .await
        .unwrap();
    }
    let after = Position { era: 1, seq: 1 };
    let found = events::since(&db, realm, after, 10).await.unwrap();
    assert_eq!(found.len(), 2);
    assert_eq!(
        found[0].durability,
        Durability::Durable(Position { era: 1, seq: 2 })
    );
    assert_eq!(found[0].kind, EventKind::MessageCreate);
    assert_eq!(found[0].vis, vis);
    assert_eq!(found[0].body, "{\"n\":2}");
    assert_eq!(found[0].alt, Some(alt));
    assert_eq!(found[1].alt, None);
    let first = events::since(&db, realm, after, 1).await.unwrap();
    assert_eq!(first, found[..1]);
    let other_era = Position { era: 2, seq: 0 };
    assert_eq!(events::since(&db, realm, other_era, 10).await.unwrap(), []);

    let head = events::Head {
        realm,
        position: Position { era: 1, seq: 3 },
    };
    assert_eq!(events::heads(&db, &[realm, id(999)]).await.unwrap(), [head]);
    let recent = Duration::from_secs(10);
    let newer = events::newer_in_shards(&db, &[ShardId(7), ShardId(8)], recent);
    assert_eq!(newer.await.unwrap(), [head]);
    let elsewhere = events::newer_in_shards(&db, &[ShardId(8)], recent);
    assert_eq!(elsewhere.await.unwrap(), []);
}
