use guildhall_shared::{Permissions, envelope::Visibility, gateway::Intents};
use serde_json::{Value, json};
use sqlx::PgPool;

use crate::{
    conformance::conforms,
    harness::{TestApp, TestGuild, TestUser, hall},
    log,
};

async fn create(app: &TestApp, user: &TestUser, guild: TestGuild, body: Value) -> Value {
    let path = format!("/guilds/{}/channels", guild.id);
    app.post(user, &path, body).await.expect(201)
}

fn at(channel: &Value) -> String {
    format!("/channels/{}", channel["id"].as_str().unwrap())
}

#[sqlx::test(migrations = "../migrations")]
async fn channels_of_each_kind_are_made(db: PgPool) {
    let app = TestApp::new(db).await;
    let (alice, bob, hall) = hall(&app).await;
    let category = create(&app, &alice, hall, json!({ "name": "Rooms", "type": 4 })).await;
    let body = json!({ "name": "Big Talk", "topic": "t", "parent_id": category["id"], "rate_limit_per_user": 5 });
    let text = create(&app, &alice, hall, body).await;
    let voice = create(
        &app,
        &alice,
        hall,
        json!({ "name": "Big Talk", "type": 2, "bitrate": 8000 }),
    )
    .await;
    for channel in [&category, &text, &voice] {
        conforms("create_guild_channel", 201, channel);
        let read = app.get(&bob, &at(channel)).await.expect(200);
        conforms("get_channel", 200, &read);
        assert_eq!(&read, channel);
    }
    assert_eq!(text["name"], "big-talk");
    assert_eq!(text["topic"], "t");
    assert_eq!(text["parent_id"], category["id"]);
    assert_eq!(text["position"], 1);
    assert_eq!(voice["name"], "Big Talk");
    assert_eq!(voice["bitrate"], 8000);
    let events = app.events(hall.id).await;
    assert_eq!(events.len(), 3);
    assert_eq!(events[1], ("CHANNEL_CREATE", text.clone()));
    let id = voice["id"].as_str().unwrap().parse().unwrap();
    let vis = Visibility::channel(id, Intents::GUILDS);
    assert_eq!(log::newest(&app, hall.id).await, ("CHANNEL_CREATE", vis));
}

#[sqlx::test(migrations = "../migrations")]
async fn what_is_no_channel_is_refused(db: PgPool) {
    let app = TestApp::new(db).await;
    let (alice, bob, hall) = hall(&app).await;
    let path = format!("/guilds/{}/channels", hall.id);
    app.post(&bob, &path, json!({ "name": "x" }))
        .await
        .expect_error(403, 50013);
    for (body, at, code) in [
        (json!({}), "name", "BASE_TYPE_REQUIRED"),
        (
            json!({ "name": "x".repeat(101) }),
            "name",
            "BASE_TYPE_BAD_LENGTH",
        ),
        (
            json!({ "name": "x", "type": 7 }),
            "type",
            "BASE_TYPE_CHOICES",
        ),
        (
            json!({ "name": "x", "bitrate": 5 }),
            "bitrate",
            "NUMBER_TYPE_MIN",
        ),
        (
            json!({ "name": "x", "rate_limit_per_user": 21601 }),
            "rate_limit_per_user",
            "NUMBER_TYPE_MAX",
        ),
        (
            json!({ "name": "x", "parent_id": hall.general }),
            "parent_id",
            "CHANNEL_PARENT_INVALID",
        ),
        (
            json!({ "name": "x", "parent_id": "y" }),
            "parent_id",
            "NUMBER_TYPE_COERCE",
        ),
    ] {
        app.post(&alice, &path, body).await.expect_fault(at, code);
    }
    assert!(app.events(hall.id).await.is_empty());
}

