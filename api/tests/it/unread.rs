//! What is unread, as READY counts it (`guildhall_store::read_state`).

use guildhall_store::read_state;
use serde_json::{Value, json};
use sqlx::PgPool;

use crate::harness::{self, TestApp, TestGuild, TestUser};

/// Calls per channel, as the user's READY would have them before anything is hidden.
async fn unread(app: &TestApp, user: &TestUser) -> Vec<(u64, u32)> {
    let read = read_state::of_user(&app.db, user.id).await.unwrap();
    let states = read.states.into_iter();
    states
        .map(|state| (state.channel.get(), state.mentions))
        .collect()
}

async fn say(app: &TestApp, user: &TestUser, channel: &str, content: String) -> String {
    let path = format!("/channels/{channel}/messages");
    let sent = app.post(user, &path, json!({ "content": content })).await;
    sent.expect(200)["id"].as_str().unwrap().to_owned()
}

async fn ack(app: &TestApp, user: &TestUser, channel: &str, message: &str, body: Value) {
    let path = format!("/channels/{channel}/messages/{message}/ack");
    app.post(user, &path, body).await.expect(200);
}

async fn hall(app: &TestApp) -> (TestUser, TestUser, TestGuild, String) {
    let (alice, bob, hall) = harness::hall(app).await;
    let general = hall.general.to_string();
    (alice, bob, hall, general)
}

#[sqlx::test(migrations = "../migrations")]
async fn names_replies_roles_and_everyone_call_until_they_are_read(db: PgPool) {
    let app = TestApp::new(db).await;
    let (alice, bob, hall, general) = hall(&app).await;
    let at = hall.general.get();
    let role = format!("/guilds/{}/roles", hall.id);
    let role = app.post(&alice, &role, json!({ "name": "crew" })).await;
    let role = role.expect(200)["id"].as_str().unwrap().to_owned();
    assert_eq!(unread(&app, &bob).await, []);

    let by_bob = say(&app, &bob, &general, "hello".to_owned()).await;
    say(&app, &alice, &general, format!("<@{}>", bob.id)).await;
    say(&app, &alice, &general, "@everyone".to_owned()).await;
    // Both at once, once.
    say(&app, &alice, &general, format!("@everyone <@{}>", bob.id)).await;
    let reply = json!({ "content": "yes", "message_reference": { "message_id": by_bob } });
    let path = format!("/channels/{general}/messages");
    app.post(&alice, &path, reply).await.expect(200);
    // Not bob's yet.
    let called = say(&app, &alice, &general, format!("<@&{role}>")).await;
    say(&app, &bob, &general, format!("I, <@{}>", bob.id)).await;
    assert_eq!(unread(&app, &bob).await, [(at, 4)]);
    assert_eq!(unread(&app, &alice).await, []);
    let member = format!("/guilds/{}/members/{}/roles/{role}", hall.id, bob.id);
    app.put(&alice, &member, Value::Null).await.expect(204);
    assert_eq!(unread(&app, &bob).await, [(at, 5)]);

    // What is deleted calls nobody, a settings' switch turns roles off.
    app.delete(&alice, &format!("{path}/{called}"))
        .await
        .expect(204);
    assert_eq!(unread(&app, &bob).await, [(at, 4)]);
    let settings = format!("/users/@me/guilds/{}/settings", hall.id);
    let quiet = json!({ "suppress_everyone": true });
    app.patch(&bob, &settings, quiet).await.expect(200);
    assert_eq!(unread(&app, &bob).await, [(at, 3)]);

    let last = say(&app, &alice, &general, "and more".to_owned()).await;
    ack(&app, &bob, &general, &last, json!({})).await;
    assert_eq!(unread(&app, &bob).await, [(at, 0)]);
    let after = say(&app, &alice, &general, format!("<@{}>", bob.id)).await;
    assert_eq!(unread(&app, &bob).await, [(at, 1)]);

    // Taken off the list of mentions it still is unread.
    app.delete(&bob, &format!("/users/@me/mentions/{after}"))
        .await
        .expect(204);
    assert_eq!(unread(&app, &bob).await, [(at, 1)]);
}

