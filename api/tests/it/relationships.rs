//! Friends, requests and blocks, seen from both sides.

use guildhall_shared::Id;
use serde_json::{Value, json};
use sqlx::PgPool;

use crate::harness::{TestApp, TestUser};

const TOP: &str = "/users/@me/relationships";

fn to(user: &TestUser) -> String {
    format!("{TOP}/{}", user.id)
}

/// Types by id.
async fn kinds(app: &TestApp, user: &TestUser) -> Vec<(String, u64)> {
    let list = app.get(user, TOP).await.expect(200);
    let list = list.as_array().unwrap().iter();
    list.map(|one| {
        assert_eq!(one["id"], one["user"]["id"]);
        assert_eq!(one["user_ignored"], false);
        assert!(one["since"].is_string());
        (
            one["id"].as_str().unwrap().to_owned(),
            one["type"].as_u64().unwrap(),
        )
    })
    .collect()
}

/// Names, and the types in the bodies.
async fn told(app: &TestApp, user: &TestUser) -> Vec<(&'static str, Value)> {
    let events = app.events(user.id).await;
    events
        .into_iter()
        .map(|(name, body)| (name, body["type"].clone()))
        .collect()
}

async fn befriend(app: &TestApp, one: &TestUser, other: &TestUser) {
    app.put(one, &to(other), json!({})).await.expect(204);
    app.put(other, &to(one), json!({})).await.expect(204);
}

#[sqlx::test(migrations = "../migrations")]
async fn a_request_by_name_is_accepted_and_ended(db: PgPool) {
    let app = TestApp::new(db).await;
    let (alice, bob) = (app.user("alice").await, app.user("bob").await);
    let ask = json!({ "username": "BOB", "discriminator": "0" });
    app.post(&alice, TOP, ask.clone()).await.expect(204);
    assert_eq!(kinds(&app, &alice).await, [(bob.id.to_string(), 4)]);
    assert_eq!(kinds(&app, &bob).await, [(alice.id.to_string(), 3)]);
    // Asking again changes nothing and tells nobody.
    app.post(&alice, TOP, ask.clone()).await.expect(204);
    assert_eq!(told(&app, &alice).await, [("RELATIONSHIP_ADD", json!(4))]);
    assert_eq!(app.events(bob.id).await[0].1["should_notify"], true);
    assert_eq!(app.events(bob.id).await[0].1["user"]["username"], "alice");

    app.post(&bob, TOP, json!({ "username": "alice" }))
        .await
        .expect(204);
    assert_eq!(kinds(&app, &alice).await, [(bob.id.to_string(), 1)]);
    assert_eq!(kinds(&app, &bob).await, [(alice.id.to_string(), 1)]);
    app.post(&alice, TOP, ask).await.expect_error(400, 80007);

    app.delete(&bob, &to(&alice)).await.expect(204);
    assert!(kinds(&app, &alice).await.is_empty() && kinds(&app, &bob).await.is_empty());
    app.delete(&bob, &to(&alice)).await.expect_error(404, 10013);
    for (user, first) in [(&alice, 4), (&bob, 3)] {
        assert_eq!(
            told(&app, user).await,
            [
                ("RELATIONSHIP_ADD", json!(first)),
                ("RELATIONSHIP_ADD", json!(1)),
                ("RELATIONSHIP_REMOVE", json!(1)),
            ]
        );
    }
}

#[sqlx::test(migrations = "../migrations")]
async fn a_block_ends_a_friendship_and_is_not_told_to_the_other(db: PgPool) {
    let app = TestApp::new(db).await;
    let (alice, bob) = (app.user("alice").await, app.user("bob").await);
    befriend(&app, &alice, &bob).await;
    app.put(&alice, &to(&bob), json!({ "type": 2 }))
        .await
        .expect(204);
    assert_eq!(kinds(&app, &alice).await, [(bob.id.to_string(), 2)]);
    assert!(kinds(&app, &bob).await.is_empty());
    assert_eq!(told(&app, &bob).await[2], ("RELATIONSHIP_REMOVE", json!(1)));
    assert_eq!(told(&app, &alice).await[2], ("RELATIONSHIP_ADD", json!(2)));

    app.put(&bob, &to(&alice), json!({}))
        .await
        .expect_error(400, 80001);
    // Both may block each other; lifting one block leaves the other.
    app.put(&bob, &to(&alice), json!({ "type": 2 }))
        .await
        .expect(204);
    app.delete(&alice, &to(&bob)).await.expect(204);
    assert!(kinds(&app, &alice).await.is_empty());
    assert_eq!(kinds(&app, &bob).await, [(alice.id.to_string(), 2)]);
    assert_eq!(told(&app, &bob).await.len(), 4);
    app.put(&alice, &to(&bob), json!({}))
        .await
        .expect_error(400, 80001);
    // Asking somebody lifts one's own block.
    app.put(&bob, &to(&alice), json!({ "type": 1 }))
        .await
        .expect(204);
    assert_eq!(kinds(&app, &bob).await, [(alice.id.to_string(), 4)]);
}