#[sqlx::test(migrations = "../migrations")]
async fn a_hidden_channel_is_not_listed(db: PgPool) {
    let app = TestApp::new(db).await;
    let (alice, bob, hall) = hall(&app).await;
    let deny = json!([{ "id": hall.id, "type": 0, "deny": Permissions::VIEW_CHANNEL }]);
    let secret = create(
        &app,
        &alice,
        hall,
        json!({ "name": "secret", "permission_overwrites": deny }),
    )
    .await;
    let path = format!("/guilds/{}/channels", hall.id);
    let count = async |user: &TestUser| {
        let list = app.get(user, &path).await.expect(200);
        conforms("list_guild_channels", 200, &list);
        list.as_array().unwrap().len()
    };
    assert_eq!(count(&alice).await, 2);
    assert_eq!(count(&bob).await, 1);
    app.get(&bob, &at(&secret)).await.expect_error(403, 50001);
    app.patch(&bob, &at(&secret), json!({ "name": "x" }))
        .await
        .expect_error(403, 50001);
    app.get(&bob, "/channels/77").await.expect_error(404, 10003);
}

#[sqlx::test(migrations = "../migrations")]
async fn channels_change_and_go(db: PgPool) {
    let app = TestApp::new(db).await;
    let (alice, bob, hall) = hall(&app).await;
    let path = format!("/channels/{}", hall.general);
    app.patch(&bob, &path, json!({ "name": "x" }))
        .await
        .expect_error(403, 50013);
    let changed = app
        .patch(
            &alice,
            &path,
            json!({ "name": "Main Hall", "topic": "all of it", "nsfw": true }),
        )
        .await
        .expect(200);
    conforms("update_channel", 200, &changed);
    assert_eq!(changed["name"], "main-hall");
    assert_eq!(changed["nsfw"], true);
    let cleared = app
        .patch(&alice, &path, json!({ "topic": null }))
        .await
        .expect(200);
    assert_eq!(cleared["topic"], Value::Null);
    assert_eq!(cleared["nsfw"], true);
    app.patch(&alice, &path, json!({ "name": "" }))
        .await
        .expect_fault("name", "BASE_TYPE_REQUIRED");
    app.patch(&alice, &path, json!({ "type": 2 }))
        .await
        .expect_error(400, 50024);

    app.delete(&bob, &path).await.expect_error(403, 50013);
    let deleted = app.delete(&alice, &path).await.expect(200);
    conforms("delete_channel", 200, &deleted);
    app.get(&alice, &path).await.expect_error(404, 10003);
    let events = app.event_names(hall.id).await;
    // It was the system channel.
    assert_eq!(
        events,
        [
            "CHANNEL_UPDATE",
            "CHANNEL_UPDATE",
            "GUILD_UPDATE",
            "CHANNEL_DELETE"
        ]
    );
    let guild = app
        .get(&alice, &format!("/guilds/{}", hall.id))
        .await
        .expect(200);
    assert_eq!(guild["system_channel_id"], Value::Null);
}

#[sqlx::test(migrations = "../migrations")]
async fn a_category_takes_its_channels_along_but_not_to_the_grave(db: PgPool) {
    let app = TestApp::new(db).await;
    let (alice, _, hall) = hall(&app).await;
    let category = create(&app, &alice, hall, json!({ "name": "Rooms", "type": 4 })).await;
    let inside = json!({ "name": "synced", "parent_id": category["id"] });
    let synced = create(&app, &alice, hall, inside).await;
    let own = json!([{ "id": alice.id, "type": 1, "allow": "1024" }]);
    let inside =
        json!({ "name": "own", "parent_id": category["id"], "permission_overwrites": own });
    let apart = create(&app, &alice, hall, inside).await;

    let path = format!("{}/permissions/{}", at(&category), hall.id);
    app.put(&alice, &path, json!({ "type": 0, "deny": "2048" }))
        .await
        .expect(204);
    let overwrites = async |channel: &Value| {
        app.get(&alice, &at(channel)).await.expect(200)["permission_overwrites"].clone()
    };
    let new = json!([{ "id": hall.id, "type": 0, "allow": "0", "deny": "2048" }]);
    assert_eq!(overwrites(&category).await, new);
    assert_eq!(overwrites(&synced).await, new);
    assert_eq!(overwrites(&apart).await[0]["id"], alice.id.to_string());

    app.delete(&alice, &at(&category)).await.expect(200);
    for channel in [&synced, &apart] {
        let read = app.get(&alice, &at(channel)).await.expect(200);
        assert_eq!(read["parent_id"], Value::Null);
    }
    let events = app.event_names(hall.id).await;
    assert_eq!(
        events[3..],
        [
            "CHANNEL_UPDATE",
            "CHANNEL_UPDATE",
            "CHANNEL_DELETE",
            "CHANNEL_UPDATE",
            "CHANNEL_UPDATE"
        ]
    );
}

