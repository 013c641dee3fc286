//! Accounts that are disabled, deleted, locked; and changes told to many guilds.

use std::time::{Duration, Instant};

use guildhall_api::auth::{Audience, sign_token};
use guildhall_api::config::Secret;
use guildhall_shared::{Id, id::marker};
use reqwest::Method;
use serde_json::{Value, json};
use sqlx::PgPool;

use crate::{
    harness::{CLUSTER_KEY, TestApp, TestUser},
    mfa::give_factor,
    sessions::{PASSWORD, log_in, register},
};

/// What an operator calls with.
pub(crate) fn operator_token() -> String {
    let key = Secret::from(CLUSTER_KEY.to_owned());
    sign_token(&key, Audience::Operator, "ann", Duration::from_secs(60)).unwrap()
}

/// Waits until no work on accounts is left.
async fn worked_off(app: &TestApp) {
    let started = Instant::now();
    loop {
        let left: i64 = sqlx::query_scalar("select count(*) from account_job")
            .fetch_one(&app.db)
            .await
            .unwrap();
        if left == 0 {
            return;
        }
        assert!(
            started.elapsed() < Duration::from_secs(60),
            "{left} jobs are left"
        );
        tokio::task::yield_now().await;
    }
}

#[sqlx::test(migrations = "../migrations")]
async fn a_disabled_account_sleeps_until_its_owner_logs_in(db: PgPool) {
    let app = TestApp::new(db).await;
    let first = register(&app, "alice").await;
    let second = log_in(&app, "alice").await;
    let path = "/users/@me/disable";
    app.post(&first, path, json!({ "password": "wrong horse" }))
        .await
        .expect_fault("password", "PASSWORD_DOES_NOT_MATCH");
    app.post(&first, path, json!({}))
        .await
        .expect_fault("password", "BASE_TYPE_REQUIRED");
    app.post(&first, path, json!({ "password": PASSWORD }))
        .await
        .expect(204);
    for gone in [&first, &second] {
        app.get(gone, "/users/@me").await.expect_error(401, 0);
    }
    let events = app.events(first.id).await;
    assert_eq!(events.len(), 1);
    assert_eq!(events[0].0, "tokens revoked");
    assert_eq!(events[0].1["tokens"].as_array().unwrap().len(), 2);
    let third = log_in(&app, "alice").await;
    app.get(&third, "/users/@me").await.expect(200);
}

#[sqlx::test(migrations = "../migrations")]
async fn a_deleted_account_leaves_its_messages_and_nothing_else(db: PgPool) {
    let app = TestApp::new(db).await;
    let (alice, bob) = (register(&app, "alice").await, app.user("bob").await);
    let guild = app.guild(&bob, "home").await;
    app.join(&alice, guild).await;
    let messages = format!("/channels/{}/messages", guild.general);
    app.post(&alice, &messages, json!({ "content": "hello" }))
        .await
        .expect(200);
    app.put(
        &alice,
        &format!("/users/@me/relationships/{}", bob.id),
        json!({}),
    )
    .await
    .expect(204);
    app.put(
        &alice,
        &format!("/users/@me/notes/{}", bob.id),
        json!({ "note": "x" }),
    )
    .await
    .expect(204);
    let bot = app.bot(&alice, "Ping").await;
    let own = app.guild(&alice, "hers").await;
    let confirm = json!({ "password": PASSWORD });
    app.post(&alice, "/users/@me/delete", confirm.clone())
        .await
        .expect_error(400, 40011);
    sqlx::query("update guild set owner_id = $1 where guild_id = $2")
        .bind(bob.id.to_db())
        .bind(own.id.to_db())
        .execute(&app.db)
        .await
        .unwrap();

    app.post(&alice, "/users/@me/delete", confirm.clone())
        .await
        .expect(204);
    app.get(&alice, "/users/@me").await.expect_error(401, 0);
    app.get(&bot, "/users/@me").await.expect_error(401, 0);
    worked_off(&app).await;
    let shown = app
        .get(&bob, &format!("/users/{}", alice.id))
        .await
        .expect(200);
    assert_eq!(shown["global_name"], "Deleted User");
    let list = app.get(&bob, &messages).await.expect(200);
    assert_eq!(list[0]["content"], "hello");
    assert_eq!(list[0]["author"]["global_name"], "Deleted User");
    for realm in [guild.id, own.id] {
        let names = app.event_names(realm).await;
        assert!(names.contains(&"GUILD_MEMBER_REMOVE"), "{names:?}");
    }
    let names = app.event_names(bob.id).await;
    assert_eq!(names, ["RELATIONSHIP_ADD", "RELATIONSHIP_REMOVE"]);
    assert_eq!(
        app.get(&bob, "/users/@me/relationships").await.expect(200),
        json!([])
    );
    let rows: i64 = sqlx::query_scalar(
        "select (select count(*) from user_note) + (select count(*) from relationship)
              + (select count(*) from member where user_id = $1)",
    )
    .bind(alice.id.to_db())
    .fetch_one(&app.db)
    .await
    .unwrap();
    assert_eq!(rows, 0);
    let login = json!({ "login": "alice", "password": PASSWORD });
    app.post_anonymously("/auth/login", login)
        .await
        .expect_fault("login", "INVALID_LOGIN");
    // Name and address are free again.
    register(&app, "alice").await;
    app.put(
        &bob,
        &format!("/users/@me/relationships/{}", alice.id),
        json!({}),
    )
    .await
    .expect_error(404, 10013);
}

