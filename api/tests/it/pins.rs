use guildhall_shared::{Permissions, envelope::Visibility, gateway::Intents};
use serde_json::{Value, json};
use sqlx::PgPool;

use crate::{
    conformance::conforms,
    harness::{TestApp, TestGuild, TestUser, hall},
    log,
};

async fn send(app: &TestApp, user: &TestUser, hall: TestGuild, content: &str) -> String {
    let path = format!("/channels/{}/messages", hall.general);
    let body = json!({ "content": content });
    let sent = app.post(user, &path, body).await.expect(200);
    sent["id"].as_str().unwrap().to_owned()
}

#[sqlx::test(migrations = "../migrations")]
async fn a_pin_is_stored_listed_and_told(db: PgPool) {
    let app = TestApp::new(db).await;
    let (alice, bob, hall) = hall(&app).await;
    let channel = format!("/channels/{}", hall.general);
    let first = send(&app, &bob, hall, "first").await;
    let second = send(&app, &bob, hall, "second").await;
    for (path, id) in [("pins", &first), ("messages/pins", &second)] {
        let path = format!("{channel}/{path}/{id}");
        app.put(&alice, &path, Value::Null).await.expect(204);
        app.put(&alice, &path, Value::Null).await.expect(204);
    }
    let pins = format!("{channel}/messages/pins");
    let page = app.get(&bob, &format!("{pins}?limit=1")).await.expect(200);
    conforms("list_pins", 200, &page);
    assert_eq!(page["has_more"], true);
    let newest = &page["items"][0];
    assert_eq!(newest["message"]["id"], *second);
    assert_eq!(newest["message"]["pinned"], true);
    let before = newest["pinned_at"].as_str().unwrap().replace('+', "%2B");
    let rest = app.get(&bob, &format!("{pins}?before={before}")).await;
    let rest = rest.expect(200);
    assert_eq!(rest["has_more"], false);
    assert_eq!(rest["items"][0]["message"]["id"], *first);
    assert_eq!(rest["items"].as_array().unwrap().len(), 1);
    let old = app.get(&bob, &format!("{channel}/pins")).await.expect(200);
    conforms("deprecated_list_pins", 200, &old);
    assert_eq!(old.as_array().unwrap().len(), 2);

    let events = app.events(hall.id).await;
    let names: Vec<_> = events.iter().map(|(name, _)| *name).collect();
    let of_pin = ["MESSAGE_UPDATE", "CHANNEL_PINS_UPDATE", "MESSAGE_CREATE"];
    assert_eq!(names[2..5], of_pin);
    assert_eq!(names[5..8], of_pin);
    let (updated, pins_update, notice) = (&events[5].1, &events[6].1, &events[7].1);
    assert_eq!(updated["pinned"], true);
    assert_eq!(updated["edited_timestamp"], Value::Null);
    assert_eq!(updated["member"]["roles"], json!([]));
    assert_eq!(pins_update["last_pin_timestamp"], newest["pinned_at"]);
    assert_eq!(notice["type"], 6);
    assert_eq!(notice["author"]["username"], "alice");
    assert_eq!(notice["message_reference"]["message_id"], *second);
    let envelopes = log::envelopes(&app.db, hall.id).await;
    let vis = Visibility::channel(hall.general, Intents::GUILDS);
    assert_eq!(envelopes[6].vis, vis);
    let entry = app.audit(hall.id).await.pop().unwrap();
    assert_eq!(
        (&entry["action_type"], &entry["target_id"]),
        (&json!(74), &json!(bob.id))
    );
    assert_eq!(entry["options"]["message_id"], *second);

    let read = app.get(&alice, &channel).await.expect(200);
    assert_eq!(read["last_pin_timestamp"], newest["pinned_at"]);
    let path = format!("{pins}/{second}");
    app.delete(&alice, &path).await.expect(204);
    app.delete(&alice, &path).await.expect(204);
    let read = app.get(&alice, &channel).await.expect(200);
    assert_eq!(read["last_pin_timestamp"], rest["items"][0]["pinned_at"]);
    let names = app.event_names(hall.id).await;
    assert_eq!(names[8..], ["MESSAGE_UPDATE", "CHANNEL_PINS_UPDATE"]);
    app.delete(&alice, &format!("{channel}/pins/{first}"))
        .await
        .expect(204);
    let none = app.get(&bob, &pins).await.expect(200);
    assert_eq!(none, json!({ "items": [], "has_more": false }));
}

#[sqlx::test(migrations = "../migrations")]
async fn pins_that_are_not_allowed_are_refused(db: PgPool) {
    let app = TestApp::new(db).await;
    let (alice, bob, hall) = hall(&app).await;
    let pins = format!("/channels/{}/messages/pins", hall.general);
    let first = send(&app, &bob, hall, "first").await;
    let path = format!("{pins}/{first}");
    app.put(&bob, &path, Value::Null)
        .await
        .expect_error(403, 50013);
    app.delete(&bob, &path).await.expect_error(403, 50013);
    app.put(&alice, &format!("{pins}/5"), Value::Null)
        .await
        .expect_error(404, 10008);
    app.get(&bob, &format!("{pins}?limit=51"))
        .await
        .expect_fault("limit", "NUMBER_TYPE_MAX");
    app.put(&alice, &path, Value::Null).await.expect(204);
    let list = format!("/channels/{}/messages", hall.general);
    let list = app.get(&alice, &list).await.expect(200);
    let notice = list[0]["id"].as_str().unwrap().to_owned();
    app.put(&alice, &format!("{pins}/{notice}"), Value::Null)
        .await
        .expect_error(403, 50021);

    sqlx::query(
        "insert into pin (channel_id, message_id) select $1, n from generate_series(1, 249) n",
    )
    .bind(hall.general.to_db())
    .execute(&app.db)
    .await
    .unwrap();
    let next = send(&app, &bob, hall, "next").await;
    app.put(&alice, &format!("{pins}/{next}"), Value::Null)
        .await
        .expect_error(400, 30003);

    let overwrite = format!("/channels/{}/permissions/{}", hall.general, hall.id);
    let deny = json!({ "type": 0, "deny": Permissions::READ_MESSAGE_HISTORY });
    app.put(&alice, &overwrite, deny).await.expect(204);
    let none = app.get(&bob, &pins).await.expect(200);
    assert_eq!(none["items"], json!([]));
    let deny = json!({ "type": 0, "deny": Permissions::VIEW_CHANNEL });
    app.put(&alice, &overwrite, deny).await.expect(204);
    app.get(&bob, &pins).await.expect_error(403, 50001);
}
