use guildhall_shared::{
    Permissions,
    envelope::{Scope, Visibility},
    gateway::{EventKind, Intents},
    id::marker::Message,
};
use serde_json::{Value, json};
use sqlx::PgPool;

use crate::{
    conformance::conforms,
    harness::{TestApp, TestGuild, TestUser, hall},
    log,
};

fn ban_path(hall: TestGuild, user: &TestUser) -> String {
    format!("/guilds/{}/bans/{}", hall.id, user.id)
}

/// Until nothing is left to be deleted of what banned people wrote.
async fn purged(app: &TestApp) {
    app.until("select not exists (select from ban_purge)").await;
}

#[sqlx::test(migrations = "../migrations")]
async fn a_ban_removes_the_member_and_their_messages_and_keeps_them_out(db: PgPool) {
    let app = TestApp::new(db).await;
    let (alice, bob, hall) = hall(&app).await;
    let messages = format!("/channels/{}/messages", hall.general);
    let mut sent = Vec::new();
    for user in [&bob, &bob, &alice] {
        let message = app.post(user, &messages, json!({ "content": "hi" })).await;
        sent.push(message.expect(200)["id"].clone());
    }
    let invite = app
        .post(
            &alice,
            &format!("/channels/{}/invites", hall.general),
            json!({}),
        )
        .await
        .expect(200);

    let path = ban_path(hall, &bob);
    app.get(&alice, &path).await.expect_error(404, 10026);
    let request = app
        .request_by(&alice, reqwest::Method::PUT, &path)
        .header("x-audit-log-reason", "noise")
        .json(&json!({ "delete_message_seconds": 3600 }));
    app.send(request).await.expect(204);
    purged(&app).await;

    let events = app.events(hall.id).await;
    let names: Vec<&str> = events.iter().map(|(name, _)| *name).collect();
    assert_eq!(
        names[4..],
        [
            "GUILD_BAN_ADD",
            "GUILD_MEMBER_REMOVE",
            "MESSAGE_DELETE_BULK"
        ]
    );
    assert_eq!(events[4].1["user"]["id"], json!(bob.id));
    assert_eq!(events[6].1["ids"], json!([sent[0], sent[1]]));
    let envelopes = log::envelopes(&app.db, hall.id).await;
    let scope = Scope::Permissions {
        any_of: Permissions::BAN_MEMBERS | Permissions::VIEW_AUDIT_LOG,
        channel: None,
    };
    assert_eq!(
        envelopes[4].vis,
        Visibility::of(scope, Intents::GUILD_MODERATION)
    );
    assert_eq!(
        envelopes[6].vis,
        Visibility::channel(hall.general, Intents::GUILD_MESSAGES)
    );
    assert_eq!(app.event_names(bob.id).await, ["user left guild"]);
    let entry = app.audit(hall.id).await.pop().unwrap();
    assert_eq!(entry["action_type"], 22);
    assert_eq!(entry["target_id"], json!(bob.id));
    assert_eq!(entry["reason"], "noise");

    let left = app.get(&alice, &messages).await.expect(200);
    assert_eq!(left.as_array().unwrap().len(), 1);
    let ban = app.get(&alice, &path).await.expect(200);
    conforms("get_guild_ban", 200, &ban);
    assert_eq!(ban["reason"], "noise");
    // Once more: nothing happens.
    app.put(&alice, &path, json!({})).await.expect(204);
    assert_eq!(app.events(hall.id).await.len(), 7);

    let code = invite["code"].as_str().unwrap();
    app.post(&bob, &format!("/invites/{code}"), json!({}))
        .await
        .expect_error(403, 40007);
    app.delete(&alice, &path).await.expect(204);
    assert_eq!(
        app.events(hall.id).await.pop().unwrap().0,
        "GUILD_BAN_REMOVE"
    );
    app.delete(&alice, &path).await.expect_error(404, 10026);
    app.post(&bob, &format!("/invites/{code}"), json!({}))
        .await
        .expect(200);
}

