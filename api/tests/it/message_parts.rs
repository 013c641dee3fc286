//! Components, forwards, and what edits do to them.

use serde_json::{Value, json};
use sqlx::PgPool;

use crate::{
    conformance::conforms,
    harness::{TestApp, TestGuild, TestUser},
};

async fn hall(app: &TestApp) -> (TestUser, TestUser, TestGuild, String) {
    let alice = app.user("alice").await;
    let bot = app.bot(&alice, "bot").await;
    let hall = app.guild(&alice, "Hall").await;
    app.join(&bot, hall).await;
    let path = format!("/channels/{}/messages", hall.general);
    (alice, bot, hall, path)
}

fn rows() -> Value {
    json!([
        { "type": 1, "components": [
            { "type": 2, "style": 1, "label": "Go", "custom_id": "go" },
            { "type": 2, "style": 5, "label": "Web", "url": "https://example.org" },
        ] },
        { "type": 1, "components": [{ "type": 3, "custom_id": "pick", "options": [
            { "label": "One", "value": "1", "emoji": { "name": "👍" } }] }] },
        { "type": 1, "components": [{ "type": 5, "custom_id": "who", "max_values": 2,
            "default_values": [{ "type": "user", "id": "7" }] }] },
        { "type": 1, "components": [{ "type": 8, "custom_id": "where", "channel_types": [0] }] },
        { "type": 1, "components": [{ "type": 7, "custom_id": "any" }] },
    ])
}

fn page() -> Value {
    json!([{ "type": 17, "accent_color": 255, "components": [
        { "type": 10, "content": "Hello" },
        { "type": 9, "components": [{ "type": 10, "content": "text" }],
          "accessory": { "type": 11, "media": { "url": "https://example.org/a.png" } } },
        { "type": 14 },
        { "type": 12, "items": [{ "media": { "url": "https://example.org/b.png" } }] },
        { "type": 1, "components": [{ "type": 2, "style": 2, "label": "x", "custom_id": "x" }] },
    ] }])
}

#[sqlx::test(migrations = "../migrations")]
async fn components_are_kept_told_and_edited(db: PgPool) {
    let app = TestApp::new(db).await;
    let (_, bot, hall, path) = hall(&app).await;
    for body in [
        json!({ "components": rows() }),
        json!({ "components": page(), "flags": 1 << 15 }),
    ] {
        let sent = app.post(&bot, &path, body).await.expect(200);
        conforms("create_message", 200, &sent);
        let one = format!("{path}/{}", sent["id"].as_str().unwrap());
        let read = app.get(&bot, &one).await.expect(200);
        assert_eq!(read["components"], sent["components"]);
        let (_, told) = app.events(hall.id).await.pop().unwrap();
        assert_eq!(told["components"], sent["components"]);
    }
    let sent = app.post(&bot, &path, json!({ "content": "x" })).await;
    let one = format!("{path}/{}", sent.expect(200)["id"].as_str().unwrap());
    let edited = json!({ "content": null, "components": page(), "flags": 1 << 15 });
    let edited = app.patch(&bot, &one, edited).await.expect(200);
    conforms("update_message", 200, &edited);
    assert_eq!(edited["flags"], 1 << 15);
    assert!(edited["edited_timestamp"].is_string());
    // The flag stays.
    let edited = app.patch(&bot, &one, json!({ "flags": 0 })).await;
    assert_eq!(edited.expect(200)["flags"], 1 << 15);
    app.patch(&bot, &one, json!({ "content": "x" }))
        .await
        .expect_fault(
            "content",
            "MESSAGE_CANNOT_USE_LEGACY_FIELDS_WITH_COMPONENTS_V2",
        );
    app.patch(&bot, &one, json!({ "components": [] }))
        .await
        .expect_error(400, 50006);
}

#[sqlx::test(migrations = "../migrations")]
async fn wrong_components_are_refused_by_path(db: PgPool) {
    let app = TestApp::new(db).await;
    let (_, bot, _, path) = hall(&app).await;
    let button = json!({ "type": 2, "style": 1, "label": "x", "custom_id": "x" });
    for (components, flags, at, code) in [
        (
            json!([{ "type": 1, "components": [button, button] }]),
            0,
            "components.0.components.1.custom_id",
            "COMPONENT_CUSTOM_ID_DUPLICATED",
        ),
        (page(), 0, "components.0.type", "UNION_TYPE_CHOICES"),
        (
            json!([{ "type": 1, "components": vec![button; 6] }]),
            1 << 15,
            "components.0.components",
            "BASE_TYPE_BAD_LENGTH",
        ),
        (
            json!(vec![json!({ "type": 1, "components": [] }); 6]),
            0,
            "components",
            "BASE_TYPE_BAD_LENGTH",
        ),
        (
            json!([{ "type": 13, "file": { "url": "attachment://none.txt" } }]),
            1 << 15,
            "components.0.file.url",
            "UNFURLED_MEDIA_ITEM_REFERENCED_ATTACHMENT_NOT_FOUND",
        ),
    ] {
        let body = json!({ "components": components, "flags": flags });
        app.post(&bot, &path, body).await.expect_fault(at, code);
    }
    let both = json!({ "content": "x", "components": page(), "flags": 1 << 15 });
    app.post(&bot, &path, both).await.expect_fault(
        "content",
        "MESSAGE_CANNOT_USE_LEGACY_FIELDS_WITH_COMPONENTS_V2",
    );
}

#[sqlx::test(migrations = "../migrations")]
async fn a_forward_carries_a_snapshot_of_what_its_sender_can_read(db: PgPool) {
    let app = TestApp::new(db).await;
    let (alice, bot, hall, path) = hall(&app).await;
    let body = json!({ "content": "news", "embeds": [{ "title": "t" }] });
    let source = app.post(&alice, &path, body).await.expect(200);
    let reference = |id: &Value, channel: String| json!({ "message_reference": { "type": 1, "message_id": id, "channel_id": channel } });
    let general = hall.general.to_string();
    let forward = reference(&source["id"], general.clone());
    let sent = app.post(&bot, &path, forward).await.expect(200);
    // The document knows the type of answers only.
    let mut known = sent.clone();
    known["message_reference"]["type"] = json!(0);
    conforms("create_message", 200, &known);
    assert_eq!(sent["type"], 0);
    assert_eq!(sent["flags"], 1 << 14);
    assert_eq!(sent["content"], "");
    assert!(sent.get("referenced_message").is_none());
    let snapshot = &sent["message_snapshots"][0]["message"];
    assert_eq!(snapshot["content"], "news");
    assert_eq!(snapshot["embeds"][0]["title"], "t");
    let one = format!("{path}/{}", sent["id"].as_str().unwrap());
    let read = app.get(&bot, &one).await.expect(200);
    assert_eq!(read["message_snapshots"], sent["message_snapshots"]);
    let again = reference(&sent["id"], general.clone());
    let again = app.post(&alice, &path, again).await.expect(200);
    assert_eq!(again["message_snapshots"], sent["message_snapshots"]);

    let no_channel = json!({ "message_reference": { "type": 1, "message_id": source["id"] } });
    app.post(&bot, &path, no_channel)
        .await
        .expect_fault("message_reference.channel_id", "BASE_TYPE_REQUIRED");
    let carol = app.user("carol").await;
    let other = app.guild(&carol, "Other").await;
    let elsewhere = format!("/channels/{}/messages", other.general);
    app.post(&carol, &elsewhere, reference(&source["id"], general))
        .await
        .expect_error(403, 50001);
}
