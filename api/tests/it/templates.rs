//! Guild templates and widgets.

use guildhall_shared::Permissions;
use reqwest::Method;
use serde_json::{Value, json};
use sqlx::PgPool;

use crate::{
    conformance::conforms,
    harness::{TestApp, at_once, hall},
};

#[sqlx::test(migrations = "../migrations")]
async fn a_template_makes_a_guild_like_its_own(db: PgPool) {
    let app = TestApp::new(db).await;
    let (alice, bob, hall) = hall(&app).await;
    let guild = format!("/guilds/{}", hall.id);
    let role = json!({ "name": "Mods", "permissions": Permissions::KICK_MEMBERS });
    app.post(&alice, &format!("{guild}/roles"), role)
        .await
        .expect(200);
    let category = json!({ "name": "Rooms", "type": 4 });
    let category = app
        .post(&alice, &format!("{guild}/channels"), category)
        .await;
    let parent = category.expect(201)["id"].clone();
    let room = json!({ "name": "Room", "type": 2, "parent_id": parent, "user_limit": 7,
        "permission_overwrites": [{ "id": hall.id, "type": 0, "deny": Permissions::CONNECT }] });
    app.post(&alice, &format!("{guild}/channels"), room)
        .await
        .expect(201);
    let forum = json!({ "name": "ideas", "type": 15, "default_sort_order": 1,
        "default_reaction_emoji": { "emoji_name": "👍" },
        "available_tags": [{ "name": "done", "emoji_name": "✅", "moderated": true }] });
    let forum = app.post(&alice, &format!("{guild}/channels"), forum).await;
    let forum = forum.expect(201);

    let path = format!("{guild}/templates");
    let body = json!({ "name": "Ours", "description": "A hall" });
    app.post(&bob, &path, body.clone())
        .await
        .expect_error(403, 50013);
    app.post(&alice, &path, json!({}))
        .await
        .expect_fault("name", "BASE_TYPE_REQUIRED");
    let made = app.post(&alice, &path, body.clone()).await.expect(200);
    conforms("create_guild_template", 200, &made);
    assert_eq!(made["is_dirty"], false);
    app.post(&alice, &path, body).await.expect_error(400, 30031);
    let code = made["code"].as_str().unwrap();
    let open = format!("/guilds/templates/{code}");
    let shown = app.send(app.request(Method::GET, &open)).await.expect(200);
    conforms("get_guild_template", 200, &shown);
    app.get(&bob, "/guilds/templates/nothing")
        .await
        .expect_error(404, 10057);

    app.post(&bob, &open, json!({ "name": "x" }))
        .await
        .expect_fault("name", "BASE_TYPE_BAD_LENGTH");
    let copy = app
        .post(&bob, &open, json!({ "name": "Copy" }))
        .await
        .expect(201);
    conforms("update_guild", 200, &copy);
    assert_eq!(copy["owner_id"], bob.id.to_string());
    assert!(
        copy["roles"]
            .as_array()
            .unwrap()
            .iter()
            .any(|role| role["name"] == "Mods")
    );
    let channels = format!("/guilds/{}/channels", copy["id"].as_str().unwrap());
    let channels = app.get(&bob, &channels).await.expect(200);
    let named = |name: &str| {
        let mut channels = channels.as_array().unwrap().iter();
        channels.find(|channel| channel["name"] == name).unwrap()
    };
    assert_eq!(named("Room")["parent_id"], named("Rooms")["id"]);
    assert_eq!(named("Room")["user_limit"], 7);
    assert_eq!(named("Room")["permission_overwrites"][0]["id"], copy["id"]);
    assert_eq!(copy["system_channel_id"], named("general")["id"]);
    let (ideas, tag) = (named("ideas"), &named("ideas")["available_tags"][0]);
    assert_eq!(ideas["default_sort_order"], 1);
    assert_eq!(ideas["default_reaction_emoji"]["emoji_name"], "👍");
    assert_eq!(
        (&tag["name"], &tag["emoji_name"], &tag["moderated"]),
        (&json!("done"), &json!("✅"), &json!(true))
    );
    assert_ne!(tag["id"], forum["available_tags"][0]["id"]);

    // A template made by an older server names no region, and is not behind for that.
    assert_eq!(shown["serialized_source_guild"]["region"], "deprecated");
    let old = r#"update guild_template set snapshot = snapshot || '{"region": null}'"#;
    sqlx::query(old).execute(&app.db).await.unwrap();
    let list = app.get(&alice, &path).await.expect(200);
    assert_eq!(list[0]["serialized_source_guild"]["region"], "deprecated");
    assert_eq!(list[0]["is_dirty"], false);

    // The guild changes: the template is behind until it is synced.
    app.patch(&alice, &guild, json!({ "verification_level": 2 }))
        .await
        .expect(200);
    let list = app.get(&alice, &path).await.expect(200);
    conforms("list_guild_templates", 200, &list);
    assert_eq!(list[0]["is_dirty"], true);
    assert_eq!(list[0]["usage_count"], 1);
    let one = format!("{path}/{code}");
    let synced = app.put(&alice, &one, json!({})).await.expect(200);
    conforms("sync_guild_template", 200, &synced);
    assert_eq!(synced["serialized_source_guild"]["verification_level"], 2);
    assert_eq!(synced["is_dirty"], false);
    let renamed = app
        .patch(&alice, &one, json!({ "name": "Mine" }))
        .await
        .expect(200);
    conforms("update_guild_template", 200, &renamed);
    assert_eq!(renamed["name"], "Mine");
    app.delete(&bob, &one).await.expect_error(403, 50013);
    let gone = app.delete(&alice, &one).await.expect(200);
    conforms("delete_guild_template", 200, &gone);
    app.get(&bob, &open).await.expect_error(404, 10057);
}