#[sqlx::test(migrations = "../migrations")]
async fn who_cannot_be_a_friend(db: PgPool) {
    let app = TestApp::new(db).await;
    let (alice, bob) = (app.user("alice").await, app.user("bob").await);
    let bot = app.bot(&bob, "Ping").await;
    for nobody in [
        json!({ "username": "nobody" }),
        json!({ "username": "no\u{0}body" }),
        json!({ "username": "bob", "discriminator": "1\u{0}7" }),
    ] {
        app.post(&alice, TOP, nobody).await.expect_error(400, 80004);
    }
    app.post(&alice, TOP, json!({ "username": "alice" }))
        .await
        .expect_error(400, 80003);
    app.post(&alice, TOP, json!({ "username": "Ping" }))
        .await
        .expect_error(400, 80002);
    app.post(
        &alice,
        TOP,
        json!({ "username": "bob", "discriminator": 17 }),
    )
    .await
    .expect_error(400, 80004);
    app.post(&alice, TOP, json!({}))
        .await
        .expect_fault("username", "BASE_TYPE_REQUIRED");
    app.put(
        &alice,
        &format!("{TOP}/{}", Id::<()>::new(1).unwrap()),
        json!({}),
    )
    .await
    .expect_error(404, 10013);
    app.put(&alice, &to(&bob), json!({ "type": 5 }))
        .await
        .expect_fault("type", "BASE_TYPE_CHOICES");
    app.get(&bot, TOP).await.expect_error(403, 20001);
    app.put(&bot, &to(&bob), json!({}))
        .await
        .expect_error(403, 20001);
    assert!(kinds(&app, &alice).await.is_empty());

    let closed = json!({
        "friend_source_flags": { "all": false, "mutual_friends": false, "mutual_guilds": true },
    });
    app.patch(&bob, "/users/@me/settings", closed)
        .await
        .expect(200);
    app.put(&alice, &to(&bob), json!({}))
        .await
        .expect_error(400, 80000);
    let guild = app.guild(&bob, "home").await;
    app.join(&alice, guild).await;
    app.put(&alice, &to(&bob), json!({})).await.expect(204);
}

#[sqlx::test(migrations = "../migrations")]
async fn a_friend_has_a_nickname_for_one_side(db: PgPool) {
    let app = TestApp::new(db).await;
    let (alice, bob) = (app.user("alice").await, app.user("bob").await);
    app.patch(&alice, &to(&bob), json!({ "nickname": "Bobby" }))
        .await
        .expect_error(400, 80006);
    befriend(&app, &alice, &bob).await;
    app.patch(&alice, &to(&bob), json!({ "nickname": " Bobby " }))
        .await
        .expect(204);
    let list = app.get(&alice, TOP).await.expect(200);
    assert_eq!(list[0]["nickname"], "Bobby");
    assert_eq!(
        app.get(&bob, TOP).await.expect(200)[0]["nickname"],
        Value::Null
    );
    let (name, body) = app.events(alice.id).await.pop().unwrap();
    assert_eq!(
        (name, &body["nickname"]),
        ("RELATIONSHIP_UPDATE", &json!("Bobby"))
    );
    app.patch(&alice, &to(&bob), json!({ "nickname": "x".repeat(33) }))
        .await
        .expect_fault("nickname", "BASE_TYPE_MAX_LENGTH");
    app.patch(&alice, &to(&bob), json!({ "nickname": null }))
        .await
        .expect(204);
    assert_eq!(
        app.get(&alice, TOP).await.expect(200)[0]["nickname"],
        Value::Null
    );
}

#[sqlx::test(migrations = "../migrations")]
async fn friends_in_common_are_listed(db: PgPool) {
    let app = TestApp::new(db).await;
    let (alice, bob) = (app.user("alice").await, app.user("bob").await);
    let (carol, dave) = (app.user("carol").await, app.user("dave").await);
    befriend(&app, &alice, &carol).await;
    befriend(&app, &bob, &carol).await;
    befriend(&app, &bob, &dave).await;
    let path = format!("/users/{}/relationships", bob.id);
    let common = app.get(&alice, &path).await.expect(200);
    assert_eq!(common.as_array().unwrap().len(), 1);
    assert_eq!(common[0]["username"], "carol");
    app.get(&alice, "/users/1/relationships")
        .await
        .expect_error(404, 10013);
}

#[sqlx::test(migrations = "../migrations")]
async fn two_requests_that_cross_make_friends(db: PgPool) {
    let app = TestApp::new(db).await;
    let (alice, bob) = (app.user("alice").await, app.user("bob").await);
    let (from_alice, from_bob) = (to(&bob), to(&alice));
    let (one, two) = tokio::join!(
        app.put(&alice, &from_alice, json!({})),
        app.put(&bob, &from_bob, json!({}))
    );
    one.expect(204);
    two.expect(204);
    assert_eq!(kinds(&app, &alice).await, [(bob.id.to_string(), 1)]);
    assert_eq!(kinds(&app, &bob).await, [(alice.id.to_string(), 1)]);
}

#[sqlx::test(migrations = "../migrations")]
async fn who_asked_for_their_last_friend_gets_them(db: PgPool) {
    let app = TestApp::new(db).await;
    let (alice, bob) = (app.user("alice").await, app.user("bob").await);
    sqlx::query(
        "with people as (
           insert into account (user_id, username)
           select n, 'friend' || n from generate_series(1000, 1998) n returning user_id)
         insert into relationship (user_id, other_id, kind) select $1, user_id, 1 from people",
    )
    .bind(bob.id.to_db())
    .execute(&app.db)
    .await
    .unwrap();
    app.put(&bob, &to(&alice), json!({})).await.expect(204);
    app.put(&alice, &to(&bob), json!({})).await.expect(204);
    assert_eq!(kinds(&app, &alice).await, [(bob.id.to_string(), 1)]);
    let carol = app.user("carol").await;
    app.put(&bob, &to(&carol), json!({}))
        .await
        .expect_error(400, 30002);
}