#[sqlx::test(migrations = "../migrations")]
async fn marking_as_unread_counts_from_there_or_takes_the_count_given(db: PgPool) {
    let app = TestApp::new(db).await;
    let (alice, bob, hall, general) = hall(&app).await;
    let at = hall.general.get();
    let first = say(&app, &alice, &general, "first".to_owned()).await;
    let mut last = String::new();
    for _ in 0..2 {
        last = say(&app, &alice, &general, format!("<@{}>", bob.id)).await;
    }
    ack(&app, &bob, &general, &last, json!({})).await;
    ack(&app, &bob, &general, &first, json!({ "manual": true })).await;
    assert_eq!(unread(&app, &bob).await, [(at, 2)]);
    let given = json!({ "manual": true, "mention_count": 1 });
    ack(&app, &bob, &general, &first, given).await;
    assert_eq!(unread(&app, &bob).await, [(at, 1)]);
    let last = say(&app, &alice, &general, format!("<@{}>", bob.id)).await;
    assert_eq!(unread(&app, &bob).await, [(at, 2)]);
    ack(&app, &bob, &general, &last, json!({})).await;
    assert_eq!(unread(&app, &bob).await, [(at, 0)]);
}

#[sqlx::test(migrations = "../migrations")]
async fn the_blocked_and_those_before_one_joined_call_nobody(db: PgPool) {
    let app = TestApp::new(db).await;
    let (alice, bob, hall, general) = hall(&app).await;
    let carol = app.user("carol").await;
    say(&app, &alice, &general, "@everyone".to_owned()).await;
    app.join(&carol, hall).await;
    assert_eq!(unread(&app, &carol).await, []);
    say(&app, &alice, &general, "@everyone".to_owned()).await;
    assert_eq!(unread(&app, &carol).await, [(hall.general.get(), 1)]);
    let relationship = format!("/users/@me/relationships/{}", alice.id);
    app.put(&carol, &relationship, json!({ "type": 2 }))
        .await
        .expect(204);
    assert_eq!(unread(&app, &carol).await, []);
    assert_eq!(unread(&app, &bob).await, [(hall.general.get(), 2)]);
}

#[sqlx::test(migrations = "../migrations")]
async fn every_message_of_a_private_channel_calls_until_it_is_answered(db: PgPool) {
    let app = TestApp::new(db).await;
    let (alice, bob, _, _) = hall(&app).await;
    let body = json!({ "recipient_id": bob.id });
    let dm = app
        .post(&alice, "/users/@me/channels", body)
        .await
        .expect(200);
    let dm = dm["id"].as_str().unwrap();
    let at: u64 = dm.parse().unwrap();
    for _ in 0..3 {
        say(&app, &alice, dm, "hey".to_owned()).await;
    }
    assert_eq!(unread(&app, &bob).await, [(at, 3)]);
    say(&app, &bob, dm, "what?".to_owned()).await;
    assert_eq!(unread(&app, &bob).await, []);
    let last = say(&app, &alice, dm, "nothing".to_owned()).await;
    assert_eq!(unread(&app, &bob).await, [(at, 1)]);
    ack(&app, &bob, dm, &last, json!({})).await;
    assert_eq!(unread(&app, &bob).await, [(at, 0)]);
}