#[sqlx::test(migrations = "../migrations")]
async fn overwrites_hold_only_bits_that_the_giver_has(db: PgPool) {
    let app = TestApp::new(db).await;
    let (alice, bob, hall) = hall(&app).await;
    let path = format!("/channels/{}/permissions/{}", hall.general, bob.id);
    let body = |allow: Permissions| json!({ "type": 1, "allow": allow, "deny": null });
    app.put(&bob, &path, body(Permissions::SEND_MESSAGES))
        .await
        .expect_error(403, 50013);
    app.grant(&bob, hall, Permissions::MANAGE_ROLES).await;
    app.put(&bob, &path, body(Permissions::MANAGE_MESSAGES))
        .await
        .expect_error(403, 50013);
    app.put(&bob, &path, body(Permissions::SEND_MESSAGES))
        .await
        .expect(204);
    let channel = app
        .get(&bob, &format!("/channels/{}", hall.general))
        .await
        .expect(200);
    let wanted = json!([{ "id": bob.id, "type": 1, "allow": "2048", "deny": "0" }]);
    assert_eq!(channel["permission_overwrites"], wanted);
    let (name, vis) = log::newest(&app, hall.id).await;
    assert_eq!(
        (name, vis),
        (
            "CHANNEL_UPDATE",
            Visibility::channel(hall.general, Intents::GUILDS)
        )
    );

    app.put(
        &alice,
        &format!("/channels/{}/permissions/5", hall.general),
        body(Permissions::SPEAK),
    )
    .await
    .expect_error(404, 10009);
    app.put(&alice, &path, json!({ "type": 7 }))
        .await
        .expect_error(400, 50035);
    app.delete(&bob, &path).await.expect(204);
    app.delete(&bob, &path).await.expect_error(404, 10009);

    // An overwrite that gives MANAGE_ROLES here gives every bit here.
    let manager = Permissions::MANAGE_ROLES;
    app.put(&alice, &path, body(manager)).await.expect(204);
    app.put(&bob, &path, body(manager | Permissions::MANAGE_MESSAGES))
        .await
        .expect(204);
    let roles = json!([{ "id": bob.id, "type": 1, "allow": manager }]);
    app.grant(&bob, hall, Permissions::MANAGE_CHANNELS).await;
    app.post(
        &bob,
        &format!("/guilds/{}/channels", hall.id),
        json!({ "name": "x", "permission_overwrites": roles }),
    )
    .await
    .expect_error(403, 50013);
}

#[sqlx::test(migrations = "../migrations")]
async fn overwrites_also_hold_bits_that_the_giver_has_in_the_category(db: PgPool) {
    let app = TestApp::new(db).await;
    let (alice, bob, hall) = hall(&app).await;
    let manager = Permissions::MANAGE_ROLES | Permissions::MANAGE_CHANNELS;
    app.grant(&bob, hall, manager).await;
    let bit = Permissions::MANAGE_MESSAGES;
    let own = json!([{ "id": bob.id, "type": 1, "allow": bit }]);
    let rooms = json!({ "name": "Rooms", "type": 4, "permission_overwrites": own });
    let rooms = create(&app, &alice, hall, rooms).await;
    let inside = json!({ "name": "inside", "parent_id": rooms["id"], "permission_overwrites": [] });
    let inside = create(&app, &alice, hall, inside).await;
    let outside = create(&app, &alice, hall, json!({ "name": "outside" })).await;

    let of_everyone = |channel: &Value| format!("{}/permissions/{}", at(channel), hall.id);
    let allow = json!({ "type": 0, "allow": bit });
    app.put(&bob, &of_everyone(&outside), allow.clone())
        .await
        .expect_error(403, 50013);
    app.put(&bob, &of_everyone(&inside), allow)
        .await
        .expect(204);
    app.delete(&bob, &of_everyone(&inside)).await.expect(204);

    let given = json!([{ "id": hall.id, "type": 0, "allow": bit }]);
    let channels = format!("/guilds/{}/channels", hall.id);
    let mut new = json!({ "name": "new", "permission_overwrites": given });
    app.post(&bob, &channels, new.clone())
        .await
        .expect_error(403, 50013);
    new["parent_id"] = rooms["id"].clone();
    app.post(&bob, &channels, new).await.expect(201);

    // What counts is the category that a channel will be in.
    let mut change = json!({ "permission_overwrites": given });
    app.patch(&bob, &at(&outside), change.clone())
        .await
        .expect_error(403, 50013);
    change["parent_id"] = rooms["id"].clone();
    app.patch(&bob, &at(&outside), change).await.expect(200);
    let moves = json!([
        { "id": hall.general, "parent_id": rooms["id"], "lock_permissions": true },
    ]);
    app.patch(&bob, &channels, moves).await.expect(204);
}

