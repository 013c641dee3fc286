//! Null gives a field its first value back; absence leaves it.

use reqwest::Method;
use serde_json::{Value, json};
use sqlx::PgPool;

use crate::harness::{TestApp, TestUser, alone, hall};

/// A field of a reply; some of a thread's are in its metadata.
fn field<'a>(reply: &'a Value, name: &str) -> &'a Value {
    match &reply["thread_metadata"] {
        Value::Object(metadata) if metadata.contains_key(name) => &metadata[name],
        _ => &reply[name],
    }
}

/// Changes all `fields`, then each back by null.
async fn clears(app: &TestApp, user: &TestUser, method: Method, path: &str, fields: Value) {
    let change = async |body: Value| {
        let reply = app.call(user, method.clone(), path, body).await;
        reply.expect(200)
    };
    let first = change(json!({})).await;
    let changed = change(fields.clone()).await;
    let kept = change(json!({})).await;
    let mut nulls = fields.clone();
    for value in nulls.as_object_mut().unwrap().values_mut() {
        *value = Value::Null;
    }
    let cleared = change(nulls).await;
    for name in fields.as_object().unwrap().keys() {
        let of = |reply| field(reply, name);
        assert_ne!(of(&changed), of(&first), "{path}: {name}");
        assert_eq!(of(&kept), of(&changed), "{path}: {name}");
        assert_eq!(of(&cleared), of(&first), "{path}: {name}");
    }
}

#[sqlx::test(migrations = "../migrations")]
async fn null_gives_a_channel_its_first_values_back(db: PgPool) {
    let app = TestApp::new(db).await;
    let (alice, hall) = alone(&app).await;
    let channels = format!("/guilds/{}/channels", hall.id);
    let deny = json!([{ "id": hall.id, "type": 0, "allow": "0", "deny": "2048" }]);
    for (kind, fields) in [
        (
            0,
            json!({
                "nsfw": true, "rate_limit_per_user": 5, "default_auto_archive_duration": 60,
                "default_thread_rate_limit_per_user": 7, "permission_overwrites": deny,
            }),
        ),
        (
            2,
            json!({ "bitrate": 8000, "user_limit": 3, "video_quality_mode": 2 }),
        ),
        (
            15,
            json!({
                "flags": 16, "default_forum_layout": 1, "available_tags": [{ "name": "news" }],
            }),
        ),
    ] {
        let body = json!({ "name": "x", "type": kind });
        let made = app.post(&alice, &channels, body).await.expect(201);
        let path = format!("/channels/{}", made["id"].as_str().unwrap());
        clears(&app, &alice, Method::PATCH, &path, fields).await;
    }
}

#[sqlx::test(migrations = "../migrations")]
async fn null_gives_a_thread_its_first_values_back(db: PgPool) {
    let app = TestApp::new(db).await;
    let (alice, hall) = alone(&app).await;
    let threads = format!("/channels/{}/threads", hall.general);
    let body = json!({ "name": "x", "type": 12 });
    let made = app.post(&alice, &threads, body).await.expect(201);
    let path = format!("/channels/{}", made["id"].as_str().unwrap());
    let fields = json!({
        "locked": true, "invitable": false, "auto_archive_duration": 60,
        "rate_limit_per_user": 5,
    });
    clears(&app, &alice, Method::PATCH, &path, fields).await;
    app.patch(&alice, &path, json!({ "archived": true }))
        .await
        .expect(200);
    let awake = app.patch(&alice, &path, json!({ "archived": null })).await;
    assert_eq!(awake.expect(200)["thread_metadata"]["archived"], false);
}

#[sqlx::test(migrations = "../migrations")]
async fn null_gives_roles_and_members_their_first_values_back(db: PgPool) {
    let app = TestApp::new(db).await;
    let (alice, bob, hall) = hall(&app).await;
    let roles = format!("/guilds/{}/roles", hall.id);
    let role = app.post(&alice, &roles, json!({})).await.expect(200);
    let role = format!("{roles}/{}", role["id"].as_str().unwrap());
    let fields = json!({ "color": 255, "hoist": true, "mentionable": true });
    clears(&app, &alice, Method::PATCH, &role, fields).await;
    let fields = json!({ "colors": { "primary_color": 255, "secondary_color": 1 } });
    clears(&app, &alice, Method::PATCH, &role, fields).await;
    let member = format!("/guilds/{}/members/{}", hall.id, bob.id);
    clears(&app, &alice, Method::PATCH, &member, json!({ "flags": 4 })).await;
}

#[sqlx::test(migrations = "../migrations")]
async fn null_gives_a_guilds_pages_their_first_values_back(db: PgPool) {
    let app = TestApp::new(db).await;
    let (alice, hall) = alone(&app).await;
    let guild = format!("/guilds/{}", hall.id);
    let (widget, onboarding) = (format!("{guild}/widget"), format!("{guild}/onboarding"));
    clears(
        &app,
        &alice,
        Method::PATCH,
        &widget,
        json!({ "enabled": true }),
    )
    .await;
    let fields = json!({ "default_channel_ids": [hall.general], "mode": 1 });
    clears(&app, &alice, Method::PUT, &onboarding, fields).await;

    let rules = format!("{guild}/auto-moderation/rules");
    let rule = json!({ "name": "x", "event_type": 1, "trigger_type": 3 });
    let rule = app.post(&alice, &rules, rule).await.expect(200);
    let rule = format!("{rules}/{}", rule["id"].as_str().unwrap());
    let fields = json!({ "enabled": true });
    clears(&app, &alice, Method::PATCH, &rule, fields).await;

    let screen = format!("{guild}/welcome-screen");
    for (enabled, count) in [(json!(true), 1), (Value::Null, 0)] {
        let body = json!({ "enabled": enabled });
        app.patch(&alice, &screen, body).await.expect(200);
        let guild = app.get(&alice, &guild).await.expect(200);
        assert_eq!(guild["features"].as_array().unwrap().len(), count);
    }
}

#[sqlx::test(migrations = "../migrations")]
async fn null_gives_accounts_and_applications_their_first_values_back(db: PgPool) {
    let app = TestApp::new(db).await;
    let alice = app.user("alice").await;
    let bot = app.bot(&alice, "Ping").await;
    let fields = json!({ "bio": "x", "pronouns": "y" });
    for path in ["/users/@me", "/users/@me/profile"] {
        clears(&app, &alice, Method::PATCH, path, fields.clone()).await;
    }
    let path = format!("/applications/{}", bot.id);
    let fields = json!({
        "flags": 0, "bot_public": false, "redirect_uris": ["https://example.org/"],
    });
    clears(&app, &alice, Method::PATCH, &path, fields).await;
}
