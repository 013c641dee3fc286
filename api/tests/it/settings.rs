//! Settings and notes.

use serde_json::{Value, json};
use sqlx::PgPool;

use crate::harness::{TestApp, assert_fault};

#[sqlx::test(migrations = "../migrations")]
async fn settings_start_with_defaults_and_change_by_part(db: PgPool) {
    let app = TestApp::new(db).await;
    let alice = app.user("alice").await;
    let path = "/users/@me/settings";
    let before = app.get(&alice, path).await.expect(200);
    assert_eq!(
        (&before["theme"], &before["status"]),
        (&json!("dark"), &json!("online"))
    );
    assert_eq!(before.as_object().unwrap().len(), 39);

    let change = json!({
        "theme": "light", "locale": "de", "custom_status": { "text": "here" },
        "guild_folders": [{ "id": 7, "guild_ids": ["5"], "name": "\u{0}both" }], "unknown": 1,
    });
    let after = app.patch(&alice, path, change).await.expect(200);
    assert_eq!(
        (&after["theme"], &after["locale"]),
        (&json!("light"), &json!("de"))
    );
    assert_eq!(after["custom_status"]["text"], "here");
    assert_eq!(after["guild_folders"][0]["name"], "both");
    assert_eq!(after["render_embeds"], true);
    assert_eq!(app.get(&alice, path).await.expect(200), after);
    assert_eq!(
        app.get(&alice, "/users/@me").await.expect(200)["locale"],
        "de"
    );

    let cleared = app
        .patch(&alice, path, json!({ "custom_status": null }))
        .await
        .expect(200);
    assert_eq!(cleared["custom_status"], Value::Null);
    assert_eq!(cleared["theme"], "light");
    let events = app.events(alice.id).await;
    assert_eq!(events[0].0, "USER_UPDATE");
    assert_eq!(events[1].0, "USER_SETTINGS_UPDATE");
    assert_eq!(events[1].1.as_object().unwrap().len(), 4);
    assert_eq!(
        events[2],
        ("USER_SETTINGS_UPDATE", json!({ "custom_status": null }))
    );
}

#[sqlx::test(migrations = "../migrations")]
async fn bad_settings_are_named(db: PgPool) {
    let app = TestApp::new(db).await;
    let alice = app.user("alice").await;
    let bad = json!({
        "theme": "pink", "locale": "!!", "timezone_offset": 9999, "status": 5,
        "custom_status": { "text": "x".repeat(129) }, "soundboard_volume": 101.0,
        "restricted_guilds": vec!["1"; 201],
        "guild_folders": [{ "guild_ids": [], "name": "x".repeat(33) }],
    });
    let body = app
        .patch(&alice, "/users/@me/settings", bad)
        .await
        .expect_error(400, 50035);
    assert_fault(&body, "theme", "ENUM_TYPE_COERCE");
    assert_fault(&body, "locale", "ENUM_TYPE_COERCE");
    assert_fault(&body, "timezone_offset", "NUMBER_TYPE_MAX");
    assert_fault(&body, "custom_status.text", "BASE_TYPE_MAX_LENGTH");
    assert_fault(&body, "soundboard_volume", "NUMBER_TYPE_MAX");
    assert_fault(&body, "restricted_guilds", "BASE_TYPE_MAX_LENGTH");
    assert_fault(&body, "guild_folders.0.name", "BASE_TYPE_MAX_LENGTH");
    assert!(body["errors"]["status"].is_object());
    let owner = app.user("owner").await;
    let bot = app.bot(&owner, "Ping").await;
    app.get(&bot, "/users/@me/settings")
        .await
        .expect_error(403, 20001);
    assert!(app.events(alice.id).await.is_empty());
}