#[sqlx::test(migrations = "../migrations")]
async fn an_overwrite_is_of_the_kind_that_its_target_is(db: PgPool) {
    let app = TestApp::new(db).await;
    let (alice, bob, hall) = hall(&app).await;
    let carol = app.user("carol").await;
    app.join(&carol, hall).await;
    app.grant(&bob, hall, Permissions::MANAGE_CHANNELS).await;
    let denied = json!({ "id": hall.id, "type": 0, "allow": "0", "deny": "1024" });
    let own = json!({ "id": bob.id, "type": 1, "allow": "1024", "deny": "0" });
    let secret = json!({ "name": "secret", "permission_overwrites": [denied, own] });
    let secret = create(&app, &alice, hall, secret).await;
    let channels = format!("/guilds/{}/channels", hall.id);
    for (wanted, fault) in [
        (
            json!([{ "id": hall.id, "type": 1, "deny": "1024" }, own]),
            "permission_overwrites.0.type",
        ),
        (
            json!([denied, { "id": bob.id, "type": 0, "allow": "1024" }]),
            "permission_overwrites.1.type",
        ),
    ] {
        let code = "CHANNEL_OVERWRITE_TYPE_INVALID";
        let body = json!({ "name": "secret", "permission_overwrites": wanted });
        app.patch(&bob, &at(&secret), body.clone())
            .await
            .expect_fault(fault, code);
        app.post(&alice, &channels, body)
            .await
            .expect_fault(fault, code);
    }
    for wanted in [json!([own]), json!([denied]), json!([])] {
        app.patch(
            &bob,
            &at(&secret),
            json!({ "permission_overwrites": wanted }),
        )
        .await
        .expect_error(403, 50013);
    }
    let everyone = format!("{}/permissions/{}", at(&secret), hall.id);
    let turned = json!({ "type": 1, "deny": "1024" });
    app.put(&bob, &everyone, turned.clone())
        .await
        .expect_error(403, 50013);
    app.put(&alice, &everyone, turned)
        .await
        .expect_error(404, 10009);
    // The same ones in another order are no change.
    let body = json!({ "permission_overwrites": [own, denied] });
    app.patch(&bob, &at(&secret), body).await.expect(200);
    let read = app.get(&alice, &at(&secret)).await.expect(200);
    assert_eq!(read["permission_overwrites"], json!([own, denied]));
    app.get(&carol, &at(&secret)).await.expect_error(403, 50001);

    // One that was stored under the wrong kind is another one.
    let stored = json!([{ "id": hall.id, "type": 1, "allow": "0", "deny": "1024" }]);
    sqlx::query("update channel set overwrites = $2 where channel_id = $1")
        .bind(hall.general.to_db())
        .bind(stored)
        .execute(&app.db)
        .await
        .unwrap();
    let general = format!("/channels/{}", hall.general);
    app.patch(&bob, &general, json!({ "permission_overwrites": [denied] }))
        .await
        .expect_error(403, 50013);
    app.get(&carol, &general).await.expect(200);
}