/// What columns with an account's id are called; of others a foreign key tells.
const NAMES: [&str; 13] = [
    "about_id",
    "author_id",
    "bot_id",
    "creator_id",
    "high_id",
    "inviter_id",
    "low_id",
    "other_id",
    "owner_id",
    "realm_id",
    "target_id",
    "target_user_id",
    "user_id",
];

/// Where a deleted account is no longer: `account_work` and what it calls see to that.
const ERASED: [&str; 23] = [
    "account_job.user_id",
    "account_mfa.user_id",
    "account_seen.user_id",
    "account_ticket.user_id",
    "auth_token.user_id",
    // Of a group DM, which is given on.
    "channel.owner_id",
    "group_invite.inviter_id",
    "member.user_id",
    "oauth2_code.user_id",
    "oauth2_grant.user_id",
    "oauth2_token.user_id",
    "read_state.user_id",
    "relationship.other_id",
    "relationship.user_id",
    "scheduled_event_user.user_id",
    "temporary_member.user_id",
    "thread_member.user_id",
    "user_guild_settings.user_id",
    "user_mention.user_id",
    "user_note.about_id",
    "user_note.user_id",
    "user_settings.user_id",
    "voice_state.user_id",
];

/// Where it may be: what others read or have, and what goes by its age.
const KEPT: [&str; 33] = [
    "account.user_id",
    "application.application_id",
    "application.owner_id",
    "application_command_permission.target_id",
    "audit_entry.target_id",
    "audit_entry.user_id",
    "automod_rule.creator_id",
    "ban.user_id",
    "emoji.creator_id",
    "guild.owner_id",
    "guild_template.creator_id",
    "integration.user_id",
    "interaction.user_id",
    "invite.inviter_id",
    "invite.target_user_id",
    "invite_target_user.user_id",
    "message.author_id",
    "message_nonce.author_id",
    "message_search.author_id",
    "poll_vote.user_id",
    "private_pair.high_id",
    "private_pair.low_id",
    // Of DMs of two.
    "private_recipient.user_id",
    "reaction.user_id",
    "realm_event.realm_id",
    "realm_head.realm_id",
    "role.bot_id",
    "scheduled_event.creator_id",
    "silenced_leaver.user_id",
    "soundboard_sound.creator_id",
    "sticker.creator_id",
    "thread.owner_id",
    "webhook.creator_id",
];

/// Every column of every table that may hold an account's id, as `table.column`.
async fn columns_of_accounts(app: &TestApp) -> Vec<String> {
    sqlx::query_scalar(
        "select t.relname::text || '.' || c.attname::text
         from pg_attribute c join pg_class t on t.oid = c.attrelid
         where t.relnamespace = 'public'::regnamespace and t.relkind in ('r', 'p')
           and not t.relispartition and c.attnum > 0 and not c.attisdropped
           and c.atttypid = 'bigint'::regtype
           and (c.attname::text = any ($1)
                or exists (select from pg_constraint f
                           where f.contype = 'f' and f.conrelid = t.oid
                             and f.confrelid = 'account'::regclass and c.attnum = any (f.conkey)))
         order by 1",
    )
    .bind(NAMES.map(str::to_owned).to_vec())
    .fetch_all(&app.db)
    .await
    .unwrap()
}

