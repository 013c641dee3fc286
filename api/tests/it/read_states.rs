use guildhall_shared::{Permissions, envelope::Visibility, gateway::Intents};
use serde_json::{Value, json};
use sqlx::PgPool;

use crate::{
    harness::{self, TestApp, TestGuild, TestUser},
    log,
};

async fn hall(app: &TestApp) -> (TestUser, TestUser, TestGuild, Vec<String>) {
    let (alice, bob, hall) = harness::hall(app).await;
    let path = format!("/channels/{}/messages", hall.general);
    let mut sent = Vec::new();
    for content in ["one", "two"] {
        let message = app.post(&alice, &path, json!({ "content": content })).await;
        sent.push(message.expect(200)["id"].as_str().unwrap().to_owned());
    }
    (alice, bob, hall, sent)
}

#[sqlx::test(migrations = "../migrations")]
async fn acknowledgements_go_forward_and_to_ones_own_sessions_alone(db: PgPool) {
    let app = TestApp::new(db).await;
    let (_, bob, hall, sent) = hall(&app).await;
    let ack = |id: &str| format!("/channels/{}/messages/{id}/ack", hall.general);
    let answer = app
        .post(&bob, &ack(&sent[1]), json!({ "token": null }))
        .await;
    assert_eq!(answer.expect(200), json!({ "token": null }));
    app.post(&bob, &ack(&sent[0]), json!({})).await.expect(200);
    let manual = json!({ "manual": true, "mention_count": 3 });
    app.post(&bob, &ack(&sent[0]), manual).await.expect(200);
    let events = app.events(bob.id).await;
    assert_eq!(events.len(), 2);
    let (name, first) = &events[0];
    assert_eq!(
        (*name, &first["message_id"]),
        ("MESSAGE_ACK", &json!(sent[1]))
    );
    assert_eq!(events[1].1["message_id"], sent[0]);
    assert_eq!(events[1].1["mention_count"], 3);
    let vis = Visibility::realm(Intents::empty());
    assert_eq!(log::newest(&app, bob.id).await, ("MESSAGE_ACK", vis));
    assert_eq!(app.event_names(hall.id).await.len(), 2);

    app.post(&bob, &format!("/guilds/{}/ack", hall.id), Value::Null)
        .await
        .expect(204);
    assert_eq!(app.events(bob.id).await[2].1["message_id"], sent[1]);
    let pins = format!("/channels/{}/pins/ack", hall.general);
    app.post(&bob, &pins, Value::Null).await.expect(204);
    assert_eq!(log::newest(&app, bob.id).await.0, "CHANNEL_PINS_ACK");
    let forget = format!("/channels/{}/messages/ack", hall.general);
    app.delete(&bob, &forget).await.expect(204);
    let bulk = json!({ "read_states": [
        { "channel_id": hall.general, "message_id": sent[0], "read_state_type": 0 },
        { "channel_id": "5", "message_id": "6" },
    ] });
    app.post(&bob, "/read-states/ack-bulk", bulk)
        .await
        .expect(204);
    let (_, last) = app.events(bob.id).await.pop().unwrap();
    assert_eq!(last["message_id"], sent[0]);
}

#[sqlx::test(migrations = "../migrations")]
async fn what_cannot_be_seen_cannot_be_read(db: PgPool) {
    let app = TestApp::new(db).await;
    let (alice, bob, hall, sent) = hall(&app).await;
    let ack = format!("/channels/{}/messages/{}/ack", hall.general, sent[0]);
    let overwrite = format!("/channels/{}/permissions/{}", hall.general, hall.id);
    let deny = json!({ "type": 0, "deny": Permissions::VIEW_CHANNEL });
    app.put(&alice, &overwrite, deny).await.expect(204);
    app.post(&bob, &ack, json!({}))
        .await
        .expect_error(403, 50001);
    app.post(&bob, "/channels/5/messages/6/ack", json!({}))
        .await
        .expect_error(404, 10003);
    let many: Vec<Value> = (0..101)
        .map(|_| json!({ "channel_id": "1", "message_id": "1" }))
        .collect();
    app.post(
        &bob,
        "/read-states/ack-bulk",
        json!({ "read_states": many }),
    )
    .await
    .expect_fault("read_states", "BASE_TYPE_MAX_LENGTH");
    let bot = app.bot(&alice, "bot").await;
    app.join(&bot, hall).await;
    app.post(&bot, &ack, json!({}))
        .await
        .expect_error(403, 20001);
}

#[sqlx::test(migrations = "../migrations")]
async fn mentions_are_listed_until_they_are_taken_off(db: PgPool) {
    let app = TestApp::new(db).await;
    let (alice, bob, hall, _) = hall(&app).await;
    let path = format!("/channels/{}/messages", hall.general);
    let body = json!({ "content": format!("<@{}>", bob.id) });
    let sent = app.post(&alice, &path, body).await.expect(200);
    let mentions = app.get(&bob, "/users/@me/mentions").await.expect(200);
    assert_eq!(mentions.as_array().unwrap().len(), 1);
    assert_eq!(mentions[0]["id"], sent["id"]);
    let none = app.get(&alice, "/users/@me/mentions").await.expect(200);
    assert_eq!(none, json!([]));
    let one = format!("/users/@me/mentions/{}", sent["id"].as_str().unwrap());
    app.delete(&bob, &one).await.expect(204);
    app.delete(&bob, &one).await.expect(204);
    let (name, body) = app.events(bob.id).await.pop().unwrap();
    assert_eq!(
        (name, &body["message_id"]),
        ("RECENT_MENTION_DELETE", &sent["id"])
    );
    let none = app.get(&bob, "/users/@me/mentions").await.expect(200);
    assert_eq!(none, json!([]));
}

#[sqlx::test(migrations = "../migrations")]
async fn acknowledgements_of_one_person_do_not_wait_in_a_circle(db: PgPool) {
    let app = TestApp::new(db).await;
    let (_, bob, hall, sent) = hall(&app).await;
    let channel = format!("/channels/{}", hall.general);
    let entry = json!({ "channel_id": hall.general, "message_id": sent[0] });
    for (path, body) in [
        (format!("{channel}/messages/{}/ack", sent[0]), json!({})),
        (format!("{channel}/pins/ack"), json!({})),
        (format!("/guilds/{}/ack", hall.id), json!({})),
        (
            "/read-states/ack-bulk".to_owned(),
            json!({ "read_states": [entry] }),
        ),
    ] {
        let mut held = app.hold(bob.id).await;
        let request = app.post(&bob, &path, body);
        let (reply, ()) = tokio::join!(request, async {
            app.until_somebody_waits().await;
            // Another one, of the same channel, that came first.
            sqlx::query(
                "insert into read_state (user_id, channel_id) values ($1, $2)
                 on conflict (user_id, channel_id) do update set mention_count = 0",
            )
            .bind(bob.id.to_db())
            .bind(hall.general.to_db())
            .execute(&mut *held)
            .await
            .unwrap();
            held.commit().await.unwrap();
        });
        assert!(reply.status.is_success(), "{path}: {:#}", reply.body);
    }
}