#[sqlx::test(migrations = "../migrations")]
async fn channels_are_moved_together(db: PgPool) {
    let app = TestApp::new(db).await;
    let (alice, bob, hall) = hall(&app).await;
    let deny = json!([{ "id": hall.id, "type": 0, "deny": Permissions::SEND_MESSAGES }]);
    let rooms = json!({ "name": "Rooms", "type": 4, "permission_overwrites": deny });
    let rooms = create(&app, &alice, hall, rooms).await;
    let other = create(&app, &alice, hall, json!({ "name": "other" })).await;
    let path = format!("/guilds/{}/channels", hall.id);
    let moves = json!([
        { "id": other["id"], "position": 5, "parent_id": rooms["id"], "lock_permissions": true },
        { "id": hall.general, "position": 6 },
        { "id": rooms["id"], "position": rooms["position"] },
    ]);
    app.patch(&bob, &path, moves.clone())
        .await
        .expect_error(403, 50013);
    let before = app.events(hall.id).await.len();
    app.patch(&alice, &path, moves).await.expect(204);
    let events = app.events(hall.id).await;
    let names: Vec<_> = events[before..].iter().map(|(name, _)| *name).collect();
    assert_eq!(names, ["CHANNEL_UPDATE", "CHANNEL_UPDATE"]);
    let read = app.get(&alice, &at(&other)).await.expect(200);
    assert_eq!(read["position"], 5);
    assert_eq!(read["parent_id"], rooms["id"]);
    assert_eq!(
        read["permission_overwrites"],
        rooms["permission_overwrites"]
    );
    let audit = app.audit(hall.id).await;
    let mut entries = audit.iter();
    let overwrite = entries.find(|entry| entry["action_type"] == 13).unwrap();
    assert_eq!(
        (&overwrite["target_id"], &overwrite["options"]["id"]),
        (&other["id"], &json!(hall.id))
    );
    let two = json!([
        { "id": other["id"], "parent_id": null },
        { "id": hall.general, "parent_id": rooms["id"] },
    ]);
    app.patch(&alice, &path, two).await.expect_error(400, 40009);
    app.patch(&alice, &path, json!([{ "id": "77" }]))
        .await
        .expect_error(404, 10003);
    app.patch(&alice, &path, json!([{ "position": 1 }]))
        .await
        .expect_fault("0.id", "BASE_TYPE_REQUIRED");
}

#[sqlx::test(migrations = "../migrations")]
async fn kinds_have_what_is_their_own(db: PgPool) {
    let app = TestApp::new(db).await;
    let (alice, bob, hall) = hall(&app).await;
    let path = format!("/channels/{}", hall.general);
    let news = app
        .patch(&alice, &path, json!({ "type": 5 }))
        .await
        .expect(200);
    conforms("update_channel", 200, &news);
    assert_eq!(news["type"], 5);
    let stage = create(&app, &alice, hall, json!({ "name": "Stage", "type": 13 })).await;
    conforms("create_guild_channel", 201, &stage);
    assert!(stage["bitrate"].is_number());
    let forum = create(&app, &alice, hall, json!({ "name": "Help", "type": 15 })).await;
    assert_eq!(forum["available_tags"], json!([]));
    let tags = json!({ "available_tags": [{ "name": "a" }, { "name": "b", "moderated": true }] });
    let tagged = app.patch(&alice, &at(&forum), tags).await.expect(200);
    conforms("update_channel", 200, &tagged);
    let kept =
        json!({ "available_tags": [{ "id": tagged["available_tags"][1]["id"], "name": "c" }] });
    let changed = app.patch(&alice, &at(&forum), kept).await.expect(200);
    assert_eq!(
        changed["available_tags"][0]["id"],
        tagged["available_tags"][1]["id"]
    );
    let twice = json!({ "available_tags": [{ "name": "a" }, { "name": "a" }] });
    app.patch(&alice, &at(&forum), twice)
        .await
        .expect_error(400, 40061);
    app.patch(&alice, &at(&forum), json!({ "default_sort_order": 2 }))
        .await
        .expect_fault("default_sort_order", "NUMBER_TYPE_MAX");

    let voice = create(&app, &alice, hall, json!({ "name": "Voice", "type": 2 })).await;
    let status = format!("{}/voice-status", at(&voice));
    app.put(&bob, &status, json!({ "status": "chess" }))
        .await
        .expect_error(403, 50013);
    app.put(&alice, &status, json!({ "status": "chess" }))
        .await
        .expect(204);
    let (name, vis) = log::newest(&app, hall.id).await;
    assert_eq!(name, "VOICE_CHANNEL_STATUS_UPDATE");
    let id = voice["id"].as_str().unwrap().parse().unwrap();
    assert_eq!(vis, Visibility::channel(id, Intents::GUILDS));
    app.put(
        &alice,
        &format!("{path}/voice-status"),
        json!({ "status": "x" }),
    )
    .await
    .expect_error(400, 50024);

    app.delete(&alice, &at(&voice)).await.expect(200);
    let entry = app.audit(hall.id).await.pop().unwrap();
    assert_eq!(entry["action_type"], 12);
    let changes = entry["changes"].as_array().unwrap().iter();
    let keys: Vec<&str> = changes
        .map(|change| change["key"].as_str().unwrap())
        .collect();
    assert!(keys.contains(&"name"), "{keys:?}");
    assert!(!keys.contains(&"status"), "libraries read a number there");
}