#[sqlx::test(migrations = "../migrations")]
async fn a_ban_leaves_what_a_thread_began_with(db: PgPool) {
    let app = TestApp::new(db).await;
    let (alice, bob, hall) = hall(&app).await;
    let messages = format!("/channels/{}/messages", hall.general);
    let begun = app
        .post(&alice, &messages, json!({ "content": "look" }))
        .await;
    let begun = begun.expect(200)["id"].as_str().unwrap().to_owned();
    let path = format!("{messages}/{begun}/threads");
    let thread = app.post(&bob, &path, json!({ "name": "Look" })).await;
    let thread = thread.expect(201)["id"].as_str().unwrap().to_owned();
    let inside = format!("/channels/{thread}/messages");
    let mut sent = Vec::new();
    for user in [&alice, &bob] {
        let message = app.post(user, &inside, json!({ "content": "hi" })).await;
        sent.push(message.expect(200)["id"].clone());
    }
    let request = app
        .request_by(&alice, reqwest::Method::PUT, &ban_path(hall, &bob))
        .json(&json!({ "delete_message_seconds": 3600 }));
    app.send(request).await.expect(204);
    purged(&app).await;

    let (name, told) = app.events(hall.id).await.pop().unwrap();
    assert_eq!(name, "MESSAGE_DELETE_BULK");
    assert_eq!(told["channel_id"], thread);
    assert_eq!(told["ids"], json!([sent[1]]));
    let left = app.get(&alice, &inside).await.expect(200);
    let kind = |message: &Value| message["type"].clone();
    let kinds: Vec<Value> = left.as_array().unwrap().iter().map(kind).collect();
    assert_eq!(kinds, [0, 21]);
    let thread = app.get(&alice, &format!("/channels/{thread}")).await;
    assert_eq!(thread.expect(200)["message_count"], 1);
}

#[sqlx::test(migrations = "../migrations")]
async fn what_to_delete_may_stand_in_the_query(db: PgPool) {
    let app = TestApp::new(db).await;
    let (alice, bob, hall) = hall(&app).await;
    let messages = format!("/channels/{}/messages", hall.general);
    let message = app.post(&bob, &messages, json!({ "content": "hi" })).await;
    message.expect(200);
    // As serenity and discord.py write it: nothing in the body.
    let ban = async |query: &str| {
        let path = format!("{}?{query}", ban_path(hall, &bob));
        app.send(app.request_by(&alice, reqwest::Method::PUT, &path))
            .await
    };
    ban("delete_message_seconds=604801")
        .await
        .expect_fault("delete_message_seconds", "NUMBER_TYPE_MAX");
    ban("&delete_message_seconds=3600").await.expect(204);
    purged(&app).await;
    assert_eq!(app.get(&alice, &messages).await.expect(200), json!([]));
}

#[sqlx::test(migrations = "../migrations")]
async fn nobody_bans_upwards_or_what_they_may_not(db: PgPool) {
    let app = TestApp::new(db).await;
    let (alice, bob, hall) = hall(&app).await;
    let eve = app.user("eve").await;
    app.put(&bob, &ban_path(hall, &eve), json!({}))
        .await
        .expect_error(403, 50013);
    app.put(&eve, &ban_path(hall, &bob), json!({}))
        .await
        .expect_error(403, 50001);
    let bobs = app.grant(&bob, hall, Permissions::BAN_MEMBERS).await;
    for target in [&alice, &bob] {
        app.put(&bob, &ban_path(hall, target), json!({}))
            .await
            .expect_error(403, 50013);
    }
    app.join(&eve, hall).await;
    sqlx::query("update member set roles = array[$2::bigint] where user_id = $1")
        .bind(eve.id.to_db())
        .bind(bobs.to_db())
        .execute(&app.db)
        .await
        .unwrap();
    app.put(&bob, &ban_path(hall, &eve), json!({}))
        .await
        .expect_error(403, 50013);
    // Who is no member is below everybody.
    let carol = app.user("carol").await;
    app.put(
        &bob,
        &ban_path(hall, &carol),
        json!({ "delete_message_days": 1 }),
    )
    .await
    .expect(204);
    app.put(&bob, &format!("/guilds/{}/bans/5", hall.id), json!({}))
        .await
        .expect_error(404, 10013);
    app.put(
        &bob,
        &ban_path(hall, &carol),
        json!({ "delete_message_seconds": 604_801 }),
    )
    .await
    .expect_fault("delete_message_seconds", "NUMBER_TYPE_MAX");
    app.put(&alice, &format!("/guilds/{}/bans/x", hall.id), json!({}))
        .await
        .expect_fault("user_id", "NUMBER_TYPE_COERCE");
    app.put(&alice, &format!("/guilds/5/bans/{}", bob.id), json!({}))
        .await
        .expect_error(404, 10004);
}