/// Those of the columns in which somebody is.
async fn places_of(app: &TestApp, columns: &[String], user: &TestUser) -> Vec<String> {
    let mut found = Vec::new();
    for column in columns {
        let (table, name) = column.split_once('.').unwrap();
        let ask = format!(
            "select exists (select from {table} where {name} = {})",
            user.id
        );
        let is_there: bool = sqlx::query_scalar(sqlx::AssertSqlSafe(ask))
            .fetch_one(&app.db)
            .await
            .unwrap();
        if is_there {
            found.push(column.clone());
        }
    }
    found
}

#[sqlx::test(migrations = "../migrations")]
async fn of_every_table_it_is_decided_what_becomes_of_a_deleted_account(db: PgPool) {
    let app = TestApp::new(db).await;
    let columns = columns_of_accounts(&app).await;
    for column in &columns {
        let is_in = |list: &[&str]| list.contains(&column.as_str());
        assert!(
            is_in(&ERASED) != is_in(&KEPT),
            "{column}: does it go with an account or stay?"
        );
    }
    for listed in ERASED.iter().chain(&KEPT) {
        assert!(
            columns.iter().any(|column| column == listed),
            "{listed} is not there"
        );
    }

    let alice = register(&app, "alice").await;
    let (bob, carol) = (app.user("bob").await, app.user("carol").await);
    let bot = app.bot(&bob, "helper").await;
    let guild = app.guild(&bob, "home").await;
    app.join(&alice, guild).await;
    for friend in [&bob, &carol] {
        for (one, other) in [(&alice, friend), (friend, &alice)] {
            let path = format!("/users/@me/relationships/{}", other.id);
            app.put(one, &path, json!({})).await.expect(204);
        }
    }
    let group = json!({ "recipients": [bob.id, carol.id] });
    app.post(&alice, "/users/@me/channels", group)
        .await
        .expect(200);
    let general = format!("/channels/{}", guild.general);
    let hello = json!({ "content": "hello" });
    app.post(&alice, &format!("{general}/messages"), hello)
        .await
        .expect(200);
    let thread = json!({ "name": "talk", "type": 11 });
    app.post(&alice, &format!("{general}/threads"), thread)
        .await
        .expect(201);
    for statement in [
        "insert into account_seen (user_id, seen_on) values ($1, current_date)
         on conflict do nothing",
        r"insert into account_ticket (ticket_hash, user_id, purpose, expires_at)
          values ('\x01', $1, 1, now() + interval '1 hour')",
        "insert into oauth2_grant (grant_id, user_id, application_id, scopes)
         values (1, $1, $3, '{}')",
        r"insert into oauth2_code (code_hash, application_id, user_id, scopes, redirect_uri,
                                   expires_at)
          values ('\x01', $3, $1, '{}', '', now() + interval '1 hour')",
        r"insert into oauth2_token (token_hash, application_id, user_id, scopes, expires_at,
                                    forget_at)
          values ('\x01', $3, $1, '{}', now() + interval '1 hour', now() + interval '1 hour')",
        "insert into user_settings (user_id, settings) values ($1, '{}') on conflict do nothing",
        "insert into user_guild_settings (user_id, guild_id, settings) values ($1, $4, '{}')",
        "insert into user_note (user_id, about_id, note) values ($1, $2, 'x'), ($2, $1, 'x')",
        "insert into read_state (user_id, channel_id) values ($1, $5) on conflict do nothing",
        "insert into user_mention (user_id, message_id, channel_id) values ($1, 1, $5)",
        "insert into temporary_member (guild_id, user_id, seen_at) values ($4, $1, now())",
        "insert into voice_state (guild_id, user_id, channel_id, session_id, alive_until)
         values ($4, $1, $5, 's', now() + interval '1 hour')",
        "insert into scheduled_event (event_id, guild_id, creator_id, name, starts_at, ends_at,
                                      entity_type, location)
         values (1, $4, $1, 'e', now() + interval '1 day', now() + interval '2 days', 3, 'here')",
        "insert into scheduled_event_user (event_id, user_id) values (1, $1)",
        "insert into group_invite (channel_id, code, inviter_id, max_age, expires_at)
         select channel_id, 'group', $1, 60, now() + interval '1 hour' from channel where owner_id = $1",
        "insert into reaction (channel_id, message_id, emoji, burst, user_id)
         values ($5, 1, 'x', false, $1)",
    ] {
        sqlx::query(statement)
            .bind(alice.id.to_db())
            .bind(bob.id.to_db())
            .bind(bot.id.to_db())
            .bind(guild.id.to_db())
            .bind(guild.general.to_db())
            .execute(&app.db)
            .await
            .unwrap_or_else(|error| panic!("{statement}: {error}"));
    }
    let before = places_of(&app, &columns, &alice).await;
    for erased in ERASED {
        // There is one while an account is erased; who has a second factor shows it first.
        let is_apart = ["account_job.user_id", "account_mfa.user_id"].contains(&erased);
        assert!(
            is_apart || before.iter().any(|place| place == erased),
            "nothing to erase from {erased}"
        );
    }

    app.post(&alice, "/users/@me/delete", json!({ "password": PASSWORD }))
        .await
        .expect(204);
    worked_off(&app).await;
    let after = places_of(&app, &columns, &alice).await;
    for place in &after {
        assert!(KEPT.contains(&place.as_str()), "still in {place}");
    }
    for kept in [
        "account.user_id",
        "message.author_id",
        "reaction.user_id",
        "scheduled_event.creator_id",
        "thread.owner_id",
    ] {
        assert!(after.iter().any(|place| place == kept), "not in {kept}");
    }
    let told = app.events(bob.id).await;
    let told = told.iter().find(|(name, _)| *name == "USER_NOTE_UPDATE");
    let (_, note) = told.unwrap();
    assert_eq!(note, &json!({ "id": alice.id, "note": "" }));
    let note = format!("/users/@me/notes/{}", alice.id);
    app.put(&bob, &note, json!({ "note": "gone" }))
        .await
        .expect_error(404, 10013);
}