#[sqlx::test(migrations = "../migrations")]
async fn a_guild_that_is_made_is_answered_so_whatever_becomes_of_the_count(db: PgPool) {
    let app = TestApp::new(db).await;
    let (alice, _, hall) = hall(&app).await;
    let templates = format!("/guilds/{}/templates", hall.id);
    let body = json!({ "name": "Mine" });
    let made = app.post(&alice, &templates, body).await.expect(200);
    app.refuse("update", "guild_template", "true").await;
    let path = format!("/guilds/templates/{}", made["code"].as_str().unwrap());
    let body = json!({ "name": "Second" });
    app.post(&alice, &path, body).await.expect(201);
}

#[sqlx::test(migrations = "../migrations")]
async fn a_widget_shows_a_guild_to_everybody_once_it_is_on(db: PgPool) {
    let app = TestApp::new(db).await;
    let (alice, bob, hall) = hall(&app).await;
    let settings = format!("/guilds/{}/widget", hall.id);
    let json_path = format!("{settings}.json");
    app.get(&bob, &settings).await.expect_error(403, 50013);
    let off = app.get(&alice, &settings).await.expect(200);
    conforms("get_guild_widget_settings", 200, &off);
    let anonymous = |path: String| app.send(app.request(Method::GET, &path));
    anonymous(json_path.clone()).await.expect_error(403, 50004);
    app.patch(&alice, &settings, json!({ "channel_id": "5" }))
        .await
        .expect_fault("channel_id", "CHANNEL_INVALID");
    let on = json!({ "enabled": true, "channel_id": hall.general });
    app.patch(&bob, &settings, on.clone())
        .await
        .expect_error(403, 50013);
    let on = app.patch(&alice, &settings, on).await.expect(200);
    conforms("update_guild_widget_settings", 200, &on);
    let shown = anonymous(json_path.clone()).await.expect(200);
    conforms("get_guild_widget", 200, &shown);
    assert_eq!(shown["name"], "Hall");
    let again = anonymous(json_path).await.expect(200);
    assert_eq!(again["instant_invite"], shown["instant_invite"]);
    assert_ne!(shown["instant_invite"], Value::Null);

    let png = app
        .request(Method::GET, &format!("{settings}.png?style=banner2"))
        .send()
        .await
        .unwrap();
    assert_eq!(png.headers()["content-type"], "image/png");
    assert!(png.bytes().await.unwrap().starts_with(b"\x89PNG"));
    anonymous(format!("{settings}.png?style=poster"))
        .await
        .expect_fault("style", "BASE_TYPE_CHOICES");
}

#[sqlx::test(migrations = "../migrations")]
async fn a_widget_shows_who_talks_and_waits_for_nobody(db: PgPool) {
    let app = TestApp::new(db).await;
    let (alice, bob, hall) = hall(&app).await;
    let room = json!({ "name": "Room", "type": 2 });
    let channels = format!("/guilds/{}/channels", hall.id);
    let room = app.post(&alice, &channels, room).await.expect(201)["id"].clone();
    sqlx::query(
        "insert into voice_state (guild_id, user_id, channel_id, session_id, self_mute, alive_until)
         values ($1, $2, $3, 's', true, now() + interval '1 hour')",
    )
    .bind(hall.id.to_db())
    .bind(bob.id.to_db())
    .bind(room.as_str().unwrap().parse::<i64>().unwrap())
    .execute(&app.db)
    .await
    .unwrap();
    let settings = format!("/guilds/{}/widget", hall.id);
    let on = json!({ "enabled": true, "channel_id": hall.general });
    app.patch(&alice, &settings, on).await.expect(200);
    let path = format!("{settings}.json");
    let look = || app.send(app.request(Method::GET, &path));
    let shown = look().await.expect(200);
    conforms("get_guild_widget", 200, &shown);
    let members = shown["members"].as_array().unwrap();
    assert_eq!(members.len(), 1, "{members:#?}");
    assert_eq!(members[0]["username"], "bob");
    assert_eq!(members[0]["self_mute"], true);
    assert_eq!(members[0]["channel_id"], room);

    let held = app.hold(hall.id).await;
    assert_eq!(at_once(look()).await.expect(200), shown);
    drop(held);
}