#[sqlx::test(migrations = "../migrations")]
async fn bans_are_listed_by_user_and_found_by_name(db: PgPool) {
    let app = TestApp::new(db).await;
    let (alice, bob, hall) = hall(&app).await;
    let mut banned = Vec::new();
    for name in ["carl", "carol", "dave", "dora"] {
        let user = app.user(name).await;
        app.put(&alice, &ban_path(hall, &user), json!({}))
            .await
            .expect(204);
        banned.push(user.id.to_string());
    }
    let path = format!("/guilds/{}/bans", hall.id);
    let ids = async |query: String| -> Vec<String> {
        let list = app.get(&alice, &format!("{path}{query}")).await.expect(200);
        conforms("list_guild_bans", 200, &list);
        let id = |ban: &Value| ban["user"]["id"].as_str().unwrap().to_owned();
        list.as_array().unwrap().iter().map(id).collect()
    };
    assert_eq!(ids(String::new()).await, banned);
    assert_eq!(ids("?limit=2".to_owned()).await, banned[..2]);
    assert_eq!(
        ids(format!("?limit=2&after={}", banned[1])).await,
        banned[2..]
    );
    assert_eq!(
        ids(format!("?limit=2&before={}&after=1", banned[3])).await,
        banned[1..3]
    );
    assert_eq!(ids("/search?query=CAR".to_owned()).await, banned[..2]);
    assert_eq!(
        ids(format!("/search?user_ids={},{}", banned[0], banned[3])).await,
        [banned[0].clone(), banned[3].clone()]
    );
    app.get(&bob, &path).await.expect_error(403, 50013);
    app.get(&alice, &format!("{path}?limit=0"))
        .await
        .expect_fault("limit", "NUMBER_TYPE_MIN");
}

#[sqlx::test(migrations = "../migrations")]
async fn many_are_banned_at_once_as_far_as_possible(db: PgPool) {
    let app = TestApp::new(db).await;
    let (alice, bob, hall) = hall(&app).await;
    let eve = app.user("eve").await;
    let path = format!("/guilds/{}/bulk-ban", hall.id);
    let wanted =
        json!({ "user_ids": [bob.id, eve.id, alice.id, "5"], "delete_message_seconds": 5 });
    let done = app.post(&alice, &path, wanted).await.expect(200);
    conforms("bulk_ban_users_from_guild", 200, &done);
    assert_eq!(done["banned_users"], json!([bob.id, eve.id]));
    assert_eq!(done["failed_users"], json!(["5", alice.id]));
    app.post(&alice, &path, json!({ "user_ids": [bob.id] }))
        .await
        .expect_error(400, 500_000);
    let many: Vec<String> = (1..=201).map(|id| id.to_string()).collect();
    app.post(&alice, &path, json!({ "user_ids": many }))
        .await
        .expect_fault("user_ids", "BASE_TYPE_BAD_LENGTH");
    app.post(&alice, &path, json!({}))
        .await
        .expect_fault("user_ids", "BASE_TYPE_REQUIRED");
    app.join(&eve, hall).await;
    app.grant(&eve, hall, Permissions::BAN_MEMBERS).await;
    app.post(&eve, &path, json!({ "user_ids": [bob.id] }))
        .await
        .expect_error(403, 50013);
}

#[sqlx::test(migrations = "../migrations")]
async fn a_bulk_ban_that_breaks_off_deletes_what_the_banned_wrote(db: PgPool) {
    let app = TestApp::new(db).await;
    let (alice, bob, hall) = hall(&app).await;
    let eve = app.user("eve").await;
    let messages = format!("/channels/{}/messages", hall.general);
    let old = app.post(&bob, &messages, json!({ "content": "hi" })).await;
    let old = old.expect(200);
    // The database fails at the second one.
    app.refuse("insert", "ban", &format!("new.user_id = {}", eve.id))
        .await;
    let path = format!("/guilds/{}/bulk-ban", hall.id);
    let wanted = json!({ "user_ids": [bob.id, eve.id], "delete_message_seconds": 3600 });
    app.post(&alice, &path, wanted.clone())
        .await
        .expect_error(500, 0);
    purged(&app).await;
    assert_eq!(app.get(&alice, &messages).await.expect(200), json!([]));
    let (name, body) = app.events(hall.id).await.pop().unwrap();
    assert_eq!(
        (name, &body["ids"]),
        ("MESSAGE_DELETE_BULK", &json!([old["id"]]))
    );

    // Asked again: also what is still there of the one banned before.
    sqlx::query(
        "insert into message (message_id, channel_id, author_id, content)
         values ($1, $2, $3, 'late')",
    )
    .bind(app.id::<Message>().to_db())
    .bind(hall.general.to_db())
    .bind(bob.id.to_db())
    .execute(&app.db)
    .await
    .unwrap();
    sqlx::query("drop trigger fail on ban")
        .execute(&app.db)
        .await
        .unwrap();
    let done = app.post(&alice, &path, wanted).await.expect(200);
    assert_eq!(done["banned_users"], json!([eve.id]));
    assert_eq!(done["failed_users"], json!([bob.id]));
    purged(&app).await;
    assert_eq!(app.get(&alice, &messages).await.expect(200), json!([]));
}