#[sqlx::test(migrations = "../migrations")]
async fn an_operator_locks_and_unlocks_an_account(db: PgPool) {
    let app = TestApp::new(db).await;
    let alice = register(&app, "alice").await;
    let token = operator_token();
    let lock = |method: Method, user: Id<marker::User>, token: &str| {
        let url = format!("{}/internal/accounts/{user}/lock", app.origin);
        app.send(app.client.request(method, url).bearer_auth(token))
    };
    lock(Method::PUT, alice.id, &alice.authorization)
        .await
        .expect_error(401, 0);
    lock(Method::PUT, Id::new(1).unwrap(), &token)
        .await
        .expect_error(404, 10013);
    lock(Method::PUT, alice.id, &token).await.expect(204);
    app.get(&alice, "/users/@me").await.expect_error(401, 0);
    assert_eq!(app.event_names(alice.id).await, ["tokens revoked"]);
    let login = json!({ "login": "alice", "password": PASSWORD });
    let refused = app.post_anonymously("/auth/login", login).await;
    refused.expect_fault("login", "ACCOUNT_DISABLED");
    let wrong = json!({ "login": "alice", "password": "wrong horse" });
    app.post_anonymously("/auth/login", wrong)
        .await
        .expect_fault("login", "INVALID_LOGIN");
    lock(Method::DELETE, alice.id, &token).await.expect(204);
    lock(Method::DELETE, alice.id, &token)
        .await
        .expect_error(404, 10013);
    log_in(&app, "alice").await;
}