#[sqlx::test(migrations = "../migrations")]
async fn an_emoji_of_a_forum_is_a_custom_one_or_its_characters(db: PgPool) {
    let app = TestApp::new(db).await;
    let (alice, _, hall) = hall(&app).await;
    let forum = create(&app, &alice, hall, json!({ "name": "Help", "type": 15 })).await;
    for (given, kept) in [
        (
            json!({ "emoji_id": "5", "emoji_name": "blob" }),
            json!({ "emoji_id": "5", "emoji_name": null }),
        ),
        (json!({ "emoji_id": null, "emoji_name": " " }), Value::Null),
    ] {
        let body = json!({ "default_reaction_emoji": given });
        let changed = app.patch(&alice, &at(&forum), body).await.expect(200);
        assert_eq!(changed["default_reaction_emoji"], kept);
    }
    let tags =
        json!({ "available_tags": [{ "name": "a", "emoji_id": "5", "emoji_name": "blob" }] });
    let changed = app.patch(&alice, &at(&forum), tags).await.expect(200);
    let tag = &changed["available_tags"][0];
    assert_eq!(
        (&tag["emoji_id"], &tag["emoji_name"]),
        (&json!("5"), &Value::Null)
    );
}

#[sqlx::test(migrations = "../migrations")]
async fn limits_are_those_of_the_kind(db: PgPool) {
    let app = TestApp::new(db).await;
    let (alice, _, hall) = hall(&app).await;
    let stage = json!({ "name": "Stage", "type": 13, "user_limit": 10_000, "bitrate": 64_000 });
    let stage = create(&app, &alice, hall, stage).await;
    assert_eq!(stage["user_limit"], 10_000);
    let limit = |most: u32| json!({ "user_limit": most });
    let changed = app.patch(&alice, &at(&stage), limit(9_999)).await;
    assert_eq!(changed.expect(200)["user_limit"], 9_999);
    app.patch(&alice, &at(&stage), limit(10_001))
        .await
        .expect_fault("user_limit", "NUMBER_TYPE_MAX");
    app.patch(&alice, &at(&stage), json!({ "bitrate": 64_001 }))
        .await
        .expect_error(400, 30052);
    let channels = format!("/guilds/{}/channels", hall.id);
    let loud = json!({ "name": "Stage", "type": 13, "bitrate": 96_000 });
    app.post(&alice, &channels, loud)
        .await
        .expect_error(400, 30052);

    let voice = json!({ "name": "Voice", "type": 2, "bitrate": 96_000 });
    let voice = create(&app, &alice, hall, voice).await;
    app.patch(&alice, &at(&voice), limit(100))
        .await
        .expect_fault("user_limit", "NUMBER_TYPE_MAX");
    let region = json!({ "rtc_region": "x".repeat(101) });
    app.patch(&alice, &at(&voice), region)
        .await
        .expect_fault("rtc_region", "BASE_TYPE_MAX_LENGTH");

    let forum = create(&app, &alice, hall, json!({ "name": "Help", "type": 15 })).await;
    let long = json!({ "topic": "x".repeat(4096) });
    app.patch(&alice, &at(&forum), long.clone())
        .await
        .expect(200);
    let general = format!("/channels/{}", hall.general);
    app.patch(&alice, &general, long)
        .await
        .expect_fault("topic", "BASE_TYPE_MAX_LENGTH");
}

