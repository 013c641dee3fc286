//! Messages that are stored together: each once and numbered, whatever happens meanwhile.

use std::collections::HashSet;

use futures_util::future::join_all;
use serde_json::{Value, json};
use sqlx::PgPool;

use crate::{
    harness::{TestApp, hall},
    messages::{path, send},
};

#[sqlx::test(migrations = "../migrations")]
async fn a_revoked_token_stores_nothing_though_it_is_remembered(db: PgPool) {
    let app = TestApp::new(db).await;
    let (_, bob, hall) = hall(&app).await;
    send(&app, &bob, hall.general, "one").await;
    // As another API process does it: this one still remembers the token.
    sqlx::raw_sql("delete from auth_token; update realm_head set state_seq = state_seq + 1")
        .execute(&app.db)
        .await
        .unwrap();
    app.post(&bob, &path(hall.general), json!({ "content": "two" }))
        .await
        .expect_error(401, 0);
    assert_eq!(app.event_names(hall.id).await, ["MESSAGE_CREATE"]);
}

#[sqlx::test(migrations = "../migrations")]
async fn concurrent_messages_are_numbered_without_gap(db: PgPool) {
    let app = TestApp::new(db).await;
    let alice = app.user("alice").await;
    let halls = [
        app.guild(&alice, "One").await,
        app.guild(&alice, "Two").await,
    ];
    let mut channels = vec![halls[0].general, halls[1].general];
    for (hall, name) in [(halls[0], "a"), (halls[1], "b"), (halls[1], "c")] {
        let body = json!({ "name": name });
        let made = app
            .post(&alice, &format!("/guilds/{}/channels", hall.id), body)
            .await;
        channels.push(made.expect(201)["id"].as_str().unwrap().parse().unwrap());
    }
    let sends = (0..200).map(|n| {
        let (app, alice, channel) = (&app, &alice, channels[n % channels.len()]);
        async move { send(app, alice, channel, &n.to_string()).await["id"].clone() }
    });
    let sent: HashSet<Value> = join_all(sends).await.into_iter().collect();
    assert_eq!(sent.len(), 200);
    let mut seen = HashSet::new();
    for hall in halls {
        // `events` panics on a gap.
        for (name, body) in app.events(hall.id).await {
            if name == "MESSAGE_CREATE" {
                assert_eq!(body["guild_id"], hall.id.to_string());
                assert!(seen.insert(body["id"].clone()));
            }
        }
    }
    assert_eq!(seen, sent);
    let stored: i64 = sqlx::query_scalar("select count(*) from message")
        .fetch_one(&app.db)
        .await
        .unwrap();
    assert_eq!(stored, 200);
}

#[sqlx::test(migrations = "../migrations")]
async fn changes_between_messages_lose_none_of_either(db: PgPool) {
    let app = TestApp::new(db).await;
    let (alice, bob, hall) = hall(&app).await;
    let nicks = async {
        for n in 0..20 {
            let body = json!({ "nick": format!("n{n}") });
            let path = format!("/guilds/{}/members/@me", hall.id);
            app.patch(&alice, &path, body).await.expect(200);
        }
    };
    let sends = (0..60).map(|n| {
        let (app, bob) = (&app, &bob);
        async move {
            let body = json!({ "content": n.to_string() });
            app.post(bob, &path(hall.general), body).await
        }
    });
    let (replies, ()) = tokio::join!(join_all(sends), nicks);
    let stored = replies
        .into_iter()
        .filter(|reply| match reply.status.as_u16() {
            200 => true,
            // The guild changed at every attempt.
            503 => false,
            other => panic!("{other}"),
        });
    let stored = stored.count();
    let events = app.event_names(hall.id).await;
    let count = |wanted| events.iter().filter(|&&name| name == wanted).count();
    assert_eq!(count("MESSAGE_CREATE"), stored);
    assert_eq!(count("GUILD_MEMBER_UPDATE"), 20);
}

#[sqlx::test(migrations = "../migrations")]
async fn an_enforced_nonce_makes_one_message(db: PgPool) {
    let app = TestApp::new(db).await;
    let (alice, bob, hall) = hall(&app).await;
    let sends = (0..30).map(|_| {
        let (app, alice) = (&app, &alice);
        async move {
            let body = json!({ "content": "once", "nonce": "n", "enforce_nonce": true });
            let reply = app.post(alice, &path(hall.general), body).await.expect(200);
            assert_eq!(reply["nonce"], "n");
            reply["id"].clone()
        }
    });
    let ids: HashSet<Value> = join_all(sends).await.into_iter().collect();
    assert_eq!(ids.len(), 1);
    assert_eq!(app.event_names(hall.id).await, ["MESSAGE_CREATE"]);

    let body = || json!({ "content": "x", "nonce": "n", "enforce_nonce": true });
    let bobs = app
        .post(&bob, &path(hall.general), body())
        .await
        .expect(200);
    assert!(!ids.contains(&bobs["id"]));
    let loose = json!({ "content": "x", "nonce": "n" });
    app.post(&alice, &path(hall.general), loose)
        .await
        .expect(200);
    assert_eq!(app.event_names(hall.id).await.len(), 3);
}

#[sqlx::test(migrations = "../migrations")]
async fn broken_connections_lose_and_repeat_nothing(db: PgPool) {
    let app = TestApp::new(db).await;
    let (alice, _, hall) = hall(&app).await;
    // Like a client that retries by its nonce whatever is no answer.
    let sends = (0..60).map(|n| {
        let (app, alice) = (&app, &alice);
        async move {
            for _ in 0..100 {
                let body = json!({ "content": "x", "nonce": n, "enforce_nonce": true });
                let reply = app.post(alice, &path(hall.general), body).await;
                match reply.status.as_u16() {
                    200 => return reply.body["id"].clone(),
                    503 => tokio::time::sleep(std::time::Duration::from_millis(5)).await,
                    other => panic!("{other}: {:#}", reply.body),
                }
            }
            panic!("never stored");
        }
    });
    let breaking = async {
        for _ in 0..15 {
            // One's own connection is spared, so it ends with its work done.
            let _ = sqlx::query(
                "select pg_terminate_backend(pid) from pg_stat_activity
                 where datname = current_database() and pid <> pg_backend_pid()",
            )
            .execute(&app.db)
            .await;
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    };
    let (sent, ()) = tokio::join!(join_all(sends), breaking);
    let sent: HashSet<Value> = sent.into_iter().collect();
    assert_eq!(sent.len(), 60);
    let events = app.events(hall.id).await;
    let numbered: Vec<Value> = events.iter().map(|(_, body)| body["id"].clone()).collect();
    assert_eq!(numbered.len(), 60);
    assert_eq!(numbered.into_iter().collect::<HashSet<_>>(), sent);
    let stored: i64 = sqlx::query_scalar("select count(*) from message")
        .fetch_one(&app.db)
        .await
        .unwrap();
    assert_eq!(stored, 60);
}
