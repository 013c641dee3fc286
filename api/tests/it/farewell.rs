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