#[sqlx::test(migrations = "../migrations")]
async fn a_guild_has_fifty_categories_at_most(db: PgPool) {
    let app = TestApp::new(db).await;
    let (alice, _, hall) = hall(&app).await;
    sqlx::query(
        "insert into channel (channel_id, guild_id, kind, name)
         select n, $1, 4, 'category' from generate_series(1, 50) n",
    )
    .bind(hall.id.to_db())
    .execute(&app.db)
    .await
    .unwrap();
    let channels = format!("/guilds/{}/channels", hall.id);
    let another = json!({ "name": "Rooms", "type": 4 });
    app.post(&alice, &channels, another.clone())
        .await
        .expect_fault("type", "GUILD_MAX_CATEGORIES");
    create(&app, &alice, hall, json!({ "name": "room" })).await;
    app.delete(&alice, "/channels/1").await.expect(200);
    create(&app, &alice, hall, another).await;
}

#[sqlx::test(migrations = "../migrations")]
async fn what_postgres_does_not_take_is_not_kept(db: PgPool) {
    let app = TestApp::new(db).await;
    let (alice, _, hall) = hall(&app).await;
    let forum = create(&app, &alice, hall, json!({ "name": "Help", "type": 15 })).await;
    let reaction = json!({ "default_reaction_emoji": { "emoji_name": "👍\0" } });
    let changed = app.patch(&alice, &at(&forum), reaction).await.expect(200);
    assert_eq!(changed["default_reaction_emoji"]["emoji_name"], "👍");
    app.patch(&alice, &at(&forum), json!({ "name": "\0" }))
        .await
        .expect_fault("name", "BASE_TYPE_REQUIRED");
}

#[sqlx::test(migrations = "../migrations")]
async fn a_channel_has_a_thousand_overwrites_at_most(db: PgPool) {
    let app = TestApp::new(db).await;
    let (alice, bob, hall) = hall(&app).await;
    sqlx::query(
        "update channel set overwrites = (
           select jsonb_agg(jsonb_build_object(
             'id', n::text, 'type', 1, 'allow', '0', 'deny', '0'))
           from generate_series(1, 1000) n)
         where channel_id = $1",
    )
    .bind(hall.general.to_db())
    .execute(&app.db)
    .await
    .unwrap();
    let of = |target: &str| format!("/channels/{}/permissions/{target}", hall.general);
    let bobs = of(&bob.id.to_string());
    let body = json!({ "type": 1, "deny": Permissions::SEND_MESSAGES });
    app.put(&alice, &bobs, body.clone())
        .await
        .expect_error(400, 30060);
    app.delete(&alice, &of("1000")).await.expect(204);
    app.put(&alice, &bobs, body.clone()).await.expect(204);
    // One that is there may still change.
    app.put(&alice, &bobs, json!({ "type": 1 }))
        .await
        .expect(204);
}

#[sqlx::test(migrations = "../migrations")]
async fn a_channel_comes_after_the_last_place_there_is(db: PgPool) {
    let app = TestApp::new(db).await;
    let (alice, _, hall) = hall(&app).await;
    let last = json!({ "name": "last", "position": i32::MAX });
    let last = create(&app, &alice, hall, last).await;
    let next = create(&app, &alice, hall, json!({ "name": "next" })).await;
    let moves = json!([{ "id": hall.general, "position": 40_000 }]);
    let path = format!("/guilds/{}/channels", hall.id);
    app.patch(&alice, &path, moves).await.expect(204);
    let general = format!("/channels/{}", hall.general);
    let general = app.get(&alice, &general).await.expect(200);
    for channel in [last, next, general] {
        assert_eq!(channel["position"], i16::MAX, "libraries read 16 bits");
    }
}