#[sqlx::test(migrations = "../migrations")]
async fn guilds_have_settings_of_their_own(db: PgPool) {
    let app = TestApp::new(db).await;
    let (alice, bob) = (app.user("alice").await, app.user("bob").await);
    let guild = app.guild(&alice, "home").await;
    let path = format!("/users/@me/guilds/{}/settings", guild.id);
    let overrides = json!({ guild.general.to_string(): { "muted": true, "collapsed": true } });
    let change = json!({ "muted": true, "channel_overrides": overrides });
    let settings = app.patch(&alice, &path, change).await.expect(200);
    assert_eq!(settings["guild_id"], json!(guild.id));
    assert_eq!(
        (&settings["muted"], &settings["mobile_push"]),
        (&json!(true), &json!(true))
    );
    assert_eq!(
        settings["channel_overrides"][0]["channel_id"],
        json!(guild.general)
    );
    assert_eq!(settings["channel_overrides"][0]["message_notifications"], 3);
    let more = json!({ "suppress_roles": true, "mute_config": { "selected_time_window": -1 } });
    let settings = app.patch(&alice, &path, more).await.expect(200);
    assert_eq!(
        (&settings["muted"], &settings["version"]),
        (&json!(true), &json!(2))
    );
    let (name, body) = app.events(alice.id).await.pop().unwrap();
    assert_eq!((name, &body), ("USER_GUILD_SETTINGS_UPDATE", &settings));

    app.patch(&bob, &path, json!({}))
        .await
        .expect_error(404, 10004);
    app.patch(&alice, "/users/@me/guilds/home/settings", json!({}))
        .await
        .expect_fault("guild_id", "NUMBER_TYPE_COERCE");
    let bad = json!({ "message_notifications": 4, "mute_config": { "selected_time_window": -2 } });
    let body = app.patch(&alice, &path, bad).await.expect_error(400, 50035);
    assert_fault(&body, "message_notifications", "NUMBER_TYPE_MAX");
    assert_fault(&body, "mute_config.selected_time_window", "NUMBER_TYPE_MIN");
    let direct = app.patch(
        &alice,
        "/users/@me/guilds/@me/settings",
        json!({ "muted": true }),
    );
    assert_eq!(direct.await.expect(200)["guild_id"], Value::Null);
}

#[sqlx::test(migrations = "../migrations")]
async fn settings_of_several_guilds_change_together(db: PgPool) {
    let app = TestApp::new(db).await;
    let alice = app.user("alice").await;
    let (one, two) = (
        app.guild(&alice, "one").await,
        app.guild(&alice, "two").await,
    );
    let path = "/users/@me/guilds/settings";
    let change = json!({ "guilds": { one.id.to_string(): { "muted": true }, "@me": {} } });
    let all = app.patch(&alice, path, change).await.expect(200);
    assert_eq!(all.as_array().unwrap().len(), 2);
    assert_eq!(
        app.event_names(alice.id).await,
        ["USER_GUILD_SETTINGS_UPDATE"; 2]
    );
    // All or none.
    let change = json!({ "guilds": { two.id.to_string(): { "muted": true }, "17": {} } });
    app.patch(&alice, path, change)
        .await
        .expect_error(404, 10004);
    assert_eq!(app.events(alice.id).await.len(), 2);
    let bad = json!({ "guilds": { "x": {}, "5": { "message_notifications": 9 } } });
    let body = app.patch(&alice, path, bad).await.expect_error(400, 50035);
    assert_fault(&body, "guilds.x", "NUMBER_TYPE_COERCE");
    assert_fault(&body, "guilds.5.message_notifications", "NUMBER_TYPE_MAX");
    app.patch(&alice, path, json!({}))
        .await
        .expect_fault("guilds", "BASE_TYPE_REQUIRED");
}

#[sqlx::test(migrations = "../migrations")]
async fn notes_are_kept_for_their_writer_alone(db: PgPool) {
    let app = TestApp::new(db).await;
    let (alice, bob) = (app.user("alice").await, app.user("bob").await);
    let path = format!("/users/@me/notes/{}", bob.id);
    app.get(&alice, &path).await.expect_error(404, 10013);
    app.put(&alice, &path, json!({ "note": "from work" }))
        .await
        .expect(204);
    let note = app.get(&alice, &path).await.expect(200);
    assert_eq!(
        note,
        json!({ "note": "from work", "user_id": alice.id, "note_user_id": bob.id })
    );
    let all = app.get(&alice, "/users/@me/notes").await.expect(200);
    assert_eq!(all, json!({ bob.id.to_string(): "from work" }));
    assert_eq!(
        app.get(&bob, "/users/@me/notes").await.expect(200),
        json!({})
    );
    app.put(&alice, &path, json!({ "note": "x".repeat(257) }))
        .await
        .expect_error(400, 50015);
    app.put(&alice, "/users/@me/notes/17", json!({ "note": "x" }))
        .await
        .expect_error(404, 10013);
    app.put(&alice, &path, json!({ "note": null }))
        .await
        .expect(204);
    app.get(&alice, &path).await.expect_error(404, 10013);
    let events = app.events(alice.id).await;
    assert_eq!(
        events[0],
        (
            "USER_NOTE_UPDATE",
            json!({ "id": bob.id, "note": "from work" })
        )
    );
    assert_eq!(
        events[1],
        ("USER_NOTE_UPDATE", json!({ "id": bob.id, "note": "" }))
    );
    assert_eq!(events.len(), 2);
}