#[sqlx::test(migrations = "../migrations")]
async fn a_change_reaches_every_one_of_many_guilds(db: PgPool) {
    let app = TestApp::new(db).await;
    let (alice, owner) = (app.user("alice").await, app.user("owner").await);
    let hall = app.guild(&owner, "Hall").await;
    app.join(&alice, hall).await;
    let rule = json!({
        "name": "names", "event_type": 2, "trigger_type": 6, "enabled": true,
        "trigger_metadata": { "keyword_filter": ["alice"] }, "actions": [{ "type": 4 }],
    });
    let rules = format!("/guilds/{}/auto-moderation/rules", hall.id);
    app.post(&owner, &rules, rule).await.expect(200);
    // Ids of guilds that no other row has.
    sqlx::query(
        "with made as (
           insert into guild (guild_id, name, owner_id)
           select n, 'guild', $1 from generate_series(1000, 1249) n returning guild_id),
         heads as (insert into realm_head (realm_id, shard) select guild_id, 0 from made)
         insert into member (guild_id, user_id) select guild_id, $2 from made",
    )
    .bind(owner.id.to_db())
    .bind(alice.id.to_db())
    .execute(&app.db)
    .await
    .unwrap();
    app.patch(&alice, "/users/@me", json!({ "global_name": "Alice" }))
        .await
        .expect(200);
    worked_off(&app).await;
    let told: Vec<(i64, i64)> = sqlx::query_as(
        "select count(*), count(distinct realm_id) from realm_event
         where realm_id between 1000 and 1249
           and convert_from(body, 'UTF8')::jsonb -> 'user' ->> 'global_name' = 'Alice'",
    )
    .fetch_all(&app.db)
    .await
    .unwrap();
    assert_eq!(told, [(250, 250)]);
    let hers = format!("/guilds/{}/members/{}", hall.id, alice.id);
    let judged = app.get(&owner, &hers).await.expect(200);
    assert_eq!(judged["flags"], 1 << 7);
    assert_eq!(app.event_names(alice.id).await, ["USER_UPDATE"]);
}

#[sqlx::test(migrations = "../migrations")]
async fn profiles_are_shown_to_who_knows_somebody(db: PgPool) {
    let app = TestApp::new(db).await;
    let (alice, bob) = (app.user("alice").await, app.user("bob").await);
    let change = json!({ "bio": "hi", "pronouns": "she/her", "accent_color": 255 });
    let updated = app
        .patch(&alice, "/users/@me/profile", change)
        .await
        .expect(200);
    assert_eq!(
        (&updated["bio"], &updated["accent_color"]),
        (&json!("hi"), &json!(255))
    );
    assert_eq!(app.event_names(alice.id).await, ["USER_UPDATE"]);
    app.patch(
        &alice,
        "/users/@me/profile",
        json!({ "bio": "x".repeat(191) }),
    )
    .await
    .expect_fault("bio", "BASE_TYPE_MAX_LENGTH");

    let path = format!("/users/{}/profile", alice.id);
    app.get(&bob, &path).await.expect_error(403, 50001);
    app.get(&bob, "/users/1/profile")
        .await
        .expect_error(404, 10013);
    let guild = app.guild(&alice, "home").await;
    app.join(&bob, guild).await;
    let query = format!("{path}?with_mutual_friends=true&guild_id={}", guild.id);
    let profile = app.get(&bob, &query).await.expect(200);
    assert_eq!(profile["user"]["username"], "alice");
    assert_eq!(profile["user_profile"]["pronouns"], "she/her");
    assert_eq!(
        profile["mutual_guilds"],
        json!([{ "id": guild.id, "nick": null }])
    );
    assert_eq!(profile["mutual_friends"], json!([]));
    assert_eq!(profile["badges"], json!([]));
    assert_eq!(profile["guild_member"]["user"]["id"], json!(alice.id));
    assert!(profile["user"].get("email").is_none());
    let bot = app.bot(&bob, "Ping").await;
    app.get(&bot, &path).await.expect_error(403, 50001);
    let of_bot = app
        .get(&alice, &format!("/users/{}/profile", bot.id))
        .await
        .expect(200);
    assert_eq!(of_bot["application"]["id"], json!(bot.id));
}