#[sqlx::test(migrations = "../migrations")]
async fn threads_count_for_those_in_them_while_they_are_active(db: PgPool) {
    let app = TestApp::new(db).await;
    let (alice, bob, _, general) = hall(&app).await;
    let path = format!("/channels/{general}/threads");
    let body = json!({ "name": "aside", "type": 11 });
    let thread = app.post(&alice, &path, body).await.expect(201);
    let thread = thread["id"].as_str().unwrap();
    let at: u64 = thread.parse().unwrap();
    say(&app, &alice, thread, "@everyone".to_owned()).await;
    assert_eq!(unread(&app, &bob).await, []);
    let join = format!("/channels/{thread}/thread-members/@me");
    app.put(&bob, &join, Value::Null).await.expect(204);
    let read = read_state::of_user(&app.db, bob.id).await.unwrap();
    assert_eq!(read.states.len(), 1);
    assert_eq!(
        (read.states[0].channel.get(), read.states[0].mentions),
        (at, 1)
    );
    assert_eq!(read.states[0].place.unwrap().seen_by.to_string(), general);
    let archived = json!({ "archived": true });
    app.patch(&alice, &format!("/channels/{thread}"), archived)
        .await
        .expect(200);
    assert_eq!(unread(&app, &bob).await, []);
}

#[sqlx::test(migrations = "../migrations")]
async fn old_mentions_leave_the_list_and_stay_counted(db: PgPool) {
    let app = TestApp::new(db).await;
    let (alice, bob, hall, general) = hall(&app).await;
    let (mut ids, at) = (Vec::new(), hall.general.get());
    for _ in 0..3 {
        ids.push(say(&app, &alice, &general, format!("<@{}>", bob.id)).await);
    }
    // As if all of it had been long ago.
    for id in &ids[..2] {
        let id: i64 = id.parse().unwrap();
        for statement in [
            "update message set message_id = message_id - (40::bigint * 86400000 << 22)
             where message_id = $1",
            "update user_mention set message_id = message_id - (40::bigint * 86400000 << 22)
             where message_id = $1",
        ] {
            let done = sqlx::query(statement).bind(id).execute(&app.db);
            done.await.unwrap();
        }
    }
    sqlx::query("update member set joined_at = joined_at - interval '60 days'")
        .execute(&app.db)
        .await
        .unwrap();
    assert_eq!(unread(&app, &bob).await, [(at, 3)]);
    for _ in 0..2 {
        app.app.forget_mentions().await.unwrap();
        assert_eq!(unread(&app, &bob).await, [(at, 3)]);
    }
    let left: i64 = sqlx::query_scalar("select count(*) from user_mention")
        .fetch_one(&app.db)
        .await
        .unwrap();
    assert_eq!(left, 1);
    ack(&app, &bob, &general, &ids[2], json!({})).await;
    assert_eq!(unread(&app, &bob).await, [(at, 0)]);
}

#[sqlx::test(migrations = "../migrations")]
async fn a_deleted_channel_or_a_left_guild_is_not_unread(db: PgPool) {
    let app = TestApp::new(db).await;
    let (alice, bob, hall, general) = hall(&app).await;
    let first = say(&app, &alice, &general, format!("<@{}>", bob.id)).await;
    ack(&app, &bob, &general, &first, json!({})).await;
    let path = format!("/guilds/{}/channels", hall.id);
    let other = app.post(&alice, &path, json!({ "name": "other" })).await;
    let other = other.expect(201)["id"].as_str().unwrap().to_owned();
    let there = say(&app, &alice, &other, format!("<@{}>", bob.id)).await;
    ack(&app, &bob, &other, &there, json!({})).await;
    assert_eq!(unread(&app, &bob).await.len(), 2);
    app.delete(&alice, &format!("/channels/{other}"))
        .await
        .expect(200);
    assert_eq!(unread(&app, &bob).await, [(hall.general.get(), 0)]);
    let read = read_state::of_user(&app.db, bob.id).await.unwrap();
    assert!(read.guilds.contains_key(&hall.id));
    app.delete(&bob, &format!("/users/@me/guilds/{}", hall.id))
        .await
        .expect(204);
    assert_eq!(
        read_state::of_user(&app.db, bob.id).await.unwrap(),
        Default::default()
    );
}