#[sqlx::test(migrations = "../migrations")]
async fn a_purge_goes_on_where_another_one_ended(db: PgPool) {
    let app = TestApp::new(db).await;
    let (alice, bob, hall) = hall(&app).await;
    // More than one step looks at lie before his.
    let first = app.id::<Message>().to_db();
    for (user, from, to) in [(&alice, 0_i64, 2099_i64), (&bob, 2100, 2349)] {
        sqlx::query(
            "insert into message (channel_id, message_id, author_id, content)
             select $1, $2 + n, $3, 'noise' from generate_series($4::bigint, $5) n",
        )
        .bind(hall.general.to_db())
        .bind(first)
        .bind(user.id.to_db())
        .bind(from)
        .bind(to)
        .execute(&app.db)
        .await
        .unwrap();
    }
    // The database fails in his second hundred.
    let fails = format!(
        "create function fail() returns trigger language plpgsql as
           'begin raise exception ''no''; end';
         create trigger fail before delete on message for each row
           when (old.message_id = {}) execute function fail();",
        first + 2250
    );
    sqlx::raw_sql(sqlx::AssertSqlSafe(fails))
        .execute(&app.db)
        .await
        .unwrap();
    let request = app
        .request_by(&alice, reqwest::Method::PUT, &ban_path(hall, &bob))
        .json(&json!({ "delete_message_seconds": 3600 }));
    app.send(request).await.expect(204);
    let kind = EventKind::MessageDeleteBulk;
    app.until_told(hall.id, kind, 1).await;

    sqlx::raw_sql(
        "drop trigger fail on message;
         update ban_purge set at = now() - interval '1 minute';",
    )
    .execute(&app.db)
    .await
    .unwrap();
    app.app.resume_purges();
    purged(&app).await;
    let told = app.until_told(hall.id, kind, 3).await;
    let ids = |event: &Value| -> Vec<i64> {
        let ids = event["ids"].as_array().unwrap().iter();
        ids.map(|id| id.as_str().unwrap().parse().unwrap())
            .collect()
    };
    let ids: Vec<Vec<i64>> = told.iter().map(ids).collect();
    assert_eq!(ids.iter().map(Vec::len).collect::<Vec<_>>(), [100, 100, 50]);
    let his: Vec<i64> = (first + 2100..first + 2350).collect();
    assert_eq!(ids.concat(), his);
    let left: i64 = sqlx::query_scalar("select count(*) from message")
        .fetch_one(&app.db)
        .await
        .unwrap();
    assert_eq!(left, 2100);
}

#[sqlx::test(migrations = "../migrations")]
async fn a_purge_of_who_wrote_nothing_waits_for_nobody(db: PgPool) {
    let app = TestApp::new(db).await;
    let (alice, bob, hall) = hall(&app).await;
    let messages = format!("/channels/{}/messages", hall.general);
    let sent = app
        .post(&alice, &messages, json!({ "content": "hi" }))
        .await;
    sent.expect(200);
    let held = app.hold(hall.id).await;
    sqlx::query(
        "insert into ban_purge (guild_id, purge_id, user_ids, since_id, until_id, at)
         values ($1, 1, array[$2], 1, $3, now() - interval '1 minute')",
    )
    .bind(hall.id.to_db())
    .bind(bob.id.to_db())
    .bind(app.id::<Message>().to_db())
    .execute(&app.db)
    .await
    .unwrap();
    app.app.resume_purges();
    purged(&app).await;
    held.rollback().await.unwrap();
    assert_eq!(app.event_names(hall.id).await, ["MESSAGE_CREATE"]);
}