#[sqlx::test(migrations = "../migrations")]
async fn a_new_address_is_to_be_verified_and_needs_both_factors(db: PgPool) {
    let app = TestApp::new(db).await;
    let alice = register(&app, "alice").await;
    sqlx::query("update account set verified = true where user_id = $1")
        .bind(alice.id.to_db())
        .execute(&app.db)
        .await
        .unwrap();
    let change = |email: &str| json!({ "email": email, "password": PASSWORD });
    let same = app
        .patch(&alice, "/users/@me", change("alice@example.org"))
        .await
        .expect(200);
    assert_eq!(same["verified"], true);
    let other = app
        .patch(&alice, "/users/@me", change("al@example.org"))
        .await
        .expect(200);
    assert_eq!(
        (&other["verified"], &other["email"]),
        (&json!(false), &json!("al@example.org"))
    );
    give_factor(&app, &alice).await;
    let alice: TestUser = TestUser { ..alice };
    let refused = loop {
        // What is remembered of her account is a second old at most.
        let reply = app
            .patch(&alice, "/users/@me", change("alice@example.org"))
            .await;
        if reply.status == 401 {
            break reply.expect_error(401, 60003);
        }
        let back = app
            .patch(&alice, "/users/@me", change("al@example.org"))
            .await;
        if back.status == 401 {
            break back.expect_error(401, 60003);
        }
    };
    assert!(refused["mfa"]["ticket"].is_string());
    assert_ne!(refused, Value::Null);
}

#[sqlx::test(migrations = "../migrations")]
async fn a_deleted_account_leaves_its_group_dms_to_the_others(db: PgPool) {
    let app = TestApp::new(db).await;
    let alice = register(&app, "alice").await;
    let (bob, carol) = (app.user("bob").await, app.user("carol").await);
    for friend in [&bob, &carol] {
        for (one, other) in [(&alice, friend), (friend, &alice)] {
            let path = format!("/users/@me/relationships/{}", other.id);
            app.put(one, &path, json!({})).await.expect(204);
        }
    }
    let body = json!({ "recipients": [bob.id, carol.id] });
    let group = app.post(&alice, "/users/@me/channels", body).await;
    let group = group.expect(200);
    app.post(&alice, "/users/@me/delete", json!({ "password": PASSWORD }))
        .await
        .expect(204);
    worked_off(&app).await;
    let path = format!("/channels/{}", group["id"].as_str().unwrap());
    let left = app.get(&carol, &path).await.expect(200);
    assert_eq!(left["owner_id"], json!(bob.id));
    assert_eq!(left["recipients"].as_array().unwrap().len(), 1);
    let names = app.event_names(carol.id).await;
    assert!(names.contains(&"CHANNEL_RECIPIENT_REMOVE"), "{names:?}");
}

#[sqlx::test(migrations = "../migrations")]
async fn a_change_reaches_a_guild_that_is_joined_meanwhile(db: PgPool) {
    let app = TestApp::new(db).await;
    let (alice, owner) = (app.user("alice").await, app.user("owner").await);
    let guild = app.guild(&owner, "home").await;
    let held = app.hold(alice.id).await;
    let change = app.patch(&alice, "/users/@me", json!({ "global_name": "Alice" }));
    let (reply, ()) = tokio::join!(change, async {
        app.until_somebody_waits().await;
        app.join(&alice, guild).await;
        held.commit().await.unwrap();
    });
    reply.expect(200);
    worked_off(&app).await;
    let events = app.events(guild.id).await;
    assert_eq!(events.len(), 1, "{events:?}");
    assert_eq!(events[0].0, "GUILD_MEMBER_UPDATE");
    assert_eq!(events[0].1["user"]["global_name"], "Alice");
}

#[sqlx::test(migrations = "../migrations")]
async fn a_guild_that_is_deleted_makes_nobody_known(db: PgPool) {
    let app = TestApp::new(db).await;
    let (alice, bob) = (app.user("alice").await, app.user("bob").await);
    // Members stay until they are collected.
    sqlx::query("insert into member (guild_id, user_id) values (5, $1), (5, $2)")
        .bind(alice.id.to_db())
        .bind(bob.id.to_db())
        .execute(&app.db)
        .await
        .unwrap();
    app.get(&bob, &format!("/users/{}/profile", alice.id))
        .await
        .expect_error(403, 50001);
    let closed = json!({
        "friend_source_flags": { "all": false, "mutual_friends": false, "mutual_guilds": true },
    });
    app.patch(&alice, "/users/@me/settings", closed)
        .await
        .expect(200);
    app.put(
        &bob,
        &format!("/users/@me/relationships/{}", alice.id),
        json!({}),
    )
    .await
    .expect_error(400, 80000);
}
